"""A run in SimPy whose counts and times the compiled engines have to repeat: what is solved by hand then holds of all.

SimPy alone keeps spans, so an expected list of events is compared with its list, and with the compiled engines all that
follows from it: when steps begin and end, seconds and bytes by resource, what became of misses and prefetches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import helpers
import numpy as np
from drawn_runs import same
from helpers import COSTS, SIZE, Finished, Wishes

from lrcsim.hardware import HardwareProfile
from lrcsim.runtimes import IDEAL, Runtime
from lrcsim.runtimes.machine_under import machine_under
from lrcsim.simulator.cache.capacity import PoolSize, resolve_capacity
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.setup.costs import Costs
from lrcsim.simulator.setup.miss_actions import MissAction, make_action
from lrcsim.simulator.setup.prefetchers import Prefetcher, make_prefetcher
from lrcsim.simulator.setup.run import Run
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
    routing: RoutingTrace,
    capacity: Any,
    hardware: HardwareProfile | None = None,
    *,
    policy: Any = "lru",
    scope: Any = "layer",
    action: str | MissAction = "load",
    prefetch: str | Prefetcher = "none",
    costs: Costs = COSTS,
    overlap: bool = True,
    warm: bool = True,
    prefill: str = "step",
    dram: int | None = None,
    shrink: Any = None,
    sizes: Sequence[int] | None = None,
    profile: Sequence[float] | None = None,
    log: bool = True,
    runtime: Runtime = IDEAL,
) -> list[tuple[Tally, Counts]]:
    """Run it in the compiled engines that can: event by event, and in closed form; arguments as of `helpers.engine`."""
    hardware = machine_under(hardware or helpers.machine(), runtime)
    layers, stride = routing.num_layers, routing.num_experts
    uses = np.zeros(layers * stride) if profile is None else np.asarray(profile, np.float64)
    pools = capacity if isinstance(capacity, tuple) else tuple(resolve_capacity(capacity, routing.layers, scope))
    job = Run.in_pools(routing, policy, pools, "coresident", prefill, warm, uses)
    below = None if dram is None else Dram(PoolSize(tuple(range(layers)), dram), "lru")
    does, fetcher, of_layer = make_action(action, hardware), make_prefetcher(prefetch), list(sizes or [SIZE] * layers)
    how: dict[str, Any] = {"runtime": runtime, "overlap": overlap}
    told = None if isinstance(fetcher, Wishes) else fetcher
    found = []
    why = unsupported_events(job, costs, hardware, does, told, dram=below, shrinks=shrink is not None)
    if why is None:
        events = CompiledEvents(job, costs, hardware, of_layer, does, told, dram=below, **how)
        if isinstance(fetcher, Wishes) and events.rules.overlap:
            events.proposer = Told(fetcher, stride)
        for block, proposed in events.blocks():
            events.advance(routing, block, proposed)
        counts = events.finish()
        found.append((events.tally, counts))
    else:
        assert any(part in why for part in SIMPY_ALONE), why
    why = unsupported(
        job, costs, hardware, does, fetcher, runtime=runtime, dram_cache=dram is not None, shrinks=shrink is not None
    )
    if why is None:
        found.append(run_compiled(job, costs, hardware, of_layer, does, **how))
    return found
