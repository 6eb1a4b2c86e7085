"""Ranges: which class of measured points a row belongs to, and how that goes together with its spread."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planned import geometry, machine

from lrcsim.base.errors import ConfigError
from lrcsim.hardware import HardwareProfile
from lrcsim.planner.accuracy import HELD, SETTINGS, Accuracy, accuracy_of, measured, read_accuracy, setting_of
from lrcsim.planner.memory import memory_of
from lrcsim.planner.row_runtimes import Standing, standing

OWN = machine()
GPU = OWN.gpu
assert GPU is not None
ALONE = replace(OWN, gpu=None, links=OWN.links[:1])
SHARED = replace(ALONE, unified=True, gpu=GPU)
APPLE = replace(SHARED, gpu=replace(GPU, api="metal"))


@pytest.mark.parametrize(
    ("strategy", "profile", "setting"),
    [
        ("all-resident", OWN, "resident-gpu"), ("all-resident", ALONE, "cpu-only"),
        ("all-resident", SHARED, "gb10-unified"), ("all-resident", APPLE, "apple-unified"),
        ("n-cpu-moe", OWN, "cpu-experts"), ("popular", OWN, "cpu-experts"), ("streamed", OWN, "pcie-cache"),
        ("lru", OWN, "pcie-cache"), ("lru-split", OWN, "pcie-cache"), ("optimum", OWN, "pcie-cache"),
        ("lru", ALONE, "flash"), ("lru", SHARED, "flash"), ("slru", APPLE, "flash"),
    ],
)  # fmt: skip
def test_classes(strategy: str, profile: HardwareProfile, setting: str) -> None:
    assert setting_of(strategy, profile) == setting


def test_logarithms_add_in_squares() -> None:
    # A spread of e^-0.3 and e^0.4, points from e^-0.4 to e^0.3: 0.5 both ways
    found = Accuracy("flash", math.exp(-0.4), math.exp(0.3), 1.0, 9)
    low, high = found.around(10.0, (10 * math.exp(-0.3), 10 * math.exp(0.4)))
    assert low == pytest.approx(10 * math.exp(-0.5))
    assert high == pytest.approx(10 * math.exp(0.5))
    assert found.around(10.0, (10.0, 10.0)) == (
        pytest.approx(10 * math.exp(-0.4)),
        pytest.approx(10 * math.exp(0.3)),
    )


ratios = st.floats(0.2, 1.0)


@given(ratios, ratios, st.floats(0.2, 1.5), st.floats(1.0, 3.0))
def test_never_narrower_than_either(below: float, above: float, low: float, more: float) -> None:
    """Whatever lies where: the central value is inside, and so are both ranges."""
    found = Accuracy("flash", low, low * more, 1.0, 9)
    ends = found.around(10.0, (10 * below, 10 / above))
    assert ends[0] <= min(10.0, 10 * below, 10 * low) * (1 + 1e-9)
    assert ends[1] >= max(10.0, 10 / above, 10 * low * more) * (1 - 1e-9)


def table(**changes: Any) -> dict[str, Any]:
    return {"low": 0.8, "high": 1.2, "median": 1.0, "points": 7, "runtimes": ["one"], **changes}


def test_runtimes_may_have_points_of_their_own() -> None:
    document = {name: table() for name in SETTINGS} | {"flash": table(two=table(low=0.5, points=3))}
    found = read_accuracy(document)
    assert found["flash"]["two"] == Accuracy("flash", 0.5, 1.2, 1.0, 3, ("two",))
    assert found["flash"][""] == Accuracy("flash", 0.8, 1.2, 1.0, 7, ("one",))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"flash": {"low": 0.5}}, r"\[flash\] needs low, high, median and points"),
        ({"flash": table(low=1.3)}, r"\[flash\] low 1.3 and high 1.2"),
        ({"flash": table(low=0)}, "above 0"),
        ({"unknown": table()}, "needed are resident-gpu"),
    ],
)
def test_tables_that_say_too_little(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_accuracy({name: table() for name in SETTINGS} | changed)


def test_the_shipped_tables_are_complete() -> None:
    for setting in SETTINGS:
        found = accuracy_of(setting, "none of them")
        assert found.setting == setting
        assert found.low <= found.high
        (strategy,) = HELD[setting]
        assert measured(strategy, found, "none of them") is None
        assert measured(strategy, found, found.runtimes[0]) == setting
        assert measured("popular", found, found.runtimes[0]) is None  # nobody published any
        assert measured(strategy, replace(found, points=0), found.runtimes[0]) is None


def test_what_reads_flash_is_held_against_flash() -> None:
    """Experts on the CPU that main memory does not hold are another thing than those it holds."""
    shape = geometry()
    for ram, setting, kind in ((60_000, "cpu-experts", "released"), (15_000, "flash", "bound")):
        hardware = machine(vram=20_000, ram=ram)
        memory = memory_of(shape, hardware, "bf16", 100, reserve=0)
        found = standing("n-cpu-moe", shape, hardware, "bf16", memory)
        assert (found.accuracy.setting, found.kind, found.engines[0]) == (setting, kind, "llama.cpp")


def test_only_what_was_measured_may_be_called_released() -> None:
    accuracy = accuracy_of("cpu-experts", "llama.cpp")
    kinds = {
        (engines, setting, bound): Standing("x", engines, setting, accuracy, bound).kind
        for engines in ((), ("llama.cpp",))
        for setting in (None, accuracy.setting)
        for bound in (False, True)
    }
    assert {key for key, kind in kinds.items() if kind == "released"} == {(("llama.cpp",), "cpu-experts", False)}
    assert {key for key, kind in kinds.items() if kind == "fork"} == {((), None, False), ((), "cpu-experts", False)}
