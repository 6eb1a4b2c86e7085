"""A host that launches ahead of the device (`DeviceUse.ahead`), in every engine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.hardware import Cpu, Dram, Gpu, HardwareProfile, Link
from lrcsim.runtimes import IDEAL, Runtime
from lrcsim.runtimes.runtime import DeviceUse, LoadUse
from lrcsim.simulator.serving.steps import steps_of
from lrcsim.simulator.setup.costs import FixedCosts
from lrcsim.simulator.setup.miss_actions import make_action
from lrcsim.simulator.setup.prefetchers import make_prefetcher
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.compiled import run_compiled, unsupported
from lrcsim.simulator.time.compiled_events import run_events, unsupported_events
from lrcsim.simulator.time.engine import Engine
from lrcsim.simulator.time.residency import Residency
from lrcsim.simulator.time.tally import Tally
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule

COSTS = FixedCosts(dense=0.5, expert_s=0.5, output=0.25, cpu_overhead=1.0, cpu_bytes=100.0, cpu_rate=100.0)
"""An expert on the CPU takes 2 s."""


def machine(bandwidth: float = 100.0, wait: float = 0.0, miss: float = 0.0, dram: float = 1e30) -> HardwareProfile:
    """A link of 100 bytes/s, an expert of 300 bytes."""
    return HardwareProfile(
        name="test",
        description="",
        gpu=Gpu(10**9, 1e12, 1e12, 0.0),
        cpu=Cpu(1e12, 1e10, 0.0, 1),
        dram=Dram(10**9, dram),
        links=(Link("pcie", bandwidth, 0.0, 0.0, 1),),
        layer_overhead=wait,
        expert_overhead=miss,
    )


def runtime(layer: float = 2.0, kernel: float = 1.0, **loads: Any) -> Runtime:
    return replace(IDEAL, name="t", device=DeviceUse(layer=layer, kernel=kernel, ahead=True), loads=LoadUse(**loads))


def both(
    experts: Any,
    use: Runtime,
    profile: HardwareProfile,
    *,
    cache: int = 2,
    overlap: bool = True,
    miss: str = "load",
    costs: FixedCosts = COSTS,
) -> Tally:
    """Run a trace in both engines; compare them, return the event-driven one's tally."""
    trace = RoutingTrace.from_arrays(np.asarray(experts), num_experts=4, expert_bytes=300)
    job, action = Run.of(trace, policy="lru", cache=cache), make_action(miss, profile)
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
        assert compiled.by_step() == pytest.approx(events.by_step(), rel=1e-9, abs=1e-9)
        for name in ("total", "compute", "overhead", "cpu"):
            assert getattr(compiled, name) == pytest.approx(getattr(events, name), rel=1e-9, abs=1e-9)
    return events


def seconds(tally: Tally) -> list[float]:
    return (tally.by_step()[:, 1] - tally.by_step()[:, 0]).tolist()


def test_resident_experts_wait_for_the_host() -> None:
    # The second token of one layer hits twice. Launched by 3 s (layer 2, kernel 1): the routing is known then. Experts
    # are launched at 4 and 5 and take 0.5 s each: until 5.5. The output is launched at 6, when the device could have
    # been through with it at 5.75. Compute 0.5 + 2 x 0.5 + 0.25.
    tally = both([[[0, 1]], [[0, 1]]], runtime(), machine())
    assert seconds(tally)[1] == pytest.approx(6.0)
    assert tally.by_step()[1, 2:4].tolist() == pytest.approx([1.75, 4.25])


def test_launches_pass_while_experts_arrive() -> None:
    # Both miss, in both of two layers. Routing at 3; experts there at 6 and 9, launched at 4 and 5: until 9.5. Layer
    # two's dense part was launched by 5 + 3 = 8, so it takes its own 0.5 only: 10. Experts at 13 and 16: until 16.5.
    # The output, launched long ago: 16.75. Serial launches would make it 3.5 + 6 + 1.5 + 3.5 + 6 + 1.5 + 1.25 = 23.25.
    tally = both([[[0, 1], [0, 1]]], runtime(), machine())
    assert seconds(tally) == pytest.approx([16.75])
    assert tally.by_step()[0, 3] == pytest.approx(2.5)  # of the first dense part's launch, what it did not compute


def test_the_routing_is_waited_for_and_misses_cost_the_host() -> None:
    # As above with 0.25 s of waiting per layer and 0.5 to ask for a transfer: 0.75 more in each layer until the first
    # begins. The second is asked for beside it, which delays launches by 0.5, and nothing waits for them.
    tally = both([[[0, 1], [0, 1]]], runtime(), machine(wait=0.25, miss=0.5))
    assert seconds(tally) == pytest.approx([16.75 + 2 * 0.75])
    assert tally.by_step()[0, 3] == pytest.approx(2.5 + 2 * 0.75)


def test_asking_for_transfers_delays_launches() -> None:
    # Two misses whose transfers take 0.003 s each, 0.5 s to ask for each: routing at 3, the first asked for by 3.5, the
    # second by 4; launched at 5 and 6, until 6.5; output launched at 7.
    # Without overlap both are there at 3.506, but the host has asked for them at 4 only: the same.
    for overlap in (True, False):
        tally = both([[[0, 1]]], runtime(), machine(bandwidth=1e5, miss=0.5), overlap=overlap)
        assert seconds(tally) == pytest.approx([7.0])


def test_without_overlap_the_host_waits_too() -> None:
    # Both miss: routing at 3, all there at 9; only then experts are launched, at 10 and 11: until 11.5, output at 12.
    assert seconds(both([[[0, 1]]], runtime(), machine(), overlap=False)) == pytest.approx([12.0])
    assert seconds(both([[[0, 1]]], runtime(overlap="none"), machine())) == pytest.approx([12.0])


def test_the_host_computes_on_the_cpu_when_it_has_launched() -> None:
    # Cache of 2 holds 0 and 1 (they came at the first token's misses, which run on the CPU and do not enter): all miss,
    # on the CPU, 2 s each: routing at 3, nothing to launch, until 7; output launched at 8.
    tally = both([[[0, 1]]], runtime(), machine(), miss="cpu")
    assert seconds(tally) == pytest.approx([8.0])
    assert tally.cpu == pytest.approx(4.0)


def test_the_host_on_the_cpu_launches_nothing_meanwhile() -> None:
    # Two layers, split: of two misses one is loaded (300 bytes at 100 bytes/s), one runs on the CPU. Routing at 3; the
    # loaded one is launched at 4, there at 6, computed until 6.5; the CPU begins at 4: until 6. The layer ends at 6.5;
    # the next dense part is launched from 6 on: 9. Layer two likewise: 12.5; the output is launched at 12 + 1: 13.
    profile = machine()
    profile = replace(profile, cpu=replace(profile.cpu, bandwidth=100.0))
    tally = both([[[0, 1], [0, 1]]], runtime(), profile, miss="split")
    assert seconds(tally) == pytest.approx([13.0])
    assert tally.cpu == pytest.approx(4.0)


def test_what_is_brought_ahead_is_asked_for() -> None:
    # One expert per token, 0 then 1 in one layer; the oracle asks for 1 in the first token. It takes 2.5 s to ask for a
    # transfer. Token 1: routing at 3, 0 asked for by 5.5, there at 8.5; 1 asked for by 8, so 0 is launched at 9 and
    # takes until 9.5. The output is launched at 10. Token 2: routing at 3; 1 was there at 1.5, behind 0 on the link; it
    # is launched at 4 and takes until 4.5, the output is launched at 5.
    trace = RoutingTrace.from_arrays(np.array([[[0]], [[1]]]), num_experts=4, expert_bytes=300)
    job, profile = Run.of(trace, policy="lru", cache=2), machine(miss=2.5)
    residency = Residency(job, make_action("load", profile), sizes=[300])
    ahead = make_prefetcher("oracle:1")
    ahead.trace, ahead.stride, ahead.num_layers, ahead.top_k = trace, 4, 1, 1
    steps = steps_of(Schedule(trace, job.prefill), None)
    tally = Engine(steps, residency, COSTS, profile, [300], runtime=runtime(), prefetcher=ahead).run()
    assert seconds(tally) == pytest.approx([10.0, 5.0])


def test_it_does_not_go_with_tensors() -> None:
    with pytest.raises(ConfigError, match=r"runtime t: device\.ahead goes with loads\.overlap .*not with \"tensor\""):
        runtime(overlap="tensor")


def naive(hits: list[list[list[bool]]], use: Runtime, wait: float, miss: float, overlap: bool) -> list[float]:
    """The definition, where every miss is loaded: when host, device and link are free."""
    found, device = [], use.device
    assert device.layer is not None
    assert device.kernel is not None
    layer, kernel = device.layer, device.kernel
    for token in hits:
        host = gpu = 0.0
        for row in token:
            host += layer + kernel
            missed = row.count(False)
            host = gpu = max(gpu + COSTS.dense, host) + wait + miss * min(missed, 1)
            arrivals = [host + 3.0 * (place + 1) for place in range(missed)]
            host += miss * max(missed - 1, 0)
            if not overlap and arrivals:
                gpu = arrivals[-1]
                host = max(gpu, host)
            for ready in [0.0] * row.count(True) + arrivals:
                host += kernel
                gpu = max(gpu, ready, host) + COSTS.expert_s
        found.append(max(gpu + COSTS.output, host + kernel))
    return found


TRACES = st.integers(1, 3).flatmap(
    lambda k: st.lists(st.lists(st.permutations(range(4)), min_size=2, max_size=2), min_size=1, max_size=8).map(
        lambda rows: [[list(layer[:k]) for layer in token] for token in rows]
    )
)
TIMES = st.sampled_from([0.0, 0.1, 0.7, 2.0])


def lru(experts: list[list[list[int]]], cache: int) -> list[list[list[bool]]]:
    """Whether each is a hit, of a cache that holds a layer's batch at least."""
    kept: list[list[int]] = [[] for _ in experts[0]]
    found = []
    for token in experts:
        found.append([[expert in kept[layer] for expert in row] for layer, row in enumerate(token)])
        for layer, row in enumerate(token):
            kept[layer] = ([one for one in kept[layer] if one not in row] + row)[-cache:]
    return found


@settings(max_examples=60, deadline=None)
@given(TRACES, TIMES, TIMES, TIMES, TIMES, st.booleans())
def test_definition(experts: Any, layer: float, kernel: float, wait: float, miss: float, overlap: bool) -> None:
    use = runtime(layer, kernel)
    tally = both(experts, use, machine(wait=wait, miss=miss), cache=3, overlap=overlap)
    assert seconds(tally) == pytest.approx(naive(lru(experts, 3), use, wait, miss, overlap))
    begin, end, compute, overhead, _ = tally.by_step().T
    assert (end - begin >= compute + overhead - 1e-9).all()  # conservation: what waits for a launch does nothing else


@settings(max_examples=60, deadline=None)
@given(TRACES, TIMES, TIMES, st.sampled_from(["cpu", "split"]), st.booleans(), st.sampled_from([1e30, 120.0]))
def test_engines_agree_on_the_cpu(
    experts: Any, layer: float, kernel: float, miss: str, overlap: bool, dram: float
) -> None:
    profile = machine(dram=dram)
    profile = replace(profile, cpu=replace(profile.cpu, bandwidth=100.0))
    both(experts, runtime(layer, kernel), profile, miss=miss, overlap=overlap)


@settings(max_examples=30, deadline=None)
@given(TRACES, st.booleans())
def test_a_host_that_takes_no_time_changes_nothing(experts: Any, overlap: bool) -> None:
    ahead = both(experts, runtime(0.0, 0.0), machine(wait=0.3), overlap=overlap)
    plain = both(experts, IDEAL, machine(wait=0.3), overlap=overlap)
    assert ahead.by_step() == pytest.approx(plain.by_step(), rel=1e-12)
