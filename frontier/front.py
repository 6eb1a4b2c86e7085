"""The rules that no other beats in both quality and speed, and the knee among them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def pareto(cost: Sequence[float], worth: Sequence[float]) -> list[int]:
    """Return the points that no other beats: none costs less or as much and is worth more or as much.

    Args:
        cost: of each point; less is better.
        worth: of each; more is better.

    Returns:
        Their indices, the least cost first; of equal points the first.
    """
    front: list[int] = []
    for at in sorted(range(len(cost)), key=lambda at: (cost[at], -worth[at], at)):
        if not front or worth[at] > worth[front[-1]]:
            front.append(at)
    return front


def knee(cost: Sequence[float], worth: Sequence[float], front: Sequence[int]) -> int | None:
    """Return the point of a front beyond which more worth costs more than on average along it.

    It is the point farthest above the line from the front's first to its last; Satopaa et al., "Finding a kneedle in a
    haystack", ICDCS workshops 2011, without smoothing. None where no point lies above it, as of one or two.

    Args:
        cost: as in `pareto`.
        worth: likewise.
        front: indices, of `pareto`.
    """
    if len(front) < 3:
        return None
    x, y = (_from_0_to_1(np.array([values[at] for at in front])) for values in (cost, worth))
    above = y - x
    best = int(np.argmax(above))
    return front[best] if above[best] > 0 else None


def _from_0_to_1(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    scaled: npt.NDArray[np.float64] = (values - values[0]) / (values[-1] - values[0])
    return scaled
