"""`lrcsim run`: replay a trace through one cache."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from lrcsim.base.text import capacity_text, human_bytes, percent, quoted
from lrcsim.cli.bundled import check_model, is_bundled, say_next, say_toy
from lrcsim.cli.machine import served_text, show_time
from lrcsim.cli.options import given, refuse_without_machine, run_options
from lrcsim.cli.output import answer, console, figure_options, json_option, progress_bar
from lrcsim.cli.provenance import provenance
from lrcsim.cli.routed import rule_text
from lrcsim.cli.sections import Sections
from lrcsim.cli.tables import print_rows
from lrcsim.cli.trace_words import size_text
from lrcsim.plots.figure import check_picture

if TYPE_CHECKING:
    from lrcsim.simulator import Result


@click.command(cls=Sections)
@click.argument("trace", required=False)
@run_options("cache", "serving", "machine")
@click.option(
    "--timeline",
    metavar="FILE",
    help="Write every span as a Chrome trace: .json, or .json.gz (open it in ui.perfetto.dev).",
)
@click.option(
    "--timeline-tokens",
    metavar="FROM:TO",
    help="Only the forward passes over these tokens of the run, 100:120 for 100 to 119.  [default: all]",
)
@click.option("--plot", metavar="FILE", help="Draw time per token, link use and residency (.png, .svg, .pdf).")
@figure_options
@json_option
def run(
    trace: str | None,
    json_path: str | None,
    timeline: str | None,
    timeline_tokens: str | None,
    plot: str | None,
    **options: Any,
) -> None:
    """Replay TRACE through one expert cache and say how often the needed expert is resident.

    TRACE is an lrcsim file (see `lrcsim trace import`) or bundled:teacher-forced; without it the generated trace that
    comes with lrcsim. With --hardware also how long it takes on that machine: tokens per second, what they wait for,
    and how far that is from the best possible (docs/hierarchy.md).
    """
    from lrcsim.simulator import simulate
    from lrcsim.traces import RoutingTrace

    asked = dict(click.get_current_context().params)
    check_picture(plot)
    told = given(options)
    if "hardware" not in told:
        for flag, file in (("--timeline", timeline), ("--plot", plot)):
            if file is not None:
                refuse_without_machine(flag)
    log = timeline is not None and (timeline_tokens is None or _window(timeline_tokens))
    if timeline_tokens is not None and timeline is None:
        raise click.UsageError("--timeline-tokens is of a timeline: give --timeline FILE with it")
    bundled = is_bundled(trace)
    with RoutingTrace.open(trace) as opened:
        if bundled:
            check_model(opened, told)
        with progress_bar(f"replaying {opened.num_tokens:,} tokens") as progress:
            result = simulate(opened, progress=progress, log=log, samples=plot is not None, **told)
        if timeline is not None:
            from lrcsim.plots.chrome_trace import write_timeline

            written = write_timeline(timeline, result)
        if plot is not None:
            from lrcsim.plots.time import plot_time

            plot_time(result, plot)
        if answer(json_path, lambda: result.to_dict() | {"provenance": provenance(opened, asked)}, "run"):
            _show(result)
            if result.timed is not None:
                if bundled:
                    say_toy(opened)
                show_time(result)
            if timeline is not None:
                console().print(
                    f"timeline: {quoted(timeline)}, {human_bytes(written.bytes)}, {written.spans:,} spans of "
                    f"{written.passes:,} forward passes; open it in ui.perfetto.dev"
                )
            for warning in result.warnings:
                console().print(f"[yellow]Note:[/yellow] {quoted(warning)}")
            if trace is None:
                say_next(opened, told.get("hardware"))


def _window(text: str) -> tuple[int, int]:
    """Read ``100:120``.

    Raises:
        ConfigError: it is no range of tokens.
    """
    from lrcsim.base.errors import ConfigError

    match = re.fullmatch(r"([0-9]{1,15}):([0-9]{1,15})", text.strip())
    if match is None or int(match[1]) >= int(match[2]):
        raise ConfigError(
            f"--timeline-tokens {text!r} is no range: write the first token and the one behind the last, as 100:120"
        )
    return int(match[1]), int(match[2])


def _show(result: Result) -> None:
    from lrcsim.traces import DECODE, PREFILL

    data = quoted(result.to_dict())
    cache, config, trace = data["cache"], data["config"], data["trace"]
    out = console()
    phases = f"prefill as {config['prefill']}, " if config["prefill"] else ""
    requests = config.get("requests", trace["requests"])
    out.print(
        f"[bold]{trace['model']}[/bold]: {size_text(trace['tokens'], requests)}, "
        f"{trace['num_layers']} MoE layers x {trace['num_experts']} experts, top-{trace['top_k']}"
    )
    out.print(
        f"cache [bold]{config['cache']}[/bold] = {capacity_text(config)}, access {config['access']}, {phases}"
        f"{'warm' if config['warm'] else 'emptied'} between requests{served_text(config)}"
    )
    columns: list[tuple[str, Any]] = [("overall", None)]
    columns += [(name, phase) for name, phase in (("prefill", PREFILL), ("decode", DECODE)) if result.tokens(phase)]
    if len(columns) == 2:  # one phase only: it is the overall
        columns = columns[:1]
    mine = [percent(result.hit_rate if phase is None else result.phase_rate(phase)) for _, phase in columns]
    mine_is = " + ".join(filter(None, (config["policy"], config.get("route"))))
    rows = [[f"[bold]{value}[/bold]" for value in (mine_is, *mine)]]
    if result.routing is not None:
        without = result.routing.without
        rates = [percent(without.hit_rate if phase is None else without.phase_rate(phase)) for _, phase in columns]
        rows.append([f"{config['policy']} without {data['route']['rule']}", *rates])
    references = [("lru", result.lru), *result.bounds.items()]
    for name, bound in references:
        if bound is None or name == config["policy"]:
            continue
        exceeds = "no policy exceeds" if bound.proven else "no policy exceeds on demand"
        label = {"lru": "lru", "upper": exceeds}.get(name, f"{name} ({bound.kind})")
        shown = {"overall": bound.hit_rate, "prefill": bound.prefill_hit_rate, "decode": bound.decode_hit_rate}
        rows.append([label, *(percent(shown[column]) for column, _ in columns)])
    out.print()
    print_rows(["hit rate", *(name for name, _ in columns)], rows, gap=3)
    out.print()
    if len(columns) > 1 and any(bound.kind == "optimum" for bound in result.bounds.values()):
        out.print("the optimum is proven for all accesses together; its prefill and decode are those of the same run")
    if result.gap_closed is not None and config["policy"] not in ("lru", "belady", "belady-bypass"):
        share, compared = percent(abs(result.gap_closed)), result.compared_with
        best = "next-use heuristic" if compared is None or compared.kind == "heuristic" else compared.kind
        verb = "closes" if result.gap_closed >= 0 else "falls below LRU by"
        out.print(f"{config['policy']} {verb} {share} of the gap between LRU and the {best}")
    if result.routing is not None:
        out.print(rule_text(data["route"]))
    if "low_copy" in data:
        out.print(low_copy_text(data["low_copy"]))
    out.print(
        f"{cache['accesses']:,} accesses, {cache['misses']:,} misses ({cache['cold_misses']:,} cold), "
        f"{cache['evictions']:,} evictions"
        + (f", {cache['bypassed']:,} bypassed" if cache["bypassed"] else "")
        + (f", {trace['unrecorded']:,} positions not recorded" if trace["unrecorded"] else "")
    )
    if cache["bytes_loaded"] is not None:
        per_token = [
            f"{human_bytes(cache[name]['bytes_per_token'])} per {name + ' ' if trace['has_phases'] else ''}token"
            for name in ("prefill", "decode")
            if cache[name]["bytes_per_token"] is not None
        ]
        out.print(f"loaded {human_bytes(cache['bytes_loaded'])}: {', '.join(per_token)}")


def low_copy_text(low: dict[str, Any]) -> str:
    """Say what is in low precision: ``low_copy`` of the JSON of `lrcsim run`."""
    told = f"{low['dtype']}: {low['experts']:,} of {low['of_experts']:,} experts, those used least in the profile"
    if low["choices"] is not None:
        told += f"; {percent(low['choices'])} of the router's choices"
    return told + (f", {percent(low['weight'])} of its weight" if low["weight"] is not None else "")
