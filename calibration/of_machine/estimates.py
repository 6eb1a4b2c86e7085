"""What times by size say: a rate that was reached, a cost besides the bytes, and whether bytes were the limit at all.

An affine model, seconds = overhead + size / bandwidth, is not fitted by least squares: its slope is a quotient of
differences, so where the sizes stay below what fills the bandwidth it is noise over noise, of any size and sign. (On an
H200 a line through copies of 4 KiB to 64 MiB, 54.5 GB/s at most, gave 255 GB/s; one through experts that took 68 us
whatever their size gave 7.7.) Each end of the sizes says one number: the large ones the rate, the small ones the rest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from lrcsim.calibration.of_machine.timing import Timing

BOUND = 0.8
"""From this share on of the time of the largest size, bytes are what it is bound by: see `byte_share`."""
APART = 2
"""Sizes that are compared are this many times apart or more."""


def fastest(timings: Iterable[Timing]) -> Timing:
    """Return the timing of the highest rate at the median: nothing faster was measured.

    As a bandwidth it falls short by the overhead's share of that time: 1 % for 12 us in 1.2 ms.

    Raises:
        ValueError: there is none.
    """
    return max(timings, key=lambda timing: timing.rate)


def byte_share(timings: Sequence[Timing]) -> float:
    """Return how much of the time of the largest size the bytes make up, 0 to 1.

    That is d log(seconds) / d log(size) there, which is (size / bandwidth) / (overhead + size / bandwidth) where the
    model holds; taken between the largest size and the next that is at most half of it. The secant lies below the
    tangent, so the share is not overstated. 0 for fewer than two sizes: one size does not tell.
    """
    if not timings:
        return 0.0
    largest = max(timings, key=lambda timing: timing.size)
    smaller = [timing for timing in timings if 0 < timing.size * APART <= largest.size]
    if not smaller:
        return 0.0
    before = max(smaller, key=lambda timing: timing.size)
    share = math.log(largest.median / before.median) / math.log(largest.size / before.size)
    return min(max(share, 0.0), 1.0)


def is_bound_by_bytes(timings: Sequence[Timing]) -> bool:
    """Whether the sizes reach to where bandwidth is the limit, so that the fastest of them tells it."""
    return byte_share(timings) >= BOUND


def overheads(timings: Sequence[Timing], bandwidth: float) -> list[float]:
    """Return what sizes took besides their bytes, in seconds, ascending.

    Of the sizes at which that is more than half of the time; where there is none, of the smallest, which says most.

    Args:
        timings: by size.
        bandwidth: bytes/s, at least the fastest of them, so that none of the differences is negative.
    """
    rest = [(timing.median - timing.size / bandwidth, timing) for timing in timings]
    small = [seconds for seconds, timing in rest if 2 * seconds > timing.median]
    smallest = min(rest, key=lambda found: found[1].size)[0]
    return sorted(max(seconds, 0.0) for seconds in small or [smallest])
