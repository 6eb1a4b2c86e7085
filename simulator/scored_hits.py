"""Hits of compiled score policies at a list of capacities: every pool at every capacity is a run of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core.errors import NumbaError

from lrcsim.errors import PolicyError
from lrcsim.policies.compiled import CompiledScore
from lrcsim.simulator.capacity import Scope
from lrcsim.simulator.future import Future
from lrcsim.simulator.replay import Progress
from lrcsim.simulator.schedule import Block, Schedule
from lrcsim.simulator.scored import run_scored
from lrcsim.simulator.scored_state import ScoredState, ahead_of, compile_policy
from lrcsim.simulator.stack import RULES
from lrcsim.traces import RoutingTrace

__all__ = ["ScoredHits", "batches_of", "scored_hits"]

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
    capacities: Sequence[int],
    scope: Scope,
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
        capacities: slots of each pool.
        scope: ``"layer"`` or ``"model"``.
        access: ``"coresident"``, ``"sequential"`` or ``"paper"``.
        prefill: how prompt tokens make steps (`Schedule`).
        warm: whether the cache keeps its contents between requests.
        jobs: threads, one pool at one capacity each at a time; None: all cores. The result does not depend on it.
        progress: told how far it is.

    Raises:
        PolicyError: ``worth`` or ``update`` cannot be compiled, or fails.
    """
    stride, layers = trace.num_experts, trace.num_layers
    schedule = Schedule(trace, prefill, weights="weights" in policy.needs | policy.wants)
    future = Future(schedule, access, warm) if "future" in policy.needs else None
    pools = [-1] if scope == "model" else list(range(layers))
    keys_of_pool = stride * (layers if scope == "model" else 1)
    try:
        worths, values = compile_policy(policy)
    except NumbaError as error:
        raise PolicyError(_not_compiled(policy, error)) from error
    what = (worths, values or worths, values is not None, policy.at_use)
    slots_of_run = [slots for slots in capacities if slots > 0]  # without slots nothing ever hits
    runs = [(pool, slots, ScoredState.empty(keys_of_pool, layers)) for pool in pools for slots in slots_of_run]
    accesses = np.zeros(2, np.int64)
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as threads:
        for block in schedule.blocks():
            first, starts, batches = batches_of(block, access, pools)
            columns = (
                *(block.keys, starts, block.step[first], block.request[first], block.phase[first]),
                *(*_weights(block), _next_use(block, future)),
            )

            def advance(
                one: tuple[int, int, ScoredState],
                batches: dict[int, npt.NDArray[np.int64]] = batches,
                given: tuple[npt.NDArray[np.generic], ...] = columns,
            ) -> int:
                pool, slots, state = one
                run: Any = run_scored  # compiled: type checkers do not know its arguments
                rules = (RULES[access], not warm, slots, stride, layers, max(pool, 0) * stride)
                heap = policy.at_use and slots >= HEAP_FROM
                return int(run(*what, heap, policy.bypass, *rules, batches[pool], *given, state))

            failed = [step for step in threads.map(advance, runs) if step >= 0]
            if failed:
                raise PolicyError(
                    f"policy {policy.name} failed at step {min(failed)}: worth() or update() raised an error, or "
                    "returned what is not a number; `lrcsim run` with the same policy and cache says more"
                )
            accesses += block.accesses_by_phase()
            if progress is not None:
                progress(block.end_token, trace.num_tokens)
    hits = np.zeros((2, len(capacities)), np.int64)
    columns_of = [i for i, slots in enumerate(capacities) if slots > 0] * len(pools)
    for column, (_, _, state) in zip(columns_of, runs, strict=True):
        hits[:, column] += state.hits
    return ScoredHits(hits, accesses)


def batches_of(
    block: Block, access: str, pools: Sequence[int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], dict[int, npt.NDArray[np.int64]]]:
    """Return the first layer-step of each batch, where each begins in ``keys`` (one more: the end), and each pool's.

    Args:
        block: some steps.
        access: the rule; under the paper's, a batch of the one pool is all layers of a token.
        pools: layers, or -1 alone for the pool of all.
    """
    first, starts = block.batches(access == "paper" and -1 in pools)
    return (
        first,
        starts,
        {pool: np.arange(len(first)) if pool < 0 else np.flatnonzero(block.layer == pool) for pool in pools},
    )


def _weights(block: Block) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    if block.weights is None:
        return np.zeros(0, np.float32), np.zeros(0)
    ahead: npt.NDArray[np.float64] = ahead_of(block.weights, block.starts)
    return block.weights, ahead


def _next_use(block: Block, future: Future | None) -> npt.NDArray[np.int64]:
    if future is None:
        return np.zeros(0, np.int64)
    return future.next_use[block.first_access : block.first_access + len(block.keys)]


def _not_compiled(policy: CompiledScore, error: NumbaError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    why = next((line for line in lines if not line.startswith(("Failed in", "[1] During", "Failed at"))), "")
    return (
        f"policy {policy.name}: worth() or update() cannot be compiled ({why[:120]}); use numbers, math and constants "
        "only, or derive from ScorePolicy to run it in Python"
    )
