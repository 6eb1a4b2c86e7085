"""Bounds for experts of unequal size, where farthest-next-use is no optimum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lrcsim.policies import NEVER
from lrcsim.simulator.cache.capacity import PoolSize
from lrcsim.simulator.cache.future import Future


def most_hits(future: Future, pools: list[PoolSize]) -> int:
    """Return a number of hits that no policy can exceed, with or without bypass (no free loads).

    A hit needs its expert resident from one use to the next: bytes x time out of a budget of capacity x time. Taking
    the cheapest reuses first, and the fraction of one that fits last, relaxes the capacity from "at every moment" to
    "on average", so it can only overestimate: PFOO-L of Berger, Beckmann, Harchol-Balter (SIGMETRICS 2018), with
    layer-steps (or accesses) as time. O(n log n).

    Args:
        future: the accesses, with time and next uses as the rule of access has them.
        pools: the capacities.
    """
    hits = 0
    moments = future.time
    time = float(moments[-1] - moments[0]) if len(moments) else 0.0
    layers = future.keys // future.stride
    for pool in pools:
        reused = (future.next_use != NEVER) & np.isin(layers, pool.layers)
        each = pool.cost(future.stride)[future.keys[reused] - pool.layers[0] * future.stride]
        cost = each.astype(np.float64) * (future.next_use[reused] - moments[reused])
        spent = np.cumsum(np.sort(cost))
        fits = int(np.searchsorted(spent, pool.capacity * time * (1 + 1e-12), side="right"))
        hits += min(fits + 1, len(cost)) if fits < len(cost) and pool.capacity > 0 else fits
    return hits


def most_bytes_kept(
    future: Future, pool: PoolSize, sizes: Sequence[int], counted: npt.NDArray[np.bool_] | None = None
) -> float:
    """Return bytes that no policy can exceed in experts that are still there when they are used again.

    The relaxation of `most_hits`, with an expert's bytes for its worth: the reuses that keep most bytes for the room
    and time they take come first.

    Args:
        future: the accesses, co-resident.
        pool: layers that share a capacity, in slots or in bytes.
        sizes: bytes of each expert of the model, by key.
        counted: bool [layer-steps], those in which it counts that an expert is still there; None: all.
    """
    size = np.asarray(sizes, np.float64)
    reused = np.isin(future.keys // future.stride, pool.layers) & (future.next_use != NEVER)
    if counted is not None:
        reused[reused] = counted[future.next_use[reused]]
    worth = size[future.keys[reused]]
    cost = (future.next_use[reused] - future.time[reused]).astype(np.float64)
    if pool.bytes_per_expert is not None:
        cost *= worth
    order = np.argsort(cost / worth, kind="stable")
    spent, kept = np.cumsum(cost[order]), np.cumsum(worth[order])
    time = max(len(future.batch_step) - 1, 0)  # in layer-steps
    budget = pool.capacity * time * (1 + 1e-12)
    fits = int(np.searchsorted(spent, budget, side="right"))
    whole = float(kept[fits - 1]) if fits else 0.0
    if fits == len(spent):
        return whole
    left = budget - (float(spent[fits - 1]) if fits else 0.0)
    return whole + left / float(cost[order[fits]]) * float(worth[order[fits]])


def cheapest(loads: int, accesses: Sequence[int], sizes: Sequence[int]) -> int:
    """Return the least bytes of so many loads, of which a layer can have no more than it has accesses.

    Args:
        loads: how many.
        accesses: of each layer.
        sizes: bytes of an expert of each layer.
    """
    total = 0
    for size, most in sorted(zip(sizes, accesses, strict=True)):
        here = min(loads, most)
        total += here * size
        loads -= here
    return total
