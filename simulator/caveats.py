"""What a reader of a hit rate should be told before believing it."""

from __future__ import annotations

import numpy as np

from lrcsim.base.user_code import is_users
from lrcsim.policies import make_policy
from lrcsim.simulator.cache.capacity import PoolSize
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.setup.prefetchers import Popularity
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace

OTHER_REQUESTS = "`lrcsim trace split` makes two traces of one, a part to fit on and a part to test on"

DIVIDED_BY_ITSELF = (
    "the budget is divided by the curves of the very trace that it is tested on: on other requests it brings less; "
    f"{OTHER_REQUESTS}"
)
"""What `lrcsim.simulator.curves.allocate` cannot know better."""


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
        of_layer = layers.num_experts if pools[0].bytes_per_expert is None else layers.layer_bytes
        of_one = np.ones(len(layers)) if pools[0].bytes_per_expert is None else layers.mean_bytes
        assert of_layer is not None  # of experts of unknown size no pool is in bytes
        assert of_one is not None
        cycle, everything = int(layers.top_k @ of_one), int(of_layer.sum())
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
        totals = layers.num_experts if pools[0].bytes_per_expert is None else layers.layer_bytes
        assert totals is not None
        holds_all = all(pool.capacity >= total for pool, total in zip(pools, totals.tolist(), strict=True))
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


def seen_before(run: Run) -> list[str]:
    """Say how much of what is run a profile has seen: a policy or a prefetcher that is made of it knows the answers.

    Requests are the same where all of their routing is (`in_common`), whatever file they stand in. The other things
    that lrcsim makes of a trace need no word: prefetchers learn on the way, a plan takes popularity and budgets from
    the other half of the requests, `belady`, `sch-static` and the prefetcher `oracle` say that they know the future.

    Args:
        run: what is run.

    Returns:
        At most one warning: one sentence that says what and what to do.

    Raises:
        TraceError: the profile's file is damaged, or gone.
    """
    given = run.options.profile
    if given is None or not (run.low is not None or _uses_profile(run)):
        return []
    from lrcsim.traces.duplicates import in_common  # with all importers of traces, a tenth of a second

    trace = run.trace if run.asked is None else run.asked  # a server's order has other requests
    if isinstance(given, RoutingTrace):
        seen, tokens = in_common(trace, given)
    elif given == "self":
        seen, tokens = trace.num_requests, trace.num_tokens
    else:
        with RoutingTrace.open(given) as opened:
            seen, tokens = in_common(trace, opened)
    if not seen:
        return []
    how = "use another trace's for --profile"
    if seen == trace.num_requests:
        told = "the profile has all requests of the very trace that is run: hindsight, which no engine has"
    else:
        told = (
            f"the profile has {seen:,} of the {trace.num_requests:,} requests that are run too "
            f"({tokens / trace.num_tokens:.0%} of the tokens): on those it is hindsight, which no engine has"
        )
    return [f"{told}; {how}: {OTHER_REQUESTS}"]


def low_copies(run: Run) -> list[str]:
    """Say where low precision saves no room: a slot is as large as the largest expert of its cache."""
    if run.low is None or not run.in_slots or not run.trace.layers.sized_by_expert:
        return []
    return [
        f"the cache is in slots, each as large as an expert of full precision, so that {run.low.dtype} saves no "
        "room in it: give its size in bytes, as 4GiB"
    ]


def _uses_profile(run: Run) -> bool:
    if "profile" in make_policy(run.policy).needs:
        return True
    prefetcher = None if run.platform is None else run.platform.prefetcher
    return prefetcher is not None and (isinstance(prefetcher, Popularity) or is_users(type(prefetcher)))
