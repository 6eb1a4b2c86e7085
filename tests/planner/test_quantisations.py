"""Which quantisation: what is tried, how it is chosen, and that its speeds are those of the plan's rows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from planned import local_trace

from lrcsim.hardware import HardwareProfile, load_profile
from lrcsim.models import load_geometry
from lrcsim.planner import Plan, make_plan
from lrcsim.planner.memory import Fit, memory_of, with_memory
from lrcsim.planner.quantisations import Quantisation, choose, formats_to_try, quantisations
from lrcsim.planner.traces import Shape

GIB = 2**30


def one(dtype: str, weights: int, fit: Fit = "gpu", speed: float | None = 10.0, **more: object) -> Quantisation:
    """Return a format with a speed that can be had and was measured, where one is given."""
    kind = None if speed is None else str(more.get("kind", "released"))
    strategy = None if speed is None else "all-resident"
    return Quantisation(
        dtype, dtype == "bf16", weights, fit, bool(more.get("tight")), strategy, "llama.cpp", kind, speed
    )


BF16, Q8, Q5, Q4, IQ4, Q2 = ("bf16", 160), ("q8_0", 85), ("q5_k_m", 57), ("q4_k_m", 48), ("iq4_xs", 42), ("q2_k", 30)


@pytest.mark.parametrize(
    ("found", "dtype"),
    [
        # whole and with room: the finest, whatever is faster
        ([one(*BF16, "memory"), one(*Q8), one(*Q4, speed=20)], "q8_0"),
        ([one(*BF16), one(*Q8, speed=20)], "bf16"),
        # a tight fit is passed over for the next
        ([one(*BF16, "memory"), one(*Q5, tight=True), one(*Q4)], "q4_k_m"),
        # as fine and faster: another runtime's format of as many bits
        ([one("int8-g64-bias", 85, speed=20), one(*Q8), one(*Q4)], "int8-g64-bias"),
        ([one(*Q8), one("int8-g64-bias", 84, speed=20), one(*Q4)], "int8-g64-bias"),
        # the release's own is never too coarse
        ([one("q4_k_m", 48, "memory"), one("bf16", 40)], "bf16"),
        # nothing not coarser than q4_k_m fits whole: q4_k_m with main memory, though a coarser one would
        ([one(*BF16, "memory"), one(*Q8, "memory"), one(*Q4, "memory"), one(*IQ4)], "q4_k_m"),
        ([one(*BF16, "memory"), one(*Q5, tight=True), one(*Q4, tight=True)], "q4_k_m"),
        # q4_k_m does not fit at all
        ([one(*BF16, "no", None), one(*Q4, "flash", None), one(*IQ4, "memory"), one(*Q2)], "iq4_xs"),
        ([one(*BF16, "no", None), one(*Q4, "no", None), one(*Q2, "flash", None)], "bf16"),
        # what nobody measured counts only where nothing else is there
        ([one(*BF16, "memory"), one("fp8", 80, kind="bound"), one(*Q4)], "q4_k_m"),
        ([one(*BF16, "no", None), one("fp8", 80, kind="bound"), one(*Q4, "no", None)], "fp8"),
    ],
)
def test_choice(found: list[Quantisation], dtype: str) -> None:
    assert choose(found)[0].dtype == dtype


def test_formats_by_machine() -> None:
    qwen = load_geometry("qwen3-30b-a3b")
    assert formats_to_try(qwen, load_profile("rtx-4090"))[0] == "bf16"
    tried = {name: set(formats_to_try(qwen, load_profile(name))) for name in ("rtx-4090", "rtx-3090", "apple-m4-max")}
    assert all("q4_k_m" in names for names in tried.values())
    assert tried["rtx-4090"] - tried["rtx-3090"] == {"fp8"}  # no 8-bit floats before Ada
    assert tried["apple-m4-max"] - tried["rtx-3090"] == {"int8-g64-bias", "int4-g64-bias"}
    assert "int4-g128" not in formats_to_try(qwen, load_profile("desktop-cpu"))
    oss = formats_to_try(load_geometry("gpt-oss-20b"), load_profile("rtx-3090"))
    assert all(name.startswith("mxfp4") for name in oss)  # its GGUF files keep the released experts


def test_a_release_that_is_small_already() -> None:
    """Nothing larger is tried of one in 4 bits, and nothing at all of what somebody has made a GGUF file of."""
    small = replace(load_geometry("qwen3-30b-a3b"), dtype="int4-g128")
    card = load_profile("rtx-4060-laptop")
    found = quantisations(small, card, lambda dtype: memory_of(small, card, dtype, 1_024), 100.0)
    names = [one.dtype for one in found]
    assert "int4-g128" in names
    assert "iq2_xxs" in names
    assert not {"q8_0", "q6_k", "q5_k_m", "fp8"} & set(names)
    # no released engine has experts of that format beside a card of 8 GB
    by_name = {one.dtype: one for one in found}
    assert by_name["int4-g128"].fit == "memory"
    assert by_name["int4-g128"].tokens_per_s is None
    assert by_name["iq4_xs"].tokens_per_s is not None
    assert formats_to_try(replace(small, dtype="q4_k_m"), card) == ["q4_k_m"]


def plan(model: str, profile: HardwareProfile, dtype: str | None = None) -> Plan:
    shape = Shape.of(load_geometry(model))
    trace = local_trace(*shape, tokens=4, requests=1, model=model)
    return make_plan(load_geometry(model), profile, dtype=dtype, traces=[("own", trace)])


def test_the_example_of_a_card_of_24_gb() -> None:
    """Qwen3-30B-A3B: as released it needs main memory, q5_k_m fits with little to spare, q4_k_m with a third."""
    found = plan("qwen3-30b-a3b", load_profile("rtx-4090"))
    by_name = {one.dtype: one for one in found.quantisations}
    assert (by_name["bf16"].fit, by_name["bf16"].strategy) == ("memory", "n-cpu-moe")
    assert (by_name["q5_k_m"].fit, by_name["q5_k_m"].tight) == ("gpu", True)
    assert (by_name["q4_k_m"].fit, by_name["q4_k_m"].tight) == ("gpu", False)
    assert found.dtype == "q4_k_m"
    assert found.memory.fit == "gpu"
    assert by_name["q4_k_m"].tokens_per_s is not None
    assert by_name["bf16"].tokens_per_s is not None
    assert by_name["q4_k_m"].tokens_per_s > 2 * by_name["bf16"].tokens_per_s
    weights = [one.weights for one in found.quantisations]
    assert weights == sorted(weights, reverse=True)
    assert any("planned as q4_k_m" in note for note in found.notes)
    data = found.to_dict()
    assert data["dtype"] == "q4_k_m"
    assert {one["dtype"] for one in data["quantisations"]} >= {"bf16", "q8_0", "q4_k_m"}


@pytest.mark.parametrize(
    ("name", "vram", "ram"), [("rtx-4090", 24, 64), ("rtx-4060-laptop", 8, 64), ("desktop-cpu", None, 64)]
)
def test_speeds_are_those_of_the_rows(name: str, vram: int | None, ram: int) -> None:
    """The table's speed of a format is what a plan in that format gives."""
    profile = with_memory(load_profile(name), vram and vram * GIB, ram * GIB)
    walked = plan("olmoe-1b-7b", profile)
    for one in walked.quantisations[:4]:
        whole = plan("olmoe-1b-7b", profile, one.dtype)
        assert not whole.quantisations  # asked for by name
        if one.tokens_per_s is not None:
            row = next(row for row in whole.rows if row.name == one.strategy)
            assert one.tokens_per_s == pytest.approx(row.speed, rel=1e-3)
            assert (one.runtime, one.kind) == (row.standing.runtime, row.kind)
        assert (one.fit, one.tight) == (whole.memory.fit, whole.memory.tight)
