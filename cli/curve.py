"""`lrcsim curve`: hit rate against capacity."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from lrcsim.cli.allocate import show_allocation
from lrcsim.cli.output import console, json_option, option_bytes, percent, progress_bar, write_json

if TYPE_CHECKING:
    from lrcsim.simulator import Curve

__all__ = ["curve"]

SHOWN = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Relative cache sizes in the table."""


@click.command()
@click.argument("trace", required=False)
@click.option(
    "--policy",
    default="lru,lfu,belady",
    show_default=True,
    metavar="NAMES",
    help="Policies, with commas between; parameters as in sch-lookahead:16.",
)
@click.option("--scope", default="layer", show_default=True, metavar="layer|model")
@click.option("--access", default="coresident", show_default=True, metavar="coresident|sequential|paper")
@click.option("--prefill", metavar="step|chunk:N|token", help="How prompt tokens make steps.  [default: step]")
@click.option("--warm/--cold", "warm", default=None, help="Keep the cache between requests or empty it.")
@click.option(
    "--allocate",
    metavar="SIZE",
    help="Also divide a budget for all layers, 512 (experts), 2x, 25% or 4GiB, so that most accesses hit.",
)
@click.option("--expert-bytes", metavar="SIZE", help="Size of one expert (2.5MiB), where the trace does not have it.")
@click.option("--jobs", type=click.IntRange(min=1), help="Threads; the result does not depend on it.  [default: all]")
@json_option
@click.option("--csv", "csv_path", metavar="FILE", help="Write all points as CSV.")
@click.option("--plot", "plot_path", metavar="FILE", help="Draw the curves: .png, .svg or .pdf.")
def curve(
    trace: str | None,
    policy: str,
    scope: str,
    access: str,
    prefill: str | None,
    warm: bool | None,
    allocate: str | None,
    expert_bytes: str | None,
    jobs: int | None,
    json_path: str | None,
    csv_path: str | None,
    plot_path: str | None,
) -> None:
    """Show the hit rate of policies at every cache size.

    lru, lfu, belady, belady-bypass and sch-lookahead take one compiled pass for all sizes; other policies are run at
    about a dozen sizes, compiled where they can be. TRACE is an lrcsim file; without it, the trace that comes with
    lrcsim.
    """
    from lrcsim.simulator import hit_rate_curve
    from lrcsim.traces import RoutingTrace

    with RoutingTrace.open(trace) as opened:
        if expert_bytes is not None:
            opened.layers = opened.layers.with_expert_bytes(option_bytes("--expert-bytes", expert_bytes))
        allocations = []
        if allocate is not None:
            from lrcsim.simulator.allocate import allocate as divide

            for name in split_policies(policy):
                with progress_bar(f"{name}, shared pool") as progress:
                    rules: dict[str, Any] = {"access": access, "prefill": prefill, "warm": warm, "jobs": jobs}
                    allocations.append(divide(opened, name, allocate, **rules, progress=progress))
        curves = []
        for name in split_policies(policy):
            with progress_bar(name) as progress:
                curves.append(
                    hit_rate_curve(
                        opened,
                        name,
                        scope=scope,  # type: ignore[arg-type]  # checked there, with a suggestion
                        access=access,
                        prefill=prefill,
                        warm=warm,
                        jobs=jobs,
                        progress=progress,
                    )
                )
        title = f"{opened.model}, scope {scope}, access {access}"
    if json_path is not None:
        data = as_json(curves)
        if allocate is not None:
            data["allocation"] = {allocation.policy: allocation.to_dict() for allocation in allocations}
        write_json(json_path, data)
    if csv_path is not None:
        _write_csv(csv_path, curves)
    if plot_path is not None:
        from lrcsim.cli.plot import plot_curves

        plot_curves(plot_path, curves, title)
    if json_path != "-":
        _show(curves, title)
        for allocation in allocations:
            show_allocation(allocation)


def split_policies(text: str) -> list[str]:
    """Split ``"lru,s3-fifo:share=0.2,threshold=1,lfu"`` into policies: a part ``a=b`` belongs to the one before."""
    names: list[str] = []
    for part in text.split(","):
        if names and "=" in part and ":" not in part:
            names[-1] += "," + part
        else:
            names.append(part)
    return names


def as_json(curves: Sequence[Curve]) -> dict[str, Any]:
    """Return ``capacities``, ``relative`` and the rates by policy; None where a policy was not run at a capacity."""
    relative = {int(c): float(r) for curve in curves for c, r in zip(curve.capacities, curve.relative, strict=True)}
    capacities = sorted(relative)
    data: dict[str, Any] = {"capacities": capacities, "relative": [relative[c] for c in capacities]}
    for key, attribute in (
        ("hit_rate", "hit_rate"),
        ("prefill_hit_rate", "prefill_hit_rate"),
        ("decode_hit_rate", "decode_hit_rate"),
    ):
        data[key] = {}
        for curve in curves:
            rates = getattr(curve, attribute)
            if rates is not None:
                known = dict(zip(curve.capacities.tolist(), rates.tolist(), strict=True))
                data[key][curve.policy] = [known.get(c) for c in capacities]
    return data


def _write_csv(path: str, curves: Sequence[Curve]) -> None:
    from lrcsim.traces.atomic import replacing

    data = as_json(curves)
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["capacity", "relative", *data["hit_rate"]])
        writer.writerows(zip(data["capacities"], data["relative"], *data["hit_rate"].values(), strict=True))


def _show(curves: Sequence[Curve], title: str) -> None:
    from rich.table import Table

    out = console()
    out.print(f"[bold]{title}[/bold]: hit rate by cache size, relative to the active experts per token")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("policy")
    largest = max(float(curve.relative[-1]) for curve in curves)
    sizes = [size for size in SHOWN if size <= largest]
    for size in sizes:
        table.add_column(f"{size:g}x", justify="right")
    for curve in curves:
        rates = []
        for size in sizes:
            at = [i for i, relative in enumerate(curve.relative) if relative <= size + 1e-9]
            exact = at and abs(curve.relative[at[-1]] - size) < 0.51 / (curve.capacities[0] / curve.relative[0])
            rates.append(percent(float(curve.hit_rate[at[-1]])) if exact else "–")
        table.add_row(curve.policy, *rates)
    out.print()
    out.print(table)
