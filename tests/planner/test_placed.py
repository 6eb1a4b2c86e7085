"""Seconds of placed layers are those of the engine that keeps time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import geometry, machine  # the same small model and machine as the plan's tests

from lrcsim.planner.placed import placed_seconds
from lrcsim.planner.speed import Setup
from lrcsim.planner.traces import Shape
from lrcsim.planner.workload import all_experts
from lrcsim.runtimes.runtime import CpuUse, DeviceUse, LoadUse, Runtime
from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace


def test_hand_solved() -> None:
    # Two MoE layers, one on the CPU, one token that sees one token. Of the small model and machine the engine says what
    # the dense parts take; a runtime that costs 1 s per layer, 0.25 s per expert on the CPU's layer and nothing else
    # adds 2 s and 0.25 s to what it takes under one that costs nothing.
    model, profile = geometry(moe_layers=(2, 3)), machine()
    free = Runtime("free", device=DeviceUse(layer=0.0, kernel=0.0), cpu=CpuUse(expert=0.0), loads=LoadUse(miss=0.0))
    dear = Runtime(
        "dear", device=DeviceUse(layer=1.0, kernel=0.0), cpu=CpuUse(layer=0.25, expert=0.0), loads=LoadUse(miss=0.0)
    )
    plain = placed_seconds(Setup(profile, model, "bf16", free), (True, False), 1)
    assert placed_seconds(Setup(profile, model, "bf16", dear), (True, False), 1) == pytest.approx(plain + 2.25)


costs = st.floats(0, 1e-3)
shares = st.floats(0.2, 2)


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.booleans(), min_size=2, max_size=2),
    st.integers(1, 40),
    *(shares, shares, shares, costs, costs, costs, costs, costs),
    st.booleans(),
)
def test_as_the_engine_says(
    resident: list[bool], length: int, dense: float, experts: float, share: float, layer: float, kernel: float,
    step: float, cpu_layer: float, cpu_expert: float, ahead: bool,
) -> None:  # fmt: skip
    model, profile = geometry(moe_layers=(2, 3)), machine()
    runtime = Runtime(
        "drawn",
        device=DeviceUse(dense=dense, experts=experts, layer=layer, kernel=kernel, step=step, ahead=ahead),
        cpu=CpuUse(share=share, layer=cpu_layer, expert=cpu_expert),
    )
    shape = Shape.of(model)
    routing = np.tile(np.arange(model.top_k), (length, shape.layers, 1))
    trace = RoutingTrace.from_arrays(routing, num_experts=model.experts)
    found = simulate(
        trace,
        policy="static",
        profile=all_experts(shape),
        cache=",".join(str(model.experts if here else 0) for here in resident),
        hardware=profile,
        runtime=runtime,
        model=model,
        dtype="bf16",
        miss="cpu",
        bounds=False,
        engine="events",
    ).to_dict()["time"]["total_s"]
    setup = Setup(profile, model, "bf16", runtime)
    assert sum(placed_seconds(setup, resident, context) for context in range(1, length + 1)) == pytest.approx(found)
