"""What `lrcsim srp` and `lrcsim sch` share: several traces, lists of segment lengths, options of intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lrcsim.base.errors import ConfigError
from lrcsim.cli.output import options

if TYPE_CHECKING:
    from lrcsim.traces import RoutingTrace

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
