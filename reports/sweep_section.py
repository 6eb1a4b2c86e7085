"""A sweep's table: what was varied, the best runs, any result against anything varied."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Any

from lrcsim.base.text import cell_text
from lrcsim.reports.blocks import Figure, FigureView, Section, TableBlock
from lrcsim.reports.drawing import COLOURS, DASHES, MUTED, axis, layout, line, safe
from lrcsim.sweeps.query import best, direction, pareto, too_lossy, varying

if TYPE_CHECKING:
    import pyarrow as pa

RESULTS = ("decode_tokens_per_s", "hit_rate", "decode_hit_rate", "ttft_ms_p50", "decode_bytes_per_token")
"""What is drawn, where the table has it; the first it has is what the best runs are the best in."""

BEST_ROWS = 20
DRAWN = 2_000
"""Runs in a figure, at most: the best."""

LINES = 12
"""Lines in a figure, at most; with more, runs are dots."""

RATES = ("hit_rate", "decode_hit_rate")


def sweep_answer(table: pa.Table, source: str) -> list[str]:
    """Return what was varied and which run is best, in sentences."""
    varied = varying(table)
    failed = len(table) - table["error"].null_count
    counts = ", ".join(f"{name} ({len(set(table[name].to_pylist()))})" for name in varied)
    sentences = [f"{source}: {len(table):,} runs" + (f" over {counts}." if counts else ".")]
    for result in _results(table)[:2]:
        [first] = best(table, result).to_pylist()
        how = ", ".join(f"{name} {cell_text(name, first[name])}" for name in varied)
        sentences.append(
            f"Best {_words(result)}: {cell_text(result, first[result])}" + (f" with {how}." if how else ".")
        )
    note = too_lossy(table)
    if note is not None:
        sentences.append(f"{note}.")
    if failed:
        sentences.append(f"{failed:,} runs failed; the table below has the reasons.")
    return sentences


def sweep_section(table: pa.Table, name: str, source: str) -> Section:
    """Return figures and tables of a sweep.

    Args:
        table: as `read_table` gives it.
        name: unique on the page.
        source: the table's name.
    """
    varied, results = varying(table), _results(table)
    blocks: list[Figure | TableBlock] = []
    if results:
        good = _sorted(table, results[0])
        drawn = good.slice(0, DRAWN)
        cut = f" Of {len(good):,} runs the best {DRAWN:,} are drawn." if len(good) > DRAWN else ""
        by_number = sorted(varied, key=lambda by: not _numeric(table, by))
        views = [_view(drawn, result, by, varied) for result in results for by in by_number]
        if views:
            text = f"Choose what is drawn against what. Numbers have lines, names dots.{cut}"
            blocks.append(Figure(f"{name}-figure", "Any result by any option", text, views))
        if {"decode_tokens_per_s", "gpu_bytes"} <= set(results) | _known(table, ["gpu_bytes"]):
            blocks.append(_front(drawn, f"{name}-front", varied))
        shown, head = (*varied, *results), ("", *varied, *map(_words, results))
        best_rows = enumerate(good.slice(0, BEST_ROWS).to_pylist(), start=1)
        rows = [(str(number), *(cell_text(column, row[column]) for column in shown)) for number, row in best_rows]
        more = f", of {len(good):,}" if len(good) > BEST_ROWS else ""
        blocks.append(TableBlock(f"best {len(rows)} in {_words(results[0])}{more}", head, rows))
    failed = [row for row in table.to_pylist() if row["error"] is not None]
    if failed:
        told = [", ".join(cell_text(column, row[column]) for column in varied) or "run" for row in failed[:BEST_ROWS]]
        rows = [(one, str(row["error"])) for one, row in zip(told, failed, strict=False)]
        title = f"runs that failed, {len(rows):,} of {len(failed):,}"
        blocks.append(TableBlock(title, (", ".join(varied) or "run", "error"), rows, words=True))
    same = [(column, _one(table, column)) for column in ("trace", "model", "hardware", "scope", "access", "lrcsim")]
    rows = [*((column, value) for column, value in same if value), ("table", source)]
    rows += [("SHA-256 of a trace", str(value)) for value in dict.fromkeys(table["trace_sha256"].to_pylist()) if value]
    blocks.append(TableBlock("the same in all runs", ("what", "value"), rows, words=True))
    return Section(name, f"Sweep: {source}", [], blocks)


def _known(table: pa.Table, names: Iterable[str]) -> set[str]:
    return {name for name in names if name in table.column_names and table[name].null_count < len(table)}


def _results(table: pa.Table) -> list[str]:
    known = _known(table, RESULTS)
    found = [name for name in RESULTS if name in known]
    if "decode_hit_rate" in found and table["decode_hit_rate"].equals(table["hit_rate"]):
        found.remove("decode_hit_rate")
    return found


def _one(table: pa.Table, column: str) -> str:
    values = {value for value in table[column].to_pylist() if value is not None}
    return cell_text(column, values.pop()) if len(values) == 1 else ""


def _sorted(table: pa.Table, result: str) -> pa.Table:
    """Return the runs that have a result, the best first."""
    _, sign = direction(table, result)
    rows = [(row, value) for row, value in enumerate(table[result].to_pylist()) if value is not None]
    return table.take([row for row, _ in sorted(rows, key=lambda pair: -sign * pair[1])])


def _words(column: str) -> str:
    return column.replace("_per_s", "/s").replace("_", " ")


def _view(table: pa.Table, result: str, by: str, varied: list[str]) -> FigureView:
    """Draw a result against one option; categories in the order of their values where these are numbers."""
    rows = table.to_pylist()
    others = [name for name in varied if name != by]
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(cell_text(name, row[name]) for name in others), []).append(row)
    too_many = len(groups) > LINES
    if too_many:
        groups = {("all runs",): rows}
    lines = _numeric(table, by) and not too_many
    order = sorted({cell_text(by, row[by]) for row in rows}, key=_natural)
    data, hover = [], "%{customdata}: " + ("%{y:.2%}" if result in RATES else "%{y:,.4g}") + "<extra></extra>"
    more = {"mode": "lines+markers" if lines else "markers", "hovertemplate": hover}
    for number, (label, members) in enumerate(sorted(groups.items(), key=lambda item: tuple(map(_natural, item[0])))):
        members.sort(key=lambda row: _natural(cell_text(by, row[by])))
        x, y = [safe(cell_text(by, row[by])) for row in members], [row[result] for row in members]
        style = {"color": COLOURS[number % len(COLOURS)], "dash": DASHES[number // len(COLOURS) % len(DASHES)]}
        described = [_describe(row, varied) for row in members]
        data.append(line(", ".join(label) or _words(result), x, y, style, customdata=described, **more))
    drawing = layout(
        height=380,
        x=axis(safe(by), type="category", categoryorder="array", categoryarray=[safe(value) for value in order]),
        y=axis(_words(result), rangemode="tozero", **({"tickformat": ".0%"} if result in RATES else {})),
        showlegend=len(data) > 1,
    )
    return FigureView(f"{_words(result)} by {by}", data, drawing)


def _numeric(table: pa.Table, column: str) -> bool:
    """Return whether the values have an order to draw lines along: 2x, 4x; 6GB/s, 12GB/s."""
    return all(_natural(cell_text(column, value))[0] < float("inf") for value in table[column].to_pylist())


def _describe(row: dict[str, Any], varied: Iterable[str]) -> str:
    return safe(", ".join(f"{name} {cell_text(name, row[name])}" for name in varied))


def _natural(text: str) -> tuple[float, str]:
    """Return what sorts ``2x`` before ``16x``, and names after numbers."""
    digits = "".join(islice((c for c in text.partition(" ")[0] if c.isdigit() or c == "."), 20))
    try:
        return (float(digits) if text[:1].isdigit() else float("inf"), text)
    except ValueError:
        return (float("inf"), text)


def _front(table: pa.Table, name: str, varied: list[str]) -> Figure:
    """Draw speed against memory, and the runs that no other beats in both."""
    front = pareto(table, ["decode_tokens_per_s", "gpu_bytes"]).to_pylist()
    shown = [row for row in table.to_pylist() if row["gpu_bytes"] is not None]
    ordered = sorted(front, key=lambda row: row["gpu_bytes"])
    stairs = {"color": COLOURS[0], "shape": "hv"}
    data = [
        line(
            label,
            [row["gpu_bytes"] / 2**30 for row in rows],
            [row["decode_tokens_per_s"] for row in rows],
            style,
            mode=mode,
            marker={"color": colour, "size": 7},
            customdata=[_describe(row, varied) for row in rows],
            hovertemplate="%{customdata}: %{y:,.4g} tokens/s, %{x:,.3g} GiB<extra></extra>",
        )
        for label, rows, mode, colour, style in (
            ("all runs", shown, "markers", MUTED, {}),
            ("Pareto front", ordered, "lines+markers", COLOURS[0], stairs),
        )
    ]
    to_zero = {"rangemode": "tozero"}
    drawing = layout(height=360, x=axis("memory, GiB", **to_zero), y=axis("decode tokens/s", **to_zero))
    rows = [
        (_describe(row, varied), f"{row['decode_tokens_per_s']:,.4g}", cell_text("gpu_bytes", row["gpu_bytes"]))
        for row in front
    ]
    text = f"{len(front):,} runs that no other beats in both speed and memory (cache, other weights and KV cache)."
    numbers = TableBlock("Pareto front", ("run", "decode tokens/s", "memory"), rows)
    return Figure(name, "Speed for memory", text, [FigureView("", data, drawing)], numbers)
