"""The forms that figures of SRP and SCH have: lines, rows of points with names, heat maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.plots.figure import open_figure
from lrcsim.plots.looks import MARKERS, colour, dress, grey, legend_below, look_of, shortened, sparse
from lrcsim.plots.settings import width

Floats = npt.NDArray[np.float64]

NUMBER_WIDTH, NUMBER_HEIGHT = 0.28, 0.12
"""Inches that a cell of a heat map takes to hold a number of two decimals."""
LETTERS = 14
"""Letters of a title for each inch of a panel."""
PANELS = 4
"""Heat maps up to which each has a panel; more stand below each other in one."""
NAME, HIGHEST = 0.155, 8.5
"""Inches of a name above a heat map in one panel; of a figure, so that it fits a page."""


class PlotLine(NamedTuple):
    """A line of a panel, all arrays as long as ``x``."""

    label: str
    x: Sequence[float] | npt.NDArray[Any]
    y: Sequence[float] | Floats
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    floor: Sequence[float] | None = None


class NameRow(NamedTuple):
    """Points for each of some names, with the ends of their intervals, all as long as ``names``."""

    label: str
    names: Sequence[str]
    value: Floats
    low: Floats | None = None
    high: Floats | None = None


class HeatMap(NamedTuple):
    """A heat map: values [rows, columns].

    Attributes:
        title: what it is of.
        values: float64 [rows, columns], NaN where there is none.
        columns: their names; empty: they have numbers.
        column_label: what columns are.
        rows: their names; empty: they are MoE layers.
        row_label: what rows are.
        across: from where to where the columns go, where numbers are not those of columns.
    """

    title: str
    values: Floats
    columns: Sequence[str]
    column_label: str
    rows: Sequence[str] = ()
    row_label: str = "MoE layer"
    across: tuple[float, float] | None = None


def draw_lines(
    path: str | None,
    panels: Mapping[str, Sequence[PlotLine]],
    x_label: str,
    y_label: str,
    *,
    log: bool = False,
    dots: bool = True,
    limits: tuple[float | None, float | None] | None = (0, 1),
) -> Any:
    """Draw a panel for each entry, on one scale; with ``log`` x is in powers of two, without ``dots`` it is dense.

    ``limits`` are those of y; None: as the values say.
    """
    rows, columns = _grid(len(panels), 3)
    size = (width(), rows * (3.4 if columns == 1 and width() > 5 else 2.3))
    with open_figure(path, rows, columns, figsize=size, sharey=True, squeeze=False) as (figure, grid):
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_axis_off()
        for axes, (title, lines) in zip(grid.flat, panels.items(), strict=False):
            floors = _lines(axes, lines, dots)
            if floors:
                one = {"marker": "_", "ms": 8} if all(len(line.x) == 1 for line in lines) else {}
                axes.plot([], [], color=grey(0.3), linestyle=":", lw=1, label="floor (all experts kept)", **one)
            if log:
                ticks = sorted({float(x) for line in lines for x in line.x})
                axes.set_xscale("log", base=2)
                axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
                axes.minorticks_off()
            dress(axes, x_label, "", shortened(title, int(LETTERS * width() / columns)))
            if limits is not None:
                axes.set_ylim(*limits)
        for axes in grid[:, 0]:
            axes.set_ylabel(y_label)
        legend_below(figure, grid.flat)
    return figure


def _lines(axes: Any, lines: Sequence[PlotLine], dots: bool) -> bool:
    """Draw the lines of a panel; say whether one has a floor."""
    for i, line in enumerate(lines):
        look = look_of(i) if dots else sparse(i)
        axes.plot(line.x, line.y, label=line.label, **look)
        if line.low is not None and line.high is not None:
            if len(line.x) > 1:
                axes.fill_between(line.x, line.low, line.high, color=look["color"], alpha=0.2, linewidth=0)
            else:
                axes.vlines(line.x, line.low, line.high, color=look["color"], alpha=0.5)
        if line.floor is not None:
            one = {"marker": "_", "ms": 8} if len(line.x) == 1 else {}
            axes.plot(line.x, line.floor, color=look["color"], linestyle=":", lw=1, **one)
    return any(line.floor is not None for line in lines)


def draw_names(path: str | None, panels: Mapping[str, Sequence[NameRow]], x_label: str) -> Any:
    """Draw a row for each name, with a point and an interval for each series; highest on top by the first series.

    Panels of the same names have them in one order, that of their means over the panels, so that rows can be compared.
    """
    rows, columns = _grid(len(panels), 2)
    together = _one_order([found[0] for found in panels.values()])
    most = max(len(found[0].names) for found in panels.values())
    each = 0.12 + 0.06 * max(len(found) for found in panels.values())  # inches of a name
    size = (width(), rows * (0.65 + each * most))
    with open_figure(path, rows, columns, figsize=size, sharex=True, squeeze=False) as (figure, grid):
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_axis_off()
        for axes, (title, found) in zip(grid.flat, panels.items(), strict=False):
            order = _places(found[0], together)
            for i, row in enumerate(found):
                shade, marker = colour(i), MARKERS[i % len(MARKERS)]
                apart = 0.7 * ((i + 0.5) / len(found) - 0.5)  # so that intervals do not overlap
                places = np.arange(len(order)) - apart
                axes.plot(row.value[order], places, marker, color=shade, label=row.label)
                if row.low is not None and row.high is not None:
                    axes.hlines(places, row.low[order], row.high[order], color=shade, lw=1.5, alpha=0.5)
            title = shortened(title, int(LETTERS * width() / columns))
            dress(axes, x_label, "", title, ylim=(-0.55, len(order) - 0.45))
            axes.set_yticks(range(len(order)), [shortened(found[0].names[i], 24) for i in order])
        _label_lowest(grid, len(panels), x_label)
        legend_below(figure, grid.flat)
    return figure


def _one_order(firsts: Sequence[NameRow]) -> dict[str, float]:
    """Return the mean over panels of each name's value, where all panels have the same names; else nothing."""
    if any(set(row.names) != set(firsts[0].names) for row in firsts):
        return {}
    values = [dict(zip(row.names, row.value.tolist(), strict=True)) for row in firsts]
    return {name: sum(panel[name] for panel in values) / len(values) for name in firsts[0].names}


def _places(row: NameRow, together: Mapping[str, float]) -> npt.NDArray[np.intp]:
    """Return the indices of a panel's names from the lowest row to the highest."""
    return np.argsort([together.get(name, value) for name, value in zip(row.names, row.value, strict=True)])


def _label_lowest(grid: npt.NDArray[Any], panels: int, x_label: str) -> None:
    """Have the lowest panel of each column alone say what x is; the last row may not be full."""
    columns = grid.shape[1]
    for i, axes in enumerate(grid.flat[:panels]):
        lowest = i + columns >= panels
        axes.tick_params(labelbottom=lowest)
        axes.set_xlabel(x_label if lowest else "")


def draw_heat(path: str | None, heats: Sequence[HeatMap], value_label: str) -> Any:
    """Draw heat maps, layers downwards, on one colour scale; grey where there is no value.

    Up to `PANELS` have a panel each; of more all stand in one panel, below each other, on one axis of columns.
    """
    known = np.concatenate([heat.values[np.isfinite(heat.values)] for heat in heats])
    low, top = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    if len(heats) > PANELS:
        return _draw_below_each_other(path, heats, value_label, (low, top))
    rows, columns = _grid(len(heats), 3 if heats[0].columns else 2)
    layers = max(len(heat.values) for heat in heats)
    numbers = layers <= 32 and all(heat.columns for heat in heats)
    numbers = numbers and max(heat.values.shape[1] for heat in heats) * NUMBER_WIDTH <= (width() - 0.9) / columns - 0.4
    high = 0.55 + (NUMBER_HEIGHT if numbers else min(0.1, 2.2 / layers)) * layers
    size = (width(), rows * min(max(high, 1.3), 4))
    with open_figure(path, rows, columns, figsize=size, squeeze=False) as (figure, grid):
        for axes in list(grid.flat)[len(heats) :]:
            axes.set_axis_off()
        for axes, heat in zip(grid.flat, heats, strict=False):
            image = heat_map(axes, heat.values, low, top, numbers=numbers)
            title = shortened(heat.title, int(LETTERS * width() / columns))
            axes.set(title=title, xlabel=heat.column_label, ylabel=heat.row_label)
            axes.yaxis.get_major_locator().set_params(integer=True)
            if heat.columns:
                axes.set_xticks(range(len(heat.columns)), heat.columns)
            else:
                axes.xaxis.get_major_locator().set_params(integer=True)
            axes.label_outer(remove_inner_ticks=False)
        _label_lowest(grid, len(heats), heats[0].column_label)
        figure.colorbar(image, ax=grid, label=value_label, aspect=16 * rows)
    return figure


def _draw_below_each_other(
    path: str | None, heats: Sequence[HeatMap], value_label: str, limits: tuple[float, float]
) -> Any:
    """Draw heat maps of the same columns in one panel, each below its name, on the colour scale of ``limits``."""
    import matplotlib

    lines = sum(len(heat.values) for heat in heats)
    each = min(0.1, max(HIGHEST - 0.6 - NAME * len(heats), 0.1 * len(heats)) / lines)  # inches of a row
    name = NAME / each  # rows that a name takes
    most = max(heat.values.shape[1] for heat in heats)
    size = (width(), 0.5 + NAME * len(heats) + each * lines)
    scale = matplotlib.colormaps["viridis"].with_extremes(bad=grey(0.85))
    ticks: dict[float, str] = {}
    with open_figure(path, figsize=size) as (figure, axes):
        at = 0.0
        for heat in heats:
            begin, end, count = at + name, at + name + len(heat.values), heat.values.shape[1]
            left, right = heat.across or (-0.5, count - 0.5)
            where = {"extent": (left, right, end, begin), "aspect": "auto", "interpolation": "nearest"}
            image = axes.imshow(heat.values, cmap=scale, vmin=limits[0], vmax=limits[1], **where)
            letters = int(0.8 * LETTERS * (width() - 1.2))
            axes.text(left, begin - 0.2 * name, shortened(heat.title, letters), fontsize=7)
            ticks |= {begin + row + 0.5: text for row, text in _row_names(heat, each)}
            at = end
        across = heats[0].across or (-0.5, most - 0.5)
        axes.set(xlim=across, ylim=(at, 0), xlabel=heats[0].column_label, ylabel=heats[0].row_label)
        axes.set_yticks(list(ticks), list(ticks.values()))
        axes.spines[:].set_visible(False)
        if heats[0].columns:
            axes.set_xticks(range(len(heats[0].columns)), heats[0].columns)
        figure.colorbar(image, ax=axes, label=value_label, aspect=30)
    return figure


def _row_names(heat: HeatMap, each: float) -> list[tuple[int, str]]:
    """Return the rows of a heat map that have a tick, with its text: as many as their height leaves room for."""
    names = heat.rows or [str(layer) for layer in range(len(heat.values))]
    last = len(names) - 1
    if each >= NUMBER_HEIGHT - 0.025 and heat.rows:
        return list(enumerate(names))
    return [(0, names[0])] + [(last, names[last])] * (last * each >= NUMBER_HEIGHT)


def heat_map(
    axes: Any, values: Floats, low: float, high: float, *, numbers: bool = False, colours: str = "viridis"
) -> Any:
    """Draw values [rows, columns] as coloured cells, grey where there is none, with ``numbers`` in them; the image."""
    import matplotlib

    scale = matplotlib.colormaps[colours].with_extremes(bad=grey(0.85))
    image = axes.imshow(values, aspect="auto", cmap=scale, vmin=low, vmax=high, interpolation="nearest")
    if numbers:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                red, green, blue, _ = image.cmap(image.norm(value))
                ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.5 else "white"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=ink)
    return image


def _grid(panels: int, most: int) -> tuple[int, int]:
    """Return rows and columns for some panels: at most so many beside each other on a page, one in a column."""
    columns = min(panels, most if width() > 5 else 1)
    return -(-panels // columns), columns
