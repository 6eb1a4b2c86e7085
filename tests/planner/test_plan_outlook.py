"""Knee, sizes, upgrades, strategies and command lines, by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from planned import geometry, machine

from lrcsim.hardware import load_profile
from lrcsim.models import load_geometry
from lrcsim.planner.engine_flags import engine_flags, override_pattern
from lrcsim.planner.memory import memory_of, with_memory
from lrcsim.planner.sizes_and_upgrades import knee_of, marginal, sizes_to_show, upgrades
from lrcsim.planner.strategies import Strategy, cache_of, cpu_layers, strategies
from lrcsim.planner.workload import PLACED
from lrcsim.runtimes.machine_kinds import cpu_class

GIB = 2**30


@pytest.mark.parametrize(
    ("speeds", "knee"),
    [
        ([0, 6, 8, 9, 10], 1),  # above the line 2.5 per step by 3.5, 3, 1.5
        ([0, 2, 8, 9, 10], 2),  # by -0.5, 3, 1.5
        ([0, 2.5, 5, 7.5, 10], None),  # straight
        ([0, 1, 2, 4, 10], None),  # each step buys more than the one before
        ([5, 5, 5, 5, 5], None),  # nothing is gained
        ([5, 4, 3, 2, 1], None),
    ],
)
def test_knee(speeds: list[float], knee: int | None) -> None:
    assert knee_of([0, 1, 2, 3, 4], speeds) == knee


def test_knee_needs_three_points() -> None:
    assert knee_of([0, 1], [0, 1]) is None


def test_marginal() -> None:
    assert marginal([GIB, 2 * GIB, 4 * GIB], [10, 14, 15]) == [4, 0.5, None]


def test_sizes_around_the_model() -> None:
    qwen = load_geometry("qwen3-30b-a3b")
    memory = memory_of(qwen, machine(vram=11 * GIB, ram=64 * GIB), "q4_k_m", 32_768)
    # fixed: 0.77 + 3 + 1 GiB = 4.8, with all experts 21.1 GiB
    assert [size // GIB for size in sizes_to_show(memory)] == [6, 8, 10, 11, 12, 16, 20, 24]
    deepseek = memory_of(load_geometry("deepseek-v3"), machine(vram=24 * GIB, ram=64 * GIB), "q4_k_m", 8_192)
    shown = sizes_to_show(deepseek)
    assert len(shown) == 8
    assert deepseek.total in shown
    assert shown == sorted(shown)


def test_upgrades() -> None:
    qwen = load_geometry("qwen3-30b-a3b")
    hardware = machine(vram=8 * GIB, ram=64 * GIB)
    found = upgrades(hardware, memory_of(qwen, hardware, "q4_k_m", 32_768))
    assert [upgrade.name for upgrade in found] == [
        "10 GiB of GPU memory", "12 GiB of GPU memory", "pcie twice as fast", "main memory and CPU twice as fast",
        "GPU memory twice as fast",
    ]  # fmt: skip
    assert found[0].profile.gpu is not None
    assert found[0].profile.gpu.memory == 10 * GIB
    assert found[2].profile.device_link is not None
    assert found[2].profile.device_link.bandwidth == 2e5
    small = machine(vram=8 * GIB, ram=8 * GIB)
    names = [upgrade.name for upgrade in upgrades(small, memory_of(qwen, small, "q4_k_m", 8_192))]
    assert "32 GiB of main memory" in names  # 16.3 + 0.2 GiB in nine tenths of it
    assert "flash twice as fast" in names
    large = machine(vram=80 * GIB)
    only = upgrades(large, memory_of(qwen, large, "q4_k_m", 8_192))
    assert [upgrade.name for upgrade in only] == ["GPU memory twice as fast"]


@pytest.mark.parametrize("name", ["rtx-3060", "4090", "4090+epyc-9354", "rtx-4060-laptop"])
def test_twice_the_memory_is_no_other_class_of_processor(name: str) -> None:
    """Two channels of twice the bandwidth are not four: desktops' shares were fitted to desktops."""
    qwen, own = load_geometry("qwen3-30b-a3b"), load_profile(name)
    small = with_memory(own, 8 * GIB, 64 * GIB)
    found = {one.name: one.profile for one in upgrades(small, memory_of(qwen, small, "q4_k_m", 8_192))}
    faster = found["main memory and CPU twice as fast"]
    assert cpu_class(faster) == cpu_class(small)
    assert (faster.dram.bandwidth, faster.cpu.bandwidth) == (2 * own.dram.bandwidth, 2 * own.cpu.bandwidth)


def names_of(**changes: Any) -> list[str]:
    return [strategy.name for strategy in strategies(memory_of(geometry(), machine(**changes), "bf16", 100, reserve=0))]


def test_strategies_by_memory() -> None:
    caches = ["lru", "lfu", "slru", "lfru"]
    assert names_of(vram=50_000) == ["all-resident"]
    assert names_of(vram=20_000) == [*caches, "lru-split", "n-cpu-moe", "popular", "streamed"]
    assert names_of(vram=20_000, ram=10_000) == [*caches, "lru-split", "n-cpu-moe", "popular"]
    # 19,000 bytes: no copy of all, but what is not on the GPU; a cache then needs flash for the rest
    assert names_of(vram=30_000, ram=19_000) == [*caches, "lru-split", "n-cpu-moe", "popular", "streamed"]
    assert names_of(vram=30_000, ram=19_000, links=machine().links[1:]) == ["n-cpu-moe", "popular", "streamed"]
    alone = memory_of(
        geometry(), replace(machine(ram=30_000), gpu=None, links=machine().links[:1]), "bf16", 100, reserve=0
    )
    assert [strategy.name for strategy in strategies(alone)] == caches


def test_layers_at_the_end_first() -> None:
    # 8 experts of 960 bytes in each of 3 layers: 7,680 bytes a layer
    memory = memory_of(geometry(), machine(vram=20_000), "bf16", 100, reserve=0)
    placed = Strategy("", "", PLACED, "cpu", by_layer=True)
    found = {budget: cache_of(placed, budget, memory, 8) for budget in (0, 7_679, 7_680, 15_360, 23_040)}
    assert found == {0: [0, 0, 0], 7_679: [0, 0, 0], 7_680: [0, 0, 8], 15_360: [0, 8, 8], 23_040: [8, 8, 8]}
    # layer 0 has no experts, layers 1 to 3 have: --n-cpu-moe counts all
    assert [cpu_layers(slots, geometry()) for slots in found.values()] == [4, 4, 3, 2, 0]
    assert cache_of(Strategy("", "", "lru", "load"), 3 * 1_920 + 5, memory, 8) == [2, 2, 2]


@pytest.mark.parametrize("layers", [1, 9, 10, 11, 20, 39, 61, 99, 100])
def test_override_pattern_names_these_layers_and_no_others(layers: int) -> None:
    pattern, _, buffer = override_pattern(layers).partition("=")
    assert buffer == "CPU"
    for block in range(130):
        for tensor in ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"):
            assert bool(re.search(pattern, f"blk.{block}.{tensor}.weight")) == (block < layers)
        for tensor in ("attn_q", "ffn_gate_inp", "ffn_up_shexp", "ffn_down"):
            assert not re.search(pattern, f"blk.{block}.{tensor}.weight")


def test_override_pattern_refuses_what_it_cannot_say() -> None:
    for layers in (0, 101):
        with pytest.raises(ValueError, match="1 to 100 layers"):
            override_pattern(layers)


USUAL: dict[str, Any] = {
    "dtype": "q4_k_m", "in_gguf": True, "context": 32_768, "kv_dtype": "f16", "all_resident": False, "cpu_layers": 12,
    "layers": 48, "placed_slots": 21, "popular_slots": 23, "experts_outside": 10 * GIB, "cores": 8, "own_gpu": True,
    "has_gpu": True,
    "engines": {"n-cpu-moe": ("llama.cpp",)}, "kt": ("", "no GGUF"),
}  # fmt: skip
NATIVE: dict[str, Any] = {
    "dtype": "fp8", "in_gguf": False, "kt": ("FP8", ""),
    "engines": {"n-cpu-moe": ("ktransformers",), "popular": ("ktransformers",), "streamed": ("vLLM",)},
}  # fmt: skip
"""An fp8 checkpoint on a card that has 8-bit floats: no file for llama.cpp."""


def commands(**changes: Any) -> dict[str, str]:
    return {flags.engine: flags.command for flags in engine_flags(**USUAL | changes)}


def test_commands() -> None:
    assert commands() == {
        "llama.cpp": "llama-server -m MODEL.gguf -c 32768 -ngl 99 --n-cpu-moe 12",
        "ktransformers": "",
        "vLLM": "vllm serve MODEL --max-model-len 32768 --cpu-offload-gb 10 --cpu-offload-params experts",
        "SGLang": "",
    }


def test_commands_with_other_formats() -> None:
    quantised = commands(kv_dtype="q8_0", cpu_layers=48)
    assert quantised["llama.cpp"] == "llama-server -m MODEL.gguf -c 32768 -ngl 99 --cpu-moe -ctk q8_0 -ctv q8_0 -fa on"
    eight = commands(**NATIVE, kv_dtype="fp8", experts_outside=10 * GIB + 1)
    whole, frequent = (flags.command for flags in engine_flags(**USUAL | NATIVE) if flags.engine == "ktransformers")
    assert whole == (
        "python -m sglang.launch_server --model MODEL --context-length 32768 --kt-method FP8 --kt-weight-path MODEL "
        "--kt-cpuinfer 8 --kt-num-gpu-experts 21 --kt-expert-placement-strategy front-loading"
    )
    assert frequent == (
        "python -m sglang.launch_server --model MODEL --context-length 32768 --kt-method FP8 --kt-weight-path MODEL "
        "--kt-cpuinfer 8 --kt-num-gpu-experts 23 --kt-expert-placement-strategy frequency "
        "--init-expert-location COUNTS.pt"
    )
    assert eight["vLLM"].endswith("--kv-cache-dtype fp8 --cpu-offload-gb 10.1 --cpu-offload-params experts")
    # no expert on the GPU: nothing to place, and no file of counts to make
    none = commands(**NATIVE, popular_slots=0, placed_slots=0)
    assert none["ktransformers"].endswith("--kt-num-gpu-experts 0")


def test_a_command_belongs_to_a_row_only_where_the_engine_takes_the_dtype() -> None:
    by_engine = {flags.engine: flags.strategy for flags in engine_flags(**USUAL)}
    assert by_engine == {"llama.cpp": "n-cpu-moe", "ktransformers": "", "vLLM": "", "SGLang": ""}
    found = [(flags.engine, flags.strategy) for flags in engine_flags(**USUAL | NATIVE)]
    assert found == [
        ("llama.cpp", ""), ("ktransformers", "n-cpu-moe"), ("ktransformers", "popular"), ("vLLM", "streamed"),
        ("SGLang", ""),
    ]  # fmt: skip
    both = {"engines": {"n-cpu-moe": ("llama.cpp", "ik_llama.cpp")}}
    llama = engine_flags(**USUAL | both)[0]
    assert "ik_llama.cpp, a fork, takes the same flags" in llama.notes
    fork = engine_flags(**USUAL | {"engines": {"n-cpu-moe": ("ik_llama.cpp",)}})[0]
    assert (fork.engine, fork.strategy, fork.command) == ("ik_llama.cpp", "n-cpu-moe", llama.command)


def test_more_layers_than_a_pattern_names() -> None:
    llama = engine_flags(**USUAL | {"cpu_layers": 110, "layers": 126})[0]
    assert "--n-cpu-moe 110" in llama.command
    assert not any("-ot" in note for note in llama.notes)


def test_commands_where_all_fits_and_where_there_is_no_gpu() -> None:
    assert commands(all_resident=True) == {
        "llama.cpp": "llama-server -m MODEL.gguf -c 32768 -ngl 99",
        "ktransformers": "",
        "vLLM": "vllm serve MODEL --max-model-len 32768",
        "SGLang": "python -m sglang.launch_server --model-path MODEL --context-length 32768",
    }
    assert commands(own_gpu=False, has_gpu=False) == {"llama.cpp": "llama-server -m MODEL.gguf -c 32768"}
    assert [bool(command) for command in commands(popular_slots=None).values()] == [True, False, False, False]


def test_notes_say_what_does_not_match() -> None:
    notes = {flags.engine: " ".join(flags.notes) for flags in engine_flags(**USUAL | NATIVE)}
    assert "fp8 is no format of GGUF files" in notes["llama.cpp"]
    assert "no flag for this" in notes["SGLang"]
    assert "lrcsim plan --trace TRACE --counts-out COUNTS.pt" in notes["ktransformers"]
    plain = {flags.engine: " ".join(flags.notes) for flags in engine_flags(**USUAL)}
    assert override_pattern(12) in plain["llama.cpp"]
    assert "is a format of GGUF files" in plain["vLLM"]
