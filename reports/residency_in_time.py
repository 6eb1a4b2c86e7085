"""What was in the cache when, of runs that prefetch or do not load every miss: run once more on their machine.

What a prefetcher brings depends on what is on its way, so the engine that knows the time is asked.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.progress import Progress
from lrcsim.policies import make_policy
from lrcsim.reports.allowed import Unavailable
from lrcsim.reports.rerun import Again
from lrcsim.reports.residents import ABSENT, AHEAD, HIT, MISS, SPARE, STEPS, WAITING, Residents
from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.serving.steps import LayerStep, Step, steps_of
from lrcsim.simulator.setup.prefetchers import start
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.engine import Engine
from lrcsim.simulator.time.residency import Lookup, Residency
from lrcsim.traces.schedule import Schedule

LAYER_STEPS = 100_000
"""Layer-steps that are run again for a map, at most: the engine that can be watched takes about a minute for them."""


def watch_in_time(again: Again, was: dict[str, Any], request: int | None, progress: Progress | None) -> Residents:
    """Run a trace on its machine and look at what is in the cache.

    Args:
        again: the run.
        was: hits and accesses of the result, ``cache`` of its JSON.
        request: the request to look at; None: that of median length.
        progress: called with tokens done and tokens in all.

    Raises:
        Unavailable: its machine is not to be had, it is too long, or has other hits.
    """
    run = again.timed
    if run is None:
        raise Unavailable(again.untimed or "the result has no machine to run it on again")
    seen = Residents.of(run, request, on_demand=False)
    count = seen.whole.per_column * seen.whole.hits.size
    if count > LAYER_STEPS:
        raise Unavailable(
            f"with prefetching, or misses that are not simply loaded, the run is made again in time, which is done up "
            f"to {LAYER_STEPS:,} layer-steps; it has {count:,}"
        )
    _engine(run, _Watched(run, seen), progress).run()
    if (seen.hits, seen.accesses) != (was["hits"], was["accesses"]):
        raise Unavailable(
            f"run again in time it has {seen.hits:,} hits of {seen.accesses:,}, the result says {was['hits']:,} of "
            f"{was['accesses']:,}: lrcsim has changed since"
        )
    return seen


class _Watched(Residency):
    """The caches of a run, which take note of what is there.

    Args:
        run: what is run.
        seen: filled in.
    """

    def __init__(self, run: Run, seen: Residents) -> None:
        platform = run.platform
        assert platform is not None  # `watch_in_time` asks
        shrink = platform.shrink(len(run.pools))
        super().__init__(run, platform.action, platform.dram_pool(run.trace), shrink, platform.flat_sizes)
        self.seen, self.stride, self.at = seen, run.trace.num_experts, -1
        self.brought: set[int] = set()  # ahead, and not used since; some may have left again

    def begin(self, step: Step) -> bool:
        """See `Residency.begin`; also where a layer has nothing recorded in this step, what it holds is drawn."""
        emptied = super().begin(step)
        if emptied:
            self.brought.clear()
        self.at = step.number - self.seen.begin if self.seen.begin <= step.number < self.seen.end else -1
        if 0 <= self.at < STEPS:
            for layer in self.seen.experts:
                self._mark(layer)
        return emptied

    def look_up(self, step: Step, work: LayerStep) -> Lookup:
        """See `Residency.look_up`."""
        found = super().look_up(step, work)
        self.seen.whole.add(work.layer, step.number, len(found.hits), len(work.keys))
        if self.at >= 0 and self.seen.own is not None:
            self.seen.own.add(work.layer, self.at, len(found.hits), len(work.keys))
        hits = set(found.hits)
        if work.layer in self.seen.experts and 0 <= self.at < STEPS:
            column = self._mark(work.layer)
            for key in work.keys:
                hit = AHEAD if key in self.brought else HIT
                column[key % self.stride] = hit if key in hits else MISS
        self.brought.difference_update(work.keys)
        return found

    def bring_ahead(self, key: int, step: Step, layer: int, protected: set[int]) -> bool:
        """See `Residency.bring_ahead`."""
        taken = super().bring_ahead(key, step, layer, protected)
        if taken:
            self.brought.add(key)
        return taken

    def _mark(self, layer: int) -> npt.NDArray[np.uint8]:
        """Write which experts of a layer are in the cache; return the column."""
        column = self.seen.experts[layer][:, self.at]
        column[:] = ABSENT
        for key in self.pool_of_layer[layer].resident:
            if key // self.stride == layer:
                column[key % self.stride] = WAITING if key in self.brought else SPARE
        return column


def _engine(run: Run, residency: Residency, progress: Progress | None) -> Engine:
    """Set up the engine over some caches, as `run_timed` does."""
    platform, policy = run.platform, make_policy(run.policy)
    assert platform is not None  # `watch_in_time` asks
    schedule = Schedule(run.trace, run.prefill, weights="weights" in policy.needs | policy.wants)
    future = Future(schedule, run.access, run.warm) if "future" in policy.needs else None
    if future is not None:
        for pool in residency.pools:
            pool.view.upcoming = future.of_pool(pool.view.layers)
    prefetcher = platform.prefetcher
    if prefetcher is not None:
        prefetcher.trace, prefetcher.stride = run.trace, schedule.stride
        prefetcher.num_layers, prefetcher.top_k = run.trace.num_layers, run.trace.top_k
        uses = np.zeros(run.trace.num_layers * schedule.stride) if run.profile is None else run.profile.astype(float)
        prefetcher.profile = uses
        start(prefetcher)
    return Engine(
        steps_of(schedule, future, uses="weights" in platform.action.needs),
        residency,
        platform.costs,
        platform.profile,
        platform.flat_sizes,
        runtime=platform.runtime,
        overlap=platform.overlap,
        prefetcher=prefetcher,
        progress=None if progress is None else (lambda done: progress(done, run.trace.num_tokens)),
    )
