"""What was in the cache when: the run once more, watched layer-step by layer-step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.progress import Progress
from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.serving.steps import steps_of
from lrcsim.simulator.setup.miss_actions import Load
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.residency import Residency
from lrcsim.traces.schedule import Schedule

COLUMNS = 300
"""Columns of a map of layers, at most; beyond it steps are taken together."""

STEPS = 192
"""Steps of a map of experts, the first of the request; kinds cannot be averaged."""

ABSENT, SPARE, HIT, MISS = range(4)
"""An expert in a layer-step: not there and not used; there, not used; used and there; used and not there."""


@dataclass(frozen=True)
class Rates:
    """Hits by layer and step.

    Attributes:
        hits: int64 [L, columns].
        accesses: int64 [L, columns].
        per_column: steps taken together, at most.
    """

    hits: npt.NDArray[np.int64]
    accesses: npt.NDArray[np.int64]
    per_column: int

    @classmethod
    def over(cls, layers: int, steps: int) -> Rates:
        """Make them of no hits yet; there will be so many steps."""
        per_column = max(-(-steps // COLUMNS), 1)
        shape = (layers, -(-steps // per_column))
        return cls(np.zeros(shape, np.int64), np.zeros(shape, np.int64), per_column)

    def add(self, layer: int, step: int, hits: int, accesses: int) -> None:
        """Count a layer-step; ``step`` is counted from the first of those shown."""
        self.hits[layer, step // self.per_column] += hits
        self.accesses[layer, step // self.per_column] += accesses

    @property
    def first(self) -> npt.NDArray[np.int64]:
        """Return the first step of each column, int64 [columns]."""
        return np.arange(self.hits.shape[1]) * self.per_column

    @property
    def rate(self) -> npt.NDArray[np.float64]:
        """Return hits over accesses, float64 [L, columns], NaN where nothing was accessed."""
        rate = np.full(self.hits.shape, np.nan)
        np.divide(self.hits, self.accesses, out=rate, where=self.accesses > 0)
        return rate


@dataclass(frozen=True)
class Residents:
    """What was seen.

    Attributes:
        whole: of the whole trace.
        request: number of the request looked at; None where requests run together.
        own: of that request.
        prompt_steps: how many of its steps are prefill, at its beginning.
        experts: by layer (the first, the middle, the last), uint8 [E, steps]: `ABSENT`, `SPARE`, `HIT` or `MISS`, when
            the layer-step is done; of the request's first `STEPS` steps.
    """

    whole: Rates
    request: int | None
    own: Rates | None
    prompt_steps: int
    experts: dict[int, npt.NDArray[np.uint8]]

    @property
    def hits(self) -> int:
        """In all."""
        return int(self.whole.hits.sum())

    @property
    def accesses(self) -> int:
        """In all."""
        return int(self.whole.accesses.sum())


def middling_request(offsets: npt.NDArray[np.int64]) -> int:
    """Return the request of median length; of several the first in order of length, then of number.

    Args:
        offsets: int64 [requests + 1] into tokens.
    """
    return int(np.argsort(np.diff(offsets), kind="stable")[(len(offsets) - 1) // 2])


def watch(run: Run, request: int | None = None, progress: Progress | None = None) -> Residents:
    """Run a trace through its caches and look at what is there.

    Args:
        run: what to run; access ``"coresident"``, and every miss is loaded.
        request: the request to look at; None: that of median length.
        progress: called with tokens done and tokens in all.
    """
    trace, together = run.trace, "step" in run.trace.columns
    chosen = None if together else middling_request(trace.offsets) if request is None else request
    residency = Residency(run, Load())
    policy = residency.pools[0].policy
    schedule = Schedule(trace, run.prefill, weights="weights" in policy.needs | policy.wants)
    future = Future(schedule, run.access, run.warm) if "future" in policy.needs else None
    if future is not None:
        for pool in residency.pools:
            pool.view.upcoming = future.of_pool(pool.view.layers)
    steps = schedule.all_steps()
    mine = np.flatnonzero(steps.request == chosen) if chosen is not None else np.zeros(0, np.int64)
    begin, end = (int(mine[0]), int(mine[-1]) + 1) if len(mine) else (0, 0)
    whole, own = Rates.over(trace.num_layers, len(steps.phase)), Rates.over(trace.num_layers, end - begin)
    shown = sorted({0, trace.num_layers // 2, trace.num_layers - 1}) if len(mine) else []
    kinds = {layer: np.zeros((trace.num_experts, min(end - begin, STEPS)), np.uint8) for layer in shown}
    for step in steps_of(schedule, future):
        residency.begin(step)
        at, inside = step.number - begin, begin <= step.number < end
        drawn = shown if inside and at < STEPS else []
        for layer in drawn:  # also where the layer has nothing recorded in this step
            _mark(kinds[layer][:, at], residency, layer)
        for work in step.layers:
            found = residency.look_up(step, work)
            whole.add(work.layer, step.number, len(found.hits), len(work.keys))
            if inside:
                own.add(work.layer, at, len(found.hits), len(work.keys))
            if work.layer in drawn:
                column = kinds[work.layer][:, at]
                _mark(column, residency, work.layer)
                column[[key % schedule.stride for key in work.keys]] = MISS
                column[[key % schedule.stride for key in found.hits]] = HIT
        if progress is not None:
            progress(step.first_token + step.size.tokens, trace.num_tokens)
    prompt = int((steps.phase[begin:end] == 0).sum())
    return Residents(whole, chosen, own if len(mine) else None, prompt, kinds)


def _mark(column: npt.NDArray[Any], residency: Residency, layer: int) -> None:
    """Write which experts of a layer are in the cache into a column."""
    pool = residency.pool_of_layer[layer]
    column[:] = ABSENT
    column[[key % pool.view.stride for key in pool.resident if key // pool.view.stride == layer]] = SPARE
