"""Hits at every capacity from one pass over the trace: the compiled stack algorithms, run over all pools."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.errors import ConfigError
from lrcsim.policies import NEVER, make_policy
from lrcsim.policies.future import SchLookahead
from lrcsim.simulator import stack
from lrcsim.simulator.capacity import Scope
from lrcsim.simulator.future import Future, PoolFuture
from lrcsim.simulator.schedule import Block, Schedule
from lrcsim.traces import RoutingTrace

__all__ = ["STACK_POLICIES", "StackHits", "stack_hits"]

STACK_POLICIES = {
    "lru": stack.LRU,
    "lfu": stack.LFU,
    "belady": stack.NEXT_USE,
    "belady-bypass": stack.NEXT_USE_BYPASS,
    "sch-lookahead": stack.LOOKAHEAD,
}
"""Policies whose larger caches always hold what smaller ones hold, by the rule of worth that the kernel knows."""

RULES = {"coresident": stack.CORESIDENT, "sequential": stack.SEQUENTIAL, "paper": stack.PAPER}


@dataclass(frozen=True)
class StackHits:
    """Hits at every capacity, for one policy.

    Attributes:
        hits: for each pool int64 [2, keys + 1]: by phase (0 prefill, 1 decode) the hits of a cache of c slots, c = 0 to
            all experts of the pool.
        accesses: int64 [pools, 2].
    """

    hits: list[npt.NDArray[np.int64]]
    accesses: npt.NDArray[np.int64]

    def at(self, capacities: list[int]) -> npt.NDArray[np.int64]:
        """Return int64 [2], the hits by phase when pool i has ``capacities[i]`` slots."""
        total = np.zeros(2, np.int64)
        for hits, slots in zip(self.hits, capacities, strict=True):
            total += hits[:, min(slots, hits.shape[1] - 1)]
        return total


def stack_hits(
    trace: RoutingTrace, policy: str, scope: Scope, access: str, prefill: str, warm: bool, jobs: int | None = None
) -> StackHits:
    """Count the hits of a policy at every capacity, in slots.

    Args:
        trace: the routing trace.
        policy: one of `STACK_POLICIES`, with parameters as in ``"sch-lookahead:16"``.
        scope: ``"layer"`` or ``"model"``.
        access: ``"coresident"``, ``"sequential"`` or ``"paper"``.
        prefill: how prompt tokens make steps (`Schedule`).
        warm: whether the cache keeps its contents between requests.
        jobs: threads, one pool each at a time; None: all cores. The result does not depend on it.

    Raises:
        ConfigError: the policy has no stack algorithm.
    """
    chosen = make_policy(policy)
    if chosen.name not in STACK_POLICIES:
        raise ConfigError(f"policy {policy!r} has no stack algorithm, these have: {', '.join(STACK_POLICIES)}")
    rule, stride, layers = STACK_POLICIES[chosen.name], trace.num_experts, trace.num_layers
    schedule = Schedule(trace, prefill)
    pools = [-1] if scope == "model" else list(range(layers))
    states = [stack.StackState.empty(stride * (layers if pool < 0 else 1)) for pool in pools]
    future = Future(schedule, access, warm) if "future" in chosen.needs else None
    windows = [stack.NO_WINDOW] * len(pools)
    if future is not None and isinstance(chosen, SchLookahead):
        windows = [_window(future.of_pool(range(layers) if pool < 0 else [pool]), chosen.m) for pool in pools]
    accesses = np.zeros((len(pools), 2), np.int64)
    whole_tokens = access == "paper" and scope == "model"
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as threads:
        for block in schedule.blocks():
            arguments = _kernel_arguments(block, future, whole_tokens, stride * layers)

            def advance(index: int, given: tuple[Any, ...] = arguments) -> None:
                pool = pools[index]
                first_key = max(pool, 0) * stride
                run: Any = stack.run_stack  # compiled: type checkers do not know its arguments
                run(rule, RULES[access], not warm, pool, first_key, *given, windows[index], states[index])

            list(threads.map(advance, range(len(pools))))
            for phase, layer, count in _access_counts(block):
                accesses[0 if scope == "model" else layer, phase] += count
    hits = [np.pad(np.cumsum(state.hits, axis=1), ((0, 0), (1, 0))) for state in states]
    return StackHits(hits, accesses)


def _kernel_arguments(block: Block, future: Future | None, whole_tokens: bool, num_keys: int) -> tuple[Any, ...]:
    first = np.arange(len(block.layer))
    starts = block.starts
    if whole_tokens:
        first = np.flatnonzero(np.diff(block.step, prepend=-1))
        starts = np.concatenate([block.starts[first], block.starts[-1:]])
    next_use: npt.NDArray[np.int64] = np.zeros(0, np.int64)
    if future is not None:
        time = future.next_use[block.first_access : block.first_access + len(block.keys)]
        latest = NEVER // num_keys // 2
        # The nearer use first, then the smaller key.
        next_use = (np.minimum(time, latest) * num_keys + block.keys).astype(np.int64)
    return block.keys, starts, block.layer[first], block.step[first], block.request[first], block.phase[first], next_use


def _window(future: PoolFuture, steps: int) -> stack.Window:
    return stack.Window(np.array([steps]), future.keys, future.starts, future.horizons())


def _access_counts(block: Block) -> Iterator[tuple[int, int, int]]:
    sizes = np.diff(block.starts)
    for phase in (0, 1):
        mine = block.phase == phase
        for layer, count in enumerate(np.bincount(block.layer[mine], weights=sizes[mine]).tolist()):
            yield phase, layer, int(count)
