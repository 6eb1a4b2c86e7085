"""`lrcsim trace info`: what a trace holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from lrcsim.base.errors import ConfigError
from lrcsim.base.text import human_bytes, percent, quoted
from lrcsim.cli.output import answer, console, figure_options, json_option, progress_bar
from lrcsim.cli.screen import echo
from lrcsim.cli.tables import print_rows
from lrcsim.cli.trace_words import trace_argument
from lrcsim.plots.figure import check_picture

if TYPE_CHECKING:
    from lrcsim.traces import RoutingTrace


@click.command()
@trace_argument
@click.option("--quick", is_flag=True, help="Read the header only: no counts of unrecorded positions or recorded hits.")
@click.option(
    "--routing/--no-routing",
    default=None,
    help="Look at the routing itself, or not.  [default: up to 17 million expert ids]",
)
@click.option("--plot", "plot_path", metavar="FILE", help="Draw how often each expert is used: .png, .svg or .pdf.")
@figure_options
@json_option
def info(path: str | None, quick: bool, routing: bool | None, plot_path: str | None, json_path: str | None) -> None:
    """Show what a trace holds, and what its routing is like (docs/traces.md says what each line means).

    TRACE is an lrcsim trace file; without it, the trace that comes with lrcsim.
    """
    from lrcsim.cli.trace_routing import print_routing, routing_facts
    from lrcsim.traces import RoutingTrace

    if quick and routing:
        raise ConfigError("--quick reads the header only, --routing the whole trace: leave out one of them")
    if quick and plot_path is not None:
        raise ConfigError("--quick reads the header only, --plot the whole trace: leave out one of them")
    check_picture(plot_path)
    with RoutingTrace.open(path) as opened:
        with progress_bar("reading") as progress:
            facts = _facts(opened, quick, progress)
        facts["routing"] = None if quick else routing_facts(opened, routing)
        if plot_path is not None:
            from lrcsim.plots.shown import draw_trace

            draw_trace(plot_path, opened)
    if answer(json_path, facts, "trace-info"):
        _print_facts(facts)
        if facts["routing"] is not None:
            print_routing(facts["routing"])
        elif not quick and routing is None:
            echo("routing: not looked at, the trace is large; --routing does")


def _facts(opened: RoutingTrace, quick: bool, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Collect what `info` shows, as JSON values."""
    import numpy as np

    layers = opened.layers
    sizes = layers.expert_bytes
    facts: dict[str, Any] = {
        "trace": str(opened.path),
        "model": opened.model,
        "tokens": opened.num_tokens,
        "prefill_tokens": None,
        "decode_tokens": None,
        "requests": opened.num_requests,
        "domains": None if opened.domains is None else sorted(set(opened.domains)),
        "layers": len(layers),
        "stacks": {name: int((layers.stack == at).sum()) for at, name in enumerate(layers.stack_names)},
        "num_experts": _same_or_list(layers.num_experts),
        "top_k": _same_or_list(layers.top_k),
        "num_shared": _same_or_list(layers.num_shared),
        "expert_bytes": None if sizes is None else _same_or_list(sizes),
        "all_experts_bytes": None if layers.layer_bytes is None else int(layers.layer_bytes.sum()),
        "dense_bytes": None if layers.dense_bytes is None else _same_or_list(layers.dense_bytes),
        "columns": list(opened.columns),
        "positions": None,
        "unrecorded": None,
        "tokens_without_routing": None,
        "recorded_hit_rate": None,
        "file_bytes": opened.path.stat().st_size if opened.path else None,
        "provenance": opened.provenance,
    }
    if quick:
        return facts
    from lrcsim.traces.columns import mark_missing
    from lrcsim.traces.trace import DECODE

    wanted = [name for name in ("experts", "stack", "phase", "residency") if name in opened.columns]
    missing = recorded = without = decoded = hits = looked_up = 0
    for low, high in opened.blocks():
        block: dict[str, Any] = {name: opened.read(name, low, high) for name in wanted}
        missing += int(np.count_nonzero(mark_missing(block, layers)))
        held = block["experts"] >= 0
        recorded += int(np.count_nonzero(held))
        without += int(np.count_nonzero(~held.any(axis=(1, 2))))
        decode = block["phase"] == DECODE if "phase" in block else np.ones(high - low, bool)
        decoded += int(decode.sum())
        if "residency" in block:  # a prompt is looked up in one batch, so only decoded tokens have one look-up per row
            residency = block["residency"][decode][block["experts"][decode] >= 0]
            hits += int(np.count_nonzero((residency == 1) | (residency == 2)))
            looked_up += int(np.count_nonzero(residency != 255))
        progress(high, opened.num_tokens)
    facts["positions"], facts["unrecorded"] = recorded + missing, missing
    facts["tokens_without_routing"] = without
    if "phase" in opened.columns:
        facts["prefill_tokens"], facts["decode_tokens"] = opened.num_tokens - decoded, decoded
    if looked_up:
        facts["recorded_hit_rate"] = hits / looked_up
    return facts


def _same_or_list(values: Any) -> int | list[int] | list[list[int]]:
    if values.ndim == 2:
        by_expert: list[list[int]] = values.tolist()
        return by_expert
    listed = [int(value) for value in values]
    return listed[0] if len(set(listed)) == 1 else listed


def _info_shape(facts: dict[str, Any]) -> str:
    """Say the shape in one line, as an import does."""
    largest = {
        name: max(value) if isinstance(value := facts[name], list) else value for name in ("num_experts", "top_k")
    }
    layers = facts["layers"]
    mixed = ", not the same in all" if any(isinstance(facts[name], list) for name in largest) else ""
    return f"{layers:,} layer{'s' * (layers != 1)} x {largest['num_experts']:,} experts, top-{largest['top_k']}{mixed}"


def _print_facts(facts: dict[str, Any]) -> None:
    def span(value: int | list[int], show: Callable[[int], str] = "{:,}".format) -> str:
        return show(value) if isinstance(value, int) else f"{show(min(value))} to {show(max(value))}, by layer"

    def of_experts(value: int | list[int] | list[list[int]]) -> str:
        if isinstance(value, int) or not isinstance(value[0], list):
            return span(value, human_bytes)
        sizes = {size for row in value for size in row if size}
        return f"{human_bytes(min(sizes))} to {human_bytes(max(sizes))}, by expert"

    facts = quoted(facts)
    tokens = f"{facts['tokens']:,}"
    if facts["decode_tokens"] is not None:
        tokens += f" ({facts['prefill_tokens']:,} prefill, {facts['decode_tokens']:,} decode)"
    if facts["tokens_without_routing"]:
        tokens += f", {facts['tokens_without_routing']:,} of them without routing"
    requests = f"{facts['requests']:,}"
    if facts["domains"] is not None:
        names = ", ".join(facts["domains"][:8]) + (", ..." if len(facts["domains"]) > 8 else "")
        requests += f" in {len(facts['domains'])} domains: {names}"
    rows = [("model", facts["model"]), ("tokens", tokens), ("requests", requests), ("shape", _info_shape(facts))]
    if len(facts["stacks"]) > 1:
        rows.append(("MoE layers", ", ".join(f"{name} {count}" for name, count in facts["stacks"].items())))
    for name, key in (("experts per layer", "num_experts"), ("top-k", "top_k")):
        if isinstance(facts[key], list):
            rows.append((name, span(facts[key])))
    if facts["num_shared"] != 0:
        rows.append(("shared experts", span(facts["num_shared"])))
    if facts["expert_bytes"] is None:
        rows.append(("bytes per expert", "not recorded"))
    else:
        rows.append(("bytes per expert", of_experts(facts["expert_bytes"])))
        rows.append(("all experts", human_bytes(facts["all_experts_bytes"])))
    if facts["dense_bytes"] is not None:
        rows.append(("dense bytes per layer", span(facts["dense_bytes"], human_bytes)))
    if facts["unrecorded"] is not None:
        share = facts["unrecorded"] / facts["positions"] if facts["positions"] else 0.0
        rows.append(
            ("not recorded", f"{facts['unrecorded']:,} of {facts['positions']:,} expert positions ({share:.2%})")
        )
    if facts["recorded_hit_rate"] is not None:
        rows.append(("hits of the engine's cache", f"{percent(facts['recorded_hit_rate'])} in decode"))
    rows.append(("columns", ", ".join(facts["columns"])))
    if facts["file_bytes"] is not None:
        rows.append(("file", human_bytes(facts["file_bytes"])))
    for key, value in facts["provenance"].items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        rows.append((key, text if len(text) <= 200 else text[:197] + "..."))
    console().print(f"[bold]{facts['trace']}[/bold]")
    print_rows(("", ""), [(f"[bold]{name}[/bold]", value) for name, value in rows], left=(0, 1), whole=(0,))
