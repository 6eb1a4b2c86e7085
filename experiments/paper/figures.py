"""What the paper's figures share: which models are shown, how they look, a panel for each.

A model has one colour and one marker in every figure, and so have its other seeds. Teacher-forced tokens (the paper's
setting) are solid and filled, generated ones dashed and hollow. What the paper published is black, or grey where there
is much of it. The figures themselves: ``figures_srp``, ``figures_domains``, ``figures_experts``, ``figures_cache``,
``figures_models``, ``figures_two_x``, ``figures_sample``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from textwrap import fill
from typing import Any

import numpy as np

from lrcsim.experiments.paper.measure import MeasuredTrace
from lrcsim.experiments.paper.names import Model, generated, models_in
from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import COLOURS, MARKERS, dress, legend_below, look_of, shortened
from lrcsim.plots.settings import width

# What the figures of other modules take from here.
__all__ = ["look_of", "open_figure", "panels", "shown_in", "tidy"]

MOST = 12
"""Models that a figure shows."""
FEW = 6
"""Models that share one panel; of more, each has its own."""
RELATIVE = "cache size / active experts"
LETTERS = 14
"""Letters of a title for each inch of a panel."""
SEEDS_ALPHA = 0.45


def shown_in(found: Sequence[MeasuredTrace]) -> list[MeasuredTrace]:
    """Return the traces of a figure that has one of each model: those of the paper's setting, where there are any."""
    return [model.first for model in shown_models(found)]


def shown_models(found: Sequence[MeasuredTrace]) -> list[Model]:
    """Return the models of a figure, `MOST` of them: every variant before the second seed of any."""
    models = sorted(models_in(found), key=lambda model: model.seed)[:MOST]
    return sorted(models, key=lambda model: (model.place, model.seed))


def with_each(found: Sequence[MeasuredTrace], most: int = 2) -> list[Model]:
    """Return the models of a figure that can draw one trace in a panel: both kinds have their own among few models."""
    models = shown_models(found)
    if len(models) > most:
        return [Model(m.name + ", generated" * generated(m.first), *_rest(m, m.first)) for m in models]
    return [Model(m.name + ", generated" * generated(one), *_rest(m, one)) for m in models for one in m.traces]


def _rest(model: Model, one: MeasuredTrace) -> tuple[str, int, int, tuple[MeasuredTrace, ...]]:
    return model.letters, model.place, model.seed, (one,)


def look_of_model(model: Model, *, hollow: bool = False) -> dict[str, Any]:
    """Return colour, marker and dash of a model; ``hollow``: as its generated tokens are drawn."""
    colour, marker = COLOURS[model.place % len(COLOURS)], MARKERS[model.place % len(MARKERS)]
    filled = {"linestyle": "-", "mfc": colour}
    look = {"color": colour, "marker": marker} | ({"linestyle": "--", "mfc": "none", "ms": 5} if hollow else filled)
    return look | ({"alpha": SEEDS_ALPHA} if model.seed else {})


def dash(one: MeasuredTrace) -> str:
    """Return how lines of a trace are dashed."""
    return "--" if generated(one) else "-"


def tidy(axes: Any, x: str, y: str, title: str = "", *, legend: str = "inside", **limits: Any) -> None:
    """Label the axes; the legend stands inside, below the whole figure ("beside", as it was) or not at all ("none")."""
    dress(axes, x, y, title, **limits)
    if legend == "beside":
        legend_below(axes.figure, axes.figure.axes)
    elif legend == "inside" and axes.get_legend_handles_labels()[0]:
        axes.legend()


def panels(path: str, found: Sequence[MeasuredTrace], height: float = 1.6) -> Iterator[tuple[Any, MeasuredTrace]]:
    """Give axes for one trace of each model that is shown; the figure is written when all are drawn."""
    for axes, model in model_panels(path, shown_models(found), height):
        yield axes, model.first
        axes.set_title("generated" if generated(model.first) else "")  # below the name


def model_panels(
    path: str,
    models: Sequence[Model],
    height: float | None = None,
    titles: int = 1,
    below: float = 0.0,
    **subplots: Any,
) -> Iterator[tuple[Any, Model]]:
    """Give axes for each model on common scales; legends are put together below; then the figure is written.

    A title that was set stands below the model's name.

    Args:
        path: the picture.
        models: one for each panel.
        height: of a panel, in inches; None: as fits its width.
        titles: lines of a title.
        below: inches of the figure that long names below the lowest panels take.
        subplots: to matplotlib's ``subplots``; axes are shared unless this says otherwise.
    """
    columns = min(len(models), (4 if len(models) > FEW or len(models) == 4 else 3) if width() > 5 else 2)
    rows = -(-len(models) // columns)
    height = height or min(max(0.7 * width() / columns, 1.1), 2.3)
    size = (width(), rows * (height + 0.08 + 0.13 * titles) + 0.3 + below)  # titles; axis labels
    with open_figure(
        path, rows, columns, figsize=size, squeeze=False, **({"sharex": True, "sharey": True} | subplots)
    ) as (figure, grid):
        every = list(grid.flat)
        for unused in every[len(models) :]:
            unused.set_axis_off()
        for axes, model in zip(every, models, strict=False):
            yield axes, model
            name = shortened(model.name, int(LETTERS * (width() - 0.5) / columns))
            axes.set_title("\n".join(filter(None, (name, axes.get_title()))))
        _label_outer(every[: len(models)], columns)
        legend_below(figure, every[: len(models)])


def _label_outer(every: Sequence[Any], columns: int) -> None:
    """Label axes on the left, and below where no panel follows, in as many lines as panels are narrow."""
    letters = int(LETTERS * (width() - 0.8) / columns)
    for i, axes in enumerate(every):
        if i % columns:
            axes.set_ylabel("")
        if i + columns < len(every):
            axes.set_xlabel("")
        else:
            axes.set_xlabel(fill(axes.get_xlabel(), letters))
            axes.tick_params(labelbottom=True)


def say_kinds(axes: Any, models: Sequence[Model]) -> None:
    """Name the two kinds of tokens in the legend, where both are drawn."""
    if {generated(one) for model in models for one in model.traces} == {False, True}:
        axes.plot([], [], color="0.3", linestyle="-", label="teacher-forced")
        axes.plot([], [], color="0.3", linestyle="--", label="generated")


def lengths_axis(axes: Any, lengths: Sequence[int]) -> None:
    """Have x in segment lengths, in powers of two."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(m) for m in lengths])
    axes.minorticks_off()


def finite(values: Any) -> Any:
    """Return an array of numbers, NaN for None."""
    return np.array(values, float)
