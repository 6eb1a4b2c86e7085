"""A real server on a free port of 127.0.0.1, for as long as a ``with`` block lasts."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import checkpoint
from environment import HERE, add_triton_backend, python_of

PATIENCE = 600.0
"""Seconds until a server must answer; 25 to 70 on two cores."""

VLLM = {
    "TRITON_INTERPRET": "1",  # kernels as plain Python: Triton compiles for no CPU
    "VLLM_USE_V2_MODEL_RUNNER": "1",  # the one that returns routed experts
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
}


def vllm(work: Path, *options: str) -> AbstractContextManager[str]:
    """Run vLLM on the checkpoint in ``work`` with some options, see `_running`."""
    (work / "backend").mkdir()
    environment = {**VLLM, "PYTHONPATH": str(add_triton_backend(work / "backend"))}
    port = _free_port()
    command = [
        "-m", "vllm.entrypoints.openai.api_server", "--model", checkpoint.NAME, "--host", "127.0.0.1", "--port",
        str(port), "--dtype", "float32", "--enforce-eager", "--max-model-len", str(checkpoint.LONGEST), *options,
    ]  # fmt: skip
    return _running([str(python_of("vllm")), *command], environment, work, port)


def sglang(work: Path) -> AbstractContextManager[str]:
    """Run SGLang's front on the checkpoint in ``work``, see `_running`."""
    port = _free_port()
    command = [str(python_of("sglang")), str(HERE / "sglang_front.py"), checkpoint.NAME, str(port)]
    return _running(command, {"HF_HUB_OFFLINE": "1"}, work, port)


@contextmanager
def _running(command: list[str], settings: dict[str, str], work: Path, port: int) -> Iterator[str]:
    """Run a server in ``work`` and give its address; it is ended with all its processes whatever happens."""
    url, log = f"http://127.0.0.1:{port}", work / "server.log"
    with log.open("wb") as said:
        server = subprocess.Popen(
            ["nice", "-n", "10", *command], cwd=work, env={**os.environ, **settings}, stdout=said,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
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
            urllib.request.urlopen(f"{url}/v1/models", timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(1)
        else:
            return
    raise RuntimeError("the server did not start:\n" + log.read_text(errors="replace")[-4_000:])


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
