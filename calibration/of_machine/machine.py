"""Measure everything of the machine at hand, and make a hardware profile of it."""

from __future__ import annotations

import datetime
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.calibration.of_machine.compute import (
    CpuTimes,
    cores,
    hand_over,
    measure_experts,
    multiply_rate,
    thread_counts,
)
from lrcsim.calibration.of_machine.estimates import fastest
from lrcsim.calibration.of_machine.files import (
    ALIGNMENT,
    UncachedFile,
    file_system,
    read_lanes,
    read_sizes,
    scratch_file,
)
from lrcsim.calibration.of_machine.gpu import LAUNCHES, GpuPlan, GpuTimes, find_torch, measure_gpu
from lrcsim.calibration.of_machine.memory import copies_together, copy_sizes, last_cache, reads_together
from lrcsim.calibration.of_machine.timing import Timing
from lrcsim.hardware.host import read_host

KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class MeasurePlan:
    """What to measure; sizes in bytes.

    Attributes:
        copies: sizes of memory copies.
        reads: sizes of file reads, multiples of 4096.
        experts: sizes of an expert in float32 on the processor.
        largest_expert: size of the expert that numbers of threads are tried with, whatever ``experts`` are: large
            enough for memory to be the limit.
        lanes: numbers of threads that read at once.
        repetitions: of everything; fewer where one lasts long.
        file_bytes: size of the file that is read.
        working_set: what is copied, read or computed with in turn, so that it comes from memory; None: four times the
            processors' last cache, at least 256 MiB, at most an eighth of memory.
        folder: where to put the file; None: the system's folder for temporary files.
        gpu: what to measure of a GPU, where torch sees one; None: nothing.
    """

    copies: tuple[int, ...] = (4 * KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB, 256 * MIB)
    reads: tuple[int, ...] = (4 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB)
    experts: tuple[int, ...] = (MIB // 2, MIB, 2 * MIB, 4 * MIB, 16 * MIB)
    largest_expert: int = 16 * MIB
    lanes: tuple[int, ...] = (1, 2, 4, 8)
    repetitions: int = 50
    file_bytes: int = 512 * MIB
    working_set: int | None = None
    folder: Path | None = None
    gpu: GpuPlan | None = field(default_factory=GpuPlan)

    def __post_init__(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            ConfigError: a size, or the number of repetitions.
        """
        for size in self.reads:
            if size <= 0 or size % ALIGNMENT:
                raise ConfigError(f"a read of {size} bytes: sizes are multiples of {ALIGNMENT} bytes, as 64KiB or 1MiB")
        if len(set(self.reads)) < 2 or len(set(self.experts)) < 2:
            raise ConfigError("one size is given: give at least two, as 64KiB,1MiB, for a rate and an overhead")
        if self.repetitions < 3:
            raise ConfigError(f"{self.repetitions} repetitions are given: at least 3 are needed to tell the spread")
        if max(self.reads) > self.file_bytes:
            raise ConfigError(f"a read of {max(self.reads)} bytes is larger than the file of {self.file_bytes} bytes")

    def quick(self) -> MeasurePlan:
        """Return a plan with the same sizes that takes a few seconds."""
        return replace(
            self,
            repetitions=min(self.repetitions, 10),
            lanes=(1, 4),
            file_bytes=max(64 * MIB, *self.reads),
        )

    @property
    def parts(self) -> int:
        """How often progress is reported."""
        gpu = 0 if self.gpu is None else self.gpu.parts
        return len(self.copies) + len(self.reads) + len(self.lanes) + len(self.experts) + 2 + gpu + 3 * len(_threads())


@dataclass(frozen=True)
class Reads:
    """File reads.

    Attributes:
        how: what kept them from the page cache.
        file_system: on which the file was.
        sizes: single reads.
        lanes: of the largest size, by the number of threads.
    """

    how: str
    file_system: str
    sizes: list[Timing]
    lanes: dict[int, Timing]


@dataclass(frozen=True)
class Machine:
    """What was measured.

    Attributes:
        name: of the machine.
        date: when, ISO.
        processor: as the system has it.
        memory: bytes.
        copies: of memory by one thread.
        copied: by several threads at once, by their number; ``rate`` is what all copy together.
        read: memory read by several threads at once, likewise.
        experts: on the processor.
        multiply: ``rate`` is FLOP/s.
        hand_over: a thread wakes another and is woken by it.
        reads: None where they could not be measured.
        gpu: None without one.
        notes: what was left out, and what to be aware of.
    """

    name: str
    date: str
    processor: str
    memory: int
    copies: list[Timing]
    copied: dict[int, Timing]
    read: dict[int, Timing]
    experts: CpuTimes
    multiply: Timing
    hand_over: Timing
    reads: Reads | None
    gpu: GpuTimes | None
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values: times in seconds, sizes in bytes."""
        experts = self.experts
        data: dict[str, Any] = {
            "machine": {"name": self.name, "processor": self.processor, "memory_bytes": self.memory},
            "date": self.date,
            "threads": experts.best,
            "memory_copy": _list(self.copies),
            "memory_copy_together": fastest(self.copied.values()).to_dict(),
            "memory_copy_threads": _by_count(self.copied),
            "memory_read_threads": _by_count(self.read),
            "cpu_expert": [{"warm": warm.to_dict(), "streaming": cold.to_dict()} for warm, cold in experts.sizes],
            "cpu_expert_threads": _by_count(experts.threads),
            "cpu_flops": self.multiply.rate,
            "hand_over": self.hand_over.to_dict(),
            "notes": self.notes,
        }
        if self.reads is not None:
            data["file_read"] = {
                "how": self.reads.how,
                "file_system": self.reads.file_system,
                "sizes": _list(self.reads.sizes),
                "lanes": _by_count(self.reads.lanes),
            }
        if self.gpu is not None:
            data["gpu"] = _gpu(self.gpu)
        return data


def measure_machine(plan: MeasurePlan, progress: Callable[[int, int], None] | None = None) -> Machine:
    """Measure the machine at hand; the file that is read is removed again.

    Args:
        plan: what to measure.
        progress: told parts done and parts in all.

    Raises:
        ConfigError: the folder cannot be written to, or a GPU is too busy to be measured.
    """
    finished = 0

    def done() -> None:
        nonlocal finished
        finished += 1
        if progress is not None:
            progress(min(finished, plan.parts), plan.parts)

    notes: list[str] = []
    threads, few = _threads(), max(plan.repetitions // 5, 3)
    working_set = _working_set() if plan.working_set is None else plan.working_set
    copies = copy_sizes(plan.copies, plan.repetitions, done)
    copied = copies_together(working_set, threads, few, done)
    read = reads_together(working_set, threads, few, done)
    experts = measure_experts(plan.experts, threads, plan.largest_expert, working_set, plan.repetitions, done)
    multiply, wake = multiply_rate(plan.repetitions), hand_over(plan.repetitions)
    done()
    reads = _reads(plan, notes, done)
    gpu = None
    torch = None if plan.gpu is None else find_torch()
    if plan.gpu is not None and torch is not None:
        gpu = measure_gpu(torch, plan.gpu, plan.repetitions, done)
    elif plan.gpu is not None:
        notes.append("no GPU was measured: torch is not installed or sees no CUDA device")
    if progress is not None:
        progress(plan.parts, plan.parts)
    return Machine(
        name=platform.node() or "unnamed",
        date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        processor=processor(),
        memory=_memory(),
        copies=copies,
        copied=copied,
        read=read,
        experts=experts,
        multiply=multiply,
        hand_over=wake,
        reads=reads,
        gpu=gpu,
        notes=notes,
    )


def processor() -> str:
    """Return what the system calls the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _reads(plan: MeasurePlan, notes: list[str], done: Callable[[], None]) -> Reads | None:
    if not hasattr(os, "preadv"):
        notes.append("no file reads were measured: this system has no positioned reads (preadv)")
        return None
    where = file_system(plan.folder or tempfile.gettempdir())
    if where.split()[0] in ("tmpfs", "ramfs"):
        notes.append(f"the file was on {where}, which is memory: give a folder on the storage that is to be measured")
    with scratch_file(plan.folder, plan.file_bytes) as path, UncachedFile(path) as file:
        done()
        sizes = read_sizes(file, plan.file_bytes, plan.reads, plan.repetitions, done)
        lanes = read_lanes(file, plan.file_bytes, max(plan.reads), plan.lanes, max(plan.repetitions // 5, 3), done)
        return Reads(file.how, where, sizes, lanes)


def _threads() -> tuple[int, ...]:
    return thread_counts(cores())


def _memory() -> int:
    """Return the bytes of main memory.

    Raises:
        ConfigError: the system (Windows) does not say.
    """
    if hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    memory = read_host().memory
    if not memory:
        raise ConfigError("this system does not say how much memory it has: write a profile by hand (lrcsim hardware)")
    return memory


def _working_set() -> int:
    return min(max(4 * last_cache(), 256 * MIB), _memory() // 8)


def _gpu(gpu: GpuTimes) -> dict[str, Any]:
    copies = gpu.copies
    launches = {"launch": gpu.launch, "launches": gpu.launches, "launches_on_gpu_clock": gpu.launched}
    return {
        "name": gpu.name,
        "memory_bytes": gpu.memory,
        "copy_pinned": _list(copies.pinned),
        "copy_pageable": _list(copies.pageable),
        "copy_bursts_on_gpu_clock": {str(size): _by_count(burst) for size, burst in copies.bursts.items()},
        "copy_streams": _by_count(copies.streams),
        "copy_inside_on_gpu_clock": _list(copies.inside),
        "expert": _list(gpu.experts),
        "expert_enqueued": _by_count(gpu.enqueued),
        "expert_on_gpu_clock": {"in_a_row": gpu.in_a_row, "sizes": _list(gpu.streamed)},
        **{name: timing.to_dict() for name, timing in launches.items() if timing is not None},
        "launches_in_a_row": LAUNCHES,
        "flops": gpu.multiply.rate,
    }


def _by_count(timings: Mapping[int, Timing]) -> dict[str, dict[str, float | int]]:
    return {str(count): timing.to_dict() for count, timing in timings.items()}


def _list(timings: Sequence[Timing]) -> list[dict[str, float | int]]:
    return [timing.to_dict() for timing in timings]
