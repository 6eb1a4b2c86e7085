"""Read safetensors files: a length, a JSON header, then raw tensors, which are mapped and not loaded."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.documents import check_regular, parse_json
from lrcsim.base.errors import TraceError

LONGEST_HEADER = 100_000_000
"""Bytes, the format's own limit."""

DTYPES = {
    "I8": "i1",
    "U8": "u1",
    "I16": "<i2",
    "U16": "<u2",
    "I32": "<i4",
    "I64": "<i8",
    "F16": "<f2",
    "BF16": "<u2",
    "F32": "<f4",
    "F64": "<f8",
}
"""NumPy types by safetensors name; bfloat16 comes as its bits."""


def open_tensors(path: Path) -> dict[str, tuple[str, npt.NDArray[Any]]]:
    """Map the tensors of a file.

    Returns:
        By name, the safetensors dtype and a read-only array on the file.

    Raises:
        TraceError: the file is no safetensors file, or is truncated.
    """
    check_regular(path)
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > size - 8:
                raise TraceError(f"{path}: is truncated, or no safetensors file")
            if length > LONGEST_HEADER:
                raise TraceError(f"{path}: has a header of {length:,} bytes, allowed are {LONGEST_HEADER:,}")
            header = parse_json(file.read(length), f"{path}:")
        tensors: dict[str, tuple[str, npt.NDArray[Any]]] = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            low, high = entry["data_offsets"]
            shape, kind = tuple(entry["shape"]), entry["dtype"]
            if not all(type(number) is int and number >= 0 for number in (low, high, *shape)):
                raise TraceError(f"{path}: tensor {name!r} has a shape or offsets that are no counts")
            if kind not in DTYPES:
                raise TraceError(f"{path}: tensor {name!r} is {kind}, known are {', '.join(DTYPES)}")
            dtype = np.dtype(DTYPES[kind])
            if high - low != math.prod(shape) * dtype.itemsize:
                raise TraceError(f"{path}: tensor {name!r} has {high - low} bytes, not those of {kind} {list(shape)}")
            if 8 + length + high > size:
                raise TraceError(f"{path}: is truncated, tensor {name!r} ends at byte {8 + length + high} of {size}")
            if high == low:
                tensors[name] = kind, np.zeros(shape, dtype)
            else:
                tensors[name] = kind, np.memmap(path, dtype, "r", 8 + length + low, shape)
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        if isinstance(error, TraceError):
            raise
        raise TraceError(f"{path}: is no safetensors file ({str(error)[:120]})") from None
    return tensors


def to_float(kind: str, values: npt.NDArray[Any]) -> npt.NDArray[np.floating[Any]]:
    """Give numbers of a float dtype; bfloat16 bits become the upper half of float32."""
    if kind == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return np.asarray(values)
