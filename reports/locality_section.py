"""SRP and SCH: whether consecutive tokens use the same experts."""

from __future__ import annotations

from typing import Any

from lrcsim.base.text import score, span
from lrcsim.reports.blocks import Figure, FigureView, Section, TableBlock
from lrcsim.reports.plots import COLOURS, DASHES, MUTED, axis, layout, line

__all__ = ["sch_section", "srp_section", "srp_sentence"]


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
    data, rows = [], []
    for number, (trace, found) in enumerate(_by_trace(srp).items()):
        colour = COLOURS[number % len(COLOURS)]
        known = [one for one in found if one["value"] is not None]
        lengths = [str(one["segment"]) for one in known]
        values = [one["value"] for one in known]
        bars: dict[str, Any] = {}
        if known and all(one["interval"] for one in known):
            bars["error_y"] = {
                "type": "data",
                "symmetric": False,
                "array": [one["interval"][1] - one["value"] for one in known],
                "arrayminus": [one["value"] - one["interval"][0] for one in known],
            }
        data.append(
            line(
                trace,
                lengths,
                values,
                {"color": colour},
                mode="lines+markers",
                hovertemplate="m = %{x}: %{y:.3f}",
                **bars,
            )
        )
        data.append(
            line(
                f"{trace}: floor",
                lengths,
                [one["floor"] for one in known],
                {"color": MUTED, "dash": DASHES[1 + number % (len(DASHES) - 1)]},
                hovertemplate="m = %{x}: %{y:.3f}",
            )
        )
        rows += [
            (
                f"{trace}, m = {one['segment']}",
                score(one["value"]),
                span(one["interval"]),
                score(one["floor"]),
                f"{one['windows']:,}",
            )
            for one in found
        ]
    drawing = layout(height=320, x=axis("tokens in a segment, m", type="category"), y=axis("SRP", range=[0, 1]))
    interval = f"{100 * srp.get('confidence', 0.95):g} % interval"
    figure = Figure(
        f"{name}-figure",
        "Segment routing best performance (SRP)",
        f"{srp_sentence(srp)} How well one fixed set of experts, chosen with hindsight, serves m tokens in a row; the "
        "floor is what keeping all experts gives, so compare across models only at like sparsity.",
        [FigureView("", data, drawing)],
        TableBlock("SRP", ("trace, segment", "SRP", interval, "floor", "segments"), rows),
    )
    return Section(name, "Local routing consistency: SRP", [], [figure])


def sch_section(sch: dict[str, Any], name: str) -> Section:
    """Return SCH by cache size, a line for each length of the segment.

    Args:
        sch: JSON of ``lrcsim sch``.
        name: unique on the page.
    """
    data, rows = [], []
    traces = _by_trace(sch)
    for number, (trace, found) in enumerate(traces.items()):
        lines = {one["segment"]: one for one in found}  # the curve is the same at every size
        for place, (segment, one) in enumerate(lines.items()):
            points = [(x, y) for x, y in zip(one["relative"], one["hit_rate"], strict=True) if y is not None]
            label = f"m = {segment}" if len(traces) == 1 else f"{trace}, m = {segment}"
            style = {"color": COLOURS[place % len(COLOURS)], "dash": DASHES[number % len(DASHES)]}
            data.append(
                line(label, [x for x, _ in points], [y for _, y in points], style, hovertemplate="%{x:.3g}x: %{y:.3f}")
            )
        rows += [
            (f"{trace}, m = {one['segment']}", one["cache"], score(one["value"]), span(one["interval"]))
            for one in found
        ]
    drawing = layout(
        height=340,
        x=axis("cache size, times the active experts", rangemode="tozero", ticksuffix="x"),
        y=axis("SCH", range=[0, 1.01]),
    )
    meaning = (
        "Share of accesses that the most used experts of m tokens in a row serve, chosen with hindsight, loaded free."
        if sch["definition"] == "static"
        else "Hit rate of a cache that evicts the fewest uses in the next m tokens, under the paper's rule."
    )
    interval = f"{100 * sch.get('confidence', 0.95):g} % interval"
    figure = Figure(
        f"{name}-figure",
        f"Segment cache best hit rate (SCH), {sch['definition']}, scope {sch['scope']}",
        meaning,
        [FigureView("", data, drawing)],
        TableBlock("SCH", ("trace, segment", "cache", "SCH", interval), rows),
    )
    return Section(name, "Local routing consistency: SCH", [], [figure])


def _by_trace(metric: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for one in metric["results"]:
        found.setdefault(str(one["trace"]), []).append(one)
    return found
