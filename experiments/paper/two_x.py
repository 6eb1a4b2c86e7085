"""Is a cache of about twice the active experts where effect and cost balance? A computed statement, not a picture.

The statement "the knee of the curve is at about twice the active experts" is made of a curve of hit rate over relative
cache size from 0 to 4, the range of the paper's figures, by each criterion of `knee`:

* **holds**: at least 95 % of the draws have their knee within 1.5x to 2.5x;
* **does not hold**: at most 5 % have;
* **undecided**: anything between.

Draws resample requests with replacement. For published curves there are no requests to resample; their draws add the
error of reading the figure (normal, of the published median size), which is all the uncertainty that can be known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrcsim.experiments.paper.curves import RequestCurves
from lrcsim.experiments.paper.knee import ABOUT_TWICE, CLOSE_TO_TWICE, CRITERIA, Criterion
from lrcsim.experiments.paper.measure import PaperOptions
from lrcsim.experiments.paper.published import GRID, published

Floats = npt.NDArray[np.float64]

FINE: Floats = np.arange(1, 65) / 16
"""Relative sizes at which measured curves are taken; published ones are known at every fourth (`GRID`)."""

LEVEL = 0.95
MEDIAN_TO_SIGMA = 1 / 0.6744897501960817  # the median of |normal| is 0.6745 sigma


@dataclass(frozen=True)
class Knee:
    """The knee of a curve by one criterion.

    Attributes:
        criterion: its name.
        size: relative cache size; infinity: none in the range.
        interval: 2.5 % and 97.5 % quantiles over the draws (order statistics), or None without draws.
        share: share of draws within `ABOUT_TWICE`, or None.
        close: share of draws within `CLOSE_TO_TWICE`, or None.
        verdict: ``"holds"``, ``"does not hold"``, ``"undecided"``; ``"one request"`` where there is nothing to draw.
    """

    criterion: str
    size: float
    interval: tuple[float, float] | None
    share: float | None
    close: float | None
    verdict: str


def sizes_of(curve: RequestCurves) -> Floats:
    """Return those of `FINE` that the model has experts for."""
    sizes: Floats = FINE[curve.everything >= FINE - 1e-9]
    return sizes


def knees_of(curve: RequestCurves, options: PaperOptions) -> list[Knee]:
    """Find the knees of a measured curve by all criteria; none where the model has not enough experts for 3x."""
    sizes = sizes_of(curve)
    if len(sizes) == 0 or sizes[-1] < 3:
        return []
    rates, drawn = curve.rate(sizes), curve.drawn(sizes, options.draws, options.seed)
    return [_judge(criterion, sizes, rates, drawn, curve.everything) for criterion in CRITERIA]


def knees_of_published(rates: Sequence[float], everything: float, draws: int, seed: int) -> list[Knee]:
    """Find the knees of a published curve on `GRID` by all criteria."""
    values = np.array(rates, float)
    sigma = published().quantity["sch16"]["error"] * MEDIAN_TO_SIGMA
    noise = np.random.default_rng(seed).normal(0, sigma, (draws, len(values)))
    return [_judge(criterion, GRID, values, (values + noise).clip(0, 1), everything) for criterion in CRITERIA]


def verdict(share: float) -> str:
    """Judge by the share of draws with the knee at about twice."""
    return "holds" if share >= LEVEL else "does not hold" if share <= 1 - LEVEL + 1e-12 else "undecided"


def _judge(criterion: Criterion, sizes: Floats, rates: Floats, drawn: Floats, everything: float) -> Knee:
    size = float(criterion.find(sizes, rates[None], everything)[0])
    if len(drawn) == 0:
        return Knee(criterion.name, size, None, None, None, "one request")
    knees = np.sort(criterion.find(sizes, drawn, everything))
    low = round(len(knees) * (1 - LEVEL) / 2)
    share, close = (float(((knees >= a) & (knees <= b)).mean()) for a, b in (ABOUT_TWICE, CLOSE_TO_TWICE))
    interval = float(knees[low]), float(knees[len(knees) - 1 - low])
    return Knee(criterion.name, size, interval, share, close, verdict(share))
