"""What the policy ``Watched`` of `conftest` left behind."""

from __future__ import annotations

import os
from pathlib import Path


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
