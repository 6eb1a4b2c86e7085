"""What a reader of a hit rate should be told before believing it."""

from __future__ import annotations

import numpy as np

from lrcsim.simulator.cache.capacity import PoolSize
from lrcsim.simulator.replay import Counts
from lrcsim.traces import RoutingTrace


def advice(
    trace: RoutingTrace, policy: str, pools: list[PoolSize], scope: str, access: str, counts: Counts
) -> list[str]:
    """Return warnings, each one sentence that says what and what to do.

    Args:
        trace: the trace that was run.
        policy: the policy's name.
        pools: the capacities.
        scope: ``"layer"`` or ``"model"``.
        access: the rule of access.
        counts: what came of it.
    """
    warnings = []
    layers = trace.layers
    if scope == "model":
        sizes = (
            np.ones(len(layers), np.int64) if pools[0].bytes_per_expert is None else np.array(pools[0].bytes_per_expert)
        )
        cycle, everything = int(layers.top_k @ sizes), int(layers.num_experts @ sizes)
        if policy == "lru" and pools[0].capacity < cycle and access != "paper":
            warnings.append(
                f"the pool holds {pools[0].capacity:,}, one token uses {cycle:,}: below one token cycle a global LRU "
                "falls off a cliff, to no hits at all, because the layers come round in a cycle; use a larger cache, "
                "scope layer, or another policy"
            )
        holds_all = pools[0].capacity >= everything
    else:
        short = [
            pool
            for pool, k in zip(pools, layers.top_k.tolist(), strict=True)
            if pool.bytes_per_expert is None and pool.capacity < k
        ]
        if short and access == "coresident":
            warnings.append(
                f"{len(short)} of {len(pools)} layers hold fewer experts than one token uses there "
                f"(top-{trace.top_k}): "
                "they cannot be resident together, so an engine would need a staging buffer; use 1x or more"
            )
        holds_all = all(pool.capacity >= total for pool, total in zip(pools, layers.num_experts.tolist(), strict=True))
    if holds_all:
        warnings.append("the cache holds every expert: only first uses miss, so any policy scores high")
    elif counts.evictions + counts.bypassed == 0 and counts.resident:
        warnings.append(
            f"the cache never filled: the trace uses {counts.resident:,} experts in all, so this says nothing about "
            "the policy; use a longer trace or a smaller cache"
        )
    preloaded = int(counts.preloaded.sum())
    if preloaded:
        warnings.append(
            f"{preloaded:,} experts were loaded ahead by the policy and are not counted as misses, so it may exceed "
            "the optimum of a cache that loads on demand"
        )
    return warnings
