"""From measured times to a hardware profile, each number with its spread, and to its TOML."""

from __future__ import annotations

import statistics

from lrcsim.base.text import human_bytes
from lrcsim.calibration.of_machine.estimates import fastest, overheads
from lrcsim.calibration.of_machine.machine import Machine, Reads
from lrcsim.calibration.of_machine.numbers import Put, between, rate_of, rates, rounded, spread
from lrcsim.calibration.of_machine.timing import Timing
from lrcsim.calibration.of_machine.write_gpu import ENOUGH, put_gpu
from lrcsim.hardware.document import Entry, Flat, build, written
from lrcsim.hardware.load import to_toml
from lrcsim.hardware.profile import HardwareProfile


def profile_of(machine: Machine) -> HardwareProfile:
    """Return the machine as a profile; each number's source says how it was measured, and its spread.

    No rate is above the fastest that was measured of its kind. What was not measured of a GPU is a built-in profile's
    where one has it, and its source says so.

    Raises:
        ConfigError: a number is not known; the message says what to measure.
    """
    flat: Flat = {"description": Entry(f"{machine.name}, measured {machine.date}: {machine.processor}", "")}

    def put(path: str, value: float, source: str) -> None:
        flat[path] = Entry(written(path, value if isinstance(value, int) else rounded(value)), source)

    put("cpu.compute", rate_of(machine.multiply), f"float32 matrix product; {rates(machine.multiply, 'FLOP/s')}")
    _put_experts(machine, put)
    put("dram.memory", machine.memory, "from the system")
    _put_dram(machine, put)
    if machine.reads is not None:
        _put_reads(machine.reads, machine.hand_over, put)
    if machine.gpu is not None:
        put_gpu(machine.gpu, put)
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


def _put_experts(machine: Machine, put: Put) -> None:
    experts = machine.experts
    cold = [timing for _, timing in experts.sizes]
    best = _fastest_expert(machine)
    tried = f"best of {', '.join(map(str, experts.threads))} threads: {experts.best}"
    put("cpu.bandwidth", rate_of(best), f"experts of {human_bytes(best.size)} out of memory, {tried}; {rates(best)}")
    besides = overheads(cold, best.rate)
    small = min(cold, key=lambda timing: timing.size)
    how = f"experts out of memory took {between(besides)} besides their bytes; smallest: {spread(small)}"
    put("cpu.overhead", statistics.median(besides), how)
    put("cpu.cores", experts.best, tried)


def _put_dram(machine: Machine, put: Put) -> None:
    """Record the fastest of copies, reads and experts out of memory: it was memory that gave them all."""
    found = [(timing, 2, f"read and written: twice what {_threads(n)} copied") for n, timing in machine.copied.items()]
    found += [(timing, 1, f"what {_threads(n)} read") for n, timing in machine.read.items()]
    best = _fastest_expert(machine)
    found.append((best, 1, f"what experts of {human_bytes(best.size)} on the CPU read"))
    best, times, what = max(found, key=lambda one: one[0].rate * one[1])
    put("dram.bandwidth", rate_of(best, times), f"{what}; {rates(best, times=times)}")


def _fastest_expert(machine: Machine) -> Timing:
    return fastest([*machine.experts.threads.values(), *(cold for _, cold in machine.experts.sizes)])


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _put_reads(reads: Reads, wake: Timing, put: Put) -> None:
    lanes = lanes_of(reads)
    best, how = reads.lanes[lanes], f"{reads.how} on {reads.file_system}"
    put("nvme.bandwidth", rate_of(best), f"{_threads(lanes)}, {human_bytes(best.size)} each; {rates(best)}; {how}")
    put("nvme.latency", wake.median, f"a reader thread is woken and wakes the one that waits; {spread(wake)}")
    besides = overheads(reads.sizes, fastest(reads.sizes).rate)
    how = f"single reads took {between(besides)} besides their bytes; smallest: {spread(reads.sizes[0])}"
    put("nvme.overhead", statistics.median(besides), how)
    put("nvme.lanes", lanes, f"fewest threads within 5 % of the best rate, of {', '.join(map(str, reads.lanes))}")
