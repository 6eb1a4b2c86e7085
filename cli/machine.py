"""What `lrcsim run --hardware` adds: the options of a machine, and the part of the output that is about time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from lrcsim.base.text import human_bytes, quoted, short_dtype
from lrcsim.cli.output import console
from lrcsim.plots.figure import check_picture

if TYPE_CHECKING:
    from lrcsim.simulator import Result
    from lrcsim.simulator.time.outcomes import Outcome

__all__ = ["machine_of", "machine_options", "served_of", "served_options", "served_text", "show_time"]

SERVED = [
    click.option("--batch", type=int, metavar="N", help="Requests at once; a step uses the union.  [default: 1]"),
    click.option(
        "--batching", metavar="continuous|static", help="When waiting requests join the batch.  [default: continuous]"
    ),
    click.option("--draft", type=int, metavar="N", help="Speculative decoding: tokens drafted for each step."),
    click.option(
        "--acceptance",
        metavar="RATE|LIST",
        help="How many drafts are accepted: a rate, or counts: 2,0,3. [default: 0.7]",
    ),
    click.option(
        "--arrivals", metavar="poisson:RATE|FILE", help="When requests arrive: per second, or a file of seconds."
    ),
    click.option("--seed", type=int, metavar="N", help="Of acceptance and arrivals.  [default: 0]"),
]


class _MissOption(click.Option):
    """``--miss``, with the help that the registry has; it is imported when somebody reads it."""

    @property
    def help(self) -> str | None:
        from lrcsim.simulator.time.miss_actions import ACTIONS

        names = ", ".join(f"{action.name}{action.takes}" for action in ACTIONS.values())
        return (
            f"{names}, file.py:Class; W: below this share of a token's router weight; keep=N: never a token's first N "
            "(1). --miss help says more.  [default: load]"
        )

    @help.setter
    def help(self, _: str | None) -> None:
        """Leave it: click sets what it was given, and that is nothing."""


def _describe_actions(context: click.Context, _: click.Parameter, value: str | None) -> str | None:
    """Print what each miss action does, and end, where ``help`` is asked for."""
    if value == "help":
        from lrcsim.simulator.time.miss_actions import ACTIONS

        for action in ACTIONS.values():
            click.echo(f"{action.name}{action.takes}\n    {action.summary}")
            for param in action.params:
                click.echo(f"    {param.name}: {param.help} (default {param.default})")
        click.echo("file.py:Class, package.module:Class\n    Your own, derived from lrcsim.simulator.time.MissAction.")
        context.exit()
    return value


OPTIONS = [
    click.option("--hardware", metavar="NAME|FILE", help="Machine to run on; lrcsim hardware lists them."),
    click.option(
        "--model", metavar="NAME|config.json", help="The model's geometry.  [default: the one the trace names]"
    ),
    click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="One value: pcie.bandwidth=25.6GB/s. Repeatable."
    ),
    click.option("--dtype", metavar="NAME", help="How weights are stored: bf16, q4_k_m, mxfp4, q4_k,down=q6_k ..."),
    click.option("--overlap/--no-overlap", default=None, help="Whether transfers run beside compute.  [default: yes]"),
    click.option(
        "--miss",
        cls=_MissOption,
        metavar="ACTION",
        is_eager=True,
        callback=_describe_actions,
    ),
    click.option(
        "--prefetch",
        metavar="NAME",
        help="none, oracle:D, next-gate, popularity, temporal, transition, trace-match, file.py:Class. [default: none]",
    ),
    click.option("--dram", metavar="SIZE", help="Room for experts in main memory, the rest on flash: 32GiB, 50%."),
    click.option("--dram-policy", metavar="NAME", help="Eviction policy there.  [default: lru]"),
    click.option("--engine", metavar="auto|events|compiled", help="Which engine.  [default: auto]"),
    click.option("--timeline", metavar="FILE", help="Write every span as a Chrome trace (open it in ui.perfetto.dev)."),
    click.option("--plot", metavar="FILE", help="Draw time per token, link use and residency (.png, .svg, .pdf)."),
]


def served_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a server, which runs several requests at once, to a command."""
    for option in reversed(SERVED):
        command = option(command)
    return command


def served_of(options: dict[str, Any]) -> dict[str, Any]:
    """Take these options out of all, as keywords of `simulate`.

    Raises:
        ConfigError: --acceptance is no rate and no list, or stands without --draft.
    """
    from lrcsim.base.errors import ConfigError

    names = ("batch", "batching", "draft", "acceptance", "arrivals", "seed")
    given = {name: value for name in names if (value := options.pop(name)) is not None}
    draft, acceptance = given.pop("draft", None), given.pop("acceptance", None)
    if draft is not None:
        from lrcsim.simulator.serving.batching import parse_acceptance

        given["speculative"] = (draft, parse_acceptance(acceptance or "0.7"))
    elif acceptance is not None:
        raise ConfigError("--acceptance is that of drafts: say how many with it, as --draft 3")
    return given


def served_text(config: dict[str, Any]) -> str:
    """Say how requests are run together, empty for one at a time."""
    if "batch" not in config:
        return ""
    text = f", batch {config['batch']} ({config['batching']})"
    if config["speculative"]:
        drafts, accepted = config["speculative"]
        text += f", {drafts} drafts accepted at {accepted}" if isinstance(accepted, float) else f", {drafts} drafts"
    arrivals = config["arrivals"]
    return text + ("" if arrivals is None else f", arrivals {arrivals if isinstance(arrivals, str) else 'as listed'}")


LOADS = {True: "optimal policy", False: "fewest bytes of any policy"}


def machine_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a machine to a command."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def machine_of(options: dict[str, Any], *, timeline: str | None, plot: str | None) -> dict[str, Any]:
    """Return the options given, as keywords of `simulate`.

    Raises:
        ConfigError: one needs --hardware, which is missing.
    """
    from lrcsim.base.errors import ConfigError

    check_picture(plot)
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if "hardware" not in given:
        named = {**given, **({"timeline": timeline} if timeline else {}), **({"plot": plot} if plot else {})}
        if named:
            name = next(iter(named))
            option = {"overrides": "--set", "overlap": "--overlap"}.get(name, f"--{name.replace('_', '-')}")
            raise ConfigError(
                f"{option} is about time: name a machine with it, as --hardware rtx-4090 (lrcsim hardware lists them)"
            )
    return given


def show_time(result: Result) -> None:
    """Print what a run took, what for, and what could have been."""
    from rich.table import Table

    from lrcsim.simulator.time.outcomes import NOT_CACHED

    data = quoted(result.to_dict())
    time, links, config = data["time"], data["links"], data["config"]
    out = console()
    out.print()
    parts = [
        f"{config['model']} as {short_dtype(config['dtype'])}",
        f"miss: {config['miss']}",
        f"prefetch: {config['prefetch']}",
    ]
    parts += [] if config["overlap"] else ["no overlap"]
    if config["dram"] is not None:
        unit = f"{config['dram']:,} experts" if config["dram_unit"] == "experts" else human_bytes(config["dram"])
        parts.append(f"{unit} in main memory ({config['dram_policy']})")
    out.print(f"on [bold]{config['hardware']}[/bold]: {', '.join(parts)}")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for heading in ("time", "decode", "per token", "all"):
        table.add_column(heading, justify="left" if heading == "time" else "right", no_wrap=True)
    speed, per_token = time["decode_tokens_per_s"], time["decode_ms_per_token"]
    table.add_row(
        f"[bold]{config['policy']}[/bold]",
        "–" if speed is None else f"[bold]{speed:,.2f} tokens/s[/bold]",
        "–" if per_token is None else f"[bold]{per_token:,.2f} ms[/bold]",
        f"[bold]{seconds(time['total_s'])}[/bold]",
    )
    bounds, resident = time["bounds"], time["all_resident"]
    shared = bounds["compute_only"]["total_s"] < resident["total_s"] * (1 - 1e-9)
    rows = [
        (
            f"{LOADS[bounds['optimum']['reachable']]}, perfect prefetch" if "optimum" in bounds else "",
            bounds.get("optimum"),
        ),
        (f"these bytes over {bounds['link_bound']['link']} without a pause", bounds["link_bound"]),
        ("GPU and CPU computing at once, no pause" if shared else "everything resident", bounds["compute_only"]),
        ("everything resident (no bound)" if shared else "", resident if shared else None),
    ]
    for label, bound in rows:
        if bound is None or bound["ratio"] is None:
            continue
        rate = bound["decode_tokens_per_s"]
        table.add_row(
            label,
            "–" if rate is None else f"{rate:,.2f} tokens/s",
            "–" if rate is None else f"{1e3 / rate:,.2f} ms",
            f"{seconds(bound['total_s'])}  ({bound['ratio']:.2f}x)",
        )
    out.print(table)
    out.print()
    total = time["total_s"] or 1.0
    spent = [("compute", "compute_s"), ("stall", "stall_s"), ("overhead", "overhead_s")]
    line = ", ".join(f"{name} {100 * time[key] / total:.0f} %" for name, key in spent)
    binds = time["binds"]
    cpu = f" (the CPU ran missed experts for {seconds(time['cpu_s'])})" if time["cpu_s"] else ""
    out.print(f"time goes to {line}{cpu}; busiest: [bold]{binds['resource']}[/bold], {100 * binds['busy']:.0f} % of it")
    for name, use in links.items():
        if use["bytes"]:
            out.print(
                f"{name}: {human_bytes(use['bytes'])}, busy {100 * use['utilization']:.0f} %, "
                f"{use['bytes'] / use['busy_s'] / 1e9:,.2f} of {use['bandwidth'] / 1e9:,.2f} GB/s while busy"
            )
    waits = [("first token", time["ttft_ms"]), ("each further token", time["tpot_ms"])]
    shown = [f"{name} {v['p50']:,.2f} / {v['p90']:,.2f} / {v['p99']:,.2f} ms" for name, v in waits if v is not None]
    if shown:
        out.print(f"p50 / p90 / p99: {', '.join(shown)}")
    ahead = data["prefetch"]
    if ahead["issued_bytes"]:
        issued = ahead["issued_bytes"]
        useful, late, wasted = (100 * ahead[f"{name}_bytes"] / issued for name in ("useful", "late", "wasted"))
        out.print(
            f"prefetched {human_bytes(issued)}: useful {useful:.0f} %, late {late:.0f} %, wasted {wasted:.0f} %; "
            f"{ahead['displaced']:,} experts put out for it, "
            f"{ahead['displaced_missed']:,} of them missed next"
        )
    missed = data["missed"]
    came_to = [outcome for outcome in NOT_CACHED if missed[outcome.label]]
    counted = [f"{missed[outcome.label]:,} {outcome.label.replace('_', ' ')}" for outcome in came_to]
    if counted:
        both = bool(time["prefill_s"] and time["decode_s"])
        given_up = [_weight_given_up(missed, outcome, both) for outcome in came_to if outcome.lossy]
        out.print(f"misses not loaded whole: {', '.join(counted + given_up)}", soft_wrap=True)


def _weight_given_up(missed: dict[str, Any], outcome: Outcome, both_phases: bool) -> str:
    name = f"{outcome.label}_weight"
    text = f"{100 * missed[name]:.2f} % of the router weight {outcome.weight}"
    if not both_phases:
        return text
    return f"{text} (prefill {100 * missed['prefill'][name]:.2f} %, decode {100 * missed['decode'][name]:.2f} %)"


def seconds(amount: float) -> str:
    """Write seconds with a unit that suits them."""
    if amount >= 1:
        return f"{amount:,.2f} s"
    return f"{amount * 1e3:,.2f} ms" if amount >= 1e-3 else f"{amount * 1e6:,.1f} us"
