"""Hits of compiled score policies at a list of capacities: every pool at every capacity is a run of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import PolicyError
from lrcsim.base.progress import Progress
from lrcsim.base.user_code import compiler_said, is_users, written_in
from lrcsim.policies import CompiledScore, View
from lrcsim.simulator.cache.capacity import PoolSize
from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.compiled.score_loop import run_scored
from lrcsim.simulator.compiled.score_state import REQUEST, SIZE, USE_ORDER, ScoredState, ahead_of, compile_policy
from lrcsim.simulator.compiled.served import Served
from lrcsim.simulator.compiled.stack_any import RULES
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Block, Schedule

__all__ = [
    "ScoredHits",
    "ScoredRun",
    "batches_of",
    "cost_of_layers",
    "pool_view",
    "refuse_failed",
    "scored_columns",
    "scored_functions",
    "scored_hits",
]

HEAP_FROM = 128
"""Slots from which a heap is faster than searching the residents for the least worth: at 64 slots a search is up to
1.5 times as fast, at 768 a heap 3.5 times (48 layers x 128 experts in one pool)."""


@dataclass(frozen=True)
class ScoredHits:
    """Hits at a list of capacities.

    Attributes:
        hits: int64 [2, capacities], by phase (0 prefill, 1 decode), all pools together.
        accesses: int64 [2].
    """

    hits: npt.NDArray[np.int64]
    accesses: npt.NDArray[np.int64]


def scored_hits(
    trace: RoutingTrace,
    policy: CompiledScore,
    sizes: Sequence[Sequence[PoolSize]],
    access: str,
    prefill: str,
    warm: bool,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> ScoredHits:
    """Count the hits of a compiled score policy at each capacity.

    Memory: about 150 bytes x experts x capacities, and a block of the trace.

    Args:
        trace: the routing trace.
        policy: an object of a class that is `CompiledScore.compilable`.
        sizes: for each capacity, that of each pool: one per layer, or one in all.
        access: ``"coresident"``, ``"sequential"`` or ``"paper"``.
        prefill: how prompt tokens make steps (`Schedule`).
        warm: whether the cache keeps its contents between requests.
        jobs: threads, one pool at one capacity each at a time; None: all cores. The result does not depend on it.
        progress: told how far it is.

    Raises:
        PolicyError: ``worth`` or ``update`` cannot be compiled, or fails.
    """
    schedule = Schedule(trace, prefill, weights="weights" in policy.needs | policy.wants)
    future = Future(schedule, access, warm) if "future" in policy.needs else None
    functions = scored_functions(policy)
    runs = [
        (column, pool, ScoredRun(policy, functions, size, trace, access, warm))
        for column, of_pools in enumerate(sizes)
        for pool, size in enumerate(of_pools)
        if pool_view(size, trace).slots > 0  # else nothing ever hits
    ]
    accesses = np.zeros(2, np.int64)
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as threads:
        for block in schedule.blocks():
            first, starts, batches = batches_of(block, access, sizes[0])
            columns = scored_columns(block, first, starts, future)

            def advance(
                one: tuple[int, int, ScoredRun],
                batches: list[npt.NDArray[np.int64]] = batches,
                given: tuple[npt.NDArray[Any], ...] = columns,
            ) -> int:
                _, pool, run = one
                return run.advance(batches[pool], given)

            refuse_failed(policy, threads.map(advance, runs))
            accesses += block.accesses_by_phase()
            if progress is not None:
                progress(block.end_token, trace.num_tokens)
    hits = np.zeros((2, len(sizes)), np.int64)
    for column, _, run in runs:
        hits[:, column] += run.state.hits
    return ScoredHits(hits, accesses)


class ScoredRun:
    """A pool of a compiled score policy at one capacity, between blocks.

    Args:
        policy: the policy.
        functions: of `scored_functions`.
        size: the pool; at least one expert fits.
        trace: the routing trace.
        access: the rule.
        warm: whether the cache keeps its contents between requests.
    """

    def __init__(
        self,
        policy: CompiledScore,
        functions: tuple[Any, Any, bool],
        size: PoolSize,
        trace: RoutingTrace,
        access: str,
        warm: bool,
    ) -> None:
        stride, layers = trace.num_experts, trace.num_layers
        self.state = ScoredState.empty(stride * len(size.layers), layers)
        slots = pool_view(size, trace).slots
        keys = len(self.state.worth)
        ties = -np.arange(keys) if policy.larger_key_first else self.state.whole[USE_ORDER]
        heap = policy.at_use and slots >= HEAP_FROM
        how = (policy.at_use, heap, policy.bypass, ties, RULES[access], not warm)
        room = (slots, size.capacity, cost_of_layers(size, layers), stride, layers, size.layers[0] * stride)
        self._fixed = (*functions, *how, *room)

    def advance(
        self,
        batches: npt.NDArray[np.int64],
        columns: tuple[npt.NDArray[Any], ...],
        served: Served | None = None,
    ) -> int:
        """Run some layer-steps, ``columns`` being those of `scored_columns`; return -1, or the step that failed."""
        run: Any = run_scored  # compiled: type checkers do not know its arguments
        return int(run(*self._fixed, batches, *columns, self.state, served))

    def residents(self) -> int:
        """Return how many experts are in the pool."""
        return int(self.state.counter[SIZE])

    def request(self) -> int:
        """Return the request that used the pool last, -1 if none has."""
        return int(self.state.counter[REQUEST])


def scored_functions(policy: CompiledScore) -> tuple[Any, Any, bool]:
    """Compile a policy: its worths, its new values (anything of that type where there are none), whether there are.

    Raises:
        PolicyError: they cannot be compiled.
    """
    try:
        worths, values = compile_policy(policy)
    except Exception as error:  # numba raises much else than its NumbaError of odd code
        if not is_users(type(policy)):
            raise
        raise PolicyError(_not_compiled(policy, error)) from error
    return worths, values or worths, values is not None


def scored_columns(
    block: Block, first: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], future: Future | None
) -> tuple[npt.NDArray[Any], ...]:
    """Return what `run_scored` is told of the accesses of a block: ``keys`` to ``next_use`` of its arguments."""
    return (
        *(block.keys, starts, block.step[first], block.request[first], block.phase[first]),
        *(*_weights(block), _next_use(block, future)),
    )


def refuse_failed(policy: CompiledScore, results: Iterable[int]) -> None:
    """Raise PolicyError where one of `ScoredRun.advance` failed."""
    failed = [step for step in results if step >= 0]
    if failed:
        raise PolicyError(
            f"policy {policy.name} failed at step {min(failed)}: worth() or update() raised an error, or "
            "returned what is not a number; `lrcsim run` with the same policy and cache says more"
            + written_in(type(policy), "worth")
        )


def pool_view(size: PoolSize, trace: RoutingTrace) -> View:
    """Make what a policy may look at in a pool."""
    sizes = None if size.bytes_per_expert is None else dict(zip(size.layers, size.bytes_per_expert, strict=True))
    return View(size.capacity, trace.num_experts, size.layers, trace.num_layers, trace.top_k, sizes)


def cost_of_layers(size: PoolSize, num_layers: int) -> npt.NDArray[np.int64]:
    """Return int64 [L], what an expert of each layer takes of the pool: slots (1) or bytes."""
    cost = np.ones(num_layers, np.int64)
    if size.bytes_per_expert is not None:
        cost[list(size.layers)] = size.bytes_per_expert
    return cost


def batches_of(
    block: Block, access: str, pools: Sequence[PoolSize]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[npt.NDArray[np.int64]]]:
    """Return the first layer-step of each batch, where each begins in ``keys`` (one more: the end), and each pool's.

    Args:
        block: some steps.
        access: the rule; under the paper's, a batch of the one pool of all layers is a whole token.
        pools: one per layer, or one in all.
    """
    shared = len(pools) == 1
    first, starts = block.batches(access == "paper" and shared)
    if shared:
        return first, starts, [np.arange(len(first))]
    return first, starts, [np.flatnonzero(block.layer == pool.layers[0]) for pool in pools]


def _weights(block: Block) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    if block.weights is None:
        return np.zeros(0, np.float32), np.zeros(0)
    ahead: npt.NDArray[np.float64] = ahead_of(block.weights, block.starts)
    return block.weights, ahead


def _next_use(block: Block, future: Future | None) -> npt.NDArray[np.int64]:
    if future is None:
        return np.zeros(0, np.int64)
    return future.next_use[block.first_access : block.first_access + len(block.keys)]


def _not_compiled(policy: CompiledScore, error: Exception) -> str:
    kind = type(policy)
    functions = [kind.worth, kind.update] if policy.updates() else [kind.worth]
    return (
        f"policy {policy.name}: worth() or update() cannot be compiled ({compiler_said(error, functions)}); use "
        "numbers, math and constants only, or derive from ScorePolicy to run it in Python"
    )
