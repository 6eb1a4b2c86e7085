"""Seconds of compute alone, compiled: a division solved by hand, one by trial, and the walk in Python."""

from __future__ import annotations

from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from drawn_runs import costs_drawn, job_of, profiles, small, traces
from drawn_runtimes import runtimes
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.hardware import HardwareProfile
from lrcsim.runtimes import Runtime
from lrcsim.runtimes.machine_under import machine_under
from lrcsim.simulator import simulate
from lrcsim.simulator.serving.batching import batched
from lrcsim.simulator.setup.costs import FixedCosts, RooflineCosts
from lrcsim.simulator.time import compute_alone as module
from lrcsim.simulator.time.compute_alone import compute_alone
from lrcsim.simulator.time.time_bounds import computed, shared
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule

compiled_shared: Any = module.shared


def test_hand_solved() -> None:
    # A prompt of two tokens, then a decoded one; 2 s of dense part, 1 s of output, an expert 1 s on the GPU per token;
    # on the CPU 3 s, whatever the tokens (20 bytes at 10 bytes/s, of which memory lets 8 pass: 2.5 s, after 0.5 s).
    #   prompt: 0 is used by both tokens, 1 and 2 by one: 2 + 1 + 1 = 4 s on the GPU, 3 s each on the CPU. The CPU is
    #           worth most with 0 (3 s for 2 s): all of it there takes 3 s, 1 and 2 on the GPU 2 s. So none of 1 and 2
    #           goes to the CPU, and of 0 a share x to the GPU: 2 + 2 x = 3 (1 - x), x = 0.2: 2.4 s.
    #   decode: 1 and 2, x of 2 s = (2 - x) of 3 s: both on the GPU are 2 s, x = 1.5: 1.5 s.
    #   Resident 2 + 4 + 1 and 2 + 2 + 1, divided 2 + 2.4 + 1 and 2 + 1.5 + 1.
    trace = RoutingTrace.from_arrays([[[0, 1]], [[2, 0]], [[1, 2]]], num_experts=3, phase=[0, 0, 1])
    costs = FixedCosts(dense=2, expert_s=1, output=1, cpu_overhead=0.5, cpu_bytes=20, cpu_rate=10)
    found = compute_alone(Schedule(trace), costs.table(1), 8.0, (0.0, 0.0))
    assert found == pytest.approx(np.array([[7, 5], [5.4, 4.5]]))
    # A host that launches the dense part in 4 s and an expert in 1.5 s: 8.5 instead of 6, 7 instead of 4.
    found = compute_alone(Schedule(trace), costs.table(1), 8.0, (4.0, 1.5))
    assert found[0].tolist() == pytest.approx([9.5, 8])


experts_seconds = st.lists(st.tuples(*[st.sampled_from([0.0, 0.25, 1.0, 3.0, 7.5])] * 2), max_size=4)


@given(experts_seconds)
def test_no_division_is_shorter(seconds: list[tuple[float, float]]) -> None:
    """Some optimum of this linear program has one divided expert at most: all of these are tried."""
    gpu, cpu = np.array([one for one, _ in seconds]), np.array([other for _, other in seconds])
    best = max(gpu.sum(), 0.0) if len(gpu) else 0.0
    for divided in range(len(gpu)):
        for places in product([0.0, 1.0], repeat=len(gpu)):
            x = np.array(places)
            x[divided] = 0
            here, there, both = x @ gpu, (1 - x) @ cpu, gpu[divided] + cpu[divided]
            x[divided] = min(max((there - here) / both, 0), 1) if both else 0
            best = min(best, max(x @ gpu, (1 - x) @ cpu))
    assert shared(gpu, cpu) == pytest.approx(best, abs=1e-12)
    assert compiled_shared(gpu, cpu) == pytest.approx(best, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(
    trace=traces(),
    profile=profiles(),
    runtime=runtimes,
    fixed=st.one_of(st.none(), costs_drawn),
    batch=st.integers(1, 3),
    prefill=st.sampled_from(["step", "chunk:2"]),
)
def test_equals_the_walk_in_python(
    trace: RoutingTrace,
    profile: HardwareProfile,
    runtime: Runtime,
    fixed: FixedCosts | None,
    batch: int,
    prefill: str,
) -> None:
    """On a machine so slow that every part of the roofline takes milliseconds."""
    profile = machine_under(profile, runtime)
    if profile.gpu is not None:
        profile = profile.with_part("gpu", bandwidth=400_000.0, compute=1e6)
    profile = profile.with_part("cpu", bandwidth=300_000.0, compute=5e5)
    geometry = small(trace.num_layers, trace.num_experts)
    costs = fixed or RooflineCosts(geometry, profile, sizes=trace.expert_bytes, runtime=runtime)
    job: Any = job_of(batched(trace, batch=batch, prefill=prefill), prefill=prefill)
    platform: Any = SimpleNamespace(costs=costs, profile=profile, runtime=runtime)
    slow, quick = computed(job, platform), computed(job, platform, compiled=True)
    assert np.array(quick) == pytest.approx(np.array(slow), rel=1e-12)


@pytest.mark.parametrize("miss", ["cpu", "split"])
def test_a_compiled_run_has_the_bounds_of_one_in_simpy(miss: str) -> None:
    whole = RoutingTrace.open()
    end = int(whole.offsets[2])
    trace = RoutingTrace.from_arrays(
        whole.read("experts", 0, end),
        num_experts=whole.num_experts,
        offsets=whole.offsets[:3],
        phase=whole.read("phase", 0, end),
        model=whole.model,
    )
    found = [
        simulate(trace, "lru", "2x", hardware="rtx-4090", miss=miss, bounds=False, engine=engine).to_dict()["time"]
        for engine in ("compiled", "events")
    ]
    for name in ("total_s", "decode_s"):
        ours, theirs = (time["bounds"]["compute_only"][name] for time in found)
        assert ours == pytest.approx(theirs, rel=1e-9)
        ours, theirs = (time["all_resident"][name] for time in found)
        assert ours == pytest.approx(theirs, rel=1e-9)
