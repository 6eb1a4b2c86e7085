"""Which experts are where: the cache on the GPU, the one in DRAM below it, and what each layer-step asks of them.

All decisions are the pools'; none depends on time. So this engine and the replay agree on hits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrcsim.policies import View
from lrcsim.simulator.cache.pool import Pool
from lrcsim.simulator.replay import Counts, make_pools
from lrcsim.simulator.serving.steps import LayerStep, Step
from lrcsim.simulator.setup.miss_actions import MissAction, decide
from lrcsim.simulator.setup.outcomes import Decision
from lrcsim.simulator.setup.prefetchers import start
from lrcsim.simulator.setup.run import Run


@dataclass(slots=True)
class Lookup:
    """What a layer-step found.

    Attributes:
        hits: resident, in batch order; some may still be on their way as prefetches.
        decision: what happens to the misses.
        from_storage: those of them that DRAM does not hold either.
        evicted: what left the cache, in order.
        evictions: how many that counts as (`Pool.evictions`): not what bypassed it, but what passed through one without
            room for a single expert.
    """

    hits: list[int]
    decision: Decision
    from_storage: list[int]
    evicted: list[int]
    evictions: int = 0


class Residency:
    """The caches, and the count of what happened in them.

    Args:
        job: trace, policy, capacities and rules; access ``"coresident"``.
        action: what to do with misses.
        dram: the cache in DRAM; None: DRAM holds all experts.
        shrink: given the step, how much of its capacity each pool loses to the KV cache; None: none.
        sizes: bytes of an expert of each MoE layer, or of each expert by key, to count bytes loaded; None: they are not
            counted.

    Attributes:
        evicted: what left the cache since somebody last emptied the list.
        refilled: what the policy loaded of its own accord, likewise.
    """

    def __init__(
        self,
        job: Run,
        action: MissAction,
        dram: Pool | None = None,
        shrink: Callable[[Step, Pool], int] | None = None,
        sizes: Sequence[int] | None = None,
    ) -> None:
        self.pools = make_pools(job)
        self.dram = dram
        self.action = action
        start(action)
        self.shrink = shrink
        self._loads = [0, 0]
        self._loaded_bytes = [0, 0]
        self.capacities = [pool.capacity for pool in self.pools]
        layers = job.trace.num_layers
        self.sizes = None if sizes is None else by_key(sizes, layers, job.trace.num_experts)
        self.pool_of_layer = self.pools * layers if len(self.pools) == 1 else self.pools
        self.counts = Counts(
            accesses=np.zeros((2, layers), np.int64),
            misses=np.zeros((2, layers), np.int64),
            preloaded=np.zeros(layers, np.int64),
            steps=np.zeros(2, np.int64),
        )
        # plain lists while counting: numpy scalars take ten times as long
        self._accesses = [[0] * layers, [0] * layers]
        self._misses = [[0] * layers, [0] * layers]
        self._warm = job.warm
        self._stride = job.trace.num_experts
        self._request = -1
        self._seen: set[int] = set()
        self._refills = self.pools[0].policy.refills
        self.evicted: list[int] = []
        self.refilled: list[int] = []
        for pool in self.pools:
            pool.evicted_log, pool.refilled_log = self.evicted, self.refilled

    def begin(self, step: Step) -> bool:
        """Prepare for a step; return whether the cache was emptied."""
        emptied = step.request != self._request and not self._warm and self._request >= 0
        if emptied:
            for pool in self.pools:
                pool.empty()
            self._seen.clear()
        self._request = step.request
        if self.shrink is not None:
            for pool, capacity in zip(self.pools, self.capacities, strict=True):
                pool.resize(max(capacity - self.shrink(step, pool), 0))
        if self._refills:
            for pool in self.pools:
                pool.view.step, pool.view.request, pool.view.phase = step.number, step.request, step.phase
                pool.refill()
        if step.layers:
            self.counts.steps[step.phase] += 1
        return emptied

    def look_up(self, step: Step, work: LayerStep) -> Lookup:
        """Run a layer-step through the caches."""
        layer, keys, phase = work.layer, work.keys, step.phase
        pool = self.pool_of_layer[layer]
        _show(pool.view, step, work)
        decision: Decision = {}

        def admit(missed: list[int]) -> list[int]:
            nonlocal decision
            decision = decide(self.action, missed, step, work, lambda: self._residents(pool, layer))
            return [key for outcome, chosen in decision.items() if outcome.cached for key in chosen]

        before = pool.evictions
        missed = pool.coresident(keys, admit)
        hits = keys
        if missed:
            gone = set(missed)
            hits = [key for key in keys if key not in gone]
            self._count_loads(decision, phase)
        self._accesses[phase][layer] += len(keys)
        self._misses[phase][layer] += len(missed)
        self._count_cold(keys, missed)
        evicted = self.evicted[:]
        self.evicted.clear()
        return Lookup(hits, decision, self._from_storage(decision, step, layer), evicted, pool.evictions - before)

    def so_far(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return accesses and misses by layer until now, int64 [L] each, both phases together."""
        return np.array(self._accesses).sum(axis=0), np.array(self._misses).sum(axis=0)

    def bring_ahead(self, key: int, step: Step, layer: int, protected: set[int]) -> bool:
        """Take in an expert that a prefetcher wants while a layer runs; return False where it is not to be fetched."""
        pool = self.pool_of_layer[key // self._stride]
        if key in pool.resident:
            return False
        _tell(pool.view, step, layer)  # the pool of a later layer still has those of the step before
        return pool.prefetch(key, protected)

    def holds(self, key: int) -> bool:
        """Return whether an expert is in the cache, or on its way there."""
        return key in self.pool_of_layer[key // self._stride].resident

    def below(self, keys: list[int], step: Step, layer: int) -> list[int]:
        """Ask the cache in DRAM for experts of a layer; return those that must come from storage."""
        if self.dram is None or not keys:
            return []
        _tell(self.dram.view, step, layer)
        return self.dram.coresident(keys)

    def finish(self) -> Counts:
        """Return the counts of everything so far."""
        counts = self.counts
        counts.accesses[:] = self._accesses
        counts.misses[:] = self._misses
        counts.loads = np.array(self._loads)
        counts.loaded_bytes = None if self.sizes is None else np.array(self._loaded_bytes)
        counts.evictions = sum(pool.evictions for pool in self.pools)
        counts.bypassed = sum(pool.bypassed for pool in self.pools)
        counts.resident = sum(len(pool.resident) for pool in self.pools)
        counts.preloaded[:] = 0
        for pool in self.pools:
            for layer, loaded in pool.preloaded.items():
                counts.preloaded[layer] += loaded
        return counts

    def _from_storage(self, decision: Decision, step: Step, layer: int) -> list[int]:
        """Return the misses that DRAM does not hold; it takes in whole experts, but no copies of low precision."""
        if self.dram is None or not decision:
            return []
        whole = [key for outcome, keys in decision.items() if outcome.reads == "expert" for key in keys]
        copies = [key for outcome, keys in decision.items() if outcome.reads == "copy" for key in keys]
        return self.below(whole, step, layer) + [key for key in copies if key not in self.dram.resident]

    def _count_loads(self, decision: Decision, phase: int) -> None:
        """Count what comes to the GPU."""
        for outcome, keys in decision.items():
            if outcome.moves:
                self._loads[phase] += len(keys)
                if self.sizes is not None:
                    self._loaded_bytes[phase] += sum(self.action.bytes_of(outcome, self.sizes[key]) for key in keys)

    def _count_cold(self, keys: list[int], missed: list[int]) -> None:
        """Count misses of experts that were not used since the cache was emptied."""
        cold = [key for key in missed if key not in self._seen]
        self.counts.cold_misses += len(cold)
        self._seen.update(keys if self._refills else cold)

    def _residents(self, pool: Pool, layer: int) -> int:
        """Count the residents of a layer."""
        return sum(key // self._stride == layer for key in pool.resident)


def by_key(sizes: Sequence[int], layers: int, stride: int) -> list[int]:
    """Return bytes of each expert by key.

    Args:
        sizes: bytes of an expert of each layer, or of each expert by key already.
        layers: L.
        stride: E.
    """
    return list(sizes) if len(sizes) == layers * stride else [size for size in sizes for _ in range(stride)]


def _show(view: View, step: Step, work: LayerStep) -> None:
    """Show a policy the layer-step that its pool is going to serve."""
    _tell(view, step, work.layer)
    if work.weights is not None:
        view.weights = work.weights
    if work.next_use is not None:
        view.next_use = work.next_use


def _tell(view: View, step: Step, layer: int) -> None:
    """Show a policy where the run is."""
    view.step, view.layer, view.request, view.phase = step.number, layer, step.request, step.phase
