"""Confidence intervals by resampling requests."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.uint8]

MEMORY = 256_000_000
"""Bytes of resamples that are held at a time."""


def check_bootstrap(draws: object, confidence: float) -> None:
    """Refuse what is no number of draws, or no level of confidence.

    Raises:
        ConfigError: one of them is out of range.
    """
    if isinstance(draws, bool) or not isinstance(draws, int | np.integer) or draws < 0:
        raise ConfigError(f"bootstrap {draws!r} is not allowed: give the number of draws (1000), or 0 for no interval")
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence {confidence!r} is not allowed: it lies between 0 and 1, as 0.95")


def each_resample(requests: int, draws: int, seed: int) -> Iterator[Counts]:
    """Draw requests with replacement, as many as there are, again and again.

    One seed gives one set of resamples, whatever is measured on them: intervals of different layers, domains and
    segment lengths are paired, as in the paper's code.

    Yields:
        uint8 [requests], how often each request was drawn. (A count above 255 has a probability below 1e-500.)
    """
    rng = np.random.default_rng(seed)
    for _ in range(draws):
        yield np.bincount(rng.integers(0, requests, requests), minlength=requests).astype(np.uint8)


def resamples(requests: int, draws: int, seed: int) -> Counts:
    """Return the resamples of `each_resample` together, uint8 [draws, requests]."""
    found = np.empty((draws, requests), np.uint8)
    for row, drawn in zip(found, each_resample(requests, draws, seed), strict=True):
        row[:] = drawn
    return found


def _block(requests: int) -> int:
    return max(MEMORY // max(requests, 1), 1)


def number_of_blocks(requests: int, draws: int) -> int:
    """Return how many `resample_blocks` yields."""
    return -(-draws // _block(requests))


def resample_blocks(requests: int, draws: int, seed: int) -> Iterator[tuple[int, Counts]]:
    """Yield the same in blocks of about `MEMORY` bytes: the number of the first, and uint8 [some, requests].

    A block's memory is used again for the next.
    """
    size = min(_block(requests), draws)
    found, first = np.empty((size, requests), np.uint8), 0
    for draw, drawn in enumerate(each_resample(requests, draws, seed)):
        found[draw - first] = drawn
        if draw - first == size - 1 or draw == draws - 1:
            yield first, found[: draw - first + 1]
            first = draw + 1


def basic_interval(value: float, drawn: Floats, confidence: float) -> tuple[float, float]:
    """Give the basic bootstrap interval, ``[2 value - upper, 2 value - lower]``.

    ``lower`` and ``upper`` are order statistics of what the resamples gave, without interpolation: of 1000 draws at
    95 % those of index 25 and 975 from 0. It is centred on the value by reflection and may reach beyond 0 or 1.

    Args:
        value: the measured value.
        drawn: float64 [draws], NaN where a resample had nothing to measure; these are left out.
        confidence: between 0 and 1.

    Returns:
        The ends of the interval; NaN when no resample had anything to measure.
    """
    ordered = np.sort(drawn[np.isfinite(drawn)])
    if len(ordered) == 0:
        return float("nan"), float("nan")
    lower = round(len(ordered) * (1 - confidence) / 2)
    upper = min(len(ordered) - lower, len(ordered) - 1)
    return float(2 * value - ordered[upper]), float(2 * value - ordered[min(lower, upper)])
