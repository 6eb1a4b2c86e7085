"""Spoil good files of every kind, have them read by a worker with limits, and keep those on which it goes wrong.

    python tests/fuzz/fuzz_driver.py 100000 0     # cases, seed; `just soak`

A case is known by its seed and number: the same two give the same file. Files that are read wrongly stay in the folder
that is named at the end.
"""

from __future__ import annotations

import argparse
import random
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fuzz_mutations import mutate
from fuzz_seeds import make_seeds

SECONDS = 30.0
"""What one file may take, in a worker that may share its processor with others."""

SHARES = {"trace": 4, "import table": 3, "import npz": 3, "import vllm": 2}
"""How often a kind is drawn; the others once."""


class Worker:
    """A process that reads one file after the other; a new one is started when it has died."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def read(self, kind: str, path: Path) -> str:
        """Return the worker's answer, or what became of it."""
        if self.process is None:
            script = Path(__file__).with_name("fuzz_cases.py")
            self.process = subprocess.Popen(
                [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            )
        process = self.process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{kind}\t{path}\n".encode())
        process.stdin.flush()
        ready = select.select([process.stdout], [], [], SECONDS)[0]
        line = process.stdout.readline().decode() if ready else ""
        if line.endswith("\n"):
            return line.rstrip("\n")
        if ready:
            process.wait()
        self.stop()
        return f"WRONG: crash, exit code {process.returncode}" if ready else f"WRONG: no answer in {SECONDS:g} s"

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def run(cases: int, seed: int, folder: Path, report: object = None) -> list[str]:
    """Read ``cases`` spoilt files.

    Args:
        cases: how many.
        seed: of the draws.
        folder: for the good files, the spoilt ones while they are read, and those that go wrong.
        report: called with every number of a case and its answer; None: nobody.

    Returns:
        One line for each file that was read wrongly: its path, and what happened.
    """
    seeds = make_seeds(folder / "good")
    kinds = [kind for kind in seeds for _ in range(SHARES.get(kind, 1))]
    work, wrong, worker = folder / "work", [], Worker()
    work.mkdir(exist_ok=True)
    try:
        for kind, paths in seeds.items():
            for path in paths:
                said = worker.read(kind, path)
                if not said.startswith("good"):
                    wrong.append(f"{path}: the good file is not read: {said}")
        for number in range(cases):
            draws = random.Random(f"{seed} {number}")
            kind = draws.choice(kinds)
            good = draws.choice(seeds[kind])
            spoilt = work / good.name
            mutate(kind, good, spoilt, draws)
            said = worker.read(kind, spoilt)
            if callable(report):
                report(number, said)
            if said.startswith("WRONG"):
                kept = folder / f"{number}-{good.name}"
                spoilt.rename(kept)
                for left in work.glob(".*.tmp"):  # of a worker that was killed: not the next file's fault
                    left.unlink()
                wrong.append(f"{kept} ({kind}): {said}")
    finally:
        worker.stop()
    return wrong


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Have lrcsim read spoilt files.")
    parser.add_argument("cases", type=int, nargs="?", default=100_000)
    parser.add_argument("seed", type=int, nargs="?", default=0)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="lrcsim-fuzz-"))
    counts: dict[str, int] = {}
    began = time.monotonic()

    def report(number: int, said: str) -> None:
        counts[said.partition(":")[0]] = counts.get(said.partition(":")[0], 0) + 1
        if said.startswith("WRONG") or number % 1000 == 999:
            print(f"{number + 1:,} in {time.monotonic() - began:.0f} s: {counts} {said if 'WRONG' in said else ''}")

    wrong = run(given.cases, given.seed, folder, report)
    print("\n".join(wrong) or "nothing went wrong")
    print(f"files: {folder}" if wrong else f"{given.cases:,} files in {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
