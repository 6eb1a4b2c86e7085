"""A run in SimPy whose counts and times the compiled engines have to repeat: what is solved by hand then holds of all.

SimPy alone keeps spans, so an expected list of events is compared with its list, and with the compiled engines all that
follows from it: when steps begin and end, seconds and bytes by resource, what became of misses and prefetches.
"""

from __future__ import annotations

from typing import Any

import helpers
import numpy as np
from drawn_runs import same
from helpers import Finished, Wishes

from lrcsim.hardware import HardwareProfile
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.time.compiled import run_compiled, unsupported
from lrcsim.simulator.time.compiled_events import CompiledEvents, Dram, unsupported_events
from lrcsim.simulator.time.event_ahead import Proposed
from lrcsim.simulator.time.tally import Tally
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Block


class Told:
    """Proposes to the compiled event loop what a test says, as `Wishes` does to SimPy."""

    def __init__(self, wishes: Wishes, stride: int) -> None:
        self.wishes, self.stride = wishes.wishes, stride

    def propose(self, trace: RoutingTrace, block: Block, following: Block | None) -> Proposed:
        starts, keys = [0], []
        place, before = 0, -1
        for step in block.step.tolist():
            place = place + 1 if step == before else 0
            before = step
            named = [name.split(".") for name in self.wishes.get((step, place), [])]
            keys += [int(layer) * self.stride + int(expert) for layer, expert in named]
            starts.append(len(keys))
        return np.array(starts), np.array(keys, np.int32)


SIMPY_ALONE = (
    "has no compiled queue",
    "the KV cache takes memory",
    "a cache has no room for an expert",
)
"""Why a run may be none for the compiled event loop."""


def run(routing: RoutingTrace, capacity: Any, hardware: HardwareProfile | None = None, **options: Any) -> Finished:
    """Run it in SimPy (`helpers.run`) and in each compiled engine that can; compare, return what SimPy says."""
    found = helpers.run(routing, capacity, hardware, **options)
    for tally, counts in repeated(routing, capacity, hardware, **options):
        same(tally, counts, found.tally, found.counts)
    return found


def repeated(
    routing: RoutingTrace, capacity: Any, hardware: HardwareProfile | None = None, **options: Any
) -> list[tuple[Tally, Counts]]:
    """Run it in the compiled engines that can: event by event, and in closed form; options: `helpers.settled`."""
    one = helpers.settled(routing, capacity, hardware, **options)
    job, does, fetcher = one.job, one.action, one.prefetcher
    below = None if one.dram is None else Dram(one.dram, "lru")
    how: dict[str, Any] = {"runtime": one.runtime, "overlap": one.overlap}
    told = None if isinstance(fetcher, Wishes) else fetcher
    shrinks = one.shrink is not None
    found = []
    why = unsupported_events(job, one.costs, one.hardware, does, told, dram=below, shrinks=shrinks)
    if why is None:
        events = CompiledEvents(job, one.costs, one.hardware, one.of_layer, does, told, dram=below, **how)
        if isinstance(fetcher, Wishes) and events.rules.overlap:
            events.proposer = Told(fetcher, routing.num_experts)
        for block, proposed in events.blocks():
            events.advance(routing, block, proposed)
        counts = events.finish()
        found.append((events.tally, counts))
    else:
        assert any(part in why for part in SIMPY_ALONE), why
    dram = one.dram is not None
    why = unsupported(
        job, one.costs, one.hardware, does, fetcher, runtime=one.runtime, dram_cache=dram, shrinks=shrinks
    )
    if why is None:
        found.append(run_compiled(job, one.costs, one.hardware, one.of_layer, does, **how))
    return found
