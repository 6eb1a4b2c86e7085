"""The figure of quality against speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lrcsim.plots.figure import open_figure
from lrcsim.plots.labels import along, place_names
from lrcsim.plots.looks import colour, dress, grey, ink, legend_below, shortened
from lrcsim.plots.settings import SIDE_BY_SIDE, width


def plot_frontier(
    path: str | None, rows: Sequence[Mapping[str, Any]], front: Sequence[str], knee: str | None, title: str
) -> Any:
    """Draw what every rule costs in loss against the speed with it, the Pareto front as a line, the knee ringed.

    Grey lines are the 95 % intervals of the loss; names stand where there is room. Without a machine loads per access
    go upwards, fewer at the top.

    Args:
        path: the picture, .png, .svg or .pdf; None: it is not written.
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
    with open_figure(path, figsize=(7, 4.2) if width() > SIDE_BY_SIDE else (7, 6)) as (figure, axes):
        at = {row["rule"]: (row["loss_difference"], row[up]) for row in rows}
        step = sorted(at[label] for label in front)
        others = [place for rule, place in at.items() if rule not in front]
        for row in rows:
            if row["loss_interval"] is not None:
                axes.plot(row["loss_interval"], (row[up], row[up]), color=grey(0.7), linewidth=0.8, zorder=0)
        axes.plot([], [], color=grey(0.7), linewidth=0.8, label="95 % interval of the loss")
        look = {"drawstyle": "steps-post", "marker": "o", "ms": 4, "zorder": 2}
        axes.plot(*zip(*step, strict=True), color=colour(0), label="Pareto front", **look)
        if others:
            axes.plot(*zip(*others, strict=True), "s", color=grey(0.55), ms=3.5, zorder=1, label="other rules")
        if knee is not None:
            axes.plot(*at[knee], "o", mfc="none", mec=ink(), ms=9, mew=0.8, label="knee")
        axes.axvline(0, color=grey(0.6), linewidth=0.8, zorder=0)
        label = "decode [tokens/s]" if timed else "loads per access of the router's choice"
        dress(axes, "loss with the rule - loss without [nats per token]", label, title)
        axes.margins(x=0.12, y=0.1)
        if not timed:
            axes.invert_yaxis()
        legend_below(figure, [axes])
        figure.draw_without_rendering()
        names = [(x, y, shortened(rule, 28)) for rule, (x, y) in at.items()]
        lines = along([(x, y, "") for x, y in step], "steps-post")
        for row in rows:
            low, high = row["loss_interval"] or (row["loss_difference"],) * 2
            lines += [(x, row[up], "") for x in np.linspace(low, high, 24).tolist()]
        place_names({axes: [*names, *lines]})
    return figure
