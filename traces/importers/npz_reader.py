"""Per-token arrays of a NumPy archive, read a run of tokens at a time, as exact numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.files import npy_header
from lrcsim.traces.importers.logits import best
from lrcsim.traces.importers.names import plain
from lrcsim.traces.importers.npz_arrays import PER_TOKEN, Arrays
from lrcsim.traces.importers.npz_contents import Contents
from lrcsim.traces.importers.source import Columns
from lrcsim.traces.importers.values import as_phases
from lrcsim.traces.layers import MAX_EXPERTS


class Reader:
    """Per-token arrays, read side by side from the first token to the last."""

    def __init__(self, contents: Contents, arrays: Arrays) -> None:
        self._arrays, self._at = arrays, 0
        self._streams = {name: _Stream(contents, name, arrays) for name in arrays.used}

    def read(self, columns: Sequence[str], count: int) -> Columns:
        """Read the next tokens of some of our columns (``experts`` and those of `Arrays.names`)."""
        block: Columns = {}
        for ours in columns:
            if ours == "experts":
                block[ours] = self._experts(count)
            elif ours in self._arrays.names and not (ours == "logits" and "logits" in block):
                stream = self._streams[self._arrays.names[ours]]
                column = ours.replace("_", "/") if ours.startswith("predictions_") else ours
                given = stream.read(count)
                if ours == "phase" and (given.dtype.kind == "U" or plain(self._arrays.names[ours]).startswith("is_")):
                    given = as_phases(self._arrays.names[ours], pa.array(given), self._at + 1)
                block[column] = _converted(ours, given, self._at)
        if self._arrays.chosen is not None and "experts" in columns:
            logits = block.setdefault("logits", np.empty(0))
            if logits.size == 0:
                logits = _converted("logits", self._streams[self._arrays.names["logits"]].read(count), self._at)
                block["logits"] = logits
            _finite(logits, self._at)
            block["experts"] = best(logits.astype(np.float32), self._arrays.chosen).astype(np.int32)
        self._at += count
        return block

    def _experts(self, count: int) -> npt.NDArray[Any]:
        arrays = self._arrays
        if arrays.chosen is not None:
            return np.empty(0)
        if arrays.axis == "layer":
            pieces = [self._streams[name].read(count) for name in arrays.pieces]
            given = np.stack(pieces, axis=1)
        elif arrays.axis == "token":
            parts, left = [], count
            for name in arrays.pieces:
                stream = self._streams[name]
                if left and stream.left:
                    parts.append(stream.read(min(left, stream.left)))
                    left -= len(parts[-1])
            given = np.concatenate(parts) if len(parts) > 1 else parts[0]
        else:
            given = self._streams[arrays.pieces[0]].read(count)
        return _converted("experts", given, self._at)


class _Stream:
    """One array, read a run of tokens at a time.

    Attributes:
        left: tokens not read yet.
    """

    def __init__(self, contents: Contents, name: str, arrays: Arrays) -> None:
        self._contents, self._name = contents, name
        shape, dtype, by_column = contents.header(name)
        spread = len(shape) in (2, 4) and arrays.axis != "layer"  # [requests, tokens, ...]
        turned = arrays.layer_first and len(shape) == 3
        self._whole: npt.NDArray[Any] | None = None
        self._rest = shape[2:] if spread else shape[1:]
        self._dtype = dtype
        self.left = shape[0] * shape[1] if spread else shape[0]
        if by_column or turned:  # cannot be read a run of tokens at a time
            whole = contents.whole(name)
            whole = whole.swapaxes(0, 1) if turned else whole
            self._whole = whole.reshape(self.left, *self._rest) if spread else whole
            self.left = len(self._whole)
            return
        with contents.damaged(name):
            self._file = contents.open(name)
            npy_header(self._file)

    def read(self, count: int) -> npt.NDArray[Any]:
        """Return the next tokens."""
        self.left -= count
        if self._whole is not None:
            block, self._whole = self._whole[:count], self._whole[count:]
            return block
        row = int(np.prod(self._rest, dtype=np.int64)) * self._dtype.itemsize
        with self._contents.damaged(self._name):
            data = self._file.read(count * row)
        if len(data) != count * row:
            raise TraceError(f"array {self._name!r} is truncated")
        if self.left == 0:
            self._file.close()
        return np.frombuffer(data, self._dtype).reshape(count, *self._rest)


def _finite(logits: npt.NDArray[Any], first: int) -> None:
    good = np.isfinite(logits).all(axis=(1, 2))
    if not good.all():
        raise TraceError(f"token {first + int(np.argmin(good))}: logits must be finite numbers")


def _converted(name: str, block: npt.NDArray[Any], first: int) -> npt.NDArray[Any]:
    """Bring a run to the type a trace keeps, refusing numbers that do not fit."""
    if PER_TOKEN.get(name) == "f":
        return block.astype(np.float16 if block.dtype == np.float16 else np.float32)
    dtype: type[np.integer[Any]] = np.uint8 if name in ("phase", "residency", "stack") else np.int32
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if name == "experts":
        low, high = -1, MAX_EXPERTS - 1
    if block.dtype.kind == "f":
        block = block.astype(np.float64)
        with np.errstate(invalid="ignore"):
            bad = ~((np.floor(block) == block) & (block >= low) & (block <= high))
    elif block.dtype.kind == "b" or (block.min() >= low and block.max() <= high):
        return block.astype(dtype)
    else:
        bad = (block < low) | (block > high)
    if bad.any():
        place = np.unravel_index(int(np.argmax(bad)), bad.shape)
        where = f"token {first + int(place[0])}" + (f", layer {place[1]}" if len(place) > 1 else "")
        wrong = (
            "must be integers" if block.dtype.kind == "f" and not abs(block[place]) > high else "is out of all range"
        )
        raise TraceError(f"{where}: {name} {wrong}, has {block[place]}, allowed are {low}..{high}")
    return block.astype(dtype)
