"""What consistency costs in local load balance, and which share of that is global: the statistics of the section."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lrcsim.experiments.paper.intervals import Interval, correlated
from lrcsim.experiments.paper.measure import AT, MeasuredTrace
from lrcsim.simulator import Srp

Floats = npt.NDArray[np.float64]

ENOUGH = 4
"""Traces that a correlation over variants takes: fewer have no interval."""


def above_floor(result: Srp) -> float:
    """Return (SRP - floor) / (1 - floor): sparsity, which sets the floor, is not to make the order of variants."""
    return (result.value - result.floor) / (1 - result.floor)


def mostly_local(one: MeasuredTrace) -> npt.NDArray[np.bool_]:
    """Return for each draw whether the global imbalance is less than half of the local one; nothing without draws."""
    draws = one.balance[AT].draws
    if draws is None or not np.isfinite(draws).all():
        return np.zeros(0, bool)
    near, far = draws
    found: npt.NDArray[np.bool_] = far < near / 2
    return found


def balanced_globally(found: Sequence[MeasuredTrace]) -> list[MeasuredTrace]:
    """Return the traces whose global imbalance is less than half of the local one."""
    return [one for one in found if one.balance[AT].global_imbalance < one.balance[AT].local_imbalance / 2]


def groups_of_variants(forced: Sequence[MeasuredTrace]) -> dict[str, Sequence[MeasuredTrace]]:
    """Return the sets of traces that a correlation is made over, by name, those of enough traces.

    A trace that is unbalanced globally lies far from the others and makes a correlation alone; and variants of another
    sparsity have another relation of SRP to imbalance. So both are left out by turns.
    """
    balanced = balanced_globally(forced)
    rates = [round(one.source.trace.top_k / one.source.trace.num_experts, 6) for one in balanced]
    common = max(rates, key=rates.count, default=0.0)
    alike = [one for one, rate in zip(balanced, rates, strict=True) if rate == common]
    found = {"all variants": list(forced)}
    if len(balanced) < len(forced):
        found["variants balanced globally"] = balanced
    if len(alike) < len(balanced):
        found[f"of these, with k / E = {common:.3g}"] = alike
    return {name: some for name, some in found.items() if len(some) >= ENOUGH}


def tradeoff(some: Sequence[MeasuredTrace]) -> tuple[int, float | None, Interval | None]:
    """Correlate SRP above its floor with local imbalance over traces: points, value, interval."""
    x, near, *_ = points_of(some)
    return correlated(x, near)


def tradeoff_over_layers(one: MeasuredTrace) -> tuple[int, float | None, Interval | None]:
    """The same over the layers of a trace."""
    of_layers = layers_of(one)
    return (0, None, None) if of_layers is None else correlated(of_layers[0], of_layers[1])


def points_of(some: Sequence[MeasuredTrace]) -> tuple[Floats, Floats, Floats, Floats]:
    """SRP above its floor, local, global imbalance, the difference: float64 [traces] each."""
    balances = [one.balance[AT] for one in some]
    return (
        np.array([above_floor(one.srp[AT]) for one in some]),
        np.array([one.local_imbalance for one in balances]),
        np.array([one.global_imbalance for one in balances]),
        np.array([one.above_global for one in balances]),
    )


def layers_of(one: MeasuredTrace) -> tuple[Floats, Floats, Floats] | None:
    """SRP above its floor, local, global imbalance of the layers: float64 [L] each."""
    srp, balance = one.srp[AT].groups, one.balance[AT].groups
    if srp is None or balance is None:
        return None
    return (srp.value - srp.floor) / (1 - srp.floor), balance.local_imbalance, balance.global_imbalance
