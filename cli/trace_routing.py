"""`lrcsim trace info`: what the routing itself is like, as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrcsim.base.text import percent
from lrcsim.cli.output import console, progress_bar
from lrcsim.cli.screen import echo
from lrcsim.cli.tables import print_rows

if TYPE_CHECKING:
    from lrcsim.traces import RoutingTrace

MOST_IDS = 1 << 24
"""Expert ids (tokens x layers x k) of a trace whose routing is looked at without being asked: some four seconds."""


def routing_facts(opened: RoutingTrace, asked: bool | None) -> dict[str, Any] | None:
    """Work out the report on a trace's routing, as JSON values.

    Args:
        opened: the trace.
        asked: whether to; None: where it has `MOST_IDS` expert ids at most.

    Returns:
        As `TraceReport.to_dict`, with its ``warnings``; None where it is not wanted.
    """
    shape = opened.columns["experts"].shape
    if asked is False or (asked is None and shape[0] * shape[1] * shape[2] > MOST_IDS):
        return None
    from lrcsim.simulator.metrics.trace_report import report_on

    with progress_bar("looking at the routing", after=2.0) as progress:
        report = report_on(opened, progress=progress)
    return {**report.to_dict(), "warnings": report.warnings()}


def print_routing(routing: dict[str, Any]) -> None:
    """Print what `routing_facts` found."""
    rows = []
    for one in routing["batches"]:
        name = f"{one['batch']} request{'s' * (one['batch'] != 1)}, a token each"
        rows.append([name, *_sizes(one), f"{one['picks']:,.0f}", f"{one['even']:,.1f}"])
    for one in routing["working_sets"]:
        name = {"request": "a request", "trace": "the trace"}.get(one["tokens"], f"{one['tokens']} tokens in a row")
        rows.append([name, *_sizes(one), "", ""])
    if rows:
        console().print("\n[bold]experts that a layer uses[/bold], and r: these over a cache of 1x, 2x, 4x")
        print_rows(["in", "mean", "90 %", "r 1x", "2x", "4x", "picks", "even"], rows, whole=(0,))
    facts = [_reuse(routing["reuse"]), _repeats(routing["repeats"])]
    if routing["position_locked"]:
        facts.append(("lengths", "all requests have the same: in a batch each is at the same place"))
    if routing["confidence"] is not None and routing["confidence"]["pairs"]:
        facts.append(_confidence(routing["confidence"]))
    console().print()
    print_rows(["", ""], [[f"[bold]{name}[/bold]", text] for name, text in facts], left=(0, 1), whole=(0,))
    for warning in routing["warnings"]:
        echo(f"Warning: {warning}")


def _sizes(one: dict[str, Any]) -> list[str]:
    return [f"{one['mean']:,.1f}", f"{one['p90']:,}", *(f"{r:.2f}" for r in one["over_capacity"].values())]


def _reuse(reuse: dict[str, Any]) -> tuple[str, str]:
    if reuse["cold_share"] is None or reuse["lru_slots"]["p50"] is None:
        return "reuse", "no expert is used twice"
    slots, tokens = reuse["lru_slots"], reuse["tokens"]
    longest = f"{tokens['p99']:,}" + " or more" * (tokens["p99"] == reuse["tokens_up_to"])
    return "reuse", (
        f"50, 90, 99 % hit in LRU caches of {slots['p50']:,}, {slots['p90']:,}, {slots['p99']:,} experts a layer, "
        f"and come within {tokens['p50']:,}, {tokens['p90']:,}, {longest} tokens; "
        f"{percent(reuse['cold_share'])} of the accesses are first uses"
    )


def _repeats(told: dict[str, Any]) -> tuple[str, str]:
    name, left_out = told["compared"], f"; {told['left_out']:,} not compared" * bool(told["left_out"])
    if not told["requests"]:
        return f"same {name}", "not to be told: nothing is known of their tokens"
    return f"same {name}", (
        f"{told['duplicates']:,} of {told['requests']:,} by {told['by']}, {told['near']:,} more share half; "
        f"{percent(told['repeated_share'])} of their tokens come in a beginning that an earlier one has{left_out}"
    )


def _confidence(found: dict[str, Any]) -> tuple[str, str]:
    spread = ", ".join(percent(found[f"p{q}"]) for q in (10, 50, 90))
    return "router", (
        f"the first choice has {percent(found['first_share'])} of the weight ({percent(found['even'])} if all were "
        f"alike); 10, 50, 90 % of the tokens up to {spread}"
    )
