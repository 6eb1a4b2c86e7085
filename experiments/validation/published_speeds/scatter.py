"""Predicted against measured tokens/s, one mark for each published point."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lrcsim.experiments.validation.published_speeds.predict import Prediction
from lrcsim.experiments.validation.published_speeds.summary import NEAR
from lrcsim.planner.accuracy import SETTINGS
from lrcsim.plots.figure import write_figure

MARKS = dict(zip(SETTINGS, "osD^vPX", strict=True))


def scatter(predictions: Sequence[Prediction], path: str | Path) -> None:
    """Draw points with their ranges on logarithmic axes, with the diagonal and a factor of `NEAR` beside it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 6.0), layout="constrained")
    axes = figure.subplots()
    speeds = [one.point.tokens_per_s for one in predictions] + [one.tokens_per_s for one in predictions]
    ends = min(speeds) / 1.3, max(speeds) * 1.3
    axes.fill_between(ends, [end / NEAR for end in ends], [end * NEAR for end in ends], color="0.92", lw=0)
    axes.plot(ends, ends, color="0.6", lw=0.8)
    for number, (setting, mark) in enumerate(MARKS.items()):
        mine = [one for one in predictions if one.point.setting == setting]
        if not mine:
            continue
        measured, predicted = [one.point.tokens_per_s for one in mine], [one.tokens_per_s for one in mine]
        below = [max(one.tokens_per_s - one.range[0], 0.0) for one in mine]
        above = [max(one.range[1] - one.tokens_per_s, 0.0) for one in mine]
        axes.errorbar(
            measured, predicted, yerr=[below, above], fmt=mark, color=f"C{number}", ms=5, lw=0.6, label=setting
        )
    axes.set(
        xscale="log", yscale="log", xlim=ends, ylim=ends, xlabel="measured, tokens/s", ylabel="predicted, tokens/s"
    )
    axes.legend(loc="upper left")
    write_figure(figure, str(path))
