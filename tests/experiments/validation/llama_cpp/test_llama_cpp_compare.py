"""Predictions, rates and rounds by hand; none of it needs llama.cpp."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.calibration.of_machine import MeasurePlan
from lrcsim.experiments.validation.llama_cpp import models
from lrcsim.experiments.validation.llama_cpp.by_format import Rate, by_format, layer_seconds, rates_of
from lrcsim.experiments.validation.llama_cpp.compare import (
    line_through,
    middle,
    planned,
    predict,
    random_routing,
    rate_between,
    token_bytes,
)
from lrcsim.experiments.validation.llama_cpp.formats import FEW_AND_MANY, dtype_of, rates
from lrcsim.experiments.validation.llama_cpp.measure import Clock, Reading, Work, core_reads, rounds, spread, summary
from lrcsim.experiments.validation.llama_cpp.models import isa_of, one_core
from lrcsim.experiments.validation.llama_cpp.software import VARIANTS, runtime_of
from lrcsim.experiments.validation.llama_cpp.weights import architecture, cached, narrow, olmoe, stored, tiny, wide
from lrcsim.hardware.profile import Cpu, Dram, HardwareProfile, Link
from lrcsim.models import expert_bytes
from lrcsim.models.formats import FORMATS
from lrcsim.runtimes import load_runtime, runtimes

WORK = Work(prompt=4, decode=3)
IDEAL = runtimes()["ideal"]


def machine(bandwidth: float, compute: float = 1e30, overhead: float = 0.0) -> HardwareProfile:
    return HardwareProfile(
        name="by hand",
        layer_overhead=0.0,
        expert_overhead=0.0,
        cpu=Cpu(compute, bandwidth, overhead, cores=1),
        dram=Dram(1 << 40, bandwidth),
        links=(Link("nvme", 1e9, 0.0, 0.0, 1),),
    )


PLAIN = "q4_0,attn=q4_0"
"""Q4_0 in all of attention: in models with eight experts llama.cpp keeps the matrices of keys and values in Q8_0."""


def test_bytes_of_a_token_by_hand() -> None:
    # tiny: 2 layers, hidden 256, 2 of 8 experts of 256 x 256, q 4 x 64, k and v 2 x 64, vocab 512.
    # Q4_0 is 18 bytes per 32 weights, Q6_K (the output) 210 per 256, norms and routers float32.
    # an expert: 3 x 256 x 256 / 32 x 18                                   = 110,592; two in two layers: 442,368
    # attention: (256 + 128 + 128 + 256) x 256 / 32 x 18                   = 110,592 in a layer
    # router 8 x 256 x 4 = 8,192; norms (2 x 256 + 2 x 64) x 4 = 2,560: a layer's dense part is 121,344; two 242,688
    # output: 512 rows of 210                                              = 107,520
    # keys and values: 2 x 2 x 64 x 2 layers x 2 bytes = 1,024 a token; at positions 5, 6, 7: 6 on average = 6,144
    assert token_bytes(tiny(), PLAIN, WORK) == 442_368 + 242_688 + 107_520 + 6_144


def test_a_predicted_token_is_its_bytes_over_the_bandwidth() -> None:
    for geometry in (tiny(), narrow()):
        found = predict(machine(1e9), geometry, "q4_0", WORK, IDEAL)
        assert found.token == pytest.approx(token_bytes(geometry, "q4_0", WORK) / 1e9, rel=1e-9)


def test_a_predicted_prompt_is_its_operations_where_they_bind() -> None:
    # 1 FLOP/s: two operations a weight and token of all a token uses (a request's output once), and for each pair of
    # tokens 4 x heads x head_dim in a layer: 1 + 2 + 3 + 4 = 10 pairs.
    geometry = tiny()
    layer = (256 + 128 + 128 + 256) * 256 + 8 * 256 + 2 * 3 * 256 * 256
    by_hand = 2 * (2 * 4 * layer + 512 * 256) + 2 * 10 * 4 * 4 * 64
    assert predict(machine(1e30, compute=1.0), geometry, "q4_0", WORK, IDEAL).prompt == pytest.approx(by_hand, rel=1e-9)


def test_the_plan_says_the_same_speed() -> None:
    """Plans rest on recorded traces, whose contexts lie between these; the keys and values of 200 tokens are 4 %."""
    one = machine(1e10)
    short, long = (predict(one, olmoe(), "q4_0", Work(prompt, 8), IDEAL).token for prompt in (8, 208))
    assert long < 1.05 * short
    assert short < planned(one, olmoe(), "q4_0", Work(512, 8), IDEAL).token < long


def test_a_planned_prompt_is_its_operations_where_they_bind() -> None:
    """The same as a run's, for a model that has no trace of its own either."""
    for geometry in (olmoe(), narrow()):
        found = planned(machine(1e30, compute=1e9), geometry, "q4_0", WORK, IDEAL).prompt
        assert found == pytest.approx(predict(machine(1e30, 1e9), geometry, "q4_0", WORK, IDEAL).prompt, rel=1e-9)


def test_a_runtime_binds_where_its_cores_are_slower_than_memory(tmp_path: Path) -> None:
    # On an AVX2 core 1 GB/s of Q4_0 and 1 MB/s of Q6_K, in which the output matrix is, 107,520 bytes; 7 us a layer, and
    # nothing per expert. Memory gives 100 GB/s, of which 107 % are a desktop's share under llama.cpp: less than that.
    path = tmp_path / "slow.toml"
    path.write_text(
        'base = "llama.cpp"\n[device.cpu]\nlayer = "7 us"\n'
        '[core.avx2]\nq4_0 = { decode = "1 GB/s", prompt = "9 TFLOP/s" }\n'
        'q6_k = { decode = "1 MB/s", prompt = "9 TFLOP/s" }\n'
    )
    avx2 = machine(1e11).with_part("cpu", isa="avx2")
    found = predict(avx2, tiny(), "q4_0", WORK, load_runtime(path))
    rest = token_bytes(tiny(), "q4_0", WORK) - 107_520
    assert found.token == pytest.approx(rest / 1e9 + 107_520 / 1e6 + 2 * 7e-6, rel=1e-9)
    unknown = predict(machine(1e11), tiny(), "q4_0", WORK, load_runtime(path))  # of no instruction set
    assert unknown.token == pytest.approx(token_bytes(tiny(), "q4_0", WORK) / 107e9 + 2 * 7e-6, rel=1e-9)


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    small = replace(machine(1e9), dram=Dram(1 << 20, 1e9))
    with pytest.raises(
        ConfigError, match="olmoe-1b-7b in q4_0 does not fit the memory of by hand: use a machine with more"
    ):
        planned(small, olmoe(), "q4_0", Work(), IDEAL)


def test_without_repacking_is_a_runtime_of_its_own() -> None:
    default, plain = runtime_of("default"), runtime_of("no repack")
    assert (default.name, plain.name, plain.engine) == ("llama.cpp", "no_repack", "llama.cpp")
    assert plain.numbers == default.numbers  # what it costs besides is the same program's
    assert set(plain.cores["avx2"]) == set(default.cores["avx2"])
    changed = {name for name, rate in plain.cores["avx2"].items() if rate != default.cores["avx2"][name]}
    assert changed == {"q4_0", "q4_k"}  # what AVX2 has repacked
    assert all(plain.sources[f"core.avx2.{name}"] for name in changed)
    assert {runtime_of(variant, "ideal").name for variant in VARIANTS} == {"ideal"}


def test_a_librarys_instruction_set_is_the_widest_that_profiles_know() -> None:
    assert isa_of("SSE3, SSSE3, AVX, AVX2, F16C, FMA, REPACK") == "avx2"
    assert isa_of("AVX, AVX2, AVX512, AVX512_VBMI") == "avx512"
    assert isa_of("NEON, ARM_FMA") == "neon"
    assert isa_of("SSE3") == ""


def test_one_core_is_calibrated_with_one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What calibrate measures, with numba's threads set to one meanwhile, and the library's instruction set."""
    threads: list[int] = []

    def measured(plan: MeasurePlan) -> HardwareProfile:
        threads.append(numba.get_num_threads())
        assert (plan.folder, plan.gpu) == (tmp_path, None)
        return machine(1e10)

    monkeypatch.setattr(models, "measure_machine", measured)
    monkeypatch.setattr(models, "profile_of", lambda found: found)
    before = numba.get_num_threads()
    found = one_core(tmp_path, "SSE3, AVX2")
    assert (threads, numba.get_num_threads()) == ([1], before)
    assert (found.name, found.cpu.isa, found.cpu.bandwidth) == ("one-core", "avx2", 1e10)


def test_routing_at_random_has_the_models_shape() -> None:
    trace = random_routing(olmoe(), WORK)
    assert trace.experts.shape == (7, 16, 8)
    assert trace.phase.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert all(len(set(row)) == 8 for row in trace.experts.reshape(-1, 8).tolist())


def test_the_middle_machine_has_the_median_of_each_number() -> None:
    found = middle([machine(3e9, 1e9, 5e-6), machine(1e9, 9e9, 1e-6), machine(2e9, 2e9, 3e-6)])
    assert (found.cpu.bandwidth, found.cpu.compute, found.cpu.overhead) == (2e9, 2e9, 3e-6)
    assert found.dram.bandwidth == 2e9
    assert found.sources["cpu.bandwidth"] == "median of 3 rounds; the first: "


def test_a_line_by_hand() -> None:
    # 10 layers and 100 bytes take 3 s, 20 layers and 100 bytes 5 s: 0.2 s a layer, and 1 s is left for 100 bytes.
    line = line_through((100.0, 100.0), (10, 20), (3.0, 5.0))
    assert (line.bandwidth, line.per_layer) == (pytest.approx(100.0), pytest.approx(0.2))
    with pytest.raises(ConfigError, match="both models read 10 bytes per layer"):
        line_through((100.0, 200.0), (10, 20), (3.0, 5.0))


@given(st.floats(1e8, 1e11), st.floats(0, 1e-2), st.integers(1, 99), st.integers(1, 99))
def test_a_line_gives_back_what_it_was_made_of(bandwidth: float, per_layer: float, one: int, other: int) -> None:
    moved = (7e8, 2e8)
    if abs(moved[0] / one - moved[1] / other) < 0.1 * moved[0] / one:
        return
    seconds = [size / bandwidth + layers * per_layer for size, layers in zip(moved, (one, other), strict=True)]
    line = line_through(moved, (one, other), (seconds[0], seconds[1]))
    assert line.bandwidth == pytest.approx(bandwidth, rel=1e-6)
    assert line.per_layer == pytest.approx(per_layer, rel=1e-6, abs=1e-9)


def test_rates_of_a_format_are_slopes() -> None:
    # A token takes 5 ms and 1 ms for each of its experts, a prompt of 4 tokens 50 ms and 10 for each. An expert of tiny
    # in Q8_0 is 3 x 256 x 256 / 32 x 34 bytes, in two layers; two operations a weight.
    assert rate_between((10.0, 2.0), (40.0, 5.0)) == 10.0
    sizes = [replace(tiny(), top_k=2), replace(tiny(), top_k=8)]
    dtype = dtype_of("q8_0")
    of_expert = 2 * 3 * 256 * 256 // 32 * 34
    assert int(expert_bytes(sizes[0], dtype).sum()) == of_expert
    readings = [
        [Reading(Clock(*[(50 + 10 * k) * 1e-3] * 3), tuple([Clock(*[(5 + k) * 1e-3] * 3)] * 2))] * 3 for k in (2, 8)
    ]
    found = rates(sizes, dtype, Work(4, 2), readings)
    assert found["decode_bytes_per_s"]["median"] == pytest.approx(of_expert / 1e-3)
    assert found["decode_operations_per_s"]["p90"] == pytest.approx(2 * 2 * 3 * 256 * 256 / 1e-3)
    # all four tokens in the first layer, one in the last
    assert found["prompt_operations_per_s"]["p10"] == pytest.approx((4 + 1) * 2 * 3 * 256 * 256 / 10e-3)
    assert found["rest_s"]["median"] == pytest.approx(5e-3)


def test_readings_summed_up() -> None:
    # Prompts of 1, 2, 3 s on the thread; tokens of 0.1 and 0.3 s: 0.2 on average. A quarter of all is another thread's
    # in the last: (3 + 0.4) / (3 + 0.4 + x) with x a third of it.
    tokens = (Clock(0.1, 0.1, 0.5), Clock(0.3, 0.3, 0.7))
    readings = [Reading(Clock(s, s, 10 * s), tokens) for s in (1.0, 2.0)]
    readings.append(Reading(Clock(3.0, 3.0 + 3.4 / 3, 30.0), tokens))
    found = summary(readings)
    assert found["prompt_s"] == pytest.approx({"median": 2.0, "p10": 1.2, "p90": 2.8, "least": 1.0})
    assert found["prompt_wall_s"]["median"] == 20.0
    assert found["token_s"]["median"] == pytest.approx(0.2)
    assert found["token_wall_s"]["median"] == pytest.approx(0.6)
    assert found["helped"] == pytest.approx(0.25)
    assert Clock(3.0, 4.0, 5.0).since(Clock(1.0, 1.0, 1.0)) == (2.0, 3.0, 4.0)
    assert spread([4.0])["p10"] == 4.0


def test_every_round_has_every_cell_once() -> None:
    calls: list[tuple[str, int]] = []
    cells = {name: lambda number, name=name: calls.append((name, number)) or (name, number) for name in "abc"}
    found = rounds(cells, 5)
    assert calls[:3] == [("a", 5), ("b", 5), ("c", 5)]  # not kept
    assert [sorted(calls[begin : begin + 3]) for begin in range(3, 18, 3)] == [
        [(name, number) for name in "abc"] for number in range(5)
    ]
    assert (
        len({tuple(name for name, _ in calls[begin : begin + 3]) for begin in range(3, 18, 3)}) > 1
    )  # in other orders
    assert found == {name: [(name, number) for number in range(5)] for name in "abc"}


def test_tensors_of_a_file() -> None:
    assert (architecture(olmoe()), architecture(narrow())) == ("olmoe", "qwen3moe")
    found = {tensor.name: tensor for tensor in stored(olmoe(), "q4_0")}
    assert len(found) == 16 * (2 + 2 + 4 + 1 + 3) + 3
    assert found["blk.15.ffn_down_exps.weight"][1:] == ((64, 2048, 1024), "q4_0")
    assert found["blk.0.ffn_gate_inp.weight"][1:] == ((64, 2048), "f32")
    assert found["blk.0.attn_q_norm.weight"][1:] == ((2048,), "f32")  # over all heads; Qwen3's has a head's width
    assert {t.name: t for t in stored(narrow(), "q4_0")}["blk.0.attn_q_norm.weight"].shape == (128,)
    assert found["output.weight"].format == "q6_k"
    mixed = {tensor.name: tensor.format for tensor in stored(tiny(), dtype_of("f16"))}
    assert (mixed["blk.1.ffn_up_exps.weight"], mixed["blk.1.attn_q.weight"]) == ("f16", "q8_0")
    with pytest.raises(ConfigError, match="give a model with experts in every layer"):
        list(stored(replace(tiny(), shared_experts=1), "q4_0"))


def test_a_sum_of_formats_by_hand() -> None:
    # The bytes of a token of tiny as above: Q4_0 442,368 of experts and 2 x 110,592 of attention, float32 2 x 10,752 of
    # routers and norms, Q6_K 107,520 of the output; 6,144 of keys and values on average.
    # Prompt of 4: two operations a weight and token; attention of both layers and experts of the first for all four,
    # experts of the last and the output for one; in float32 likewise the router, 8 x 256, and norms, 640 for all; and
    # 10 pairs of 4 x 4 x 64 in two layers.
    rates = {"q4_0": Rate(1e9, 1e10), "q6_k": Rate(2e9, 2e10), "f16": Rate(4e9, 4e10)}
    found = by_format(tiny(), PLAIN, WORK, rates, layer_s=1e-3)
    assert found is not None
    token = (442_368 + 221_184) / 1e9 + 107_520 / 2e9 + (21_504 + 6_144) / 4e9 + 2 * 1e-3
    assert found.token == pytest.approx(token, rel=1e-12)
    experts, router = 2 * 3 * 256 * 256, 8 * 256
    prompt = (2 * 4 * (2 * 768 * 256 + experts) + 2 * experts) / 1e10 + 2 * 512 * 256 / 2e10
    prompt += (2 * 4 * (router + 2 * 640) + 2 * router + 10 * 4 * 4 * 64 * 2) / 4e10
    assert found.prompt == pytest.approx(prompt, rel=1e-12)
    assert by_format(tiny(), PLAIN, WORK, {"q4_0": rates["q4_0"], "f16": rates["f16"]}) is None


def test_with_one_rate_a_sum_of_formats_is_bytes_over_it() -> None:
    """As lrcsim itself has it, which counts the same bytes in its own way."""
    rates = dict.fromkeys(("q4_0", "q6_k", "f16"), Rate(3e9, 1e10))
    for geometry in (olmoe(), narrow()):
        found = by_format(geometry, "q4_0", WORK, rates)
        assert found is not None
        # lrcsim's norms are rounded as it counts them; both leave the embedding out
        assert found.token == pytest.approx(predict(machine(3e9), geometry, "q4_0", WORK, IDEAL).token, rel=1e-9)


def test_what_a_layer_costs_is_what_bytes_leave() -> None:
    rates = dict.fromkeys(("q4_0", "q6_k", "f16"), Rate(3e9, 1e10))
    none = by_format(replace(tiny(), top_k=0), PLAIN, WORK, rates, layer_s=7e-4)
    assert none is not None
    assert layer_seconds(tiny(), PLAIN, WORK, rates, none.token) == pytest.approx(7e-4)
    assert layer_seconds(tiny(), PLAIN, WORK, {}, none.token) is None


def test_rates_are_the_medians_of_one_variant() -> None:
    rows = [
        {
            "format": name,
            "variant": variant,
            "decode_bytes_per_s": {"median": a},
            "prompt_operations_per_s": {"median": b},
        }
        for name, variant, a, b in [
            ("q4_0", "default", 1.0, 2.0),
            ("q4_0", "no repack", 3.0, 4.0),
            ("f16", "default", 5, 6),
        ]
    ]
    assert rates_of(rows, "default") == {"q4_0": (1.0, 2.0), "f16": (5, 6)}


def test_what_is_to_stay_in_the_caches_is_small() -> None:
    """In the largest format, all experts, attention and output: below 20 MB, of which a megabyte is the embedding."""
    shape, dtype = cached(), dtype_of("f16")
    held = sum(
        FORMATS[tensor.format].matrix_bytes(int(np.prod(tensor.shape[:-1])), tensor.shape[-1])
        for tensor in stored(shape, dtype)
    )
    assert shape.experts == max(FEW_AND_MANY)
    assert held < 20e6


def test_formats_are_measured_in_experts_of_a_real_size_out_of_memory() -> None:
    # Six more experts of 3 x 2048 x 768 in each of four layers are 36 MB a token in Q2_K, the smallest format of 2.6
    # bits, and drawn anew from 32 each token.
    few, many = (replace(wide(), top_k=top_k) for top_k in FEW_AND_MANY)
    assert many.expert_params == 3 * 2048 * 768
    assert (many.top_k - few.top_k) * many.layers * many.expert_params * 2.6 / 8 > 36e6


def test_a_core_reads_at_some_rate() -> None:
    assert 1e8 < core_reads(16 << 20, 3) < 1e13
