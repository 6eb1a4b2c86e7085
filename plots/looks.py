"""How lines are told apart, and what axes and legends look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrcsim.base.text import printable
from lrcsim.plots.settings import height, styled, width

# Okabe and Ito's palette, which people with every kind of colour blindness can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
STYLES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)))
MARKERS = "os^DvX<P>*ph"
HATCHES = ("", "////", "....", "xxxx", "----")
"""Of areas, which in print without colours are told apart by these."""

LETTER = 0.053
"""Mean width of a letter of a legend, in inches (7 pt)."""
HANDLE = 0.45
"""Inches that a legend takes beside each name."""
ROW = 0.14
"""Inches that a row of a legend takes."""


def colour(i: int) -> str:
    """Return colour i: of `COLOURS`, or of the cycle that the user's style sets."""
    cycle = styled("axes.prop_cycle")
    own = [] if cycle is None else cycle.by_key().get("color", [])
    colours: Sequence[str] = own or COLOURS
    return colours[i % len(colours)]


def ink() -> Any:
    """Return the colour of text, for what stands out: black, or light where the user's style is dark."""
    return grey(0)


def grey(level: float) -> tuple[float, float, float]:
    """Return the grey between text (0) and background (1), as ``"0.6"`` is between black and white."""
    from matplotlib import rcParams
    from matplotlib.colors import to_rgb

    text, behind = to_rgb(rcParams["text.color"]), to_rgb(rcParams["axes.facecolor"])
    red, green, blue = ((1 - level) * front + level * back for front, back in zip(text, behind, strict=True))
    return red, green, blue


def look_of(i: int) -> dict[str, Any]:
    """Return colour, dash and marker of line i: no two of twelve share a marker, nor a colour and a dash.

    Lines of many points draw few of their markers: see `sparse`.
    """
    style = STYLES[(i + i // len(COLOURS)) % len(STYLES)]
    return {"color": colour(i), "linestyle": style, "marker": MARKERS[i % len(MARKERS)]}


def sparse(i: int) -> dict[str, Any]:
    """Return `look_of` for a line of many points: a marker at every eighth of its length."""
    return look_of(i) | {"markevery": (0.02 + 0.125 * (i % 12) / 12, 0.125)}


def grid(axes: Any) -> None:
    """Draw the grid of axes, faint; in the colour that the user's style sets."""
    axes.grid(True, color=styled("grid.color") or grey(0.9))


def dress(axes: Any, x: str, y: str, title: str = "", **limits: Any) -> None:
    """Label axes, draw their grid behind everything, and leave the box open above and on the right."""
    axes.set(xlabel=x, ylabel=y, title=title, **limits)
    grid(axes)
    axes.spines[["top", "right"]].set_visible(False)


def legend_below(figure: Any, axes: Sequence[Any], **options: Any) -> None:
    """Put one legend of all that the axes name below them, in as many columns as the width takes.

    The figure grows by as much, so that the axes stay as high as they were; not where the user said its height.
    """
    named: dict[str, Any] = {}
    for one in axes:
        for handle, label in zip(*one.get_legend_handles_labels(), strict=True):
            named.setdefault(shortened(label, int((width() - 0.1 - HANDLE) / LETTER)), handle)
    if named:
        columns = legend_columns(list(named), width() - 0.1)
        rows = -(-len(named) // columns)
        columns = -(-len(named) // rows)  # so that the last row is not left with one of them
        wide, high = figure.get_size_inches()
        if height() is None:
            figure.set_size_inches(wide, high + 0.05 + ROW * (rows + ("title" in options)))
        figure.legend(named.values(), named, loc="outside lower center", ncols=columns, **options)


def legend_columns(names: Sequence[str], room: float) -> int:
    """Return how many columns of a legend have room in so many inches; names go down the columns."""
    for columns in range(len(names), 1, -1):
        parts = np.array_split([HANDLE + LETTER * len(name) for name in names], columns)
        if sum(part.max() for part in parts) <= room:
            return columns
    return 1


def shortened(name: str, most: int = 40) -> str:
    """Return a name as it is shown, its middle left out if it has more letters than fit.

    >>> shortened("a-very-long-name", 9)
    'a-ve…name'
    """
    name = printable(name)
    head = most // 2
    return name if len(name) <= most else f"{name[:head]}…{name[len(name) - (most - head - 1) :]}"
