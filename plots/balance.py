"""Figures of load balance: against segment length, by layer, stack and domain; dotted or hollow what is global."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrcsim.plots.charts import PANELS, HeatMap, NameRow, PlotLine, draw_heat, draw_lines, draw_names
from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import colour, dress, grey, legend_below, look_of
from lrcsim.plots.settings import width

if TYPE_CHECKING:
    from lrcsim.simulator import Balance

LABEL = "imbalance of experts"
LENGTH = "segment length m [tokens]"


def plot_balance(path: str | None, results: Mapping[str, Sequence[Balance]]) -> Any:
    """Draw local imbalance as its level wants it, beside the global one.

    Against segment length (log scale) with intervals, the global one dotted, all traces in one panel; by layer a line
    for each segment length, by stack or domain a row of points each, a panel for each trace; by layer of more than
    `PANELS` traces one heat map.

    Args:
        path: the picture, .png, .svg or .pdf.
        results: by trace, one for each segment length.

    Raises:
        ConfigError: another ending.
        TraceError: the file cannot be written.
    """
    level = next(iter(results.values()))[0].level
    if level == "model":
        return _by_length(path, results)
    if level == "layer":
        if len(results) > PANELS:
            return draw_heat(path, [_layer_heat(label, found) for label, found in results.items()], LABEL)
        layers = {label: _layer_lines(found) for label, found in results.items()}
        return draw_lines(path, layers, "MoE layer", LABEL, limits=None)
    return draw_names(path, {label: _name_rows(found) for label, found in results.items()}, LABEL)


def _by_length(path: str | None, results: Mapping[str, Sequence[Balance]]) -> Any:
    lengths = sorted({result.segment for found in results.values() for result in found})
    with open_figure(path, figsize=(width(), 3.4 if width() > 5 else 2.3)) as (figure, axes):
        for i, (label, found) in enumerate(results.items()):
            x = [result.segment for result in found]
            axes.plot(x, [result.local_imbalance for result in found], label=label, **look_of(i))
            ends = [result.interval for result in found if result.interval is not None]
            shade = colour(i)
            if len(ends) == len(found):
                axes.fill_between(x, *np.array(ends).T, color=shade, alpha=0.2, linewidth=0)
            axes.axhline(found[0].global_imbalance, color=shade, linestyle=":", lw=1)
        axes.plot([], [], color=grey(0.3), linestyle=":", lw=1, label="global: tokens of different requests")
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.minorticks_off()
        dress(axes, LENGTH, LABEL)
        legend_below(figure, [axes])
    return figure


def _layer_lines(found: Sequence[Balance]) -> list[PlotLine]:
    lines = [
        PlotLine(f"m = {result.segment}", layers, groups.local_imbalance, groups.low, groups.high)
        for result in found
        for groups in (_groups(result),)
        for layers in (np.arange(len(groups.windows)),)
    ]
    whole = _groups(found[0]).global_imbalance
    return [*lines, PlotLine("global", np.arange(len(whole)), whole)]


def _layer_heat(label: str, found: Sequence[Balance]) -> HeatMap:
    values = [_groups(result).local_imbalance for result in found] + [_groups(found[0]).global_imbalance]
    names = [*(str(result.segment) for result in found), "global"]
    return HeatMap(label, np.array(values, float).T, names, LENGTH)


def _name_rows(found: Sequence[Balance]) -> list[NameRow]:
    names = found[0].labels or ()
    rows = [
        NameRow(f"m = {result.segment}", names, groups.local_imbalance, groups.low, groups.high)
        for result in found
        for groups in (_groups(result),)
    ]
    return [*rows, NameRow("global, within it", names, _groups(found[0]).global_imbalance)]


def _groups(result: Balance) -> Any:
    assert result.groups is not None
    return result.groups
