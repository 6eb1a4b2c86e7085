"""Read a dataset by its chunks, unpacked by `lrcsim.traces.packing`."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import TraceError
from lrcsim.traces.columns import Column
from lrcsim.traces.packing import GZIP, SHUFFLE, ZSTD, most_stored, unpack

KEPT_BYTES = 32 << 20
"""Most bytes of unpacked chunks that a dataset keeps for the next read. More than fits is unpacked again."""

Corner = tuple[int, ...]
Convert = Callable[[npt.NDArray[Any]], npt.NDArray[Any]]


def column_of(dataset: h5py.Dataset, convert: Convert | None = None) -> Column:
    """Return what reads a dataset's numbers: by its chunks where `packing` knows its filters and types, else HDF5.

    Args:
        dataset: of numbers.
        convert: what may be done to them as soon as they are read; HDF5 leaves it to the caller.

    Raises:
        TraceError: it can be read in neither way.
    """
    created = dataset.id.get_create_plist()
    used = [created.get_filter(at) for at in range(created.get_nfilters())]
    codes = tuple(code for code, *_ in used)
    plain = dataset.id.get_type().equal(h5py.h5t.py_create(dataset.dtype))  # no bits left out, which HDF5 would fill in
    widths = [values[:1] for code, _, values, _ in used if code == SHUFFLE]
    known = created.get_layout() == h5py.h5d.CHUNKED and set(codes) <= {GZIP, SHUFFLE, ZSTD} and plain
    if known and all(width == (dataset.dtype.itemsize,) for width in widths):
        return ChunkedColumn(dataset, codes, convert)
    if ZSTD in codes:
        raise TraceError(f"{dataset.name} is of a type that cannot be read with the filter {ZSTD} (Zstandard)")
    as_it_is: Column = dataset
    return as_it_is


class ChunkedColumn:
    """A dataset of numbers, sliced like one, that is unpacked here instead of by the HDF5 library.

    Chunks that go on after the tokens read are kept, for who reads on from there. Threads may read at the same time.

    Args:
        dataset: chunked.
        codes: its filters, in HDF5's order: any of those that `packing.unpack` knows.
        convert: what to do to all numbers, of any shape, chunk by chunk, while they are in a processor's cache.
    """

    def __init__(self, dataset: h5py.Dataset, codes: tuple[int, ...], convert: Convert | None = None) -> None:
        self._dataset = dataset
        self._codes = codes
        self._convert = convert or (lambda numbers: numbers)
        self._grid: tuple[int, ...] = dataset.chunks
        self._count = math.prod(self._grid)
        self._kept: dict[Corner, npt.NDArray[Any]] = {}
        self._room = max(1, KEPT_BYTES // (self._count * dataset.dtype.itemsize))
        self._lock = threading.Lock()
        self._own = threading.local()
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype: np.dtype[Any] = dataset.dtype

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """Return all of it, as ``np.asarray`` asks a dataset for."""
        found = self[:]
        return found if dtype is None else found.astype(dtype, copy=False)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, key: slice | tuple[slice, ...]) -> npt.NDArray[Any]:
        """Return a part of the dataset.

        Args:
            key: slices of step 1, tokens first. With anything else that numpy takes the whole dataset is read for it.

        Raises:
            OSError: a chunk is damaged.
        """
        given = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(part, slice) and part.step in (None, 1) for part in given):
            return self[:][key]
        ranges = [part.indices(size)[:2] for part, size in zip(given, self.shape, strict=False)]
        ranges += [(0, size) for size in self.shape[len(given) :]]
        found = np.empty([max(high - low, 0) for low, high in ranges], self._convert(np.empty(0, self.dtype)).dtype)
        whole_rows = found.ndim == 3 and self._grid[2] == self.shape[2] == found.shape[2]
        target = _as_rows(found) if whole_rows else found
        for corner in self._corners(ranges):
            chunk = self._chunk(corner, keep=ranges[0][1] < min(corner[0] + self._grid[0], self.shape[0]))
            here, there = [], []
            for (low, high), at, length in zip(ranges, corner, self._grid, strict=True):
                first, last = max(low, at), min(high, at + length)
                here.append(slice(first - at, last - at))
                there.append(slice(first - low, last - low))
            part = self._convert(chunk[tuple(here)])
            target[tuple(there)] = _as_rows(part) if whole_rows else part
        return found

    def _corners(self, ranges: list[tuple[int, int]]) -> Iterator[Corner]:
        """Yield the first index of each chunk that has a part of the ranges."""
        along = [range(low - low % step, high, step) for (low, high), step in zip(ranges, self._grid, strict=True)]
        return product(*along)

    def _chunk(self, corner: Corner, keep: bool) -> npt.NDArray[Any]:
        """Return a chunk, as kept or as read now; unless it is to be kept it is good until this thread's next call."""
        with self._lock:
            chunk = self._kept.get(corner) if keep else self._kept.pop(corner, None)
        if chunk is not None:
            return chunk
        size = self._count * self.dtype.itemsize
        if not hasattr(self._own, "room"):
            self._own.room = np.empty(most_stored(size), np.uint8)
        try:
            mask, stored = self._dataset.id.read_direct_chunk(corner, out=self._own.room)
        except (OSError, RuntimeError):
            if self._dataset.id.get_chunk_info_by_coord(corner).byte_offset is not None:
                raise
            return np.full(self._grid, self._dataset.fillvalue, self.dtype)  # never written
        chunk = unpack(np.frombuffer(stored, np.uint8), self._codes, mask, self._count, self.dtype)
        chunk = chunk.reshape(self._grid)
        if keep:
            if np.may_share_memory(chunk, self._own.room):
                chunk = chunk.copy()
            with self._lock:
                while len(self._kept) >= self._room:
                    del self._kept[next(iter(self._kept))]
                self._kept[corner] = chunk
        return chunk


def _as_rows(array: npt.NDArray[Any]) -> npt.NDArray[np.void]:
    """Return [n, L, 1] of [n, L, k], a row of ranks in one element: copied as a whole, three times as fast."""
    rows: npt.NDArray[np.void] = array.view(np.dtype((np.void, array.shape[2] * array.itemsize)))
    return rows
