"""Doing something several times, and what its times say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Timing:
    """Times of one thing.

    Attributes:
        size: bytes that it moves each time.
        seconds: each time, in the order in which they were taken.
    """

    size: int
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Seconds."""
        return float(np.median(self.seconds))

    @property
    def rate(self) -> float:
        """Bytes/s at the median."""
        return self.size / self.median

    def percentile(self, percent: float) -> float:
        """Seconds that so many of the times do not exceed."""
        return float(np.percentile(self.seconds, percent))

    def to_dict(self) -> dict[str, float | int]:
        """Return size, number of times, median, p10 and p90 in seconds, and the rate, as JSON values."""
        return {
            "bytes": self.size,
            "n": len(self.seconds),
            "median_s": self.median,
            "p10_s": self.percentile(10),
            "p90_s": self.percentile(90),
            "bytes_per_s": self.rate,
        }


@dataclass(frozen=True)
class Line:
    """``seconds = overhead + size / bandwidth``; overhead in seconds, bandwidth in bytes/s."""

    overhead: float
    bandwidth: float


def repeat(
    size: int,
    action: Callable[[int], object],
    repetitions: int,
    *,
    inner: int = 1,
    at_most_s: float = 3.0,
) -> Timing:
    """Time an action, once unmeasured and then ``repetitions`` times.

    Args:
        size: bytes that one call moves.
        action: called with the number of the call, from 0; that one is not measured.
        repetitions: how many times to keep, at least 3; fewer are taken where they would last too long.
        inner: calls in a row that count as one time, divided by their number, for what is very short.
        at_most_s: no further time is begun after so many seconds, once there are 3.
    """
    call = 0

    def once(turn: int) -> float:
        nonlocal call
        start = time.perf_counter()
        for _ in range(inner if turn else 1):
            action(call)
            call += 1
        return (time.perf_counter() - start) / inner

    return repeat_timed(size, once, repetitions, at_most_s=at_most_s)


def repeat_timed(size: int, once: Callable[[int], float], repetitions: int, *, at_most_s: float = 3.0) -> Timing:
    """As `repeat`, of an action that says itself how long it took.

    Args:
        size: bytes that it moves.
        once: called with the number of the repetition, from 0; returns seconds. Those of 0 are not kept.
        repetitions: see `repeat`.
        at_most_s: see `repeat`.
    """
    once(0)
    begun = time.perf_counter()
    seconds: list[float] = []
    while len(seconds) < max(repetitions, 3):
        if len(seconds) >= 3 and time.perf_counter() - begun > at_most_s:
            break
        seconds.append(once(len(seconds) + 1))
    return Timing(size, tuple(seconds))


def at_once(size: int, threads: int, each: int, work: Callable[[int, int], None], repetitions: int) -> Timing:
    """Time several threads that each do something ``each`` times, all at once.

    Args:
        size: bytes that one call of one thread moves.
        threads: how many.
        each: calls of each in a row, begun together.
        work: called with the number of the round and of the thread, does it ``each`` times.
        repetitions: see `repeat`.

    Returns:
        Seconds per ``size`` bytes moved by whichever thread: ``Timing.rate`` is what all move together.
    """

    def round_of(number: int) -> None:
        started = [threading.Thread(target=work, args=(number, thread)) for thread in range(threads)]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()

    timing = repeat(size, round_of, repetitions)
    return Timing(size, tuple(seconds / (each * threads) for seconds in timing.seconds))


def fit_line(sizes: Sequence[float], seconds: Sequence[float]) -> Line:
    """Fit a line, each point weighted by 1 / size squared, so that small sizes count as much as large ones.

    For bursts of one size by their number. Its slope may be faster than anything measured, so a profile's rates are not
    taken from it but from `lrcsim.calibration.of_machine.estimates`.

    Weights by the seconds themselves would favour the points that noise has made short. An overhead below zero is taken
    as zero, and the bandwidth fitted without it.

    Raises:
        ValueError: there are fewer than two sizes.
    """
    if len(set(sizes)) < 2:
        raise ValueError("a line needs two sizes")
    x, y = np.asarray(sizes, float), np.asarray(seconds, float)
    overhead, per_byte = np.linalg.lstsq(np.stack([1 / x, np.ones(len(x))], axis=1), y / x, rcond=None)[0]
    if overhead < 0 or per_byte <= 0:
        overhead, per_byte = 0.0, float((y / x).mean())
    return Line(float(overhead), float(1 / per_byte))
