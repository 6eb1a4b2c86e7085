"""Hits at every capacity from one pass over the trace: the compiled stack algorithms, run over all pools."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.base.progress import Progress
from lrcsim.base.reprs import short_repr
from lrcsim.policies import BUILT_IN, PolicySpec, make_policy
from lrcsim.policies.kernels import Stack
from lrcsim.simulator.cache.capacity import Scope
from lrcsim.simulator.compiled import in_lanes as lanes
from lrcsim.simulator.compiled import lru as lru_stack
from lrcsim.simulator.compiled import lru_registers, lru_turn
from lrcsim.simulator.compiled import sch_static as static_stack
from lrcsim.simulator.compiled import stack_any as stack
from lrcsim.simulator.compiled.engine_for import kernel_of
from lrcsim.simulator.compiled.stack_decode import (
    LFU,
    LOOKAHEAD,
    NEXT_USE,
    NEXT_USE_BYPASS,
    distinct,
    fits,
    run_batches,
)
from lrcsim.simulator.compiled.stack_runs import run_runs, suits
from lrcsim.simulator.compiled.stack_single import run_singles
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule, StepRun

LRU, STATIC = -1, -2
RULES = {
    Stack.LRU: LRU,
    Stack.STATIC: STATIC,
    Stack.LFU: LFU,
    Stack.NEXT_USE: NEXT_USE,
    Stack.NEXT_USE_BYPASS: NEXT_USE_BYPASS,
    Stack.LOOKAHEAD: LOOKAHEAD,
}
"""The numbers by which the kernels know the rules of score."""

STACK_POLICIES = {name: kernel for name, policy in BUILT_IN.items() if (kernel := kernel_of(policy, Stack)) is not None}
"""Policies whose larger caches always hold what smaller ones hold, and the pass that counts their hits."""

IMPOSSIBLE = "the trace has expert ids out of range, or twice in one token; `lrcsim trace check` says where"
TOKENS_PER_BLOCK = 65_536
"""Read at a time: 50 MB of ids at 48 layers and top-8."""

MEMORY = 600_000_000
"""Bytes that pools which look ahead may take together: where they would take more, fewer run at a time."""

BYTES_AHEAD = 10
"""Bytes per access of such a pool: its id and the time of its next use."""

NO_TIMES: npt.NDArray[np.int64] = np.zeros(0, np.int64)


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

    __repr__ = short_repr

    def at(self, capacities: list[int]) -> npt.NDArray[np.int64]:
        """Return int64 [2], the hits by phase when pool i has ``capacities[i]`` slots."""
        total = np.zeros(2, np.int64)
        for hits, slots in zip(self.hits, capacities, strict=True):
            total += hits[:, min(slots, hits.shape[1] - 1)]
        return total


def stack_hits(
    trace: RoutingTrace,
    policy: PolicySpec,
    scope: Scope,
    access: str,
    prefill: str,
    warm: bool,
    jobs: int | None = None,
    progress: Progress | None = None,
    only: int | None = None,
) -> StackHits:
    """Count the hits of a policy at every capacity, in slots.

    lru and lfu stream the trace. The others look ahead and hold the ids of a pool (2 bytes per access) and its next
    uses (8 bytes) in memory, in scope ``layer`` one layer per job.

    Args:
        trace: the routing trace.
        policy: one of `STACK_POLICIES`, with parameters as in ``"sch-lookahead:16"``.
        scope: ``"layer"`` or ``"model"``.
        access: ``"coresident"``, ``"sequential"`` or ``"paper"``.
        prefill: how prompt tokens make steps (`Schedule`).
        warm: whether the cache keeps its contents between requests.
        jobs: threads, one pool each at a time; None: all cores. Fewer where they would hold more than `MEMORY`. The
            result does not depend on it.
        progress: told how far it is, in tokens.
        only: for ``belady`` and ``belady-bypass``, the phase (0 prefill, 1 decode) in which hits are worth something:
            those of this phase are then the most that any policy can have in it, those of the other mean nothing.

    Raises:
        ConfigError: the policy has no stack algorithm.
        TraceError: the trace, opened from a file and not checked, has impossible expert ids.
    """
    chosen = make_policy(policy)
    kernel = kernel_of(chosen, Stack)
    if kernel is None:
        raise ConfigError(f"policy {policy!r} has no stack algorithm, these have: {', '.join(STACK_POLICIES)}")
    rule = RULES[kernel]
    window = int(getattr(chosen, "m", 0))
    pools: list[int | None] = [None] if scope == "model" else list(range(trace.num_layers))
    keys = trace.num_experts * (trace.num_layers if scope == "model" else 1)
    kinds: dict[int, Any] = {LRU: lru_stack.LruState, STATIC: static_stack.StaticState}
    states = [kinds.get(rule, stack.StackState).empty(keys) for _ in pools]
    schedule = Schedule(trace, prefill)
    run = StackKernel(rule, stack.RULES[access], not warm, trace.num_experts, keys, window, only)
    width = jobs or os.cpu_count() or 1
    in_lanes = scope == "layer" and access == "coresident" and only is None and lanes.suits(trace, rule, window)
    if run.needs_all and not in_lanes:  # a pool's ids and next uses are held while it is run
        bytes_per_pool = BYTES_AHEAD * trace.num_tokens * trace.top_k * (trace.num_layers if scope == "model" else 1)
        width = max(1, min(width, MEMORY // bytes_per_pool))
    with ThreadPoolExecutor(width) as threads:
        spread = threads.map if min(width, len(pools)) > 1 else map  # one alone needs no thread: a tenth of LRU's time
        if in_lanes:
            return _in_lanes(trace, schedule, rule, window, not warm, spread, progress)
        if run.needs_all:
            all_steps = schedule.all_steps()
            steps = kernel_steps(all_steps)
            if rule == STATIC:
                run.windows = _windows(trace, all_steps, run.window)

            def whole(index: int) -> None:
                run(trace.read("experts", 0, trace.num_tokens, layer=pools[index]), steps, states[index])

            for done, _ in enumerate(spread(whole, range(len(pools))), start=1):
                if progress is not None:
                    progress(trace.num_tokens * done // len(pools), trace.num_tokens)
        else:
            for part in schedule.step_runs(TOKENS_PER_BLOCK):
                experts = trace.read("experts", int(part.starts[0]), int(part.starts[-1]))

                def block(index: int, experts: Any = experts, part: StepRun = part) -> None:
                    layer = pools[index]
                    mine = np.ascontiguousarray(experts if layer is None else experts[:, layer : layer + 1])
                    run(mine, kernel_steps(part), states[index])

                list(spread(block, range(len(pools))))
                if progress is not None:
                    progress(int(part.starts[-1]), trace.num_tokens)
    return StackHits(
        hits=[np.pad(np.cumsum(state.hits[:, :keys], axis=1), ((0, 0), (1, 0))) for state in states],
        accesses=np.array([state.accesses for state in states]),
    )


def _in_lanes(
    trace: RoutingTrace,
    schedule: Schedule,
    rule: int,
    window: int,
    cold: bool,
    spread: Any,
    progress: Progress | None,
) -> StackHits:
    found = lanes.hits_in_lanes(trace, schedule, rule, window, cold, spread, progress)
    if found is None:
        raise TraceError(IMPOSSIBLE)
    return StackHits(
        hits=[np.pad(np.cumsum(hits, axis=1), ((0, 0), (1, 0))) for hits, _ in found],
        accesses=np.array([accesses for _, accesses in found]),
    )


class StackKernel:
    """The kernel of a policy with everything but the pool's data set."""

    def __init__(
        self, rule: int, access: int, cold: bool, stride: int, keys: int, window: int, only: int | None
    ) -> None:
        self.rule, self.access, self.cold, self.stride, self.keys, self.window = (
            rule,
            access,
            cold,
            stride,
            keys,
            window,
        )
        self.only = -1 if only is None else only
        self.needs_all = rule not in (LRU, LFU)
        self.windows = NO_TIMES  # of every step, for STATIC

    def __call__(self, experts: npt.NDArray[Any], steps: stack.Steps, state: Any) -> None:
        """Advance a pool over int [tokens, layers of the pool, k] experts; TraceError where they are impossible."""
        least, most = (int(experts.min()), int(experts.max())) if experts.size else (0, 0)
        if most >= self.stride or least < -1:
            raise TraceError(IMPOSSIBLE)
        self._run(experts, least >= 0, steps, state)
        if state.counter[5]:
            raise TraceError(IMPOSSIBLE)

    def _run(self, experts: npt.NDArray[Any], complete: bool, steps: stack.Steps, state: Any) -> None:
        if self.rule == LRU:
            self._run_lru(experts, complete, steps, state)
            return
        if self.rule == STATIC:
            static: Any = static_stack.run_static
            static(experts, steps, self.stride, self.windows, state)
            return
        self._run_stack(experts, steps, state)

    def _run_lru(self, experts: npt.NDArray[Any], complete: bool, steps: stack.Steps, state: Any) -> None:
        if self.keys > lru_stack.BITS:
            marks: Any = lru_stack.run_lru_marks
            marks(self.access, self.cold, experts, steps, self.stride, state)
            return
        bits: Any = lru_stack.run_lru_bits
        words, k = (0,) * (state.hits.shape[1] // 64), experts.shape[2]
        apart = (1,) if self.access == stack.SEQUENTIAL else ()
        suits = len(words) <= 2 and not apart and k <= lru_registers.MOST and experts.dtype == np.int16
        members = (0,) * k if suits and lru_turn.available() else ()
        how = (words, members, apart, self.access, self.cold)
        keys, places = np.empty(self.keys, experts.dtype), np.empty(self.keys, np.int64)
        bits(*how, experts, experts.reshape(-1), complete, steps, self.stride, state, keys, places)

    def _run_stack(self, experts: npt.NDArray[Any], steps: stack.Steps, state: Any) -> None:
        seen, accesses, num_steps = int(state.counter[1]), experts.size, len(steps.request)
        room = self.rule, self.keys, state.uses, seen, accesses, num_steps
        in_costs = experts.shape[1] == 1 and fits(*room)
        most = max(self.keys, experts.shape[2])  # ids may repeat, which the kernels find
        keys, places = np.empty(most, experts.dtype if in_costs else np.int32), np.empty(most, np.int64)
        mark, next_use = np.full(self.keys, -1, np.int64), NO_TIMES
        if self.rule in (NEXT_USE, NEXT_USE_BYPASS):
            next_use, upcoming = np.empty(experts.size, np.int64), np.empty(self.keys, np.int64)
            find: Any = stack.next_use_times
            how = (self.stride, self.cold, self.access != stack.CORESIDENT, self.only)
            find(experts, steps, *how, keys, places, mark, upcoming, next_use)
        kernel: Any
        if not in_costs and self.access == stack.CORESIDENT and suits(*room):
            kernel, heads = run_runs, self.rule != LFU and self.only < 0
            kernel(self.rule, heads, self.cold, experts, steps, self.stride, next_use, state, keys, places)
        elif not in_costs:
            kernel = stack.run_stack
            rules = (self.rule, self.access, self.cold)
            kernel(*rules, experts, steps, self.stride, next_use, self.window, state, keys, places)
        elif self.access == stack.CORESIDENT:
            kernel, k = run_batches, experts.shape[2]
            ids, ends = experts.reshape(-1), steps.starts[1:] * k
            if num_steps < len(experts):  # there are steps of several tokens
                ids = ids.copy()
                of_steps: Any = distinct
                mark[:] = -1
                of_steps(ids, next_use, steps.starts, k, ends, mark, keys, places)
            kernel(self.rule, self.cold, ids, k, ends, steps, next_use, self.window, state)
        else:
            kernel, paper = run_singles, self.access == stack.PAPER
            kernel(paper, self.rule, self.cold, experts, steps, next_use, self.window, state, keys, places)


def kernel_steps(run: StepRun) -> stack.Steps:
    """Return steps as the kernels know them, their tokens counted from the first."""
    return stack.Steps(run.starts - run.starts[0], run.request, run.phase)


def _windows(trace: RoutingTrace, steps: StepRun, length: int) -> npt.NDArray[np.int64]:
    recorded = np.zeros(trace.num_tokens, bool)
    for low, high in trace.blocks():
        recorded[low:high] = (trace.read("experts", low, high) >= 0).any(axis=(1, 2))
    find: Any = static_stack.find_windows
    windows: npt.NDArray[np.int64] = find(np.logical_or.reduceat(recorded, steps.starts[:-1]), steps.request, length)
    return windows
