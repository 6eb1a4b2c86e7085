"""What `lrcsim srp`, `sch` and `balance` share: traces, segment lengths, intervals, and where results go.

Each measures every trace in segments of every length (`measured`) and hands the results out (`handed_out`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lrcsim.base.errors import ConfigError
from lrcsim.base.tables import write_csv
from lrcsim.cli.output import answer, json_option, options, progress_bar

if TYPE_CHECKING:
    from lrcsim.traces import RoutingTrace

Found = TypeVar("Found")

jobs_option = click.option(
    "--jobs", type=click.IntRange(min=1), help="Threads; the result does not depend on it.  [default: all]"
)

segments_option = click.option(
    "-m",
    "--segment",
    metavar="LENGTHS",
    help="Tokens in a segment, with commas between.  [default: 4,16,64,256, those that fit]",
)

metric_options = options(
    click.option(
        "--bootstrap",
        default=1000,
        show_default=True,
        type=click.IntRange(min=0),
        help="Resamples of requests for the confidence interval; 0: none.",
    ),
    click.option("--confidence", default=95.0, show_default=True, type=float, help="Of the intervals, in percent."),
    click.option("--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of the resamples."),
    jobs_option,
    json_option,
    click.option("--csv", "csv_path", metavar="FILE", help="Write all values as CSV, a row for each."),
)


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
        yield dict(zip(unique_labels([trace.model for trace in traces], names), traces, strict=True))


def unique_labels(models: Sequence[str], names: Sequence[str]) -> list[str]:
    """Return a label for each trace: its model's name or, where that is not unique, its file's."""
    for labels in (
        list(models),
        [Path(name).stem for name in names],
        [str(name) for name in names],
        [f"{name} ({i})" for i, name in enumerate(names, start=1)],
    ):
        if len(set(labels)) == len(models):
            break
    return labels


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


def measured(
    traces: Mapping[str, RoutingTrace], segments: Iterable[int], measure: Callable[..., Iterable[Found]]
) -> dict[str, list[Found]]:
    """Measure every trace in segments of every length, each with a progress bar.

    Args:
        traces: by label.
        segments: tokens in a segment.
        measure: takes a trace, a length and ``progress``; returns results.

    Returns:
        All results of each trace, by label.
    """
    results: dict[str, list[Found]] = {label: [] for label in traces}
    for label, trace in traces.items():
        for m in segments:
            with progress_bar(f"{label}, m = {m}") as progress:
                results[label] += measure(trace, m, progress=progress)
    return results


def handed_out(
    kind: str,
    data: Any,
    rows: Iterable[Mapping[str, Any]],
    plot: Callable[[str], None],
    json_path: str | None,
    csv_path: str | None,
    plot_path: str | None,
) -> bool:
    """Write results where options ask for it: JSON, CSV, a figure; return whether they are to be shown as text too.

    Args:
        kind: of the JSON.
        data: the JSON.
        rows: of the CSV.
        plot: draws into a file.
        json_path: what ``--json`` was given.
        csv_path: what ``--csv`` was given.
        plot_path: what ``--plot`` was given.
    """
    shown = answer(json_path, data, kind)
    if csv_path is not None:
        write_csv(csv_path, rows)
    if plot_path is not None:
        plot(plot_path)
    return shown
