"""Figures of SRP and SCH: against segment length, by layer, domain, expert and position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.plots.curves import COLOURS, STYLES
from lrcsim.plots.figure import write_figure

if TYPE_CHECKING:
    from lrcsim.simulator import Sch, Srp

Floats = npt.NDArray[np.float64]
SRP_LABEL, SCH_LABEL = "SRP", "SCH"
LENGTH = "segment length m [tokens]"
MARKERS = "os^Dv<"


class PlotLine(NamedTuple):
    """A line of a panel, all arrays as long as ``x``."""

    label: str
    x: Sequence[float] | npt.NDArray[Any]
    y: Sequence[float] | Floats
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    floor: Sequence[float] | None = None


class HeatMap(NamedTuple):
    """A heat map: values [rows, columns]."""

    title: str
    values: Floats
    columns: Sequence[str]
    column_label: str


def plot_srp(path: str, results: Mapping[str, Sequence[Srp]]) -> None:
    """Draw SRP as its level wants it.

    Against segment length (log scale) with intervals and floor, all traces in one panel; by layer a heat map of layers
    and segment lengths; by domain or stack a row of points each; by expert heat maps of layers and experts; by position
    a line for each segment length.

    Args:
        path: the picture, .png, .svg or .pdf.
        results: by trace, one for each segment length.
    """
    level = next(iter(results.values()))[0].level
    if level == "model":
        lines = [
            PlotLine(
                label,
                [result.segment for result in found],
                [result.value for result in found],
                *_ends([result.interval for result in found]),
                [result.floor for result in found],
            )
            for label, found in results.items()
        ]
        _draw_lines(path, {"": lines}, LENGTH, SRP_LABEL, log=True)
    elif level in ("domain", "stack"):
        _draw_names(path, results)
    elif level == "position":
        panels = {
            label: [
                PlotLine(f"m = {r.segment}", r.positions, _groups(r).value) for r in found if r.positions is not None
            ]
            for label, found in results.items()
        }
        _draw_lines(path, panels, "position of the segment's middle in the request [tokens]", SRP_LABEL, dots=False)
    elif level == "layer":
        heats = [
            HeatMap(label, np.array([_groups(r).value for r in found]).T, [str(r.segment) for r in found], LENGTH)
            for label, found in results.items()
        ]
        _draw_heat(path, heats, SRP_LABEL)
    else:
        heats = [
            HeatMap(f"{label}, m = {r.segment}", _groups(r).value, [], "expert")
            for label, found in results.items()
            for r in found
        ]
        _draw_heat(path, heats, SRP_LABEL)


def plot_sch(path: str, results: Mapping[str, Sequence[Sch]], *, by_layer: bool = False) -> None:
    """Draw SCH against segment length, a line for each trace and cache size; by layer a heat map for each.

    Args:
        path: the picture, .png, .svg or .pdf.
        results: by trace, one for each segment length and cache size.
        by_layer: draw heat maps of layers and segment lengths.
    """
    lines, heats = [], []
    for label, found in results.items():
        for cache in dict.fromkeys(result.cache for result in found):
            mine = [result for result in found if result.cache == cache]
            lengths = [result.segment for result in mine]
            name = f"{label}, {cache}" if len(results) > 1 else cache
            lines.append(PlotLine(name, lengths, [r.value for r in mine], *_ends([r.interval for r in mine])))
            if by_layer:
                values = np.array([r.by_layer for r in mine if r.by_layer is not None]).T
                heats.append(HeatMap(f"{label}, cache {cache}", values, [str(m) for m in lengths], LENGTH))
    first = next(iter(results.values()))[0]
    if by_layer:
        _draw_heat(path, heats, f"{SCH_LABEL} ({first.definition})")
    else:
        title = f"{', '.join(results)}: {first.definition}, scope {first.scope}" if len(results) == 1 else ""
        _draw_lines(path, {title: lines}, LENGTH, f"{SCH_LABEL} ({first.definition})", log=True)


def _groups(result: Srp) -> Any:
    assert result.groups is not None
    return result.groups


def _ends(intervals: Sequence[tuple[float, float] | None]) -> tuple[list[float] | None, list[float] | None]:
    known = [interval for interval in intervals if interval is not None]
    if len(known) < len(intervals):
        return None, None
    return [low for low, _ in known], [high for _, high in known]


def _draw_lines(
    path: str,
    panels: Mapping[str, Sequence[PlotLine]],
    x_label: str,
    y_label: str,
    *,
    log: bool = False,
    dots: bool = True,
) -> None:
    """Draw a panel for each entry, side by side, on one scale."""
    plt = _pyplot()
    most = max(len(lines) for lines in panels.values())
    size = (6.2 * len(panels) + (1.5 if most > 6 else 0), 4.3)
    figure, row = plt.subplots(1, len(panels), figsize=size, layout="constrained", sharey=True, squeeze=False)
    for axes, (title, lines) in zip(row[0], panels.items(), strict=True):
        floors: set[tuple[float, ...]] = set()
        for i, line in enumerate(lines):
            colour, style = COLOURS[i % len(COLOURS)], STYLES[(i + i // len(COLOURS)) % len(STYLES)]
            marker = MARKERS[i % len(MARKERS)] if dots else None
            axes.plot(line.x, line.y, color=colour, linestyle=style, marker=marker, ms=5, lw=1.4, label=line.label)
            if line.low is not None and line.high is not None:
                axes.fill_between(line.x, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
            if line.floor is not None:
                axes.plot(line.x, line.floor, color=colour, linestyle=":", lw=1)
                floors.add(tuple(line.floor))
        if floors:
            axes.plot([], [], color="0.3", linestyle=":", lw=1, label="floor (all experts kept)")
        if log:
            ticks = sorted({float(x) for line in lines for x in line.x})
            axes.set_xscale("log", base=2)
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.minorticks_off()
        axes.set(xlabel=x_label, title=title, ylim=(0, 1))
        axes.grid(color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        if len(lines) > 6:
            axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        else:
            axes.legend(frameon=False, fontsize=9)
    row[0][0].set_ylabel(y_label)
    _save(figure, path)


def _draw_names(path: str, results: Mapping[str, Sequence[Srp]]) -> None:
    """Draw a row for each domain or stack, highest SRP on top, with a point and an interval for each segment length."""
    plt = _pyplot()
    most = max(len(found[0].labels or ()) for found in results.values())
    size = (6.2 * len(results), 1.4 + 0.4 * most)
    figure, panels = plt.subplots(1, len(results), figsize=size, layout="constrained", sharex=True, squeeze=False)
    for axes, (label, found) in zip(panels[0], results.items(), strict=True):
        names = found[0].labels or ()
        order = np.argsort(_groups(found[0]).value)
        for i, result in enumerate(found):
            groups = _groups(result)
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
            places = np.arange(len(names)) - 0.5 * ((i + 0.5) / len(found) - 0.5)  # so that intervals do not overlap
            axes.plot(groups.value[order], places, marker, color=colour, ms=5, label=f"m = {result.segment}")
            if groups.low is not None:
                axes.hlines(places, groups.low[order], groups.high[order], color=colour, lw=2, alpha=0.5)
        axes.set(xlabel=SRP_LABEL, title=label)
        axes.set_yticks(range(len(names)), [names[i] for i in order])
        axes.grid(color="0.9", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    _save(figure, path)


def _draw_heat(path: str, heats: Sequence[HeatMap], value_label: str) -> None:
    """Draw a heat map for each entry, layers downwards, on one colour scale; grey where there is no value."""
    plt = _pyplot()
    columns = len(heats) if len(heats) <= 3 and heats[0].columns else min(len(heats), 2)
    rows = -(-len(heats) // columns)
    layers = max(len(heat.values) for heat in heats)
    size = (max(4.4 * columns, 5), rows * min(max(1.6 + 0.24 * layers, 2.6), 9))
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    known = np.concatenate([heat.values[np.isfinite(heat.values)] for heat in heats])
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    colours = plt.get_cmap("viridis").with_extremes(bad="0.85")
    for axes, heat in zip(grid.flat, heats, strict=False):
        image = axes.imshow(heat.values, aspect="auto", cmap=colours, vmin=low, vmax=high, interpolation="nearest")
        axes.set(title=heat.title, xlabel=heat.column_label, ylabel="MoE layer")
        axes.yaxis.get_major_locator().set_params(integer=True)
        if heat.columns:
            axes.set_xticks(range(len(heat.columns)), heat.columns)
        else:
            axes.xaxis.get_major_locator().set_params(integer=True)
        if heat.columns and heat.values.shape[1] <= 8 and layers <= 32:
            for (layer, column), value in np.ndenumerate(heat.values):
                ink = "black" if value > (low + high) / 2 else "white"
                if np.isfinite(value):
                    axes.text(column, layer, f"{value:.2f}", ha="center", va="center", fontsize=7, color=ink)
    for axes in list(grid.flat)[len(heats) :]:
        axes.set_axis_off()
    figure.colorbar(image, ax=grid, label=value_label, aspect=20 * rows)
    _save(figure, path)


def _pyplot() -> Any:
    from lrcsim.base.folders import for_fonts

    for_fonts()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _save(figure: Any, path: str) -> None:
    write_figure(figure, path)
    _pyplot().close(figure)
