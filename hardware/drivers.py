"""GPUs of this machine, by what their drivers say: NVML or nvidia-smi; on Linux /sys/class/drm for AMD and Intel.

Nothing is raised for what is missing: a number that nobody says is None.
"""

from __future__ import annotations

import ctypes
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrcsim.hardware.host import ROOT, Run, run_tool, text_of
from lrcsim.hardware.rules import PCIE

NAME_BYTES = 96
SM_CLOCK, MEMORY_CLOCK = 1, 2
"""NVML's numbers of clocks (nvml.h, nvmlClockType_t)."""

GENERATIONS = {"8.0": 3, "16.0": 4, "32.0": 5}
"""PCI Express generations by GT/s of a lane."""

VENDORS = {"0x1002": ("AMD", "rocm"), "0x8086": ("Intel", "sycl")}
BUILT_IN = 2 * 2**30
"""Bytes of memory of its own up to which an AMD GPU counts as built into the processor."""

PCI_IDS = ("usr/share/hwdata/pci.ids", "usr/share/misc/pci.ids")
QUERY = ("name", "memory.total", "pcie.link.gen.max", "pcie.link.width.current")


@dataclass(frozen=True)
class Device:
    """A GPU that was found.

    Attributes:
        names: the driver's name of it, or all that one identification stands for.
        api: what programs it.
        read_from: who said so.
        memory: bytes.
        bandwidth: theoretical, bytes/s.
        peak: FLOP/s of cores x clock, as of GeForce cards (`gpus`: fp16 with fp32 accumulate, four a cycle).
        link: the component of its link.
    """

    names: tuple[str, ...]
    api: str
    read_from: str
    memory: int | None = None
    bandwidth: float | None = None
    peak: float | None = None
    link: str = ""


def find_gpus(root: Path = ROOT, system: str = sys.platform, run: Run = run_tool, library: Any = None) -> list[Device]:
    """Return the GPUs that drivers tell of, without those built into a processor.

    Args:
        root: where ``sys`` is.
        system: as `sys.platform`.
        run: calls a program and returns what it prints.
        library: NVML; None: the system's.
    """
    if system == "darwin":
        return []
    nvml = _library(system) if library is None else library
    found = nvidia_by_nvml(nvml) if nvml is not None else []
    return [*(found or nvidia_by_tool(run)), *by_drm(root)]


def _library(system: str) -> Any:
    name = "nvml.dll" if system == "win32" else "libnvidia-ml.so.1"
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def nvidia_by_nvml(nvml: Any) -> list[Device]:
    """Return what NVML says; [] where it cannot be used."""
    if nvml.nvmlInit_v2() != 0:
        return []
    try:
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
            return []
        return [device for index in range(count.value) if (device := _by_handle(nvml, index)) is not None]
    finally:
        nvml.nvmlShutdown()


def _by_handle(nvml: Any, index: int) -> Device | None:
    handle, name = ctypes.c_void_p(), ctypes.create_string_buffer(NAME_BYTES)
    if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) != 0:
        return None
    if nvml.nvmlDeviceGetName(handle, name, ctypes.c_uint(NAME_BYTES)) != 0:
        return None

    def ask(function: str, *arguments: Any) -> int | None:
        number = ctypes.c_uint()
        call = getattr(nvml, function, None)
        return number.value if call and call(handle, *arguments, ctypes.byref(number)) == 0 else None

    memory = (ctypes.c_uint64 * 3)()  # nvmlMemory_t: total, free, used
    total = memory[0] if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)) == 0 else None
    bits, clock = ask("nvmlDeviceGetMemoryBusWidth"), ask("nvmlDeviceGetMaxClockInfo", ctypes.c_uint(MEMORY_CLOCK))
    cores, sm_clock = ask("nvmlDeviceGetNumGpuCores"), ask("nvmlDeviceGetMaxClockInfo", ctypes.c_uint(SM_CLOCK))
    return Device(
        names=(name.value.decode("utf-8", "replace"),),
        api="cuda",
        read_from="NVML",
        memory=total or None,
        bandwidth=bits / 8 * clock * 1e6 * 2 if bits and clock else None,  # two transfers in a cycle of that clock
        peak=cores * sm_clock * 1e6 * 4 if cores and sm_clock else None,
        link=_link(ask("nvmlDeviceGetMaxPcieLinkGeneration"), ask("nvmlDeviceGetCurrPcieLinkWidth")),
    )


def nvidia_by_tool(run: Run) -> list[Device]:
    """Return what nvidia-smi prints; what it does not know it prints as [N/A]."""
    printed = run(["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"])
    found = []
    for line in printed.splitlines():
        cells = [cell.strip() for cell in line.rsplit(",", len(QUERY) - 1)]
        if len(cells) == len(QUERY):
            memory, generation, lanes = (int(cell) if cell.isdecimal() else None for cell in cells[1:])
            found.append(
                Device(
                    (cells[0],), "cuda", "nvidia-smi", memory * 2**20 if memory else None, link=_link(generation, lanes)
                )
            )
    return found


def by_drm(root: Path) -> list[Device]:
    """Return the AMD and Intel GPUs of /sys/class/drm with memory of their own, named by the system's PCI names."""
    found = []
    for card in sorted(root.glob("sys/class/drm/card*/device")):
        vendor = text_of(card / "vendor")
        if vendor not in VENDORS:
            continue
        maker, api = VENDORS[vendor]
        written = text_of(card / "mem_info_vram_total")
        memory = int(written) if written.isdecimal() else None
        product = text_of(card / "product_name")
        names = (product,) if product else pci_names(root, vendor[2:], text_of(card / "device")[2:])
        discrete = memory is not None and memory > BUILT_IN if api == "rocm" else any("Arc" in name for name in names)
        if discrete:
            generation = GENERATIONS.get(text_of(card / "max_link_speed").split(" ")[0])
            lanes = text_of(card / "current_link_width")
            link = _link(generation, int(lanes) if lanes.isdecimal() else None)
            found.append(Device(names or (f"{maker} GPU",), api, "/sys/class/drm", memory, link=link))
    return found


def pci_names(root: Path, vendor: str, device: str) -> tuple[str, ...]:
    """Return the names that a PCI identification stands for: ``Navi 31 [Radeon RX 7900 XT/7900 XTX]`` gives two.

    Args:
        root: where ``usr/share`` is.
        vendor: four hexadecimal digits.
        device: the same.
    """
    listed = next((text for path in PCI_IDS if (text := text_of(root / path))), "")
    section = re.search(rf"^{re.escape(vendor)}  .*\n((?:[\t#].*\n|\n)*)", f"{listed}\n", re.MULTILINE)
    line = re.search(rf"^\t{re.escape(device)}  (.*)$", section[1], re.MULTILINE) if section and device else None
    if line is None:
        return ()
    inside = re.search(r"\[(.*)\]", line[1])
    return tuple(name.strip() for name in (inside[1] if inside else line[1]).split("/"))


def _link(generation: int | None, lanes: int | None) -> str:
    """Return the component of a link, "" where it is not known or there is none."""
    name = f"pcie{min(generation or 0, 5)}-x{lanes}"
    return name if PCIE.fullmatch(name) else ""
