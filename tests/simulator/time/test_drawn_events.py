"""The compiled event loop against SimPy on all that `test_compiled_events` leaves out of its drawn runs.

Requests that arrive, static batches, drafts of every length, proposals that no prefetcher of lrcsim's own would make,
every queue in DRAM, in slots or bytes, bookkeeping beside the transfers, wide and narrow prefetchers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from drawn_runs import costs_drawn, job_of, profiles, same, small, traces
from drawn_runtimes import runtimes
from hypothesis import event, given, settings
from hypothesis import strategies as st

from lrcsim.hardware import HardwareProfile
from lrcsim.policies import BUILT_IN, View, make_policy
from lrcsim.policies.kernels import Queue
from lrcsim.runtimes import Runtime
from lrcsim.runtimes.machine_under import machine_under
from lrcsim.simulator.cache.capacity import resolve_capacity
from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.cache.pool import Pool
from lrcsim.simulator.compiled.engine_for import kernel_of
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.serving.arrivals import ArrivalSteps, arrival_steps
from lrcsim.simulator.serving.batching import batched
from lrcsim.simulator.serving.steps import Step, steps_of
from lrcsim.simulator.setup.admission import no_uploads
from lrcsim.simulator.setup.costs import Costs, FixedCosts, RooflineCosts
from lrcsim.simulator.setup.miss_actions import MissAction, make_action
from lrcsim.simulator.setup.prefetchers import Prefetcher, make_prefetcher, start
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.compiled_events import CompiledEvents, Dram, unsupported_events
from lrcsim.simulator.time.engine import Engine
from lrcsim.simulator.time.event_ahead import Proposed
from lrcsim.simulator.time.residency import Residency
from lrcsim.simulator.time.tally import Tally
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Block, Schedule

QUEUES = [name for name, policy in BUILT_IN.items() if kernel_of(policy, Queue) is not None]
BELOW = [name for name in QUEUES if not BUILT_IN[name].refills]  # main memory has no profile
AHEAD = [
    *["none", "oracle", "oracle:4", "next-gate:1,width=1", "next-gate:2,width=3", "temporal", "popularity:2"],
    *["popularity", "transition", "transition:1", *["anything"] * 6],
]
ACTIONS = [
    *["load", "cpu", "split", "split:0", "split:0.3", "split:1", "skip:0.3", "skip:1,keep=0"],
    *["substitute:0.4,keep=0", "substitute:1,keep=1", "low:0.4,0.3", "low:0.9,1,keep=0", "low:0.5,0.01"],
]

ADMITTING = [
    "cpu,admit:1",
    "cpu,admit:2,touches:2",
    "cpu,admit:9",
    "cpu,admit:3,payback",
    "cpu,admit:1,touches:3,payback",
]
REFILLING = [name for name in QUEUES if BUILT_IN[name].refills]


class Anything(Prefetcher):
    """Propose experts that the trace's layers have, any, twice too, some of them of the running batch."""

    name = "anything"

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed

    def at(self, step: int, place: int) -> list[int]:
        """Return the keys proposed at a place of a step."""
        rng = np.random.default_rng([self.seed, step, place])
        layers = rng.integers(0, self.num_layers, rng.integers(0, 5))
        counts = self.trace.layers.num_experts
        return [int(layer * self.stride + rng.integers(0, counts[layer])) for layer in layers]

    def propose(self, step: Step, place: int) -> list[int]:
        return self.at(step.number, place)


class AnythingAhead:
    """The same for the compiled loop."""

    def __init__(self, prefetcher: Anything) -> None:
        self.prefetcher = prefetcher

    def propose(self, trace: RoutingTrace, block: Block, following: Block | None) -> Proposed:
        starts: list[int] = [0]
        keys: list[int] = []
        place, before = 0, -1
        for step in block.step.tolist():
            place = place + 1 if step == before else 0
            before = step
            keys += self.prefetcher.at(step, place)
            starts.append(len(keys))
        return np.array(starts), np.array(keys, np.int32)


def told(prefetcher: Prefetcher, job: Run) -> None:
    """Tell a prefetcher what it may know."""
    prefetcher.trace, prefetcher.stride = job.trace, job.trace.num_experts
    prefetcher.num_layers, prefetcher.top_k = job.trace.num_layers, job.trace.top_k
    assert job.profile is not None  # job_of() makes one
    prefetcher.profile = job.profile.astype(float)
    start(prefetcher)


def in_simpy(
    job: Run,
    machine: tuple[Costs, HardwareProfile, list[int]],
    action: MissAction,
    prefetcher: Prefetcher,
    dram: Dram | None,
    arriving: ArrivalSteps | None,
    how: dict[str, Any],
) -> tuple[Tally, Counts]:
    """Run the event-driven engine."""
    below = None
    if dram is not None:
        size = dram.size
        of_layer = None if size.bytes_per_expert is None else dict(zip(size.layers, size.bytes_per_expert, strict=True))
        view = View(size.capacity, job.trace.num_experts, size.layers, job.trace.num_layers, job.trace.top_k, of_layer)
        below = Pool(size, make_policy(dram.policy), view)
    costs, profile, sizes = machine
    residency = Residency(job, action, below, sizes=sizes)
    policy = residency.pools[0].policy
    schedule = Schedule(job.trace, job.prefill, weights="weights" in policy.needs | policy.wants)
    future = Future(schedule, job.access, job.warm) if "future" in policy.needs else None
    steps = steps_of(schedule, future, uses="weights" in action.needs) if arriving is None else arriving
    tally = Engine(steps, residency, costs, profile, sizes, prefetcher=prefetcher, **how).run()
    return tally, residency.finish()


def compiled(
    job: Run,
    machine: tuple[Costs, HardwareProfile, list[int]],
    action: MissAction,
    prefetcher: Prefetcher,
    dram: Dram | None,
    arriving: ArrivalSteps | None,
    how: dict[str, Any],
) -> tuple[Tally, Counts]:
    """Run the compiled event loop."""
    own = None if isinstance(prefetcher, Anything) else prefetcher
    run = CompiledEvents(job, *machine, action, own, dram=dram, **how)
    if isinstance(prefetcher, Anything) and run.rules.overlap:
        run.proposer = AnythingAhead(prefetcher)
    if arriving is not None:
        run.serve(arriving, None)
    else:
        for block, proposed in run.blocks():
            run.advance(job.trace, block, proposed)
    counts = run.finish()
    return run.tally, counts


@st.composite
def drams(draw: st.DrawFn, routing: RoutingTrace, profile: HardwareProfile) -> Dram | None:
    """A cache in main memory, of slots or bytes, where there is storage below it and a GPU above."""
    if profile.device_link is None or not profile.storage_links or not draw(st.integers(0, 2)):
        return None
    size = resolve_capacity(draw(st.sampled_from([1, 2, 3, 5, 8, "12000B", "30000B"])), routing.layers, "model")[0]
    return Dram(size, draw(st.sampled_from(BELOW)))


@st.composite
def machines(
    draw: st.DrawFn, routing: RoutingTrace, ways: list[str]
) -> tuple[tuple[Costs, HardwareProfile, list[int]], Runtime, FixedCosts | None]:
    """Costs and a machine under a runtime, so slow that every part of the roofline takes milliseconds."""
    runtime = draw(runtimes)
    profile = machine_under(draw(profiles(ways=ways)), runtime)
    if profile.gpu is not None:
        profile = profile.with_part("gpu", bandwidth=400_000.0, compute=1e6)
    profile = profile.with_part("cpu", bandwidth=300_000.0 * runtime.cpu.share, compute=5e5 * runtime.cpu.compute)
    geometry = small(routing.num_layers, routing.num_experts)
    fixed = draw(st.one_of(st.none(), costs_drawn))
    costs = fixed or RooflineCosts(geometry, profile, sizes=routing.expert_bytes, runtime=runtime)
    assert routing.expert_bytes is not None
    return (costs, profile, routing.expert_bytes.tolist()), runtime, fixed


OUTCOMES = ["loaded", "on the CPU", "skipped", "substituted", "low", "admitted"]


@settings(max_examples=150, deadline=None)
@given(data=st.data(), routing=traces(predicted=True))
def test_all_together(data: st.DataObject, routing: RoutingTrace) -> None:
    compare(data, routing, QUEUES, ACTIONS, ["pcie", "nvme", "both", "both", "both"])


@settings(max_examples=100, deadline=None)
@given(data=st.data(), routing=traces(predicted=True))
def test_admission(data: st.DataObject, routing: RoutingTrace) -> None:
    compare(data, routing, QUEUES, ADMITTING, ["pcie", "both"])


@settings(max_examples=100, deadline=None)
@given(data=st.data(), routing=traces(predicted=True))
def test_pinned_anew(data: st.DataObject, routing: RoutingTrace) -> None:
    compare(data, routing, REFILLING, ["load", "cpu", "split", "cpu,admit:2"], ["pcie", "both", "nvme"], warm=False)


def compare(
    data: st.DataObject,
    routing: RoutingTrace,
    policies: list[str],
    actions: list[str],
    ways: list[str],
    warm: bool | None = None,
) -> None:
    """Draw the rest, run both, compare."""
    draw = data.draw
    machine, runtime, fixed = draw(machines(routing, ways))
    profile = machine[1]
    policy = draw(st.sampled_from(policies))
    ahead = draw(st.sampled_from(AHEAD if not BUILT_IN[policy].refills else AHEAD[:1]))
    action = draw(st.sampled_from(actions))
    cache = draw(st.one_of(st.integers(1, 9), st.sampled_from(["9000B", "21000B", "40000B"])))
    prefill = draw(st.sampled_from(["step", "token", "chunk:2"]))
    arrivals: Any = draw(
        st.one_of(
            st.none(),
            st.none(),
            st.sampled_from(["poisson:1", "poisson:30"]),
            st.lists(st.sampled_from([0.0, 0.004, 0.1, 1.0, 7.0]), min_size=routing.num_requests).map(
                lambda times: times[: routing.num_requests]
            ),
        )
    )
    serving: dict[str, Any] = {
        "batch": draw(st.integers(1, 3)),
        "batching": draw(st.sampled_from(["continuous", "static"])),
        "speculative": draw(st.sampled_from([None, None, (1, 0.5), (3, 0.7), (2, [2, 0])])),
        "prefill": prefill,
    }
    served = routing if arrivals is not None else batched(routing, **serving)
    scope = draw(st.sampled_from(["layer", "model"]))
    job = job_of(
        served, policy, cache, scope=scope, prefill=prefill, warm=draw(st.booleans()) if warm is None else warm
    )
    dram, does = draw(drams(routing, profile)), make_action(action, profile)
    if ahead.startswith("oracle") and arrivals is not None:
        ahead = "temporal"  # it would have to know the steps to come
    prefetcher = Anything(draw(st.integers(0, 2**20))) if ahead == "anything" else make_prefetcher(ahead)
    own = None if isinstance(prefetcher, Anything) else prefetcher
    how: dict[str, Any] = {"runtime": runtime, "overlap": draw(st.sampled_from([True, True, True, False]))}
    if does.admits and no_uploads(profile, how["overlap"] and runtime.loads.overlap != "none"):
        return
    if unsupported_events(job, machine[0], profile, does, own, dram=dram) is not None:
        assert isinstance(cache, str) or dram is not None  # no room for an expert
        return
    told(prefetcher, job)
    found = []
    for engine in (compiled, in_simpy):
        arriving = None
        if arrivals is not None:
            weights = BUILT_IN[policy].needs | BUILT_IN[policy].wants
            arriving = arrival_steps(
                routing, arrivals, **serving, weights="weights" in weights, uses="weights" in does.needs
            )
        start(prefetcher)
        found.append(engine(job, machine, does, prefetcher, dram, arriving, how))
    same(*found[0], *found[1])
    assert found[0][0].idle == pytest.approx(found[1][0].idle, rel=1e-9)
    tally = found[0][0]
    seen = {
        "arrivals": arrivals is not None,
        "idle": tally.idle > 0,
        "anything": ahead == "anything" and tally.prefetch.issued > 0,
        "late": tally.prefetch.late > 0,
        "wasted": tally.prefetch.wasted > 0,
        "displaced, then missed": tally.prefetch.displaced_missed > 0,
        "DRAM": dram is not None,
        "DRAM and prefetches": dram is not None and tally.prefetch.issued > 0,
        "DRAM and the CPU": dram is not None and tally.cpu > 0,
        "beside": runtime.loads.beside and how["overlap"] and tally.overhead > 0,
        "host ahead, prefetches": runtime.device.ahead and tally.prefetch.issued > 0,
        "by tensor, prefetches": runtime.loads.overlap == "tensor" and tally.prefetch.issued > 0,
        "three links, prefetches": len(profile.links) == 3 and tally.prefetch.issued > 0,
        "fixed costs": fixed is not None,
        "admitted, late": tally.admitted.late_uses > 0,
        "admitted, useful": tally.admitted.useful > 0,
        "admitted out of storage": dram is not None and tally.admitted.issued > 0,
        "admitted and prefetched": tally.admitted.issued > 0 and tally.prefetch.issued > 0,
        "pinned anew": tally.repinned.issued > 0,
        "pinned anew, late": tally.repinned.late_uses > 0,
        "pinned anew, without overlap": tally.repinned.issued > 0 and not how["overlap"],
        "pinned anew, on the CPU meanwhile": tally.repinned.late_uses > 0 and does.meanwhile == "cpu",
    }
    for name in [name for name, is_so in seen.items() if is_so]:
        event(name)  # --hypothesis-show-statistics says how often
    for outcome, number in zip(OUTCOMES, tally.outcomes, strict=True):
        if sum(number):
            event(outcome)
