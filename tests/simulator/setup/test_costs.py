"""The roofline, solved by hand on a model of three small layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lrcsim.hardware import Cpu, Dram, Gpu, HardwareProfile
from lrcsim.models import Geometry
from lrcsim.runtimes import Runtime
from lrcsim.runtimes.runtime import CoreRate
from lrcsim.simulator.serving.steps import StepSize
from lrcsim.simulator.setup.costs import Costs, FixedCosts, RooflineCosts

# Layers 0 and 2 are dense, layer 1 has 4 experts of 3 x 10 x 5 = 150 parameters and a shared one of 3 x 10 x 2 = 60.
# Attention: q 10 x 2 x 5, k and v 10 x 5 each, output 2 x 5 x 10: 100 + 100 + 100 = 300 parameters.
# Router 10 x 4 = 40. A dense block 3 x 10 x 4 = 120. KV cache: 2 x 1 x 5 = 10 numbers per token and layer.
GEOMETRY = Geometry(
    name="tiny",
    source="",
    layers=3,
    moe_layers=(1,),
    experts=4,
    top_k=2,
    shared_experts=1,
    hidden=10,
    expert_width=5,
    shared_width=2,
    dense_width=4,
    matrices=3,
    heads=2,
    kv_heads=1,
    head_dim=5,
    vocab=50,
    tied=False,
)

MEMORY_BOUND = HardwareProfile(
    name="test",
    description="",
    gpu=Gpu(memory=10**6, bandwidth=100.0, compute=1e9, overhead=0.25),
    cpu=Cpu(compute=1e9, bandwidth=50.0, overhead=0.5, cores=1),
    dram=Dram(10**6, 100.0),
    unified=True,
    layer_overhead=0,
    expert_overhead=0,
)

COMPUTE_BOUND = replace(
    MEMORY_BOUND,
    gpu=Gpu(memory=10**6, bandwidth=1e9, compute=100.0, overhead=0.25),
    cpu=Cpu(compute=50.0, bandwidth=1e9, overhead=0.5, cores=1),
)

ONE = StepSize(1, 1, 1, 1)
"""The first token of a request."""


def test_weights_that_move() -> None:
    # bf16, 2 bytes: the dense layer before has 300 + 120 parameters and 20 in norms, and reads 10 numbers of KV cache;
    # the MoE layer 300 + 40 + 60 + 20 and as many. Two operations, each with its overhead.
    costs: Costs = RooflineCosts(GEOMETRY, MEMORY_BOUND)
    assert costs.before(0, ONE) == pytest.approx((880 + 20) / 100 + (840 + 20) / 100 + 2 * 0.25)
    assert costs.expert(0, 1) == costs.expert(0, 7) == pytest.approx(300 / 100 + 0.25)  # however many tokens
    # the dense layer behind, and the output matrix of 50 x 10
    assert costs.after(ONE) == pytest.approx((880 + 20) / 100 + 0.25 + 1000 / 100 + 0.25)


def test_arithmetic() -> None:
    # Two operations per parameter and token; attention 4 x 2 heads x 5 for each pair of tokens. A prompt of 3: 6 pairs.
    costs = RooflineCosts(GEOMETRY, COMPUTE_BOUND)
    prompt = StepSize(3, 1, 3, 6)
    assert costs.before(0, prompt) == pytest.approx((2 * 420 * 3 + 40 * 6 + 2 * 400 * 3 + 40 * 6) / 100 + 2 * 0.25)
    assert costs.expert(0, 3) == pytest.approx(2 * 150 * 3 / 100 + 0.25)
    # one token's output, whatever the length of the prompt
    assert costs.after(prompt) == pytest.approx((2 * 420 * 3 + 40 * 6) / 100 + 0.25 + 2 * 500 / 100 + 0.25)


def test_the_context_is_read_by_layers_that_keep_it() -> None:
    # 100 tokens of 20 bytes in every layer with attention; here layer 1 alone has it, the others have none and a mixer
    # of 30 parameters in its place.
    geometry = replace(GEOMETRY, attention_layers=(1,), mixer_params=30)
    long, short = StepSize(1, 1, 101, 101), ONE
    costs = RooflineCosts(geometry, MEMORY_BOUND)
    assert costs.before(0, long) - costs.before(0, short) == pytest.approx(100 * 20 / 100)
    assert costs.after(long) == costs.after(short)
    half = RooflineCosts(geometry, MEMORY_BOUND, kv_dtype_bytes=1)
    assert half.before(0, long) - half.before(0, short) == pytest.approx(100 * 10 / 100)


def test_windows_of_drafts_and_of_several_requests() -> None:
    # A window of 4 tokens in layer 0, 20 bytes each. One request with two drafts reads what the first of the three
    # looks back, and the two after it: 6 of 50. Three requests read a window each: 12. A prompt of 5: all.
    costs = RooflineCosts(replace(GEOMETRY, window=4, window_layers=(0,)), MEMORY_BOUND)
    whole = RooflineCosts(GEOMETRY, MEMORY_BOUND)

    def less(size: StepSize) -> float:
        return whole.before(0, size) - costs.before(0, size)

    assert less(StepSize(3, 3, 50, 147, 1)) == pytest.approx((50 - 6) * 20 / 100)
    assert less(StepSize(3, 3, 50, 50, 3)) == pytest.approx((50 - 12) * 20 / 100)
    assert less(StepSize(5, 1, 5, 15, 1)) == 0
    assert less(StepSize(9, 1, 19, 135, 1)) == pytest.approx((19 - 12) * 20 / 100)


def test_bytes_of_the_trace_go_before_those_of_the_geometry() -> None:
    costs = RooflineCosts(GEOMETRY, MEMORY_BOUND, sizes=np.array([500]))
    assert costs.expert(0, 1) == pytest.approx(500 / 100 + 0.25)
    assert costs.on_cpu(0, 1) == (0.5, 500, 50)


def test_dense_bytes_of_the_trace_go_before_those_of_the_geometry() -> None:
    # Of the MoE layer alone: the dense layers before (880 bytes) and behind, and the output (1000) are the geometry's.
    costs = RooflineCosts(GEOMETRY, MEMORY_BOUND, dense=np.array([2000]))
    assert costs.before(0, ONE) == pytest.approx((880 + 20) / 100 + (2000 + 20) / 100 + 2 * 0.25)
    assert costs.after(ONE) == RooflineCosts(GEOMETRY, MEMORY_BOUND).after(ONE)
    assert costs.dense_bytes == 880 + 2000 + 880 + 1000
    assert RooflineCosts(GEOMETRY, MEMORY_BOUND).dense_bytes == 880 + 840 + 880 + 1000


def test_another_format_moves_other_bytes() -> None:
    # 4 bytes a number instead of 2
    costs = RooflineCosts(GEOMETRY, MEMORY_BOUND, dtype="f32")
    assert costs.expert(0, 1) == pytest.approx(600 / 100 + 0.25)


def test_an_expert_on_the_cpu() -> None:
    # 300 bytes: at the bandwidth it draws, or as slowly as the arithmetic asks: 2 x 150 x 3 / 50 = 18 s.
    assert RooflineCosts(GEOMETRY, MEMORY_BOUND).on_cpu(0, 3) == (0.5, 300, 50)
    assert RooflineCosts(GEOMETRY, COMPUTE_BOUND).on_cpu(0, 3) == pytest.approx((0.5, 300, 300 / 18))


def test_without_a_gpu_the_cpu_runs_everything() -> None:
    costs = RooflineCosts(GEOMETRY, replace(MEMORY_BOUND, gpu=None))
    assert costs.expert(0, 1) == pytest.approx(300 / 50 + 0.5)


def test_fixed_costs() -> None:
    costs: Costs = FixedCosts(dense=1, expert_s=2, output=3, cpu_overhead=4, cpu_bytes=5, cpu_rate=6)
    assert (costs.before(0, ONE), costs.expert(0, 3), costs.after(ONE), costs.on_cpu(0, 9)) == (1, 6, 3, (4, 5, 6))


def test_no_faster_than_the_cores() -> None:
    # Two cores of 100 bytes/s and 1,000 FLOP/s each are less than the CPU's bandwidth of 1,000 and compute of 10,000;
    # with twenty of them the CPU's own numbers stand. Of another format nothing is known.
    profile = replace(MEMORY_BOUND, gpu=None, cpu=Cpu(10_000.0, 1_000.0, 0.0, 2))
    for name, bandwidth, compute in (("bf16", 200.0, 2_000.0), ("q4_0", 1_000.0, 10_000.0)):
        runtime = Runtime("r", core={name: CoreRate(100.0, 1_000.0)})
        costs = RooflineCosts(GEOMETRY, profile, "bf16", runtime=runtime)
        assert (costs.bandwidth, costs.expert_bandwidth) == (bandwidth, bandwidth)
        assert (costs.cpu.bandwidth, costs.cpu.compute, costs.compute) == (bandwidth, compute, compute)
    many = RooflineCosts(
        GEOMETRY,
        replace(profile, cpu=Cpu(10_000.0, 1_000.0, 0.0, 20)),
        "bf16",
        runtime=Runtime("r", core={"bf16": CoreRate(100.0, 1_000.0)}),
    )
    assert (many.bandwidth, many.compute) == (1_000.0, 10_000.0)


def test_the_output_goes_at_the_rate_of_its_own_format() -> None:
    # One core: 100 bytes/s of bf16, 50 of f32, in which the output is, 50 x 10 x 4 bytes: 40 s. Its 1,000 operations
    # for each of 100 requests take 1,000 s at the 100 FLOP/s of f32. The dense layer behind is bf16: 880 bytes, and 20
    # of keys and values; for 100 tokens that see one each 2 x 420 x 100 + 40 x 100 operations, at 1,000 FLOP/s.
    profile = replace(MEMORY_BOUND, gpu=None, cpu=Cpu(1e9, 1e9, 0.0, 1))
    runtime = Runtime("r", core={"bf16": CoreRate(100.0, 1_000.0), "f32": CoreRate(50.0, 100.0)})
    costs = RooflineCosts(GEOMETRY, profile, "bf16,output=f32", runtime=runtime)
    assert costs.after(ONE) == pytest.approx((880 + 20) / 100 + 40)
    many = StepSize(100, 100, 100, 100)
    assert costs.after(many) == pytest.approx((2 * 420 * 100 + 40 * 100) / 1_000 + 1_000)
    assert costs.dense_bytes == 2 * 880 + 840 + 2_000  # bytes are bytes, whatever their rate
    assert costs.table(1).head == costs.head == (4_000.0, 10_000.0)
    # beside a GPU that runs the model, formats make no difference
    gpu = RooflineCosts(GEOMETRY, MEMORY_BOUND, "bf16,output=f32", runtime=runtime)
    assert gpu.head == (2_000.0, 1_000.0)
