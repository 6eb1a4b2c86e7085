"""Figures of a sweep: the best of each machine and policy, any result by any option, speed for memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from lrcsim.base.text import cell_text
from lrcsim.reports.blocks import Figure, TableBlock
from lrcsim.reports.drawing import COLOURS, DASHES, MUTED, Style, style_of
from lrcsim.reports.marks import Axis, Bars, Columns, FigureView, Line
from lrcsim.reports.sweep_words import described, is_known, is_ordered, natural, unit_of, words
from lrcsim.sweeps.columns import better
from lrcsim.sweeps.query import best, direction, pareto

PLACES = ("trace", "model", "hardware", "runtime")
"""What runs are told apart by before all else: they are of different machines or models."""

LINES = 12
"""Lines in a figure, at most; with more, runs are dots, and a line joins the best of each policy."""

GROUPS = 8
"""Machines that have figures of their own, at most: those of the best runs."""

BARS = 40
"""Bars in a figure, at most: the best."""

Row = dict[str, Any]


def best_of_each(good: pa.Table, results: list[str], varied: list[str], name: str) -> list[Figure]:
    """Return the best run of each machine and policy; nothing where neither was varied beside something else.

    Args:
        good: runs that have the first result, the best first.
        results: what the table has of `RESULTS`.
        varied: columns that differ.
        name: unique on the page.
    """
    per = [one for one in (*PLACES, "policy") if one in varied]
    rest = [one for one in varied if one not in per]
    if not per or (not rest and len(per) == 1):
        return []
    result = results[0]
    places = [one for one in PLACES if one in per]
    _, sign = direction(good, result)
    rows = best(good, result, per).to_pylist()
    order = list(dict.fromkeys(_name(row, places) for row in rows))  # the machine with the best run first
    rows.sort(key=lambda row: (order.index(_name(row, places)), -sign * row[result]))
    shown = rows[:BARS]
    names = [_name(row, per) for row in shown]
    marks = [
        Bars(
            place,
            [name for name, row in zip(names, shown, strict=True) if _name(row, places) == place],
            [row[result] for row in shown if _name(row, places) == place],
            COLOURS[number % len(COLOURS)],
        )
        for number, place in enumerate(order)
    ]
    view = FigureView(
        "",
        x=Axis(words(result), unit_of(result), low=0),
        y=Axis(names=names),
        marks=marks,
        height=60 + 24 * len(shown),
        legend=len(order) > 1,
    )
    table_rows = [(_name(row, per), cell_text(result, row[result]), described(row, rest)) for row in rows]
    what = " and ".join(words(one) for one in per)
    table = TableBlock(f"best {words(result)} of each {what}", (", ".join(per), words(result), "with"), table_rows)
    cut = f" Of {len(rows):,} the first {BARS} are drawn." if len(rows) > BARS else ""
    text = f"The best run of each {what}, whatever else was varied; the table says with what.{cut}"
    return [Figure(name, f"Best of each {what}", text, [view], table)]


def any_by_any(drawn: pa.Table, results: list[str], varied: list[str], name: str, cut: str) -> list[Figure]:
    """Return one figure to choose in: any result by any option, of each machine; nothing without options.

    Args:
        drawn: the runs to draw.
        results: what may be chosen.
        varied: columns that differ.
        name: unique on the page.
        cut: what is said of runs that are not drawn.
    """
    places = [one for one in PLACES if one in varied]
    options = [one for one in varied if one not in places]
    rows = drawn.to_pylist()
    groups: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(_name(row, places), []).append(number)
    if places and not options:  # machines are all that differs
        groups, options = {"": list(range(len(rows)))}, places
    if not options:
        return []
    ordered = [by for by in options if is_ordered(drawn, by)]
    by_number = [*ordered, *(by for by in options if by not in ordered)]
    views = [
        _view(rows, members, result, by, options, group, lines=by in ordered)
        for group, members in groups.items()
        for result in results
        for by in by_number
    ]
    shown = {one: [cell_text(one, row[one]) for row in rows] for one in varied}
    columns = Columns(
        shown | {one: [value if is_known(value) else None for value in drawn[one].to_pylist()] for one in results},
        varied,
    )
    of = ", and of which machine" if len(groups) > 1 else ""
    text = (
        f"Choose what is drawn against what{of}. Numbers have lines, names dots; of more than {LINES} lines one joins "
        f"the best of each policy.{cut}"
    )
    return [Figure(name, "Any result by any option", text, views, _numbers(rows, results, varied), columns)]


NUMBERS = 100
"""Rows of a table of all runs, at most: the best."""


def _numbers(rows: list[Row], results: list[str], varied: list[str]) -> TableBlock:
    shown = (*varied, *results)
    cells = [tuple(cell_text(column, row[column]) for column in shown) for row in rows[:NUMBERS]]
    cut = f", the best {NUMBERS} of {len(rows):,}" if len(rows) > NUMBERS else ""
    return TableBlock(f"runs{cut}", (*varied, *map(words, results)), cells)


def _name(row: Row, columns: Sequence[str]) -> str:
    """Return what a group is called: its values."""
    return ", ".join(cell_text(one, row[one]) for one in columns)


def _view(
    rows: list[Row], members: list[int], result: str, by: str, options: list[str], group: str, *, lines: bool
) -> FigureView:
    """Draw a result of some rows against one option; its values in the order of their numbers."""
    others = [one for one in options if one != by]
    kinds = _grouped(rows, members, others)
    too_many = len(kinds) > LINES
    if too_many:
        kinds = _grouped(rows, members, ["policy"] if "policy" in others else [])
    order = sorted({cell_text(by, rows[row][by]) for row in members}, key=natural)
    marks: list[Line] = []
    sorted_kinds = sorted(kinds.items(), key=lambda item: tuple(map(natural, item[0])))
    styles = _styles([rows[of[0]]["policy"] if "policy" in others else None for _, of in sorted_kinds])
    for (label, of), style in zip(sorted_kinds, styles, strict=True):
        title = ", ".join(label) or ("all runs" if too_many else words(result))
        at = [row for value in order for row in of if cell_text(by, rows[row][by]) == value]
        at = [row for row in at if is_known(rows[row][result])]
        if too_many and lines:
            marks.append(Line(title, by, result, rows=_best_at(rows, at, by, result), **style))
        marks.append(Line(title, by, result, rows=at, draw="both" if lines and not too_many else "points", **style))
    return FigureView(
        f"{words(result)} by {by}",
        x=Axis(by, names=order),
        y=Axis(words(result), unit_of(result), low=0),
        marks=marks,
        height=380,
        group=group,
        legend=len(kinds) > 1,
    )


def _styles(policies: list[str | None]) -> list[Style]:
    """Return the style of each line: a colour for each policy, whose lines differ in dashes; without, by number."""
    names = list(dict.fromkeys(policies))
    if names == [None] or len(names) in (len(policies), *range(len(COLOURS) + 1, len(policies))):
        return [style_of(number) for number in range(len(policies))]
    before = [policies[:number].count(policy) for number, policy in enumerate(policies)]
    return [
        {"colour": COLOURS[names.index(policy) % len(COLOURS)], "dash": DASHES[dash % len(DASHES)]}
        for policy, dash in zip(policies, before, strict=True)
    ]


def _grouped(rows: list[Row], members: list[int], by: Sequence[str]) -> dict[tuple[str, ...], list[int]]:
    """Return row numbers by the values of some columns."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for row in members:
        groups.setdefault(tuple(cell_text(one, rows[row][one]) for one in by), []).append(row)
    return groups


def _best_at(rows: list[Row], at: list[int], by: str, result: str) -> list[int]:
    """Return the best row at each value of an option, in the order of ``at``."""
    sign = -1 if better(result) == "less" else 1
    found: dict[str, int] = {}
    for row in at:
        value = cell_text(by, rows[row][by])
        if value not in found or sign * rows[row][result] > sign * rows[found[value]][result]:
            found[value] = row
    return list(found.values())


def speed_for_memory(good: pa.Table, drawn: pa.Table, name: str, varied: list[str]) -> Figure:
    """Draw speed against memory, and the runs that no other beats in both.

    Args:
        good: all runs that have a speed.
        drawn: those to draw besides the front.
        name: unique on the page.
        varied: columns that differ.
    """
    front = pareto(good, ["decode_tokens_per_s", "gpu_bytes"]).to_pylist()
    shown = [row for row in drawn.to_pylist() if row["gpu_bytes"] is not None]
    both = [*shown, *sorted(front, key=lambda row: row["gpu_bytes"])]
    values: dict[str, list[Any]] = {one: [cell_text(one, row[one]) for row in both] for one in varied}
    values["speed"] = [row["decode_tokens_per_s"] for row in both]
    values["GiB"] = [row["gpu_bytes"] / 2**30 for row in both]
    values["memory"] = [cell_text("gpu_bytes", row["gpu_bytes"]) for row in both]
    everywhere, stairs = range(len(shown)), range(len(shown), len(both))
    view = FigureView(
        "",
        x=Axis("memory, GiB", low=0),
        y=Axis("decode tokens/s", low=0),
        marks=[
            Line("all runs", "GiB", "speed", MUTED, rows=everywhere, draw="points"),
            Line("Pareto front", "GiB", "speed", COLOURS[0], rows=stairs, draw="both", stairs=True),
        ],
        height=360,
    )
    rows = [
        (
            described(row, varied),
            cell_text("decode_tokens_per_s", row["decode_tokens_per_s"]),
            cell_text("gpu_bytes", row["gpu_bytes"]),
        )
        for row in front
    ]
    text = f"{len(front):,} runs that no other beats in both speed and memory (cache, other weights and KV cache)."
    numbers = TableBlock("Pareto front", ("run", "decode tokens/s", "memory"), rows)
    return Figure(name, "Speed for memory", text, [view], numbers, Columns(values, [*varied, "memory"]))


def to_draw(good: pa.Table, varied: list[str], most: int) -> pa.Table:
    """Return the best runs, of each machine the same number at most, in their order."""
    places = [one for one in PLACES if one in varied]
    names = [_name(row, places) for row in good.to_pylist()]
    groups = list(dict.fromkeys(names))[:GROUPS]
    taken, rows = dict.fromkeys(groups, 0), []
    for row, name in enumerate(names):
        if taken.get(name, most) < most // len(groups):
            taken[name] += 1
            rows.append(row)
    return good.take(pa.array(rows, pa.int64()))
