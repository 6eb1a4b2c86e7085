"""An upper bound on hits for experts of unequal size, where farthest-next-use is no optimum."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lrcsim.policies import NEVER
from lrcsim.simulator.capacity import PoolSize
from lrcsim.simulator.future import Future

__all__ = ["most_hits"]


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
    for pool in pools:
        layers = future.keys // future.stride
        mine = np.isin(layers, pool.layers)
        reused = mine & (future.next_use != NEVER)
        size: npt.NDArray[np.int64] = np.ones(len(pool.layers), np.int64)
        if pool.bytes_per_expert is not None:
            size = np.array(pool.bytes_per_expert, np.int64)
        of_layer = np.zeros(int(layers.max(initial=0)) + 1, np.int64)
        of_layer[[layer for layer in pool.layers if layer < len(of_layer)]] = size[
            [i for i, layer in enumerate(pool.layers) if layer < len(of_layer)]
        ]
        cost = of_layer[layers[reused]].astype(np.float64) * (future.next_use[reused] - future.time[reused])
        time = float(future.time[-1] - future.time[0]) if len(future.time) else 0.0
        spent = np.cumsum(np.sort(cost))
        fits = int(np.searchsorted(spent, pool.capacity * time * (1 + 1e-12), side="right"))
        hits += min(fits + 1, len(cost)) if fits < len(cost) and pool.capacity > 0 else fits
    return hits
