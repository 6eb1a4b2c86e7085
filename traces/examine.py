"""Read a trace file from beginning to end, and list what is wrong with it, or odd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lrcsim.base.errors import TraceError
from lrcsim.traces.artefacts import Artefacts
from lrcsim.traces.check import Problem, check_tokens
from lrcsim.traces.trace import RoutingTrace

MAX_PROBLEMS = 20
"""How many places are described one by one; the rest is only counted."""


def check_file(
    path: str | Path, tokens_per_read: int = 16_384, progress: Callable[[int, int], None] | None = None
) -> list[Problem]:
    """Read a trace file from beginning to end, in bounded memory, and return every kind of fault found in it.

    Args:
        path: an lrcsim trace file.
        tokens_per_read: tokens held in memory at a time.
        progress: called with the tokens read and all tokens.

    Returns:
        An empty list when the trace is good.
    """
    return examine_file(path, tokens_per_read, progress)[0]


def examine_file(
    path: str | Path, tokens_per_read: int = 16_384, progress: Callable[[int, int], None] | None = None
) -> tuple[list[Problem], list[Problem]]:
    """Read a trace file as `check_file` does, with the same arguments, and look for artefacts of recorders too.

    Returns:
        What is wrong, and what is worth a look in a trace that is not (`lrcsim.traces.artefacts`); nothing of the
        second where there is any of the first.
    """
    try:
        trace = RoutingTrace.open(path)
    except TraceError as error:
        said = str(error).removeprefix(f"{path}: ").removeprefix(f"{Path(path).resolve()}: ")
        return [Problem(str(path), said)], []
    with trace:
        merged: dict[str, Problem] = {}
        artefacts = Artefacts(trace.layers, trace.offsets)
        for low in range(0, trace.num_tokens, tokens_per_read):
            high = min(low + tokens_per_read, trace.num_tokens)
            try:
                columns = {name: trace.read_unchecked(name, low, high) for name in trace.columns}
            except TraceError as error:
                return [*merged.values(), Problem(f"tokens {low}..{high - 1}", str(error))], []
            for problem in check_tokens(columns, trace.layers, low):
                kind = problem.what.split(",")[0].translate(str.maketrans("", "", "0123456789.-"))
                seen = merged.get(kind)
                merged[kind] = Problem(seen.where, seen.what, seen.count + problem.count) if seen else problem
            if not merged:
                artefacts.see(columns, low)
            if progress is not None:
                progress(high, trace.num_tokens)
    return list(merged.values())[:MAX_PROBLEMS], [] if merged else artefacts.warnings()
