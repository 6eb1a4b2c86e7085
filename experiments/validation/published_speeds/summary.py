"""Predictions beside measurements, by class of setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lrcsim.base.tables import Table
from lrcsim.experiments.validation.published_speeds.predict import Prediction
from lrcsim.planner.accuracy import SETTINGS

NEAR = 1.3
"""A prediction within this factor is called near."""


@dataclass(frozen=True)
class Summary:
    """How near predictions of a class are.

    Attributes:
        setting: the class, or ``"all"``.
        points: how many.
        mean: geometric mean of predicted over measured.
        low: tenth percentile of the same.
        high: ninetieth percentile.
        near: share within a factor of `NEAR` either way.
        inside: share of measured speeds inside the range.
        width: median of high over low of the ranges.
        order: Spearman's rank correlation of predicted and measured; 1 where there are
            fewer than three, or all are alike.
    """

    setting: str
    points: int
    mean: float
    low: float
    high: float
    near: float
    inside: float
    width: float
    order: float


def summarise(predictions: Sequence[Prediction], setting: str = "all") -> Summary:
    """Summarise predictions of one class."""
    ratios = np.array([one.ratio for one in predictions])
    low, high = np.quantile(ratios, [0.1, 0.9])
    return Summary(
        setting=setting,
        points=len(ratios),
        mean=float(np.exp(np.log(ratios).mean())),
        low=float(low),
        high=float(high),
        near=float((np.abs(np.log(ratios)) <= np.log(NEAR)).mean()),
        inside=float(np.mean([one.inside for one in predictions])),
        width=float(np.median([one.range[1] / one.range[0] for one in predictions])),
        order=_rank_correlation(
            [one.tokens_per_s for one in predictions], [one.point.tokens_per_s for one in predictions]
        ),
    )


def by_class(predictions: Sequence[Prediction]) -> list[Summary]:
    """Summarise each class that has points, and all together first."""
    found = [summarise(predictions)]
    for setting in SETTINGS:
        mine = [one for one in predictions if one.point.setting == setting]
        if mine:
            found.append(summarise(mine, setting))
    return found


def table(summaries: Sequence[Summary]) -> Table:
    """Return summaries as a table."""
    rows = [
        {
            "class": one.setting,
            "points": one.points,
            "geometric mean": one.mean,
            "p10 to p90": (one.low, one.high),
            "within 30 %": 100 * one.near,
            "inside range": 100 * one.inside,
            "high / low": one.width,
            "order": one.order,
        }
        for one in summaries
    ]
    return Table(
        "published_speeds",
        "Predicted over measured tokens/s, by class of setting",
        rows,
        foot="order: rank correlation of predicted and measured",
        digits=2,
        formats={"within 30 %": "{:.0f} %", "inside range": "{:.0f} %"},
    )


def point_table(predictions: Sequence[Prediction]) -> Table:
    """Return every point as a row."""
    rows = [
        {
            "point": one.point.name,
            "class": one.point.setting,
            "engine": one.point.engine,
            "measured": one.point.tokens_per_s,
            "predicted": one.tokens_per_s,
            "range": one.range,
            "ratio": one.ratio,
            "hits": 100 * one.hit_rate,
            "measured hits": None if one.point.hit_rate is None else 100 * one.point.hit_rate,
        }
        for one in predictions
    ]
    formats = {"measured": "{:.1f}", "predicted": "{:.1f}", "range": "{:.1f}", "hits": "{:.0f} %"}
    return Table(
        "points",
        "Each published speed, tokens/s",
        rows,
        digits=2,
        formats=formats | {"measured hits": "{:.0f} %"},
    )


def _rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    mine, theirs = (_ranks(np.asarray(values)) for values in (one, other))
    if len(one) < 3 or np.ptp(mine) == 0 or np.ptp(theirs) == 0:
        return 1.0
    one_way, other_way = mine - mine.mean(), theirs - theirs.mean()
    return float((one_way @ other_way) / np.sqrt((one_way @ one_way) * (other_way @ other_way)))


def _ranks(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Return ranks from 0 on; equal values share their mean."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: np.ndarray[tuple[int], np.dtype[np.float64]] = (ends - (counts + 1) / 2)[place]
    return ranks
