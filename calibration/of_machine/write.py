"""From measured times to a hardware profile, each number with its spread, and to its TOML."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lrcsim.base.units import Dimension, format_quantity
from lrcsim.calibration.of_machine.gpu import GpuTimes
from lrcsim.calibration.of_machine.machine import Machine, Reads
from lrcsim.calibration.of_machine.timing import Line, Timing, fit_line
from lrcsim.hardware.document import Entry, Flat, build, written
from lrcsim.hardware.load import to_toml
from lrcsim.hardware.profile import HardwareProfile

Put = Callable[[str, float, str], None]
"""Records a number: its path, its value, and its source."""
ENOUGH = 0.95
"""The fewest threads that read at this share of the best rate are the lanes."""


def profile_of(machine: Machine) -> HardwareProfile:
    """Return the machine as a profile; each number's source says how it was measured, and its spread."""
    flat: Flat = {"description": Entry(f"{machine.name}, measured {machine.date}: {machine.processor}", "")}

    def put(path: str, value: float, source: str) -> None:
        flat[path] = Entry(written(path, value if isinstance(value, int) else _rounded(value)), source)

    cold = [timing for _, timing in machine.experts]
    line = _line(cold)
    sizes = f"line through experts of {cold[0].size:,} to {cold[-1].size:,} bytes out of memory"
    put("cpu.compute", machine.multiply.rate, f"float32 matrix product; {_rates(machine.multiply, 'FLOP/s')}")
    put("cpu.bandwidth", line.bandwidth, f"{sizes}; largest: {_rates(cold[-1])}")
    put("cpu.overhead", line.overhead, f"{sizes}; smallest: {_spread(cold[0])}")
    put("cpu.cores", machine.threads, "threads that numpy's library was given")
    put("dram.memory", machine.memory, "from the system")
    together = machine.together
    copied = f"twice what {machine.threads} threads copied, {together.size:,} bytes; {_rates(together)}"
    put("dram.bandwidth", 2 * together.rate, f"read and written: {copied}")
    if machine.reads is not None:
        _put_reads(machine.reads, machine.hand_over, put)
    if machine.gpu is not None:
        _put_gpu(machine.gpu, put)
    else:
        put("layer_overhead", 0, "not measured: an engine's own; a run tells it (--from-run)")
    put("expert_overhead", 0, "not measured: an engine's own; a run tells it (--from-run)")
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


def _put_reads(reads: Reads, wake: Timing, put: Put) -> None:
    lanes = lanes_of(reads)
    fastest, how = reads.lanes[lanes], f"{reads.how} on {reads.file_system}"
    put("nvme.bandwidth", fastest.rate, f"{lanes} threads, {fastest.size:,} bytes each; {_rates(fastest)}; {how}")
    put("nvme.latency", wake.median, f"a reader thread is woken and wakes the one that waits; {_spread(wake)}")
    put("nvme.overhead", _line(reads.sizes).overhead, f"line through single reads; smallest: {_spread(reads.sizes[0])}")
    put("nvme.lanes", lanes, f"fewest threads within 5 % of the best rate, of {', '.join(map(str, reads.lanes))}")


def _put_gpu(gpu: GpuTimes, put: Put) -> None:
    inside, link = _line(gpu.experts), _line(gpu.pinned)
    put("gpu.memory", gpu.memory, f"from the driver: {gpu.name}")
    put("gpu.bandwidth", inside.bandwidth, f"line through experts; largest: {_rates(gpu.experts[-1])}")
    put("gpu.compute", gpu.multiply.rate, f"bfloat16 matrix product; {_rates(gpu.multiply, 'FLOP/s')}")
    put("gpu.overhead", inside.overhead, f"line through experts; smallest: {_spread(gpu.experts[0])}")
    pageable = f"pageable memory: {_rates(gpu.pageable[-1])}"
    put("pcie.bandwidth", link.bandwidth, f"pinned memory; {_rates(gpu.pinned[-1])}; {pageable}")
    put("pcie.overhead", link.overhead, f"copy and wait; smallest: {_spread(gpu.pinned[0])}")
    put("pcie.latency", 0, "in the overhead: copies were waited for one by one")
    put("pcie.lanes", 1, "one stream")
    put("layer_overhead", gpu.launch.median, f"an operation begun and waited for; {_spread(gpu.launch)}")


def _line(timings: Sequence[Timing]) -> Line:
    return fit_line([timing.size for timing in timings], [timing.median for timing in timings])


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
