"""The rules that no other beats in both quality and speed, and the knee among them, in words too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.frontier.rules import NONE


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


def knee_in_words(rows: Sequence[Mapping[str, Any]], front: Sequence[str], label: str | None) -> str:
    """Say what the rule at the knee brings and costs.

    >>> none = {"rule": "none", "loss_difference": 0.0, "loads_per_access": 0.5, "tokens_per_s": 10.0}
    >>> prior = {"rule": "prior:0.1", "loss_difference": 0.002, "loads_per_access": 0.3, "tokens_per_s": 16.0}
    >>> knee_in_words([none, prior | {"loss_interval": [0.001, 0.003]}], ["none", "prior:0.1"], "prior:0.1")
    'prior:0.1: 1.60x the speed for +0.0020 nats (95 % interval +0.0010 to +0.0030)'
    """
    by_rule = {row["rule"]: row for row in rows}
    none = by_rule[NONE]
    if label is None:
        return f"no knee: of the rules, {', '.join(front)} are beaten by no other in both loss and speed"
    if label == NONE:
        return "the knee is at none: every rule costs more than it brings, by the mean along the front"
    row = by_rule[label]
    if row["tokens_per_s"] is None:
        share = row["loads_per_access"] / none["loads_per_access"]
        brings = f"{share:.2f}x the loads"
    else:
        brings = f"{row['tokens_per_s'] / none['tokens_per_s']:.2f}x the speed"
    text = f"{label}: {brings} for {row['loss_difference']:+.4f} nats"
    if row.get("loss_interval") is None:
        return text
    low, high = row["loss_interval"]
    shown = ", no difference shown" if low <= 0 <= high else ""
    return f"{text} (95 % interval {low:+.4f} to {high:+.4f}{shown})"


def _from_0_to_1(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    scaled: npt.NDArray[np.float64] = (values - values[0]) / (values[-1] - values[0])
    return scaled
