"""`auto`: parts that were found become a profile, and what was assumed is said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.hardware import HardwareProfile, load_profile
from lrcsim.hardware.components import find_component
from lrcsim.hardware.document import build
from lrcsim.hardware.drivers import Device
from lrcsim.hardware.host import Host, Module
from lrcsim.hardware.recognise import kit_of
from lrcsim.hardware.this_machine import machine_from

DESKTOP: dict[str, Any] = {
    "description": "Desktop", "cpu": "cpu-8core-avx2", "dram": "ddr4-3200-2ch", "nvme": "nvme-gen3",
    "layer_overhead": "20 us", "expert_overhead": "5 us",
}  # fmt: skip
GIB = 2**30
RYZEN = Host(
    cpu="AMD Ryzen 9 5950X 16-Core Processor", cores=16, isa="avx2", memory=67_346_796_544, ghz=4.9, drive="nvme-gen4",
    modules=(Module("ddr4", 3600, 64),) * 2,
)  # fmt: skip


def profile(host: Host, *devices: Device) -> HardwareProfile:
    return build("auto", machine_from(host, devices, DESKTOP), "hardware auto")


def test_a_known_desktop_by_hand() -> None:
    card = Device(("NVIDIA GeForce RTX 3090",), "cuda", "NVML", 25_757_220_864, 936e9, 88e12, "pcie3-x8")
    found = profile(RYZEN, card)
    assert found.gpu is not None
    assert (found.gpu.memory, found.gpu.bandwidth, found.gpu.compute) == (25_757_220_864, 842e9, 60.4e12)
    assert found.cpu == load_profile("rtx-3090+ryzen-5950x", ["dram=ddr4-3600-2ch"]).cpu
    assert (found.dram.memory, found.dram.bandwidth) == (67_346_796_544, 49e9)  # 3600 x 8 x 2 = 57.6 GB/s, 85 %
    assert [(link.name, link.bandwidth) for link in found.links] == [("nvme", 6.5e9), ("pcie", 6.3e9)]
    assert found.sources["gpu.memory"] == "read: NVML"
    assert found.sources["dram.memory"] == "read: the system says"
    assert found.description == (
        "this machine, read from NVML and the system: NVIDIA GeForce RTX 3090 (rtx-3090), AMD Ryzen 9 5950X 16-Core "
        "Processor (ryzen-5950x), 16 cores, 62.7 GiB of main memory; speeds are typical of such parts: lrcsim "
        "calibrate measures"
    )


def test_what_is_not_said_is_assumed_and_named() -> None:
    card = Device(("NVIDIA GeForce RTX 4060 Ti",), "cuda", "nvidia-smi", 8 * GIB)
    found = profile(Host(cpu="AMD EPYC", cores=4, isa="avx512", memory=32 * GIB), card)
    assert (
        "NVIDIA GeForce RTX 4060 Ti (rtx-4060-ti-8gb), AMD EPYC (no component of that name), 4 cores"
        in found.description
    )
    assert (
        "assumed: pcie4-x8, the processor's compute by cores and assumed 3.5 GHz, ddr4-3200-2ch, nvme-gen4;"
        in found.description
    )
    assert found.cpu.compute == 0.18e12  # 4 cores x 3.5 GHz x 32, 40 %: 0.179


def test_nothing_is_known() -> None:
    found = profile(Host())
    assert found.gpu is None
    assert (found.cpu.cores, found.cpu.isa) == (1, "")
    assert found.dram == load_profile("desktop-cpu").dram
    assert "no GPU found, a processor of unknown name" in found.description
    assert "32 GiB of main memory" in found.description.partition("assumed:")[2]


def test_a_gpu_that_is_not_known_by_hand() -> None:
    # 192 bits x 7000 MHz x 2 / 8 = 336 GB/s, of which 85 %: 285.6; 70 % of 4 TFLOP/s.
    turing = Device(("NVIDIA CMP 30HX",), "cuda", "NVML", 6 * GIB, 336e9, 4e12, "pcie3-x4")
    found = profile(RYZEN, turing).gpu
    assert found is not None
    assert (found.memory, found.bandwidth, found.compute) == (6 * GIB, 286e9, 2.8e12)
    text = profile(RYZEN, turing).description
    assert "NVIDIA CMP 30HX (no component of that name)" in text
    assert "assumed: the GPU's compute by its cores and clock;" in text
    # An AMD card of 8 GiB: 8 x 30 = 240 GB/s, 85 %; 70 FLOP for each byte, 70 %.
    amd = profile(RYZEN, Device(("AMD GPU",), "rocm", "/sys/class/drm", 8 * GIB)).gpu
    assert amd is not None
    assert (amd.bandwidth, amd.compute, amd.api) == (204e9, 11.8e12, "rocm")
    assert "8.0 GiB of GPU memory" in profile(RYZEN, Device(("AMD GPU",), "rocm", "/sys/class/drm")).description


def test_of_names_that_one_identification_stands_for_memory_decides() -> None:
    names = ("Radeon RX 7900 XT", "7900 XTX", "7900 GRE", "7900M")
    for memory, name in ((25_753_026_560, "rx-7900-xtx"), (21_458_059_264, "rx-7900-xt"), (16 * GIB, "rx-7900-gre")):
        assert f"({name})" in profile(RYZEN, Device(names, "rocm", "/sys/class/drm", memory)).description


def test_of_what_a_driver_says_a_server_card_keeps_as_much_as_in_the_profile() -> None:
    # 81,559 MiB by NVML, less the 1 GiB that the profile takes off 80.
    found = profile(RYZEN, Device(("NVIDIA H100 80GB HBM3",), "cuda", "NVML", 81_559 * 2**20))
    assert found.gpu is not None
    assert found.gpu.memory == (81_559 - 1_024) * 2**20


def test_of_several_gpus_the_one_with_most_memory_counts() -> None:
    small = Device(("NVIDIA GeForce RTX 3060",), "cuda", "NVML", 12 * GIB)
    large = Device(("NVIDIA GeForce RTX 3090",), "cuda", "NVML", 24 * GIB)
    text = profile(RYZEN, small, large).description
    assert "(rtx-3090)" in text
    assert "1 more GPUs not counted" in text


@pytest.mark.parametrize(
    ("host", "devices", "name", "usable"),
    [
        (
            Host(cpu="Apple M2 Ultra", cores=16, isa="neon", memory=192 * GIB, drive="apple-ssd"),
            [],
            "apple-m2-ultra",
            144,
        ),
        (Host(cpu="Apple M4 Max", cores=10, isa="neon", memory=36 * GIB), [], "apple-m4-max-32core", 24),
        (Host(cpu="Apple M4 Max", cores=12, isa="neon", memory=64 * GIB), [], "apple-m4-max-64gb", 48),
        (Host(cores=20, isa="neon", memory=128 * GIB), [Device(("NVIDIA GB10",), "cuda", "NVML")], "gb10", 110.08),
        (Host(cores=20, memory=128 * GIB, model="NVIDIA_DGX_Spark"), [], "gb10", 110.08),
        (Host(cores=12, memory=61 * GIB, model="NVIDIA Jetson AGX Orin Developer Kit"), [], "jetson-agx-orin", 53.375),
        (Host(cpu="AMD RYZEN AI MAX+ 395 w/ Radeon 8060S", cores=16, memory=125 * GIB), [], "strix-halo", 93.75),
        (Host(cpu="AMD RYZEN AI MAX+ 395 w/ Radeon 8060S", cores=16, memory=62 * GIB), [], "strix-halo-64gb", 46.5),
    ],
)
def test_memory_that_is_shared(host: Host, devices: Sequence[Device], name: str, usable: float) -> None:
    found = profile(host, *devices)
    assert found.unified
    assert found.gpu is not None
    assert f"({name})" in found.description
    assert found.dram.memory == host.memory
    assert found.gpu.memory / GIB == pytest.approx(usable, rel=1e-3)
    assert found.gpu.bandwidth == load_profile(name).dram.bandwidth


def test_a_card_besides_shared_memory_counts() -> None:
    halo = Host(cpu="AMD RYZEN AI MAX+ 395 w/ Radeon 8060S", cores=16, isa="avx512", memory=64 * GIB)
    found = profile(halo, Device(("NVIDIA GeForce RTX 5090",), "cuda", "NVML", 32 * GIB))
    assert not found.unified
    assert "(rtx-5090)" in found.description


def test_of_cards_with_shared_and_with_own_memory_the_latter_count() -> None:
    own = Device(("?",), "cuda", "NVML", 4 * GIB, 1e6)
    found = profile(Host(), own, Device(("NVIDIA GB10",), "cuda", "NVML", 128 * GIB))
    assert not found.unified
    assert found.gpu is not None
    assert (found.gpu.memory, found.gpu.bandwidth) == (4 * GIB, 1e9)  # never 0


def test_a_laptop_and_two_sockets() -> None:
    assert profile(Host(cpu="x", laptop=True)).cpu.kind == "laptop"
    host = Host(cpu="AMD EPYC 7763 64-Core Processor", cores=128, sockets=2, modules=(Module("ddr4", 3200, 64),) * 16)
    two, one = profile(host), load_profile("epyc-7763")
    assert (two.cpu.sockets, two.cpu.cores, two.dram.channels) == (2, 128, 16)
    assert two.cpu.compute == pytest.approx(2 * one.cpu.compute, rel=0.02)


def test_fewer_cores_than_the_processor_has_compute_less() -> None:
    part, whole = profile(Host(cpu="AMD EPYC 7763", cores=16)), load_profile("epyc-7763")
    assert (part.cpu.cores, part.cpu.compute) == (16, pytest.approx(whole.cpu.compute / 4, rel=0.01))
    hybrid = profile(Host(cpu="13th Gen Intel(R) Core(TM) i7-13700K", cores=16))  # with the slow cores
    assert hybrid.cpu.compute == load_profile("i7-13700k").cpu.compute


@pytest.mark.parametrize(
    ("modules", "cpu", "kit"),
    [
        ([("ddr4", 3200, 64)] * 2, "ryzen-5950x", "ddr4-3200-2ch"),
        ([("ddr4", 3200, 64)] * 4, "ryzen-5950x", "ddr4-3200-2ch"),  # two modules a channel
        ([("ddr4", 3200, 64)], "ryzen-5950x", "ddr4-3200-1ch"),
        ([("ddr5", 6000, 64), ("ddr5", 5600, 64)], "ryzen-7950x", "ddr5-5600-2ch"),  # the slower one sets the rate
        ([("ddr5", 4800, 64)] * 12, "epyc-9654", "ddr5-4800-12ch"),
        ([("ddr5", 5200, 64)] * 8, "threadripper-7970x", "ddr5-5200-4ch"),
        ([("ddr5", 4800, 64)] * 8, "", "ddr5-4800-8ch"),
        ([("ddr5", 4800, 64)] * 4, "", "ddr5-4800-2ch"),
        ([("lpddr5", 6400, 32)] * 4, "", "lpddr5-6400-128bit"),
        ([("lpddr5", 6400, 0)] * 4, "", ""),
        ([("ddr4", 0, 64)] * 2, "", ""),
        ([("ddr4", 3200, 64), ("ddr5", 4800, 64)], "", ""),
        ([("ram", 0, 64)], "", ""),
        ([], "ryzen-5950x", ""),
    ],
)
def test_modules_make_a_kit(modules: list[tuple[str, int, int]], cpu: str, kit: str) -> None:
    known = find_component(cpu, "cpu") if cpu else None
    assert kit_of([Module(*module) for module in modules], known, 1) == kit


def test_on_this_machine() -> None:
    found = load_profile("auto")
    assert found.name == "auto"
    assert found.description.startswith("this machine, read from")
    assert found.cpu.cores >= 1
    assert load_profile("AUTO+ddr5-6000-2ch").dram.bandwidth == 78.7e9
    assert load_profile("auto+rtx-4090").gpu == load_profile("rtx-4090").gpu


numbers = st.one_of(st.none(), st.floats(1e6, 1e15))
devices = st.builds(
    Device,
    st.lists(st.sampled_from(["NVIDIA A100", "NVIDIA GB10", "Radeon RX 7900 XT", "H100", "", "?"]), min_size=1).map(
        tuple
    ),
    st.sampled_from(["cuda", "rocm", "sycl"]),
    st.just("NVML"),
    st.one_of(st.none(), st.integers(2 * GIB, 512 * GIB)),
    numbers,
    numbers,
    st.sampled_from(["", "pcie4-x8"]),
)
hosts = st.builds(
    Host,
    cpu=st.one_of(st.text(max_size=10), st.sampled_from(["7600", "Apple M4", "AMD EPYC 7763", "Apple M1 Ultra"])),
    cores=st.integers(1, 300),
    sockets=st.integers(1, 8),
    ghz=st.sampled_from([0.0, 3.1]),
    isa=st.sampled_from(["", "avx2", "avx512", "neon"]),
    memory=st.one_of(st.just(0), st.integers(2**20, 2**43)),
    modules=st.lists(
        st.builds(Module, st.sampled_from(["ddr4", "ddr5", "lpddr5x", "x"]), st.integers(0, 9000), st.integers(0, 64)),
        max_size=40,
    ).map(tuple),
    drive=st.sampled_from(["", "nvme-gen5"]),
    model=st.text(max_size=5),
    laptop=st.booleans(),
)


@given(hosts, st.lists(devices, max_size=3))
def test_whatever_is_found_is_a_machine(host: Host, found: list[Device]) -> None:
    made = profile(host, *found)
    assert made.description.startswith("this machine, read from")
    assert "\n" not in made.description
