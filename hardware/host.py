"""What the system says of the machine it runs on: processor, main memory, storage. What it does not say stays empty."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lrcsim.base.cores import usable_cores

Run = Callable[[Sequence[str]], str]
PATIENCE = 0.8
"""Seconds that a tool has to answer."""

LAPTOPS = {"8", "9", "10", "11", "14", "30", "31", "32"}
"""Types of chassis that are carried about (SMBIOS specification, system enclosure: portable, laptop, notebook ...)."""

DRIVES = {"8.0": "nvme-gen3", "16.0": "nvme-gen4", "32.0": "nvme-gen5"}
"""Components by GT/s of a lane of the drive's link."""

ROOT = Path("/")


@dataclass(frozen=True)
class Module:
    """A module of main memory: ``"ddr5"``, MT/s, bits of its bus; 0 where it does not say."""

    kind: str
    rate: int
    bits: int


@dataclass(frozen=True)
class Host:
    """A machine without its GPUs.

    Attributes:
        cpu: the processor's name.
        cores: physical ones that this process may use.
        sockets: processors.
        ghz: the highest clock, where the system does not say it the present one; 0: not said.
        isa: ``"avx512"``, ``"avx2"``, ``"neon"``.
        memory: bytes that the process may have; 0: not said.
        modules: of main memory, those that are plugged in.
        drive: the component that storage is like.
        model: of the machine or the board.
        laptop: whether it is one.
    """

    cpu: str = ""
    cores: int = 1
    sockets: int = 1
    ghz: float = 0.0
    isa: str = ""
    memory: int = 0
    modules: tuple[Module, ...] = ()
    drive: str = ""
    model: str = ""
    laptop: bool = False


def run_tool(arguments: Sequence[str]) -> str:
    """Return what a program prints, "" where there is none, or it takes longer than `PATIENCE`."""
    try:
        made = subprocess.run(
            arguments,
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""
    return made.stdout


def text_of(path: Path) -> str:
    """Return a file's text without blanks around it, "" where it cannot be read."""
    try:
        return path.read_text("utf-8", errors="replace").strip("\0 \t\n")
    except (OSError, ValueError):
        return ""


def read_host(root: Path = ROOT, system: str = sys.platform, run: Run = run_tool, usable: int | None = None) -> Host:
    """Return what is known of this machine; of another system than Linux, macOS and Windows, its cores alone.

    Args:
        root: where ``proc`` and ``sys`` are.
        system: as `sys.platform`.
        run: calls a program and returns what it prints.
        usable: processors that the process may use; None: ask.
    """
    cores = usable_cores() if usable is None else usable
    if system == "darwin":
        return _macos(run, cores)
    if system == "win32":
        return _windows(run, cores)
    return _linux(root, cores)


def _linux(root: Path, usable: int) -> Host:
    blocks = [
        dict(line.split(":", 1) for line in block.splitlines() if ":" in line)
        for block in re.sub(r"[ \t]*:[ \t]*", ":", text_of(root / "proc/cpuinfo")).split("\n\n")
    ]
    blocks = [block for block in blocks if "processor" in block]
    first = blocks[0] if blocks else {}
    flags = set(f"{first.get('flags', '')} {first.get('Features', '')}".split())
    sockets = {block.get("physical id", "0") for block in blocks}
    physical = {(block.get("physical id", "0"), block.get("core id", block["processor"])) for block in blocks}
    dmi = root / "sys/class/dmi/id"
    return Host(
        cpu=first.get("model name", ""),
        cores=max(1, min(len(physical) or usable, usable)),
        sockets=max(1, len(sockets)),
        ghz=_number(text_of(root / "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")) / 1e6
        or _number(first.get("cpu MHz", "")) / 1e3,
        isa=next(
            (isa for flag, isa in (("avx512f", "avx512"), ("avx2", "avx2"), ("asimd", "neon")) if flag in flags), ""
        ),
        memory=_linux_memory(root),
        modules=_modules(text_of(root / "run/udev/data/+dmi:id")),
        drive=_drive(root),
        model=text_of(root / "proc/device-tree/model") or text_of(dmi / "product_name"),
        laptop=text_of(dmi / "chassis_type") in LAPTOPS,
    )


def _linux_memory(root: Path) -> int:
    """Return the bytes of main memory, or the fewer that the control group allows."""
    found = re.search(r"^MemTotal:\s+(\d+) kB", text_of(root / "proc/meminfo"), re.MULTILINE)
    if found is None:
        return 0
    total = int(found[1]) * 1024
    for path in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = text_of(root / path)
        total = min(total, int(limit)) if limit.isdecimal() and int(limit) > 0 else total
    return total


def _modules(udev: str) -> tuple[Module, ...]:
    """Return the modules of main memory that udev's record of the SMBIOS table lists (systemd 248 and later)."""
    records: dict[str, dict[str, str]] = {}
    for number, key, value in re.findall(r"^E:MEMORY_DEVICE_(\d+)_(\w+)=(.*)$", udev, re.MULTILINE):
        records.setdefault(number, {})[key] = value.strip()
    return tuple(
        Module(
            record["TYPE"].lower(),
            int(_number(record.get("CONFIGURED_SPEED_MTS", "") or record.get("SPEED_MTS", ""))),
            int(_number(record.get("DATA_WIDTH", ""))),
        )
        for record in records.values()
        if record.get("PRESENT", "1") != "0" and record.get("TYPE", "").lower() not in ("", "unknown")
    )


def _drive(root: Path) -> str:
    """Return the component that the fastest drive is like: by its PCI Express link, or a SATA drive without a disk."""
    speeds = [text_of(path).split(" ")[0] for path in root.glob("sys/class/nvme/nvme*/device/max_link_speed")]
    found = sorted(DRIVES[speed] for speed in speeds if speed in DRIVES)
    if found:
        return found[-1]
    turning = [text_of(path) for path in root.glob("sys/block/sd*/queue/rotational")]
    return "sata-ssd" if "0" in turning else ""


def _macos(run: Run, usable: int) -> Host:
    asked = ("machdep.cpu.brand_string", "hw.memsize", "hw.physicalcpu", "hw.perflevel0.physicalcpu", "hw.model")
    printed = run(["sysctl", *asked])
    said = dict(line.split(": ", 1) for line in printed.splitlines() if ": " in line)
    cpu, model = said.get("machdep.cpu.brand_string", ""), said.get("hw.model", "")
    fast = said.get("hw.perflevel0.physicalcpu") or said.get("hw.physicalcpu", "")
    return Host(
        cpu=cpu,
        cores=int(_number(fast)) or usable,
        isa="neon" if cpu.startswith("Apple") else "avx2",
        memory=int(_number(said.get("hw.memsize", ""))),
        drive="apple-ssd",
        model=model,
    )


def _windows(run: Run, usable: int) -> Host:
    """Ask the registry and the kernel; cores are logical ones of which two are a physical one."""
    key = r"HKLM\HARDWARE\DESCRIPTION\System\CentralProcessor\0"
    found = re.search(r"ProcessorNameString\s+REG_SZ\s+(.*)", run(["reg", "query", key, "/v", "ProcessorNameString"]))
    return Host(cpu=found[1].strip() if found else "", cores=max(1, usable // 2), isa="avx2", memory=_windows_memory())


def _windows_memory() -> int:
    """Return the bytes of main memory by GlobalMemoryStatusEx (MEMORYSTATUSEX: two 32-bit words, seven 64-bit ones)."""
    import ctypes

    kernel = getattr(getattr(ctypes, "windll", None), "kernel32", None)
    status = (ctypes.c_uint64 * 8)()
    status[0] = ctypes.sizeof(status)  # the length is the first 32-bit word
    if kernel is None or not kernel.GlobalMemoryStatusEx(ctypes.byref(status)):
        return 0
    return int(status[1])  # ullTotalPhys


def _number(text: str) -> float:
    try:
        return max(0.0, float(text))
    except ValueError:
        return 0.0
