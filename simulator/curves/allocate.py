"""How to divide one budget of expert memory among the layers, from the layers' own hit curves.

`stack_hits` gives every layer's hits at every number of slots, so the best division is a knapsack with one choice per
layer. Greedy takes, again and again, the jump of some layer's capacity that gains most hits per slot (or byte): while
everything fits these jumps run along the concave hull of each curve, and stopping there is optimal. Near the end, where
the next jump no longer fits, smaller ones fill up. An exact dynamic program checks it wherever it is small enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.base.progress import Progress
from lrcsim.base.reprs import short_repr
from lrcsim.policies import make_policy
from lrcsim.simulator.cache.capacity import CacheSize, PoolSize, resolve_capacity
from lrcsim.simulator.compiled.counts import count
from lrcsim.simulator.compiled.every_size import stack_hits
from lrcsim.simulator.curves.byte_curves import byte_curves
from lrcsim.simulator.setup.options import refuse_machine, takes_options
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import DECODE, PREFILL, RoutingTrace

Ints = npt.NDArray[np.int64]

MOST_EXACT_WORK = 1_000_000_000
"""Largest dynamic program that is run, in (experts of all layers) x (budget units): some two seconds."""

MOST_EXACT_BYTES = 200_000_000
"""Largest memory of its choices, 2 bytes x layers x (budget units)."""


@dataclass(frozen=True)
class Division:
    """One way to use the budget.

    Attributes:
        capacities: of each layer, slots, or where experts of a layer differ in size and the budget is in bytes, text as
            ``"4096B"``; for the shared pool empty.
        used: slots (or bytes) that they take.
        hits: hits by phase, 0 prefill and 1 decode.
        accesses: accesses by phase.
    """

    capacities: tuple[int, ...] | tuple[str, ...]
    used: int
    hits: tuple[int, int]
    accesses: tuple[int, int]

    __repr__ = short_repr

    @property
    def hit_rate(self) -> float:
        """Hits over accesses, both phases together; 0 without accesses."""
        return sum(self.hits) / max(sum(self.accesses), 1)

    def phase_rate(self, phase: int) -> float | None:
        """Hit rate of a phase, None when it has no accesses."""
        return self.hits[phase] / self.accesses[phase] if self.accesses[phase] else None

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of JSON values."""
        result: dict[str, Any] = {"capacities": list(self.capacities)} if self.capacities else {}
        return result | {
            "used": self.used,
            "hits": sum(self.hits),
            "hit_rate": self.hit_rate,
            "prefill_hit_rate": self.phase_rate(PREFILL),
            "decode_hit_rate": self.phase_rate(DECODE),
        }


@dataclass(frozen=True)
class Allocation:
    """One budget, divided in four ways.

    Attributes:
        policy: name with parameters.
        budget: slots of all layers together, or bytes.
        unit: ``"experts"``, or ``"bytes"`` where experts differ in size and the budget is in bytes.
        greedy: best gain per slot (or byte) first.
        exact: the best division there is, or None where finding it is too much work.
        exact_left_out: why ``exact`` is None, else None.
        most_hits: no division has more hits than this (the budget spent along the concave hulls, fractions allowed).
        uniform: the same number of slots (or bytes) for every layer; what a full layer cannot use goes to the others.
        shared: one pool for all layers instead.
    """

    policy: str
    budget: int
    unit: Literal["experts", "bytes"]
    greedy: Division
    exact: Division | None
    exact_left_out: str | None
    most_hits: int
    uniform: Division
    shared: Division

    __repr__ = short_repr

    @property
    def best(self) -> Division:
        """The exact division where there is one, else the greedy one."""
        return self.exact or self.greedy

    def to_dict(self) -> dict[str, Any]:
        """Return a dictionary of JSON values; ``capacities`` can be given to `simulate` as ``cache``."""
        return {
            "policy": self.policy,
            "budget": self.budget,
            "unit": self.unit,
            "accesses": sum(self.best.accesses),
            "capacities": list(self.best.capacities),
            "greedy": self.greedy.to_dict(),
            "exact": self.exact.to_dict() if self.exact else None,
            "exact_left_out": self.exact_left_out,
            "most_hits": self.most_hits,
            "uniform": self.uniform.to_dict(),
            "shared": self.shared.to_dict(),
        }


def allocate(
    trace: RoutingTrace,
    policy: str = "lru",
    budget: CacheSize = "2x",
    *,
    jobs: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Allocation:
    """Divide a budget among the layers so that the total of hits is largest.

    Args:
        trace: the routing trace.
        policy: a policy with a stack algorithm (`STACK_POLICIES`), with parameters as in ``"sch-lookahead:16"``.
        budget: for all layers together: ``512`` experts, ``"2x"`` times the sum of k, ``"25%"`` of all experts, or
            bytes, ``"4GiB"``.
        jobs: threads; None: all cores.
        progress: told how far the replay of the shared pool is, where it needs one (experts of unequal size).
        options: as in `simulate`, but for ``scope``, ``profile`` and those of a machine: ``access``, ``warm`` ...

    Returns:
        An `Allocation`; ``simulate(trace, policy, list(result.best.capacities))`` has exactly its hits.

    Raises:
        ConfigError: the budget or an option is not understood, or the policy has no stack algorithm,
            or the trace no recorded expert.
        PolicyError: the policy is unknown or cannot serve this trace.
    """
    refuse_machine(options, "a division")
    run = Run.of(trace, policy=policy, cache=0, **{**options, "scope": "layer"})
    run.refuse_unrouted()
    trace, chosen = run.trace, make_policy(policy)
    if isinstance(budget, Sequence) and (not isinstance(budget, str) or "," in budget):
        raise ConfigError(f"budget {budget!r} must be one size for all layers together, as 512, 2x, 25% or 4GiB")
    (pool,) = resolve_capacity(budget, trace.layers, "model")
    shared = replace(run, options=replace(run.options, scope="model"), pools=(pool,))
    if pool.by_expert:
        return _by_bytes(run, shared, chosen.label(), jobs, progress)
    costs = pool.bytes_per_expert or (1,) * trace.num_layers
    found = stack_hits(trace, policy, "layer", run.access, run.prefill, run.warm, jobs)
    largest = trace.layers.num_experts.tolist()
    curves = [hits.sum(axis=0)[: experts + 1] for hits, experts in zip(found.hits, largest, strict=True)]
    accesses = (int(found.accesses[:, PREFILL].sum()), int(found.accesses[:, DECODE].sum()))
    _refuse_empty(accesses)

    def split(capacities: Sequence[int]) -> Division:
        hits = found.at(list(capacities)).tolist()
        used = sum(slots * cost for slots, cost in zip(capacities, costs, strict=True))
        return Division(tuple(capacities), used, (hits[PREFILL], hits[DECODE]), accesses)

    greedy, most_hits = greedy_split(curves, costs, pool.capacity)
    left_out = _too_much_work(curves, costs, pool.capacity)
    return Allocation(
        policy=chosen.label(),
        budget=pool.capacity,
        unit="experts" if pool.bytes_per_expert is None else "bytes",
        greedy=split(greedy),
        exact=None if left_out else split(exact_split(curves, costs, pool.capacity)),
        exact_left_out=left_out,
        most_hits=most_hits,
        uniform=split(uniform_split([len(curve) - 1 for curve in curves], costs, pool.capacity)),
        shared=_shared(shared, jobs, progress),
    )


def _by_bytes(run: Run, shared: Run, label: str, jobs: int | None, progress: Progress | None) -> Allocation:
    """Divide a budget in bytes where experts of a layer differ in size, in units of a part of a layer's even share.

    The exact division is that of whole units; so is the bound.
    """
    budget = shared.pools[0].capacity
    unit, found, by_phase = byte_curves(run, budget, jobs)
    accesses = (int(by_phase[PREFILL]), int(by_phase[DECODE]))
    _refuse_empty(accesses)
    curves, costs = [one.hits.sum(axis=0) for one in found], [unit] * len(found)

    def split(units: Sequence[int]) -> Division:
        hits = np.sum([one.hits[:, given] for one, given in zip(found, units, strict=True)], axis=0).tolist()
        used = [int(one.given[given]) * unit for one, given in zip(found, units, strict=True)]
        capacities = tuple(f"{size}B" for size in used)
        return Division(capacities, sum(used), (hits[PREFILL], hits[DECODE]), accesses)

    greedy, most_hits = greedy_split(curves, costs, budget)
    left_out = _too_much_work(curves, costs, budget)
    return Allocation(
        policy=label,
        budget=budget,
        unit="bytes",
        greedy=split(greedy),
        exact=None if left_out else split(exact_split(curves, costs, budget)),
        exact_left_out=left_out,
        most_hits=most_hits,
        uniform=split(uniform_split([len(curve) - 1 for curve in curves], costs, budget)),
        shared=_shared(shared, jobs, progress),
    )


def _refuse_empty(accesses: tuple[int, int]) -> None:
    if not sum(accesses):
        raise ConfigError(
            "no expert of this trace was recorded, so there is no hit rate: `lrcsim trace info` says more"
        )


takes_options(allocate, "cache", "serving")


def greedy_split(curves: Sequence[Ints], costs: Sequence[int], budget: int) -> tuple[list[int], int]:
    """Raise capacities by the jump of best gain per slot (or byte) that still fits, until no jump gains anything.

    Args:
        curves: for each layer the hits with 0, 1, 2 ... slots, never falling.
        costs: for each layer the slots (1) or bytes of one expert.
        budget: slots or bytes in all.

    Returns:
        The slots of each layer, and a number of hits that no division exceeds: the sum over the jumps while the best
        one of all fits, plus that share of the first one which does not. It is met where the curves are concave and
        the costs equal, so then greedy is exact.
    """
    slots = [0] * len(curves)
    left = budget
    hits = sum(int(curve[0]) for curve in curves)
    bound: int | None = None
    jumps = [_best_jump(curve, 0, len(curve)) for curve in curves]
    while True:
        rates = [gain / (jump * cost) if jump else 0.0 for (jump, gain), cost in zip(jumps, costs, strict=True)]
        layer = int(np.argmax(rates))
        jump, gain = jumps[layer]
        if not gain:
            return slots, hits if bound is None else bound
        if jump * costs[layer] > left:
            if bound is None:
                bound = hits + gain * left // (jump * costs[layer])
            jumps[layer] = _best_jump(curves[layer], slots[layer], left // costs[layer])  # one that fits, if any
            continue
        slots[layer] += jump
        left -= jump * costs[layer]
        hits += gain
        jumps[layer] = _best_jump(curves[layer], slots[layer], len(curves[layer]))


def _best_jump(curve: Ints, start: int, most: int) -> tuple[int, int]:
    """Return the jump of at most ``most`` slots from ``start`` with the best gain per slot, and its gain; or 0, 0."""
    gains = curve[start + 1 : start + 1 + most] - curve[start]
    if not len(gains):
        return 0, 0
    best = int(np.argmax(gains / np.arange(1, len(gains) + 1)))  # the shortest of equals
    return best + 1, int(gains[best])


def exact_split(curves: Sequence[Ints], costs: Sequence[int], budget: int) -> list[int]:
    """Find the division with most hits by a dynamic program over the layers; arguments as in `greedy_split`.

    Takes (experts of all layers) x (budget units) steps and 2 bytes per layer and unit; a unit is the greatest common
    divisor of the costs.
    """
    unit, units = _units(curves, costs, budget)
    best = np.zeros(units + 1, np.int64)  # most hits of the layers so far, by units spent
    choices = []
    for curve, cost in zip(curves, costs, strict=True):
        step = cost // unit
        total = best + curve[0]
        choice = np.zeros(units + 1, np.uint16)
        for slots in range(1, min(len(curve) - 1, units // step) + 1):
            spent = slots * step
            candidate = best[: units + 1 - spent] + curve[slots]
            better = candidate > total[spent:]
            total[spent:][better] = candidate[better]
            choice[spent:][better] = slots
        best = total
        choices.append(choice)
    slots_of_layers = []
    for choice, cost in zip(reversed(choices), reversed(costs), strict=True):
        slots_of_layers.append(int(choice[units]))
        units -= slots_of_layers[-1] * (cost // unit)
    return slots_of_layers[::-1]


def _units(curves: Sequence[Ints], costs: Sequence[int], budget: int) -> tuple[int, int]:
    everything = sum((len(curve) - 1) * cost for curve, cost in zip(curves, costs, strict=True))
    unit = math.gcd(*costs)
    return unit, min(budget, everything) // unit


def _too_much_work(curves: Sequence[Ints], costs: Sequence[int], budget: int) -> str | None:
    _, units = _units(curves, costs, budget)
    work = sum(len(curve) - 1 for curve in curves) * units
    if work <= MOST_EXACT_WORK and 2 * len(curves) * units <= MOST_EXACT_BYTES:
        return None
    return f"the dynamic program would be too large, {work:.0e} steps over {units:,} units of budget"


def uniform_split(largest: Sequence[int], costs: Sequence[int], budget: int) -> list[int]:
    """Give expert after expert to the layer that has least so far, in slots (or bytes), while one fits.

    Args:
        largest: experts of each layer, the most it can use.
        costs: as in `greedy_split`.
        budget: as in `greedy_split`.
    """
    slots = [0] * len(largest)
    open_layers = {layer for layer, most in enumerate(largest) if most}
    left = budget
    while open_layers:
        layer = min(open_layers, key=lambda layer: (slots[layer] * costs[layer], layer))
        if costs[layer] > left or slots[layer] == largest[layer]:
            open_layers.remove(layer)
            continue
        slots[layer] += 1
        left -= costs[layer]
    return slots


def _shared(run: Run, jobs: int | None, progress: Progress | None) -> Division:
    """Run one pool for all layers: in slots by the stack algorithm, in bytes of unequal experts by a replay."""
    pool: PoolSize = run.pools[0]
    if pool.bytes_per_expert is None:
        found = stack_hits(run.trace, str(run.policy), run.scope, run.access, run.prefill, run.warm, jobs)
        hits, accesses = found.at([pool.capacity]), found.accesses.sum(axis=0)
    else:
        counts, _ = count(run, progress=progress)
        hits, accesses = (counts.accesses - counts.misses).sum(axis=1), counts.accesses.sum(axis=1)
    return Division((), pool.capacity, (int(hits[0]), int(hits[1])), (int(accesses[0]), int(accesses[1])))
