"""What does the first start cost, before anything compiled is on disk, and the second?

CPU seconds of a whole process, with an empty folder for compiled code and with what the first start left there.

    python benchmarks/bench_first_start.py [ROUNDS [COMMAND ...]]      # commands that begin so; all: the list below
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile

COMMANDS = (
    "run --policy lru --cache 2x",  # README's first command
    "plan qwen3-30b-a3b --hardware rtx-3060",  # and its second
    "run --policy mrs --cache 2x",
    "run --policy lru --cache 2x --hardware rtx-4090",
    "curve --policy lru,lfu,belady",
    "curve --policy mrs,lru",
)


def seconds(command: str, folder: str) -> float:
    """Run a command with compiled code in a folder; return CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", "from lrcsim.cli.main import main; main()", *command.split()],
        env=os.environ | {"NUMBA_CACHE_DIR": folder},
        capture_output=True,
        check=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the table; of several rounds the least."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    print("| lrcsim | first start, CPU s | second | compiling |\n|---|---:|---:|---:|")
    wanted = tuple(sys.argv[2:]) or ("",)
    for command in (command for command in COMMANDS if command.startswith(wanted)):
        first = second = float("inf")
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                first = min(first, seconds(command, folder))
                second = min(second, seconds(command, folder))
        print(f"| `{command}` | {first:.1f} | {second:.1f} | {first - second:.1f} |", flush=True)


if __name__ == "__main__":
    main()
