"""Hits of each layer against bytes, where experts of a layer differ in size: a run at each of evenly spaced capacities.

No stack algorithm helps: whether an expert fits depends on which others are there, and more room may hit less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.policies import make_policy
from lrcsim.simulator.cache.capacity import PoolSize, resolve_capacity
from lrcsim.simulator.compiled.engine_for import engine_for
from lrcsim.simulator.compiled.pools import PoolMaker, hits_at_sizes
from lrcsim.simulator.setup.run import Run

UNITS = 16
"""Units of the budget that make a layer's even share of it."""


@dataclass(frozen=True)
class ByteCurve:
    """A layer's hits when it is given a number of units of the budget.

    Attributes:
        given: int64 [n], with 0, 1, 2 ... units those that are used: fewer where they hit more often, or as often.
        hits: int64 [2, n], by phase: never falling in sum.
    """

    given: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]


def byte_curves(run: Run, budget: int, jobs: int | None = None) -> tuple[int, list[ByteCurve], npt.NDArray[np.int64]]:
    """Run every layer alone at evenly spaced capacities, up to the budget or all its experts.

    Args:
        run: trace, policy and rules, scope ``"layer"``; experts of a layer differ in bytes.
        budget: bytes in all.
        jobs: threads; None: all cores.

    Returns:
        Bytes of a unit; a curve for each layer; int64 [2], accesses by phase.

    Raises:
        ConfigError: the policy has no compiled loop for experts of several sizes.
    """
    layers = run.trace.layers
    assert layers.layer_bytes is not None  # the budget is in bytes
    unit = max(budget // (UNITS * len(layers)), 1)
    most = [-(-min(int(size), budget) // unit) for size in layers.layer_bytes]
    columns = [_capacities(run, unit * units) for units in range(max(most) + 1)]
    policy = make_policy(run.policy)
    if any(engine_for(policy, pools) != "compiled" for pools in columns):
        raise ConfigError(
            f"policy {policy.name} has no compiled loop where experts of a layer differ in bytes, and a budget in "
            "bytes is divided by many runs: use lru, lfu or belady, or give the budget in experts (512), 2x or 25%"
        )
    maker = PoolMaker(policy, run.trace, run.access, run.prefill, run.warm, run.profile)
    found = hits_at_sizes(maker, columns, jobs)
    curves = []
    for layer, units in enumerate(most):
        hits = found.of_pools[:, layer, : units + 1]
        total = hits.sum(axis=0)
        best = np.maximum.accumulate(total)
        first = np.searchsorted(best, best)  # the first that hits as often
        curves.append(ByteCurve(first, hits[:, first]))
    return unit, curves, found.accesses


def _capacities(run: Run, size: int) -> list[PoolSize]:
    """Return pools of so many bytes, one for each layer."""
    return resolve_capacity([f"{size}B"] * len(run.trace.layers), run.trace.layers, "layer")
