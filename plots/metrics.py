"""Figures of SRP and SCH: against segment length, by layer, domain, expert and position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrcsim.plots.charts import PANELS, HeatMap, NameRow, PlotLine, draw_heat, draw_lines, draw_names

if TYPE_CHECKING:
    from lrcsim.simulator import Sch, Srp

SRP_LABEL, SCH_LABEL = "SRP", "SCH"
LENGTH = "segment length m [tokens]"
SIZE = "cache size, relative to the active experts"
POSITION = "middle of the segment in its request [tokens]"
BINS = 100
"""Columns of a heat map of positions."""


def plot_srp(path: str | None, results: Mapping[str, Sequence[Srp]]) -> Any:
    """Draw SRP as its level wants it.

    Against segment length (log scale) with intervals and floor, all traces in one panel; by layer a heat map of layers
    and segment lengths; by domain or stack a row of points each; by expert heat maps of layers and experts; by position
    a line for each segment length, a panel for each trace (of one length one panel, a line for each trace), and of more
    than `PANELS` traces one heat map.

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
        return draw_lines(path, {"": lines}, LENGTH, SRP_LABEL, log=True)
    if level in ("domain", "stack"):
        return draw_names(path, {label: _rows(found) for label, found in results.items()}, SRP_LABEL)
    if level == "position" and len(results) > PANELS:
        longest = max(float(r.positions[-1]) for found in results.values() for r in found if r.positions is not None)
        return draw_heat(path, [_position_heat(*item, longest) for item in results.items()], SRP_LABEL)
    if level == "position":
        return draw_lines(path, _position_panels(results), POSITION, SRP_LABEL, dots=False)
    if level == "layer":
        heats = [
            HeatMap(label, np.array([_groups(r).value for r in found]).T, [str(r.segment) for r in found], LENGTH)
            for label, found in results.items()
        ]
        return draw_heat(path, heats, SRP_LABEL)
    heats = [
        HeatMap(", ".join(filter(None, (label, f"m = {r.segment}"))), _groups(r).value, [], "expert")
        for label, found in results.items()
        for r in found
    ]
    return draw_heat(path, heats, SRP_LABEL)


def _position_panels(results: Mapping[str, Sequence[Srp]]) -> dict[str, list[PlotLine]]:
    """Return a panel for each trace, a line for each segment length; of one length a panel, a line for each trace."""
    lines = [
        (label, f"m = {r.segment}", PlotLine("", r.positions, _groups(r).value))
        for label, found in results.items()
        for r in found
        if r.positions is not None
    ]
    if len(results) > 1 and len({length for _, length, _ in lines}) == 1:
        return {lines[0][1]: [line._replace(label=label) for label, _, line in lines]}
    return {label: [line._replace(label=length) for mine, length, line in lines if mine == label] for label in results}


def _position_heat(label: str, found: Sequence[Srp], longest: float) -> HeatMap:
    """Return the heat map of a trace: a row for each segment length, SRP between known positions interpolated."""
    at = (np.arange(BINS) + 0.5) * longest / BINS
    rows = [
        np.interp(at, r.positions, _groups(r).value, left=np.nan, right=np.nan)
        for r in found
        if r.positions is not None
    ]
    names = [f"m = {r.segment}" for r in found if r.positions is not None]
    return HeatMap(label, np.array(rows), [], POSITION, names, "", (0.0, longest))


def plot_sch(path: str | None, results: Mapping[str, Sequence[Sch]], *, by_layer: bool = False) -> Any:
    """Draw SCH against segment length, a line for each trace and cache size; by layer one heat map for each trace.

    Of one segment length and several cache sizes: against cache size, a line for each trace, as the paper does.

    Args:
        path: the picture, .png, .svg or .pdf; None: it is not written.
        results: by trace, one for each segment length and cache size.
        by_layer: draw heat maps: layers downwards, segment lengths across, from one cache size to the next.
    """
    first = next(iter(results.values()))[0]
    if by_layer:
        return draw_heat(path, [_sch_heat(*item) for item in results.items()], f"{SCH_LABEL} ({first.definition})")
    if len({result.segment for found in results.values() for result in found}) == 1 < len(next(iter(results.values()))):
        title = f"{first.definition}, scope {first.scope}, m = {first.segment}"
        lines = [_by_size(label, found) for label, found in results.items()]
        return draw_lines(path, {title: lines}, SIZE, f"{SCH_LABEL} ({first.definition})")
    lines = []
    for label, found in results.items():
        for cache in dict.fromkeys(result.cache for result in found):
            mine = [result for result in found if result.cache == cache]
            lengths = [result.segment for result in mine]
            name = f"{label}, {cache}" if len(results) > 1 else cache
            lines.append(PlotLine(name, lengths, [r.value for r in mine], *_ends([r.interval for r in mine])))
    title = f"{', '.join(results)}: {first.definition}, scope {first.scope}" if len(results) == 1 else ""
    return draw_lines(path, {title: lines}, LENGTH, f"{SCH_LABEL} ({first.definition})", log=True)


def _by_size(label: str, found: Sequence[Sch]) -> PlotLine:
    """Return the line of a trace over its cache sizes, smallest first; layers of unlike sizes count by their mean."""
    ordered = sorted(found, key=lambda result: float(result.slots.mean()))
    sizes = [float(result.slots.mean() * result.relative[0] / result.capacities[0]) for result in ordered]
    return PlotLine(label, sizes, [r.value for r in ordered], *_ends([r.interval for r in ordered]))


def _sch_heat(label: str, found: Sequence[Sch]) -> HeatMap:
    """Return the heat map of a trace; a column for each segment length of each cache size, named by what differs."""
    ordered = sorted(found, key=lambda result: list(dict.fromkeys(r.cache for r in found)).index(result.cache))
    values = np.array([result.by_layer for result in ordered if result.by_layer is not None]).T
    lengths, caches = {result.segment for result in found}, {result.cache for result in found}
    if len(caches) == 1:
        return HeatMap(f"{label}, cache {found[0].cache}", values, [str(r.segment) for r in ordered], LENGTH)
    if len(lengths) == 1:
        return HeatMap(f"{label}, m = {found[0].segment}", values, [r.cache for r in ordered], "cache size")
    names = [
        f"{result.segment}\n{result.cache}" if result.segment == min(lengths) else str(result.segment)
        for result in ordered
    ]
    return HeatMap(label, values, names, f"{LENGTH}, of each cache size")


def _rows(found: Sequence[Srp]) -> list[NameRow]:
    groups = [(f"m = {result.segment}", result.labels or (), _groups(result)) for result in found]
    return [NameRow(label, names, group.value, group.low, group.high) for label, names, group in groups]


def _groups(result: Srp) -> Any:
    assert result.groups is not None
    return result.groups


def _ends(intervals: Sequence[tuple[float, float] | None]) -> tuple[list[float] | None, list[float] | None]:
    known = [interval for interval in intervals if interval is not None]
    if len(known) < len(intervals):
        return None, None
    return [low for low, _ in known], [high for _, high in known]
