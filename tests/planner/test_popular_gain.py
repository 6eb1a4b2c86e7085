"""What placing the most used experts of each layer on the GPU gains: as little as ktransformers' own table says."""

from __future__ import annotations

import pytest

from lrcsim.hardware import load_profile
from lrcsim.models import load_geometry
from lrcsim.planner.evaluate import Runner
from lrcsim.planner.memory import memory_of, with_memory
from lrcsim.planner.strategies import strategies
from lrcsim.planner.traces import Shape, find_sources
from lrcsim.planner.workload import transferred
from lrcsim.runtimes import load_runtime


@pytest.mark.parametrize(("gib", "share"), [(9.5, 0.08), (26, 0.31), (41, 0.52)])
def test_gain_over_whole_layers(gib: float, share: float) -> None:
    # ktransformers, Qwen3-Next-80B-A3B in FP8, 10, 30 and 50 % of the experts on the GPU: +2, +4 and +3 % over
    # front-loading. Its machine is not known, so one like those of its documents.
    geometry = load_geometry("qwen3-next-80b-a3b")
    spec = "rtx-4090+cpu-64core-avx512+ddr5-4800-8ch"
    profile = with_memory(load_profile(spec, ["gpu.memory=80GiB"]), int(gib * 2**30), None)
    memory = memory_of(geometry, profile, "fp8", 8192, unused=2**40)
    workloads = transferred(Shape.of(geometry), find_sources(geometry, (), ())[0])[:1]
    runner = Runner(geometry, "fp8", workloads, 2.0, 8192, 1, None, load_runtime("ktransformers"))
    rows = {one.name: runner.row(one, profile, memory)[0] for one in strategies(memory) if one.miss == "cpu"}
    placed, popular = rows["n-cpu-moe"], rows["popular"]
    held = sum(popular.slots) / geometry.experts / len(geometry.moe_layers)
    assert held == pytest.approx(share, abs=0.01)
    assert sum(placed.slots) == pytest.approx(sum(popular.slots), rel=0.03)
    assert 0 <= popular.speed / placed.speed - 1 <= 0.06
