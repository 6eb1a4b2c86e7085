"""How long from nothing to a decision: clone, install, import a log, compare, report?

What a new person does, each step as a command of its own: a fresh clone of this checkout's last commit, a fresh virtual
environment, ``pip install '.[report]'``, a log of routing (the bundled trace as a table), import,
check, compare on a machine, run, and the page. Nothing compiled is at hand: the installation has a folder of its own.
Prints wall seconds of each step and of all, and CPU seconds (of all children, so they hardly depend on what else runs).
Packages come from the index or from pip's cache, as pip is configured; ``--no-cache`` downloads them all.

    python benchmarks/bench_new_person.py [--no-cache]
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FLOOR = 180.0
"""Seconds that all steps may take together."""


def steps(pip: str) -> list[tuple[str, str]]:
    """Return what is done, in order: a name and a shell command, run in a folder."""
    lrcsim = ".venv/bin/lrcsim"
    return [
        ("clone", f"git clone -q '{ROOT}' checkout"),
        ("environment", f"'{sys.executable}' -m venv .venv"),
        ("install", f"{pip} './checkout[report]'"),
        ("first help", f"{lrcsim} --help"),
        ("a log", f"{lrcsim} trace export -o routing.csv"),
        ("import", f"{lrcsim} trace import routing.csv -o mine.h5 --model lrcsim-toy-baseline"),
        ("check", f"{lrcsim} trace check mine.h5"),
        (
            "compare",
            f"{lrcsim} compare mine.h5 --policy lru,lfu,s3-fifo --cache 2x,4x --miss load,split --hardware rtx-4090 "
            "--json compare.json",
        ),
        ("run", f"{lrcsim} run mine.h5 --policy lru --cache 2x --hardware rtx-4090 --json run.json"),
        ("report", f"{lrcsim} report run.json -o page.html"),
    ]


def cpu() -> float:
    """Return CPU seconds of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print the table; exit code 1 where the floor is missed."""
    pip = ".venv/bin/python -m pip install -q" + " --no-cache-dir" * ("--no-cache" in sys.argv)
    wall = used = 0.0
    print("| step | s | CPU s |\n|---|---:|---:|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        place = {key: value for key, value in os.environ.items() if key not in ("NUMBA_CACHE_DIR", "PYTHONPATH")}
        for step, command in steps(pip):
            begun, before = time.perf_counter(), cpu()
            done = subprocess.run(
                command, shell=True, cwd=folder, env=place, capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(f"{command}: {done.stderr or done.stdout}")
            taken, burnt = time.perf_counter() - begun, cpu() - before
            wall, used = wall + taken, used + burnt
            print(f"| {step} | {taken:.1f} | {burnt:.1f} |", flush=True)
        size = (folder / "page.html").stat().st_size
    print(f"| all | {wall:.1f} | {used:.1f} |\n\nthe page: {size / 2**20:.1f} MiB")
    if wall > FLOOR:
        sys.exit(f"{wall:.0f} s are more than {FLOOR:.0f}")


if __name__ == "__main__":
    main()
