"""Policies that write down that they ran, for the processes of a sweep, and what they wrote."""

from __future__ import annotations

import os
from pathlib import Path

WATCHED = '''
import os, time
from pathlib import Path
from lrcsim.policies.recency import Lru

HERE = Path(__file__).parent


class Watched(Lru):
    """LRU that takes its time and writes down each run."""

    def reset(self):
        super().reset()
        with open(HERE / "log", "a") as log:
            log.write(f"{self.view.capacity} {os.getpid()}\\n")
        time.sleep(0.25)


class Deadly(Lru):
    """Takes its process down."""

    def reset(self):
        os._exit(1)
'''
"""A policy of one's own is replayed run by run."""


def logged(folder: Path) -> list[tuple[int, int]]:
    """Return the runs of ``Watched`` so far: capacity and process."""
    lines = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    return [(int(capacity), int(process)) for capacity, process in map(str.split, lines)]


def alive(process: int) -> bool:
    """Whether a process is there, and not only its remains."""
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
