"""The figure of load balance: SRP against local and against global imbalance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrcsim.experiments.paper.measure import AT, MeasuredTrace
from lrcsim.experiments.paper.tradeoff import above_floor, balanced_globally
from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import COLOURS

MARKERS = "os^Dv<>Ph*"
MOST = 20
"""Traces that the figure shows."""


def local_and_global(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SRP above its floor against imbalance, a point for each trace: local on the left, global on the right.

    Both panels have one scale, so that it is seen how much of local imbalance is global. Where some traces are
    unbalanced globally, the others stand once more in a row below.

    Args:
        path: the picture.
        found: traces with load balance; the teacher-forced ones are drawn, or all where there are none.
    """
    forced = [one for one in found if one.source.kind == "teacher-forced"]
    shown = (forced or list(found))[:MOST]
    near = balanced_globally(shown)
    rows = [shown, near] if 1 < len(near) < len(shown) else [shown]
    with open_figure(path, len(rows), 2, figsize=(11, 4.4 * len(rows))) as (_, grid):
        for (left, right), some in zip(np.atleast_2d(grid), rows, strict=True):
            for axes, where in ((left, "local"), (right, "global")):
                for one in some:
                    _point(axes, one, where, shown.index(one))
                told = "tokens of one segment" if where == "local" else "tokens of different requests"
                axes.set(xlabel=f"{where} imbalance: {told}")
                axes.axvline(0, color="0.6", lw=0.8, linestyle=":")
                axes.grid(color="0.9", linewidth=0.6)
                axes.set_axisbelow(True)
                axes.spines[["top", "right"]].set_visible(False)
            limits = [*left.get_xlim(), *right.get_xlim()]
            for axes in (left, right):
                axes.set_xlim(min(limits), max(limits))
            left.set(ylabel=f"SRP above its floor, m = {AT}", title="all" if some is shown else "balanced globally")
            right.sharey(left)
        np.atleast_2d(grid)[0, 1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))


def _point(axes: Any, one: MeasuredTrace, where: str, number: int) -> None:
    """Draw a trace, its interval as a line."""
    srp, balance = one.srp[AT], one.balance[AT]
    x = balance.local_imbalance if where == "local" else balance.global_imbalance
    ends = balance.interval if where == "local" else balance.global_interval
    y = above_floor(srp)
    colour = COLOURS[number % len(COLOURS)]
    if ends is not None:
        axes.hlines(y, *ends, color=colour, lw=2, alpha=0.35)
    name = one.label.removesuffix(".teacher_forced")
    axes.plot(x, y, MARKERS[number % len(MARKERS)], color=colour, ms=6, linestyle="", label=name)
