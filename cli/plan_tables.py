"""The text of `lrcsim plan`: the answer first, then what it rests on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import floor, log10
from typing import TYPE_CHECKING

from lrcsim.base.text import human_bytes, percent, quoted, short_dtype
from lrcsim.cli.output import console
from lrcsim.cli.plan_answer import rate, seconds, show_answer
from lrcsim.cli.screen import echo
from lrcsim.cli.tables import print_rows

if TYPE_CHECKING:
    from lrcsim.planner import Plan
    from lrcsim.planner.rows import StrategyRow


def show_plan(plan: Plan) -> None:
    """Print a plan."""
    show_answer(plan)
    _quantisations(plan)
    _memory(plan)
    if plan.remedies is not None:
        _remedies(plan)
    if not plan.rows:
        return
    _strategies(plan)
    if plan.memory.fit != "gpu":
        _sizes(plan)
        _contexts(plan)
    _upgrades(plan)
    _flags(plan)
    _evidence(plan)
    for note in plan.notes:
        console().print(f"[yellow]Note:[/yellow] {note}")


def _quantisations(plan: Plan) -> None:
    if len(plan.quantisations) < 2:
        return
    how = {"gpu": "whole", "memory": "with main memory", "flash": "reads flash", "no": "does not fit"}
    rows = []
    for one in plan.quantisations:
        name = quoted(short_dtype(one.dtype)) + (", as released" if one.released else "")
        mark = "<- planned" if one.dtype == plan.dtype else ""
        speed = "–" if one.tokens_per_s is None else rate(one.tokens_per_s)
        who = "" if one.runtime is None else one.runtime + ("" if one.good else ", not measured")
        fit = how[one.fit] + (", tight" if one.tight and one.fit == "gpu" else "")
        rows.append((name, human_bytes(one.weights), fit, speed, who, mark))
    _print("Which quantisation", ["", "weights", "fits", "tokens/s", "with", ""], rows, (1, 3))


def _memory(plan: Plan) -> None:
    from lrcsim.models import storage

    memory = plan.memory
    rows = [
        (
            "weights of every token",
            human_bytes(memory.dense),
            "attention, routers, shared experts, dense layers, output",
        ),
        (f"KV cache, {plan.context:,} tokens", human_bytes(memory.kv), plan.kv_dtype),
        ("kept free", human_bytes(memory.reserve), "driver, desktop (--reserve)"),
    ]
    if memory.spare and memory.fit != "gpu":
        rows.append(
            (
                "kept besides",
                human_bytes(memory.spare),
                "where released engines place experts: buffers, fragments",
            )
        )
    if not memory.ram:
        rows.insert(1, ("embedding", human_bytes(memory.embedding), ""))
    left = memory.total - memory.fixed
    about = f"of {human_bytes(memory.experts)}" if left >= 0 else "missing, before any expert"
    rows.append(("left for experts", human_bytes(left) if left >= 0 else f"-{human_bytes(-left)}", about))
    _print(f"{memory.device}, {human_bytes(memory.total)}", ["", "", ""], rows, [1])
    kinds = storage(plan.geometry, plan.dtype)
    console().print(f"stored: {'; '.join(f'{kind} {how}' for kind, how in kinds.items())}", soft_wrap=True)
    if memory.ram and memory.fit != "gpu":
        flash = f", {human_bytes(memory.on_flash)} of these stay on flash" if memory.on_flash else ""
        if memory.on_flash and not memory.flash:
            flash = f", {human_bytes(memory.on_flash)} do not fit, and there is no flash to read them from"
        console().print(
            f"main memory, {human_bytes(memory.ram)}: room for {_gib(int(memory.ram * 0.9) - memory.embedding)} of "
            f"experts beside {human_bytes(memory.embedding)} of embedding, a tenth kept free; "
            f"{human_bytes(memory.outside)} are not on the GPU{flash}",
            soft_wrap=True,
        )


def _remedies(plan: Plan) -> None:
    found = plan.remedies
    assert found is not None
    rows = []
    if found.dtype is not None:
        rows.append(("a smaller dtype", f"--dtype {found.dtype}"))
    if found.context is not None:
        rows.append(("a shorter context", f"--context {found.context}"))
    more = [(found.device_bytes, plan.memory.device), (found.main_memory_bytes, "main memory")]
    sizes = [f"{human_bytes(size)} of {where}" for size, where in more if size is not None]
    if sizes:
        rows.append(("more memory", " and ".join(sizes)))
    if found.machines:
        rows.append(("another machine", ", ".join(found.machines)))
    if not rows:
        console().print("\nNo smaller dtype, shorter context or built-in machine would do, each alone.")
        return
    _print("What would fit, each alone", ["", ""], rows)


def _strategies(plan: Plan) -> None:
    rows = [_row(row) for row in plan.rows]
    if plan.bound is not None:
        rows.append(_row(plan.bound))
    headings = ["", "tokens/s", "range", "full", "range", "prompt", "hits", "with"]
    _print("Ways to run it", headings, rows, range(1, 7))
    out = console()
    shown = [*plan.rows, *([plan.bound] if plan.bound is not None else [])]
    out.print(f"prompt: of {plan.rows[0].prompt.tokens:,} tokens, to the first of the answer.", style="dim")
    out.print("; ".join(f"{row.name}: {row.strategy.about}" for row in shown) + ".", style="dim")
    if plan.policy_note:
        out.print(f"Eviction: {plan.policy_note}.")
    budgets = plan.layer_budgets
    if budgets is not None:
        gain = f"{budgets['gain_held_out']:+.1%} on held-out requests"
        if budgets["worth_it"]:
            listed = ",".join(map(str, budgets["experts_per_layer"]))
            out.print(f"Per-layer budgets for the LRU cache ({gain}): {listed}", soft_wrap=True)
        else:
            out.print(f"Per-layer budgets for the LRU cache are not worth it ({gain}): equal shares will do.")


def _row(row: StrategyRow) -> tuple[str, ...]:
    who = {"released": row.standing.runtime, "fork": "forks", "bound": "bound"}[row.kind]
    if row.kind == "bound" and row.engines:
        who = f"bound, {row.standing.runtime}"
    cells = (
        row.name, rate(row.speed), _ends(row.range), rate(row.full), _ends(row.full_range),
        f"{seconds(row.prompt.seconds)}, {rate(row.prompt.tokens_per_s)}/s", percent(row.hit_rate, digits=0), who,
    )  # fmt: skip
    return cells if row.kind == "released" else tuple(f"[dim]{cell}[/dim]" for cell in cells)


def _ends(ends: tuple[float, float]) -> str:
    """Write a range in two digits: it is no more exact than that."""
    short = [float(f"{end:.2g}") for end in ends]
    return "–".join(f"{end:,.{max(0, 1 - floor(log10(end)))}f}" for end in short)


def _sizes(plan: Plan) -> None:
    names = list(plan.sizes[0]["by_strategy"]) if plan.sizes else []
    rows = []
    for size in plan.sizes:
        step = size["tokens_per_s_per_gib"]
        mark = "  <- yours" if size["own"] else ""
        rows.append(
            (
                human_bytes(size["device_bytes"]) + mark,
                percent(size["share_of_experts"], digits=0),
                *("–" if size["by_strategy"][n] is None else rate(size["by_strategy"][n]) for n in names),
                "–" if step is None else f"{step:+.2f}",
            )
        )
    _print(f"Tokens/s by {plan.memory.device}", ["size", "experts", *names, "per GiB more"], rows, range(1, 99))
    if plan.best is None:
        return
    name = plan.best.strategy.name
    if plan.knee is None:
        console().print(
            f"No knee: with {name} every GiB up to all experts buys about as much as the one before, or more."
        )
    else:
        at, speed = plan.sizes_fine[plan.knee]
        console().print(
            f"The knee of {name} is at {human_bytes(at)} of experts ({human_bytes(at + plan.memory.fixed)} of "
            f"{plan.memory.device}), {rate(speed)} tokens/s: beyond it a GiB buys less than on average."
        )


def _contexts(plan: Plan) -> None:
    rows = [
        (
            f"{row['context']:,}" + ("  <- yours" if row["context"] == plan.context else ""),
            human_bytes(row["kv_bytes"]),
            human_bytes(row["experts_bytes"]),
            "does not fit" if row["tokens_per_s"] is None else rate(row["tokens_per_s"]),
            "" if row["tokens_per_s_full"] is None else rate(row["tokens_per_s_full"]),
        )
        for row in plan.contexts
    ]
    _print(
        "KV cache or experts",
        ["context", "KV cache", "left for experts", "tokens/s", "context full"],
        rows,
        range(1, 5),
    )


def _upgrades(plan: Plan) -> None:
    rows = [
        (
            row["upgrade"],
            f"{rate(row['tokens_per_s'])} ({row['gain']:+.0%})",
            row["strategy"],
            row["binds"],
            f"{rate(row['fastest_tokens_per_s'])} ({row['fastest_strategy']})"
            if row["fastest_strategy"] != row["strategy"]
            else "",
        )
        for row in plan.upgrades
    ]
    fastest = "forks and bounds" if any(row[-1] for row in rows) else ""
    _print("What an upgrade would buy", ["", "tokens/s", "with", "busiest", fastest], rows, [1])


def _flags(plan: Plan) -> None:
    out = console()
    out.print("\n[bold]Command lines[/bold]")
    for flags in plan.flags:
        row = next((row for row in plan.rows if row.strategy.name == flags.strategy), None)
        speed = f" ({rate(row.speed)} tokens/s)" if row is not None else ""
        out.print(f"{flags.engine}{speed}:")
        if flags.command:
            echo(f"  {flags.command}", whole=True)  # one line, to be copied; not markup
        for note in flags.notes:
            echo(f"  - {note}")


def _evidence(plan: Plan) -> None:
    from lrcsim.planner.traces import Shape
    from lrcsim.planner.workload import rests_on

    out = console()
    first, row = plan.sources[0], plan.rows[0]
    size = f"{first.tokens:,} tokens in {first.requests:,} requests"
    out.print("\n[bold]What this rests on[/bold]")
    accuracy = row.standing.accuracy
    times = f"{accuracy.low:g} to {accuracy.high:g} times"
    points = f"what {accuracy.points} published speeds of this kind ({accuracy.setting}) were of their predictions"
    if plan.memory.fit == "gpu":
        out.print(f"All experts are resident, so no trace is needed. The range is {times}: {points}.", soft_wrap=True)
    elif plan.measured:
        out.print(
            f"A trace of this model: {first.name} ({size}). The range is that of resampled requests, and {times}: "
            f"{points}.",
            soft_wrap=True,
        )
    else:
        out.print(
            f"[yellow]No trace of {plan.geometry.name} is at hand.[/yellow] "
            f"{rests_on(Shape.of(plan.geometry), plan.sources)} "
            f"The range is that of this factor, and {times}: {points}. "
            "A trace of your own (lrcsim record, --trace) narrows it.",
            soft_wrap=True,
        )
    out.print(
        f"Numbers of the machine: lrcsim hardware {plan.profile.name}; of the software: lrcsim runtimes. Several "
        "requests at once and heat are not in it (docs/plan.md).",
        soft_wrap=True,
    )


def _print(title: str, headings: list[str], rows: Sequence[tuple[str, ...]], numbers: Collection[int] = ()) -> None:
    """Print a table; ``numbers``: the columns that are set to the right."""
    console().print(f"\n[bold]{title}[/bold]")
    print_rows(headings, rows, left=[i for i in range(len(headings)) if i not in numbers])


def _gib(amount: int) -> str:
    return human_bytes(max(amount, 0))
