"""A GPU, where torch is installed and sees one: its copies, experts and launches. Nothing here imports torch by itself.

What the GPU takes is kept apart from what a program that drives it operation by operation takes. An expert in eager
PyTorch is five launches of some 10 us each on the host, whatever its size up to tens of MB: that is the runtime's.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.calibration.of_machine.compute import widths
from lrcsim.calibration.of_machine.gpu_clock import GpuTimer
from lrcsim.calibration.of_machine.gpu_copies import CopyTimes, measure_copies
from lrcsim.calibration.of_machine.timing import Timing

LAUNCHES = 100
"""In a row."""
POOL = 512 << 20
"""Bytes of different experts that are gone through: more than any GPU's cache."""
MULTIPLY_WIDTH = 8192
"""Of square bfloat16 matrices: 1.5 ms on an H200, beside which a launch is nothing."""


@dataclass(frozen=True)
class GpuPlan:
    """What to measure of a GPU; sizes in bytes.

    Attributes:
        copies: of a copy to the GPU.
        bursts: of a copy of a burst: one that overhead is most of, one that bandwidth is.
        counts: copies, or experts, enqueued at once.
        inside: of a copy inside the GPU.
        experts: of an expert in bfloat16.
    """

    copies: tuple[int, ...] = (4 << 10, 64 << 10, 1 << 20, 16 << 20, 64 << 20, 256 << 20)
    bursts: tuple[int, ...] = (64 << 10, 8 << 20)
    counts: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    inside: tuple[int, ...] = (64 << 20, 256 << 20, 1 << 30)
    experts: tuple[int, ...] = (1 << 20, 4 << 20, 16 << 20, 64 << 20)

    @property
    def parts(self) -> int:
        """How often progress is reported."""
        return len(self.copies) + len(self.bursts) + 2 + len(self.experts) + 2


@dataclass(frozen=True)
class GpuTimes:
    """What was measured of a GPU; a part is empty, or None, where it was not.

    Attributes:
        name: as the driver has it.
        memory: bytes.
        copies: to it and inside it.
        experts: one expert in bfloat16 for one token, each another out of the GPU's memory, begun and waited for on the
            host's clock, by size: with small ones, what eager PyTorch takes to launch it.
        enqueued: experts of one size enqueued at once and waited for, likewise, by their number; ``Timing.size`` is the
            bytes of all.
        streamed: experts in a row on the GPU's clock, by size; ``Timing.size`` is the bytes of all.
        in_a_row: how many each of ``streamed`` is.
        launch: an operation on almost nothing, begun and waited for.
        launches: `LAUNCHES` of them enqueued and waited for; of all together.
        launched: `LAUNCHES` of them on the GPU's clock; of all together.
        multiply: ``rate`` is FLOP/s of products of two square bfloat16 matrices.
    """

    name: str
    memory: int
    copies: CopyTimes
    experts: list[Timing]
    launch: Timing
    multiply: Timing
    enqueued: dict[int, Timing] = field(default_factory=dict)
    streamed: list[Timing] = field(default_factory=list)
    in_a_row: int = 1
    launches: Timing | None = None
    launched: Timing | None = None


def find_torch() -> Any:
    """Return torch if it is installed and sees a CUDA device, else None."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def measure_gpu(torch: Any, plan: GpuPlan, repetitions: int, done: Callable[[], None]) -> GpuTimes:
    """Time copies, experts and launches on the current device.

    Args:
        torch: the module (`find_torch`).
        plan: what.
        repetitions: of each.
        done: called as often as ``plan.parts``.

    Raises:
        ConfigError: the GPU is too busy for its own clock to be read apart from the host's, or its memory is taken.
    """
    try:
        return _measure(torch, plan, repetitions, done)
    except torch.OutOfMemoryError as error:
        first = str(error).partition(". ")[0]
        raise ConfigError(
            f"the GPU's memory does not hold what is measured, about 2 GiB: {first}: end what else is in it, or leave "
            "it out with --no-gpu"
        ) from None


def _measure(torch: Any, plan: GpuPlan, repetitions: int, done: Callable[[], None]) -> GpuTimes:
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    timer = GpuTimer(torch, repetitions)
    copies = measure_copies(timer, plan.copies, plan.bursts, plan.counts, plan.inside, done)
    experts, streamed, enqueued = _experts(timer, plan.experts, plan.counts, done)
    one = torch.zeros(1, device="cuda")

    def launch(_: int) -> Any:
        return one.add_(1)

    launched = timer.waited(0, launch), timer.waited(0, launch, LAUNCHES), timer.in_a_row(0, launch, LAUNCHES)
    done()
    shape = {"dtype": torch.bfloat16, "device": "cuda"}
    a, b = (torch.rand(MULTIPLY_WIDTH, MULTIPLY_WIDTH, **shape) for _ in range(2))
    c = torch.empty(MULTIPLY_WIDTH, MULTIPLY_WIDTH, **shape)
    multiply = timer.waited(2 * MULTIPLY_WIDTH**3, lambda _: torch.mm(a, b, out=c))
    done()
    return GpuTimes(
        name=properties.name,
        memory=int(properties.total_memory),
        copies=copies,
        experts=experts,
        enqueued=enqueued,
        streamed=streamed,
        in_a_row=max(plan.counts),
        launch=launched[0],
        launches=launched[1],
        launched=launched[2],
        multiply=multiply,
    )


def _experts(
    timer: GpuTimer, sizes: Sequence[int], counts: Sequence[int], done: Callable[[], None]
) -> tuple[list[Timing], list[Timing], dict[int, Timing]]:
    """Return experts one by one by size, in a row on the GPU's clock by size, and of the smallest by their number."""
    torch = timer.torch
    single: list[Timing] = []
    streamed: list[Timing] = []
    enqueued: dict[int, Timing] = {}
    for wanted in sorted(sizes):
        hidden, ffn = widths(wanted, width=2)
        size = 3 * hidden * ffn * 2
        shape = {"dtype": torch.bfloat16, "device": "cuda"}
        gates, ups, downs = ([] for _ in range(3))  # type: list[Any], list[Any], list[Any]
        for _ in range(max(POOL // size, 2)):
            gates.append(torch.rand(ffn, hidden, **shape))
            ups.append(torch.rand(ffn, hidden, **shape))
            downs.append(torch.rand(hidden, ffn, **shape))
        x = torch.rand(hidden, **shape)

        def run_expert(call: int, pool: tuple[list[Any], ...] = (gates, ups, downs), x: Any = x) -> Any:
            gate, up, down = (matrices[call % len(matrices)] for matrices in pool)
            return down @ (torch.nn.functional.silu(gate @ x) * (up @ x))

        single.append(timer.waited(size, run_expert))
        streamed.append(timer.in_a_row(size, run_expert, max(counts)))
        if not enqueued:
            enqueued = {count: timer.waited(size, run_expert, count) for count in counts}
        done()
    return single, streamed, enqueued
