"""GPUs: a data sheet's numbers times their families' shares, and that no number is out of the ordinary."""

from __future__ import annotations

from itertools import pairwise

import pytest

from lrcsim.hardware import Gpu, load_profile
from lrcsim.hardware.gpus import GIB, gpu_part, gpus, title_of
from lrcsim.runtimes.machine_kinds import cpu_class, device_kind


def gpu_of(name: str) -> Gpu:
    found = load_profile(name).gpu
    assert found is not None
    return found


def test_a_card_by_hand() -> None:
    # RTX 3060: 90 % of 360 GB/s = 324. 3584 cores x 1.777 GHz x 4 = 25.48 TFLOP/s, of which 85 % = 21.65: 21.7.
    card = gpu_of("rtx-3060")
    assert card == Gpu(memory=12 * GIB, bandwidth=324e9, compute=21.7e12, overhead=4e-6, api="cuda")
    sources = load_profile("rtx-3060").sources
    assert sources["gpu.bandwidth"].startswith("90 % of the theoretical 360 GB/s (NVIDIA")
    assert "85 % of 25.48 TFLOP/s dense fp16" in sources["gpu.compute"]
    assert "3584 cores x 1.777 GHz x 4 FLOP per cycle" in sources["gpu.compute"]


def test_a_server_card_keeps_some_of_its_memory() -> None:
    # L4: 24 GB with error correction are 22.5 GiB, of which the driver keeps one.
    assert gpu_of("l4").memory == 21.5 * GIB
    assert "less what error correction and the driver keep" in load_profile("l4").sources["gpu.memory"]


def test_shared_memory_by_hand() -> None:
    # M2 Pro, 16 GB: macOS gives two thirds, to a MiB: 10,922. 85 % of 200 GB/s. 8 cores x 3.5 GHz x 32 x 52 % = 0.466.
    mac = load_profile("apple-m2-pro-16gb")
    assert mac.unified
    assert mac.gpu == Gpu(memory=10_922 * 2**20, bandwidth=170e9, compute=5.17e12, overhead=8e-6, api="metal")
    assert (mac.dram.memory, mac.dram.bandwidth) == (16 * GIB, 170e9)
    assert (mac.cpu.compute, mac.cpu.cores, mac.cpu.bandwidth) == (0.47e12, 8, 85e9)
    assert [link.name for link in mac.links] == ["nvme"]
    assert gpu_part("75 %", 36 * GIB, "Apple") == 24 * GIB
    assert gpu_part("75 %", 48 * GIB, "Apple") == 36 * GIB
    assert gpu_part("75 %", 16 * GIB, "AMD") == 12 * GIB


@pytest.mark.parametrize(
    ("cores", "ghz", "flop", "printed"),
    [
        (10496, 1.695, 4, 71.0),  # RTX 3090: GA102 whitepaper
        (16384, 2.52, 4, 165.2),  # RTX 4090: Ada whitepaper
        (21760, 2.407, 4, 209.5),  # RTX 5090: RTX Blackwell whitepaper
        (4352, 1.545, 8, 53.8),  # RTX 2080 Ti: Turing whitepaper
        (10752, 1.8, 8, 309.7 / 2),  # RTX A6000 data sheet: 309.7 with sparsity
        (18176, 2.505, 8, 1457 / 4),  # RTX 6000 Ada data sheet: 1,457 of fp8 with sparsity
    ],
)
def test_cores_and_clock_give_the_peaks_that_are_printed(cores: int, ghz: float, flop: int, printed: float) -> None:
    assert cores * ghz * flop / 1e3 == pytest.approx(printed, rel=4e-3)


def test_no_card_is_out_of_the_ordinary() -> None:
    for name, component in gpus().items():
        card = gpu_of(name)
        assert 2 * GIB < card.memory <= component.memory
        assert 40e9 < card.bandwidth < 8e12
        assert 1.5e12 < card.compute < 3e15
        assert 12 < card.compute / card.bandwidth < 900, name  # FLOP for each byte; Thor has most
        assert 1.5 < card.bandwidth / card.memory * 2**30 / 1e9 < 70, name  # GB/s for each GiB
        assert 3e-6 < card.overhead < 1e-5


def test_a_larger_card_of_a_generation_computes_no_less() -> None:
    for family in ("geforce-20", "geforce-30", "geforce-40", "geforce-50"):
        found = [gpu_of(gpu.name).compute for gpu in gpus().values() if gpu.family == family]
        assert all(before <= after for before, after in pairwise(found)), family
    for generation in range(1, 6):
        kinds = [f"apple-m{generation}{kind}" for kind in ("", "-pro", "-max")]
        assert [gpu_of(kind).bandwidth for kind in kinds] == sorted(gpu_of(kind).bandwidth for kind in kinds)


def test_sizes_of_memory_are_components_and_the_largest_needs_none() -> None:
    assert gpus()["apple-m4-max"].sizes == (48, 64, 128)
    assert [name for name in gpus() if name.startswith("apple-m4-max")] == [
        "apple-m4-max-32core", "apple-m4-max-48gb", "apple-m4-max-64gb", "apple-m4-max",
    ]  # fmt: skip
    assert load_profile("apple-m4-max-128gb") == load_profile("apple-m4-max")
    assert gpu_of("rtx-4060-ti-8gb").bandwidth == gpu_of("rtx-4060-ti").bandwidth
    assert "(or rtx-4060-ti-8gb)" in load_profile("rtx-4060-ti").description


def test_kinds_of_machines() -> None:
    kinds = {
        "gb10": ("cuda-unified", "desktop"),
        "strix-halo": ("rocm", "desktop"),
        "gh200": ("cuda", "server"),
        "mi300x": ("rocm", "server"),
        "b580": ("sycl", "desktop"),
        "rtx-5080-laptop": ("cuda", "laptop"),
        "apple-m3-ultra": ("metal", "desktop"),
        "v100": ("cuda", "old-server"),
        "rtx-3060+core-ultra-7-155h": ("cuda", "laptop"),
    }
    for name, expected in kinds.items():
        profile = load_profile(name)
        assert (device_kind(profile), cpu_class(profile)) == expected, name
    for name in gpus():  # and none is refused
        assert device_kind(load_profile(name))
        assert cpu_class(load_profile(name))


def test_titles() -> None:
    assert title_of("NVIDIA GeForce", "rtx-4070-ti-super") == "NVIDIA GeForce RTX 4070 Ti Super"
    assert title_of("Apple", "apple-m2-ultra") == "Apple M2 Ultra"
    assert title_of("Apple", "apple-m1-pro") == "Apple M1 Pro"
    assert title_of("NVIDIA", "rtx-pro-6000") == "NVIDIA RTX PRO 6000"
