"""Copies to a GPU and experts on it, where torch is installed and sees one. Nothing here imports torch by itself."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lrcsim.calibration.of_machine.compute import widths
from lrcsim.calibration.of_machine.timing import Timing, repeat


@dataclass(frozen=True)
class GpuTimes:
    """What was measured of a GPU.

    Attributes:
        name: as the driver has it.
        memory: bytes.
        pinned: copies from page-locked host memory, by size.
        pageable: copies from ordinary host memory, by size.
        experts: one expert in bfloat16 for one token out of the GPU's memory, by size.
        launch: an operation on almost nothing, begun and waited for.
        multiply: ``rate`` is FLOP/s of products of two square bfloat16 matrices.
    """

    name: str
    memory: int
    pinned: list[Timing]
    pageable: list[Timing]
    experts: list[Timing]
    launch: Timing
    multiply: Timing


def find_torch() -> Any:
    """Return torch if it is installed and sees a CUDA device, else None."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def measure_gpu(
    torch: Any, sizes: Sequence[int], expert_sizes: Sequence[int], repetitions: int, done: Callable[[], None]
) -> GpuTimes:
    """Time copies and experts on the current device.

    Args:
        torch: the module (`find_torch`).
        sizes: bytes of a copy.
        expert_sizes: bytes of an expert, as in float32; in bfloat16 it has half of them.
        repetitions: of each.
        done: called after each size.
    """
    device = torch.cuda.current_device()
    properties = torch.cuda.get_device_properties(device)

    def waited(action: Callable[[int], object]) -> Callable[[int], None]:
        def both(call: int) -> None:
            action(call)
            torch.cuda.synchronize()

        return both

    copies: dict[bool, list[Timing]] = {True: [], False: []}
    for size in sizes:
        target = torch.empty(size, dtype=torch.uint8, device="cuda")
        for pinned, timings in copies.items():
            source = torch.empty(size, dtype=torch.uint8, pin_memory=pinned)

            def copy(_: int, target: Any = target, source: Any = source) -> Any:
                return target.copy_(source, non_blocking=True)

            timings.append(repeat(size, waited(copy), repetitions))
        done()
    experts = []
    for wanted in expert_sizes:
        hidden, ffn = widths(wanted)
        size = 3 * hidden * ffn * 2
        count = max((512 << 20) // size, 2)  # far more than any GPU's cache
        shape = {"dtype": torch.bfloat16, "device": "cuda"}
        pool = [(torch.rand(ffn, hidden, **shape), torch.rand(ffn, hidden, **shape), torch.rand(hidden, ffn, **shape))
                for _ in range(count)]  # fmt: skip
        x = torch.rand(hidden, **shape)

        def run_expert(call: int, pool: list[Any] = pool, x: Any = x) -> Any:
            gate, up, down = pool[call % len(pool)]
            return down @ (torch.nn.functional.silu(gate @ x) * (up @ x))

        experts.append(repeat(size, waited(run_expert), repetitions))
        done()
    one = torch.zeros(1, device="cuda")
    launch = repeat(0, waited(lambda _: one.add_(1)), repetitions)
    width = 4096
    a, b = (torch.rand(width, width, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    multiply = repeat(2 * width**3, waited(lambda _: a @ b), repetitions)
    done()
    return GpuTimes(
        properties.name, int(properties.total_memory), copies[True], copies[False], experts, launch, multiply
    )
