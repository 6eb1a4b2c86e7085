"""The profile of the machine, by `lrcsim calibrate` in a process of its own, which ends and gives its memory back."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
COMMAND = "from lrcsim.cli.main import main; main()"


class CalibrationError(RuntimeError):
    """`lrcsim calibrate` gave no profile; says why in one line."""


def calibrate_here(folder: Path, seconds: float, *, gpu: bool = True) -> Path:
    """Write ``calibrated.toml``, and ``calibrate.json`` with every time; return the path of the first.

    Args:
        folder: where to write them.
        seconds: after which it is stopped.
        gpu: whether to measure a GPU.

    Raises:
        CalibrationError: it failed, or took too long.
    """
    profile = folder / "calibrated.toml"
    arguments = ["calibrate", "--quick", "-o", str(profile), "--json", str(folder / "calibrate.json")]
    arguments += [] if gpu else ["--no-gpu"]
    own = {name: value for name, value in os.environ.items() if name not in THREADS}  # this package sets them to 1
    try:
        done = subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments],
            env=own,
            timeout=seconds,
            capture_output=True,
            text=True,
            encoding="utf-8",
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise CalibrationError(f"lrcsim calibrate was stopped after {seconds:.0f} s") from None
    if done.returncode or not profile.exists():
        said = done.stderr.strip().splitlines()
        raise CalibrationError(f"lrcsim calibrate failed: {said[-1] if said else f'exit code {done.returncode}'}")
    return profile
