"""SRP and SCH: whether consecutive tokens use the same experts."""

from __future__ import annotations

from typing import Any

from lrcsim.base.text import score, span
from lrcsim.reports.blocks import Figure, Section, TableBlock
from lrcsim.reports.drawing import COLOURS, DASHES, MUTED, size_axis
from lrcsim.reports.marks import Axis, FigureView, Line


def srp_sentence(srp: dict[str, Any]) -> str:
    """Return SRP at the length nearest the paper's 16, beside its floor, of every trace."""
    parts = []
    for trace, found in _by_trace(srp).items():
        known = [one for one in found if one["value"] is not None]
        if known:
            one = min(known, key=lambda result: abs(result["segment"] - 16))
            parts.append(f"{trace} {score(one['value'])} at m = {one['segment']} (floor {score(one['floor'])})")
    return f"SRP: {'; '.join(parts)}." if parts else "No segment fits, so there is no SRP."


def srp_section(srp: dict[str, Any], name: str) -> Section:
    """Return SRP by length of the segment.

    Args:
        srp: JSON of ``lrcsim srp``.
        name: unique on the page.
    """
    marks, rows = [], []
    for number, (trace, found) in enumerate(_by_trace(srp).items()):
        known = [one for one in found if one["value"] is not None]
        lengths = [str(one["segment"]) for one in known]
        values, floors = [one["value"] for one in known], [one["floor"] for one in known]
        spread = [one["interval"] for one in known]
        spread = spread if all(spread) else []
        marks.append(Line(trace, lengths, values, COLOURS[number % len(COLOURS)], draw="both", spread=spread))
        marks.append(Line(f"{trace}: floor", lengths, floors, MUTED, DASHES[1 + number % (len(DASHES) - 1)]))
        for one in found:
            cells = (score(one["value"]), span(one["interval"]), score(one["floor"]), f"{one['windows']:,}")
            rows.append((f"{trace}, m = {one['segment']}", *cells))
    segments = sorted({one["segment"] for one in srp["results"] if one["value"] is not None})
    view = FigureView(
        "",
        x=Axis("tokens in a segment, m", names=[str(segment) for segment in segments]),
        y=Axis("SRP", low=0, high=1),
        marks=marks,
        height=320,
    )
    head = ("trace, segment", "SRP", _interval(srp), "floor", "segments")
    text = (
        f"{srp_sentence(srp)} How well one fixed set of experts, chosen with hindsight, serves m tokens in a row; the "
        "floor is what keeping all experts gives, so compare across models only at like sparsity."
    )
    table = TableBlock("SRP", head, rows)
    figure = Figure(f"{name}-figure", "Segment routing best performance (SRP)", text, [view], table)
    return Section(name, "Local routing consistency: SRP", [], [figure])


def _interval(metric: dict[str, Any]) -> str:
    return f"{100 * metric.get('confidence', 0.95):g} % interval"


def sch_section(sch: dict[str, Any], name: str) -> Section:
    """Return SCH by cache size, a line for each length of the segment.

    Args:
        sch: JSON of ``lrcsim sch``.
        name: unique on the page.
    """
    marks, rows = [], []
    traces = _by_trace(sch)
    for number, (trace, found) in enumerate(traces.items()):
        lines = {one["segment"]: one for one in found}  # the curve is the same at every size
        for place, (segment, one) in enumerate(lines.items()):
            points = [(x, y) for x, y in zip(one["relative"], one["hit_rate"], strict=True) if y is not None]
            label = f"m = {segment}" if len(traces) == 1 else f"{trace}, m = {segment}"
            x, y = [x for x, _ in points], [y for _, y in points]
            marks.append(Line(label, x, y, COLOURS[place % len(COLOURS)], DASHES[number % len(DASHES)]))
        for one in found:
            cells = (one["cache"], score(one["value"]), span(one["interval"]))
            rows.append((f"{trace}, m = {one['segment']}", *cells))
    y_axis = Axis("SCH", low=0, high=1)
    view = FigureView("", x=size_axis(), y=y_axis, marks=marks, height=340, all_at_once=True)
    meaning = (
        "Share of accesses that the most used experts of m tokens in a row serve, chosen with hindsight, loaded free."
        if sch["definition"] == "static"
        else "Hit rate of a cache that evicts the fewest uses in the next m tokens, under the paper's rule."
    )
    title = f"Segment cache best hit rate (SCH), {sch['definition']}, scope {sch['scope']}"
    table = TableBlock("SCH", ("trace, segment", "cache", "SCH", _interval(sch)), rows)
    figure = Figure(f"{name}-figure", title, meaning, [view], table)
    return Section(name, "Local routing consistency: SCH", [], [figure])


def _by_trace(metric: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for one in metric["results"]:
        found.setdefault(str(one["trace"]), []).append(one)
    return found
