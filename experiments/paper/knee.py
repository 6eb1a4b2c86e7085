"""Where is the knee of a curve? Several criteria, as people may mean them, for a curve of hit rate h over cache size.

Sizes are relative (rho, times the experts active per token). A criterion that finds its answer at the end of what is
known has found no knee: it gives infinity, "beyond". Curves are arrays of h at equally spaced sizes, the first one step
above 0, where h is 0; several curves (the draws of a bootstrap) are rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

ABOUT_TWICE = (1.5, 2.5)
"""What counts as "about twice the active experts": 2 and a quarter of it to either side."""

CLOSE_TO_TWICE = (1.75, 2.25)
"""The same, taken more strictly."""


@dataclass(frozen=True)
class Criterion:
    """A definition of the knee.

    Attributes:
        name: short.
        meaning: in one sentence.
        find: of sizes float64 [n], rates float64 [draws, n] and the size of all experts: the knees, float64 [draws].
    """

    name: str
    meaning: str
    find: Callable[[Floats, Floats, float], Floats]


def chord(sizes: Floats, rates: Floats, _: float) -> Floats:
    """Give the size farthest above the line to the last point (Satopaa et al., 2011, without smoothing)."""
    return _interior(sizes, rates - rates[:, -1:] * sizes / sizes[-1])


def chord_all(sizes: Floats, rates: Floats, everything: float) -> Floats:
    """Do the same with the line to all experts, where every access hits."""
    return _interior(sizes, rates - sizes / everything)


def balance(sizes: Floats, rates: Floats, _: float) -> Floats:
    """Give the size of the largest hit rate times hit rate per slot, h^2 / rho: where its elasticity falls to 1/2."""
    return _interior(sizes, rates**2 / sizes)


def bend(sizes: Floats, rates: Floats, _: float) -> Floats:
    """Give the size before which 1x brings most more than after it: the largest second difference with step 1x."""
    step = _steps_of_one(sizes)
    padded = np.pad(rates, ((0, 0), (1, 0)))  # size 0
    fall = 2 * padded[:, step:-step] - padded[:, : -2 * step] - padded[:, 2 * step :]
    return sizes[step - 1 :][fall.argmax(axis=1)] if fall.shape[1] else np.full(len(rates), np.inf)


def below(points: float) -> Callable[[Floats, Floats, float], Floats]:
    """Make: the first size from which the next 1x brings less than so many points of hit rate."""

    def find(sizes: Floats, rates: Floats, _: float) -> Floats:
        return _first(sizes, _next_one(sizes, rates) < points / 100)

    return find


def half(sizes: Floats, rates: Floats, _: float) -> Floats:
    """Give the first size from which the next 1x brings less than half of what the first 1x brought."""
    first = rates[:, _steps_of_one(sizes) - 1 : _steps_of_one(sizes)]
    return _first(sizes, _next_one(sizes, rates) < first / 2)


CRITERIA = (
    Criterion("chord", "farthest above the line from 0 to the last size of the paper's figures (4x)", chord),
    Criterion("chord to all", "farthest above the line from 0 to all experts", chord_all),
    Criterion("balance", "largest hit rate times hit rate per slot", balance),
    Criterion("bend", "largest fall of what 1x brings, before and after; 1x at least, by its definition", bend),
    Criterion("half", "the next 1x brings less than half of what the first brought", half),
    Criterion("below 20", "the next 1x brings less than 20 points of hit rate", below(20)),
    Criterion("below 10", "the next 1x brings less than 10 points of hit rate", below(10)),
)
"""The first is the one the statement is made by; it is that of `lrcsim curve` on the paper's range."""


def chord_height(sizes: Floats, rates: Floats) -> float:
    """Return how far the knee of `chord` lies above the line: 0 for a straight curve, which has no knee."""
    return float((rates - rates[-1] * sizes / sizes[-1]).max())


def prices_of(sizes: Floats, rates: Floats, low: float, high: float) -> tuple[float, float] | None:
    """Give the prices at which the best size lies in ``low`` to ``high``.

    The best size at price c is that of the largest h(rho) - c * rho, hit rate net of what 1x of cache costs. It is a
    corner of the concave hull of the curve, and best from the slope after it to the slope before it.

    Args:
        sizes: float64 [n].
        rates: float64 [n].
        low: smallest size asked for.
        high: largest.

    Returns:
        The lowest and highest price, hit rate per 1x, or None: at no price is a size in the range best.
    """
    xs, ys = _hull(np.append(0, sizes), np.append(0, rates))
    slopes = np.append(np.diff(ys) / np.diff(xs), 0)  # after each corner; none after the last, where nothing is known
    before = np.append(np.inf, slopes[:-1])
    inside = np.flatnonzero((xs >= low) & (xs <= high))
    if len(inside) == 0:
        return None
    return float(slopes[inside[-1]]), float(before[inside[0]])


def _hull(xs: Floats, ys: Floats) -> tuple[Floats, Floats]:
    """Return the corners of the smallest concave curve above the points."""
    kept: list[int] = []
    for i in range(len(xs)):
        while len(kept) > 1:
            a, b = kept[-2], kept[-1]
            if (ys[b] - ys[a]) * (xs[i] - xs[b]) > (ys[i] - ys[b]) * (xs[b] - xs[a]):
                break
            kept.pop()
        kept.append(i)
    return xs[kept], ys[kept]


def _steps_of_one(sizes: Floats) -> int:
    return max(round(1 / float(sizes[0])), 1)


def _next_one(sizes: Floats, rates: Floats) -> Floats:
    """Float64 [draws, n - steps]: what 1x more brings at each size."""
    step = _steps_of_one(sizes)
    return rates[:, step:] - rates[:, :-step]


def _first(sizes: Floats, true: npt.NDArray[np.bool_]) -> Floats:
    if true.shape[1] == 0:
        return np.full(len(true), np.inf)
    return np.where(true.any(axis=1), sizes[true.argmax(axis=1)], np.inf)


def _interior(sizes: Floats, score: Floats) -> Floats:
    """Return the size of each row's largest score, the smallest of those within 1e-12.

    Infinity where that is the last size, or no score is above 0 (a straight curve is nowhere above its chord).
    """
    best = score.max(axis=1, keepdims=True)
    place = (score >= best - 1e-12).argmax(axis=1)
    return np.where((best[:, 0] <= 1e-12) | (place == len(sizes) - 1), np.inf, sizes[place])
