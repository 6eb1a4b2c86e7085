"""Titles and labels that would run over the edge of a figure, broken into lines."""

from __future__ import annotations

from textwrap import fill
from typing import Any

ROUNDS = 3
"""Of layout: broken lines take height, so that what stands beside an axis has less of it."""


def fit_words(figure: Any) -> None:
    """Break titles and labels of axes between words, so that they stay within the figure and off their neighbours."""
    for _ in range(ROUNDS):
        figure.draw_without_rendering()
        if not [text for text, room, upright in _words(figure) if _break(text, room, upright)]:
            return


def _words(figure: Any) -> list[tuple[Any, float, bool]]:
    """Return titles and labels, the room each has in dots along its line, and whether it stands upright."""
    wide, high = figure.bbox.width, figure.bbox.height
    found = []
    for axes in figure.axes:
        box, place = axes.get_window_extent(), axes.get_subplotspec()
        across = place.get_gridspec().ncols if place is not None else 1
        for text in (axes.title, axes.xaxis.label):
            middle = (box.x0 + box.x1) / 2
            room = 2 * min(middle, wide - middle) if across == 1 else wide / across
            found.append((text, room, False))
        down = place.get_gridspec().nrows if place is not None else 1
        middle = (box.y0 + box.y1) / 2
        found.append((axes.yaxis.label, 2 * min(middle, high - middle) if down == 1 else high / down, True))
    if figure._suptitle is not None:  # get_suptitle gives its words only
        found.append((figure._suptitle, wide, False))
    return found


def _break(text: Any, room: float, upright: bool) -> bool:
    """Break a text between words where it is longer than its room; say whether it was."""
    words = text.get_text()
    box = text.get_window_extent()
    longest = max(map(len, words.split("\n")))
    length = box.height if upright else box.width
    if not text.get_visible() or length <= room - 4 or " " not in words.strip():
        return False
    letters = max(int(longest * (room - 6) / length), 8)
    lines = [fill(line, letters, break_long_words=False) for line in words.split("\n")]
    broken = "\n".join(lines)
    text.set_text(broken)
    return bool(broken != words)
