"""How fast do policies replay through the Python contract?

Every built-in policy on one generated trace (sticky and Zipf-like: 8 layers, 64 experts, top-8) at 2x, in both scopes,
co-resident. CPU time of this process, best of the rounds; the contenders take turns, so that a slow moment hits all.
Beside them, in the same run, a plain loop over an OrderedDict (LRU, the same rule of access) and libCacheSim's LRU
called request by request from Python. The same run checks: LRU, LFU and the optimum against plain loops of a few lines
each, seven policies against libCacheSim under sequential access, and no policy above its optimum.

    python benchmarks/bench_replay.py [TOKENS [ROUNDS]]
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from lrcsim.policies.registry import BUILT_IN
from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace

LAYERS, EXPERTS, TOP_K = 8, 64, 8
NEVER = 1 << 62
IN_LIBCACHESIM = {
    "lru": "LRU",
    "fifo": "FIFO",
    "clock": "Clock",
    "sieve": "Sieve",
    "arc": "ARC",
    "lfu-resident": "LFU",
    "s3-fifo": "S3FIFO",
}


def make_trace(tokens: int) -> RoutingTrace:
    """Draw routing with popular experts and a drifting taste, so that neighbouring tokens agree."""
    rng = np.random.default_rng(1)
    popularity = -np.log(rng.permuted(np.tile(np.arange(1.0, EXPERTS + 1), (LAYERS, 1)), axis=1))
    taste = np.zeros((LAYERS, EXPERTS))
    experts = np.empty((tokens, LAYERS, TOP_K), np.int64)
    weights = np.empty(experts.shape, np.float32)
    for token in range(tokens):
        taste = 0.9 * taste + 0.6 * rng.normal(size=taste.shape)
        scores = popularity + 1.5 * taste + rng.gumbel(size=taste.shape)
        experts[token] = np.argsort(-scores, axis=1)[:, :TOP_K]
        best = np.exp(np.take_along_axis(scores, experts[token], 1) / 4)
        weights[token] = best / best.sum(axis=1, keepdims=True)
    return RoutingTrace.from_arrays(experts, num_experts=EXPERTS, weights=weights)


def batches_of_pools(trace: RoutingTrace, scope: str) -> list[list[list[int]]]:
    """Return the batches of each pool, as lists."""
    keys = trace.experts.astype(np.int64) + EXPERTS * np.arange(LAYERS)[:, None]
    if scope == "model":
        return [keys.reshape(-1, TOP_K).tolist()]
    return [keys[:, layer].tolist() for layer in range(LAYERS)]


def ordered_dict_lru(pools: list[list[list[int]]], slots: int) -> int:
    """Count LRU's hits, as short as it can be written; the batch is never larger than the cache here."""
    hits = 0
    for batches in pools:
        resident: OrderedDict[int, None] = OrderedDict()
        for batch in batches:
            for key in batch:
                if key in resident:
                    hits += 1
                    resident.move_to_end(key)
                else:
                    resident[key] = None
            while len(resident) > slots:
                resident.popitem(last=False)
    return hits


def least_worth(pools: list[list[list[int]]], slots: int, worth: Callable[[int, int, int], Any]) -> int:
    """Count the hits of "evict the least worth": ``worth(key, uses, next use)``, ties to the oldest use."""
    hits = 0
    for batches in pools:
        upcoming: dict[int, int] = {}
        next_use = []
        for when in reversed(range(len(batches))):
            next_use.append([upcoming.get(key, NEVER) for key in batches[when]])
            upcoming |= dict.fromkeys(batches[when], when)
        resident: set[int] = set()
        uses: dict[int, int] = {}
        rank: dict[int, tuple[Any, int]] = {}
        place = 0
        for batch, then in zip(batches, reversed(next_use), strict=True):
            hits += len(resident.intersection(batch))
            resident.update(batch)
            for key, next_time in zip(batch, then, strict=True):
                place += 1
                uses[key] = uses.get(key, 0) + 1
                rank[key] = worth(key, uses[key], next_time), place
            while len(resident) > slots:
                resident.remove(min(resident.difference(batch), key=rank.__getitem__))
    return hits


def libcachesim_requests(pools: list[list[list[int]]], slots: int, algorithm: str) -> int:
    """Count hits of libCacheSim, called request by request (sequential access)."""
    import libcachesim

    hits = 0
    for batches in pools:
        cache = getattr(libcachesim, algorithm)(slots, hashpower=12)
        request = libcachesim.Request()
        request.obj_size = 1
        for batch in batches:
            for request.obj_id in batch:
                hits += cache.get(request)
    return hits


def replay(trace: RoutingTrace, policy: str, scope: str, access: str = "coresident") -> int:
    """Count the hits of a policy."""
    profile = trace if "profile" in BUILT_IN[policy].needs else None
    counts = simulate(
        trace,
        policy,
        "2x",
        scope=scope,  # type: ignore[arg-type]
        access=access,  # type: ignore[arg-type]
        profile=profile,
        bounds=False,
    ).counts
    return int((counts.accesses - counts.misses).sum())


def check(trace: RoutingTrace, scope: str, hits: dict[str, int], slots: int, *, libcachesim: bool) -> int:
    """Compare with independent computations; return how many were compared."""
    pools = batches_of_pools(trace, scope)
    expected = {
        "lru": ordered_dict_lru(pools, slots),
        "lfu": least_worth(pools, slots, lambda _key, uses, _next: uses),
        "belady": least_worth(pools, slots, lambda _key, _uses, next_use: -next_use),
    }
    for policy, count in expected.items():
        assert hits[policy] == count, (policy, scope, hits[policy], count)
    for policy, kind in BUILT_IN.items():
        limit = hits["belady-bypass" if kind.bypass else "belady"]
        assert kind.refills or hits[policy] <= limit, (policy, scope)
    compared = len(expected)
    for policy, algorithm in IN_LIBCACHESIM.items() if libcachesim else ():
        if policy != "s3-fifo" or slots >= 20:
            assert replay(trace, policy, scope, "sequential") == libcachesim_requests(pools, slots, algorithm), policy
            compared += 1
    return compared


def main() -> None:
    """Measure, check and print a table."""
    tokens = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    try:
        import libcachesim

        version: str | None = libcachesim.__version__
    except ImportError:
        version = None
    trace = make_trace(tokens)
    accesses = trace.experts.size
    rates: dict[tuple[str, str], float] = {}
    for scope, slots in (("layer", 2 * TOP_K), ("model", 2 * TOP_K * LAYERS)):
        pools = batches_of_pools(trace, scope)
        contenders: dict[str, Callable[[], int]] = {
            "OrderedDict LRU loop": lambda p=pools, s=slots: ordered_dict_lru(p, s)
        }
        if version:
            contenders["libCacheSim LRU, per request"] = lambda p=pools, s=slots: libcachesim_requests(p, s, "LRU")
        for policy in BUILT_IN:
            contenders[policy] = lambda p=policy, s=scope: replay(trace, p, s)
        hits: dict[str, int] = {}
        for _ in range(rounds):
            for name, contender in contenders.items():
                started = time.process_time()
                count = contender()
                rate = accesses / (time.process_time() - started)
                assert hits.setdefault(name, count) == count, f"{name}: another result in another round"
                rates[name, scope] = max(rates.get((name, scope), 0.0), rate)
        compared = check(trace, scope, hits, slots, libcachesim=version is not None)
        print(f"scope {scope}: {compared} policies equal an independent computation, none exceeds its optimum")
    print(f"{tokens:,} tokens, {accesses:,} accesses, best of {rounds}, libCacheSim {version or 'not installed'}\n")
    print("| policy | layer, M/s | / OrderedDict | / libCacheSim | model, M/s | / OrderedDict | / libCacheSim |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name in dict.fromkeys(name for name, _ in rates):
        cells = [name]
        for scope in ("layer", "model"):
            rate = rates[name, scope]
            loop = rates["OrderedDict LRU loop", scope]
            theirs = rates.get(("libCacheSim LRU, per request", scope))
            cells += [f"{rate / 1e6:.2f}", f"{rate / loop:.2f}", f"{rate / theirs:.2f}" if theirs else "-"]
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
