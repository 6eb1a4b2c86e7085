"""Published hit rates, predicted without their model or their source: the tables of docs/plan.md.

python tests/planner/left_out.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lrcsim.planner.locality_prior import Exponent, fit_law
from lrcsim.planner.published_locality import Counted, is_early, published

IMP = {8: 36.6, 24.33: 74.1, 48.67: 89.4, 81.33: 96.2}
"""Of Qwen3-30B-A3B, per cent by experts per layer: github.com/kekzl/imp pull request 1374, 256 tokens, cold cache."""

PHONE = {15.4: 53.0, 30.8: 76.5, 43.1: 84.0}
"""Of the same: github.com/Helldez/BigMoeOnEdge docs/benchmarks.md, one pool of 2000, 4000, 5600 MiB."""

LACKING: dict[str, Callable[[Counted], bool]] = {
    "nothing": lambda one: False,
    "imp": lambda one: one.model == "qwen3-30b-a3b" and "kekzl/imp" in one.source,
    "the phone": lambda one: one.model == "qwen3-30b-a3b" and "BigMoeOnEdge" in one.source,
    "the model": lambda one: one.model == "qwen3-30b-a3b",
}
"""Which sources to leave out."""


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


def engine_rates(lacking: str) -> dict[float, float]:
    """Return what is predicted where `IMP` and `PHONE` counted, per cent, without the sources of `LACKING`."""
    law = fit_law([one for one in published() if not LACKING[lacking](one)])
    slots = np.array(list(IMP | PHONE))
    rates = 1 - (1 - slots / 128) ** law.exponent("qwen3-30b-a3b", 128, 8).at(slots, 8)
    return dict(zip((IMP | PHONE), (100 * rates).tolist(), strict=True))


def engine_columns() -> list[str]:
    """Return the numbers of the table of engines: counted, planned, without who counted, without the model."""
    plan, model = engine_rates("nothing"), engine_rates("the model")
    source = {"imp": engine_rates("imp"), "the phone": engine_rates("the phone")}
    return [
        f"| {wanted:g} | {plan[slots]:.1f} | {source[name][slots]:.1f} | {model[slots]:.1f} |"
        for name, rates in (("imp", IMP), ("the phone", PHONE))
        for slots, wanted in rates.items()
    ]


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
    print("\n".join([*engine_columns(), "", *table()]))
