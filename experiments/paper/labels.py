"""Names beside points, none over another or over a point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

SIZE = 6.5
"""Points of the letters."""
AROUND = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))
GAPS = (3.5, 10.0, 17.0)
"""Points between a point and its name; beyond the first, a thin line joins them."""

Box = tuple[float, float, float, float]


def place_names(axes: Any, points: Sequence[tuple[float, float, str]]) -> list[str]:
    """Write each name beside its point, in the first place around it that is free.

    Args:
        axes: with their final limits.
        points: x, y and name.

    Returns:
        The names that there was no place for, and that are not written.
    """
    if not points:
        return []
    axes.figure.draw_without_rendering()  # sizes are known then
    points_per_dot = 72 / axes.figure.dpi
    places = axes.transData.transform([(x, y) for x, y, _ in points]) * points_per_dot
    edges = np.array(axes.get_window_extent().extents) * points_per_dot
    taken: list[Box] = [_box(x, y, 5, 5) for x, y in places]
    left_out = []
    for (at_x, at_y), (x, y, name) in zip(places, points, strict=True):
        wide, high = 0.62 * SIZE * len(name) + 1, 1.05 * SIZE
        for gap, (across, up) in ((gap, way) for gap in GAPS for way in AROUND):
            offset = across * (gap + wide / 2), up * (gap + high / 2)
            box = _box(at_x + offset[0], at_y + offset[1], wide, high)
            inside = box[0] >= edges[0] and box[1] >= edges[1] and box[2] <= edges[2] and box[3] <= edges[3]
            if inside and not any(_overlap(box, other) for other in taken):
                line = (
                    {"arrowstyle": "-", "lw": 0.4, "color": "0.5", "shrinkA": 0, "shrinkB": 1}
                    if gap > GAPS[0]
                    else None
                )
                where = {"xytext": offset, "textcoords": "offset points", "ha": "center", "va": "center"}
                axes.annotate(name, (x, y), fontsize=SIZE, color="0.25", arrowprops=line, **where)
                taken.append(box)
                break
        else:
            left_out.append(name)
    return left_out


def _box(x: float, y: float, wide: float, high: float) -> Box:
    return x - wide / 2, y - high / 2, x + wide / 2, y + high / 2


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
