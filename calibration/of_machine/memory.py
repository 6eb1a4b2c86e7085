"""How fast memory is copied, by size and by one thread or several."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from lrcsim.calibration.of_machine.timing import Timing, repeat

__all__ = ["copy_sizes", "copy_together"]


def copy_sizes(sizes: Sequence[int], repetitions: int, done: Callable[[], None]) -> list[Timing]:
    """Time copies of each size by one thread; small ones stay in the processor's caches, and are that fast.

    Args:
        sizes: bytes.
        repetitions: of each.
        done: called after each size.
    """
    timings = []
    for size in sizes:
        source, target = np.ones(size, np.uint8), np.zeros(size, np.uint8)
        inner = max((1 << 20) // size, 1)  # about 50 us: far above the clock's step
        timings.append(repeat(size, partial(_copy, source, target), repetitions, inner=inner))
        done()
    return timings


def copy_together(size: int, threads: int, repetitions: int) -> Timing:
    """Time several threads that each copy ``size`` bytes four times at once.

    Returns:
        Seconds per ``size`` bytes copied by whichever thread: ``Timing.rate`` is what all copy together.
    """
    pairs = [(np.ones(size, np.uint8), np.zeros(size, np.uint8)) for _ in range(threads)]
    each = 4

    def round_of_copies(_: int) -> None:
        started = [threading.Thread(target=_copy, args=(*pair, 0, each)) for pair in pairs]
        for thread in started:
            thread.start()
        for thread in started:
            thread.join()

    timing = repeat(size, round_of_copies, repetitions)
    return Timing(size, tuple(seconds / (each * threads) for seconds in timing.seconds))


def _copy(source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8], _: int, times: int = 1) -> None:
    for _ in range(times):
        np.copyto(target, source)
