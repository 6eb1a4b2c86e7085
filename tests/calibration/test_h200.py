"""The arithmetic on measurements of an H200, of which a line by least squares made 255 GB/s of PCIe, 7.7 of HBM."""

from __future__ import annotations

import json
import os
import re
import statistics
from pathlib import Path

import pytest

from lrcsim.base.units import parse_quantity
from lrcsim.calibration.of_machine import Machine, Timing, profile_of
from lrcsim.calibration.of_machine.compute import CpuTimes
from lrcsim.calibration.of_machine.estimates import fastest, is_bound_by_bytes, overheads
from lrcsim.calibration.of_machine.gpu import GpuTimes
from lrcsim.calibration.of_machine.gpu_copies import CopyTimes
from lrcsim.hardware import HardwareProfile, load_profile

ROW = re.compile(r"(.+?)  +([\d.,]+ [KM]iB)  +([\d.]+ [um]s)  +([\d.]+ [um]s)  +([\d.]+ [um]s)  +")


def measured(name: str) -> str:
    shared = Path(os.environ.get("LRCSIM_SHARED", Path(__file__).parents[3] / "shared")) / "measured" / "h200"
    if not (shared / name).is_file():
        pytest.skip(f"the shared measurements are not here ({shared})")
    return (shared / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def table() -> dict[str, list[Timing]]:
    """What `lrcsim calibrate` printed there, by row; of each time p10, median and p90."""
    found: dict[str, list[Timing]] = {}
    for line in measured("calibrate.txt").splitlines():
        if row := ROW.match(line):
            size = int(parse_quantity(row[2].replace(",", ""), "bytes"))
            median, low, high = (parse_quantity(row[i], "seconds") for i in (3, 4, 5))
            found.setdefault(row[1], []).append(Timing(size, (low, median, high)))
    return found


@pytest.fixture(scope="module")
def profile(table: dict[str, list[Timing]]) -> HardwareProfile:
    cached, cold = table["expert on the CPU, cached"], table["expert on the CPU, from memory"]
    copies = CopyTimes(table["copy to the GPU, pinned"], table["copy to the GPU, pageable"])
    gpu = GpuTimes(
        "NVIDIA H200",
        146_591_680 << 10,
        copies,
        table["expert on the GPU"],
        launch=Timing(0, (13.9e-6, 14.7e-6, 17e-6)),
        multiply=Timing(2 * 4096**3, (184.4e-6,)),
    )
    machine = Machine(
        name="vm",
        date="2026-11-27T15:37:34+00:00",
        processor="Intel(R) Xeon(R) Processor",
        memory=131_981_020 << 10,
        copies=table["memory copy"],
        copied={16: table["memory copy, 16 threads"][0]},
        read={},
        experts=CpuTimes({16: cold[-1]}, 16, list(zip(cached, cold, strict=True))),
        multiply=Timing(2 * 1024**3, (2.18e-3,)),
        hand_over=Timing(0, (7.92e-6,)),
        reads=None,
        gpu=gpu,
        notes=[],
    )
    return profile_of(machine)


def test_copies(profile: HardwareProfile) -> None:
    # 64 MiB in 1.23 ms: 54.5 GB/s. Beside bytes at that rate 4 KiB took 14.6 us, 64 KiB 11.0; of 1 MiB most is bytes.
    link = profile.device_link
    assert link is not None
    assert 54.4e9 < link.bandwidth < 54.6e9
    assert 12e-6 < link.overhead < 14e-6
    assert (link.latency, link.lanes) == (0, 1)
    assert link.pageable == pytest.approx(18.18e9, rel=0.01)
    assert "11 us to 14.6 us besides its bytes" in profile.sources["pcie.overhead"]


def test_experts_that_launches_bound_are_no_bandwidth(profile: HardwareProfile) -> None:
    h200 = load_profile("h200")
    assert profile.gpu is not None
    assert h200.gpu is not None
    assert profile.gpu.bandwidth == h200.gpu.bandwidth
    assert "243.0 KiB to 2.0 MiB took 67.3 us to 71.2 us: launches" in profile.sources["gpu.bandwidth"]
    assert "of built-in h200" in profile.sources["gpu.overhead"]
    assert profile.gpu.compute == pytest.approx(745.5e12, rel=0.01)


def test_processor_and_memory(profile: HardwareProfile) -> None:
    # Experts out of memory: 4.0 MiB in 314.3 us, 13.3 GB/s; 486 KiB in 49.3 us, 37.3 of them bytes at that rate.
    assert profile.cpu.bandwidth == pytest.approx(13.3e9, rel=0.01)
    assert profile.cpu.overhead == pytest.approx(12e-6, rel=0.1)
    assert profile.dram.bandwidth == pytest.approx(73.4e9, rel=0.01)


def test_nothing_is_faster_than_what_was_measured(profile: HardwareProfile, table: dict[str, list[Timing]]) -> None:
    fastest = {name: max(timing.rate for timing in timings) for name, timings in table.items()}
    assert profile.at("pcie.bandwidth") <= fastest["copy to the GPU, pinned"]
    assert profile.at("pcie.pageable") <= fastest["copy to the GPU, pageable"]
    assert profile.at("cpu.bandwidth") <= fastest["expert on the CPU, from memory"]
    assert profile.at("dram.bandwidth") <= 2 * fastest["memory copy, 16 threads"]


@pytest.mark.parametrize("run", ["qwen.json", "gptoss.json"])
def test_copies_of_other_hours_say_the_same(run: str) -> None:
    # Copies by an engine on the same machine: 64 MiB in 1.26 and 1.28 ms, 2 KiB in 21 to 24 us, from Python.
    sizes = json.loads(measured(run))["micro"]["size_s"]
    times = [Timing(int(size), (seconds,)) for size, seconds in sizes.items()]
    assert is_bound_by_bytes(times)
    assert not is_bound_by_bytes(times[:3])  # 2 to 256 KiB
    rate = fastest(times).rate
    assert 52e9 < rate < 54e9
    assert 17e-6 < statistics.median(overheads(times, rate)) < 24e-6
