"""How a machine's kind of device and class of processor are told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.hardware import load_profile, profile_names
from lrcsim.runtimes.machine_kinds import CLASS_MEANING, CPU_CLASSES, channels, cpu_class, device_kind

KINDS = {
    "rtx-3090": ("cuda", "desktop"),
    "rtx-4060-laptop": ("cuda", "laptop"),
    "apple-m4-max": ("metal", "desktop"),
    "jetson-agx-orin": ("cuda-unified", "desktop"),
    "phone": ("cpu", "phone"),
    "phone-ufs": ("cpu", "phone"),
    "desktop-cpu": ("cpu", "desktop"),
    "h100-sxm": ("cuda", "server"),
}


@pytest.mark.parametrize("name", KINDS)
def test_built_in_machines(name: str) -> None:
    profile = load_profile(name)
    assert (device_kind(profile), cpu_class(profile)) == KINDS[name]


def test_every_built_in_machine_is_of_some_kind() -> None:
    for name in profile_names():
        assert device_kind(load_profile(name))
        assert cpu_class(load_profile(name)) in CPU_CLASSES
    assert set(CLASS_MEANING) == set(CPU_CLASSES)


@pytest.mark.parametrize(
    ("memory", "is_class"),
    [
        ("ddr5-6000-2ch", "desktop"),
        ("ddr4-3200-2ch", "desktop"),
        ("ddr5-4800-4ch", "server"),
        ("ddr4-2666-4ch", "old-server"),
        ("ddr4-3200-8ch", "old-server"),
        ("ddr5-6400-12ch", "server"),
    ],
)
def test_classes_by_main_memory(memory: str, is_class: str) -> None:
    assert cpu_class(load_profile(f"rtx-3090+{memory}")) == is_class


def test_more_bandwidth_than_the_channels_give_is_another_machines() -> None:
    # 0.78 x 48 GB/s a channel of DDR5-6000: 150 GB/s are four, 500 more than the twelve of a socket.
    desktop = load_profile("rtx-3090+ddr5-6000-2ch")
    assert channels(desktop) == 2
    four = desktop.with_part("dram", bandwidth=150e9)
    assert (channels(four), cpu_class(four)) == (4, "server")
    many = desktop.with_part("dram", bandwidth=500e9)
    assert (channels(many), cpu_class(many)) == (13, "sockets")
    # Less than they give leaves the channels; without any word of them, 40 GB/s each are supposed.
    assert channels(desktop.with_part("dram", bandwidth=1e9)) == 2
    unknown = desktop.with_part("dram", channels=None, channel=None, bandwidth=94e9)
    assert channels(unknown) == 3


def test_what_the_profile_says_goes_first() -> None:
    desktop = load_profile("rtx-3090")
    assert cpu_class(desktop.with_part("cpu", kind="phone")) == "phone"
    assert cpu_class(desktop.with_part("cpu", sockets=2)) == "sockets"
    assert cpu_class(replace(desktop, description="A Laptop.")) == "laptop"
    assert cpu_class(replace(desktop, description="automobiles")) == "desktop"
    assert device_kind(desktop.with_part("gpu", api="rocm")) == "rocm"


def test_what_is_not_known_is_refused() -> None:
    desktop = load_profile("rtx-3090")
    with pytest.raises(ConfigError, match=r"hardware rtx-3090: gpu.api 'vulkan'.*cuda.*rocm.*metal"):
        device_kind(desktop.with_part("gpu", api="vulkan"))
    with pytest.raises(ConfigError, match=r"hardware rtx-3090: gpu.api 'cuda-unified'"):
        device_kind(desktop.with_part("gpu", api="cuda-unified"))
    with pytest.raises(ConfigError, match=r"hardware rtx-3090: cpu.kind 'tower'.*desktop"):
        cpu_class(desktop.with_part("cpu", kind="tower"))
