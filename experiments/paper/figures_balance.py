"""The figure of load balance: SRP against local and against global imbalance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrcsim.experiments.paper.figures import look_of_model, tidy
from lrcsim.experiments.paper.measure import AT, MeasuredTrace
from lrcsim.experiments.paper.names import Model, generated, models_in
from lrcsim.experiments.paper.tradeoff import above_floor, balanced_globally
from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import legend_below
from lrcsim.plots.settings import width


def local_and_global(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SRP above its floor against imbalance, a point for each model: local on the left, global on the right.

    Both panels have one scale, so that it is seen how much of local imbalance is global. Where some models are
    unbalanced globally, the others stand once more in a row below.

    Args:
        path: the picture.
        found: traces with load balance; the teacher-forced ones are drawn, or all where there are none.
    """
    shown = [one for one in found if not generated(one)] or list(found)
    models = models_in(shown)
    near = balanced_globally(shown)
    rows = [shown, near] if 1 < len(near) < len(shown) else [shown]
    size = (width(), (2.7 if width() > 5 else 1.8) * len(rows))
    with open_figure(path, len(rows), 2, figsize=size, squeeze=False) as (figure, grid):
        for (left, right), some in zip(grid, rows, strict=True):
            for axes, where in ((left, "local"), (right, "global")):
                for model in models:
                    for one in model.traces:
                        if any(one is other for other in some):
                            _point(axes, model, one, where)
                axes.axvline(0, color="0.6", lw=0.8, linestyle=":")
                tidy(axes, f"{where} imbalance", "", legend="none")
            limits = [*left.get_xlim(), *right.get_xlim()]
            for axes in (left, right):
                axes.set_xlim(min(limits), max(limits))
            left.set(ylabel=f"SRP above floor, m = {AT}", title="all" if some is shown else "balanced globally")
            right.sharey(left)
        legend_below(figure, list(grid.flat))


def _point(axes: Any, model: Model, one: MeasuredTrace, where: str) -> None:
    """Draw a trace, its interval as a line."""
    srp, balance = one.srp[AT], one.balance[AT]
    x = balance.local_imbalance if where == "local" else balance.global_imbalance
    ends = balance.interval if where == "local" else balance.global_interval
    look = look_of_model(model, hollow=generated(one)) | {"linestyle": "", "ms": 5}
    if ends is not None and np.isfinite(ends).all():
        axes.hlines(above_floor(srp), *ends, color=look["color"], lw=1.6, alpha=0.35)
    axes.plot(x, above_floor(srp), label=None if model.seed else model.name, **look)
