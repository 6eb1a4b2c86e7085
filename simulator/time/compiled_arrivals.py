"""The closed form of `compiled` where requests arrive: how far a block of steps goes is known once it has been run.

A block is served and timed as a whole. If a request joins before its end, the caches and the account go back to where
they were, and the steps up to there are run alone. That is rare: blocks end where, by the pace of late, one will join.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.hardware import HardwareProfile
from lrcsim.policies import make_policy
from lrcsim.runtimes import IDEAL, Runtime
from lrcsim.simulator.compiled.compiled_cache import CompiledCache
from lrcsim.simulator.compiled.engine_for import behind, engine_for
from lrcsim.simulator.compiled.pools import EmptyPool
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.serving.arrivals import ArrivalSteps, Planned
from lrcsim.simulator.setup.miss_actions import MissAction, loaded_share
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.compiled import ClosedForm, Timetable
from lrcsim.simulator.time.compiled_loop import CLOCK
from lrcsim.simulator.time.tally import Tally
from lrcsim.traces.schedule import Block


def can_go_back(job: Run) -> bool:
    """Return whether the caches of a run are compiled, and their state is all that they remember."""
    policy = make_policy(job.policy)
    return engine_for(policy, job.pools) == "compiled" and behind(policy) is policy


def run_arriving(
    job: Run,
    costs: Any,
    profile: HardwareProfile,
    sizes: Sequence[int],
    action: MissAction,
    arriving: ArrivalSteps,
    *,
    runtime: Runtime = IDEAL,
    overlap: bool = True,
    progress: Callable[[int], None] | None = None,
) -> tuple[Tally, Counts]:
    """Run steps that depend on when requests arrive; `compiled.unsupported` has no objection, and `can_go_back`.

    Args:
        job: as for `run_compiled`, like all but the next.
        costs: seconds of compute.
        profile: the machine.
        sizes: bytes of an expert of each MoE layer.
        action: ``load``, ``cpu`` or ``split``.
        arriving: says which steps to run now.
        runtime: what runs the model.
        overlap: whether transfers run beside compute.
        progress: called with the tokens done after each block.
    """
    share = loaded_share(action)
    assert share is not None  # unsupported() says so
    cache = CompiledCache(job, share)
    run = ClosedForm(job, costs, profile, sizes, share, runtime=runtime, overlap=overlap)
    run.tally.alone = None  # what a block that is run again has added would have to be taken back
    run.tally.arrivals = arriving.arrivals
    seconds = run.totals.seconds
    while (planned := arriving.next_block(float(seconds[CLOCK]))) is not None:
        if isinstance(planned, float):
            run.tally.idle += planned - float(seconds[CLOCK])
            seconds[CLOCK] = planned
            continue
        table = _run_block(cache, run, planned)
        run.keep(*table)
        done = arriving.ran(planned, len(table[0]), float(seconds[CLOCK]))
        if progress is not None:
            progress(done)
    return run.finish(cache)


def _run_block(cache: CompiledCache, run: ClosedForm, planned: Planned) -> Timetable:
    """Run those steps of a block that begin before a request joins; return their times."""
    trace, block, until = planned
    arrays = list(_remembered(cache, run))
    kept = [array.copy() for array in arrays]
    steps, phase, table = run.advance(trace, block, cache.serve(block))
    done = int(np.count_nonzero(steps[:, 0] < until))  # the first one does
    if done == len(steps):
        return steps, phase, table
    for array, before in zip(arrays, kept, strict=True):
        array[...] = before
    part = _first_steps(block, done)
    return run.advance(trace, part, cache.serve(part))


def _remembered(cache: CompiledCache, run: ClosedForm) -> Iterator[npt.NDArray[Any]]:
    """Yield all arrays that running a block changes."""
    yield from (*run.totals, cache.counters, cache.requests)
    for pool in cache.pools:
        if not isinstance(pool, EmptyPool):
            yield from pool.state  # type: ignore[attr-defined]  # can_go_back() says so


def _first_steps(block: Block, number: int) -> Block:
    """Return a block without its steps from the one of that number on, counted from 0."""
    rows = int(np.append(np.flatnonzero(np.diff(block.step, prepend=-1)), len(block.step))[number])
    end = int(block.starts[rows])
    of_rows = ("layer", "step", "request", "phase", "first_token", "step_end")
    of_accesses = ("keys", "weights", "tokens")
    short: dict[str, Any] = {name: getattr(block, name)[:rows] for name in of_rows}
    short |= {name: column[:end] for name in of_accesses if (column := getattr(block, name)) is not None}
    return replace(block, starts=block.starts[: rows + 1], end_token=int(block.step_end[rows - 1]), **short)
