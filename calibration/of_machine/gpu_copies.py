"""Copies to the GPU and inside it: by size, in bursts, on several streams."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lrcsim.calibration.of_machine.gpu_clock import GpuTimer
from lrcsim.calibration.of_machine.timing import Timing

ON_STREAMS = 16
"""Copies that are divided over the streams."""


@dataclass(frozen=True)
class CopyTimes:
    """What was measured of copies; a part is empty where it was not.

    Attributes:
        pinned: from page-locked host memory, one by one, begun and waited for, by size.
        pageable: from ordinary host memory, likewise.
        bursts: page-locked, of each size several in a row on the GPU's clock, by their number; ``Timing.size`` is the
            bytes of all.
        streams: page-locked, of one size on several streams, begun together and waited for, by the number of streams;
            ``Timing.size`` is the bytes of all.
        inside: from the GPU's memory to itself on its clock, by size; each byte is read and written.
    """

    pinned: list[Timing] = field(default_factory=list)
    pageable: list[Timing] = field(default_factory=list)
    bursts: dict[int, dict[int, Timing]] = field(default_factory=dict)
    streams: dict[int, Timing] = field(default_factory=dict)
    inside: list[Timing] = field(default_factory=list)


def measure_copies(
    timer: GpuTimer,
    sizes: Sequence[int],
    bursts: Sequence[int],
    counts: Sequence[int],
    inside: Sequence[int],
    done: Callable[[], None],
) -> CopyTimes:
    """Time all of them.

    Args:
        timer: of the current device.
        sizes: bytes of a copy to the GPU.
        bursts: bytes of a copy of a burst.
        counts: copies of a burst.
        inside: bytes of a copy inside the GPU; those that would take more than a quarter of its free memory, source
            and target together, are left out, except the smallest.
        done: called after each size, after the bursts of a size, after all streams and after all copies inside.
    """
    torch = timer.torch
    pinned: list[Timing] = []
    pageable: list[Timing] = []
    for size in sizes:
        target = torch.empty(size, dtype=torch.uint8, device="cuda")
        for lock, timings in ((True, pinned), (False, pageable)):
            source = torch.ones(size, dtype=torch.uint8, pin_memory=lock)  # every page is there, none is the zero page
            timings.append(timer.waited(size, _copy(target, source)))
        done()
    by_burst = {}
    for size in bursts:
        target = torch.empty(size, dtype=torch.uint8, device="cuda")
        copy = _copy(target, torch.ones(size, dtype=torch.uint8, pin_memory=True))
        by_burst[size] = {count: timer.in_a_row(size, copy, count) for count in counts}
        done()
    streams = _streams(timer, max(bursts))
    done()
    torch.cuda.empty_cache()  # what torch keeps for later is free
    free = torch.cuda.mem_get_info()[0]
    within: list[Timing] = []
    for size in sorted(inside):
        if within and 2 * size > free // 4:
            break
        source, target = (torch.ones(size, dtype=torch.uint8, device="cuda") for _ in range(2))
        within.append(timer.in_a_row(size, _copy(target, source)))
    done()
    return CopyTimes(pinned, pageable, by_burst, streams, within)


def _streams(timer: GpuTimer, size: int) -> dict[int, Timing]:
    torch = timer.torch
    source = torch.ones(size, dtype=torch.uint8, pin_memory=True)
    targets = [torch.empty(size, dtype=torch.uint8, device="cuda") for _ in range(2)]
    torch.cuda.synchronize()  # the allocator's work, before other streams use the memory
    found = {}
    for number in (1, 2):
        streams = [torch.cuda.Stream() for _ in range(number)]

        def copy(call: int, streams: list[Any] = streams) -> None:
            turn = call % len(streams)
            with torch.cuda.stream(streams[turn]):
                targets[turn].copy_(source, non_blocking=True)

        found[number] = timer.waited(size, copy, ON_STREAMS)
    return found


def _copy(target: Any, source: Any) -> Callable[[int], Any]:
    return lambda _: target.copy_(source, non_blocking=True)
