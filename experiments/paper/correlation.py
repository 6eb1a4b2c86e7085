"""Pearson's correlation with an interval."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.simulator.metrics.specialisation import pearson

__all__ = ["correlation_row", "fisher_interval"]

Z_95 = 1.959963984540054  # of the normal distribution, two-sided 95 %


def fisher_interval(correlation: float, points: int) -> tuple[float, float] | None:
    """Give the 95 % interval tanh(atanh r +- 1.96 / sqrt(n - 3)) (Fisher 1921); None below 4 points."""
    if points < 4:
        return None
    if abs(correlation) >= 1:
        return correlation, correlation
    centre, half = math.atanh(correlation), Z_95 / math.sqrt(points - 3)
    return math.tanh(centre - half), math.tanh(centre + half)


def correlation_row(
    over: str, size: str, a: str, b: str, x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]
) -> dict[str, Any]:
    """Make a row of a table of correlations; without a value where one side does not vary."""
    value = pearson(x, y)
    points = int((np.isfinite(x) & np.isfinite(y)).sum())
    row = {"over": over, "cache": size, "between": f"{a}, {b}", "points": points, "correlation": value}
    return row | {"95 %": None if value is None else fisher_interval(value, points)}
