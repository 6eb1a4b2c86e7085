"""A compiled cache at one capacity, told access by access: what `Pool` does in Python."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from lrcsim.policies import make_policy
from lrcsim.simulator.compiled.pools import PoolMaker, QueuePool
from lrcsim.simulator.compiled.served import DROPPED, GONE, LOADS, NOBODY_ASKS, Served
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.setup.run import Run
from lrcsim.traces.schedule import Block


class CompiledCache:
    """The pools of a run, compiled.

    Memory: about 150 bytes per expert, a block of the trace, and for policies that look ahead its next uses (`Future`).

    Args:
        job: trace, policy (for which `engine_for` says compiled), capacities and rules.
        share: of the misses of a layer-step that is loaded (`Served.share`): 1 all, 0 none. Below 1 only with access
            ``"coresident"``.

    Attributes:
        pools: the pools.
        counters: int64 [pools, 4], `Served.counter` of each.
        schedule: whose blocks are served.
        requests: int64 [2], the last request (-1 at first), and how often the pools have been filled anew.

    Raises:
        PolicyError: the policy cannot be compiled.
    """

    def __init__(self, job: Run, share: float = 1.0) -> None:
        self.job = job
        self.share = share
        self.policy = make_policy(job.policy)
        self._maker = PoolMaker(self.policy, job.trace, job.access, job.prefill, job.warm, job.profile)
        self.pools = [self._maker.pool(size) for size in job.pools]
        self.counters = np.zeros((len(job.pools), 4), np.int64)
        self.requests = np.array([-1, 0])
        self.schedule = self._maker.schedule

    def blocks(self) -> Iterator[tuple[Block, npt.NDArray[np.uint8]]]:
        """Yield the blocks of the schedule, and uint8 [accesses] for each, `Served.flags`."""
        for block in self.schedule.blocks():
            yield block, self.serve(block)

    def begin(self, block: Block) -> None:
        """Take note of the requests of a block that is about to be served."""
        if len(block.request):
            last, filled = self.requests
            changes = np.count_nonzero(np.diff(block.request, prepend=last))
            self.requests[:] = block.request[-1], 1 if self.job.warm else filled + changes

    def serve(self, block: Block) -> npt.NDArray[np.uint8]:
        """Return uint8 [accesses], `Served.flags`, of the block that follows those served so far."""
        self.begin(block)
        flags = np.zeros(len(block.keys), np.uint8)
        tokens = np.zeros(0, np.int64) if block.tokens is None else block.tokens
        batches, columns = self._maker.told(block, self.job.pools)
        if self.share < 1:  # the kernels pack the batches where they stand
            columns = tuple(column.copy() for column in columns)
        self._maker.refuse_failed(
            [
                pool.advance(mine, columns, Served(self.share, tokens, flags, counter, NOBODY_ASKS))
                for pool, mine, counter in zip(self.pools, batches, self.counters, strict=True)
            ]
        )
        return flags

    def finish(self, counts: Counts) -> None:
        """Fill in what became of the loads until now: evictions, bypassed, residents, preloaded."""
        stride, layers = self.job.trace.num_experts, self.job.trace.num_layers
        counts.preloaded[:] = 0
        still_there, counts.resident = 0, 0
        last, filled = self.requests.tolist()
        for pool, size in zip(self.pools, self.job.pools, strict=True):
            held = pool.residents()
            still_there += held
            if self.job.warm or pool.request() == last:  # else it is empty: it was not used since
                counts.resident += held
            if filled:
                counts.resident += len(pool.pinned)
                of_layer = np.bincount(pool.pinned // stride + size.layers[0], minlength=layers)
                counts.preloaded += filled * of_layer
            if isinstance(pool, QueuePool):
                between = pool.loaded_between_steps()
                counts.preloaded += np.bincount(
                    np.arange(len(between)) // stride + size.layers[0], weights=between, minlength=layers
                ).astype(np.int64)
        loads, at_once, dropped = self.counters.sum(axis=0)[[LOADS, GONE, DROPPED]].tolist()
        counts.bypassed = at_once if self.policy.bypass else 0
        counts.evictions = loads - dropped - still_there - counts.bypassed
