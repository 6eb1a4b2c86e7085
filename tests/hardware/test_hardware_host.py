"""What the system says of its processor, memory and storage: from files and outputs as the systems write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from lrcsim.hardware.host import Host, Module, read_host, run_tool

CPUINFO = """processor\t: {number}
vendor_id\t: AuthenticAMD
model name\t: AMD Ryzen 9 5950X 16-Core Processor
cpu MHz\t\t: 3400.000
physical id\t: 0
siblings\t: 4
core id\t\t: {core}
cpu cores\t: 2
flags\t\t: fpu sse2 avx avx2 fma

"""
MEMINFO = "MemTotal:       65768356 kB\nMemFree:         1000000 kB\n"
UDEV = """I:1234
E:MEMORY_ARRAY_NUM_DEVICES=4
E:MEMORY_DEVICE_0_PRESENT=0
E:MEMORY_DEVICE_0_TYPE=Unknown
E:MEMORY_DEVICE_1_SIZE=34359738368
E:MEMORY_DEVICE_1_DATA_WIDTH=64
E:MEMORY_DEVICE_1_TYPE=DDR4
E:MEMORY_DEVICE_1_SPEED_MTS=3600
E:MEMORY_DEVICE_1_CONFIGURED_SPEED_MTS=3200
E:MEMORY_DEVICE_2_PRESENT=0
E:MEMORY_DEVICE_3_SIZE=34359738368
E:MEMORY_DEVICE_3_DATA_WIDTH=64
E:MEMORY_DEVICE_3_TYPE=DDR4
E:MEMORY_DEVICE_3_SPEED_MTS=3200
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def nothing(arguments: Sequence[str]) -> str:
    return ""


def test_linux(tmp_path: Path) -> None:
    # Two cores of two threads each; of the four slots two have modules, one of which says what it is set to.
    cores = "".join(CPUINFO.format(number=number, core=number // 2) for number in range(4))
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": cores,
            "proc/meminfo": MEMINFO,
            "run/udev/data/+dmi:id": UDEV,
            "sys/class/nvme/nvme0/device/max_link_speed": "16.0 GT/s PCIe\n",
            "sys/class/nvme/nvme1/device/max_link_speed": "8.0 GT/s PCIe\n",
            "sys/class/dmi/id/product_name": "X570 AORUS ELITE\n",
            "sys/class/dmi/id/chassis_type": "3\n",
            "sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq": "4900000\n",
        },
    )
    assert read_host(root, "linux", nothing, 4) == Host(
        cpu="AMD Ryzen 9 5950X 16-Core Processor",
        cores=2,
        sockets=1,
        ghz=4.9,
        isa="avx2",
        memory=65_768_356 * 1024,
        modules=(Module("ddr4", 3200, 64), Module("ddr4", 3200, 64)),
        drive="nvme-gen4",
        model="X570 AORUS ELITE",
        laptop=False,
    )


def test_two_sockets_a_control_group_a_laptop(tmp_path: Path) -> None:
    blocks = [CPUINFO.format(number=number, core=number % 2) for number in range(4)]
    blocks[2:] = [block.replace("physical id\t: 0", "physical id\t: 1") for block in blocks[2:]]
    files = {
        "proc/cpuinfo": "".join(blocks),
        "proc/meminfo": MEMINFO,
        "sys/fs/cgroup/memory.max": "8589934592\n",
        "sys/class/dmi/id/chassis_type": "10\n",
        "sys/block/sda/queue/rotational": "0\n",
    }
    host = read_host(write(tmp_path, files), "linux", nothing, 4)
    assert (host.sockets, host.cores, host.memory, host.laptop, host.drive) == (2, 4, 2**33, True, "sata-ssd")
    assert host.ghz == 3.4  # no cpufreq: the present clock
    assert read_host(tmp_path, "linux", nothing, 1).cores == 1  # a process that may use one
    write(tmp_path, {"sys/fs/cgroup/memory.max": "max\n", "sys/block/sda/queue/rotational": "1\n"})
    assert read_host(tmp_path, "linux", nothing, 4).memory == 65_768_356 * 1024
    assert not read_host(tmp_path, "linux", nothing, 4).drive


def test_arm(tmp_path: Path) -> None:
    block = "processor\t: {}\nBogoMIPS\t: 2000.00\nFeatures\t: fp asimd aes\nCPU implementer\t: 0x41\n\n"
    model = "NVIDIA Jetson AGX Orin Developer Kit\0"
    files = {"proc/cpuinfo": "".join(map(block.format, range(12))), "proc/device-tree/model": model}
    host = read_host(write(tmp_path, files), "linux", nothing, 12)
    assert (host.cpu, host.cores, host.isa, host.model) == ("", 12, "neon", "NVIDIA Jetson AGX Orin Developer Kit")


def test_macos(tmp_path: Path) -> None:
    printed = (
        "machdep.cpu.brand_string: Apple M2 Pro\nhw.memsize: 17179869184\nhw.physicalcpu: 10\n"
        "hw.perflevel0.physicalcpu: 6\nhw.model: Mac14,12\n"
    )

    def sysctl(arguments: Sequence[str]) -> str:
        assert arguments[0] == "sysctl"
        return printed

    host = read_host(tmp_path, "darwin", sysctl, 10)
    assert (host.cpu, host.cores, host.isa, host.memory) == ("Apple M2 Pro", 6, "neon", 2**34)
    assert read_host(tmp_path, "darwin", nothing, 10).cores == 10


def test_windows(tmp_path: Path) -> None:
    printed = (
        "\r\nHKEY_LOCAL_MACHINE\\HARDWARE\\DESCRIPTION\\System\\CentralProcessor\\0\r\n"
        "    ProcessorNameString    REG_SZ    13th Gen Intel(R) Core(TM) i7-13700K\r\n\r\n"
    )
    host = read_host(tmp_path, "win32", lambda arguments: printed, 24)
    assert (host.cpu, host.cores, host.memory) == ("13th Gen Intel(R) Core(TM) i7-13700K", 12, 0)


@pytest.mark.parametrize("system", ["linux", "darwin", "win32", "freebsd14", "emscripten"])
def test_where_nothing_is_said_cores_alone_are_known(system: str, tmp_path: Path) -> None:
    host = read_host(tmp_path, system, nothing, 6)
    assert host.cores in (3, 6)
    assert (host.cpu, host.memory, host.modules) == ("", 0, ())


def test_files_that_make_no_sense_are_as_none(tmp_path: Path) -> None:
    files = dict.fromkeys(
        ("proc/cpuinfo", "proc/meminfo", "run/udev/data/+dmi:id", "sys/fs/cgroup/memory.max"), "\0\ufffd: x\n\n: :"
    )
    files["run/udev/data/+dmi:id"] += "\nE:MEMORY_DEVICE_0_TYPE=DDR5\nE:MEMORY_DEVICE_0_SPEED_MTS=fast\n"
    root = write(tmp_path, files)
    (root / "sys/class/dmi/id/product_name").mkdir(parents=True)  # a folder where a file should be
    host = read_host(root, "linux", nothing, 2)
    assert (host.cores, host.memory, host.modules) == (2, 0, (Module("ddr5", 0, 0),))


def test_a_tool_that_is_missing_or_slow_says_nothing() -> None:
    assert run_tool(["lrcsim-no-such-tool"]) == ""
    assert run_tool(["sleep", "5"]) == ""
    assert run_tool(["echo", "said"]) == "said\n"
