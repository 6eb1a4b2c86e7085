"""What kind of machine a profile describes: by its programming interface, and the class of its processor."""

from __future__ import annotations

import re
from typing import Literal, get_args

from lrcsim.base.errors import check_choice
from lrcsim.hardware import HardwareProfile

DeviceKind = Literal["cuda", "cuda-unified", "rocm", "metal", "sycl", "cpu"]
DEVICE_KINDS: tuple[DeviceKind, ...] = get_args(DeviceKind)
APIS = ("cuda", "rocm", "metal", "sycl")
"""What ``gpu.api`` of a profile may be."""

CpuClass = Literal["desktop", "laptop", "server", "sockets", "old-server", "phone"]
CPU_CLASSES: tuple[CpuClass, ...] = get_args(CpuClass)
CLASS_MEANING: dict[CpuClass, str] = {
    "desktop": "two channels of main memory",
    "laptop": "as a desktop, with a power limit",
    "server": "one socket, four channels of DDR5 and more",
    "sockets": "two sockets and more: experts spread over both memories (NUMA)",
    "old-server": "DDR4, four channels and more: servers and workstations before 2021, one socket",
    "phone": "a phone, or a board of its kind",
}

MOST_CHANNELS = 12
"""Of main memory that one socket of a server has (AMD EPYC 9004, Intel Xeon 6); more is another socket's."""

REACHED = 0.78
"""Share of the theoretical bandwidth that the built-in main memories of servers have as effective."""


CHANNEL = 40e9
"""Bytes/s of a channel where the profile does not say: between DDR5-4800 and -5600."""


def device_kind(profile: HardwareProfile) -> DeviceKind:
    """Return which of a runtime's numbers for devices hold: by the profile's ``gpu.api``.

    Raises:
        ConfigError: the profile says an interface that is not known.
    """
    if profile.gpu is None:
        return "cpu"
    check_choice(f"hardware {profile.name}: gpu.api", profile.gpu.api, APIS)
    if profile.gpu.api == "cuda" and profile.unified:
        return "cuda-unified"
    return next(kind for kind in DEVICE_KINDS if kind == profile.gpu.api)


def channels(profile: HardwareProfile) -> int:
    """Return how many channels main memory has: as the profile says, or more where its bandwidth needs more.

    Who gives ``--set dram.bandwidth=102GB/s`` to a desktop's profile has another machine's memory in mind.
    """
    dram = profile.dram
    found = round(dram.bandwidth / (REACHED * (dram.channel or CHANNEL)))
    return max(dram.channels or 0, found)


def cpu_class(profile: HardwareProfile) -> CpuClass:
    """Return the class of a machine's processor: ``cpu.kind`` where the profile says it, else by its main memory.

    Raises:
        ConfigError: the profile says a class that is not known.
    """
    if profile.cpu.kind:
        check_choice(f"hardware {profile.name}: cpu.kind", profile.cpu.kind, CPU_CLASSES)
        return next(kind for kind in CPU_CLASSES if kind == profile.cpu.kind)
    words = f"{profile.name} {profile.description}".lower()
    if re.search(r"\b(laptop|mobile)\b", words):
        return "laptop"
    if profile.unified:
        return "desktop"
    count = channels(profile)
    if profile.cpu.sockets > 1 or count > MOST_CHANNELS:
        return "sockets"
    if count < 4:
        return "desktop"
    return "old-server" if profile.dram.kind == "ddr4" else "server"
