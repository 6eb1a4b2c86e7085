"""Intervals: of a correlation, of a share, of a difference between traces; and when a difference counts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.experiments.paper.inputs import Input
from lrcsim.experiments.paper.measure import AT, MeasuredTrace, teacher_forced
from lrcsim.simulator.metrics.bootstrap import basic_interval
from lrcsim.simulator.metrics.specialisation import pearson

Interval = tuple[float, float]

Z_95 = 1.959963984540054  # of the normal distribution, two-sided 95 %

SEED_MARGIN = 2
"""A difference between variants counts where it is more than so many times what other seeds of the baseline differ by:
one pair of seeds, of which there seldom are more, easily falls nearer together than the next would."""


def fisher_interval(correlation: float, points: int) -> Interval | None:
    """Give the 95 % interval tanh(atanh r +- 1.96 / sqrt(n - 3)) (Fisher 1921); None below 4 points."""
    if points < 4:
        return None
    if abs(correlation) >= 1:
        return correlation, correlation
    centre, half = math.atanh(correlation), Z_95 / math.sqrt(points - 3)
    return math.tanh(centre - half), math.tanh(centre + half)


def wilson(count: int, of: int) -> Interval:
    """Give Wilson's 95 % interval of a share (Wilson 1927)."""
    share, z2 = count / of, Z_95**2
    centre, half = share + z2 / (2 * of), Z_95 * math.sqrt(share * (1 - share) / of + z2 / (4 * of * of))
    return (centre - half) / (1 + z2 / of), (centre + half) / (1 + z2 / of)


def correlated(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> tuple[int, float | None, Interval | None]:
    """Return how many points have both values, Pearson's correlation (None: a side does not vary), its interval."""
    points, value = int((np.isfinite(x) & np.isfinite(y)).sum()), pearson(x, y)
    return points, value, None if value is None else fisher_interval(value, points)


def correlation_row(over: str, size: str, a: str, b: str, x: Any, y: Any) -> dict[str, Any]:
    """Make a row of a table of correlations; without a value where one side does not vary."""
    points, value, ends = correlated(x, y)
    row = {"over": over, "cache": size, "between": f"{a}, {b}", "points": points}
    return row | {"correlation": value, "95 %": ends}


def same_texts(a: Input, b: Input) -> bool:
    """Whether two traces are of the same requests: as long, of the same domains, of the same token ids where known."""
    one, other = a.trace, b.trace
    if a.kind != "teacher-forced" or b.kind != "teacher-forced":
        return False
    if not np.array_equal(one.offsets, other.offsets) or one.domains != other.domains:
        return False
    return one.token_ids is None or other.token_ids is None or bool((one.token_ids == other.token_ids).all())


def difference(one: MeasuredTrace, base: MeasuredTrace, m: int = AT) -> tuple[float, Interval | None]:
    """Return SRP less that of another trace, with its basic 95 % interval.

    On the same texts the resamples are paired: both models see the same draws. Otherwise the two are taken as
    independent, and half widths add as squares.
    """
    a, b = one.srp[m], base.srp[m]
    value = a.value - b.value
    if a.interval is None or b.interval is None or a.draws is None or b.draws is None:
        return value, None
    if same_texts(one.source, base.source):
        return value, basic_interval(value, a.draws - b.draws, 0.95)
    half = math.hypot(a.interval[1] - a.interval[0], b.interval[1] - b.interval[0]) / 2
    return value, (value - half, value + half)


def around_zero(ends: Interval | None) -> bool:
    """Whether an interval holds 0; there may be none."""
    return ends is not None and ends[0] <= 0 <= ends[1]


def within_seeds(value: float, seeds: float | None) -> bool:
    """Whether a difference may be no more than other seeds differ by.

    Args:
        value: the difference.
        seeds: the largest that other seeds of the baseline were found to differ by; None: there are none, so it may.
    """
    return seeds is None or abs(value) <= SEED_MARGIN * seeds


def baselines(found: Sequence[MeasuredTrace]) -> list[MeasuredTrace]:
    """Return the teacher-forced traces of the toy baseline, the one without a seed in its name first."""
    bases = [one for one in teacher_forced(found) if one.source.paper == "toy.baseline"]
    return sorted(bases, key=lambda one: one.source.variant)


def srp_floor(top_k: int, experts: int) -> float:
    """Return the SRP that keeping every expert gives: 2 r / (1 + r) at r = k / E."""
    rate = top_k / experts
    return 2 * rate / (1 + rate)
