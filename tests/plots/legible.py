"""What makes a figure hard to read, found in its layout: words cut, on each other, too small; lines that look alike."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from matplotlib.lines import Line2D
from matplotlib.text import Text

SMALLEST = 6
"""Points of letters."""
FLATTEST = 0.25
"""Inches of height of axes."""


def faults(figure: Any) -> list[str]:
    """Return what is wrong with a figure at its size, a line for each fault."""
    figure.draw_without_rendering()
    edge, found = figure.bbox, []
    boxes = [(text, Text.get_window_extent(text)) for text in words(figure)]
    for text, box in boxes:
        if text.get_fontsize() < SMALLEST:
            found.append(f"{text.get_text()!r} has {text.get_fontsize():g} points")
        if min(box.x0, box.y0) < -1 or box.x1 > edge.x1 + 1 or box.y1 > edge.y1 + 1:
            found.append(f"{text.get_text()!r} is cut")
    for (text, a), (other, b) in combinations(boxes, 2):
        if min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1:
            found.append(f"{text.get_text()!r} lies on {other.get_text()!r}")
    flat = [axes for axes in figure.axes if axes.get_window_extent().height < FLATTEST * figure.dpi]
    return [*found, *("axes are flat" for axes in flat if axes.axison), *alike(figure)]


def alike(figure: Any) -> Iterator[str]:
    """Give the pairs of named lines that have the same dash and the same marker: in grey they are one."""
    for axes in figure.axes:
        lines = [line for line in zip(*axes.get_legend_handles_labels(), strict=True) if isinstance(line[0], Line2D)]
        for (a, name), (b, other) in combinations(lines, 2):
            looks = [
                (one.get_linestyle(), one.get_marker(), one.get_markerfacecolor() == "none", one._dash_pattern)
                for one in (a, b)
            ]
            if looks[0] == looks[1]:
                yield f"{name} looks like {other}"


def words(figure: Any) -> list[Any]:
    """Return every text of a figure that is seen."""
    found = [*figure.texts, *([] if figure._suptitle is None else [figure._suptitle])]
    for legend in (*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())):
        found += [*legend.get_texts(), legend.get_title()]
    for axes in figure.axes:
        found += [axes.title, *axes.texts]
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            room = 1e-6 * (high - low)
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            inside = [tick for tick in ticks if low - room <= tick.get_loc() <= high + room]
            found += [axis.label, axis.offsetText, *(label for tick in inside for label in (tick.label1, tick.label2))]
    seen = {id(text): text for text in found if text.get_visible() and text.get_text().strip()}
    return list(seen.values())
