"""When a run stalls, and what is at work meanwhile: the moments of a forward pass at which the device does nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from lrcsim.simulator.time.spans import Log

DEVICE = ("gpu", "host")
"""Tracks on which a pass goes on; while neither is at work, it waits for experts."""


class Stall(NamedTuple):
    """A forward pass that waits.

    Attributes:
        start: seconds.
        end: seconds.
        meanwhile: tracks at work, in alphabetical order: links, the CPU; none: nothing is, as between two transfers.
    """

    start: float
    end: float
    meanwhile: tuple[str, ...]


def stalls(log: Log) -> Iterator[Stall]:
    """Yield the stalls of the forward passes of a log, in order; each ends where others are at work, or with its pass.

    Together they are the passes' ``stall``: what is left of a pass without compute and overhead.
    """
    turns = [(step.start, 1, "") for step in log.steps] + [(step.end, -1, "") for step in log.steps]
    for span in log.spans:
        if span.end > span.start:
            turns += [(span.start, 1, span.track), (span.end, -1, span.track)]
    turns.sort()
    at_work: Counter[str] = Counter()
    begin, found = 0.0, None
    for now, together in groupby(turns, key=lambda turn: turn[0]):
        passes_change = False
        for _, change, track in together:
            at_work[track] += change
            passes_change |= not track
        waits = at_work[""] > 0 and not any(at_work[track] for track in DEVICE)
        state = tuple(sorted(track for track in at_work if track and at_work[track])) if waits else None
        if state != found or passes_change:
            if found is not None:
                yield Stall(begin, now, found)
            begin, found = now, state
