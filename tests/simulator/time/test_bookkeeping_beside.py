"""Bookkeeping that runs beside the transfers it follows (`LoadUse.beside`), in every engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.hardware import Cpu, Dram, Gpu, HardwareProfile, Link
from lrcsim.runtimes import IDEAL, Runtime
from lrcsim.runtimes.runtime import LoadUse
from lrcsim.simulator.serving.steps import steps_of
from lrcsim.simulator.setup.costs import FixedCosts
from lrcsim.simulator.setup.miss_actions import make_action
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.compiled import run_compiled, unsupported
from lrcsim.simulator.time.compiled_events import run_events, unsupported_events
from lrcsim.simulator.time.engine import Engine
from lrcsim.simulator.time.residency import Residency
from lrcsim.simulator.time.spans import Log
from lrcsim.simulator.time.tally import Tally
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule


def machine(bandwidth: float = 100.0, lanes: int = 1, lane: float | None = None) -> HardwareProfile:
    """A link of 100 bytes/s; nothing else takes any time."""
    return HardwareProfile(
        name="test",
        description="",
        gpu=Gpu(10**9, 1e12, 1e12, 0.0),
        cpu=Cpu(1e12, 1e10, 0.0, 1),
        dram=Dram(10**9, 1e30),
        links=(Link("pcie", bandwidth, 0.0, 0.0, lanes, lane_bandwidth=lane),),
        layer_overhead=0.0,
        expert_overhead=0.0,
    )


def runtime(**loads: Any) -> Runtime:
    return replace(IDEAL, name="test", loads=LoadUse(**loads))


def both(
    experts: Any, use: Runtime, costs: FixedCosts, profile: HardwareProfile, *, cache: int = 2, overlap: bool = True
) -> Tally:
    """Run a trace in both engines, an expert of 300 bytes; compare them, return the event-driven one's tally."""
    trace = RoutingTrace.from_arrays(np.asarray(experts), num_experts=4, expert_bytes=300)
    job, action = Run.of(trace, policy="lru", cache=cache), make_action("load", profile)
    sizes = [300] * trace.num_layers
    assert unsupported(job, costs, profile, action, runtime=use) is None
    residency = Residency(job, action, sizes=sizes)
    steps = steps_of(Schedule(trace, job.prefill), None)
    events = Engine(steps, residency, costs, profile, sizes, runtime=use, overlap=overlap).run()
    engines = [run_compiled]
    if unsupported_events(job, costs, profile, action) is None:
        engines.append(run_events)
    else:
        assert cache == 0
    for engine in engines:
        compiled, _ = engine(job, costs, profile, sizes, action, runtime=use, overlap=overlap)
        assert compiled.by_step() == pytest.approx(events.by_step(), rel=1e-9)
        assert compiled.overhead == pytest.approx(events.overhead, rel=1e-9)
    return events


# Two tokens of one layer, top-2: both experts miss (600 bytes, 6 s on the link), then 1 is there and 2 misses.
TOKENS = [[[0, 1]], [[1, 2]]]
COSTS = FixedCosts(dense=1.0, expert_s=1.5, output=0.5)


def test_before_the_transfers() -> None:
    # 0.01 s per byte, cache of 2, dense 1 s. Token 1: 1 + books 6, then experts arrive at 3 and 6 and take 1.5 each:
    # the last ends at 7.5; output 0.5: 15. Token 2: 1 + books 3; the resident takes 1.5, the other arrives at 3 and
    # ends at 4.5; output: 9.
    tally = both(TOKENS, runtime(byte=0.01), COSTS, machine())
    assert np.diff(tally.by_step()[:, :2]).ravel().tolist() == pytest.approx([15.0, 9.0])
    assert tally.overhead == pytest.approx(9.0)


def test_beside_the_transfers() -> None:
    # The same, but the link moves meanwhile. Token 1: 1; from then on books until 6, experts there at 3 and 6: computed
    # from 6 to 9; output: 10.5. Token 2: 1; books until 3, then the resident until 4.5 and the other until 6: 7.5.
    tally = both(TOKENS, runtime(byte=0.01, beside=True), COSTS, machine())
    assert np.diff(tally.by_step()[:, :2]).ravel().tolist() == pytest.approx([10.5, 7.5])
    assert tally.overhead == pytest.approx(9.0)  # as much of it as before
    assert tally.compute == pytest.approx(2 * (1 + 2 * 1.5 + 0.5))


def test_by_the_eviction() -> None:
    # 4 s for the one expert that token 2 evicts: until 4, then two experts: 1 + 4 + 3 + 0.5.
    tally = both(TOKENS, runtime(eviction=4.0, beside=True), COSTS, machine())
    assert np.diff(tally.by_step()[:, :2]).ravel().tolist() == pytest.approx([9.0, 8.5])
    assert tally.overhead == pytest.approx(4.0)


def test_without_overlap_it_is_never_beside() -> None:
    # Who computes waits for the transfers, and does the books before or after: the sum is the same.
    one = both(TOKENS, runtime(byte=0.01, beside=True), COSTS, machine(), overlap=False)
    other = both(TOKENS, runtime(byte=0.01), COSTS, machine(), overlap=False)
    assert one.by_step().tolist() == other.by_step().tolist()


def test_by_tensor_with_lanes() -> None:
    # An expert is three reads of 100 bytes, three lanes of 50 bytes/s at most on a link of 100: one miss, all three at
    # once at 33.3 bytes/s each, there at 3 s. Books until 2, gates of the resident until 2.5; at 3 the other's gate
    # (0.5), then ups and downs of both (4 x 0.5): 1 + 5.5 + 0.5.
    profile = machine(lanes=3, lane=50.0)
    use = runtime(byte=2 / 300, overlap="tensor", beside=True)
    tally = both(TOKENS, use, COSTS, profile)
    assert np.diff(tally.by_step()[1, :2])[0] == pytest.approx(7.0)


def test_it_is_drawn_where_it_runs() -> None:
    trace = RoutingTrace.from_arrays(np.asarray(TOKENS), num_experts=4, expert_bytes=300)
    job, profile, log = Run.of(trace, policy="lru", cache=2), machine(), Log(10**6)
    residency = Residency(job, make_action("load", profile), sizes=[300])
    use = runtime(byte=0.01, beside=True)
    Engine(steps_of(Schedule(trace, job.prefill), None), residency, COSTS, profile, [300], runtime=use, log=log).run()
    spans = [(one.start, one.end) for one in log.spans if one.what == "overhead"]
    assert spans == [pytest.approx((1.0, 7.0)), pytest.approx((11.5, 14.5))]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3).flatmap(
        lambda k: st.lists(st.lists(st.permutations(range(4)), min_size=2, max_size=2), min_size=1, max_size=8).map(
            lambda rows: [[list(layer[:k]) for layer in token] for token in rows]
        )
    ),
    st.sampled_from(["none", "expert", "tensor"]),
    st.sampled_from([0.0, 0.004, 0.02]),
    st.sampled_from([0.0, 1.3]),
    st.integers(1, 4),
    st.sampled_from([None, 30.0]),
    st.booleans(),
)
def test_engines_agree(
    experts: Any, overlap: Any, byte: float, eviction: float, lanes: int, lane: float | None, beside: bool
) -> None:
    use = runtime(overlap=overlap, byte=byte, eviction=eviction, beside=beside)
    profile, free = machine(lanes=lanes, lane=lane), overlap != "none"
    tally = both(experts, use, COSTS, profile, overlap=free)
    begin, end, compute, overhead, _ = tally.by_step().T
    assert (end - begin >= compute + overhead - 1e-9).all()  # conservation: what computes keeps the books
    before = both(experts, replace(use, loads=replace(use.loads, beside=False)), COSTS, profile, overlap=free)
    assert tally.total <= before.total + 1e-9  # never slower than books first
    assert tally.overhead == pytest.approx(before.overhead)
