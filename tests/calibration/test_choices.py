"""Which numbers are fitted where nobody names them: a runtime's, or the machine's where the engine is unknown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.calibration.from_run.choices import choices_of
from lrcsim.calibration.from_run.numbers import Setting
from lrcsim.hardware import load_profile
from lrcsim.runtimes import IDEAL, Runtime, load_runtime
from lrcsim.runtimes.runtime import DeviceUse, LoadUse

H200, PHONE = load_profile("h200"), load_profile("phone")


def of(runtime: str, hardware: str = "h200") -> list[tuple[str, ...]]:
    profile = load_profile(hardware)
    return choices_of(Setting(profile, load_runtime(runtime).on(profile)))


def test_nothing_known_of_the_engine() -> None:
    first = ("gpu.bandwidth", "pcie.bandwidth")
    assert choices_of(Setting(H200, IDEAL)) == [
        (*first, third) for third in ("expert_overhead", "layer_overhead", "pcie.latency")
    ]
    no_cost = load_profile("phone", ["expert_overhead=0", "layer_overhead=0", "nvme.latency=0"])
    assert choices_of(Setting(no_cost, IDEAL)) == [("cpu.bandwidth", "nvme.bandwidth")]


def test_launches_of_an_eager_runtime() -> None:
    assert of("eager") == [("runtime.device.layer", "runtime.device.kernel")]


def test_one_launch_cost_leaves_room_for_what_loads_cost() -> None:
    assert of("imp") == [
        ("runtime.device.layer", "runtime.loads.miss"),
        ("runtime.device.layer", "runtime.loads.eviction"),
    ]


def test_a_phone() -> None:
    first = ("runtime.cpu.share", "runtime.loads.lane_bandwidth")
    assert of("bigmoeonedge", "phone-ufs") == [(*first, "runtime.loads.byte"), (*first, "runtime.device.layer")]


@pytest.mark.parametrize("runtime", ["eager", "imp", "llama.cpp", "vllm", "mixtral-offloading", "expert-cache"])
def test_never_a_number_of_the_machine(runtime: str) -> None:
    assert all(path.startswith("runtime.") for paths in of(runtime) for path in paths)


def test_lanes_and_two_launches_are_three() -> None:
    made = Runtime("mine", device=DeviceUse(layer=1e-4, kernel=1e-5), loads=LoadUse(lane_bandwidth=1e9, miss=1e-5))
    assert choices_of(Setting(H200, made)) == [
        ("runtime.device.layer", "runtime.device.kernel", "runtime.loads.lane_bandwidth")
    ]


def test_nothing_to_fit_is_said() -> None:
    with pytest.raises(ConfigError, match=r"runtime mine has no cost or share to fit: name numbers with --fit"):
        choices_of(Setting(H200, replace(IDEAL, name="mine")))
