"""`lrcsim balance`: local and global load balance of experts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from lrcsim.base.text import score, span
from lrcsim.cli.metrics import handed_out, measured, metric_options, opened_traces, segments_of, segments_option
from lrcsim.cli.output import figure_options
from lrcsim.cli.tables import print_table
from lrcsim.plots.figure import check_picture

if TYPE_CHECKING:
    from lrcsim.simulator import Balance

Results = Mapping[str, "list[Balance]"]

EXPLAINED = (
    "imbalance: how tokens of a segment share experts; all: of different requests\n"
    "0: as balanced random routing; 1: the same experts always; CV: of experts' uses"
)
GLOBAL = "all"
"""Where the segment's length stands, in the row of all tokens."""


@click.command()
@click.argument("traces", nargs=-1, metavar="[TRACE]...")
@segments_option
@click.option(
    "--by",
    "level",
    default="model",
    show_default=True,
    metavar="model|stack|layer|domain",
    help="Also of each of these.",
)
@metric_options
@click.option("--plot", "plot_path", metavar="FILE", help="Draw imbalance as --by says: .png, .svg or .pdf.")
@figure_options
def balance(
    traces: tuple[str, ...],
    segment: str | None,
    level: str,
    bootstrap: int,
    confidence: float,
    seed: int,
    jobs: int | None,
    json_path: str | None,
    csv_path: str | None,
    plot_path: str | None,
) -> None:
    """Measure how evenly experts are used: in segments of m tokens (local), and by all tokens (global).

    A model can be balanced over all tokens and not over any few in a row: then it is consistent locally (lrcsim srp).
    TRACE is an lrcsim file; several are shown together; without any, the trace that comes with lrcsim.
    """
    from lrcsim.simulator import balance as measure

    check_picture(plot_path)
    options: dict[str, Any] = {"bootstrap": bootstrap, "confidence": confidence / 100, "seed": seed}
    with opened_traces(traces) as opened:
        results: Results = measured(
            opened,
            segments_of(segment, opened.values()),
            lambda trace, m, progress: [measure(trace, m, level=level, jobs=jobs, progress=progress, **options)],  # type: ignore[arg-type]  # checked there
        )
    listed = [one.to_dict(label) for label, found in results.items() for one in found]
    data = {"level": level, **options, "results": listed}

    def plot(path: str) -> None:
        from lrcsim.plots.balance import plot_balance

        plot_balance(path, results)

    if handed_out("balance", data, _as_rows(results), plot, json_path, csv_path, plot_path):
        _show(results, confidence)


def _as_rows(results: Results) -> Iterator[dict[str, Any]]:
    """Yield a row for each value: the pooled one first, then those of the level."""
    from lrcsim.simulator.metrics.balance_metric import NUMBERS

    for label, found in results.items():
        for result in found:
            names = [] if result.level == "model" else [result.level]
            row: dict[str, Any] = {"trace": label, "segment": result.segment, **dict.fromkeys(names)}
            low, high = result.interval or (None, None)
            columns = (*NUMBERS, "windows")
            yield row | {name: getattr(result, name) for name in columns} | {"low": low, "high": high}
            if result.groups is None:
                continue
            for place in range(len(result.groups.windows)):
                key = place if result.labels is None else result.labels[place]
                arrays = {name: getattr(result.groups, name) for name in (*columns, "low", "high")}
                values = {name: None if array is None else array[place].item() for name, array in arrays.items()}
                yield row | {result.level: key} | values


def _show(results: Results, confidence: float) -> None:
    rows = [
        ({"trace": label} if len(results) > 1 else {}) | row
        for label, found in results.items()
        for row in _rows(found, f"{confidence:g} % interval")
    ]
    print_table(", ".join(results) + ": load balance of experts", rows, note=EXPLAINED)
    for label, found in results.items():
        rows = list(_group_rows(found))
        if rows:
            print_table(f"{label}: imbalance by {found[0].level}", rows)


def _rows(found: list[Balance], interval: str) -> Iterator[dict[str, str]]:
    """Yield a row for each segment length, and one for all tokens."""
    for result in found:
        yield {
            "m": f"{result.segment}",
            "imbalance": score(result.local_imbalance),
            interval: span(result.interval),
            "above global": score(result.above_global),
            "CV": score(result.local_cv),
            "CV, random": score(result.local_cv_random),
            "segments": f"{result.windows:,}",
        }
    last = found[-1]
    yield {
        "m": GLOBAL,
        "imbalance": score(last.global_imbalance),
        interval: span(last.global_interval),
        "above global": "",
        "CV": score(last.global_cv),
        "CV, random": score(last.global_cv_random),
        "segments": "",
    }


def _group_rows(found: list[Balance]) -> Iterator[dict[str, str]]:
    """Yield the rows of a level's table: a column for each m, and the global one."""
    first = found[0]
    if first.groups is None:
        return
    labels = first.labels or [str(layer) for layer in range(len(first.groups.windows))]
    for i, label in enumerate(labels):
        values = {f"m = {result.segment}": score(result.groups.local_imbalance[i]) for result in found if result.groups}
        yield {first.level: label} | values | {"global": score(first.groups.global_imbalance[i])}
