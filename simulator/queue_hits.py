"""Hits of compiled queue policies at a list of capacities: every pool at every capacity is a run of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.policies import Policy, View, queues, recency
from lrcsim.simulator.capacity import Scope
from lrcsim.simulator.queue_kernels import ARC, CLOCK, S3_FIFO, SIEVE, SLRU, QueueSizes, QueueState, run_queues
from lrcsim.simulator.replay import Progress
from lrcsim.simulator.schedule import Schedule
from lrcsim.simulator.scored_hits import ScoredHits, batches_of
from lrcsim.simulator.stack import RULES
from lrcsim.traces import RoutingTrace

__all__ = ["QUEUE_POLICIES", "queue_hits"]

QUEUE_POLICIES: dict[type[Policy], int] = {
    recency.Clock: CLOCK,
    recency.Sieve: SIEVE,
    queues.Slru: SLRU,
    queues.S3Fifo: S3_FIFO,
    queues.Arc: ARC,
}
"""The built-in classes that have a compiled queue, and which."""


def queue_hits(
    trace: RoutingTrace,
    policy: Policy,
    slots: Sequence[Sequence[int]],
    scope: Scope,
    access: str,
    prefill: str,
    warm: bool,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> ScoredHits:
    """Count the hits of a queue policy at each capacity.

    Memory: about 30 bytes x experts x capacities, and a block of the trace.

    Args:
        trace: the routing trace.
        policy: an object of a class of `QUEUE_POLICIES` (not of one derived from it); it is left as it is.
        slots: for each capacity, those of each pool: one per layer, or one in all.
        scope: ``"layer"`` or ``"model"``.
        access: ``"coresident"``, ``"sequential"`` or ``"paper"``.
        prefill: how prompt tokens make steps (`Schedule`).
        warm: whether the cache keeps its contents between requests.
        jobs: threads, one pool at one capacity each at a time; None: all cores. The result does not depend on it.
        progress: told how far it is.
    """
    kind, stride = QUEUE_POLICIES[type(policy)], trace.num_experts
    pools = [-1] if scope == "model" else list(range(trace.num_layers))
    keys_of_pool = stride * (trace.num_layers if scope == "model" else 1)
    runs = [
        (column, pool, _sizes(policy, capacity), QueueState.empty(keys_of_pool))
        for column, capacities in enumerate(slots)
        for pool, capacity in zip(pools, capacities, strict=True)
        if capacity > 0  # without slots nothing ever hits
    ]
    accesses = np.zeros(2, np.int64)
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as threads:
        for block in Schedule(trace, prefill).blocks():
            first, starts, batches = batches_of(block, access, pools)
            columns = (block.keys, starts, block.request[first], block.phase[first])

            def advance(
                one: tuple[int, int, QueueSizes, QueueState],
                batches: dict[int, npt.NDArray[np.int64]] = batches,
                given: tuple[npt.NDArray[np.generic], ...] = columns,
            ) -> None:
                _, pool, size, state = one
                run: Any = run_queues  # compiled: type checkers do not know its arguments
                run(kind, size, RULES[access], not warm, max(pool, 0) * stride, batches[pool], *given, state)

            for _ in threads.map(advance, runs):
                pass
            accesses += block.accesses_by_phase()
            if progress is not None:
                progress(block.end_token, trace.num_tokens)
    hits = np.zeros((2, len(slots)), np.int64)
    for column, _, _, state in runs:
        hits[:, column] += state.hits
    return ScoredHits(hits, accesses)


def _sizes(policy: Policy, slots: int) -> QueueSizes:
    """Ask a fresh object of the same class and parameters what it makes of a capacity."""
    fresh = type(policy)(**{param.name: getattr(policy, param.name) for param in policy.params})
    fresh.view = View(slots, 1, (0,), 1, 1)
    fresh.reset()
    if isinstance(fresh, queues.Slru):
        return QueueSizes(slots, part=fresh.safe_slots)
    if isinstance(fresh, queues.S3Fifo):
        return QueueSizes(slots, fresh.small_slots, fresh.ghost_slots, fresh.threshold)
    return QueueSizes(slots)
