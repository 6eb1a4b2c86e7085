"""Hits at every capacity from one pass over the trace: the compiled stack algorithms, run over all pools."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.base.progress import Progress, part_of
from lrcsim.base.reprs import short_repr
from lrcsim.policies import BUILT_IN, PolicySpec, make_policy
from lrcsim.policies.kernels import Stack
from lrcsim.simulator.cache.capacity import Scope
from lrcsim.simulator.compiled import in_lanes, lru_registers, lru_turn, paper_lanes
from lrcsim.simulator.compiled import lru as lru_stack
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

    lru and lfu stream the trace. The others look ahead: where the cache is emptied between requests, requests of some
    `TOKENS_PER_BLOCK` together, else all of it; they hold the ids of a pool (2 bytes per access) and its next uses (8
    bytes) in memory, in scope ``layer`` one layer per job.

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
    (found,) = stack_hits_of(trace, [policy], scope, access, prefill, warm, jobs, progress, only)
    return found


def stack_hits_of(
    trace: RoutingTrace,
    policies: Sequence[PolicySpec],
    scope: Scope,
    access: str,
    prefill: str,
    warm: bool,
    jobs: int | None = None,
    progress: Progress | None = None,
    only: int | None = None,
) -> list[StackHits]:
    """Count the hits of several policies; arguments and errors as of `stack_hits`.

    Those whose layers run in lanes (`in_lanes`) read the trace each for itself, the others together: each part of it
    goes through all of them before the next is read. It is as long as the one that looks furthest ahead needs it.
    """
    keys = trace.num_experts * (trace.num_layers if scope == "model" else 1)
    kernels = [_kernel_of(policy, trace, access, warm, keys, only) for policy in policies]
    schedule = Schedule(trace, prefill)
    lanes_suit = scope == "layer" and access == "coresident" and only is None
    alone = [kernel for kernel in kernels if lanes_suit and _lanes_pay(trace, schedule, kernel)]
    rest = [kernel for kernel in kernels if kernel not in alone]
    readings, found = len(alone) + bool(rest), dict[StackKernel, StackHits]()
    width = jobs or os.cpu_count() or 1
    for number, kernel in enumerate(alone):
        found[kernel] = _in_lanes(trace, schedule, kernel, width, part_of(progress, number, readings))
    if rest:
        told = part_of(progress, len(alone), readings)
        found |= zip(rest, _in_one_reading(trace, schedule, rest, scope, warm, width, told), strict=True)
    return [found[kernel] for kernel in kernels]


def _lanes_pay(trace: RoutingTrace, schedule: Schedule, kernel: StackKernel) -> bool:
    how = kernel.rule, kernel.window
    return in_lanes.suits(trace, *how) and in_lanes.pays(trace, schedule, *how)


def _in_lanes(
    trace: RoutingTrace, schedule: Schedule, kernel: StackKernel, width: int, progress: Progress | None
) -> StackHits:
    """Count the hits of a policy with many layers side by side."""
    with ThreadPoolExecutor(width) as threads:
        spread: Any = threads.map if width > 1 else map
        found = in_lanes.hits_in_lanes(trace, schedule, kernel.rule, kernel.window, kernel.cold, spread, progress)
    if found is None:
        raise TraceError(IMPOSSIBLE)
    return StackHits([_cumulated(hits) for hits, _ in found], np.array([accesses for _, accesses in found]))


def _in_one_reading(
    trace: RoutingTrace,
    schedule: Schedule,
    kernels: Sequence[StackKernel],
    scope: Scope,
    warm: bool,
    width: int,
    progress: Progress | None,
) -> list[StackHits]:
    """Count the hits of policies whose kernels take a part of the trace after the other."""
    pools: list[int | None] = [None] if scope == "model" else list(range(trace.num_layers))
    states = [[kernel.empty() for kernel in kernels] for _ in pools]
    parts, many = _parts(schedule, kernels, warm), any(kernel.paper_in_lanes for kernel in kernels)
    together = paper_lanes.LANES if many else 1
    groups = [range(low, min(low + together, len(pools))) for low in range(0, len(pools), together)]
    if isinstance(parts, list):  # a pool's ids and next uses are held while it is run
        longest = max(int(part.starts[-1] - part.starts[0]) for part in parts)
        layers_of_pool = trace.num_layers if scope == "model" else together
        bytes_per_pool = BYTES_AHEAD * longest * trace.top_k * layers_of_pool
        width = max(1, min(width, MEMORY // max(bytes_per_pool, 1)))
    for kernel in kernels:
        if kernel.rule == STATIC:
            kernel.windows = _windows(trace, schedule.all_steps(), kernel.window)
    with ThreadPoolExecutor(width) as threads:
        spread = threads.map if min(width, len(groups)) > 1 else map  # one alone needs no thread: a tenth of LRU's time
        for part in parts:
            low, high = int(part.starts[0]), int(part.starts[-1])
            ids_of, steps = _reader(trace, low, high, scope), kernel_steps(part)

            def run_group(group: range, ids_of: Any = ids_of, steps: stack.Steps = steps) -> None:
                ids = [ids_of(pools[index]) for index in group]
                for number, kernel in enumerate(kernels):
                    kernel.run_pools(ids, steps, [states[index][number] for index in group])

            for done, _ in enumerate(spread(run_group, groups), start=1):
                if progress is not None:
                    progress(low + (high - low) * done // len(groups), trace.num_tokens)
    return [
        StackHits(
            [_cumulated(mine[number].hits[:, : kernel.keys]) for mine in states],
            np.array([mine[number].accesses for mine in states]),
        )
        for number, kernel in enumerate(kernels)
    ]


def _kernel_of(
    policy: PolicySpec, trace: RoutingTrace, access: str, warm: bool, keys: int, only: int | None
) -> StackKernel:
    chosen = make_policy(policy)
    kernel = kernel_of(chosen, Stack)
    if kernel is None:
        raise ConfigError(f"policy {policy!r} has no stack algorithm, these have: {', '.join(STACK_POLICIES)}")
    window = int(getattr(chosen, "m", 0))
    made = StackKernel(RULES[kernel], stack.RULES[access], not warm, trace.num_experts, keys, window, only)
    if access == "paper" and not warm and keys == trace.num_experts and only is None:
        longest, accesses = int(np.diff(trace.offsets).max()), math.prod(trace.columns["experts"].shape)
        size = trace.num_layers, keys, trace.top_k, longest
        made.paper_in_lanes = paper_lanes.suits(made.rule, *size, window, accesses)
    return made


def _parts(schedule: Schedule, kernels: Sequence[StackKernel], warm: bool) -> Iterable[StepRun]:
    """Return runs of steps that go together: a list where what belongs to one request must not be parted."""
    if not any(kernel.needs_all or kernel.paper_in_lanes for kernel in kernels):
        return schedule.step_runs(TOKENS_PER_BLOCK)
    steps = schedule.all_steps()
    if warm or any(kernel.rule == STATIC for kernel in kernels):
        return [steps]
    begins = np.flatnonzero(np.diff(steps.request, prepend=-1))
    begins = begins[np.diff(steps.starts[begins] // TOKENS_PER_BLOCK, prepend=-1) > 0]
    return [
        StepRun(low, steps.starts[low : high + 1], steps.request[low:high], steps.phase[low:high])
        for low, high in pairwise([*begins.tolist(), len(steps.request)])
    ]


def _reader(
    trace: RoutingTrace, low: int, high: int, scope: Scope
) -> Callable[[int | None], npt.NDArray[np.signedinteger[Any]]]:
    """Return what gives int [tokens, layers of the pool, k] of a layer, or of all (None), contiguous.

    Files are read layer by layer, as they are stored; of an array in memory all layers are looked at together.
    """
    if scope == "model" or not isinstance(trace.columns["experts"], np.ndarray):

        def read(layer: int | None) -> npt.NDArray[Any]:
            return _contiguous(trace.read("experts", low, high, layer=layer))

        return read
    block = trace.read("experts", low, high)

    def part(layer: int | None) -> npt.NDArray[Any]:
        assert layer is not None
        return _contiguous(block[:, layer : layer + 1])

    return part


def _contiguous(ids: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return [tokens, layers, k] as one piece of memory, copied a row of k at a time: four times as fast as numbers."""
    if ids.flags.c_contiguous or ids.shape[1] != 1 or ids.strides[2] != ids.itemsize:
        return np.ascontiguousarray(ids)
    row = np.dtype((np.void, ids.shape[2] * ids.itemsize))
    found = np.empty(ids.shape, ids.dtype)
    found.view(row)[:] = ids.view(row)
    return found


def _cumulated(found: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    hits = np.zeros((2, found.shape[1] + 1), np.int64)
    np.cumsum(found, axis=1, out=hits[:, 1:])
    return hits


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
        self.paper_in_lanes = False  # whether pools may run side by side: steps are tokens, and blocks whole requests
        self.windows = NO_TIMES  # of every step, for STATIC

    def empty(self) -> Any:
        """Make the state of a pool with nothing in it."""
        kinds: dict[int, Any] = {LRU: lru_stack.LruState, STATIC: static_stack.StaticState}
        return kinds.get(self.rule, stack.StackState).empty(self.keys)

    def run_pools(self, experts: list[npt.NDArray[Any]], steps: stack.Steps, states: list[Any]) -> None:
        """Advance some pools, side by side where that is faster; arguments and errors of each as of a call."""
        side_by_side = self.paper_in_lanes and len(experts) >= paper_lanes.LEAST_LAYERS
        if not side_by_side or not all(self._check(ids) and ids.dtype == np.int16 for ids in experts):
            for ids, state in zip(experts, states, strict=True):
                self(ids, steps, state)
            return
        run: Any = paper_lanes.run_paper
        begins = np.flatnonzero(np.diff(steps.request, prepend=-1, append=-1))
        hits, accesses = np.zeros((len(states), 2, self.keys), np.int64), np.zeros((len(states), 2), np.int64)
        together = np.concatenate([ids.transpose(1, 0, 2) for ids in experts])
        if not run(self.rule, together, begins, steps.phase, self.window, hits, accesses):
            raise TraceError(IMPOSSIBLE)
        for state, found, counted in zip(states, hits, accesses, strict=True):
            state.hits[:] += found
            state.accesses[:] += counted

    def __call__(self, experts: npt.NDArray[Any], steps: stack.Steps, state: Any) -> None:
        """Advance a pool over int [tokens, layers of the pool, k] experts; TraceError where they are impossible."""
        self._run(experts, self._check(experts), steps, state)
        if state.counter[5]:
            raise TraceError(IMPOSSIBLE)

    def _check(self, experts: npt.NDArray[Any]) -> bool:
        """Return whether all ids were recorded; TraceError where they are impossible."""
        ends: Any = lru_stack.least_and_most  # compiled: type checkers do not know its arguments
        least, most = ends(experts.reshape(-1))
        if most >= self.stride or least < -1:
            raise TraceError(IMPOSSIBLE)
        return bool(least >= 0)

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
        if len(state.line):
            marks: Any = lru_stack.run_lru_marks
            marks(self.access, self.cold, experts, steps, self.stride, state)
            return
        run: Any = lru_stack.run_lru_stack
        sets, apart = (
            (1,) if flag else () for flag in (state.held.dtype == np.uint64, self.access == stack.SEQUENTIAL)
        )
        k = experts.shape[2]
        suits = self.keys <= 128 and not apart and k <= lru_registers.MOST and experts.dtype == np.int16
        members = (0,) * k if suits and lru_turn.available() else ()
        keys, places = np.empty(self.keys, experts.dtype), np.empty(self.keys, np.int64)
        how = (sets, members, apart, self.access, self.cold)
        run(*how, experts, experts.reshape(-1), complete, steps, self.stride, state, keys, places)

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
