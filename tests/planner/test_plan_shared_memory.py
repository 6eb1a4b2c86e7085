"""Memory that GPU and CPU share: the GPU's share of it, whoever says how much there is."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.hardware import load_profile
from lrcsim.models import load_geometry
from lrcsim.planner import make_plan
from lrcsim.planner.memory import memory_of, with_memory
from lrcsim.planner.shared_memory import gpu_share, shared

GIB = 2**30
MAC, ORIN = load_profile("apple-m4-max"), load_profile("jetson-agx-orin")


# macOS: two thirds up to 36 GB, three quarters above
@pytest.mark.parametrize(
    ("ram", "gpu"),
    [(64, 48), (128, 96), (192, 144), (256, 192), (48, 36), (36, 24), (24, 16), (16, 32 / 3), (8, 16 / 3)],
)
def test_a_macs_gpu(ram: int, gpu: float) -> None:
    found = with_memory(MAC, None, ram * GIB)
    assert found.gpu is not None
    assert found.gpu.memory == int(gpu * GIB)
    assert found.dram.memory == ram * GIB
    assert memory_of(load_geometry("gpt-oss-20b"), found, "mxfp4", 8_192).total == int(gpu * GIB)


def test_other_machines_keep_their_share() -> None:
    found = with_memory(ORIN, None, 32 * GIB)
    assert found.gpu is not None
    assert found.gpu.memory == 28 * GIB  # as 56 of 64
    assert gpu_share(ORIN, 64 * GIB) == 56 * GIB


def test_what_is_said_of_the_gpu_counts() -> None:
    found = with_memory(MAC, 60 * GIB, 64 * GIB)  # sysctl iogpu.wired_limit_mb
    assert found.gpu is not None
    assert found.gpu.memory == 60 * GIB
    with pytest.raises(ConfigError, match=r"--vram 80GiB is more than the 64 GiB that apple-m4-max's GPU"):
        with_memory(MAC, 80 * GIB, 64 * GIB)
    with pytest.raises(ConfigError, match="--vram 160GiB is more than the 128 GiB"):
        with_memory(MAC, 160 * GIB, None)
    raised = load_profile("apple-m4-max", ["gpu.memory=120GiB"])
    assert shared(raised).gpu == raised.gpu


def test_memory_that_an_override_says() -> None:
    plan = make_plan(load_geometry("olmoe-1b-7b"), load_profile("apple-m4-max", ["dram.memory=64GiB"]))
    assert plan.memory.total == 48 * GIB
    small = shared(load_profile("jetson-agx-orin", ["dram.memory=32GiB"]))
    assert small.gpu is not None
    assert small.gpu.memory == 32 * GIB
    assert shared(MAC) == MAC


@pytest.mark.parametrize(("model", "dtype"), [("gpt-oss-120b", None), ("glm-4.5-air", "q4_k_m")])
def test_what_a_64_gb_mac_does_not_hold(model: str, dtype: str | None) -> None:
    geometry = load_geometry(model)
    for ram, fit in ((64, "flash"), (128, "gpu")):
        assert memory_of(geometry, with_memory(MAC, None, ram * GIB), dtype or geometry.dtype, 8_192).fit == fit


@given(st.integers(1, 512), st.one_of(st.none(), st.integers(1, 512)))
def test_the_gpu_never_has_more_than_there_is(ram: int, vram: int | None) -> None:
    for profile in (MAC, ORIN, replace(MAC, name="mine", description="")):
        try:
            found = with_memory(profile, vram and vram * GIB, ram * GIB)
        except ConfigError:
            assert vram is not None
            assert vram > ram
        else:
            assert found.gpu is not None
            assert 0 < found.gpu.memory <= found.dram.memory == ram * GIB


def test_cards_of_their_own_are_not_touched() -> None:
    found = with_memory(load_profile("rtx-3090"), None, 8 * GIB)
    assert found.gpu is not None
    assert found.gpu.memory == 24 * GIB
