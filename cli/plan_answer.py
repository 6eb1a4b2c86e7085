"""What `lrcsim plan` says first: the fastest way that can be had, its command line, and what would be faster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrcsim.base.text import human_bytes, percent, quoted, short_dtype
from lrcsim.cli.output import console
from lrcsim.cli.screen import echo
from lrcsim.models import said_dtype

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrcsim.planner import Plan
    from lrcsim.planner.rows import StrategyRow


def show_answer(plan: Plan) -> None:
    """Print the first lines of a plan."""
    out = console()
    dtype = quoted(short_dtype(said_dtype(plan.geometry, plan.dtype)))
    asked = (
        f"[bold]{quoted(plan.geometry.name)}[/bold] as {dtype} on [bold]{plan.profile.name}[/bold], "
        f"context {plan.context:,}"
    )
    best = plan.best
    if best is None:
        out.print(asked, soft_wrap=True)
        out.print(_verdict(plan))
        _print_tight(plan)
        return
    speed = f"[bold]{rate(best.speed)} tokens/s[/bold] ({span(best.range)})"
    if plan.best_released is not None:
        out.print(f"{asked}: {speed} with {_who(best)}, released", soft_wrap=True)
    elif best.engines:
        out.print(
            f"{asked}: {speed} with {_who(best)}, released, but no measured speed tells how true that is",
            soft_wrap=True,
        )
    elif best.kind == "bound":
        out.print(f"{asked}: {speed} under {best.standing.runtime}, which is a bound on real ones", soft_wrap=True)
    else:
        out.print(f"{asked}: no released engine runs it here; {_who(best)} would give {speed}", soft_wrap=True)
    command = next((flags.command for flags in plan.flags if flags.strategy == best.name and flags.command), "")
    if command:
        echo(f"  {command}", whole=True)
    out.print(f"That is {best.name}: {best.strategy.about}. {_verdict(plan)}", soft_wrap=True)
    _print_tight(plan)
    out.print(
        f"{rate(best.full)} tokens/s ({span(best.full_range)}) when the context is full. First token of a prompt of "
        f"{best.prompt.tokens:,} after {seconds(best.prompt.seconds)} ({span(best.prompt.range, seconds)}). "
        f"Busiest: {best.binds[0]}, {percent(best.binds[1], digits=0)} of the time.",
        soft_wrap=True,
    )
    _formats(plan)
    if plan.faster:
        rows = "; ".join(f"{row.name} {rate(row.speed)} ({span(row.range)}), {_mark(row)}" for row in plan.faster)
        out.print(f"Faster, but not to be had or not measured: {rows}.", soft_wrap=True)


def _verdict(plan: Plan) -> str:
    """Say whether the model fits."""
    memory = plan.memory
    share = percent(max(memory.budget, 0) / memory.experts, digits=0)
    return {
        "gpu": f"[green]It fits[/green]: everything is in {memory.device}.",
        "memory": f"[green]It fits[/green] with {share} of the experts in {memory.device}, the others in main memory.",
        "flash": "[yellow]It does not fit memory[/yellow]: "
        f"{human_bytes(memory.on_flash)} of experts would be read from flash as they are used.",
        "no": "[red]It does not fit.[/red]",
    }[memory.fit]


def _print_tight(plan: Plan) -> None:
    """Warn where it fits by little."""
    memory = plan.memory
    if memory.tight:
        before = "" if memory.fit == "gpu" else ", before any expert"
        console().print(
            f"[yellow]It fits by less than a tenth[/yellow]: {human_bytes(memory.left)} left of "
            f"{human_bytes(memory.total)}{before}. Close what else uses the GPU, or take a smaller context or dtype.",
            soft_wrap=True,
        )


def _formats(plan: Plan) -> None:
    """Say in a line how the chosen format and that of the release compare; all are in a table below."""
    if len(plan.quantisations) < 2:
        return
    said = []
    released = next(one for one in plan.quantisations if one.released)
    chosen = next(one for one in plan.quantisations if one.dtype == plan.dtype)
    for one in dict.fromkeys((chosen, released)):
        how = {"gpu": "fits whole", "memory": "fits with main memory", "flash": "reads flash", "no": "does not fit"}
        speed = "" if one.tokens_per_s is None else f": {rate(one.tokens_per_s)}"
        name = short_dtype(one.dtype) + (", as released," if one.released else "")
        said.append(f"{name} {how[one.fit]}{speed}")
    console().print("; ".join(said) + "; others below.", soft_wrap=True)


def _who(row: StrategyRow) -> str:
    return row.engines[0] if row.engines else f"{row.name} in forks"


def _mark(row: StrategyRow) -> str:
    if row.kind == "fork":
        return "forks only"
    return f"a bound under {row.standing.runtime}" if row.engines else "a bound"


def rate(speed: float) -> str:
    """Write tokens/s."""
    return f"{speed:,.0f}" if speed >= 100 else f"{speed:.1f}" if speed >= 1 else f"{speed:.2f}"


def seconds(value: float) -> str:
    """Write a time to the first token."""
    return f"{value:,.0f} s" if value >= 10 else f"{value:.1f} s" if value >= 1 else f"{value:.2f} s"


def span(ends: tuple[float, float], written: Callable[[float], str] = rate) -> str:
    """Write a range."""
    return f"{written(ends[0])} to {written(ends[1])}"
