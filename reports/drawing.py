"""What the drawings on a page have in common: colours, dashes, axes."""

from __future__ import annotations

from typing import TypedDict

from lrcsim.reports.marks import Axis

COLOURS = ("blue", "vermilion", "green", "purple", "sky", "orange")
"""Okabe and Ito's palette, which people with every kind of colour blindness can tell apart; lighter on dark paper."""

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
INK, MUTED = "ink", "grey"
"""Colours of the theme; all of them are variables of page.css."""


class Style(TypedDict):
    """How a line looks."""

    colour: str
    dash: str


def style_of(number: int) -> Style:
    """Return the line of a number: first the colours change, then the dashes; 36 differ."""
    return {"colour": COLOURS[number % len(COLOURS)], "dash": DASHES[number // len(COLOURS) % len(DASHES)]}


def policy_style(policy: str, number: int) -> Style:
    """Return the line of a policy: the optimum in ink, the others by their number."""
    if policy.startswith("belady"):
        return {"colour": INK, "dash": "solid" if policy == "belady" else "dot"}
    return style_of(number)


def size_axis() -> Axis:
    """Return an axis of relative cache sizes."""
    return Axis("cache size, times the active experts", "times", low=0)
