"""GPUs as their drivers tell of them: NVML by a stand-in, nvidia-smi and /sys as they write."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lrcsim.hardware.drivers import Device, by_drm, find_gpus, nvidia_by_nvml, nvidia_by_tool, pci_names

RTX_3090 = {
    "name": b"NVIDIA GeForce RTX 3090", "memory": 24576 << 20, "bits": 384, "memory_clock": 9751, "sm_clock": 2100,
    "cores": 10496, "generation": 4, "lanes": 16,
}  # fmt: skip
NOT_SUPPORTED = 3
"""nvml.h, NVML_ERROR_NOT_SUPPORTED."""


class Nvml:
    """A library that answers as NVML does: numbers through pointers, 0 for success."""

    def __init__(self, cards: Sequence[dict[str, Any]], init: int = 0) -> None:
        self.cards, self.init, self.closed = cards, init, False

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return self.init

    def nvmlShutdown(self) -> int:  # noqa: N802
        self.closed = True
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self.cards)
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: ctypes.c_uint, handle: Any) -> int:  # noqa: N802
        handle._obj.value = index.value + 1
        return 0

    def card(self, handle: ctypes.c_void_p) -> dict[str, Any]:
        assert handle.value is not None
        return self.cards[handle.value - 1]

    def nvmlDeviceGetName(self, handle: Any, buffer: Any, size: ctypes.c_uint) -> int:  # noqa: N802
        buffer.value = self.card(handle)["name"]
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:  # noqa: N802
        if "memory" not in self.card(handle):
            return NOT_SUPPORTED
        memory._obj[0] = self.card(handle)["memory"]
        return 0

    def tell(self, handle: Any, key: str, number: Any) -> int:
        if key not in self.card(handle):
            return NOT_SUPPORTED
        number._obj.value = self.card(handle)[key]
        return 0

    def nvmlDeviceGetMemoryBusWidth(self, handle: Any, number: Any) -> int:  # noqa: N802
        return self.tell(handle, "bits", number)

    def nvmlDeviceGetMaxClockInfo(self, handle: Any, clock: ctypes.c_uint, number: Any) -> int:  # noqa: N802
        return self.tell(handle, {1: "sm_clock", 2: "memory_clock"}[clock.value], number)

    def nvmlDeviceGetNumGpuCores(self, handle: Any, number: Any) -> int:  # noqa: N802
        return self.tell(handle, "cores", number)

    def nvmlDeviceGetMaxPcieLinkGeneration(self, handle: Any, number: Any) -> int:  # noqa: N802
        return self.tell(handle, "generation", number)

    def nvmlDeviceGetCurrPcieLinkWidth(self, handle: Any, number: Any) -> int:  # noqa: N802
        return self.tell(handle, "lanes", number)


def test_nvml_by_hand() -> None:
    # 384 bits / 8 x 9751 MHz x 2 = 936.1 GB/s, the data sheet's 936; 10496 cores x 2.1 GHz x 4 = 88.2 TFLOP/s.
    nvml = Nvml([RTX_3090])
    found = nvidia_by_nvml(nvml)
    assert nvml.closed
    assert found == [
        Device(("NVIDIA GeForce RTX 3090",), "cuda", "NVML", 24 * 2**30, 936.096e9, 88.1664e12, "pcie4-x16")
    ]


def test_what_nvml_does_not_support_is_not_known() -> None:
    assert nvidia_by_nvml(Nvml([{"name": b"NVIDIA GB10"}])) == [Device(("NVIDIA GB10",), "cuda", "NVML")]
    assert nvidia_by_nvml(Nvml([RTX_3090], init=9)) == []  # no driver is loaded
    assert [device.names[0] for device in nvidia_by_nvml(Nvml([RTX_3090, {"name": b"NVIDIA T400"}]))] == [
        "NVIDIA GeForce RTX 3090", "NVIDIA T400",
    ]  # fmt: skip


def test_an_older_library_without_a_function() -> None:
    class Older(Nvml):
        nvmlDeviceGetNumGpuCores = None  # type: ignore[assignment]  # noqa: N815

    assert nvidia_by_nvml(Older([RTX_3090]))[0].peak is None


def test_nvidia_smi() -> None:
    printed = "NVIDIA GeForce RTX 4060 Ti, 16380, 4, 8\nNVIDIA GB10, [N/A], [N/A], [N/A]\n\nNo devices were found\n"

    def run(arguments: Sequence[str]) -> str:
        assert list(arguments) == [
            "nvidia-smi", "--query-gpu=name,memory.total,pcie.link.gen.max,pcie.link.width.current",
            "--format=csv,noheader,nounits",
        ]  # fmt: skip
        return printed

    assert nvidia_by_tool(run) == [
        Device(("NVIDIA GeForce RTX 4060 Ti",), "cuda", "nvidia-smi", 16380 * 2**20, link="pcie4-x8"),
        Device(("NVIDIA GB10",), "cuda", "nvidia-smi"),
    ]


PCI_IDS = """#
# a comment
1000  Broadcom / LSI
\t744c  something else
1002  Advanced Micro Devices, Inc. [AMD/ATI]
\t1586  Strix Halo [Radeon Graphics / Radeon 8050S Graphics / Radeon 8060S Graphics]
\t744c  Navi 31 [Radeon RX 7900 XT/7900 XTX/7900 GRE/7900M]
\t\t1002 0e3b  Radeon RX 7900 GRE
\t74a1  Aqua Vanjaram [Instinct MI300X]
8086  Intel Corporation
\t56a0  DG2 [Arc A770]
\t9a49  TigerLake-LP GT2 [Iris Xe Graphics]
"""


def test_names_by_pci_identification(tmp_path: Path) -> None:
    (tmp_path / "usr/share/misc").mkdir(parents=True)
    (tmp_path / "usr/share/misc/pci.ids").write_text(PCI_IDS, encoding="utf-8")
    names = ("Radeon RX 7900 XT", "7900 XTX", "7900 GRE", "7900M")
    assert pci_names(tmp_path, "1002", "744c") == names
    assert pci_names(tmp_path, "8086", "56a0") == ("Arc A770",)
    assert pci_names(tmp_path, "1002", "ffff") == pci_names(tmp_path, "ffff", "744c") == ()
    assert pci_names(tmp_path / "none", "1002", "744c") == pci_names(tmp_path, "1002", "") == ()


def card(root: Path, number: int, files: dict[str, str]) -> None:
    folder = root / f"sys/class/drm/card{number}/device"
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n", encoding="utf-8")


def test_amd_and_intel_by_sys(tmp_path: Path) -> None:
    (tmp_path / "usr/share/hwdata").mkdir(parents=True)
    (tmp_path / "usr/share/hwdata/pci.ids").write_text(PCI_IDS, encoding="utf-8")
    link = {"max_link_speed": "16.0 GT/s PCIe", "current_link_width": "16"}
    card(tmp_path, 0, {"vendor": "0x1002", "device": "0x744c", "mem_info_vram_total": "25753026560", **link})
    card(tmp_path, 1, {"vendor": "0x8086", "device": "0x56a0", "max_link_speed": "2.5 GT/s PCIe"})
    card(tmp_path, 2, {"vendor": "0x8086", "device": "0x9a49"})  # built into the processor
    card(tmp_path, 3, {"vendor": "0x1002", "device": "0x1586", "mem_info_vram_total": "536870912"})  # the same
    card(tmp_path, 4, {"vendor": "0x10de", "device": "0x2204"})  # NVIDIA: by NVML
    card(tmp_path, 5, {"vendor": "0x1002", "product_name": "AMD Instinct MI210", "mem_info_vram_total": "68702699520"})
    card(tmp_path, 6, {"vendor": "0x1002", "device": "0xffff", "mem_info_vram_total": "8573157376"})
    names = ("Radeon RX 7900 XT", "7900 XTX", "7900 GRE", "7900M")
    assert by_drm(tmp_path) == [
        Device(names, "rocm", "/sys/class/drm", 25753026560, link="pcie4-x16"),
        Device(("Arc A770",), "sycl", "/sys/class/drm"),
        Device(("AMD Instinct MI210",), "rocm", "/sys/class/drm", 68702699520),
        Device(("AMD GPU",), "rocm", "/sys/class/drm", 8573157376),
    ]


def test_the_tool_is_asked_where_the_library_finds_none(tmp_path: Path) -> None:
    def run(arguments: Sequence[str]) -> str:
        return "NVIDIA GeForce RTX 2060, 6144, 3, 16\n"

    assert find_gpus(tmp_path, "linux", run, Nvml([RTX_3090]))[0].read_from == "NVML"
    assert find_gpus(tmp_path, "linux", run, Nvml([RTX_3090], init=9))[0].read_from == "nvidia-smi"
    assert find_gpus(tmp_path, "darwin", run, Nvml([RTX_3090])) == []
    assert find_gpus(tmp_path, "linux", lambda arguments: "", Nvml([])) == []
