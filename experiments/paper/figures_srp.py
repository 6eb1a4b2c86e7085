"""SRP: against segment length and the kept group's size (msrp), by layer (lsrp), by position (msrpp)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import ceil, log2
from typing import Any

import numpy as np

from lrcsim.experiments.paper.figures import (
    FEW,
    dash,
    lengths_axis,
    look_of_model,
    model_panels,
    say_kinds,
    shown_models,
    tidy,
)
from lrcsim.experiments.paper.measure import AT, MeasuredTrace
from lrcsim.experiments.paper.names import Model, generated, models_in
from lrcsim.experiments.paper.published import SEGMENTS, published
from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import COLOURS, legend_below
from lrcsim.plots.settings import width


def srp_by_length(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SRP against segment length, the floor dotted, the paper's real models grey; a model's seeds in one panel."""
    few = shown_models(found)
    if len(few) <= FEW:
        with open_figure(path, figsize=(width(), max(2.2, 0.45 * width()))) as (figure, axes):
            _published(axes)
            for model in few:
                _by_length(axes, model, model.name)
            say_kinds(axes, few)
            tidy(axes, "segment length m [tokens]", "SRP", legend="none", ylim=(0, 1))
            legend_below(figure, [axes])
        return
    variants = [list(seeds) for _, seeds in groupby(models_in(found), key=lambda model: model.place)]
    for axes, first in model_panels(path, [seeds[0] for seeds in variants[:12]]):
        _published(axes)
        for model in next(seeds for seeds in variants if seeds[0] is first):
            _by_length(axes, model)
        if first is variants[0][0]:
            say_kinds(axes, few)
            axes.plot([], [], color="0.3", alpha=0.45, label="other seeds")
        tidy(axes, "segment length m [tokens]", "SRP", legend="none", ylim=(0, 1))


def _published(axes: Any) -> None:
    for i, model in enumerate(published().real.values()):
        label = "paper, real models" if i == 0 else None
        axes.plot(SEGMENTS, model["srp"], color="0.85", lw=0.6, zorder=0, label=label)


def _by_length(axes: Any, model: Model, label: str | None = None) -> None:
    for one in model.traces:
        look, lengths = look_of_model(model, hollow=generated(one)), list(one.srp)
        name = label if one is model.first else None
        axes.plot(lengths, [one.srp[m].value for m in lengths], label=name, **look)
        ends = [one.srp[m].interval for m in lengths]
        if all(end is not None for end in ends) and not model.seed:
            axes.fill_between(lengths, *np.array(ends, float).T, color=look["color"], alpha=0.2, linewidth=0)
    one, look = model.first, look_of_model(model)
    floors = [one.srp[m].floor for m in one.srp]
    axes.plot(list(one.srp), floors, color="0.3", linestyle=":", lw=1, label="floor")
    if "srp16" in one.theirs:
        axes.plot(AT, one.theirs["srp16"], "x", color="black", ms=5, mew=1.2, zorder=5, label="paper, toy model")
    lengths_axis(axes, SEGMENTS)


def group_sizes(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw how many experts SRP's best choice keeps, over the active, against SRP: a panel for each segment length."""
    models = models_in([one for one in found if one.srp])
    lengths = list(dict.fromkeys(m for model in models for m in model.first.srp))
    most = max(result.group_size for model in models for one in model.traces for result in one.srp.values())
    ticks = [2.0**power for power in range(-1, max(3, ceil(log2(most))) + 1)]
    columns = min(len(lengths), 4 if width() > 5 else 2)
    rows = -(-len(lengths) // columns)
    size = (width(), rows * (1.6 if columns > 2 else 1.5) + 0.3)
    with open_figure(path, rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False) as (figure, grid):
        for i, axes in enumerate(grid.flat):
            if i >= len(lengths):
                axes.set_axis_off()
                continue
            for model in models:
                for one in model.traces:
                    if lengths[i] in one.srp:
                        result = one.srp[lengths[i]]
                        look = look_of_model(model, hollow=generated(one)) | {"linestyle": ""}
                        label = model.name if one is model.first and not model.seed else None
                        axes.plot(result.value, result.group_size, label=label, **look)
            axes.axhline(1, color="0.6", lw=0.8, zorder=0)
            axes.set_yscale("log", base=2)
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
            tidy(
                axes,
                "SRP",
                "kept / active experts",
                f"m = {lengths[i]}",
                legend="none",
                xlim=(0, 1),
                ylim=(0.4, 1.1 * ticks[-1]),
            )
            axes.label_outer(remove_inner_ticks=False)
        legend_below(figure, grid.flat)


def by_layer(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SRP of every layer, a line for each segment length; the paper's lowest and highest at m = 16 dotted."""
    models = shown_models([one for one in found if one.srp])
    for axes, model in model_panels(path, models):
        for one in model.traces:
            for i, (m, result) in enumerate(one.srp.items()):
                assert result.groups is not None
                label = f"m = {m}" if one is model.first else None
                axes.plot(result.groups.value, color=COLOURS[i % 6], linestyle=dash(one), label=label)
        for end in model.first.theirs.get("layers", ()):
            axes.axhline(end, color="black", lw=0.8, linestyle=":", label=f"paper's range, m = {AT}")
        if model is models[0]:
            say_kinds(axes, models)
        axes.xaxis.get_major_locator().set_params(integer=True)
        tidy(axes, "MoE layer", "SRP", legend="none", ylim=(0, 1))


def positions(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SRP against the position of the segment, a line for each segment length."""
    models = shown_models([one for one in found if one.positions])
    for axes, model in model_panels(path, models):
        for one in model.traces:
            for i, (m, result) in enumerate(one.positions.items()):
                assert result.groups is not None
                assert result.positions is not None
                label = f"m = {m}" if one is model.first else None
                look = {"color": COLOURS[i % 6], "linestyle": dash(one), "lw": 0.8, "label": label}
                axes.plot(result.positions, result.groups.value, **look)
        if model is models[0]:
            say_kinds(axes, models)
        tidy(axes, "middle of segment [tokens]", "SRP", legend="none", ylim=(0, 1))
