"""Notices to who runs a command or a script: one line on standard error, once."""

from __future__ import annotations

import sys

_told: set[str] = set()


def tell(notice: str) -> None:
    """Print ``Note: ...`` on standard error; the same notice once in a process."""
    if notice not in _told and sys.stderr is not None:
        _told.add(notice)
        print(f"Note: {' '.join(notice.split())}", file=sys.stderr, flush=True)
