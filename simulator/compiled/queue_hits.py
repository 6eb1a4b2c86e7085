"""Hits of compiled queue policies at a list of capacities: every pool at every capacity is a run of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.progress import Progress
from lrcsim.policies import Policy, engines, profiled, queues, recency
from lrcsim.simulator.cache.capacity import PoolSize
from lrcsim.simulator.compiled.queue_lists import FIRST, QUEUE, QUEUES, REQUEST, SECOND, QueueSizes, QueueState
from lrcsim.simulator.compiled.queue_loop import ARC, CLOCK, DALI, LRU, RANDOM, S3_FIFO, SIEVE, SLRU, STATIC, run_queues
from lrcsim.simulator.compiled.scored_hits import ScoredHits, batches_of, cost_of_layers, pool_view
from lrcsim.simulator.compiled.served import Served
from lrcsim.simulator.compiled.stack_any import RULES
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule

__all__ = ["QUEUE_POLICIES", "QueueRun", "queue_hits"]

QUEUE_POLICIES: dict[type[Policy], int] = {
    recency.Clock: CLOCK,
    recency.Sieve: SIEVE,
    queues.Slru: SLRU,
    queues.S3Fifo: S3_FIFO,
    queues.Arc: ARC,
    recency.Lru: LRU,
    engines.Dali: DALI,
    profiled.Static: STATIC,
    profiled.PinnedLru: LRU,
    recency.Random: RANDOM,
}
"""The built-in classes that have a compiled queue, and which."""


def queue_hits(
    trace: RoutingTrace,
    policy: Policy,
    sizes: Sequence[Sequence[PoolSize]],
    access: str,
    prefill: str,
    warm: bool,
    profile: npt.NDArray[np.float64] | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> ScoredHits:
    """Count the hits of a queue policy at each capacity.

    Memory: about 30 bytes x experts x capacities (dali: and 4 x its window x pools x capacities), and a block of the
    trace.

    Args:
        trace: the routing trace.
        policy: an object of a class of `QUEUE_POLICIES` (not of one derived from it); it is left as it is.
        sizes: for each capacity, that of each pool: one per layer, or one in all.
        access: ``"coresident"``, ``"sequential"`` or ``"paper"``.
        prefill: how prompt tokens make steps (`Schedule`).
        warm: whether the cache keeps its contents between requests.
        profile: float64 [L * E], uses by key in a profiling run, for policies that need it.
        jobs: threads, one pool at one capacity each at a time; None: all cores. The result does not depend on it.
        progress: told how far it is.
    """
    runs = [
        (column, pool, QueueRun(policy, size, trace, access, warm, profile))
        for column, of_pools in enumerate(sizes)
        for pool, size in enumerate(of_pools)
        if pool_view(size, trace).slots > 0  # else nothing ever hits
    ]
    accesses = np.zeros(2, np.int64)
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as threads:
        for block in Schedule(trace, prefill).blocks():
            first, starts, batches = batches_of(block, access, sizes[0])
            columns = (block.keys, starts, block.request[first], block.phase[first])

            def advance(
                one: tuple[int, int, QueueRun],
                batches: list[npt.NDArray[np.int64]] = batches,
                given: tuple[npt.NDArray[Any], ...] = columns,
            ) -> None:
                _, pool, run = one
                run.advance(batches[pool], given)

            for _ in threads.map(advance, runs):
                pass
            accesses += block.accesses_by_phase()
            if progress is not None:
                progress(block.end_token, trace.num_tokens)
    hits = np.zeros((2, len(sizes)), np.int64)
    for column, _, run in runs:
        hits[:, column] += run.state.hits
    return ScoredHits(hits, accesses)


class QueueRun:
    """A pool of a compiled queue policy at one capacity, between blocks.

    Args:
        policy: an object of a class of `QUEUE_POLICIES`; a fresh one of the same parameters is asked what it makes of
            the pool.
        size: the pool; at least one expert fits.
        trace: the routing trace.
        access: the rule.
        warm: whether the cache keeps its contents between requests.
        profile: float64 [L * E], uses by key in a profiling run, for policies that need it.
    """

    def __init__(
        self,
        policy: Policy,
        size: PoolSize,
        trace: RoutingTrace,
        access: str,
        warm: bool,
        profile: npt.NDArray[np.float64] | None,
    ) -> None:
        view = pool_view(size, trace)
        if profile is not None:
            view.profile = profile.tolist()
        fresh = type(policy)(**{param.name: getattr(policy, param.name) for param in policy.params})
        fresh.view = view
        fresh.reset()
        first_key = size.layers[0] * trace.num_experts
        cost = np.repeat(cost_of_layers(size, trace.num_layers)[list(size.layers)], trace.num_experts)
        pinned = np.array(sorted(fresh.refill() or ()), np.int32) - first_key
        kernel_sizes, listed, seeds = QueueSizes(size.capacity, view.slots), 0, (0, 0)
        if isinstance(fresh, queues.Slru):
            kernel_sizes = kernel_sizes._replace(part=fresh.safe_slots)
        elif isinstance(fresh, queues.S3Fifo):
            kernel_sizes = kernel_sizes._replace(
                part=fresh.small_slots, ghost=fresh.ghost_slots, threshold=fresh.threshold
            )
        elif isinstance(fresh, engines.Dali):
            listed = min(
                fresh.window, max(trace.num_tokens * trace.num_layers * trace.top_k, 1)
            )  # no more is ever seen
            kernel_sizes = kernel_sizes._replace(threshold=fresh.heavy, window=listed)
        elif isinstance(fresh, recency.Random):
            listed, seeds = len(cost), fresh.seeds
        self.state = QueueState.new(cost, pinned.astype(np.int32), listed, seeds)
        self._fixed = (QUEUE_POLICIES[type(policy)], kernel_sizes, RULES[access], not warm, first_key, cost)

    def advance(
        self,
        batches: npt.NDArray[np.int64],
        columns: tuple[npt.NDArray[Any], ...],
        served: Served | None = None,
    ) -> int:
        """Run some layer-steps, ``columns`` being ``keys`` to ``phase`` of the arguments of `run_queues`; return -1."""
        run: Any = run_queues  # compiled: type checkers do not know its arguments
        run(*self._fixed, batches, *columns, self.state, served)
        return -1  # as `ScoredRun.advance`: none of these fails

    def residents(self) -> int:
        """Return how many experts are in the pool, not counting pinned ones."""
        node = self.state.node
        queue = node[QUEUE, : node.shape[1] - QUEUES]
        return int(((queue == FIRST) | (queue == SECOND)).sum()) - len(self.state.pinned)

    def request(self) -> int:
        """Return the request that used the pool last, -1 if none has."""
        return int(self.state.counter[REQUEST])
