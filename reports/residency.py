"""What was in the cache when: the run once more, watched layer-step by layer-step."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from lrcsim.base.progress import Progress
from lrcsim.policies import make_policy
from lrcsim.reports.residents import ABSENT, HIT, MISS, SPARE, STEPS, Residents
from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.compiled.engine_for import engine_for
from lrcsim.simulator.serving.steps import steps_of
from lrcsim.simulator.setup.miss_actions import Load
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.residency import Residency
from lrcsim.traces.schedule import Schedule


def watch(run: Run, request: int | None = None, progress: Progress | None = None) -> Residents:
    """Run a trace through its caches and look at what is there.

    Args:
        run: what to run; access ``"coresident"``, and every miss is loaded.
        request: the request to look at; None: that of median length.
        progress: called with tokens done and tokens in all.

    Raises:
        PolicyError: the policy failed.
    """
    seen = Residents.of(run, request)
    if engine_for(make_policy(run.policy), run.pools) == "compiled":
        from lrcsim.reports.residency_compiled import watch_compiled  # numba takes half a second to import

        watch_compiled(run, seen, progress)
    else:
        watch_in_python(run, seen, progress)
    return seen


def watch_in_python(run: Run, seen: Residents, progress: Progress | None = None) -> None:
    """Run any policy, by its own methods; arguments as in `watch`, ``seen`` is filled in."""
    trace, residency = run.trace, Residency(run, Load())
    policy = residency.pools[0].policy
    schedule = Schedule(trace, run.prefill, weights="weights" in policy.needs | policy.wants)
    future = Future(schedule, run.access, run.warm) if "future" in policy.needs else None
    if future is not None:
        for pool in residency.pools:
            pool.view.upcoming = future.of_pool(pool.view.layers)
    for step in steps_of(schedule, future):
        residency.begin(step)
        at, inside = step.number - seen.begin, seen.begin <= step.number < seen.end
        drawn = seen.experts if inside and at < STEPS else {}
        for layer, kinds in drawn.items():  # also where the layer has nothing recorded in this step
            _mark(kinds[:, at], residency, layer)
        for work in step.layers:
            found = residency.look_up(step, work)
            seen.whole.add(work.layer, step.number, len(found.hits), len(work.keys))
            if inside and seen.own is not None:
                seen.own.add(work.layer, at, len(found.hits), len(work.keys))
            if work.layer in drawn:
                column = drawn[work.layer][:, at]
                _mark(column, residency, work.layer)
                column[[key % schedule.stride for key in work.keys]] = MISS
                column[[key % schedule.stride for key in found.hits]] = HIT
        if progress is not None:
            progress(step.first_token + step.size.tokens, trace.num_tokens)


def _mark(column: npt.NDArray[Any], residency: Residency, layer: int) -> None:
    """Write which experts of a layer are in the cache into a column."""
    pool = residency.pool_of_layer[layer]
    column[:] = ABSENT
    column[[key % pool.view.stride for key in pool.resident if key // pool.view.stride == layer]] = SPARE
