"""`lrcsim curve`: hit rate against capacity."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from lrcsim.base.tables import write_csv
from lrcsim.base.text import human_bytes, quoted
from lrcsim.cli.allocate import show_allocation
from lrcsim.cli.metrics import jobs_option, unique_labels
from lrcsim.cli.options import given, run_options
from lrcsim.cli.output import answer, console, figure_options, json_option, progress_bar
from lrcsim.cli.sections import SectionOption, Sections
from lrcsim.cli.tables import print_rows
from lrcsim.plots.figure import check_picture

if TYPE_CHECKING:
    from lrcsim.simulator import Curve
    from lrcsim.simulator.compiled.every_size import StackHits
    from lrcsim.simulator.curves.allocate import Allocation
    from lrcsim.simulator.curves.trace_curves import TraceCurves
    from lrcsim.simulator.setup.run import Run
    from lrcsim.traces import RoutingTrace

SHOWN = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
"""Relative cache sizes in the table."""


@click.command(cls=Sections)
@click.argument("traces", nargs=-1, metavar="[TRACE]...")
@click.option(
    "--policy",
    cls=SectionOption,
    section="cache",
    metavar="NAMES",
    help="Policies, with commas between; parameters as in sch-lookahead:16.  "
    "[default: lru,lfu,belady; lru with --route]",
)
@run_options("cache", but=("policy", "cache"))
@click.option(
    "--cache",
    "sizes",
    cls=SectionOption,
    section="cache",
    metavar="SIZES",
    help="Only these sizes, with commas between: 1x,2x,4x (times active experts), 25% (of all), 8,16 (experts) "
    "or 1GiB,2GiB (bytes in all); in the figure marked on the whole curve.  [default: all]",
)
@click.option(
    "--allocate",
    cls=SectionOption,
    section="cache",
    metavar="SIZE",
    help="Also divide a budget for all layers, 512 (experts), 2x, 25% or 4GiB, so that most accesses hit.",
)
@jobs_option
@json_option
@click.option("--csv", "csv_path", metavar="FILE", help="Write all points as CSV.")
@click.option("--plot", "plot_path", metavar="FILE", help="Draw the curves: .png, .svg or .pdf.")
@figure_options
def curve(
    traces: tuple[str, ...],
    policy: str | None,
    sizes: str | None,
    allocate: str | None,
    jobs: int | None,
    json_path: str | None,
    csv_path: str | None,
    plot_path: str | None,
    **options: Any,
) -> None:
    """Show the hit rate of policies at every cache size.

    lru, lfu, belady, belady-bypass, sch-lookahead and sch-static take one compiled pass for all sizes; other policies
    are run at about a dozen sizes, compiled where they can be. TRACE is an lrcsim file; without it, the trace that
    comes with lrcsim. Several traces are shown one after the other, and in one figure.
    """
    from lrcsim.simulator.caveats import DIVIDED_BY_ITSELF, seen_before
    from lrcsim.simulator.curves.trace_curves import TraceCurves
    from lrcsim.simulator.setup.option_lists import split_list
    from lrcsim.simulator.setup.run import Run
    from lrcsim.traces import RoutingTrace

    check_picture(plot_path)
    told, found = given(options), list[TraceCurves]()
    by_default = "lru,lfu,belady" if told.get("route") in (None, "none") else "lru"
    names = split_list("policy", by_default if policy is None else policy)
    drawn: list[list[Curve]] = []
    warnings: list[list[str]] = []
    for trace in traces or (None,):
        with RoutingTrace.open(trace) as opened:
            runs = [Run.of(opened, policy=name, cache=0, **told) for name in names]
            allocations = [_allocate(opened, name, allocate, told, jobs) for name in names] if allocate else []
            capacities = None if sizes is None else [_capacity(runs[0], size) for size in split_list("cache", sizes)]
            passes = _passes(runs, capacities, jobs)
            curves = [curve for run in runs for curve in _curves(run, capacities, jobs, passes)]
            found.append(TraceCurves(opened.model, curves, allocations))
            if plot_path is not None and capacities is not None:
                drawn.append([curve for run in runs for curve in _curves(run, None, jobs, passes)])
            notes = [warning for run in runs for warning in seen_before(run)]
            warnings.append(list(dict.fromkeys(notes + [DIVIDED_BY_ITSELF] * bool(allocations))))
    scope, access = runs[0].options.scope, runs[0].access
    config = {"scope": scope, "access": access, "prefill": runs[0].prefill, "warm": runs[0].warm}
    if runs[0].options.route is not None:
        config["route"] = runs[0].config()["route"]
    each = [one.to_dict() | {"config": config, "warnings": notes} for one, notes in zip(found, warnings, strict=True)]
    shown = answer(json_path, each[0] if len(each) == 1 else {"traces": each}, "curve")
    if csv_path is not None:
        write_csv(csv_path, (row for one in found for row in _as_rows(one)))
    if plot_path is not None:
        _draw(plot_path, unique_labels([one.label for one in found], traces), found, drawn, sizes, scope, access)
    if shown:
        for one, notes in zip(found, warnings, strict=True):
            _show(one.curves, f"{one.label}, scope {scope}, access {access}")
            unproven = [c.policy for c in one.curves if c.policy in ("belady", "belady-bypass") and not c.proven]
            if unproven:
                why = "under the paper's rule" if access == "paper" else "as experts differ in size"
                console().print(f"{' and '.join(unproven)}: a heuristic {why}, not the optimum")
            for allocation in one.allocations:
                show_allocation(allocation)
            for warning in notes:
                console().print(f"[yellow]Note:[/yellow] {quoted(warning)}")


def _allocate(trace: RoutingTrace, policy: str, size: str, told: dict[str, Any], jobs: int | None) -> Allocation:
    from lrcsim.simulator.curves.allocate import allocate

    rules = {name: value for name, value in told.items() if name not in ("scope", "profile")}
    with progress_bar(f"{policy}, shared pool") as progress:
        return allocate(trace, policy, size, jobs=jobs, progress=progress, **rules)


def _draw(
    path: str,
    labels: Sequence[str],
    found: Sequence[TraceCurves],
    whole: Sequence[Sequence[Curve]],
    sizes: str | None,
    scope: str,
    access: str,
) -> None:
    """Draw the curves; where only some sizes were asked for, these marked on the whole curves."""
    from lrcsim.plots.curves import AskedSizes, plot_curves

    title = f"scope {scope}, access {access}"
    curves = [one.curves for one in found]
    if sizes is None:
        plot_curves(path, dict(zip(labels, curves, strict=True)), title)
        return
    names = [size.strip() for size in sizes.split(",")]
    names = [f"{size} experts" if size.isdecimal() else size for size in names]
    marked = {label: AskedSizes(names, some) for label, some in zip(labels, curves, strict=True)}
    plot_curves(path, dict(zip(labels, whole, strict=True)), title, marked)


def _passes(runs: list[Run], capacities: list[int | str] | None, jobs: int | None) -> dict[str, StackHits]:
    """Return what passes over the trace give that policies can make together."""
    from lrcsim.simulator.curves.curve import passes_of

    if len(runs) == 1:
        return {}
    with progress_bar(",".join(str(run.policy) for run in runs)) as progress:
        return passes_of(runs, capacities, jobs, progress)


def _curves(
    run: Run, capacities: list[int | str] | None, jobs: int | None, passes: dict[str, StackHits]
) -> list[Curve]:
    """Return a run's curve, and before one with a routing rule the same without it, at the same sizes."""
    from lrcsim.simulator.curves.curve import curve_of

    with progress_bar(str(run.policy)) as progress:
        curve = curve_of(run, capacities, jobs, progress, passes)
    if run.options.route is None:
        return [curve]
    return [curve_of(run.without_rule(), capacities or curve.capacities.tolist(), jobs), curve]


def _capacity(run: Run, size: str) -> int | str:
    """Read a size on a curve: experts and bytes as they are, ``2x`` and ``25%`` as the experts that they come to.

    Raises:
        ConfigError: it is no size, or comes to more experts in one layer than in another.
    """
    from lrcsim.base.errors import ConfigError
    from lrcsim.simulator import resolve_capacity

    if size.isdecimal():
        return int(size)
    if not size.endswith(("x", "%")):
        return size
    pools = {pool.capacity for pool in resolve_capacity(size, run.trace.layers, run.scope)}
    if len(pools) > 1:
        raise ConfigError(
            f"--cache {size} comes to {min(pools)} to {max(pools)} experts, by layer, which is no point of a curve: "
            f"give experts, as --cache {max(pools)}"
        )
    return int(pools.pop())


def _as_rows(one: TraceCurves) -> Iterator[dict[str, Any]]:
    """Yield a row for each size, with the hit rate of every policy."""
    data = one.to_dict()
    for capacity, relative, *rates in zip(
        data["capacities"], data["relative"], *data["hit_rate"].values(), strict=True
    ):
        sizes = {"trace": one.label, "capacity": capacity, "relative": relative}
        yield sizes | dict(zip(data["hit_rate"], rates, strict=True))


def _show(curves: Sequence[Curve], title: str) -> None:
    out = console()
    first = curves[0]
    few = len(first.capacities) <= len(SHOWN) or first.unit == "bytes"
    if few:
        sizes = first.relative.tolist()
        in_bytes = first.unit == "bytes"
        headings = [
            human_bytes(n) if in_bytes else f"{n} slot{'s' if n > 1 else ''}" for n in first.capacities.tolist()
        ]
    else:
        sizes = [size for size in SHOWN if size <= max(float(curve.relative[-1]) for curve in curves)]
        headings = [f"{size:g}x" for size in sizes]
    relative = "" if few else ", relative to the active experts per token"
    out.print(f"[bold]{quoted(title)}[/bold]: hit rate [%] by cache size{relative}")
    rows = []
    for curve in curves:
        rates = []
        for size in sizes:
            at = [i for i, relative in enumerate(curve.relative) if relative <= size + 1e-9]
            exact = at and abs(curve.relative[at[-1]] - size) < 0.51 / (curve.capacities[0] / curve.relative[0])
            rates.append(f"{100 * curve.hit_rate[at[-1]]:.1f}" if exact else "–")
        if not few:
            rates.append(f"{curve.relative[curve.knee]:.3g}x")
        rows.append([quoted(curve.policy), *rates])
    out.print()
    print_rows(["policy", *headings, *([] if few else ["knee"])], rows)
