"""What plotly's drawings on a page have in common: colours, axes, names that are data and not markup."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

COLOURS = ("@blue", "@vermilion", "@green", "@purple", "@sky", "@orange")
"""Okabe and Ito's palette, which people with every kind of colour blindness can tell apart; lighter on dark paper."""

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
INK, MUTED = "@ink", "@muted"
"""Colours of the theme; all of them stand in page.css."""


def safe(name: object) -> str:
    """Return a name so that plotly shows it as it is: plotly reads some HTML in text."""
    return html.escape(str(name), quote=False)


def layout(*, height: int, x: dict[str, Any], y: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a layout with the legend above the drawing."""
    return {
        "height": height,
        "margin": {"l": 50, "r": 12, "t": 36, "b": 44},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "xanchor": "left"},
        "hovermode": "closest",
        "xaxis": x,
        "yaxis": y,
        **more,
    }


def axis(title: str = "", **more: Any) -> dict[str, Any]:
    """Return an axis; it may make room for its labels."""
    return {"title": {"text": title, "standoff": 8}, "automargin": True, **more}


def line(name: str, x: Sequence[Any], y: Sequence[Any], style: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a line through points; its name is escaped here."""
    return {"type": "scatter", "mode": "lines", "name": safe(name), "x": list(x), "y": list(y), "line": style, **more}


def bars(x: Sequence[Any], y: Sequence[Any], colour: Any, hover: str, **more: Any) -> dict[str, Any]:
    """Return bars; ``colour`` is of all, or a list."""
    return {"type": "bar", "x": list(x), "y": list(y), "marker": {"color": colour}, "hovertemplate": hover, **more}


def rate_axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis of rates from 0 to 1, in percent."""
    return axis(title, tickformat=".0%", **more)


def size_axis() -> dict[str, Any]:
    """Return an axis of relative cache sizes."""
    return axis("cache size, times the active experts", rangemode="tozero", ticksuffix="x")


def policy_style(policy: str, number: int) -> dict[str, Any]:
    """Return the line of a policy: the optimum in ink, the others in colours and dashes by their number."""
    if policy.startswith("belady"):
        return {"color": INK, "width": 1.5, "dash": "solid" if policy == "belady" else "dot"}
    colour = COLOURS[number % len(COLOURS)]
    return {"color": colour, "width": 2, "dash": DASHES[number // len(COLOURS) % len(DASHES)]}
