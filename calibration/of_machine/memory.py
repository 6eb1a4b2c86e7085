"""How fast memory is copied and read, by size and by one thread or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.base.units import parse_quantity
from lrcsim.calibration.of_machine.kernels import read
from lrcsim.calibration.of_machine.timing import Timing, at_once, repeat

Pair = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]
"""Source and target."""
EACH = 4
"""Copies of each thread in a row."""
CACHES = Path("/sys/devices/system/cpu")


def copy_sizes(sizes: Sequence[int], repetitions: int, done: Callable[[], None]) -> list[Timing]:
    """Time copies of each size by one thread.

    Small ones stay in the processor's caches, and are that fast: source and target together leave a cache of 32 MiB at
    16 MiB each. What a copy out of memory takes is what the largest says; no page is touched for the first time while
    the clock runs.

    Args:
        sizes: bytes.
        repetitions: of each.
        done: called after each size.
    """
    timings = []
    for size in sizes:
        source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
        inner = max((1 << 20) // size, 1)  # about 50 us: far above the clock's step
        timings.append(repeat(size, partial(_copy, source, target), repetitions, inner=inner))
        done()
    return timings


def copies_together(
    total: int, threads: Sequence[int], repetitions: int, done: Callable[[], None]
) -> dict[int, Timing]:
    """Time several threads that each copy a part of memory, all at once, by their number.

    Args:
        total: bytes of source and target together, far above the last cache.
        threads: numbers of threads.
        repetitions: of each.
        done: called after each number.

    Returns:
        Seconds per part copied by whichever thread: ``Timing.rate`` is what all copy together.
    """
    source, target = np.ones(total // 2, np.uint8), np.ones(total // 2, np.uint8)
    found = {}
    for count in threads:
        size = len(source) // count
        pairs = [(source[i * size :][:size], target[i * size :][:size]) for i in range(count)]

        def work(_: int, thread: int, pairs: Sequence[Pair] = pairs) -> None:
            source, target = pairs[thread]
            _copy(source, target, 0, EACH)

        found[count] = at_once(size, count, EACH, work, repetitions)
        done()
    return found


def reads_together(total: int, threads: Sequence[int], repetitions: int, done: Callable[[], None]) -> dict[int, Timing]:
    """Time several threads that each sum up a part of memory, all at once; as `copies_together`.

    Reading alone is what an expert's weights ask of memory; McCalpin's STREAM (1995) has it beside copies for the same
    reason: they differ.
    """
    memory = np.ones(total // 4, np.float32)
    read(memory[:1])  # compiled before the clock runs
    found = {}
    for count in threads:
        length = len(memory) // count
        parts = [memory[i * length :][:length] for i in range(count)]

        def work(_: int, thread: int, parts: list[npt.NDArray[np.float32]] = parts) -> None:
            for _turn in range(EACH):
                read(parts[thread])

        found[count] = at_once(4 * length, count, EACH, work, repetitions)
        done()
    return found


def last_cache(root: Path = CACHES) -> int:
    """Return bytes of the last level of the processors' caches, all of them together; 0 where the system does not say.

    From ``cpu*/cache/index*`` under ``root`` (Linux): one cache for each set of processors that share it.
    """
    found: dict[tuple[int, str], int] = {}
    for folder in root.glob("cpu[0-9]*/cache/index[0-9]*"):
        try:
            level, shared, size = (
                (folder / name).read_text("utf-8").strip() for name in ("level", "shared_cpu_list", "size")
            )
            found[int(level), shared] = int(parse_quantity(f"{size}iB", "bytes"))  # "32768K"
        except (OSError, ValueError, ConfigError):
            continue
    last = max((level for level, _ in found), default=0)
    return sum(size for (level, _), size in found.items() if level == last)


def _copy(source: npt.NDArray[np.uint8], target: npt.NDArray[np.uint8], _: int, times: int = 1) -> None:
    for _ in range(times):
        np.copyto(target, source)
