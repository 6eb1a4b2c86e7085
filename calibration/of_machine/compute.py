"""How fast the processor computes experts: real products, with weights in its caches and with weights out of memory."""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue

import numba
import numpy as np

from lrcsim.base.cores import usable_cores
from lrcsim.calibration.of_machine.kernels import Floats, run_expert
from lrcsim.calibration.of_machine.timing import Timing, repeat

ExpertTimes = tuple[Timing, Timing]
"""Of one size: with the weights in the caches, and streaming from memory."""
BLOCK = 1 << 20
"""Random numbers that weights are made of, over and over: their values do not matter, that they lie apart does."""


@dataclass(frozen=True)
class CpuTimes:
    """Experts on the processor, float32, one token.

    Attributes:
        threads: experts of the largest size out of memory, by how many threads compute each together.
        best: the number of threads that was fastest.
        sizes: by size, with that many.
    """

    threads: dict[int, Timing]
    best: int
    sizes: list[ExpertTimes]


def widths(size: int, width: int = 4) -> tuple[int, int]:
    """Return hidden and ffn = 2 * hidden of an expert of about ``size`` bytes, ``width`` a number, at least 16 wide."""
    hidden = max(16, 16 * round(math.sqrt(size / (6 * width)) / 16))
    return hidden, 2 * hidden


def measure_experts(
    sizes: Sequence[int],
    threads: Sequence[int],
    largest: int,
    working_set: int,
    repetitions: int,
    done: Callable[[], None],
) -> CpuTimes:
    """Time one expert for one token, by threads, then by size with the best number of them.

    Args:
        sizes: bytes of an expert, rounded to whole widths; ``Timing.size`` says what it became.
        threads: numbers of threads to try.
        largest: bytes of an expert that they are tried with.
        working_set: bytes of different experts that are gone through in random order, so that each comes from memory:
            several times the last cache.
        repetitions: of each.
        done: called after each number of threads and each size.
    """
    random = np.random.default_rng(0)
    block = random.random(BLOCK, dtype=np.float32) - np.float32(0.5)
    memory = np.resize(block, max(working_set, 2 * max(*sizes, largest) + 4096 * 4) // 4)
    by_threads, found = {}, []
    for count in threads:
        with on_threads(count):
            by_threads[count] = _times(memory, largest, repetitions)[1]
        done()
    best = min(by_threads, key=lambda count: by_threads[count].median)
    with on_threads(best):
        for size in sizes:
            found.append(_times(memory, size, repetitions))
            done()
    return CpuTimes(by_threads, best, found)


@contextlib.contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Let compiled loops use so many threads."""
    before = numba.get_num_threads()
    numba.set_num_threads(count)
    try:
        yield
    finally:
        numba.set_num_threads(before)


def _times(memory: Floats, wanted: int, repetitions: int) -> ExpertTimes:
    hidden, ffn = widths(wanted)
    each = 3 * hidden * ffn
    count = len(memory) // each
    experts = [_matrices(memory[i * each : (i + 1) * each], hidden, ffn) for i in range(count)]
    order: list[int] = np.random.default_rng(0).permutation(count).tolist()
    x, inside, y = memory[:hidden].copy(), np.zeros(ffn, np.float32), np.zeros(hidden, np.float32)

    def run(chosen: Sequence[int], turn: int) -> None:
        run_expert(*experts[chosen[turn % len(chosen)]], x, inside, y)

    inner = max((1 << 22) // (4 * each), 1)  # about 100 us: far above the clock's step, and above a wake-up's spread
    warm = repeat(4 * each, partial(run, order[:1]), repetitions, inner=inner)
    return warm, repeat(4 * each, partial(run, order), repetitions, inner=inner)


def _matrices(flat: Floats, hidden: int, ffn: int) -> tuple[Floats, Floats]:
    half = 2 * hidden * ffn
    return flat[:half].reshape(2 * ffn, hidden), flat[half:].reshape(hidden, ffn)


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


def cores() -> int:
    """Return the processors that this process may run on, and numba was given."""
    return min(usable_cores(), int(numba.get_num_threads()))


def thread_counts(most: int) -> tuple[int, ...]:
    """Return 1, 2, 4 ... below a number, and the number itself."""
    powers = [1 << power for power in range(most.bit_length()) if 1 << power < most]
    return (*powers, most)
