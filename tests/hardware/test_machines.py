"""Machines made of components: what is named, and what the usual host gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrcsim.hardware import load_profile


def test_a_composition_by_hand() -> None:
    # 2 x 8 bytes x 5600 MT/s = 89.6 GB/s, 82 %: 73.5. The 7950X: 16 cores x 5.7 GHz x 32 = 2.918 TFLOP/s, 50 %, two
    # digits: 1.5; it draws 88 % of the memory. Nobody named the link and the storage: those of GeForce 30 cards.
    machine = load_profile("rtx-3060+ryzen-7950x+ddr5-5600-2ch")
    assert machine.name == "rtx-3060+ryzen-7950x+ddr5-5600-2ch"
    assert machine.gpu == load_profile("rtx-3060").gpu
    assert (machine.dram.bandwidth, machine.dram.channels) == (73.5e9, 2)
    assert (machine.cpu.compute, machine.cpu.cores, machine.cpu.isa) == (1.5e12, 16, "avx512")
    assert machine.cpu.bandwidth == pytest.approx(0.88 * 73.5e9)
    assert [(link.name, link.bandwidth) for link in machine.links] == [("nvme", 6.5e9), ("pcie", 25.8e9)]
    assert (machine.layer_overhead, machine.expert_overhead) == (30e-6, 5e-6)
    assert machine.description == "NVIDIA GeForce RTX 3060, 12 GB; assumed: pcie4-x16, nvme-gen4"


def test_a_name_without_a_size_says_which_others_there_are() -> None:
    assert load_profile("rtx-5060-ti").description.startswith("NVIDIA GeForce RTX 5060 Ti, 16 GB (or rtx-5060-ti-8gb);")
    assert load_profile("rtx-5060-ti-8gb").description.startswith("NVIDIA GeForce RTX 5060 Ti, 8 GB;")


def test_the_order_of_components_does_not_matter() -> None:
    one = load_profile("rtx-3060+ryzen-7950x+pcie3-x8")
    other = load_profile("pcie3-x8+ryzen-7950x+rtx-3060")
    assert one.links == other.links
    assert (one.gpu, one.cpu, one.dram) == (other.gpu, other.cpu, other.dram)
    assert other.name == "pcie3-x8+ryzen-7950x+rtx-3060"


def test_a_bare_gpu_stands_in_the_host_of_its_kind() -> None:
    machine = load_profile("rtx-5070")
    assert machine == load_profile("rtx-5090+rtx-5070".partition("+")[2])
    assert machine.description == (
        "NVIDIA GeForce RTX 5070, 12 GB; assumed: cpu-16core-avx512, ddr5-6000-2ch, pcie5-x16, nvme-gen5"
    )
    assert (machine.cpu, machine.dram, machine.links) == (
        load_profile("rtx-5090").cpu, load_profile("rtx-5090").dram, load_profile("rtx-5090").links,
    )  # fmt: skip


def test_a_processor_brings_its_platforms_memory_unless_another_is_named() -> None:
    assert load_profile("rtx-3060+ryzen-7950x").dram.kind == "ddr5"
    assert load_profile("rtx-4090+epyc-7763").dram.channels == 8
    assert load_profile("rtx-4090+epyc-7763+ddr4-2666-4ch").dram.channels == 4
    assert load_profile("rtx-3060+cpu-16core-avx512").dram == load_profile("rtx-3060").dram  # a class has no platform


def test_without_a_gpu_the_rest_is_a_desktop() -> None:
    machine, desktop = load_profile("ryzen-5950x"), load_profile("desktop-cpu")
    assert machine.gpu is None
    assert (machine.links, machine.layer_overhead) == (desktop.links, desktop.layer_overhead)
    assert machine.description == "machine without a GPU; assumed: ddr4-3200-2ch, nvme-gen3"


def test_a_gpu_brings_its_link_where_there_is_none() -> None:
    with_gpu = load_profile("desktop-cpu+rtx-4060")
    assert with_gpu.device_link == load_profile("rtx-4060").device_link
    assert with_gpu.cpu == load_profile("desktop-cpu").cpu
    assert with_gpu.description == "NVIDIA GeForce RTX 4060, 8 GB; the rest as desktop-cpu"
    assert load_profile("desktop-cpu", ["gpu=4060"]).device_link == with_gpu.device_link
    assert load_profile("rtx-4090+pcie3-x8", ["gpu=3060"]).device_link == load_profile("rtx-4090+pcie3-x8").device_link


def test_grace_hopper_has_nvlink_for_a_link() -> None:
    machine = load_profile("gh200")
    assert not machine.unified
    assert machine.device_link is not None
    assert (machine.device_link.name, machine.device_link.bandwidth) == ("pcie", 382e9)
    assert machine.dram.memory == 480 * 2**30


def test_named_parts_go_before_those_that_a_gpu_brings() -> None:
    mac = load_profile("apple-m4+lpddr5-6400-128bit+nvme-gen3")
    assert (mac.dram.bandwidth, mac.links[0].bandwidth) == (81.9e9, 3.2e9)
    assert mac.gpu == load_profile("apple-m4").gpu


def test_files_take_any_machine_as_base_and_a_gpu_by_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "RTX 4070 Ti"\ndram = "ddr5-6400-2ch"\n', encoding="utf-8")
    assert load_profile(path).gpu == load_profile("rtx-4070-ti").gpu
    assert load_profile(path).dram.bandwidth == 84e9
    path.write_text('base = "desktop-cpu"\ngpu = "rtx-3060"\n', encoding="utf-8")
    assert load_profile(path).gpu == load_profile("rtx-3060").gpu
    assert load_profile(f"{path}+4080").gpu == load_profile("rtx-4080").gpu


def test_a_file_without_ending_does_not_hide_a_built_in_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rtx-4090+pcie3-x8").write_text("layer_overhead = 3", encoding="utf-8")
    (tmp_path / "rtx-3090").write_text("layer_overhead = 3", encoding="utf-8")
    with pytest.raises(ValueError, match="layer_overhead"):
        load_profile("rtx-4090+pcie3-x8")  # a file's whole name goes first
