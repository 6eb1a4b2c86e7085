"""Pictures of one text: SRP of every expert in it, and its tokens' router scores, expert by expert."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrcsim.experiments.paper.figures import model_panels, shown_in, with_each
from lrcsim.experiments.paper.measure import AT, Floats, MeasuredTrace
from lrcsim.experiments.paper.sample import Sample, sample_of
from lrcsim.plots.charts import heat_map
from lrcsim.plots.figure import open_figure
from lrcsim.plots.settings import width

TOKENS = 48
"""Tokens of the picture of router scores: their ids can be read at the width of a page."""


def case(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SRP of every expert in one text as heat maps of layers and experts; grey: not used."""
    models = with_each([one for one in found if one.case is not None])
    every, height = [], 0.35 + 0.045 * max(model.first.source.trace.num_layers for model in models)
    for axes, model in model_panels(path, models, max(height, 0.7), sharex=False, sharey=False):
        assert model.first.case is not None
        image = heat_map(axes, model.first.case, 0, 1)
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set(xlabel="expert", ylabel="MoE layer")
        every.append(axes)
        if len(every) == len(models):
            axes.figure.colorbar(image, ax=every, label="SRP", aspect=20)


def sample(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw what the router gave each expert, token by token, in one layer: two models, or two layers of one.

    Of several models those with the highest and the lowest SRP in the text are taken, in their layer of the highest; of
    one its layers of the highest and the lowest.
    """
    shown = [sample_of(one, layer, TOKENS) for one, layer in chosen(found)]
    with open_figure(path, len(shown), 1, figsize=(width(), 2.4 * len(shown)), squeeze=False) as (_, grid):
        for axes, one in zip(grid[:, 0], shown, strict=True):
            _scores(axes, one)


def chosen(found: Sequence[MeasuredTrace]) -> list[tuple[MeasuredTrace, int]]:
    """Return the traces and layers that `sample` draws: two, or one of a model with one layer."""
    models = sorted((one for one in shown_in(found) if one.case is not None), key=lambda one: -one.srp[AT].value)
    if len(models) > 1:
        return [(one, int(np.nanargmax(np.nanmean(_case(one), axis=1)))) for one in (models[0], models[-1])]
    if not models:
        return []
    layers = np.nanmean(_case(models[0]), axis=1)
    return [(models[0], layer) for layer in dict.fromkeys((int(np.nanargmax(layers)), int(np.nanargmin(layers))))]


def _case(one: MeasuredTrace) -> Floats:
    assert one.case is not None
    return one.case


def _dark_is_much() -> Any:
    """Return colours from green to dark, which all stand out from white."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap

    return ListedColormap(plt.get_cmap("viridis_r")(np.linspace(0.2, 1, 256)))


def _scores(axes: Any, one: Sample) -> None:
    """Draw scores [tokens, E] with experts upwards; white: not chosen, or not recorded."""
    image = axes.imshow(
        one.scores.T, aspect="auto", cmap=_dark_is_much(), vmin=0, interpolation="nearest", origin="lower"
    )
    every = 1 if width() > 5 else 3
    ids = [str(i) if i >= 0 else "" for i in one.ids[::every]]
    axes.set_xticks(range(0, len(one.scores), every), ids, rotation=90, fontsize=6)
    axes.tick_params(axis="x", length=1.5, pad=1)
    axes.set(xlabel=f"token {'id' if one.known else 'number'}", ylabel="expert", title=one.title)
    if one.what:
        axes.figure.colorbar(image, ax=axes, label=one.what, pad=0.01, aspect=18)
