"""A measured number on its way into a profile: rounded so that nothing measured was slower, and its spread in words."""

from __future__ import annotations

import math
from collections.abc import Callable

from lrcsim.base.units import Dimension, format_quantity
from lrcsim.calibration.of_machine.timing import Timing

Put = Callable[[str, float, str], None]
"""Records a number: its path, its value, and its source."""


def rate_of(timing: Timing, times: int = 1) -> float:
    """Return what was reached, to four digits, rounded down: a profile is not faster than what was measured.

    Args:
        timing: its rate is bytes/s or FLOP/s.
        times: bytes moved for each that it counts; 2 where it counts those copied, which are read and written.
    """
    rate = times * timing.rate
    step = 10.0 ** (math.floor(math.log10(rate)) - 3)
    rounded = math.floor(rate / step) * step
    return float(f"{rounded:.4g}")


def spread(timing: Timing) -> str:
    """Return median, p10 and p90 of the seconds."""
    low, middle, high = (
        format_quantity(rounded(seconds, 3), "seconds")
        for seconds in (timing.percentile(10), timing.median, timing.percentile(90))
    )
    return f"measured, {middle}, median of {len(timing.seconds)}, p10-p90 {low} to {high}"


def rates(timing: Timing, dimension: Dimension = "bytes/s", times: int = 1) -> str:
    """Return the rate at the median, p10 and p90."""
    low, middle, high = (
        format_quantity(rounded(times * timing.size / seconds, 3), dimension)
        for seconds in (timing.percentile(90), timing.median, timing.percentile(10))
    )
    return f"measured, {middle}, median of {len(timing.seconds)}, p10-p90 {low} to {high}"


def between(seconds: list[float]) -> str:
    """Return the least and the greatest of ascending seconds."""
    low, high = (format_quantity(rounded(one, 3), "seconds") for one in (seconds[0], seconds[-1]))
    return low if low == high else f"{low} to {high}"


def rounded(value: float, digits: int = 4) -> float:
    """Return a number with so many digits."""
    return float(f"{value:.{digits}g}")
