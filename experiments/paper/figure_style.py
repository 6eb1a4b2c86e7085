"""What the figures share: which traces are shown, how a trace looks, panels and axes in lrcsim's style."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lrcsim.experiments.paper.published import published
from lrcsim.plots.curves import COLOURS, STYLES

if TYPE_CHECKING:
    from lrcsim.experiments.paper.measure import Measured

__all__ = ["flat_axes", "look_of", "panel_grid", "paper_of", "shown_in", "tidy"]

MARKERS = "os^Dv<>Ph*"
MOST = 12


def shown_in(found: Sequence[Measured]) -> list[Measured]:
    """Return the traces that a figure shows: those of the paper's setting, where there are any, and not too many."""
    forced = [one for one in found if one.source.kind == "teacher-forced"]
    return (forced or list(found))[:MOST]


def paper_of(one: Measured) -> dict[str, Any]:
    group, _, key = (one.source.paper or "").partition(".")
    return dict(getattr(published(), group)[key]) if group else {}


def look_of(i: int) -> dict[str, Any]:
    return {
        "color": COLOURS[i % len(COLOURS)],
        "linestyle": STYLES[(i + i // len(COLOURS)) % len(STYLES)],
        "marker": MARKERS[i % len(MARKERS)],
        "ms": 4.5,
        "lw": 1.3,
    }


def tidy(axes: Any, x: str, y: str, title: str = "", *, legend: bool = True, **limits: Any) -> None:
    axes.set(xlabel=x, ylabel=y, title=title, **limits)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8)


def panel_grid(count: int, width: float = 4.6, height: float = 3.6) -> tuple[int, int, tuple[float, float]]:
    columns = min(count, 3)
    rows = -(-count // columns)
    return rows, columns, (width * columns, height * rows)


def flat_axes(axes: Any, count: int) -> list[Any]:
    every = list(np.atleast_1d(axes).flat)
    for unused in every[count:]:
        unused.set_axis_off()
    return every[:count]
