"""A sweep's table: what was varied, the best runs, those of each machine and policy, what failed, what is the same."""

from __future__ import annotations

import pyarrow as pa

from lrcsim.base.text import cell_text
from lrcsim.reports.blocks import Figure, Section, TableBlock
from lrcsim.reports.sweep_figures import any_by_any, best_of_each, speed_for_memory, to_draw
from lrcsim.reports.sweep_words import RESULTS, is_known, known, words
from lrcsim.sweeps.query import best, direction, too_lossy, varying

BEST_ROWS = 20
DRAWN = 600
"""Runs in a figure, at most: the best of each machine."""


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
            f"Best {words(result)}: {cell_text(result, first[result])}" + (f" with {how}." if how else ".")
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
        drawn = to_draw(good, varied, DRAWN)
        cut = f" Of {len(good):,} runs the best {len(drawn):,} are drawn." if len(good) > len(drawn) else ""
        blocks += best_of_each(good, results, varied, f"{name}-each")
        blocks += any_by_any(drawn, results, varied, f"{name}-figure", cut)
        if {"decode_tokens_per_s", "gpu_bytes"} <= known(table, ("decode_tokens_per_s", "gpu_bytes")):
            blocks.append(speed_for_memory(good, drawn, f"{name}-front", varied))
        blocks.append(_best_runs(good, results, varied))
    blocks += _failed(table, varied)
    same = [(column, _one(table, column)) for column in ("trace", "model", "hardware", "scope", "access", "lrcsim")]
    rows = [*((column, value) for column, value in same if value), ("table", source)]
    rows += [("SHA-256 of a trace", str(value)) for value in dict.fromkeys(table["trace_sha256"].to_pylist()) if value]
    blocks.append(TableBlock("the same in all runs", ("what", "value"), rows, words=True))
    return Section(name, f"Sweep: {source}", [], blocks)


def _best_runs(good: pa.Table, results: list[str], varied: list[str]) -> TableBlock:
    """Return the first runs of those in order."""
    shown, head = (*varied, *results), ("", *varied, *map(words, results))
    best_rows = enumerate(good.slice(0, BEST_ROWS).to_pylist(), start=1)
    rows = [(str(number), *(cell_text(column, row[column]) for column in shown)) for number, row in best_rows]
    more = f", of {len(good):,}" if len(good) > BEST_ROWS else ""
    return TableBlock(f"best {len(rows)} in {words(results[0])}{more}", head, rows)


def _failed(table: pa.Table, varied: list[str]) -> list[TableBlock]:
    """Return the runs that failed, and why; none where none did."""
    failed = [row for row in table.to_pylist() if row["error"] is not None]
    if not failed:
        return []
    told = [", ".join(cell_text(column, row[column]) for column in varied) or "run" for row in failed[:BEST_ROWS]]
    rows = [(one, str(row["error"])) for one, row in zip(told, failed, strict=False)]
    title = f"runs that failed, {len(rows):,} of {len(failed):,}"
    return [TableBlock(title, (", ".join(varied) or "run", "error"), rows, words=True)]


def _results(table: pa.Table) -> list[str]:
    there = known(table, RESULTS)
    found = [name for name in RESULTS if name in there]
    if "decode_hit_rate" in found and table["decode_hit_rate"].equals(table["hit_rate"]):
        found.remove("decode_hit_rate")
    return found


def _one(table: pa.Table, column: str) -> str:
    values = {value for value in table[column].to_pylist() if value is not None}
    return cell_text(column, values.pop()) if len(values) == 1 else ""


def _sorted(table: pa.Table, result: str) -> pa.Table:
    """Return the runs that have a result, the best first."""
    _, sign = direction(table, result)
    rows = [(row, value) for row, value in enumerate(table[result].to_pylist()) if is_known(value)]
    return table.take(pa.array([row for row, _ in sorted(rows, key=lambda pair: -sign * pair[1])], pa.int64()))
