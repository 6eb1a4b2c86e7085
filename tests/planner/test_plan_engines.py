"""What is said to be had: released, on this card, in this dtype, by a command that does not run out of memory."""

from __future__ import annotations

import re
from typing import Any

import pytest
from planned import geometry, machine

from lrcsim.hardware import HardwareProfile, load_profile
from lrcsim.hardware.gpus import gpus
from lrcsim.models import load_geometry
from lrcsim.planner import Plan, make_plan
from lrcsim.planner.engines import compute_buffers, expert_format, has_eight_bits
from lrcsim.planner.ktransformers import kt_method
from lrcsim.planner.memory import SPARE, memory_of, with_memory
from lrcsim.planner.row_runtimes import runtime_for, standing
from lrcsim.planner.strategies import cache_of, cpu_layers, strategies

GIB = 2**30


def card(name: str, vram: float | None = None, ram: float | None = None) -> HardwareProfile:
    sizes = (None if size is None else int(size * GIB) for size in (vram, ram))
    return with_memory(load_profile(name), *sizes)


# N of --n-cpu-moe N that people published: gpt-oss-120b on 24 GB; Qwen3-30B-A3B and DeepSeek-Coder-V2-Lite at a context
# of 4,096 on an RTX 2080 of 8 GB (llmfit, pull requests 755 and 778)
PUBLISHED = [
    ("gpt-oss-120b", 24, "mxfp4", 8_192, 27), ("gpt-oss-120b", 24, "mxfp4", 32_768, 27),
    ("qwen3-30b-a3b", 8, "q4_k_m", 4_096, 36), ("qwen3-30b-a3b", 8, "q4_k_m", 8_192, 36),
    ("deepseek-v2-lite", 8, "q4_k_m", 1_024, 16), ("deepseek-v2-lite", 8, "q4_k_m", 4_096, 16),
    ("deepseek-v2-lite", 8, "q4_k_m", 8_192, 16),
]  # fmt: skip


@pytest.mark.parametrize(("model", "vram", "dtype", "context", "layers"), PUBLISHED)
def test_published_settings_are_not_undercut(model: str, vram: int, dtype: str, context: int, layers: int) -> None:
    shape = load_geometry(model)
    memory = memory_of(shape, card("rtx-3090", vram, 128), dtype, context)
    placed = next(strategy for strategy in strategies(memory) if strategy.name == "n-cpu-moe")
    slots = cache_of(placed, memory.placed_budget, memory, shape.experts)
    assert layers <= cpu_layers(slots, shape) <= layers + 4
    held = sum(size for size, count in zip(memory.layer_experts, slots, strict=True) if count)
    assert memory.fixed + held + memory.spare <= memory.total


def test_the_command_is_what_the_row_does() -> None:
    plan = quick("deepseek-v2-lite", card("rtx-3090", 8, 64), "q4_k_m")
    command = next(flags.command for flags in plan.flags if flags.engine == "llama.cpp")
    row = next(row for row in plan.rows if row.strategy.name == "n-cpu-moe")
    assert "--n-cpu-moe 16" in command
    assert row.slots == (0,) * 15 + (64,) * 11


def quick(model: str, profile: HardwareProfile, dtype: str | None, context: int = 8_192) -> Plan:
    """Plan on a tiny trace of the model's own shape, which is fast to replay."""
    from planned import local_trace

    shape = load_geometry(model)
    trace = local_trace(len(shape.moe_layers), shape.experts, shape.top_k, tokens=4, requests=1, model=model)
    return make_plan(shape, profile, dtype=dtype, context=context, traces=[("own", trace)])


def test_buffers_by_hand() -> None:
    # 512 tokens: scores of 100 x 4 bytes, 12 states of 16 x 4, mask of 1,000 x 2; two layers of 7,680
    assert compute_buffers(geometry(), 7_680, 1_000) == 512 * (400 + 768 + 2_000) + 15_360
    hardware = machine(vram=50 * GIB, ram=64 * GIB)
    memory = memory_of(geometry(), hardware, "bf16", 1_000)
    assert memory.spare == 512 * 3_168 + 15_360 + SPARE
    assert memory_of(geometry(), hardware, "bf16", 1_000, reserve=5).spare == 0  # who gives a reserve knows
    assert memory_of(load_geometry("gpt-oss-20b"), load_profile("desktop-cpu"), "mxfp4", 1_000).spare == 0


@pytest.mark.parametrize(
    ("name", "has"),
    [("rtx-3090", False), ("a100-80gb", False), ("rtx-4090", True), ("rtx-4060-laptop", True), ("rtx-5090", True),
     ("l40s", True), ("h100-sxm", True), ("h200", True)],
)  # fmt: skip
def test_cards_with_eight_bit_floats(name: str, has: bool) -> None:
    assert has_eight_bits(load_profile(name)) is has


@pytest.mark.parametrize(
    ("model", "hardware", "dtype", "method", "says"),
    [
        ("qwen3-30b-a3b", card("rtx-4090"), "fp8", "FP8", ""),
        ("qwen3-30b-a3b", card("rtx-3090"), "fp8", "", "needs a card that computes with 8-bit floats: Ada"),
        ("qwen3-30b-a3b", card("rtx-3090", None, 64), "bf16", "BF16", ""),
        ("qwen3-30b-a3b", card("rtx-3090", 16), "bf16", "", "ask for a GPU of 24 GB and more"),
        ("qwen3-30b-a3b", card("apple-m4-max"), "bf16", "", "ask for a GPU of 24 GB and more"),
        ("qwen3-30b-a3b", card("rtx-3090", None, 32), "bf16", "", "as much main memory as the weights take: 56 GiB"),
        ("qwen3-30b-a3b", card("rtx-4060-laptop"), "fp8", "", "ask for a GPU of 24 GB and more"),
        ("qwen3-30b-a3b", card("rtx-4090"), "q4_k_m", "", "never q4_k of a GGUF file"),
        ("qwen3-30b-a3b", card("rtx-4090"), "int4-g128", "GPTQ_INT4", ""),
        ("qwen3-30b-a3b", card("rtx-4090"), "nvfp4", "", "no method for experts in nvfp4"),
        ("gpt-oss-120b", card("rtx-3090"), "mxfp4", "", "its documents have no line for gpt-oss-120b with MXFP4"),
        ("gpt-oss-120b", card("rtx-4060-laptop"), "mxfp4", "", "ask for a GPU of 24 GB and more"),
        ("mixtral-8x7b", card("rtx-4090", None, 256), "bf16", "", "no line for mixtral-8x7b with BF16"),
        ("glm-4.7-flash", card("rtx-4090", None, 256), "bf16", "", "no line for glm-4.7-flash with BF16"),
        ("deepseek-r1", card("rtx-4090", None, 1024), "fp8", "FP8", ""),
        ("kimi-k2", card("rtx-4090", None, 1024), "int4-g32", "RAWINT4", ""),
        (
            "kimi-k2",
            card("rtx-4090+cpu-8core-avx2", None, 1024),
            "int4-g32",
            "",
            "AVX-512, and rtx-4090+cpu-8core-avx2",
        ),
        ("qwen3-30b-a3b", card("rtx-4090+cpu-8core-avx2"), "fp8", "FP8", ""),
    ],
)
def test_ktransformers(model: str, hardware: HardwareProfile, dtype: str, method: str, says: str) -> None:
    found, why_not = kt_method(load_geometry(model), hardware, dtype)
    assert found == method
    assert says in why_not
    assert bool(says) == bool(why_not)
    assert ("ktransformers" in beside(model, hardware, dtype)) == (not says)


def beside(model: str, hardware: HardwareProfile, dtype: str, strategy: str = "n-cpu-moe") -> tuple[str, ...]:
    """Return the released engines that run a model in some way on a machine."""
    shape = load_geometry(model)
    return standing(strategy, shape, hardware, dtype, memory_of(shape, hardware, dtype, 1_024)).engines


@pytest.mark.parametrize(
    ("dtype", "engines", "streams"),
    [("q4_k_m", {"llama.cpp"}, False), ("iq3_s,attn=q8_0", {"llama.cpp"}, False), ("nvfp4", set(), True),
     ("bf16", {"llama.cpp", "ktransformers"}, True), ("mxfp4", {"llama.cpp"}, True), ("fp8", {"ktransformers"}, True),
     ("bf16,ffn_gate_exps=q4_k,ffn_up_exps=q4_k,ffn_down_exps=q4_k", {"llama.cpp"}, False)],
)  # fmt: skip
def test_engines_by_dtype(dtype: str, engines: set[str], streams: bool) -> None:
    assert set(beside("qwen3-30b-a3b", card("rtx-4090"), dtype)) - {"ik_llama.cpp"} == engines
    assert beside("qwen3-30b-a3b", card("rtx-4090"), dtype, "streamed") == (("vLLM",) if streams else ())
    cached = ("llama.cpp",) if "llama.cpp" in engines else ()
    assert beside("qwen3-30b-a3b", card("rtx-4090"), dtype, "lru") == cached
    assert beside("qwen3-30b-a3b", card("rtx-4090"), dtype, "lru-split") == cached
    assert beside("qwen3-30b-a3b", card("rtx-4090"), dtype, "slru") == ()


def test_the_format_of_experts_is_what_counts() -> None:
    assert expert_format(load_geometry("qwen3-30b-a3b"), "q4_k_m,ffn_up_exps=q6_k") == "q6_k"


CARDS: list[tuple[str, str | None, dict[str, Any]]] = [
    ("rtx-3090", None, {}), ("rtx-3090", "int4-g128", {"ram": 128}), ("rtx-4060-laptop", "nvfp4", {}),
    ("rtx-4090", "fp8", {"ram": 256}), ("rtx-4090", None, {"ram": 128}), ("a100-40gb", "q4_k_m", {}),
    ("apple-m4-max", None, {"ram": 64}), ("desktop-cpu", "q4_k_m", {}), ("apple-m4-max", None, {"ram": 128}),
    ("apple-m4-max", "int4-g64-bias", {"ram": 128}), ("a100-80gb", None, {}), ("a100-80gb", "q4_k_m", {}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "dtype", "sizes"), CARDS)
def test_what_is_recommended_as_released_has_a_command(name: str, dtype: str | None, sizes: dict[str, Any]) -> None:
    """Of the fastest released row there is a command line of its engine, which does what the row does."""
    plan = quick("gpt-oss-120b", card(name, **sizes), dtype)
    best = plan.best_released
    if best is None:
        return
    own = [flags for flags in plan.flags if flags.strategy == best.name]
    assert own, best.strategy
    assert plan.flags[0] in own
    assert plan.flags[0].engine == best.engines[0]
    assert all(flags.command for flags in own)
    assert {flags.engine for flags in own} <= set(best.engines)
    assert best.standing.measured is not None
    for flags in plan.flags:
        if match := re.search(r"--kt-num-gpu-experts (\d+)", flags.command):
            assert int(match[1]) * sum(plan.memory.slot) + plan.memory.fixed <= plan.memory.total
            assert ("COUNTS.pt" in flags.command) == any("COUNTS.pt holds" in note for note in flags.notes)
            assert "--kt-method" in flags.command


@pytest.mark.parametrize(
    ("name", "dtype", "engines"),
    [("rtx-4090", "q4_k_m", ("llama.cpp",)), ("rtx-4090", "fp8", ("vLLM", "SGLang")),
     ("rtx-4090", "bf16", ("llama.cpp", "vLLM", "SGLang")), ("apple-m4-max", "q4_k_m", ("llama.cpp",)),
     ("apple-m4-max", "bf16", ("llama.cpp", "MLX")), ("apple-m4-max", "int4-g64-bias", ("MLX",)),
     ("apple-m4-max", "int4-g32", ("MLX",)),
     ("apple-m4-max", "fp8", ()), ("jetson-agx-orin", "int4-g128", ("vLLM", "SGLang")), ("phone", "fp8", ()),
     ("desktop-cpu", "fp8", ()), ("desktop-cpu", "bf16", ("llama.cpp",))],
)  # fmt: skip
def test_engines_where_everything_fits(name: str, dtype: str, engines: tuple[str, ...]) -> None:
    """Not "any engine": llama.cpp reads no fp8, vLLM runs on no Mac."""
    found = beside("qwen3-30b-a3b", load_profile(name), dtype, "all-resident")
    assert tuple(one for one in found if one != "ik_llama.cpp") == engines


def test_full_context_has_a_range() -> None:
    plan = quick("deepseek-v2-lite", card("rtx-3090", 8, 64), "q4_k_m")
    for row in plan.rows:
        low, high = row.full_range
        assert low <= row.full <= high
        assert low <= row.range[0]
        assert high <= row.range[1]
        assert row.to_dict()["range_full_context"] == [low, high]


def test_tight_fits_are_called_so() -> None:
    # 16,616 bytes without experts, 23,040 of experts: 39,656; a tenth of 44,000 is 4,400
    for vram, tight in ((44_000, True), (44_100, False), (39_656, True), (60_000, False)):
        memory = memory_of(geometry(), machine(vram=vram), "bf16", 100, reserve=1_000)
        assert (memory.fit, memory.tight, memory.left) == ("gpu", tight, vram - 39_656)
    almost = memory_of(geometry(), machine(vram=17_000), "bf16", 100, reserve=1_000)
    assert (almost.fit, almost.tight, almost.left) == ("memory", True, 384)
    assert not memory_of(geometry(), machine(vram=30_000), "bf16", 100, reserve=1_000).tight
    assert not memory_of(geometry(), machine(vram=10), "bf16", 100, reserve=1_000).tight


@pytest.mark.parametrize(("bandwidth", "said"), [("239.6GB/s", False), ("479GB/s", True)])
def test_two_sockets_are_said(bandwidth: str, said: bool) -> None:
    profile = load_profile("rtx-4090+cpu-64core-avx512+ddr5-4800-8ch", [f"dram.bandwidth={bandwidth}"])
    plan = make_plan(load_geometry("olmoe-1b-7b"), with_memory(profile, 3 * 2**30, None), dtype="q4_k_m")
    assert any("NUMA" in note for note in plan.notes) == said


def test_every_row_has_a_runtime_that_runs_on_the_device_whatever_that_is() -> None:
    one_of_each = {gpu.family: gpu.name for gpu in gpus().values()}
    qwen = load_geometry("qwen3-30b-a3b")
    for name in (*one_of_each.values(), "desktop-cpu"):
        profile = load_profile(name)
        for strategy in ("all-resident", "n-cpu-moe", "popular", "streamed", "lru", "lru-split", "optimum"):
            document = runtime_for(strategy, qwen, profile, "q4_k_m")
            assert document.on(profile).name == document.name
    assert runtime_for("lru", qwen, load_profile("b580"), "q4_k_m").name == "llama.cpp"  # no fork with a cache is known
