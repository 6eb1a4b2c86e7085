"""How fast memory is copied, by size and by one thread or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt

from lrcsim.calibration.of_machine.timing import Timing, at_once, repeat

EACH = 4
"""Copies of each thread in a row."""


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
    return at_once(size, threads, EACH, lambda _, thread: _copy(*pairs[thread], 0, EACH), repetitions)


def _copy(source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8], _: int, times: int = 1) -> None:
    for _ in range(times):
        np.copyto(target, source)
