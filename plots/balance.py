"""Figures of load balance: against segment length, by layer, stack and domain; dotted what is global."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import COLOURS, STYLES

if TYPE_CHECKING:
    from lrcsim.simulator import Balance

LABEL = "imbalance of experts"
MARKERS = "os^Dv<"


def plot_balance(path: str, results: Mapping[str, Sequence[Balance]]) -> None:
    """Draw local imbalance as its level wants it, the global one dotted or hollow.

    Against segment length (log scale) with intervals, all traces in one panel; by layer a line for each segment length,
    by stack or domain a row of points each, a panel for each trace.

    Args:
        path: the picture, .png, .svg or .pdf.
        results: by trace, one for each segment length.

    Raises:
        ConfigError: another ending.
        TraceError: the file cannot be written.
    """
    level = next(iter(results.values()))[0].level
    if level == "model":
        with open_figure(path, figsize=(7, 4.3)) as (_, axes):
            _draw_lengths(axes, results)
        return
    rows = max(len(found[0].labels or ()) for found in results.values())
    size = (6.2 * len(results), 4.3 if level == "layer" else 1.6 + 0.4 * rows)
    with open_figure(path, 1, len(results), figsize=size) as (_, grid):
        for axes, (label, found) in zip(np.atleast_1d(grid), results.items(), strict=True):
            draw = _draw_layers if level == "layer" else _draw_names
            draw(axes, found)
            axes.set_title(label)


def _draw_lengths(axes: Any, results: Mapping[str, Sequence[Balance]]) -> None:
    lengths = sorted({result.segment for found in results.values() for result in found})
    for i, (label, found) in enumerate(results.items()):
        colour, style = COLOURS[i % len(COLOURS)], STYLES[(i + i // len(COLOURS)) % len(STYLES)]
        x = [result.segment for result in found]
        marker = MARKERS[i % len(MARKERS)]
        y = [result.local_imbalance for result in found]
        axes.plot(x, y, color=colour, linestyle=style, marker=marker, ms=5, lw=1.4, label=label)
        ends = [result.interval for result in found if result.interval is not None]
        if len(ends) == len(found):
            axes.fill_between(x, *np.array(ends).T, color=colour, alpha=0.2, linewidth=0)
        axes.axhline(found[0].global_imbalance, color=colour, linestyle=":", lw=1)
    axes.plot([], [], color="0.3", linestyle=":", lw=1, label="global: all tokens")
    axes.set_xscale("log", base=2)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.minorticks_off()
    _tidy(axes, "segment length m [tokens]", LABEL)


def _draw_layers(axes: Any, found: Sequence[Balance]) -> None:
    for i, result in enumerate(found):
        groups, colour = _groups(result), COLOURS[i % len(COLOURS)]
        layers = np.arange(len(groups.windows))
        axes.plot(
            layers, groups.local_imbalance, color=colour, marker=MARKERS[i % 6], ms=4, label=f"m = {result.segment}"
        )
        if groups.low is not None:
            axes.fill_between(layers, groups.low, groups.high, color=colour, alpha=0.2, linewidth=0)
    axes.plot(_groups(found[0]).global_imbalance, color="0.3", linestyle=":", label="global")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _tidy(axes, "MoE layer", LABEL)


def _draw_names(axes: Any, found: Sequence[Balance]) -> None:
    names = found[0].labels or ()
    order = np.argsort(_groups(found[0]).local_imbalance)
    for i, result in enumerate(found):
        groups, colour = _groups(result), COLOURS[i % len(COLOURS)]
        places = np.arange(len(names)) - 0.5 * ((i + 0.5) / len(found) - 0.5)  # so that intervals do not overlap
        marker = MARKERS[i % len(MARKERS)]
        axes.plot(groups.local_imbalance[order], places, marker, color=colour, ms=5, label=f"m = {result.segment}")
        if groups.low is not None:
            axes.hlines(places, groups.low[order], groups.high[order], color=colour, lw=2, alpha=0.5)
    look = {"markerfacecolor": "none", "color": "0.3"}
    axes.plot(_groups(found[0]).global_imbalance[order], np.arange(len(names)), "o", **look, label="global, within it")
    axes.set_yticks(range(len(names)), [names[i] for i in order])
    _tidy(axes, LABEL, "")


def _groups(result: Balance) -> Any:
    assert result.groups is not None
    return result.groups


def _tidy(axes: Any, x: str, y: str) -> None:
    axes.set(xlabel=x, ylabel=y)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
