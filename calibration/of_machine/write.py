"""From measured times to a hardware profile, each number with its spread, and to its TOML."""

from __future__ import annotations

from typing import Any

from lrcsim.calibration.of_machine.machine import Machine, Reads
from lrcsim.calibration.of_machine.timing import Timing, fit_line
from lrcsim.hardware.document import Entry, Flat, build
from lrcsim.hardware.load import to_toml
from lrcsim.hardware.profile import HardwareProfile
from lrcsim.hardware.units import Dimension, format_quantity

__all__ = ["profile_of", "toml_of"]

ENOUGH = 0.95
"""The fewest threads that read at this share of the best rate are the lanes."""


def profile_of(machine: Machine) -> HardwareProfile:
    """Return the machine as a profile; each number's source says how it was measured, and its spread."""
    flat: Flat = {"description": Entry(f"{machine.name}, measured {machine.date}: {machine.processor}", "")}

    def put(path: str, value: float, dimension: Dimension, source: str) -> None:
        flat[path] = Entry(format_quantity(_rounded(value), dimension), source)

    def count(path: str, value: int, source: str) -> None:
        flat[path] = Entry(value, source)

    cold = [timing for _, timing in machine.experts]
    line = fit_line([timing.size for timing in cold], [timing.median for timing in cold])
    sizes = f"line through experts of {cold[0].size:,} to {cold[-1].size:,} bytes out of memory"
    put("cpu.compute", machine.multiply.rate, "FLOP/s", f"float32 matrix product; {_rates(machine.multiply, 'FLOP/s')}")
    put("cpu.bandwidth", line.bandwidth, "bytes/s", f"{sizes}; largest: {_rates(cold[-1])}")
    put("cpu.overhead", line.overhead, "seconds", f"{sizes}; smallest: {_spread(cold[0])}")
    count("cpu.cores", machine.threads, "threads that numpy's library was given")
    flat["dram.memory"] = Entry(f"{machine.memory} B", "from the system")
    together = machine.together
    put(
        "dram.bandwidth",
        2 * together.rate,
        "bytes/s",
        f"read and written: twice what {machine.threads} threads copied, {together.size:,} bytes; {_rates(together)}",
    )
    if machine.reads is not None:
        _put_reads(machine.reads, machine.hand_over, put, count)
    if machine.gpu is not None:
        gpu = machine.gpu
        flat["gpu.memory"] = Entry(f"{gpu.memory} B", f"from the driver: {gpu.name}")
        inside = fit_line([timing.size for timing in gpu.experts], [timing.median for timing in gpu.experts])
        put("gpu.bandwidth", inside.bandwidth, "bytes/s", f"line through experts; largest: {_rates(gpu.experts[-1])}")
        put("gpu.compute", gpu.multiply.rate, "FLOP/s", f"bfloat16 matrix product; {_rates(gpu.multiply, 'FLOP/s')}")
        put("gpu.overhead", inside.overhead, "seconds", f"line through experts; smallest: {_spread(gpu.experts[0])}")
        link = fit_line([timing.size for timing in gpu.pinned], [timing.median for timing in gpu.pinned])
        pageable = f"pageable memory: {_rates(gpu.pageable[-1])}"
        put("pcie.bandwidth", link.bandwidth, "bytes/s", f"pinned memory; {_rates(gpu.pinned[-1])}; {pageable}")
        put("pcie.overhead", link.overhead, "seconds", f"copy and wait; smallest: {_spread(gpu.pinned[0])}")
        flat["pcie.latency"] = Entry(0, "in the overhead: copies were waited for one by one")
        count("pcie.lanes", 1, "one stream")
        put("layer_overhead", gpu.launch.median, "seconds", f"an operation begun and waited for; {_spread(gpu.launch)}")
    else:
        flat["layer_overhead"] = Entry(0, "not measured: an engine's own; a run tells it (--from-run)")
    flat["expert_overhead"] = Entry(0, "not measured: an engine's own; a run tells it (--from-run)")
    return build(machine.name, flat, "the measured profile")


def toml_of(machine: Machine) -> str:
    """Return the profile as TOML, under a heading that says where and when."""
    profile = profile_of(machine)
    heading = [
        f"Measured by lrcsim calibrate on {machine.name} at {machine.date}.",
        "Of each number: median of n, and the range from p10 to p90. Other work on the machine shows in them.",
    ]
    if machine.reads is not None:
        heading.append(f"File reads past the page cache by {machine.reads.how}, {machine.reads.file_system}.")
    heading += machine.notes
    return "".join(f"# {' '.join(line.split())}\n" for line in heading) + to_toml(profile)


def lanes_of(reads: Reads) -> int:
    """Return the fewest threads that read at nearly the best rate."""
    best = max(timing.rate for timing in reads.lanes.values())
    return min(count for count, timing in reads.lanes.items() if timing.rate >= ENOUGH * best)


def _put_reads(reads: Reads, wake: Timing, put: Any, count: Any) -> None:
    lanes = lanes_of(reads)
    fastest, single = reads.lanes[lanes], fit_line([t.size for t in reads.sizes], [t.median for t in reads.sizes])
    how = f"{reads.how} on {reads.file_system}"
    put(
        "nvme.bandwidth",
        fastest.rate,
        "bytes/s",
        f"{lanes} threads, {fastest.size:,} bytes each; {_rates(fastest)}; {how}",
    )
    put(
        "nvme.latency",
        wake.median,
        "seconds",
        f"a reader thread is woken and wakes the one that waits; {_spread(wake)}",
    )
    put("nvme.overhead", single.overhead, "seconds", f"line through single reads; smallest: {_spread(reads.sizes[0])}")
    count("nvme.lanes", lanes, f"fewest threads within 5 % of the best rate, of {', '.join(map(str, reads.lanes))}")


def _spread(timing: Timing) -> str:
    low, middle, high = (
        format_quantity(_rounded(seconds, 3), "seconds")
        for seconds in (timing.percentile(10), timing.median, timing.percentile(90))
    )
    return f"measured, {middle}, median of {len(timing.seconds)}, p10-p90 {low} to {high}"


def _rates(timing: Timing, dimension: Dimension = "bytes/s") -> str:
    low, middle, high = (
        format_quantity(_rounded(timing.size / seconds, 3), dimension)
        for seconds in (timing.percentile(90), timing.median, timing.percentile(10))
    )
    return f"measured, {middle}, median of {len(timing.seconds)}, p10-p90 {low} to {high}"


def _rounded(value: float, digits: int = 4) -> float:
    return float(f"{value:.{digits}g}")
