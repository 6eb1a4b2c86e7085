"""A compiled cache at one capacity, told access by access: what `Pool` does in Python under co-resident access."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.policies import Policy, make_policy
from lrcsim.policies.twins import twin_of
from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.compiled.queue_hits import QUEUE_POLICIES, QueueRun
from lrcsim.simulator.compiled.scored_hits import (
    ScoredRun,
    batches_of,
    pool_view,
    refuse_failed,
    scored_columns,
    scored_functions,
)
from lrcsim.simulator.compiled.served import DROPPED, GONE, LOADS, Served, pass_through
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.setup.run import Run
from lrcsim.traces.schedule import Block, Schedule

__all__ = ["CompiledCache", "has_compiled_cache"]


def has_compiled_cache(policy: Policy) -> bool:
    """Return whether a policy runs compiled at one capacity: as a queue, by its twin, or as a `CompiledScore`.

    Of the built-in policies `sch-lookahead` and `sch-static` do not.
    """
    return type(policy) in QUEUE_POLICIES or twin_of(policy) is not None


class CompiledCache:
    """The pools of a run, compiled.

    Memory: about 150 bytes per expert, a block of the trace, and for policies that look ahead its next uses (`Future`).

    Args:
        job: trace, policy (of which `has_compiled_cache` holds), capacities and rules; access ``"coresident"``.
        share: of the misses of a layer-step that is loaded (`Served.share`): 1 all, 0 none.

    Raises:
        PolicyError: the policy cannot be compiled.
    """

    def __init__(self, job: Run, share: float = 1.0) -> None:
        self.job = job
        self.share = share
        self.policy = make_policy(job.policy)
        self._counters = np.zeros((len(job.pools), 3), np.int64)
        self._request = -1
        self._times_filled = 0
        trace = job.trace
        self._runs: list[ScoredRun | QueueRun | None] = []  # None: no expert fits
        fits = [pool_view(size, trace).slots > 0 for size in job.pools]
        self._twin = None if type(self.policy) in QUEUE_POLICIES else twin_of(self.policy)
        if self._twin is None:
            for size, any_fits in zip(job.pools, fits, strict=True):
                self._runs.append(
                    QueueRun(self.policy, size, trace, job.access, job.warm, job.profile) if any_fits else None
                )
            wanted: frozenset[str] = frozenset()
        else:
            functions = scored_functions(self._twin)
            for size, any_fits in zip(job.pools, fits, strict=True):
                self._runs.append(
                    ScoredRun(self._twin, functions, size, trace, job.access, job.warm) if any_fits else None
                )
            wanted = self._twin.needs | self._twin.wants
        self.schedule = Schedule(trace, job.prefill, weights="weights" in wanted)
        self._future = Future(self.schedule, job.access, job.warm) if "future" in wanted else None

    def blocks(self) -> Iterator[tuple[Block, npt.NDArray[np.uint8]]]:
        """Yield the blocks of the schedule, and uint8 [accesses] for each, `Served.flags`."""
        for block in self.schedule.blocks():
            yield block, self._serve(block)

    def _serve(self, block: Block) -> npt.NDArray[np.uint8]:
        if len(block.request):
            changes = int(np.count_nonzero(np.diff(block.request, prepend=self._request)))
            self._times_filled = 1 if self.job.warm else self._times_filled + changes
            self._request = int(block.request[-1])
        flags = np.zeros(len(block.keys), np.uint8)
        tokens = np.zeros(0, np.int64) if block.tokens is None else block.tokens
        first, starts, batches = batches_of(block, self.job.access, self.job.pools)
        columns: tuple[npt.NDArray[Any], ...]
        if self._twin is None:
            columns = (block.keys, starts, block.request[first], block.phase[first])
        else:
            columns = scored_columns(block, first, starts, self._future)
        if self.share < 1:  # the kernels pack the batches where they stand
            columns = tuple(column.copy() for column in columns)
        failed = []
        for run, mine, counter in zip(self._runs, batches, self._counters, strict=True):
            served = Served(self.share, tokens, flags, counter)
            if run is None:
                pass_through(mine, starts, served)
            else:
                failed.append(run.advance(mine, columns, served))
        if self._twin is not None:
            refuse_failed(self._twin, failed)
        return flags

    def finish(self, counts: Counts) -> None:
        """Fill in what became of the loads until now: evictions, bypassed, residents, preloaded."""
        trace = self.job.trace
        counts.preloaded[:] = 0
        still_there, counts.resident = 0, 0
        for run, size in zip(self._runs, self.job.pools, strict=True):
            if run is None:
                continue
            held = run.residents()
            still_there += held
            if self.job.warm or run.request() == self._request:  # else it is empty: it was not used since
                counts.resident += held
            if isinstance(run, QueueRun) and self._times_filled:
                pinned = run.state.pinned + size.layers[0] * trace.num_experts
                counts.resident += len(pinned)
                by_layer = np.bincount(pinned // trace.num_experts, minlength=trace.num_layers)
                counts.preloaded += self._times_filled * by_layer
        loads, at_once, dropped = self._counters.sum(axis=0)[[LOADS, GONE, DROPPED]].tolist()
        counts.bypassed = at_once if self.policy.bypass else 0
        counts.evictions = loads - dropped - still_there - counts.bypassed
