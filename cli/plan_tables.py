"""The text of `lrcsim plan`: the answer first, then what it rests on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from lrcsim.base.text import human_bytes, percent, short_dtype
from lrcsim.cli.output import console
from lrcsim.cli.screen import echo
from lrcsim.cli.tables import print_rows

if TYPE_CHECKING:
    from lrcsim.planner import Plan
    from lrcsim.planner.evaluate import StrategyRow


def show_plan(plan: Plan) -> None:
    """Print a plan."""
    _answer(plan)
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


def _answer(plan: Plan) -> None:
    out, memory = console(), plan.memory
    out.print(
        f"[bold]{plan.geometry.name}[/bold] as {short_dtype(plan.dtype)} on [bold]{plan.profile.name}[/bold], "
        f"context {plan.context:,}",
        soft_wrap=True,
    )
    share = percent(max(memory.budget, 0) / memory.experts, digits=0)
    verdict = {
        "gpu": f"[green]It fits[/green]: everything is in {memory.device}.",
        "memory": f"[green]It fits[/green] with {share} of the experts in {memory.device}, the others in main memory.",
        "flash": "[yellow]It does not fit memory[/yellow]: "
        f"{human_bytes(memory.on_flash)} of experts would be read from flash as they are used.",
        "no": "[red]It does not fit.[/red]",
    }[memory.fit]
    out.print(verdict)
    if memory.tight:
        before = "" if memory.fit == "gpu" else ", before any expert"
        out.print(
            f"[yellow]It fits by less than a tenth[/yellow]: {human_bytes(memory.left)} left of "
            f"{human_bytes(memory.total)}{before}. Close what else uses the GPU, or take a smaller context or dtype.",
            soft_wrap=True,
        )
    best, released = plan.best, plan.best_released
    if best is None:
        return
    if released is not None:
        out.print(
            f"Expect [bold]{_rate(released.speed)} tokens/s[/bold] ({_range(released)}) from {_how(released)}.",
            soft_wrap=True,
        )
    if best is not released:
        given = f"{best.strategy.name} ({best.strategy.about}) would give {_rate(best.speed)} ({_range(best)})"
        none = "no released engine does that with this dtype, card and memory"
        said = f"{given}: {none}. It is" if released is not None else f"{none.capitalize()}; {given}. That is"
        out.print(f"{said} for forks and for those who write one.", soft_wrap=True)
    shown = released or best
    out.print(
        f"{_rate(shown.full)} when the context is full. "
        f"Busiest: {shown.binds[0]}, {percent(shown.binds[1], digits=0)} of the time."
    )


def _how(row: StrategyRow) -> str:
    """Say which row it is, and which engine that is released does it."""
    strategy = row.strategy
    if strategy.name == "all-resident":
        return f"{' or '.join(strategy.engines)}, released: everything is resident"
    return f"{strategy.name} with {' or '.join(strategy.engines)}, released: {strategy.about}"


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
        rows.append(_row(plan.bound, dim=True))
    _print("Ways to run it", ["", "", "tokens/s", "range", "full", "hits", "busiest", "engines"], rows, range(2, 6))
    if plan.policy_note:
        console().print(f"Eviction: {plan.policy_note}.")
    budgets = plan.layer_budgets
    if budgets is not None:
        gain = f"{budgets['gain_held_out']:+.1%} on held-out requests"
        if budgets["worth_it"]:
            listed = ",".join(map(str, budgets["experts_per_layer"]))
            console().print(f"Per-layer budgets for the LRU cache ({gain}): {listed}", soft_wrap=True)
        else:
            console().print(f"Per-layer budgets for the LRU cache are not worth it ({gain}): equal shares will do.")


def _row(row: StrategyRow, *, dim: bool = False) -> tuple[str, ...]:
    engines = ", ".join(row.strategy.engines) or ("none: it knows the future" if dim else "forks only")
    cells = (
        row.strategy.name, row.strategy.about, _rate(row.speed), _range(row), _rate(row.full),
        percent(row.hit_rate, digits=0), row.binds[0], engines,
    )  # fmt: skip
    return tuple(f"[dim]{cell}[/dim]" for cell in cells) if dim else cells


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
                *("–" if size["by_strategy"][n] is None else _rate(size["by_strategy"][n]) for n in names),
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
            f"{plan.memory.device}), {_rate(speed)} tokens/s: beyond it a GiB buys less than on average."
        )


def _contexts(plan: Plan) -> None:
    rows = [
        (
            f"{row['context']:,}" + ("  <- yours" if row["context"] == plan.context else ""),
            human_bytes(row["kv_bytes"]),
            human_bytes(row["experts_bytes"]),
            "does not fit" if row["tokens_per_s"] is None else _rate(row["tokens_per_s"]),
            "" if row["tokens_per_s_full"] is None else _rate(row["tokens_per_s_full"]),
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
    rows = []
    for row in plan.upgrades:
        plain = "–"
        if row["released_tokens_per_s"] is not None and row["released_gain"] is not None:
            plain = f"{_rate(row['released_tokens_per_s'])} ({row['released_gain']:+.0%})"
        rows.append(
            (row["upgrade"], f"{_rate(row['tokens_per_s'])} ({row['gain']:+.0%})", row["strategy"], plain, row["binds"])
        )
    _print("What an upgrade would buy", ["", "tokens/s", "with", "released engines", "then busiest"], rows, [1, 3])


def _flags(plan: Plan) -> None:
    out = console()
    out.print("\n[bold]Command lines[/bold]")
    for flags in plan.flags:
        row = next((row for row in plan.rows if row.strategy.name == flags.strategy), None)
        speed = f" ({_rate(row.speed)} tokens/s)" if row is not None else ""
        out.print(f"{flags.engine}{speed}:")
        if flags.command:
            echo(f"  {flags.command}")  # one line, to be copied; not markup
        for note in flags.notes:
            echo(f"  - {note}")


def _evidence(plan: Plan) -> None:
    from lrcsim.planner.speed import MODEL_RANGE
    from lrcsim.planner.traces import Shape
    from lrcsim.planner.workload import rests_on

    out = console()
    first = plan.sources[0]
    size = f"{first.tokens:,} tokens in {first.requests:,} requests"
    low, high = MODEL_RANGE
    out.print("\n[bold]What this rests on[/bold]")
    if plan.memory.fit == "gpu":
        out.print(
            f"All experts are resident, so no trace is needed. The range is {low:g} to {high:g} times", soft_wrap=True
        )
    elif plan.measured:
        out.print(
            f"A trace of this model: {first.name} ({size}). The range is that of resampled requests,", soft_wrap=True
        )
    else:
        out.print(
            f"[yellow]No trace of {plan.geometry.name} is at hand.[/yellow] "
            f"{rests_on(Shape.of(plan.geometry), plan.sources)}",
            soft_wrap=True,
        )
        out.print(
            "The range is that of this factor; a trace of your own (lrcsim record, --trace) narrows it,", soft_wrap=True
        )
    times = "" if plan.memory.fit == "gpu" else f"times {low:g} to {high:g} "
    cpu = (
        " Of published speeds with experts on the CPU most are slower, in the mean by a quarter (docs/validation.md)."
        if plan.memory.ram and plan.memory.fit != "gpu"
        else ""
    )
    out.print(
        f"{times}for the model of time itself (docs/validation.md). Numbers of the machine: "
        f"lrcsim hardware {plan.profile.name}. Prompts, several requests at once and heat are not in it "
        f"(docs/plan.md).{cpu}",
        soft_wrap=True,
    )


def _print(title: str, headings: list[str], rows: Sequence[tuple[str, ...]], numbers: Collection[int] = ()) -> None:
    """Print a table; ``numbers``: the columns that are set to the right."""
    console().print(f"\n[bold]{title}[/bold]")
    print_rows(headings, rows, left=[i for i in range(len(headings)) if i not in numbers], whole=numbers)


def _gib(amount: int) -> str:
    return human_bytes(max(amount, 0))


def _rate(speed: float) -> str:
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}" if speed >= 1 else f"{speed:.2f}"


def _range(row: StrategyRow) -> str:
    low, high = row.range
    return f"{_rate(low)} to {_rate(high)}"
