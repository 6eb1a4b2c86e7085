"""How fast the processor computes experts: real products, with weights in its caches and with weights out of memory."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt

from lrcsim.calibration.of_machine.timing import Timing, repeat

Matrices = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32], npt.NDArray[np.float32]]
ExpertTimes = tuple[Timing, Timing]
"""Of one size: with the weights in the caches, and streaming from memory."""


def widths(size: int) -> tuple[int, int]:
    """Return hidden and ffn = 2 * hidden of an expert of about ``size`` bytes in float32, at least 16 wide."""
    hidden = max(16, 16 * round(math.sqrt(size / 24) / 16))
    return hidden, 2 * hidden


def run_expert(weights: Matrices, x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return down @ (silu(gate @ x) * (up @ x)); for x float32 [hidden], or [hidden, tokens]."""
    gate, up, down = weights
    inside = gate @ x
    inside /= 1 + np.exp(-inside)
    inside *= up @ x
    product: npt.NDArray[np.float32] = down @ inside
    return product


def expert_sizes(
    sizes: Sequence[int], repetitions: int, working_set: int, done: Callable[[], None]
) -> list[ExpertTimes]:
    """Time one expert for one token, by size, with as many threads as numpy's library takes.

    Args:
        sizes: bytes of an expert, rounded to whole widths; ``Timing.size`` says what it became.
        repetitions: of each.
        working_set: bytes of different experts that are gone through in random order, so that each comes from memory:
            several times the last cache.
        done: called after each size.
    """
    random = np.random.default_rng(0)
    found = []
    for wanted in sizes:
        hidden, ffn = widths(wanted)
        size = 3 * hidden * ffn * 4
        count = max(working_set // size, 2)
        flat = random.random((count, 3 * hidden * ffn), dtype=np.float32) - np.float32(0.5)
        experts = [_matrices(one, hidden, ffn) for one in flat]
        x = random.random(hidden, dtype=np.float32)
        order: list[int] = random.permutation(count).tolist()
        warm = repeat(size, partial(_run_one, experts[:1], x), repetitions, inner=4)
        cold = repeat(size, partial(_run_one, [experts[i] for i in order], x), repetitions, inner=4)
        found.append((warm, cold))
        done()
    return found


def _run_one(experts: Sequence[Matrices], x: npt.NDArray[np.float32], turn: int) -> None:
    run_expert(experts[turn % len(experts)], x)


def multiply_rate(repetitions: int, width: int = 1024) -> Timing:
    """Time products of two square float32 matrices.

    Returns:
        A timing whose ``size`` is the operations of a product, so that ``rate`` is FLOP/s.
    """
    random = np.random.default_rng(0)
    a, b = random.random((2, width, width), dtype=np.float32)
    return repeat(2 * width**3, lambda _: a @ b, repetitions)


def hand_over(repetitions: int) -> Timing:
    """Time a thread that hands work to a waiting thread and waits for its answer: two wake-ups, and nothing done."""
    there: SimpleQueue[bool] = SimpleQueue()
    back: SimpleQueue[bool] = SimpleQueue()

    def serve() -> None:
        while there.get():
            back.put(True)

    def ask(_: int) -> None:
        there.put(True)
        back.get()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    timing = repeat(0, ask, repetitions, inner=10)
    there.put(False)
    thread.join()
    return timing


def threads_used() -> int:
    """Return how many threads numpy's library was told to use, else the processors this process may run on."""
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        text = os.environ.get(name, "")
        if text.isdecimal() and int(text) > 0:
            return int(text)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _matrices(flat: npt.NDArray[np.float32], hidden: int, ffn: int) -> Matrices:
    part = hidden * ffn
    return (
        flat[:part].reshape(ffn, hidden),
        flat[part : 2 * part].reshape(ffn, hidden),
        flat[2 * part :].reshape(hidden, ffn),
    )
