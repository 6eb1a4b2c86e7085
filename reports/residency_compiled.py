"""What was in the cache when, of policies with a compiled loop.

Hits come from whole blocks. What lies there is known from what was loaded and what left: of a whole stretch for what
comes before the request that is looked at, batch by batch for the steps that are drawn.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lrcsim.base.progress import Progress
from lrcsim.policies import make_policy
from lrcsim.reports.residents import HIT, MISS, SPARE, STEPS, Residents
from lrcsim.simulator.compiled.pools import Columns, CompiledPool, EmptyPool, PoolMaker
from lrcsim.simulator.compiled.served import EVICTED, LOADED, NOBODY_ASKS, RESIDENT, Served
from lrcsim.simulator.setup.run import Run
from lrcsim.traces.schedule import Block

IntArray = npt.NDArray[np.int64]
NO_TOKENS: IntArray = np.zeros(0, np.int64)


def watch_compiled(run: Run, seen: Residents, progress: Progress | None = None) -> None:
    """Run a policy for which `engine_for` says compiled; arguments as in `watch`, ``seen`` is filled in.

    Raises:
        PolicyError: the policy failed, or cannot be compiled.
    """
    trace = run.trace
    maker = PoolMaker(make_policy(run.policy), trace, run.access, run.prefill, run.warm, run.profile)
    watched = [_Watched(run, number, maker.pool(size), seen) for number, size in enumerate(run.pools)]
    for block in maker.schedule.blocks():
        batches, columns = maker.told(block, run.pools)
        flags = np.zeros(len(block.keys), np.uint8)
        results = []
        for pool, mine in zip(watched, batches, strict=True):
            results += pool.run(block, mine, columns, flags)
        maker.refuse_failed(results)
        if len(block.layer):
            _count(seen, block, flags)
        if progress is not None:
            progress(block.end_token, trace.num_tokens)


def _count(seen: Residents, block: Block, flags: npt.NDArray[np.uint8]) -> None:
    """Count the hits of a block's layer-steps."""
    hits = np.add.reduceat((flags == RESIDENT).astype(np.int64), block.starts[:-1])
    accesses = np.diff(block.starts)
    seen.whole.add(block.layer, block.step, hits, accesses)
    if seen.own is None:
        return
    own = (block.step >= seen.begin) & (block.step < seen.end)
    seen.own.add(block.layer[own], block.step[own] - seen.begin, hits[own], accesses[own])


class _Watched:
    """A pool, and which experts it holds where a layer of it is drawn."""

    def __init__(self, run: Run, number: int, pool: CompiledPool, seen: Residents) -> None:
        size = run.pools[number]
        self.pool, self.seen, self.warm, self.stride = pool, seen, run.warm, run.trace.num_experts
        self.first = size.layers[0]
        self.drawn = [layer for layer in seen.experts if layer in size.layers]
        self.held = np.zeros(len(size.layers) * self.stride, bool)
        self.held[pool.pinned] = True
        self.counter = np.zeros(4, np.int64)

    def run(self, block: Block, mine: IntArray, columns: Columns, flags: npt.NDArray[np.uint8]) -> list[int]:
        """Run the pool's batches of a block; return what `CompiledPool.advance` did."""
        whole = Served(1.0, NO_TOKENS, flags, self.counter, NOBODY_ASKS)
        begin, end = self.seen.begin, min(self.seen.end, self.seen.begin + STEPS)
        if not self.drawn or (len(block.step) and (block.step[0] >= end or (block.step[-1] < begin and not self.warm))):
            return [self.pool.advance(mine, columns, whole)]
        before, after = np.searchsorted(block.step[mine], [begin, end])
        results = []
        if self.warm:  # else the request begins with what is held for good
            results.append(self._follow(block, mine[:before], columns, flags))
        else:
            results.append(self.pool.advance(mine[:before], columns, whole))
        steps = block.step[mine[before:after]]
        for step in np.unique(block.step[(block.step >= begin) & (block.step < end)]).tolist():
            at = step - begin
            for layer in self.drawn:  # also where the layer has nothing recorded in this step
                self._mark(layer, at)
            low, high = np.searchsorted(steps, [step, step + 1]) + before
            for batch in mine[low:high]:
                results.append(self._follow(block, batch[None], columns, flags))
                layer = int(block.layer[batch])
                if layer in self.drawn:
                    self._mark(layer, at)
                    used = slice(block.starts[batch], block.starts[batch + 1])
                    kinds = np.where(flags[used] == RESIDENT, HIT, MISS)
                    self.seen.experts[layer][block.keys[used] % self.stride, at] = kinds
        results.append(self.pool.advance(mine[after:], columns, whole))
        return results

    def _follow(self, block: Block, batches: IntArray, columns: Columns, flags: npt.NDArray[np.uint8]) -> int:
        """Run some batches and take note of what came and what left."""
        if not len(batches):
            return -1
        accesses = np.concatenate([np.arange(block.starts[batch], block.starts[batch + 1]) for batch in batches])
        gone = np.empty(len(accesses) + len(self.held), np.int32)
        self.counter[EVICTED] = 0
        result = self.pool.advance(batches, columns, Served(1.0, NO_TOKENS, flags, self.counter, gone))
        if not isinstance(self.pool, EmptyPool):  # what passes through is never there
            keys = self.first * self.stride
            loaded = block.keys[accesses[flags[accesses] == LOADED]] - keys
            left = gone[: self.counter[EVICTED]] - keys
            now = (
                self.held + np.bincount(loaded, minlength=len(self.held)) - np.bincount(left, minlength=len(self.held))
            )
            self.held[:] = now > 0
        return result

    def _mark(self, layer: int, at: int) -> None:
        """Write which experts of a layer are in the cache into its column."""
        low = (layer - self.first) * self.stride
        self.seen.experts[layer][:, at] = np.where(self.held[low : low + self.stride], SPARE, 0)
