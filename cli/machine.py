"""What `lrcsim run --hardware` adds to the output: the part that is about time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrcsim.base.text import human_bytes, quoted, seconds, short_dtype
from lrcsim.cli.output import console
from lrcsim.cli.tables import print_rows

if TYPE_CHECKING:
    from lrcsim.simulator import Result
    from lrcsim.simulator.setup.outcomes import Outcome


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


def show_time(result: Result) -> None:
    """Print what a run took, what for, and what could have been."""
    from lrcsim.simulator.setup.outcomes import NOT_LOADED

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
    under = "" if config["runtime"] == "ideal" else f" under [bold]{config['runtime']}[/bold]"
    out.print(f"on [bold]{config['hardware']}[/bold]{under}: {', '.join(parts)}")
    speed, per_token = time["decode_tokens_per_s"], time["decode_ms_per_token"]
    rows = [
        (
            f"[bold]{config['policy']}[/bold]",
            "–" if speed is None else f"[bold]{speed:,.2f} tokens/s[/bold]",
            "–" if per_token is None else f"[bold]{per_token:,.2f} ms[/bold]",
            f"[bold]{seconds(time['total_s'])}[/bold]",
        )
    ]
    plain = data.get("route", {}).get("without", {})
    if plain.get("total_s") is not None:
        rate = plain["decode_tokens_per_s"]
        rows.append(
            (
                f"without {data['route']['rule']}",
                "–" if rate is None else f"{rate:,.2f} tokens/s",
                "–" if rate is None else f"{plain['decode_ms_per_token']:,.2f} ms",
                seconds(plain["total_s"]),
            )
        )
    bounds, resident = time["bounds"], time["all_resident"]
    shared = bounds["compute_only"]["total_s"] < resident["total_s"] * (1 - 1e-9)
    limits = [
        (
            f"{LOADS[bounds['optimum']['reachable']]}, perfect prefetch" if "optimum" in bounds else "",
            bounds.get("optimum"),
        ),
        (f"these bytes over {bounds['link_bound']['link']} without a pause", bounds["link_bound"]),
        ("GPU and CPU computing at once, no pause" if shared else "everything resident", bounds["compute_only"]),
        ("everything resident (no bound)" if shared else "", resident if shared else None),
    ]
    for label, bound in limits:
        if bound is None or bound["ratio"] is None:
            continue
        rate = bound["decode_tokens_per_s"]
        rows.append(
            (
                label,
                "–" if rate is None else f"{rate:,.2f} tokens/s",
                "–" if rate is None else f"{1e3 / rate:,.2f} ms",
                f"{seconds(bound['total_s'])}  ({bound['ratio']:.2f}x)",
            )
        )
    print_rows(("time", "decode", "per token", "all"), rows, gap=3)
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
    _show_uploads(data)
    missed = data["missed"]
    came_to = [outcome for outcome in NOT_LOADED if missed[outcome.label]]
    counted = [f"{missed[outcome.label]:,} {outcome.label.replace('_', ' ')}" for outcome in came_to]
    if counted:
        both = bool(time["prefill_s"] and time["decode_s"])
        given_up = [_weight_given_up(missed, outcome, both) for outcome in came_to if outcome.lossy]
        out.print(f"misses not loaded whole: {', '.join(counted + given_up)}", soft_wrap=True)


def _show_uploads(data: dict[str, Any]) -> None:
    """Print bytes by kind, where experts were admitted, or pinned anew."""
    kinds = {name: data[name] for name in ("admitted", "repinned") if data[name]["issued_bytes"]}
    if not kinds:
        return
    ahead, demand = data["prefetch"], data["cache"]["bytes_loaded"]
    rows = [("on demand", human_bytes(demand), "", "", "")]
    if ahead["issued_bytes"]:
        kinds = {"prefetched": ahead, **kinds}
    for name, use in kinds.items():
        issued = use["issued_bytes"]
        useful = use["useful_bytes"] + use.get("late_bytes", 0)
        late = f"{use['late_uses']:,}" if "late_uses" in use else f"{human_bytes(use['late_bytes'])}"
        rows.append(
            (
                {"repinned": "pinned anew"}.get(name, name),
                human_bytes(issued),
                f"{100 * useful / issued:.0f} %",
                f"{100 * use['wasted_bytes'] / issued:.0f} %",
                late,
            )
        )
    console().print()
    print_rows(("bytes by kind", "asked for", "useful", "wasted", "used too early"), rows, whole=range(5), gap=3)


def _weight_given_up(missed: dict[str, Any], outcome: Outcome, both_phases: bool) -> str:
    name = f"{outcome.label}_weight"
    text = f"{100 * missed[name]:.2f} % of the router weight {outcome.weight}"
    if not both_phases:
        return text
    return f"{text} (prefill {100 * missed['prefill'][name]:.2f} %, decode {100 * missed['decode'][name]:.2f} %)"
