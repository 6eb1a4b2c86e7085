"""Titles and labels that would run over the edge of a figure, broken into lines."""

from __future__ import annotations

from textwrap import fill
from typing import Any

ROUNDS = 4
"""Of layout: broken lines take height, so that what stands beside an axis has less of it."""
SPARE = 4
"""Dots at the edges."""
FEWEST = 12
"""Letters of a line."""


def fit_words(figure: Any) -> None:
    """Break titles and labels of axes between words, so that they stay within the figure and off their neighbours."""
    whole: dict[int, str] = {}
    for _ in range(ROUNDS):
        figure.draw_without_rendering()
        too_long = [(text, length / room) for text, length, room in _words(figure) if length > room]
        for text, over in too_long:
            _break(text, over, whole.setdefault(id(text), text.get_text()))
        if not too_long:
            return


def _words(figure: Any) -> list[tuple[Any, float, float]]:
    """Return titles and labels that have several words, the length of each, and its room, in dots."""
    wide, high = figure.bbox.width - SPARE, figure.bbox.height - SPARE
    found = []
    for axes in figure.axes:
        box, place = axes.get_window_extent(), axes.get_subplotspec()
        rows, columns = (1, 1) if place is None else place.get_gridspec().get_geometry()
        middle, half_up = (box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2
        within = 2 * min(middle, wide - middle) if columns == 1 else wide / columns
        found += [(axes.title, min(box.width, within)), (axes.xaxis.label, within)]  # beside a title: the top tick
        found.append((axes.yaxis.label, 2 * min(half_up, high - half_up) if rows == 1 else high / rows))
    if figure._suptitle is not None:  # get_suptitle gives its words only
        found.append((figure._suptitle, wide))
    shown = [(text, room) for text, room in found if text.get_visible() and " " in text.get_text().strip()]
    return [(text, max(text.get_window_extent().width, text.get_window_extent().height), room) for text, room in shown]


def _break(text: Any, over: float, whole: str) -> None:
    """Break a text between words; it is so many times as long as its room."""
    longest = max(map(len, text.get_text().split("\n")))
    letters = max(min(int(longest / over), longest - 1), FEWEST)
    text.set_text("\n".join(fill(line, letters, break_long_words=False) for line in whole.split("\n")))
