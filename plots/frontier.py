"""The figure of quality against speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import COLOURS, dress


def plot_frontier(
    path: str, rows: Sequence[Mapping[str, Any]], front: Sequence[str], knee: str | None, title: str
) -> None:
    """Draw what every rule costs in loss against the speed with it, the Pareto front as a line, the knee ringed.

    Bars are the 95 % intervals of the loss. Without a machine loads per access go upwards, fewer at the top.

    Args:
        path: the picture, .png, .svg or .pdf.
        rows: of `lrcsim.frontier.measure.Frontier`.
        front: labels of the rules on the front, the least loss first.
        knee: label of the knee, or None.
        title: above the figure.

    Raises:
        ConfigError: another ending.
        TraceError: the file cannot be written.
    """
    timed = all(row["tokens_per_s"] is not None for row in rows)
    up = "tokens_per_s" if timed else "loads_per_access"
    with open_figure(path, figsize=(7, 4.2)) as (_, axes):
        at = {row["rule"]: (row["loss_difference"], row[up]) for row in rows}
        step = sorted(at[label] for label in front)
        axes.plot(*zip(*step, strict=True), drawstyle="steps-post", color=COLOURS[0], zorder=1)
        for place, row in enumerate(sorted(rows, key=lambda row: at[row["rule"]])):
            x, y = at[row["rule"]]
            on_front = row["rule"] in front
            if row["loss_interval"] is not None:
                axes.plot(row["loss_interval"], (y, y), color="0.7", linewidth=0.8, zorder=0)
            axes.plot(x, y, "o", color=COLOURS[0] if on_front else "0.6", ms=4)
            axes.annotate(row["rule"], (x, y), xytext=(4, (3, -9)[place % 2]), textcoords="offset points", fontsize=7)
        if knee is not None:
            axes.plot(*at[knee], "o", mfc="none", mec="black", ms=9, mew=0.8)
        axes.axvline(0, color="0.6", linewidth=0.8, zorder=0)
        label = "tokens per second" if timed else "loads per access of the router's choice"
        dress(axes, "loss with the rule - loss without [nats per token]", label, title)
        axes.margins(x=0.12, y=0.1)
        if not timed:
            axes.invert_yaxis()
