"""Hit rate against cache size, from the JSON of `lrcsim curve`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from lrcsim.base.text import human_bytes, percent
from lrcsim.reports.blocks import Figure, Section, TableBlock
from lrcsim.reports.drawing import policy_style, size_axis
from lrcsim.reports.marks import Axis, Columns, FigureView, Line

SHOWN = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Relative cache sizes in the table."""

GOAL = 0.9
"""The hit rate for which the text says how large a cache must be."""

DRAWN = 256
"""Sizes that are drawn of a curve, at most: about as many as a screen has points for."""

TOLD = 5
"""Policies of which the text says each, at most."""

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
    views = [_view(curve, key, label, here, own) for key, label in known.items()]
    drawn, sizes = len(_drawn(curve)), len(curve["relative"])
    cut = f" Of {sizes:,} sizes {drawn:,} are drawn." if drawn < sizes else ""
    figure = Figure(
        f"{name}-curves",
        "Hit rate by cache size",
        f"{_rules(curve)} {curve_sentence(curve)} Size is relative to the experts that one token uses.{cut}",
        views,
        _table(curve),
        _columns(curve, known),
    )
    return Section(name, f"Every cache size: {curve['trace']}", [], [figure])


def curve_sentence(curve: dict[str, Any]) -> str:
    """Return where the curves bend, and from which size on they reach the goal; of many the first and the last."""
    if len(curve["hit_rate"]) > TOLD:
        reached = {policy: size for policy in curve["hit_rate"] if (size := _enough(curve, policy)) is not None}
        never = len(curve["hit_rate"]) - len(reached)
        parts = [f"{policy} reaches {percent(GOAL, 0)} at {reached[policy]:.3g}x" for policy in _ends(reached)]
        parts += [f"{never:,} of {len(curve['hit_rate']):,} never reach {percent(GOAL, 0)}"] if never else []
        return "; ".join(parts) + ". The table has all."
    parts = []
    for policy in curve["hit_rate"]:
        size, knee = _enough(curve, policy), _knee(curve, policy)
        reaches = f"reaches {percent(GOAL, 0)} at {size:.3g}x" if size else f"never reaches {percent(GOAL, 0)}"
        parts.append(f"{policy} {reaches}" + (f" (knee at {knee:.3g}x)" if knee is not None else ""))
    return "; ".join(parts) + "."


def _ends(reached: dict[str, float]) -> list[str]:
    """Return the policies that reach the goal with the smallest cache, and with the largest."""
    order = sorted(reached, key=lambda policy: reached[policy])
    return order if len(order) < 2 else [order[0], order[-1]]


def _enough(curve: dict[str, Any], policy: str) -> float | None:
    """Return the smallest relative size with which a policy reaches the goal."""
    rates = zip(curve["relative"], curve["hit_rate"][policy], strict=True)
    return next((size for size, rate in rates if rate is not None and rate >= GOAL), None)


def _knee(curve: dict[str, Any], policy: str) -> float | None:
    """Return where a policy's curve bends, as a relative size."""
    relative = dict(zip(curve["capacities"], curve["relative"], strict=True))
    return relative.get(curve["knee"].get(policy))


def _rules(curve: dict[str, Any]) -> str:
    config = curve.get("config")
    if not config:
        return ""
    prefill = f", prefill as {config['prefill']}" if config.get("prefill") else ""
    return f"Scope {config['scope']}, access {config['access']}{prefill}."


def _view(curve: dict[str, Any], key: str, label: str, here: float | None, own: str | None) -> FigureView:
    places = _drawn(curve)
    draw: Literal["line", "both"] = "line" if len(places) > 40 else "both"
    lines = [
        Line(policy, "size", f"{key}: {policy}", draw=draw, **policy_style(policy, number))
        for number, policy in enumerate(sorted(curve["hit_rate"], key=lambda policy: policy != own))
    ]
    return FigureView(
        label,
        x=size_axis(),
        y=Axis("hit rate", "percent", low=0, high=1),
        marks=lines,
        height=400,
        all_at_once=True,
        upright=None if here is None else (here, "this run"),
        said=[_amount(curve, curve["capacities"][place]) for place in places],
    )


def _columns(curve: dict[str, Any], keys: Iterable[str]) -> Columns:
    """Return the sizes that are drawn and each policy's rates there."""
    places = _drawn(curve)
    values = {"size": [curve["relative"][place] for place in places]}
    for key in keys:
        for policy in curve["hit_rate"]:
            rates = curve[key].get(policy)
            values[f"{key}: {policy}"] = [None if rates is None else rates[place] for place in places]
    return Columns(values)


def _drawn(curve: dict[str, Any]) -> list[int]:
    """Return the places of the sizes that are drawn: all, or `DRAWN` evenly spread and every knee."""
    count = len(curve["relative"])
    if count <= DRAWN:
        return list(range(count))
    spread = {round(number * (count - 1) / (DRAWN - 1)) for number in range(DRAWN)}
    knees = {curve["capacities"].index(size) for size in curve["knee"].values() if size in curve["capacities"]}
    return sorted(spread | knees)


def _amount(curve: dict[str, Any], capacity: int) -> str:
    return human_bytes(capacity) if curve.get("unit") == "bytes" else f"{capacity:,} experts"


def _table(curve: dict[str, Any]) -> TableBlock:
    """Return a row for each policy at sizes worth naming, or at all where there are few."""
    sizes = curve["relative"]
    places = list(range(len(sizes)))
    if len(sizes) > 16:
        wanted = [
            max((i for i in places if sizes[i] <= size + 1e-9), default=None) for size in SHOWN if size <= sizes[-1]
        ]
        places = sorted({place for place in wanted if place is not None})
    rows = []
    for policy, rates in curve["hit_rate"].items():
        ends = (_enough(curve, policy), _knee(curve, policy))
        cells = [percent(rates[place]) for place in places]
        rows.append((policy, *cells, *("–" if size is None else f"{size:.3g}x" for size in ends)))
    head = ("policy", *(f"{sizes[place]:.3g}x" for place in places), f"{percent(GOAL, 0)} at", "knee")
    return TableBlock("hit rate by cache size", head, rows)
