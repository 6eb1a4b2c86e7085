"""vLLM itself, on a free port of 127.0.0.1, for as long as a ``with`` block lasts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import checkpoint

PATIENCE = 600.0
"""Seconds until a server must answer; 46 on two cores."""

SETTINGS = {
    "TRITON_INTERPRET": "1",  # kernels as plain Python: Triton compiles for no CPU
    "VLLM_USE_V2_MODEL_RUNNER": "1",  # the one that returns routed experts
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}


@contextmanager
def running_vllm(python: Path, work: Path, backend: Path, *options: str) -> Iterator[str]:
    """Run vLLM on the checkpoint in ``work`` and give its address; it is ended whatever happens.

    Args:
        python: of the environment that has vLLM.
        work: a folder with the checkpoint in a folder `checkpoint.NAME`; the log is written there.
        backend: folder of the Triton backend.
        options: of the server, besides those that every run has.
    """
    port = _free_port()
    command = [
        "nice", "-n", "10", str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", checkpoint.NAME,
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager",
        "--max-model-len", str(checkpoint.LONGEST), *options,
    ]  # fmt: skip
    environment = {**os.environ, **SETTINGS, "PYTHONPATH": str(backend)}
    url, log = f"http://127.0.0.1:{port}", work / "server.log"
    with log.open("wb") as said:
        server = subprocess.Popen(
            command, cwd=work, env=environment, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            _wait(server, url, log)
            yield url
        finally:
            _end(server)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    """Wait until the server answers.

    Raises:
        RuntimeError: it ended, or took too long; with the end of its log.
    """
    until = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < until:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(1)
        else:
            return
    raise RuntimeError("vLLM did not start:\n" + log.read_text(errors="replace")[-4_000:])


def _end(server: subprocess.Popen[bytes]) -> None:
    """End the server with all its processes."""
    for sign, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 20)):
        try:
            os.killpg(server.pid, sign)
            server.wait(seconds)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    server.wait()
