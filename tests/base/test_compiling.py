"""Who waits for the compiler is told so, once, and can stop it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

POSIX = pytest.mark.skipif(os.name != "posix", reason="signals are sent as POSIX has them")

SLOW = """
import hashlib, time
import numba
from numba.core import event
from lrcsim.base import compiling
compiling.tell()
compiling.watch()

@numba.njit
def anew():
    return 1

f = numba.njit(anew.py_func)
f.kept = True

def compiling_takes(work, what=f):
    with event.trigger_event("numba:compile", data={"dispatcher": what}):
        print("begun", flush=True)
        work()

def stay(seconds, what=f):
    compiling_takes(lambda: time.sleep(seconds), what)

def deaf(_):  # as the compiler: for minutes it does not come back to Python, where Ctrl-C would be heard
    compiling_takes(lambda: hashlib.pbkdf2_hmac("sha256", b"", b"", 200_000_000))
"""


def start(line: str) -> subprocess.Popen[str]:
    """Run a line after `SLOW`, until something is being compiled."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW + line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


@POSIX
@pytest.mark.parametrize(("seconds", "said"), [(0.2, ""), (1.8, "compiling, once: it is kept on disk")])
def test_what_takes_long_is_told_once(seconds: float, said: str) -> None:
    process = start(f"stay({seconds}); stay({seconds})")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert errors.startswith(said)
    assert errors.count("\n") == bool(said)


@POSIX
def test_what_is_not_kept_on_disk_is_not_said_to_be() -> None:
    """A score of one's own is compiled at each start."""
    _, errors = start("stay(1.8, anew)").communicate(timeout=60)
    assert errors == "compiling: anew\n"


@POSIX
@pytest.mark.parametrize("thread", [False, True])
def test_ctrl_c_ends_it_at_once(thread: bool) -> None:
    """Python itself would wait until the compiler, or the thread that compiles, has come to an end."""
    begin = "from concurrent.futures import ThreadPoolExecutor as Pool\nwith Pool(1) as pool: list(pool.map(deaf, [0]))"
    process = start(begin if thread else "deaf(0)")
    time.sleep(0.2)
    pressed = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - pressed < 5
    assert process.returncode == 130
    assert errors == "Aborted.\n"


def test_nothing_is_told_where_all_is_on_disk(tmp_path: Path) -> None:
    line = "import threading; started, start = [], threading.Thread.start; "
    line += "threading.Thread.start = lambda thread: (started.append(thread.name), start(thread))[1]; "
    line += "from lrcsim.base import compiling; compiling.tell(); from lrcsim.simulator.compiled.lru_bits import ones; "
    line += "ones(7); print(started)"
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", line], env=environment, capture_output=True, text=True, check=True
        ).stdout.strip()
        for _ in range(2)
    ]
    assert outputs == ["['compiling']", "[]"]
