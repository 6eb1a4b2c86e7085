"""The caches of a policy without a compiled form, in Python, told block by block: `CompiledCache` for all others.

Where nothing comes ahead no decision depends on time, so such a run is a replay, and the closed form of its times
(`compiled`) does not care who said which accesses hit. In SimPy the same run takes five to ten times as long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import LrcsimError, PolicyError, brief
from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.cache.pool import Pool
from lrcsim.simulator.compiled.served import ELSEWHERE, LOADED
from lrcsim.simulator.replay import Counts, make_pools
from lrcsim.simulator.serving.steps import LayerStep
from lrcsim.simulator.setup.miss_actions import Load, MissAction
from lrcsim.simulator.setup.outcomes import Outcome
from lrcsim.simulator.setup.run import Run
from lrcsim.traces.schedule import Block, Schedule


class ReplayedCache:
    """The pools of a run, as the policy's class has them.

    Args:
        job: trace, policy, capacities and rules; access ``"coresident"``.
        action: ``load``, ``cpu`` or ``split``.

    Raises:
        PolicyError: the policy cannot be made, broke its contract, or failed.
    """

    def __init__(self, job: Run, action: MissAction) -> None:
        self.job = job
        self.pools = make_pools(job)
        policy = self.pools[0].policy
        self.schedule = Schedule(job.trace, job.prefill, weights="weights" in policy.needs | policy.wants)
        self._future = Future(self.schedule, job.access, job.warm) if "future" in policy.needs else None
        if self._future is not None:
            for pool in self.pools:
                pool.view.upcoming = self._future.of_pool(pool.view.layers)
        self._pool_of_layer = self.pools * job.trace.num_layers if len(self.pools) == 1 else self.pools
        self._action = None if type(action) is Load else action
        self._step = self._request = -1

    def blocks(self) -> Iterator[tuple[Block, npt.NDArray[np.uint8]]]:
        """Yield the blocks of the schedule, and uint8 [accesses] for each, `Served.flags`."""
        for block in self.schedule.blocks():
            try:
                yield block, self._serve(block)
            except LrcsimError:
                raise
            except Exception as error:
                view = self.pools[0].view
                where = f"at step {self._step}, layer {view.layer}"
                raise PolicyError(f"policy {self.pools[0].policy.name} failed {where}: {brief(error)}") from error

    def finish(self, counts: Counts) -> None:
        """Fill in what became of the loads until now: evictions, bypassed, residents, preloaded."""
        counts.evictions = sum(pool.evictions for pool in self.pools)
        counts.bypassed = sum(pool.bypassed for pool in self.pools)
        counts.resident = sum(len(pool.resident) for pool in self.pools)
        counts.preloaded[:] = 0
        for pool in self.pools:
            for layer, loaded in pool.preloaded.items():
                counts.preloaded[layer] += loaded

    def _serve(self, block: Block) -> npt.NDArray[np.uint8]:
        keys, starts = block.keys.tolist(), block.starts.tolist()
        tokens = None if block.tokens is None else block.tokens.tolist()
        weights = None if block.weights is None else block.weights.tolist()
        next_use = None
        if self._future is not None:
            next_use = self._future.next_use[block.first_access : block.first_access + len(keys)].tolist()
        flags = np.zeros(len(keys), np.uint8)
        rows = zip(block.layer.tolist(), block.step.tolist(), block.request.tolist(), block.phase.tolist(), strict=True)
        for row, (layer, step, request, phase) in enumerate(rows):
            low, high = starts[row], starts[row + 1]
            if step != self._step:
                self._begin_step(step, request, phase)
            pool, batch = self._pool_of_layer[layer], keys[low:high]
            _tell(pool, step, layer, request, phase)
            if weights is not None:
                pool.view.weights = weights[low:high]
            if next_use is not None:
                pool.view.next_use = next_use[low:high]
            elsewhere: set[int] = set()
            admit = None
            if self._action is not None:
                work = LayerStep(layer, batch, None if tokens is None else tokens[low:high], None, None)
                admit = _admitter(self._action, work, elsewhere)
            missed = pool.coresident(batch, admit)
            if missed:
                gone = set(missed)
                for place, key in enumerate(batch, start=low):
                    if key in gone:
                        flags[place] = ELSEWHERE if key in elsewhere else LOADED
        return flags

    def _begin_step(self, step: int, request: int, phase: int) -> None:
        if request != self._request and not self.job.warm and self._request >= 0:
            for pool in self.pools:
                pool.empty()
        self._step, self._request = step, request
        if self.pools[0].policy.refills:
            for pool in self.pools:
                _tell(pool, step, pool.view.layer, request, phase)
                pool.refill()


def _tell(pool: Pool, step: int, layer: int, request: int, phase: int) -> None:
    """Tell a pool where the run is."""
    view = pool.view
    view.step, view.layer, view.request, view.phase = step, layer, request, phase


def _admitter(action: MissAction, work: LayerStep, elsewhere: set[int]) -> Callable[[list[int]], list[int]]:
    """Return what says which misses of a layer-step are loaded, and adds the others to ``elsewhere``."""

    def admit(missed: list[int]) -> list[int]:
        outcomes = list(action.decide(missed, work, lambda: 0))
        elsewhere.update(key for key, what in zip(missed, outcomes, strict=True) if what is not Outcome.LOADED)
        return [key for key in missed if key not in elsewhere]

    return admit
