"""The caches of sch-lookahead and sch-static at one capacity, told access by access (`ahead_loop`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.policies import make_policy
from lrcsim.policies.kernels import Stack
from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.compiled.ahead_loop import (
    BYPASSED,
    EVICTED,
    AheadState,
    Rooms,
    Steps,
    run_lookahead,
    run_static_windows,
)
from lrcsim.simulator.compiled.engine_for import kernel_of
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.setup.run import Run
from lrcsim.traces.schedule import Block, Schedule


def has_ahead_loop(job: Run) -> bool:
    """Return whether `AheadCache` runs the policy of a run.

    It does sch-lookahead, and sch-static unless experts of unlike bytes share a pool: there what misses may find room.
    Experts of one layer are alike to it.
    """
    policy = make_policy(job.policy)
    if job.access != "coresident" or job.trace.layers.sized_by_expert:
        return False
    unlike = any(size.bytes_per_expert is not None and len({*size.bytes_per_expert}) > 1 for size in job.pools)
    return kernel_of(policy, Stack) == Stack.LOOKAHEAD or (kernel_of(policy, Stack) == Stack.STATIC and not unlike)


class AheadCache:
    """The pools of a run, as `lrcsim.simulator.compiled.compiled_cache.CompiledCache` has those of other policies.

    Memory: the whole schedule (`Future`, without next uses), 24 bytes per expert, a block of the trace.

    Args:
        job: trace, policy (for which there is a loop: `has_ahead_loop`), capacities and rules.
        share: of the misses of a layer-step that is loaded (`Served.share`).
    """

    def __init__(self, job: Run, share: float = 1.0) -> None:
        trace, policy = job.trace, make_policy(job.policy)
        self.job, self.share = job, share
        self.schedule = Schedule(trace, job.prefill)
        future = Future(self.schedule, job.access, job.warm)
        self._steps = Steps(future.keys, future.starts, future.batch_step, future.step_request, future.stride)
        self._window = min(int(getattr(policy, "m", 0)), len(future.step_request) + 1)
        self._run: Any = run_lookahead if kernel_of(policy, Stack) == Stack.LOOKAHEAD else run_static_windows
        pool_of_layer = np.zeros(trace.num_layers, np.int64)
        cost = np.ones(trace.num_layers, np.int64)
        for number, size in enumerate(job.pools):
            layers = list(size.layers)
            pool_of_layer[layers] = number
            cost[layers] = size.cost(trace.num_experts)[:: trace.num_experts]
        first_key = [size.layers[0] * trace.num_experts for size in job.pools]
        keys = trace.num_layers * trace.num_experts
        capacity = np.array([size.capacity for size in job.pools], np.int64)
        self._rooms = Rooms(pool_of_layer, np.array([*first_key, keys], np.int64), capacity, cost)
        self._state = AheadState.empty(keys, trace.num_layers, len(job.pools))

    def blocks(self) -> Iterator[tuple[Block, npt.NDArray[np.uint8]]]:
        """Yield the blocks of the schedule, and uint8 [accesses] for each, `Served.flags`."""
        begin = 0
        for block in self.schedule.blocks():
            flags = np.zeros(len(block.keys), np.uint8)
            tokens = np.zeros(0, np.int64) if block.tokens is None else block.tokens
            end = begin + len(block.layer)
            how = (self._window, not self.job.warm, self._steps, self._rooms, self.share, tokens)
            self._run(*how, begin, end, self._state, flags)
            begin = end
            yield block, flags

    def finish(self, counts: Counts) -> None:
        """Fill in what became of the loads until now: evictions, bypassed, residents, preloaded."""
        counts.evictions, counts.bypassed = self._state.counter[[EVICTED, BYPASSED]].tolist()
        counts.resident = int(self._state.size.sum())
        counts.preloaded[:] = self._state.preloaded
