"""llama.cpp's own cache of experts: who can have it, its command line, and the one speed that it is held against."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from planned import geometry, local_trace, machine

from lrcsim.hardware import load_profile
from lrcsim.models import load_geometry
from lrcsim.planner import make_plan
from lrcsim.planner.engine_flags import engine_flags
from lrcsim.planner.evaluate import Runner
from lrcsim.planner.llama_cpp_cache import CacheRoom, cache_flags, cpu_share
from lrcsim.planner.memory import memory_of, with_memory
from lrcsim.planner.row_runtimes import standing
from lrcsim.planner.strategies import strategies
from lrcsim.planner.traces import Shape, find_sources
from lrcsim.planner.workload import transferred
from lrcsim.runtimes import load_runtime
from lrcsim.simulator import simulate

ROOM = CacheRoom(size=10 * 2**30 + 2**20 - 1, slots=8, cpu_share=0.589)


def test_command_lines() -> None:
    """10 GiB and nearly a MiB are 10,240 whole MiB; the share has two digits."""
    flags, notes = cache_flags("lru", ROOM, 8)
    assert flags == "--cpu-moe -lm none --moe-cache-mib 10240"
    assert notes[0].startswith("lru, build b11480 and later")
    assert "b12170" in notes[0]
    split, notes = cache_flags("lru-split", ROOM, 8)
    assert split == f"{flags} --moe-cache-cpu-share 0.59"
    assert notes[0].startswith("lru-split, build b12191 and later")


def test_a_pool_that_one_token_fills_has_no_command() -> None:
    """LRU over all layers in turn: what was used longest ago is needed next, and nothing hits."""
    for name in ("lru", "lru-split"):
        flags, (why,) = cache_flags(name, replace(ROOM, slots=7), 8)
        assert flags == ""
        assert "never hits" in why
    assert cache_flags("lru", replace(ROOM, slots=0), 0)[0] == ""  # a file that does not say its top-k


def test_commands_are_those_of_rows_that_the_engine_has() -> None:
    usual: dict[str, Any] = {
        "dtype": "q4_k_m", "in_gguf": True, "context": 4_096, "kv_dtype": "q8_0", "all_resident": False,
        "cpu_layers": 12, "layers": 48, "placed_slots": 21, "popular_slots": 23, "experts_outside": 2**30,
        "cores": 8, "own_gpu": True, "has_gpu": True, "kt": ("", "no GGUF"), "top_k": 8,
    }  # fmt: skip
    both = {"n-cpu-moe": ("llama.cpp",), "lru": ("llama.cpp",), "lru-split": ("llama.cpp",)}
    found = {one.strategy: one.command for one in engine_flags(**usual, engines=both, cache=ROOM) if one.strategy}
    start, end = "llama-server -m MODEL.gguf -c 4096 -ngl 99", "-ctk q8_0 -ctv q8_0 -fa on"
    assert found == {
        "n-cpu-moe": f"{start} --n-cpu-moe 12 {end}",
        "lru": f"{start} --cpu-moe -lm none --moe-cache-mib 10240 {end}",
        "lru-split": f"{start} --cpu-moe -lm none --moe-cache-mib 10240 --moe-cache-cpu-share 0.59 {end}",
    }
    none = engine_flags(**usual, engines={"n-cpu-moe": ("llama.cpp",)}, cache=ROOM)
    assert [one.strategy for one in none if one.engine == "llama.cpp"] == ["n-cpu-moe"]


def test_the_share_is_what_split_leaves_to_the_cpu() -> None:
    """A desktop's CPU reaches 107 % of 1e5 bytes/s beside a link of 1e5: 107 / 207 of the misses."""
    hardware = machine()
    assert cpu_share(hardware) == pytest.approx(107 / 207)
    run = simulate(
        local_trace(), policy="lru", cache="4", hardware=hardware, model=geometry(), dtype="bf16", miss="split",
        runtime="llama.cpp-cache",
    )  # fmt: skip
    found = re.search(r"split:([\d.]+)", str(run.to_dict()))
    assert found is not None
    assert float(found[1]) == pytest.approx(100 / 207, abs=1e-4)


def test_the_command_gives_the_cache_what_its_row_has() -> None:
    hardware = with_memory(load_profile("rtx-4060-laptop"), 5 * 2**30, None)
    plan = make_plan(load_geometry("olmoe-1b-7b"), hardware, dtype="q4_k_m")
    rows = {row.name: row for row in plan.rows}
    assert rows["lru"].engines == rows["lru-split"].engines == ("llama.cpp",)
    assert {rows["lru"].kind, rows["lru-split"].kind} == {"bound"}
    assert plan.best_released is not None
    assert plan.best_released.name == "n-cpu-moe"
    for flags in plan.flags:
        if flags.strategy in ("lru", "lru-split"):
            found = re.search(r"--moe-cache-mib (\d+)", flags.command)
            assert found is not None
            given = int(found[1])
            assert given == plan.memory.placed_budget // 2**20
            assert sum(s * n for s, n in zip(plan.memory.slot, rows["lru"].slots, strict=True)) <= given * 2**20 + 2**20
    assert {flags.strategy for flags in plan.flags} >= {"lru", "lru-split"}


def test_who_has_it() -> None:
    """A GPU of its own, GGUF files, and all experts in main memory, out of which it copies."""
    shape = geometry()
    for ram, engines in ((60_000, ("llama.cpp",)), (15_000, ())):
        hardware = machine(vram=20_000, ram=ram)
        memory = memory_of(shape, hardware, "bf16", 100, reserve=0)
        for name in ("lru", "lru-split"):
            assert standing(name, shape, hardware, "bf16", memory).engines == engines
    hardware = machine(vram=20_000)
    memory = memory_of(shape, hardware, "bf16", 100, reserve=0)
    asked = {name: standing("lru", shape, hardware, "bf16", memory, load_runtime(name)) for name in
             ("llama.cpp", "llama.cpp-cache", "expert-cache", "vllm")}  # fmt: skip
    assert {name: (one.engines, one.kind) for name, one in asked.items()} == {
        "llama.cpp": (("llama.cpp",), "bound"),  # another document of its engine has the way
        "llama.cpp-cache": (("llama.cpp",), "bound"),
        "expert-cache": ((), "fork"),
        "vllm": ((), "fork"),
    }


def test_the_published_speed_that_it_was_not_fitted_to() -> None:
    """26.7 tokens/s: Qwen3.6-35B-A3B Q8_0 on an RTX 4060 Ti, ``-cmoe --moe-cache-mib 10240`` (docs/runtimes.md).

    Files are mapped into memory by default, so that experts were not pinned.
    """
    shape, hardware = load_geometry("qwen3.6-35b-a3b"), load_profile("rtx-4060-ti-16gb")
    hardware = replace(hardware, dram=replace(hardware.dram, memory=64 * 2**30))
    memory = memory_of(shape, hardware, "q8_0", 4_096, reserve=0)
    memory = replace(memory, total=memory.fixed + 10_240 * 2**20)
    document = load_runtime("llama.cpp-cache")
    unpinned = replace(document, numbers=document.numbers | {"loads.pinned": False})
    workloads = transferred(Shape.of(shape), find_sources(shape, (), ())[0])
    runner = Runner(shape, "q8_0", workloads, 2.0, 4_096, 1, None, unpinned)
    lru = next(one for one in strategies(memory) if one.name == "lru")
    row, _ = runner.row(lru, hardware, memory)
    assert row.slots[0] == 80
    assert row.spread[0] < 26.7 < row.spread[1]
    assert row.speed == pytest.approx(25.1, rel=0.02)
