"""Names beside points, none over another or over a point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from lrcsim.plots.looks import grey

SIZE = 6.5
"""Points of the letters."""
AROUND = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
BETWEEN = ((1, 0.5), (-1, 0.5), (1, -0.5), (-1, -0.5), (0.5, 1), (-0.5, 1), (0.5, -1), (-0.5, -1))
GAPS = (3.5, 10.0, 17.0, 25.0, 34.0)
"""Points between a point and its name; beyond the first, a thin line joins them."""
WAYS = [
    *((GAPS[0], *way, False) for way in AROUND),
    *((gap, *way, crossing) for crossing in (False, True) for gap in GAPS[1:] for way in (*AROUND, *BETWEEN)),
]
"""Gap, directions, and whether the line may cross a name: what is tried, in this order."""

Point = tuple[float, float, str]
Box = tuple[float, float, float, float]


def place_names(named: Mapping[Any, Sequence[Point]]) -> list[str]:
    """Write each name beside its point, in the first free place around it; lines cross names only where they must.

    Args:
        named: points of each axes of a figure, which have their final limits: x, y and name; a point without a name
            only keeps others off.

    Returns:
        The names that there was no place for, and that are not written.
    """
    for axes in named:
        axes.figure.draw_without_rendering()  # sizes are known then
        break
    return [name for axes, points in named.items() if points for name in _place(axes, points)]


def along(points: Sequence[Point], step: str) -> list[Point]:
    """Return places along a line of steps, which names keep off; ``step`` is one of matplotlib's draw styles."""
    corners = [
        (right, lower) if step == "steps-post" else (left, upper)
        for (left, lower, _), (right, upper, _) in pairwise(points)
    ]
    stops = [
        pair
        for (x, y, _), corner, (u, v, _) in zip(points, corners, points[1:], strict=False)
        for pair in (((x, y), corner), (corner, (u, v)))
    ]
    return [
        (x + part * (u - x), y + part * (v - y), "")
        for (x, y), (u, v) in stops
        for part in np.linspace(0, 1, 24).tolist()
    ]


def _place(axes: Any, points: Sequence[Point]) -> list[str]:
    points_per_dot = 72 / axes.figure.dpi
    places = axes.transData.transform([(x, y) for x, y, _ in points]) * points_per_dot
    edges = np.array(axes.get_window_extent().extents) * points_per_dot
    taken: list[Box] = [_box(x, y, 5, 5) for x, y in places]
    written: list[Box] = []
    left_out = []
    for (at_x, at_y), (x, y, name) in zip(places, points, strict=True):
        if not name:
            continue
        wide, high = _extent(axes, name)
        for gap, across, up, crossing in WAYS:
            offset = across * (gap + wide / 2), up * (gap + high / 2)
            box = _box(at_x + offset[0], at_y + offset[1], wide, high)
            inside = box[0] >= edges[0] and box[1] >= edges[1] and box[2] <= edges[2] and box[3] <= edges[3]
            over = any(_overlap(box, other) for other in taken)
            near = gap == GAPS[0]
            if inside and not over and (near or crossing or _clear(at_x, at_y, offset, written)):
                line = None if near else {"arrowstyle": "-", "lw": 0.4, "color": grey(0.5), "shrinkA": 0, "shrinkB": 1}
                where = {"xytext": offset, "textcoords": "offset points", "ha": "center", "va": "center"}
                axes.annotate(name, (x, y), fontsize=SIZE, color=grey(0.25), arrowprops=line, **where)
                taken.append(box)
                written.append(box)
                break
        else:
            left_out.append(name)
    return left_out


def _clear(x: float, y: float, offset: tuple[float, float], written: Sequence[Box]) -> bool:
    """Say whether the line from a point to its name crosses no other name."""
    steps = [(x + part * offset[0], y + part * offset[1]) for part in np.linspace(0, 1, 12)]
    return not any(a <= u <= c and b <= v <= d for u, v in steps for a, b, c, d in written)


def _extent(axes: Any, name: str) -> tuple[float, float]:
    """Return width and height of a name as it is drawn, in points."""
    text = axes.text(0, 0, name, fontsize=SIZE)
    extent = text.get_window_extent()
    text.remove()
    points_per_dot = 72 / axes.figure.dpi
    return extent.width * points_per_dot + 1, extent.height * points_per_dot + 0.5


def _box(x: float, y: float, wide: float, high: float) -> Box:
    return x - wide / 2, y - high / 2, x + wide / 2, y + high / 2


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
