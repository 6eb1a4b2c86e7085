"""Predicted against measured tokens/s, one mark for each published point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lrcsim.experiments.validation.published_speeds.predict import Prediction
from lrcsim.experiments.validation.published_speeds.summary import NEAR
from lrcsim.planner.accuracy import SETTINGS
from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import colour, dress, grey, legend_below
from lrcsim.plots.settings import high_as, width

MARKS = dict(zip(SETTINGS, "osD^vPX", strict=True))


def scatter(predictions: Sequence[Prediction], path: str | Path | None) -> Any:
    """Draw points with their ranges on logarithmic axes, with the diagonal and a factor of `NEAR` beside it.

    Raises:
        ConfigError: another ending than that of a picture.
        TraceError: the file cannot be written.
    """
    speeds = [one.point.tokens_per_s for one in predictions] + [one.tokens_per_s for one in predictions]
    ends = min(speeds) / 1.3, max(speeds) * 1.3
    with open_figure(None if path is None else str(path), figsize=(width(), high_as(5.5, 3.3))) as (figure, axes):
        beside = {"color": grey(0.92), "lw": 0, "label": f"within a factor of {NEAR:g}"}
        axes.fill_between(ends, [end / NEAR for end in ends], [end * NEAR for end in ends], **beside)
        axes.plot(ends, ends, color=grey(0.6), lw=0.8)
        for number, (setting, mark) in enumerate(MARKS.items()):
            mine = [one for one in predictions if one.point.setting == setting]
            if not mine:
                continue
            measured, predicted = [one.point.tokens_per_s for one in mine], [one.tokens_per_s for one in mine]
            below = [max(one.tokens_per_s - one.range[0], 0.0) for one in mine]
            above = [max(one.range[1] - one.tokens_per_s, 0.0) for one in mine]
            look = {"fmt": mark, "color": colour(number), "ms": 3.5, "lw": 0.6, "label": setting}
            axes.errorbar(measured, predicted, yerr=[below, above], **look)
        axes.set(xscale="log", yscale="log")
        dress(axes, "measured [tokens/s]", "predicted [tokens/s]", xlim=ends, ylim=ends)
        ticks = [n * 10**power for power in range(-2, 5) for n in (1, 2, 5) if ends[0] <= n * 10**power <= ends[1]]
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.set_ticks([], minor=True)
        legend_below(figure, [axes])
    return figure
