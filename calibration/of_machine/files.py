"""Reading a file past the page cache, so that the storage is measured and not memory."""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np

from lrcsim.base.errors import ConfigError
from lrcsim.calibration.of_machine.timing import Timing, at_once, repeat

ALIGNMENT = 4096
"""Offsets, lengths and addresses of reads past the page cache are multiples of this many bytes."""
SPREAD = 64 << 20
"""Bytes of memory read into in turn: a read into memory that the processor has in its cache is faster."""
HUGE = 2 << 20
"""Bytes of a huge page on the machines that most people have."""
_NOCACHE = 48  # fcntl's F_NOCACHE on macOS, which not every Python has a name for


class UncachedFile:
    """A file opened so that each read asks the storage.

    ``O_DIRECT`` where the file system takes it; else the file's pages are thrown out of the page cache after each read
    (``posix_fadvise``, which only clean pages obey) or not kept (macOS, ``F_NOCACHE``).

    Args:
        path: an existing file.
        direct: whether to try ``O_DIRECT``.

    Attributes:
        how: which of them it is, for people.

    Raises:
        ConfigError: the system has none of them, or no positioned reads into a buffer.
    """

    def __init__(self, path: str | Path, *, direct: bool = True) -> None:
        if not hasattr(os, "preadv"):
            raise ConfigError(f"{path}: this system has no positioned reads (preadv): reads cannot be measured on it")
        self.how = ""
        self._drop = False
        if direct and hasattr(os, "O_DIRECT"):
            try:
                self._fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
                self.how = "O_DIRECT"
                os.preadv(self._fd, aligned_buffers(1, ALIGNMENT), 0)  # some file systems refuse only now
                return
            except OSError:
                if self.how:
                    os.close(self._fd)
        self._fd = os.open(path, os.O_RDONLY)
        if sys.platform == "darwin":
            import fcntl

            fcntl.fcntl(self._fd, getattr(fcntl, "F_NOCACHE", _NOCACHE), 1)
            self.how = "F_NOCACHE"
        elif hasattr(os, "posix_fadvise"):
            self._drop = True
            self.how = "posix_fadvise(DONTNEED)"
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
        else:
            os.close(self._fd)
            raise ConfigError(f"{path}: this system cannot read past its page cache: leave the file reads out")

    def read(self, offset: int, view: memoryview) -> None:
        """Fill a buffer from ``offset``; both, and the buffer's address, are multiples of `ALIGNMENT`.

        Raises:
            OSError: the file ends before the buffer is full.
        """
        done = 0
        while done < len(view):
            got = os.preadv(self._fd, [view[done:]], offset + done)
            if not got:
                raise OSError(f"the file ends at byte {offset + done}, before the read does")
            done += got
        if self._drop:
            os.posix_fadvise(self._fd, offset, len(view), os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def __enter__(self) -> UncachedFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()


def aligned_buffers(count: int, size: int) -> list[memoryview]:
    """Return writable pieces of memory that begin at a page, ``size`` bytes each, every page already there.

    They are parts of one mapping in huge pages, where the system has them. Storage writes a read into memory page by
    page: into scattered small ones the same read took up to twice as long, always the same for the same buffer.
    """
    stride = -(-size // ALIGNMENT) * ALIGNMENT
    flags = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
    arena = mmap.mmap(-1, count * stride + HUGE, **flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            arena.madvise(mmap.MADV_HUGEPAGE)
    pages = np.frombuffer(arena, np.uint8)
    first = -pages.ctypes.data % HUGE
    pages[::ALIGNMENT] = 0
    view = memoryview(arena)
    return [view[begin : begin + size] for begin in range(first, first + count * stride, stride)]


@contextmanager
def scratch_file(folder: str | Path | None, size: int) -> Iterator[Path]:
    """Give a file of so many random bytes, written through to the storage; it is removed at the end.

    Args:
        folder: where; None: the system's folder for temporary files.
        size: bytes.

    Raises:
        ConfigError: the folder does not exist, or the file does not fit.
    """
    block = np.random.default_rng(0).integers(0, 256, min(size, 1 << 22), np.uint8).tobytes()
    try:
        handle, name = tempfile.mkstemp(prefix=".lrcsim-measure-", dir=folder)
    except OSError as error:
        raise ConfigError(f"folder {folder}: {error.strerror}: give one that can be written to") from None
    try:
        with os.fdopen(handle, "wb") as file:
            for begin in range(0, size, len(block)):
                file.write(block[: size - begin])
            file.flush()
            os.fsync(file.fileno())
        yield Path(name)
    except OSError as error:
        raise ConfigError(f"file for measuring in {Path(name).parent}: {error.strerror or error}") from None
    finally:
        Path(name).unlink(missing_ok=True)


def file_system(path: str | Path) -> str:
    """Return type and device of the file system a path is on, such as ``"ext4 on /dev/sda1"``; else ``"unknown"``.

    Read from ``/proc/self/mounts``, which only Linux has.
    """
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    where = Path(path).resolve()
    mounts = [(Path(place), f"{kind} on {device}") for device, place, kind, *_ in map(str.split, lines)]
    holding = [(len(place.parts), text) for place, text in mounts if where.is_relative_to(place)]
    return max(holding, key=lambda found: found[0])[1] if holding else "unknown"  # later mounts hide earlier ones


def read_sizes(
    file: UncachedFile, file_bytes: int, sizes: Sequence[int], repetitions: int, done: Callable[[], None]
) -> list[Timing]:
    """Time single reads of each size at random places, one at a time; ``done`` is called after each size."""
    timings = []
    for size in sizes:
        buffers, places = aligned_buffers(max(SPREAD // size, 1), size), _places(file_bytes, size)

        def one(i: int, size: int = size, buffers: list[memoryview] = buffers, places: list[int] = places) -> None:
            file.read(places[i % len(places)] * size, buffers[i % len(buffers)])

        timings.append(repeat(size, one, repetitions))
        done()
    return timings


def read_lanes(
    file: UncachedFile,
    file_bytes: int,
    size: int,
    lanes: Sequence[int],
    repetitions: int,
    done: Callable[[], None],
) -> dict[int, Timing]:
    """Time reads of one size by several threads at once.

    Returns:
        By number of threads: seconds from the first read's begin to the last one's end, divided by their number, and
        so ``Timing.rate`` is what all threads read together.
    """
    found = {}
    places = _places(file_bytes, size)
    each = 8
    for count in lanes:
        buffers = aligned_buffers(max(SPREAD // size, count), size)

        def work(number: int, lane: int, count: int = count, buffers: list[memoryview] = buffers) -> None:
            for i in range(each):
                turn = (number * each + i) * count + lane
                file.read(places[turn % len(places)] * size, buffers[turn % len(buffers)])

        found[count] = at_once(size, count, each, work, repetitions)
        done()
    return found


def _places(file_bytes: int, size: int) -> list[int]:
    """Return the places of a size in a file, in random order: the same one in every run."""
    order: list[int] = np.random.default_rng(size).permutation(max(file_bytes // size, 1)).tolist()
    return order
