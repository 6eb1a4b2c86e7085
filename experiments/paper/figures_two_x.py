"""Is twice the active experts the knee: the curves with their knees, and the knees of every criterion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrcsim.experiments.paper.figures import FEW, RELATIVE, look_of_model, shown_models, tidy
from lrcsim.experiments.paper.knee import ABOUT_TWICE, CRITERIA
from lrcsim.experiments.paper.measure import AT, POOLED, MeasuredTrace
from lrcsim.experiments.paper.names import Model, generated
from lrcsim.experiments.paper.published import GRID, published
from lrcsim.experiments.paper.two_x import sizes_of
from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import legend_below

BEYOND = 4.4
"""Where a knee beyond the range is drawn."""
RANDOM = (0, (1, 2))
"""The dash of tokens in random order."""


def two_x(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw the curves with their knees, and the knees of all criteria here and in the paper's own curves."""
    models = shown_models([one for one in found if POOLED in one.curves])
    with open_figure(path, 1, 2, figsize=(7, 3.7), width_ratios=(1, 1.15)) as (figure, (left, right)):
        for axes in (left, right):
            axes.axvspan(*ABOUT_TWICE, color="0.93", zorder=0)
        for model in models:
            _curves(left, model, few=len(models) <= FEW)
        left.plot([], [], color="0.4", linestyle=RANDOM, label="random order")
        tidy(left, RELATIVE, f"SCH, m = {AT}, one pool", legend="none", xlim=(0, 4.1), ylim=(0, 1))
        left.set_title(f"marks: knee by {CRITERIA[0].name}")
        for row, criterion in enumerate(CRITERIA):
            for j, paper in enumerate((published().real, published().toy)):
                knees = [
                    float(criterion.find(GRID, np.array([m["sch16"]]), m["experts"] / m["top_k"])[0])
                    for m in paper.values()
                ]
                _dots(right, knees, row + 0.24 * j, ("0.55", "0.3")[j], ("o", "s")[j])
            for model in models:
                look = look_of_model(model) | {"ms": 4, "linestyle": ""}
                knee, random = (min(_knee(curve, row), BEYOND) for curve in _both(model.first))
                right.plot(random, row - 0.27, **(look | {"mfc": "none"}))
                right.plot(knee, row - 0.27, **look)
        right.plot([], [], "D", color="0.4", mfc="none", label="random order")
        right.plot([], [], "o", color="0.55", mfc="none", ms=5, label="paper, real models")
        right.plot([], [], "s", color="0.3", mfc="none", ms=5, label="paper, toy models")
        right.set_yticks(range(len(CRITERIA)), [criterion.name for criterion in CRITERIA])
        right.invert_yaxis()
        right.set_xticks([0, 1, 2, 3, BEYOND], ["0", "1", "2", "3", "beyond"])
        title = "knee by criterion; shaded: about twice"
        tidy(right, "knee / active experts", "", title, legend="none", xlim=(0, 4.7))
        legend_below(figure, (left, right))


def _both(one: MeasuredTrace) -> tuple[Any, Any]:
    """Return the pooled curve of a trace, and of its tokens in random order or None."""
    return one.curves[POOLED], one.control


def _curves(axes: Any, model: Model, *, few: bool) -> None:
    """Draw a model's curve with its knee, and that of random order; of generated tokens too where models are few."""
    for one in model.traces if few else model.traces[:1]:
        look = look_of_model(model, hollow=generated(one))
        for curve, dash in zip(_both(one), (look["linestyle"], RANDOM), strict=True):
            if curve is None or (dash == RANDOM and one is not model.first):
                continue
            sizes, knee = sizes_of(curve), _knee(curve, 0)
            name = model.name if one is model.first and dash != RANDOM else None
            lw = 0.7 if dash == RANDOM else 1.1
            line = look | {"linestyle": dash, "lw": lw, "ms": 4.5, "markevery": []}
            axes.plot(sizes, curve.rate(sizes), **line)
            if np.isfinite(knee):
                hollow = {"mfc": "white"} if dash == RANDOM else {}
                axes.plot(knee, curve.rate(np.array([knee])), **(line | {"markevery": None} | hollow))
            if name:
                axes.plot([], [], label=name, **(line | {"markevery": None}))


def _knee(curve: Any, criterion: int) -> float:
    """Return the knee of a measured curve by a criterion; infinity for none."""
    if curve is None:
        return float("inf")
    sizes = sizes_of(curve)
    return float(CRITERIA[criterion].find(sizes, curve.rate(sizes)[None], curve.everything)[0])


def _dots(axes: Any, knees: Sequence[float], height: float, colour: str, marker: str) -> None:
    """Draw a dot at each size, as large as models have their knee there."""
    sizes, counts = np.unique(np.minimum(knees, BEYOND), return_counts=True)
    look = {"facecolors": "none", "edgecolors": colour, "marker": marker}
    axes.scatter(sizes, np.full(len(sizes), height), s=10 + 8 * counts, **look)
