"""What must hold of every run: limits, bounds, conservation; and the cases in which more of something is slower.

Times are drawn from fractions of powers of two, so that sums of floats are exact.
"""

from __future__ import annotations

import json
from collections import Counter
from math import ceil
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from helpers import SIZE, Finished, Wishes, link, machine, run, trace
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.hardware import HardwareProfile, Link
from lrcsim.policies import BUILT_IN
from lrcsim.simulator.cache.capacity import resolve_capacity
from lrcsim.simulator.replay import replay
from lrcsim.simulator.serving.steps import steps_of
from lrcsim.simulator.setup.costs import FixedCosts
from lrcsim.simulator.setup.outcomes import NOT_LOADED, Outcome
from lrcsim.simulator.setup.prefetchers import PREFETCHERS
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule

QUARTERS = st.integers(0, 8).map(lambda quarters: quarters / 4)


@st.composite
def traces(draw: st.DrawFn, with_predictions: bool = False) -> RoutingTrace:
    """Draw traces of up to 3 layers, 8 experts and 14 tokens in up to 3 requests, each with a prompt."""
    layers, experts = draw(st.integers(1, 3)), draw(st.integers(2, 8))
    k = draw(st.integers(1, min(experts, 3)))
    requests = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), min_size=1, max_size=3))
    phase = [kind for prompt, decoded in requests for kind in [0] * prompt + [1] * decoded] or [1]
    lengths = [prompt + decoded for prompt, decoded in requests]
    if not sum(lengths):
        lengths[-1] = 1
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))

    def ids() -> npt.NDArray[np.int64]:
        return np.argsort(rng.random((len(phase), layers, experts)), axis=2)[:, :, :k]

    return RoutingTrace.from_arrays(
        ids(),
        num_experts=experts,
        phase=phase,
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        weights=np.sort(rng.random((len(phase), layers, k)))[:, :, ::-1],
        predictions={1: ids()} if with_predictions else None,
    )


LINKS = st.builds(
    link,
    st.sampled_from([50.0, 100.0, 200.0, 400.0]),
    latency=QUARTERS,
    overhead=QUARTERS,
    chunk=st.sampled_from([None, 25, 50, 75]),
)
COSTS = st.builds(
    FixedCosts,
    dense=QUARTERS,
    expert_s=QUARTERS,
    output=QUARTERS,
    cpu_overhead=QUARTERS,
    cpu_bytes=st.just(SIZE),
    cpu_rate=st.sampled_from([50, 100]),
)


@st.composite
def machines(draw: st.DrawFn, links: st.SearchStrategy[Link] = LINKS) -> HardwareProfile:
    return machine(draw(links), layer_overhead=draw(QUARTERS), expert_overhead=draw(QUARTERS))


class Case(NamedTuple):
    """A run on demand."""

    routing: RoutingTrace
    capacity: int
    hardware: HardwareProfile
    options: dict[str, Any]

    def run(self, **changes: Any) -> Finished:
        options = self.options | changes
        hardware = options.pop("hardware", self.hardware)
        return run(self.routing, options.pop("capacity", self.capacity), hardware, **options)


@st.composite
def cases(draw: st.DrawFn, hardware: st.SearchStrategy[HardwareProfile] | None = None) -> Case:
    routing = draw(traces())
    options = {
        "policy": draw(st.sampled_from(["lru", "lfu", "fifo", "random:3"])),
        "scope": draw(st.sampled_from(["layer", "model"])),
        "prefill": draw(st.sampled_from(["step", "token", "chunk:2"])),
        "warm": draw(st.booleans()),
        "overlap": draw(st.booleans()),
        "costs": draw(COSTS),
    }
    top = routing.num_experts * (routing.num_layers if options["scope"] == "model" else 1)
    return Case(routing, draw(st.integers(0, top)), draw(machines() if hardware is None else hardware), options)


# Limits


@given(traces(), machines(), COSTS, st.booleans())
def test_with_everything_resident_a_run_takes_its_compute_and_overhead(
    routing: RoutingTrace, hardware: HardwareProfile, costs: FixedCosts, overlap: bool
) -> None:
    everything = np.ones(routing.num_layers * routing.num_experts)
    found = run(routing, "100%", hardware, policy="static", profile=everything, costs=costs, overlap=overlap)
    expected = 0.0
    for step in steps_of(Schedule(routing)):
        for work in step.layers:
            tokens = [1] * len(work.keys) if work.tokens is None else work.tokens
            expected += costs.dense + hardware.layer_overhead + costs.expert_s * sum(tokens)
        expected += costs.output
    assert found.tally.total == expected
    assert found.tally.total == found.tally.compute + found.tally.overhead
    assert found.counts.misses.sum() == 0


@given(traces(), machines(), COSTS)
def test_with_nothing_resident_and_no_overlap_the_time_has_a_closed_form(
    routing: RoutingTrace, hardware: HardwareProfile, costs: FixedCosts
) -> None:
    found = run(routing, 0, hardware, costs=costs, overlap=False)
    pcie = hardware.device_link
    assert pcie is not None
    chunks = 1 if pcie.chunk is None else ceil(SIZE / pcie.chunk)
    per_load = hardware.expert_overhead + chunks * pcie.overhead + SIZE / pcie.bandwidth
    expected = 0.0
    for step in steps_of(Schedule(routing)):
        for work in step.layers:
            tokens = [1] * len(work.keys) if work.tokens is None else work.tokens
            expected += costs.dense + hardware.layer_overhead + pcie.latency + per_load * len(work.keys)
            expected += costs.expert_s * sum(tokens)
        expected += costs.output
    assert found.tally.total == expected


@given(traces(), machines(), COSTS)
def test_with_nothing_resident_and_overlap_each_expert_follows_its_arrival(
    routing: RoutingTrace, hardware: HardwareProfile, costs: FixedCosts
) -> None:
    found = run(routing, 0, hardware, costs=costs)
    pcie = hardware.device_link
    assert pcie is not None
    chunks = 1 if pcie.chunk is None else ceil(SIZE / pcie.chunk)
    now = 0.0
    for step in steps_of(Schedule(routing)):
        for work in step.layers:
            now += costs.dense + hardware.layer_overhead + hardware.expert_overhead * len(work.keys)
            arrived = now + pcie.latency
            for tokens in [1] * len(work.keys) if work.tokens is None else work.tokens:
                arrived += chunks * pcie.overhead + SIZE / pcie.bandwidth
                now = max(now, arrived) + costs.expert_s * tokens
        now += costs.output
    assert found.tally.total == now


# Conservation


@given(cases(), st.sampled_from(["load", "cpu", "split:0.5", "skip:0.5", "substitute:0.5", "low:0.5,0.25"]))
def test_nothing_is_busy_longer_than_the_run_and_bytes_are_those_of_the_misses(case: Case, action: str) -> None:
    found = case.run(action=action)
    tally = found.tally
    assert tally.compute + tally.overhead <= tally.total
    assert tally.cpu <= tally.total
    (use,) = tally.links.values()
    assert use.busy_s <= tally.total
    loads = found.counts.misses.sum() - sum(map(tally.misses, NOT_LOADED))
    assert use.bytes == SIZE * loads + SIZE / 4 * tally.misses(Outcome.LOW_PRECISION)
    assert found.tally.by_step()[:, 1].max(initial=0) == tally.total
    assert found.counts.misses.sum() == sum(map(tally.misses, Outcome))  # each came to something, once


@given(cases(), st.sampled_from([name for name in PREFETCHERS if name != "next-gate"]), st.integers(0, 1))
def test_every_prefetched_byte_is_useful_late_or_wasted(case: Case, prefetch: str, storage: int) -> None:
    hardware = machine(case.hardware.device_link, nvme=link(50) if storage else None)
    found = case.run(prefetch=prefetch, overlap=True, hardware=hardware, dram=4 if storage else None)
    tally, fetched = found.tally, found.tally.prefetch
    # a prefetch that is cancelled before all its chunks have moved counts as wasted whole
    assert fetched.issued == fetched.useful + fetched.late + fetched.wasted
    assert all(use.busy_s <= tally.total for use in tally.links.values())
    on_demand = SIZE * found.counts.misses.sum()
    moved = tally.links["pcie"].bytes
    assert on_demand + fetched.useful + fetched.late <= moved <= on_demand + fetched.issued
    on_link = [span for span in found.spans if span.track == "pcie"]
    assert sum(span.what == "load" for span in on_link) >= found.counts.misses.sum()


@given(traces(with_predictions=True), machines(), COSTS, st.sampled_from(list(PREFETCHERS)), st.integers(3, 9))
def test_every_expert_is_computed_once_per_use_and_never_before_it_has_arrived(
    routing: RoutingTrace, hardware: HardwareProfile, costs: FixedCosts, prefetch: str, capacity: int
) -> None:
    # Spans are noted at their ends, experts of the GPU when they are queued. No batch exceeds the cache.
    found = run(routing, capacity, hardware, scope="model", prefill="token", costs=costs, prefetch=prefetch)
    pcie = hardware.device_link
    assert pcie is not None
    chunks = 1 if pcie.chunk is None else ceil(SIZE / pcie.chunk)
    arrived = Counter[tuple[int, int]]()
    computed = 0
    for span in found.spans:
        expert = (span.layer, span.expert)
        if span.track == "pcie":
            arrived[expert] += 1
        elif span.what == "evict":
            arrived[expert] = 0
        elif span.what == "expert":
            computed += 1
            assert arrived[expert] >= chunks
    assert computed == found.counts.accesses.sum()


# The same hits, the same result


@settings(max_examples=15)
@pytest.mark.parametrize("policy", BUILT_IN)
@given(case=cases(), seed=st.integers(0, 2**32))
def test_hits_are_those_of_the_replay(policy: str, case: Case, seed: int) -> None:
    routing = case.routing
    profile = np.random.default_rng(seed).integers(0, 4, routing.num_layers * routing.num_experts).astype(float)
    options = {name: case.options[name] for name in ("scope", "prefill", "warm")}
    found = run(routing, case.capacity, policy=policy, profile=profile, log=False, **options).counts
    pools = tuple(resolve_capacity(case.capacity, routing.layers, options["scope"]))
    expected = replay(Run.in_pools(routing, policy, pools, "coresident", options["prefill"], options["warm"], profile))
    for name in ("accesses", "misses", "preloaded", "steps"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
    for name in ("cold_misses", "evictions", "bypassed", "resident"):
        assert getattr(found, name) == getattr(expected, name), name


@given(cases(), st.sampled_from(["none", "oracle", "transition"]))
def test_the_same_run_twice_is_the_same_byte_for_byte(case: Case, prefetch: str) -> None:
    first, second = (case.run(prefetch=prefetch, policy="random:7") for _ in range(2))
    assert repr(first.spans) == repr(second.spans)
    assert first.tally.steps.tobytes() == second.tally.steps.tobytes()
    assert json.dumps(first.tally.to_dict()) == json.dumps(second.tally.to_dict())


# What is faster, and what need not be


@given(cases(), st.sampled_from([1.5, 2.0, 7.0]), st.sampled_from(["load", "cpu", "split:0.5"]))
def test_on_demand_more_bandwidth_is_never_slower(case: Case, factor: float, action: str) -> None:
    pcie = case.hardware.device_link
    assert pcie is not None
    faster = machine(
        Link(pcie.name, pcie.bandwidth * factor, pcie.latency, pcie.overhead, pcie.lanes, pcie.chunk),
        layer_overhead=case.hardware.layer_overhead,
        expert_overhead=case.hardware.expert_overhead,
    )
    assert case.run(action=action, hardware=faster).tally.total <= case.run(action=action).tally.total * (1 + 1e-12)


@given(cases(), st.sampled_from(["load", "cpu", "split:0.5"]))
def test_on_demand_overlap_is_never_slower(case: Case, action: str) -> None:
    # All transfers take place at the same times with and without; only the experts' compute moves, to earlier.
    with_overlap, without = (case.run(action=action, overlap=overlap).tally.total for overlap in (True, False))
    assert with_overlap <= without


@given(cases(), st.integers(0, 4))
def test_on_demand_a_larger_lru_cache_is_never_slower(case: Case, more: int) -> None:
    # LRU has the inclusion property: what a small cache holds, a larger one holds too. So every layer-step has fewer
    # misses, and each of those left arrives no later.
    top = case.routing.num_experts * (case.routing.num_layers if case.options["scope"] == "model" else 1)
    small, large = (
        case.run(policy="lru", capacity=capacity).tally.total
        for capacity in (case.capacity, min(case.capacity + more, top))
    )
    assert large <= small


def test_more_lanes_can_be_slower() -> None:
    # One after the other, the first is computed while the second is on its way: 3 s. Side by side both take 2 s, and
    # nothing can be computed before: 4 s.
    assert run(trace("01"), 4).tally.total == 3
    assert run(trace("01"), 4, machine(link(lanes=2))).tally.total == 4


def test_a_larger_cache_can_be_slower() -> None:
    # Belady's anomaly (Belady, Nelson, Shedler 1969): first in, first out has 9 misses with 3 slots, 10 with 4.
    routing = trace(*"123412512345")
    three, four = run(routing, 3, policy="fifo"), run(routing, 4, policy="fifo")
    assert (three.counts.misses.sum(), four.counts.misses.sum()) == (9, 10)
    assert (three.tally.total, four.tally.total) == (12 + 9, 12 + 10)


def test_overlap_can_be_slower_with_a_prefetcher() -> None:
    # Nobody uses 3, and its transfer cannot be interrupted: the miss of step 1 comes at 1.25 and waits until 2.
    costs = FixedCosts(expert_s=0.25)
    runs = [
        run(trace("0", "1"), 4, prefetch=Wishes(after_0_0="0.3"), costs=costs, overlap=overlap)
        for overlap in (True, False)
    ]
    assert [found.tally.total for found in runs] == [3.25, 2.5]
