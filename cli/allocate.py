"""`lrcsim curve --allocate`: the table of one budget divided in several ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrcsim.base.text import human_bytes, percent
from lrcsim.cli.output import console
from lrcsim.cli.tables import print_rows

if TYPE_CHECKING:
    from lrcsim.simulator.curves.allocate import Allocation


def show_allocation(allocation: Allocation) -> None:
    """Print the hit rates of a budget divided uniformly, by the layers' curves, or not at all, and the capacities."""
    out = console()
    budget = human_bytes(allocation.budget) if allocation.unit == "bytes" else f"{allocation.budget:,} experts"
    out.print(f"\n[bold]{allocation.policy}[/bold] with {budget} for all layers together")
    splits = [("uniform", allocation.uniform), ("allocated (greedy)", allocation.greedy)]
    if allocation.exact is not None:
        splits.append(("allocated (exact)", allocation.exact))
    splits.append(("one shared pool", allocation.shared))
    both = all(allocation.shared.accesses)
    rows = []
    for name, split in splits:
        rates = [split.hit_rate, *([split.phase_rate(0), split.phase_rate(1)] if both else [])]
        rows.append([name, *(percent(rate, digits=2) for rate in rates)])
    print_rows(["division", "hit rate", *(["prefill", "decode"] if both else [])], rows, gap=3)
    if allocation.exact is None:
        limit = allocation.most_hits / max(sum(allocation.greedy.accesses), 1)
        out.print(f"no exact division: {allocation.exact_left_out}; none is above {percent(limit, digits=2)}")
    best = "exact" if allocation.exact is not None else "greedy"
    capacities = ",".join(map(str, allocation.best.capacities))
    what = "bytes" if any(isinstance(one, str) for one in allocation.best.capacities) else "experts"
    out.print(f"{what} per layer ({best}), as for run --cache: {capacities}", soft_wrap=True)  # one line, to be copied
