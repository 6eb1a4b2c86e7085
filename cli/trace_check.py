"""`lrcsim trace check`: what is wrong with a trace."""

from __future__ import annotations

import click

from lrcsim.base.errors import TraceError
from lrcsim.cli.output import answer, json_option, progress_bar
from lrcsim.cli.screen import echo
from lrcsim.cli.trace_words import size_text, trace_argument


@click.command()
@trace_argument
@json_option
def check(path: str | None, json_path: str | None) -> None:
    """Read a trace from beginning to end and list what is wrong with it; exit code 1 if anything is.

    Warnings are about what a model hardly ever does and a recorder that reads the wrong memory does: rows that repeat,
    experts that never come twice, layers that never change. The trace is good all the same; exit code 0.

    TRACE is an lrcsim trace file; without it, the trace that comes with lrcsim.
    """
    from lrcsim.traces import RoutingTrace
    from lrcsim.traces.examine import examine_file

    if path is None or path.startswith("bundled:"):
        with RoutingTrace.open(path) as opened:
            path = str(opened.path)
    with progress_bar("checking") as progress:
        problems, warnings = examine_file(path, progress=progress)
    listed = {
        kind: [{"where": one.where, "what": one.what, "count": one.count} for one in found]
        for kind, found in (("problems", problems), ("warnings", warnings))
    }
    shown = answer(json_path, {"trace": path, "good": not problems, **listed}, "trace-check")
    if not problems:
        if shown:
            with RoutingTrace.open(path) as opened:
                looks = f", with {len(warnings)} warning{'s' * (len(warnings) != 1)}:" if warnings else ""
                echo(f"{path}: good, {size_text(opened.num_tokens, opened.num_requests)}{looks}")
            for warning in warnings:
                echo(f"Warning: {warning}")
        return
    if len(problems) == 1:
        first = str(problems[0])
        raise TraceError(first if first.startswith(path) else f"{path}: {first}")
    if shown:
        for problem in problems:
            echo(str(problem))
    raise TraceError(f"{path}: {len(problems)} kinds of problem, the first at {problems[0]}")
