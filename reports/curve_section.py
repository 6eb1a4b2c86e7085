"""Hit rate against cache size, from the JSON of `lrcsim curve`."""

from __future__ import annotations

from typing import Any

from lrcsim.base.text import human_bytes, percent
from lrcsim.reports.blocks import Figure, FigureView, Section, TableBlock
from lrcsim.reports.drawing import INK, layout, line, policy_style, rate_axis, size_axis

SHOWN = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Relative cache sizes in the table."""

GOAL = 0.9
"""The hit rate for which the text says how large a cache must be."""

VIEWS = {"hit_rate": "all accesses", "decode_hit_rate": "decode", "prefill_hit_rate": "prefill"}


def curve_section(curve: dict[str, Any], name: str, *, here: float | None = None, own: str | None = None) -> Section:
    """Return the curves of one trace.

    Args:
        curve: JSON of ``lrcsim curve``, one trace's.
        name: unique on the page.
        here: relative size of the run that the page is about, drawn as a line.
        own: the run's policy, drawn first.
    """
    known = {key: label for key, label in VIEWS.items() if curve.get(key)}
    if len(known) == 2:  # one phase is all there is
        known = {"hit_rate": VIEWS["hit_rate"]}
    views = [FigureView(label, _lines(curve, key, own), _layout(here)) for key, label in known.items()]
    figure = Figure(
        f"{name}-curves",
        "Hit rate by cache size",
        f"{_rules(curve)} {curve_sentence(curve)} Size is relative to the experts that one token uses.",
        views,
        _table(curve),
    )
    return Section(name, f"Every cache size: {curve['trace']}", [], [figure])


def curve_sentence(curve: dict[str, Any]) -> str:
    """Return where the curves bend, and from which size on they reach the goal."""
    parts = []
    relative = dict(zip(curve["capacities"], curve["relative"], strict=True))
    for policy, rates in curve["hit_rate"].items():
        enough = [
            size for size, rate in zip(curve["relative"], rates, strict=True) if rate is not None and rate >= GOAL
        ]
        reaches = f"reaches {percent(GOAL, 0)} at {enough[0]:.3g}x" if enough else f"never reaches {percent(GOAL, 0)}"
        knee = relative.get(curve["knee"].get(policy))
        parts.append(f"{policy} {reaches}" + (f" (knee at {knee:.3g}x)" if knee is not None else ""))
    return "; ".join(parts) + "."


def _rules(curve: dict[str, Any]) -> str:
    config = curve.get("config")
    if not config:
        return ""
    prefill = f", prefill as {config['prefill']}" if config.get("prefill") else ""
    return f"Scope {config['scope']}, access {config['access']}{prefill}."


def _lines(curve: dict[str, Any], key: str, own: str | None) -> list[dict[str, Any]]:
    lines = []
    for number, policy in enumerate(sorted(curve["hit_rate"], key=lambda policy: policy != own)):
        rates = curve[key].get(policy, [None] * len(curve["relative"]))
        points = [one for one in zip(curve["relative"], rates, curve["capacities"], strict=True) if one[1] is not None]
        more = {"mode": "lines" if len(points) > 40 else "lines+markers", "hovertemplate": "%{y:.1%} (%{customdata})"}
        amounts = [_amount(curve, capacity) for _, _, capacity in points]
        x, y = [size for size, _, _ in points], [rate for _, rate, _ in points]
        lines.append(line(policy, x, y, policy_style(policy, number), customdata=amounts, **more))
    return lines


def _amount(curve: dict[str, Any], capacity: int) -> str:
    return human_bytes(capacity) if curve.get("unit") == "bytes" else f"{capacity:,} experts"


def _layout(here: float | None) -> dict[str, Any]:
    drawing = layout(height=400, x=size_axis(), y=rate_axis("hit rate", range=[0, 1.01]), hovermode="x unified")
    if here is not None:
        upright = {"type": "line", "x0": here, "x1": here, "yref": "paper", "y0": 0, "y1": 1}
        drawing["shapes"] = [upright | {"line": {"color": INK, "width": 1, "dash": "dot"}}]
        place = {"x": here, "y": 0, "yref": "paper", "xanchor": "left", "yanchor": "bottom"}
        drawing["annotations"] = [place | {"text": "this run", "showarrow": False}]
    return drawing


def _table(curve: dict[str, Any]) -> TableBlock:
    """Return a row for each policy at sizes worth naming, or at all where there are few."""
    sizes = curve["relative"]
    places = list(range(len(sizes)))
    if len(sizes) > 16:
        wanted = [
            max((i for i in places if sizes[i] <= size + 1e-9), default=None) for size in SHOWN if size <= sizes[-1]
        ]
        places = sorted({place for place in wanted if place is not None})
    rows = [(policy, *(percent(curve["hit_rate"][policy][place]) for place in places)) for policy in curve["hit_rate"]]
    return TableBlock("hit rate by cache size", ("policy", *(f"{sizes[place]:.3g}x" for place in places)), rows)
