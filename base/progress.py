"""Telling how far long work is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with what is done and what there is in all, in tokens mostly."""


def part_of(progress: Progress | None, done: int, parts: int) -> Progress | None:
    """Return a progress function for one of several equal parts of the work, after ``done`` of them."""
    if progress is None:
        return None
    report = progress
    return lambda tokens, total: report(done * total + tokens, parts * total)
