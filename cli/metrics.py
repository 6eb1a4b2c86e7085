"""What `lrcsim srp` and `lrcsim sch` share: several traces, lists of segment lengths, JSON and CSV of arrays."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lrcsim.base.errors import ConfigError
from lrcsim.base.text import quoted
from lrcsim.cli.output import console

if TYPE_CHECKING:
    from lrcsim.traces import RoutingTrace

OPTIONS = (
    click.option(
        "--bootstrap",
        default=1000,
        show_default=True,
        type=click.IntRange(min=0),
        help="Resamples of requests for the confidence interval; 0: none.",
    ),
    click.option("--confidence", default=95.0, show_default=True, type=float, help="Of the intervals, in percent."),
    click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the resamples."),
    click.option(
        "--jobs", type=click.IntRange(min=1), help="Threads; the result does not depend on it.  [default: all]"
    ),
)


def metric_options(command: Any) -> Any:
    """Add the options of intervals and threads to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@contextmanager
def opened_traces(names: Sequence[str]) -> Iterator[dict[str, RoutingTrace]]:
    """Open traces, by a label for each: its model's name or, where that is not unique, its file's.

    Args:
        names: files; none: the trace that comes with lrcsim.

    Raises:
        TraceError: a file is no trace.
    """
    from lrcsim.traces import RoutingTrace

    with ExitStack() as stack:
        traces = [stack.enter_context(RoutingTrace.open(name)) for name in names or (None,)]
        for labels in (
            [trace.model for trace in traces],
            [Path(name).stem for name in names],
            [str(name) for name in names],
            [f"{name} ({i})" for i, name in enumerate(names, start=1)],
        ):
            if len(set(labels)) == len(traces):
                break
        yield dict(zip(labels, traces, strict=True))


def segments_of(text: str | None, traces: Iterable[RoutingTrace], *, fits: bool = True) -> list[int]:
    """Read ``"4,16,64"``, without repeats; None: those of the paper's lengths that every trace has segments of.

    Raises:
        ConfigError: the text is no list of whole numbers above 0, or (None) no length of the paper's fits.
    """
    from lrcsim.simulator.metrics.windows import PAPER_SEGMENTS

    if text is None:
        longest = min(int((trace.offsets[1:] - trace.offsets[:-1]).max()) for trace in traces)
        found = [m for m in PAPER_SEGMENTS if m <= longest or not fits]
        if not found:
            raise ConfigError(f"no request has {PAPER_SEGMENTS[0]} tokens, say how long a segment is: -m {longest}")
        return found
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"-m {text!r} is not understood: give numbers of tokens with commas between, as 4,16,64,256")
    return list(dict.fromkeys(int(part) for part in parts))


def print_table(title: str, rows: Sequence[Mapping[str, Any]], *, note: str = "") -> None:
    """Print rows of equal keys under a title; text stands left, what is given as a number right."""
    from rich.table import Table

    out = console()
    out.print(f"[bold]{quoted(title)}[/bold]" + (f"\n{note}" if note else ""))
    out.print()
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for i, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(quoted(str(value)) for value in row.values()))
    out.print(table)
    out.print()


def write_csv(path: str, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows of equal keys; None and NaN as empty cells. The file appears complete or not at all.

    Raises:
        TraceError: the file cannot be written.
    """
    from lrcsim.base.files import replacing

    rows = list(rows)
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()})
