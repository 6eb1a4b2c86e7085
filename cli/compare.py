"""`lrcsim compare`: policies, cache sizes, prefetchers and miss actions side by side, and which to take."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrcsim.base.cores import usable_cores
from lrcsim.base.tables import write_csv
from lrcsim.base.text import human_bytes, percent, quoted, seconds
from lrcsim.cli.bundled import is_bundled, say_toy
from lrcsim.cli.compare_advice import HEADINGS, choice_text, failures, recommendation
from lrcsim.cli.compare_options import DRAFTS, choices_of, compared_options, listed
from lrcsim.cli.options import given
from lrcsim.cli.output import answer, console, figure_options, json_option, progress_bar
from lrcsim.cli.sections import Sections
from lrcsim.cli.tables import print_rows
from lrcsim.plots.figure import check_picture

if TYPE_CHECKING:
    from lrcsim.sweeps.compare import Comparison

FEW = 8
"""Tasks up to which this process does all of them: a process of its own takes seconds to start."""

LITTLE = 30_000_000
"""Accesses up to which it does too, some 10 s of work: at the first start each process compiles for itself (12 runs of
the bundled trace: 33 s of CPU time here, 60 s in two)."""

RESULTS = {
    "decode_tokens_per_s": "tokens/s",
    "total_s": "all",
    "hit_rate": "hits",
    "gap_closed": "of the gap",
    "of_optimum": "of optimum",
    "bytes_loaded": "loaded",
    "decode_bytes_per_token": "a token",
    "prefetch_issued_bytes": "prefetched",
    "admitted_issued_bytes": "uploaded",
}
"""Columns of results, with their headings; those that no run has are left out (the last two: that are 0 in all)."""


@click.command(cls=Sections)
@click.argument("trace", required=False)
@compared_options
@click.option(
    "--jobs", type=click.IntRange(min=1), help="Processes.  [default: one for few or short runs, else all cores]"
)
@json_option
@click.option("--csv", "csv_path", metavar="FILE", help="Write all columns of the table of results as CSV.")
@click.option("--plot", "plot_path", metavar="FILE", help="Draw a point for each run: .png, .svg or .pdf.")
@figure_options
def compare(
    trace: str | None,
    jobs: int | None,
    json_path: str | None,
    csv_path: str | None,
    plot_path: str | None,
    **options: Any,
) -> None:
    """Run every combination of some policies, cache sizes, prefetchers and miss actions; the best first.

    Other options with a value take lists too, as --batch 1,4 or --hardware rtx-3090,rtx-4090 (but --expert-bytes,
    --set, --engine). Semicolons stand between values with commas of their own: --cache '8,8,16;2x'.

    With --hardware by tokens per second, else by hit rate. It ends with the combination to take, and why: one that
    knows the future, or changes what the model computes, is shown and not recommended. To keep the table, see lrcsim
    sweep.
    """
    from lrcsim.base.errors import ConfigError
    from lrcsim.sweeps import compare as compared
    from lrcsim.sweeps import divide, in_processes, in_this_process
    from lrcsim.sweeps.run import run_in_memory
    from lrcsim.traces import RoutingTrace
    from lrcsim.traces.trace import BUNDLED

    check_picture(plot_path)
    lists = {name: options.pop(name) for name in listed()}
    told = given(options | {name: value for name, value in lists.items() if name not in DRAFTS})
    told = {name: value for name, value in told.items() if name not in lists}
    choices = choices_of(lists)
    spec = compared.comparison_spec(trace or next(iter(BUNDLED)), choices, told)
    plan = divide(dataclasses.replace(spec, source="compare"))
    tasks = plan.tasks()
    processes = min(jobs or _processes(trace, len(tasks)), len(tasks))
    with progress_bar(f"{len(plan.runs):,} runs") as progress:
        workers = in_processes(processes) if processes > 1 else in_this_process
        table = run_in_memory(plan, workers=workers, progress=progress)
    order = dict.fromkeys((*compared.CHOICES, *choices))
    varying = [name for name in order if len(choices.get(name, ())) > 1 and len(table[name].unique()) > 1]
    found = compared.compare(table, Path.cwd(), [name for name in varying if name not in compared.CHOICES])
    if len(found.failed) == len(found.rows):
        raise ConfigError(f"none of {len(found.rows):,} runs can be done, the first not for: {found.rows[0]['error']}")
    sentences = recommendation(found, varying)
    if csv_path is not None:
        write_csv(csv_path, found.rows)
    if plot_path is not None:
        _plot(plot_path, found, varying)
    if answer(json_path, lambda: _document(found, varying, sentences), "compare"):
        _show(found, varying)
        for sentence in sentences:
            console().print(quoted(sentence))
        for error, names in failures(found, varying).items():
            console().print(f"[yellow]Note:[/yellow] {quoted(f'not run: {names}: {error}')}")
        if is_bundled(trace) and found.by != "hit_rate":
            with RoutingTrace.open(trace) as opened:
                say_toy(opened)


def _processes(path: str | None, tasks: int) -> int:
    """Return how many processes do some tasks on a trace, if nobody says it."""
    from lrcsim.traces import RoutingTrace

    if tasks <= FEW:
        return 1
    with RoutingTrace.open(path) as trace:
        accesses = math.prod(trace.columns["experts"].shape)
    return 1 if tasks * accesses <= LITTLE else usable_cores()


def _shown(found: Comparison) -> list[str]:
    first = [found.by, *(name for name in RESULTS if name != found.by)]
    return [name for name in first if any(_has(row, name) for row in found.rows)]


def _has(row: dict[str, Any], name: str) -> bool:
    return bool(row[name]) if name.endswith("issued_bytes") else row[name] is not None


SETTLED = ("trace", "model", "hardware", "runtime", "dtype", "scope", "access")
"""Columns that say what all runs are of, those that are not compared."""


def _document(found: Comparison, varying: list[str], sentences: list[str]) -> dict[str, Any]:
    from lrcsim.sweeps.compare import CHOICES

    names = [*CHOICES, *(name for name in varying if name not in CHOICES)]
    fields = [*names, *RESULTS, "error"]
    rows = [{name: row[name] for name in fields} for row in found.rows]
    taken = [{name: one.best[name] for name in names} for one in found.recommended]
    first = found.rows[0]
    config = {name: first[name] for name in SETTLED if name not in varying}
    return {
        "config": config,
        "compared": varying,
        "by": found.by,
        "rows": rows,
        "recommended": taken,
        "why": sentences,
    }


CELLS: dict[str, Callable[[Any], str]] = {
    "decode_tokens_per_s": "{:,.2f}".format,
    "total_s": seconds,
    "hit_rate": percent,
    "gap_closed": percent,
    "of_optimum": percent,
    "bytes_loaded": human_bytes,
    "decode_bytes_per_token": human_bytes,
    "prefetch_issued_bytes": human_bytes,
    "admitted_issued_bytes": human_bytes,
}


def _show(found: Comparison, varying: list[str]) -> None:
    from lrcsim.sweeps.compare import CHOICES

    out, first = console(), found.rows[0]
    same = [f"{name} {first[name]}" for name in CHOICES if name not in varying and first[name] not in (None, "none")]
    where = "" if "hardware" in varying or first["hardware"] is None else f" on {first['hardware']}"
    under = "" if "runtime" in varying or first["runtime"] in (None, "ideal") else f" under {first['runtime']}"
    out.print(
        f"[bold]{quoted(first['model'] or first['trace'])}[/bold]{quoted(where + under)}: "
        f"{_count(found)}, the best first" + quoted("".join(f", {one}" for one in same))
    )
    names, results = varying or ["policy"], _shown(found)
    advised = [one.best for one in found.recommended[:1]]
    cells = []
    for row in found.rows:
        if row["error"] is not None:
            continue
        line = [quoted(choice_text(name, row[name])) for name in names]
        line += ["–" if row[name] is None else CELLS[name](row[name]) for name in results]
        cells.append([f"[bold]{cell}[/bold]" for cell in line] if row in advised else line)
    out.print()
    left = range(len(names))
    print_rows(
        [*(HEADINGS.get(name, name) for name in names), *(RESULTS[name] for name in results)],
        cells,
        left=left,
        whole=left,
    )
    out.print()


def _count(found: Comparison) -> str:
    """Say how many runs there are, and of how many there is nothing to show."""
    runs, failed = len(found.rows), len(found.failed)
    return f"{runs - failed:,} of {runs:,} runs" if failed else f"{runs:,} runs"


def _plot(path: str, found: Comparison, varying: list[str]) -> None:
    """Draw a point for each run that went well, a series for each cache size."""
    import numpy as np

    from lrcsim.plots.charts import NameRow, draw_names
    from lrcsim.sweeps.compare import PLAIN

    names = ["policy", *(name for name in varying if name not in ("cache", "policy"))]
    good = [row for row in found.rows if row["error"] is None]

    def shown(row: dict[str, Any]) -> str:
        return ", ".join(
            choice_text(name, row[name])
            for name in names
            if row[name] not in (None, PLAIN.get(name)) or name == "policy"
        )

    scale = 100 if found.by == "hit_rate" else 1
    what = list(dict.fromkeys(shown(row) for row in good))
    values = {(row["cache"], shown(row)): scale * row[found.by] for row in good if row[found.by] is not None}
    sizes = list(dict.fromkeys(row["cache"] for row in good))
    series = [
        NameRow(f"cache {size}", what, np.array([values.get((size, one), np.nan) for one in what])) for size in sizes
    ]
    label = {"hit_rate": "hit rate [%]", "decode_tokens_per_s": "decode [tokens/s]", "total_s": "time [s]"}[found.by]
    where = "" if good[0]["hardware"] is None else f" on {good[0]['hardware']}"
    draw_names(path, {f"{good[0]['model'] or good[0]['trace']}{where}": series}, label)
