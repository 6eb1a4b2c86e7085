"""What was in the cache when: the run once more, watched layer-step by layer-step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.progress import Progress
from lrcsim.policies import Policy
from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.serving.steps import steps_of
from lrcsim.simulator.setup.miss_actions import Decision, MissAction
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
    """Hit rate by layer and step.

    Attributes:
        hits: int64 [L, columns].
        accesses: int64 [L, columns].
        first: int64 [columns], the first step of each column, from the first of those shown.
        per_column: steps taken together, at most.
    """

    hits: npt.NDArray[np.int64]
    accesses: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    per_column: int

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
        hits: in all.
        accesses: in all.
    """

    whole: Rates
    request: int | None
    own: Rates | None
    prompt_steps: int
    experts: dict[int, npt.NDArray[np.uint8]]
    hits: int
    accesses: int


class _Counter:
    """Hits and accesses by layer and column, of steps that are numbered from 0.

    Args:
        layers: L.
        steps: how many there will be.
    """

    def __init__(self, layers: int, steps: int) -> None:
        self.per_column = -(-steps // COLUMNS)
        columns = -(-steps // self.per_column)
        self.hits = np.zeros((layers, columns), np.int64)
        self.accesses = np.zeros((layers, columns), np.int64)

    def add(self, layer: int, step: int, hits: int, accesses: int) -> None:
        """Count a layer-step."""
        column = step // self.per_column
        self.hits[layer, column] += hits
        self.accesses[layer, column] += accesses

    def rates(self) -> Rates:
        """Return what was counted."""
        first = np.arange(self.hits.shape[1]) * self.per_column
        return Rates(self.hits, self.accesses, first, self.per_column)


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
    trace = run.trace
    together = "step" in trace.columns
    chosen = None if together else middling_request(trace.offsets) if request is None else request
    residency = Residency(run, MissAction("load", lambda missed, *_: Decision(load=missed), share=1.0))
    policy = residency.pools[0].policy
    schedule = Schedule(trace, run.prefill, weights="weights" in policy.needs | policy.wants)
    future = _future(schedule, run, residency, policy)
    steps = schedule.all_steps()
    whole = _Counter(trace.num_layers, len(steps.phase))
    mine = np.flatnonzero(steps.request == chosen) if chosen is not None else np.zeros(0, np.int64)
    begin, end = (int(mine[0]), int(mine[-1]) + 1) if len(mine) else (0, 0)
    own = _Counter(trace.num_layers, end - begin) if end > begin else None
    shown = sorted({0, trace.num_layers // 2, trace.num_layers - 1}) if own is not None else []
    kinds = {layer: np.zeros((trace.num_experts, min(end - begin, STEPS)), np.uint8) for layer in shown}
    hits = accesses = 0
    for step in steps_of(schedule, future):
        residency.begin(step)
        at = step.number - begin
        inside = begin <= step.number < end
        if inside and at < STEPS:
            for layer in shown:  # also where the layer has nothing recorded in this step
                _mark(kinds[layer][:, at], residency, layer)
        for work in step.layers:
            found = residency.look_up(step, work)
            there, used = len(found.hits), len(work.keys)
            hits, accesses = hits + there, accesses + used
            whole.add(work.layer, step.number, there, used)
            if inside and own is not None:
                own.add(work.layer, at, there, used)
                if at < STEPS and work.layer in kinds:
                    column = kinds[work.layer][:, at]
                    _mark(column, residency, work.layer)
                    for key in work.keys:
                        column[key % schedule.stride] = MISS
                    for key in found.hits:
                        column[key % schedule.stride] = HIT
        if progress is not None:
            progress(step.first_token + step.size.tokens, trace.num_tokens)
    return Residents(
        whole=whole.rates(),
        request=chosen,
        own=None if own is None else own.rates(),
        prompt_steps=int((steps.phase[begin:end] == 0).sum()),
        experts=kinds,
        hits=hits,
        accesses=accesses,
    )


def _future(schedule: Schedule, run: Run, residency: Residency, policy: Policy) -> Future | None:
    """Tell policies that know the future what comes."""
    if "future" not in policy.needs:
        return None
    future = Future(schedule, run.access, run.warm)
    for pool in residency.pools:
        pool.view.upcoming = future.of_pool(pool.view.layers)
    return future


def _mark(column: npt.NDArray[Any], residency: Residency, layer: int) -> None:
    """Write which experts of a layer are in the cache into a column."""
    pool = residency.pool_of_layer[layer]
    column[:] = ABSENT
    for key in pool.resident:
        if key // pool.view.stride == layer:
            column[key % pool.view.stride] = SPARE
