"""Experts: SRP against use (esrp), against specialisation (esrpds, esrpivs, esrppvs, esrpovs), by model (msrpsc)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrcsim.experiments.paper.figures import finite, model_panels, tidy, with_each
from lrcsim.experiments.paper.figures import shown_models as shown
from lrcsim.experiments.paper.measure import MeasuredTrace
from lrcsim.experiments.paper.names import Model, generated
from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import COLOURS, legend_below, shortened
from lrcsim.plots.settings import width

SPECIALISATIONS = {
    "domain": "in domains",
    "vocabulary_in": "in routed tokens",
    "vocabulary_predicted": "in predicted tokens",
    "vocabulary_out": "in next tokens",
}
"""What experts may specialise in, by the name of the measure."""
RATES = (0.01, 0.1, 0.5, 0.9)


def experts(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw SRP of every expert against its activation rate, on the paper's scale of log odds, with the floor."""
    models = with_each(found)
    for axes, model in model_panels(path, models):
        measures = model.first.experts
        assert measures is not None
        points = _points(axes, measures.activation, measures.srp, models)
        rates = np.linspace(0.001, 0.95, 300)
        axes.plot(rates, 2 * rates / (1 + rates), color="black", linestyle=":", label="floor, 2a / (1 + a)")
        axes.set_xscale("logit")
        axes.set_xticks(RATES, [f"{rate:g}" for rate in RATES])
        axes.minorticks_off()
        tidy(axes, "activation rate a", "SRP of the expert", legend="none", xlim=(0.001, 0.95), ylim=(0, 1))
        if model is models[-1]:
            _layer_bar(axes, points)


def specialisation(path: str, found: Sequence[MeasuredTrace], measure: str) -> None:
    """Draw SRP of every expert against one of its specialisations, with the correlation, here and in the paper."""
    models = with_each([one for one in found if one.experts is not None and measure in one.experts.present()])
    for axes, model in model_panels(path, models, titles=2 if width() > 5 else 3):
        one = model.first
        assert one.experts is not None
        points = _points(axes, one.experts.present()[measure], one.experts.srp, models)
        here, theirs = one.experts.correlation(measure), one.theirs.get(measure)
        told = ["" if here is None else f"r = {here:+.2f}", f"paper {theirs[1]:+.2f}" if theirs else ""]
        x = "specialisation " + SPECIALISATIONS[measure]
        tidy(
            axes,
            x,
            "SRP of the expert",
            (", " if width() > 5 else "\n").join(filter(None, told)),
            legend="none",
            ylim=(0, 1),
        )
        if model is models[-1]:
            _layer_bar(axes, points)


def _points(axes: Any, x: Any, y: Any, models: Sequence[Model]) -> Any:
    """Draw experts [L, E] as dots coloured by layer, on one scale of colours in all panels."""
    layers = np.broadcast_to(np.arange(len(x))[:, None], x.shape)
    most = max(model.first.source.trace.num_layers for model in models) - 1
    look = {"cmap": "viridis", "vmin": 0, "vmax": max(most, 1), "linewidths": 0, "rasterized": x.size > 5000}
    return axes.scatter(x, y, c=layers, s=5 if len(models) > 2 else 9, **look)


def _layer_bar(axes: Any, points: Any) -> None:
    every = [one for one in axes.figure.axes if one.axison]
    bar = axes.figure.colorbar(points, ax=every, label="MoE layer", aspect=30)
    bar.locator.set_params(integer=True)
    bar.update_ticks()


def specialisation_of_models(path: str, found: Sequence[MeasuredTrace]) -> None:
    """Draw of every model the correlation of SRP with each specialisation, and below the mean specialisation."""
    models = shown([one for one in found if one.experts is not None])
    measures = [name for name in SPECIALISATIONS if any(name in _present(one) for m in models for one in m.traces)]
    high, wide = 0.55 + 0.145 * max(len(models), 2), width() > 5
    rows, columns = (2, len(measures)) if wide else (len(measures), 2)
    with open_figure(path, rows, columns, figsize=(width(), rows * high), sharey=True, squeeze=False) as (figure, grid):
        for (above, below), measure in zip(grid.T if wide else grid, measures, strict=True):
            _bars(above, models, measure, "correlation with SRP", 1)
            _bars(below, models, measure, "mean value", 0)
            above.set_xticks((-0.5, 0, 0.5))
            above.set(title=SPECIALISATIONS[measure], xlim=(-1, 1))
        grid.flat[0].invert_yaxis()
        legend_below(figure, [grid.flat[0]])


def _present(one: MeasuredTrace) -> dict[str, Any]:
    return {} if one.experts is None else one.experts.present()


def _bars(axes: Any, models: Sequence[Model], measure: str, label: str, which: int) -> None:
    """Draw a bar for each model and kind of tokens: 1, the correlation; 0, the mean; crosses: the paper's."""
    for hollow in (False, True):
        values = [_value(model, measure, which, hollow) for model in models]
        both = any(len(model.traces) > 1 for model in models)
        places = np.arange(len(models)) + (0.2 if hollow else -0.2) * both
        face = {"color": "none", "edgecolor": COLOURS[0]} if hollow else {"color": COLOURS[0], "edgecolor": COLOURS[0]}
        if np.isfinite(values).any():
            name = "generated" if hollow else "teacher-forced"
            axes.barh(places, values, height=0.36 if both else 0.6, linewidth=0.7, label=name, **face)
    theirs = [model.first.theirs.get(measure) for model in models]
    if any(theirs):
        values = finite([pair[which] if pair else None for pair in theirs])
        axes.plot(values, range(len(models)), "x", color="black", ms=4, mew=1.1, label="paper")
    axes.axvline(0, color="0.3", lw=0.8)
    axes.set_yticks(range(len(models)), [shortened(model.name, 20) for model in models])
    tidy(axes, label, "", legend="none")
    axes.grid(axis="y", visible=False)


def _value(model: Model, measure: str, which: int, hollow: bool) -> float:
    for one in model.traces:
        if generated(one) == hollow and one.experts is not None and measure in _present(one):
            value = one.experts.correlation(measure) if which else one.experts.mean(measure)
            return float("nan") if value is None else value
    return float("nan")
