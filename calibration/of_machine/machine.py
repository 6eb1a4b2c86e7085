"""Measure everything of the machine at hand, and make a hardware profile of it."""

from __future__ import annotations

import datetime
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.calibration.of_machine.compute import ExpertTimes, expert_sizes, hand_over, multiply_rate, threads_used
from lrcsim.calibration.of_machine.files import (
    ALIGNMENT,
    UncachedFile,
    file_system,
    read_lanes,
    read_sizes,
    scratch_file,
)
from lrcsim.calibration.of_machine.gpu import GpuTimes, find_torch, measure_gpu
from lrcsim.calibration.of_machine.memory import copy_sizes, copy_together
from lrcsim.calibration.of_machine.timing import Timing

KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True)
class MeasurePlan:
    """What to measure; sizes in bytes.

    Attributes:
        copies: sizes of memory copies, and of copies to a GPU.
        reads: sizes of file reads, multiples of 4096.
        experts: sizes of an expert in float32.
        lanes: numbers of threads that read at once.
        repetitions: of everything; fewer where one lasts long.
        file_bytes: size of the file that is read.
        working_set: different experts that are gone through, so that their weights come from memory.
        folder: where to put the file; None: the system's folder for temporary files.
        gpu: whether to measure a GPU, where torch sees one.
    """

    copies: tuple[int, ...] = (4 * KIB, 64 * KIB, MIB, 16 * MIB, 64 * MIB)
    reads: tuple[int, ...] = (4 * KIB, 64 * KIB, 256 * KIB, MIB, 4 * MIB)
    experts: tuple[int, ...] = (MIB // 2, MIB, 2 * MIB, 4 * MIB)
    lanes: tuple[int, ...] = (1, 2, 4, 8)
    repetitions: int = 50
    file_bytes: int = 512 * MIB
    working_set: int = 256 * MIB
    folder: Path | None = None
    gpu: bool = True

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
            working_set=64 * MIB,
        )

    @property
    def parts(self) -> int:
        """How often progress is reported."""
        gpu = len(self.copies) + len(self.experts) + 1 if self.gpu else 0
        return len(self.copies) + len(self.reads) + len(self.lanes) + len(self.experts) + 3 + gpu


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
        threads: that compute.
        copies: of memory by one thread.
        together: by as many threads as compute.
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
    threads: int
    copies: list[Timing]
    together: Timing
    experts: list[ExpertTimes]
    multiply: Timing
    hand_over: Timing
    reads: Reads | None
    gpu: GpuTimes | None
    notes: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values: times in seconds, sizes in bytes."""
        data: dict[str, Any] = {
            "machine": {"name": self.name, "processor": self.processor, "memory_bytes": self.memory},
            "date": self.date,
            "threads": self.threads,
            "memory_copy": _list(self.copies),
            "memory_copy_together": self.together.to_dict(),
            "cpu_expert": [{"warm": warm.to_dict(), "streaming": cold.to_dict()} for warm, cold in self.experts],
            "cpu_flops": self.multiply.rate,
            "hand_over": self.hand_over.to_dict(),
            "notes": self.notes,
        }
        if self.reads is not None:
            data["file_read"] = {
                "how": self.reads.how,
                "file_system": self.reads.file_system,
                "sizes": _list(self.reads.sizes),
                "lanes": {str(count): timing.to_dict() for count, timing in self.reads.lanes.items()},
            }
        if self.gpu is not None:
            data["gpu"] = {
                "name": self.gpu.name,
                "memory_bytes": self.gpu.memory,
                "copy_pinned": _list(self.gpu.pinned),
                "copy_pageable": _list(self.gpu.pageable),
                "expert": _list(self.gpu.experts),
                "launch": self.gpu.launch.to_dict(),
                "flops": self.gpu.multiply.rate,
            }
        return data


def measure_machine(plan: MeasurePlan, progress: Callable[[int, int], None] | None = None) -> Machine:
    """Measure the machine at hand; the file that is read is removed again.

    Args:
        plan: what to measure.
        progress: told parts done and parts in all.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    finished = 0

    def done() -> None:
        nonlocal finished
        finished += 1
        if progress is not None:
            progress(min(finished, plan.parts), plan.parts)

    notes: list[str] = []
    threads = threads_used()
    copies = copy_sizes(plan.copies, plan.repetitions, done)
    together = copy_together(max(plan.copies), threads, plan.repetitions)
    done()
    experts = expert_sizes(plan.experts, plan.repetitions, plan.working_set, done)
    multiply, wake = multiply_rate(plan.repetitions), hand_over(plan.repetitions)
    done()
    reads = _reads(plan, notes, done)
    gpu = None
    torch = find_torch() if plan.gpu else None
    if torch is not None:
        gpu = measure_gpu(torch, plan.copies, plan.experts, plan.repetitions, done)
    elif plan.gpu:
        notes.append("no GPU was measured: torch is not installed or sees no CUDA device")
    if progress is not None:
        progress(plan.parts, plan.parts)
    return Machine(
        name=platform.node() or "unnamed",
        date=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        processor=processor(),
        memory=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        threads=threads,
        copies=copies,
        together=together,
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


def _list(timings: Sequence[Timing]) -> list[dict[str, float | int]]:
    return [timing.to_dict() for timing in timings]
