"""What `lrcsim compare` found: its runs side by side, the best first, and which of them to take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lrcsim.base.text import human_bytes, percent, seconds
from lrcsim.reports.blocks import Figure, Section, TableBlock
from lrcsim.reports.drawing import COLOURS
from lrcsim.reports.marks import Axis, Bars, FigureView, Unit

RESULTS: dict[str, tuple[str, Unit, Callable[[Any], str]]] = {
    "decode_tokens_per_s": ("tokens/s", "number", "{:,.2f}".format),
    "total_s": ("time of all", "number", seconds),
    "hit_rate": ("hit rate", "percent", percent),
    "gap_closed": ("of the gap", "percent", percent),
    "of_optimum": ("of optimum", "percent", percent),
    "bytes_loaded": ("loaded", "number", human_bytes),
    "decode_bytes_per_token": ("loaded a token", "number", human_bytes),
    "prefetch_issued_bytes": ("prefetched", "number", human_bytes),
    "admitted_issued_bytes": ("uploaded", "number", human_bytes),
}
"""Results with their headings, how an axis writes them, and how a table does."""

DRAWN = ("decode_tokens_per_s", "total_s", "hit_rate", "decode_bytes_per_token")
"""What may be chosen to be drawn."""

AXES = {"total_s": "time of all, s", "decode_bytes_per_token": "bytes loaded for a decoded token"}
"""Titles of axes that need a unit."""

BARS = 40
"""Bars in a figure, at most."""

ROWS = 200
"""Rows in the table, at most."""


def comparison_sentences(found: dict[str, Any]) -> list[str]:
    """Return what it says to take, and why."""
    return [str(one) for one in found["why"]]


def comparison_section(found: dict[str, Any], name: str) -> Section:
    """Return bars of the runs for each result, and a table of all.

    Args:
        found: JSON of ``lrcsim compare``.
        name: unique on the page.
    """
    config = found["config"]
    good = [row for row in found["rows"] if row["error"] is None]
    failed = [row for row in found["rows"] if row["error"] is not None]
    names = list(found["compared"]) or ["policy"]
    there = [one for one in RESULTS if any(row.get(one) is not None for row in good)]
    there = [one for one in there if not one.endswith("issued_bytes") or any(row[one] for row in good)]
    there.sort(key=lambda one: one != found["by"])
    blocks: list[Figure | TableBlock] = []
    if good and there:
        blocks.append(_figure(found, good, names, there, name))
    if failed:
        rows = [(_choice(row, names), str(row["error"])) for row in failed[:ROWS]]
        title = f"runs that failed, {len(rows):,} of {len(failed):,}"
        blocks.append(TableBlock(title, (", ".join(names), "error"), rows, words=True))
    under = "" if config.get("runtime") in (None, "ideal") else f" under {config['runtime']}"
    on = f" on {config['hardware']}{under}" if config["hardware"] is not None else ""
    title = f"Comparison: {config['model'] or config['trace']}{on}"
    text = [f"{len(found['rows']):,} runs over {', '.join(names)}: {len(good):,} done, {len(failed):,} failed."]
    return Section(name, title, [*text, *comparison_sentences(found)], blocks)


def _figure(found: dict[str, Any], good: list[dict[str, Any]], names: list[str], there: list[str], name: str) -> Figure:
    """Draw the runs in the order of the file, best first; those to take are marked in the table."""
    first = found["recommended"][0] if found["recommended"] else None
    taken = next((i for i, row in enumerate(good[:ROWS]) if first and all(row[k] == v for k, v in first.items())), None)
    shown = good[:BARS]
    labels = _distinct([_choice(row, names) for row in shown])
    sizes = list(dict.fromkeys(str(row["cache"]) for row in shown))
    views = [
        FigureView(
            RESULTS[result][0],
            x=Axis(AXES.get(result, RESULTS[result][0]), RESULTS[result][1], low=0),
            y=Axis(names=labels),
            marks=[
                Bars(f"cache {size}", *_of_size(shown, labels, result, size), COLOURS[number % len(COLOURS)])
                for number, size in enumerate(sizes)
            ],
            height=60 + 24 * len(shown),
            legend=len(sizes) > 1,
        )
        for result in (one for one in there if one in DRAWN)
    ]
    cells = [
        (
            *(_value(row, one) for one in names),
            *("–" if row[one] is None else RESULTS[one][2](row[one]) for one in there),
        )
        for row in good[:ROWS]
    ]
    cut = f", the best {ROWS} of {len(good):,}" if len(good) > ROWS else ""
    table = TableBlock(f"runs{cut}", (*names, *(RESULTS[one][0] for one in there)), cells, marked=taken)
    text = f"A bar for each run, best {RESULTS[found['by']][0]} first, coloured by cache size."
    text += f" Of {len(good):,} the best {BARS} are drawn." if len(good) > BARS else ""
    text += " The run to take is bold in the table." if taken is not None else ""
    return Figure(f"{name}-runs", "Runs, best first", text, views, table)


def _of_size(
    rows: list[dict[str, Any]], labels: list[str], result: str, size: str
) -> tuple[list[str], list[float | None]]:
    """Return the labels and the values of the rows of one cache size."""
    mine = [(label, row[result]) for label, row in zip(labels, rows, strict=True) if str(row["cache"]) == size]
    return [label for label, _ in mine], [value for _, value in mine]


def _value(row: dict[str, Any], name: str) -> str:
    return "none" if row[name] is None else str(row[name])


def _choice(row: dict[str, Any], names: Sequence[str]) -> str:
    """Return what was chosen in a run; what does nothing is left out."""
    said = [(name, str(row[name])) for name in names if row[name] not in (None, "none", "load")]
    return ", ".join(f"cache {value}" if name == "cache" else value for name, value in said) or "run"


def _distinct(labels: list[str]) -> list[str]:
    """Return labels of which no two are alike: a second one has a number."""
    return [f"{one} ({labels[:i].count(one) + 1})" if one in labels[:i] else one for i, one in enumerate(labels)]
