"""Pools of compiled policies, each at one capacity, told access by access: queues, and "evict the smallest score".

`PoolMaker` makes the pools of a policy and knows what they are told of a block; `hits_at_sizes` runs many of them, one
for each pool and capacity, for hits alone. `lrcsim.simulator.compiled.compiled_cache` runs those of one cache, and says
what became of every access.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import PolicyError, did_you_mean
from lrcsim.base.progress import Progress
from lrcsim.base.user_code import compiler_said, is_users, written_in
from lrcsim.policies import CompiledScore, Expert, Now, Policy
from lrcsim.policies.admission import Admit2
from lrcsim.policies.kernels import Queue
from lrcsim.simulator.cache.capacity import PoolSize
from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.cache.pool import pool_view
from lrcsim.simulator.compiled.admitted import AdmittedPool, admitted_loop_of, run_admitted_scored
from lrcsim.simulator.compiled.engine_for import behind, kernel_of
from lrcsim.simulator.compiled.queue_lists import (
    FIRST,
    QUEUE,
    QUEUES,
    ROWS,
    ROWS_WITH_STACK,
    THIRD,
    QueueSizes,
    QueueState,
)
from lrcsim.simulator.compiled.queue_lists import REQUEST as QUEUE_REQUEST
from lrcsim.simulator.compiled.queue_loop import loop_of
from lrcsim.simulator.compiled.repin import run_repinned
from lrcsim.simulator.compiled.score_loop import run_scored
from lrcsim.simulator.compiled.score_state import REQUEST, SIZE, USE_ORDER, ScoredState, ahead_of, compile_policy
from lrcsim.simulator.compiled.served import GONE, LOADED, LOADS, Served, pass_through
from lrcsim.simulator.compiled.stack_any import RULES
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Block, Schedule

HEAP_FROM = 128
"""Slots from which a heap is faster than searching the residents for the smallest score: at 64 slots a search is up to
1.5 times as fast, at 768 a heap 3.5 times (48 layers x 128 experts in one pool)."""

NO_KEYS: npt.NDArray[np.int32] = np.zeros(0, np.int32)

Columns = tuple[npt.NDArray[Any], ...]
"""What the pools of a policy are told of the layer-steps of a block: arguments of `run_queues` or `run_scored`."""


class CompiledPool(Protocol):
    """A pool at one capacity, between blocks.

    Attributes:
        hits: int64 [2], by phase.
        pinned: int32 [n], keys held for good, from the pool's first key.
    """

    hits: npt.NDArray[np.int64]
    pinned: npt.NDArray[np.int32]

    def advance(self, batches: npt.NDArray[np.int64], columns: Columns, served: Served | None = None) -> int:
        """Run some layer-steps; return -1, or the step at which the policy failed."""

    def residents(self) -> int:
        """Return how many experts are in the pool, not counting pinned ones."""

    def request(self) -> int:
        """Return the request that used the pool last, -1 if none has."""


class EmptyPool:
    """A pool in which no expert fits: nothing hits."""

    def __init__(self) -> None:
        self.hits = np.zeros(2, np.int64)
        self.pinned = NO_KEYS

    def advance(self, batches: npt.NDArray[np.int64], columns: Columns, served: Served | None = None) -> int:
        """Let everything pass."""
        if served is not None and served.share < 1:
            pass_through(batches, columns[1], served)
        elif served is not None:  # all are loaded: nothing is compiled for that
            lengths = np.diff(columns[1])
            mine = np.zeros(len(lengths), np.bool_)
            mine[batches] = True
            served.flags[np.repeat(mine, lengths)] = LOADED
            served.counter[[LOADS, GONE]] += lengths[batches].sum()
        return -1

    def residents(self) -> int:
        """Return 0."""
        return 0

    def request(self) -> int:
        """Return -1."""
        return -1


class QueueRules(NamedTuple):
    """What a queue pool's loop is told at every call: its first arguments (`run_queues`)."""

    policy: int
    sizes: QueueSizes
    access: int
    cold: bool
    first_key: int
    cost: npt.NDArray[np.int64]


class QueuePool:
    """A pool of a policy with a queue loop.

    Args:
        policy: the policy; a fresh one of the same parameters is asked what it makes of the pool.
        queue: its loop.
        size: the pool; at least one expert fits.
        trace: the routing trace.
        access: the rule.
        warm: whether the cache keeps its contents between requests.
        profile: float64 [L * E], uses by key in a profiling run, for policies that need it.

    Attributes:
        state: what the loop keeps.
        fixed: what it is told at every call.
    """

    def __init__(
        self,
        policy: Policy,
        queue: Queue,
        size: PoolSize,
        trace: RoutingTrace,
        access: str,
        warm: bool,
        profile: npt.NDArray[np.float64] | None,
    ) -> None:
        fresh = type(policy)(**{param.name: getattr(policy, param.name) for param in policy.params})
        fresh.view = pool_view(size, trace)
        if profile is not None:
            fresh.view.profile = profile.tolist()
        fresh.reset()
        first_key = size.layers[0] * trace.num_experts
        cost = size.cost(trace.num_experts)
        sizes = QueueSizes(size.capacity, fresh.view.slots, **fresh.kernel_sizes())
        most = max(trace.num_tokens * trace.num_layers * trace.top_k, 1)  # accesses: no more is ever looked back on
        sizes = sizes._replace(window=min(sizes.window, most))
        self.pinned = (np.array(sorted(fresh.refill() or ()), np.int64) - first_key).astype(np.int32)
        listed = len(cost) if queue in (Queue.RANDOM, Queue.REPIN) else sizes.window
        rows = ROWS_WITH_STACK if queue == Queue.LIRS else ROWS
        self.state = QueueState.new(cost, self.pinned, listed, (sizes.seed, sizes.seed2), rows)
        self.hits = self.state.hits
        self._repins = queue is Queue.REPIN
        self._run: Any = run_repinned if self._repins else loop_of(queue)
        self.fixed = QueueRules(queue.value, sizes, RULES[access], not warm, first_key, cost)

    def advance(self, batches: npt.NDArray[np.int64], columns: Columns, served: Served | None = None) -> int:
        """Run some layer-steps; return -1: none of these policies fails."""
        self._run(*self.fixed, batches, *columns, self.state, served)
        return -1

    def loaded_between_steps(self) -> npt.NDArray[np.int64]:
        """Return int64 [keys], how often the policy has loaded each expert of its own accord since the start."""
        if not self._repins:
            return np.zeros(0, np.int64)
        return self.state.listed.astype(np.int64)

    def residents(self) -> int:
        """Return how many experts are in the pool, not counting pinned ones."""
        node = self.state.node
        queue = node[QUEUE, : node.shape[1] - QUEUES]
        return int(((queue >= FIRST) & (queue <= THIRD)).sum()) - len(self.pinned)

    def request(self) -> int:
        """Return the request that used the pool last, -1 if none has."""
        return int(self.state.counter[QUEUE_REQUEST])


class ScorePool:
    """A pool of a `CompiledScore`.

    Args:
        policy: the policy.
        functions: of `compiled_functions`.
        size: the pool; at least one expert fits.
        trace: the routing trace.
        access: the rule.
        warm: whether the cache keeps its contents between requests.

    Attributes:
        state: what the loop keeps.
        fixed: what it is told at every call.
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
        keys = len(self.state.score)
        ties = -np.arange(keys) if policy.larger_key_first else self.state.whole[USE_ORDER]
        heap = policy.at_use and slots >= HEAP_FROM
        how = (policy.at_use, heap, policy.bypass, ties, RULES[access], not warm)
        room = (slots, size.capacity, size.cost(stride), stride, layers, size.layers[0] * stride)
        self.fixed = (*functions, *how, *room)
        self.hits = self.state.hits
        self.pinned = NO_KEYS

    def advance(self, batches: npt.NDArray[np.int64], columns: Columns, served: Served | None = None) -> int:
        """Run some layer-steps; return -1, or the step at which the policy failed."""
        run: Any = run_scored  # compiled: type checkers do not know its arguments
        return int(run(*self.fixed, batches, *columns, self.state, served))

    def residents(self) -> int:
        """Return how many experts are in the pool."""
        return int(self.state.counter[SIZE])

    def request(self) -> int:
        """Return the request that used the pool last, -1 if none has."""
        return int(self.state.counter[REQUEST])


class PoolMaker:
    """A compiled policy under the rules of a run.

    Args:
        policy: a policy for which `engine_for` says compiled; it is left as it is.
        trace: the routing trace.
        access: ``"coresident"``, ``"sequential"`` or ``"paper"``.
        prefill: how prompt tokens make steps (`Schedule`).
        warm: whether the cache keeps its contents between requests.
        profile: float64 [L * E], uses by key in a profiling run, for policies that need it.

    Attributes:
        schedule: the blocks that the pools are to be told of.

    Raises:
        PolicyError: ``score`` or ``update`` cannot be compiled.
    """

    def __init__(
        self,
        policy: Policy,
        trace: RoutingTrace,
        access: str,
        prefill: str,
        warm: bool,
        profile: npt.NDArray[np.float64] | None = None,
    ) -> None:
        self.policy, self.trace, self.access, self.warm, self.profile = policy, trace, access, warm, profile
        self._behind = behind(policy)
        self._queue = kernel_of(self._behind, Queue)
        self.schedule = Schedule(trace, prefill, weights="weights" in policy.needs | policy.wants)
        self._future = Future(self.schedule, access, warm) if "future" in policy.needs else None
        if self._queue is None:
            assert isinstance(self._behind, CompiledScore)  # or engine_for() would not say so
            self._functions = compiled_functions(self._behind)

    def pool(self, size: PoolSize) -> CompiledPool:
        """Make a pool with nothing in it."""
        if pool_view(size, self.trace).slots == 0:
            return EmptyPool()
        pool, admitted = self._pool_behind(size)
        if self._behind is self.policy:
            return pool
        assert isinstance(self.policy, Admit2)
        return AdmittedPool(pool, admitted, self.policy.window, self.trace.num_experts * len(size.layers))

    def _pool_behind(self, size: PoolSize) -> tuple[QueuePool | ScorePool, Any]:
        """Return a pool without admission, and the loop for one with it."""
        policy, trace = self._behind, self.trace
        if self._queue is not None:
            pool = QueuePool(policy, self._queue, size, trace, self.access, self.warm, self.profile)
            return pool, admitted_loop_of(self._queue)
        assert isinstance(policy, CompiledScore)
        return ScorePool(policy, self._functions, size, trace, self.access, self.warm), run_admitted_scored

    def told(self, block: Block, pools: Sequence[PoolSize]) -> tuple[list[npt.NDArray[np.int64]], Columns]:
        """Return which batches of a block concern each pool, and what pools are told of the block.

        Args:
            block: some steps.
            pools: one per layer, or one in all; then, under the paper's rule, a batch is a whole token.
        """
        shared = len(pools) == 1
        first, starts = block.batches(self.access == "paper" and shared)
        mine = [np.arange(len(first))] if shared else [np.flatnonzero(block.layer == one.layers[0]) for one in pools]
        when = (block.request[first], block.phase[first])
        if self._queue is not None:
            if self._queue is Queue.REPIN:
                return mine, (block.keys, starts, *when, block.step[first])
            return mine, (block.keys, starts, *when)
        return mine, (block.keys, starts, block.step[first], *when, *_weights(block), self._next_use(block))

    def _next_use(self, block: Block) -> npt.NDArray[np.int64]:
        if self._future is None:
            return np.zeros(0, np.int64)
        return self._future.next_use[block.first_access : block.first_access + len(block.keys)]

    def refuse_failed(self, results: Iterable[int]) -> None:
        """Raise PolicyError where one of `CompiledPool.advance` failed."""
        failed = [step for step in results if step >= 0]
        if failed:
            assert isinstance(self._behind, CompiledScore)
            score = self._behind.score_name
            raise PolicyError(
                f"policy {self.policy.name} failed at step {min(failed)}: {score}() or update() raised an error, or "
                "returned what is not a number; `lrcsim run` with the same policy and cache says more"
                + written_in(type(self._behind), score)
            )


@dataclass(frozen=True)
class HitsAtSizes:
    """Hits at a list of capacities.

    Attributes:
        hits: int64 [2, capacities], by phase (0 prefill, 1 decode), all pools together.
        accesses: int64 [2].
        of_pools: int64 [2, pools, capacities], the hits of each pool.
    """

    hits: npt.NDArray[np.int64]
    accesses: npt.NDArray[np.int64]
    of_pools: npt.NDArray[np.int64]


def hits_at_sizes(
    maker: PoolMaker,
    sizes: Sequence[Sequence[PoolSize]],
    jobs: int | None = None,
    progress: Progress | None = None,
) -> HitsAtSizes:
    """Count the hits of a compiled policy at each capacity.

    Memory: about 150 bytes x experts x capacities (queues: 30; dali: and 4 x its window x pools x capacities), and a
    block of the trace.

    Args:
        maker: the policy and the rules.
        sizes: for each capacity, that of each pool: one per layer, or one in all.
        jobs: threads, one pool at one capacity each at a time; None: all cores. The result does not depend on it.
        progress: told how far it is.

    Raises:
        PolicyError: the policy fails.
    """
    pools = [
        (column, place, maker.pool(size))
        for column, of_pools in enumerate(sizes)
        for place, size in enumerate(of_pools)
    ]
    accesses = np.zeros(2, np.int64)
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as threads:
        for block in maker.schedule.blocks():
            mine, columns = maker.told(block, sizes[0])

            def advance(
                one: tuple[int, int, CompiledPool],
                mine: list[npt.NDArray[np.int64]] = mine,
                columns: Columns = columns,
            ) -> int:
                _, place, pool = one
                return pool.advance(mine[place], columns)

            maker.refuse_failed(threads.map(advance, pools))
            accesses += block.accesses_by_phase()
            if progress is not None:
                progress(block.end_token, maker.trace.num_tokens)
    hits = np.zeros((2, len(sizes[0]), len(sizes)), np.int64)
    for column, place, pool in pools:
        hits[:, place, column] = pool.hits
    return HitsAtSizes(hits.sum(axis=1), accesses, hits)


def compiled_functions(policy: CompiledScore) -> tuple[Any, Any, bool]:
    """Compile a policy: its scores, its new values (anything of that type where there are none), whether there are.

    Raises:
        PolicyError: they cannot be compiled.
    """
    try:
        scores, values = compile_policy(policy)
    except Exception as error:  # numba raises much else than its NumbaError of odd code
        if not is_users(type(policy)):
            raise
        raise PolicyError(_not_compiled(policy, error)) from error
    return scores, values or scores, values is not None


def _weights(block: Block) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    if block.weights is None:
        return np.zeros(0, np.float32), np.zeros(0)
    ahead: npt.NDArray[np.float64] = ahead_of(block.weights, block.starts)
    return block.weights, ahead


def _not_compiled(policy: CompiledScore, error: Exception) -> str:
    kind = type(policy)
    said = compiler_said(error, [kind.score, kind.update] if policy.updates() else [kind.score])
    failed = f"policy {policy.name}: {kind.score_name}() or update() cannot be compiled"
    if odd := re.match(r"(.*)Unknown attribute '(\w+)' of type (Expert|Now)\b", said):
        where, given, owner = odd.groups()
        fields = (Expert if owner == "Expert" else Now)._fields
        close = did_you_mean(given, fields)
        return f"{failed} ({where}{owner} has no {given!r}); it has {', '.join(fields)}{close}"
    return f"{failed} ({said}); use numbers, math and constants only, or derive from ScorePolicy to run it in Python"
