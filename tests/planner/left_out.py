"""Each model's published hit rates, predicted without it: the table of docs/plan.md.

python tests/planner/left_out.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lrcsim.planner.locality_prior import Exponent, fit_law
from lrcsim.planner.published_locality import Counted, is_early, published


class LeftOut(NamedTuple):
    """What was predicted of a source without it, or without its model.

    Attributes:
        one: the source.
        expected: what was predicted.
        logs: float64 [n], ln of counted over predicted a.
        points: float64 [n], predicted less counted hit rate, percentage points.
    """

    one: Counted
    expected: Exponent
    logs: np.ndarray
    points: np.ndarray

    @property
    def inside(self) -> float:
        """Share of its sizes at which a is within the range."""
        return float((np.abs(self.logs) <= np.log(self.expected.factor)).mean())


def without_its_model() -> list[LeftOut]:
    """Return every source, predicted without all sources of its model."""
    return [_predicted(one, lambda other, one=one: other.model != one.model) for one in published()]  # type: ignore[misc]


def without_its_source() -> list[LeftOut]:
    """Return the sources of models that have several, each predicted without itself."""
    count = [one.model for one in published()].count
    return [_predicted(one, lambda other, one=one: other is not one) for one in published() if count(one.model) > 1]  # type: ignore[misc]


def _predicted(one: Counted, kept: Callable[[Counted], bool]) -> LeftOut:
    expected = fit_law([other for other in published() if kept(other)]).exponent(one.model, one.experts, one.top_k)
    a = expected.at(one.slots, one.top_k)
    points = 100 * (1 - (1 - one.slots / one.experts) ** a - one.rates)
    return LeftOut(one, expected, np.log(one.exponents / a), points)


def table() -> list[str]:
    """Return the rows, Markdown: models since 2025, then those before, by name."""
    found = without_its_model()
    lines = [
        "| model | E, k | sources | sizes | exponent, counted / predicted | predicted - counted, points | in range |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for early in (False, True):
        for model in sorted({left.one.model for left in found if is_early(left.one.model) is early}):
            mine = [left for left in found if left.one.model == model]
            logs = np.exp(np.mean([left.logs.mean() for left in mine]))
            points = np.concatenate([left.points for left in mine])
            inside = sum(round(left.inside * len(left.logs)) for left in mine)
            lines.append(
                f"| {model} | {mine[0].one.experts}, {mine[0].one.top_k} | {len(mine)} | {len(points)} | {logs:.2f} "
                f"| {points.min():+.0f} to {points.max():+.0f} | {inside} of {len(points)} |"
            )
    return lines


if __name__ == "__main__":
    print("\n".join(table()))
