"""Arrays of routing as servers send them: nested lists, base64 of a .npy file, described buffers, flattened ids.

What an array says of its own size is checked against the bytes that are there before anything is allocated.
"""

from __future__ import annotations

import base64
import binascii
import io
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import TraceError, brief
from lrcsim.traces.importers.files import npy_header
from lrcsim.traces.importers.source import Options

DTYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
NPY = b"\x93NUMPY"
LARGEST_ID = 65_534
MOST = 65_535
"""Layers, and experts per token, at most."""


@dataclass(frozen=True)
class Wire:
    """Routing as it was sent.

    Attributes:
        experts: int32 [rows, layers, k], -1 where not recorded.
        start: position of the first row, where the array says it itself.
        flattened: whether the rows follow from the options, not from the array.
    """

    experts: npt.NDArray[np.int32]
    start: int | None = None
    flattened: bool = False


def decode_array(value: object, options: Options | None = None, dtype: object = "int32") -> Wire:
    """Decode ``[rows, layers, k]`` of whichever form.

    Args:
        value: nested lists; base64 text of a .npy file, or of flattened ids; or a described buffer, ``{"data": base64,
            "shape": [...], "dtype": "uint8", "start": n}``, whose first row is position n.
        options: ``num_layers`` and ``top_k`` give flattened ids their shape.
        dtype: of flattened ids.

    Raises:
        TraceError: it is none of these, or not of three dimensions, or its size is not that of its bytes.
    """
    start, flattened = None, False
    if isinstance(value, str):
        data = _unbase64(value)
        flattened = not data.startswith(NPY)
        array = _flattened(data, options or Options(), dtype) if flattened else _npy(data)
    elif isinstance(value, dict):
        array, start = _described(value)
    elif isinstance(value, list):
        array = _nested(value)
    else:
        raise TraceError(f"routed_experts must be a list, base64 or a described buffer, is {type(value).__name__}")
    if array.ndim != 3 or array.dtype.kind not in "iu" or not all(0 < size <= MOST for size in array.shape[1:]):
        raise TraceError(f"routed_experts must be integers [tokens, layers, k], is {array.dtype} {list(array.shape)}")
    if array.size and (array.min() < -1 or array.max() > LARGEST_ID):
        raise TraceError(f"routed_experts has ids from {array.min()} to {array.max()}, allowed -1..{LARGEST_ID}")
    return Wire(array.astype(np.int32), start, flattened)


def _unbase64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise TraceError(f"routed_experts is no base64 ({error})") from None


def _npy(data: bytes) -> npt.NDArray[Any]:
    """Read a .npy file: its header first, then as many bytes as that asks for."""
    file = io.BytesIO(data)
    try:
        shape, fortran, dtype = npy_header(file)
    except Exception as error:
        raise TraceError(f"routed_experts is base64 of no .npy array ({brief(error)[:120]})") from None
    if dtype.hasobject:
        raise TraceError("routed_experts is base64 of no .npy array of numbers")
    array = _sized(data[file.tell() :], shape, dtype)
    return array.reshape(shape, order="F") if fortran else array.reshape(shape)


def _described(value: dict[str, Any]) -> tuple[npt.NDArray[Any], int | None]:
    dtype, shape, start = value.get("dtype", "uint8"), value.get("shape"), value.get("start")
    if isinstance(dtype, str):
        dtype = dtype.removeprefix("torch.")
    if dtype not in DTYPES or not isinstance(shape, list) or not all(_whole(size) for size in shape):
        raise TraceError(
            f"routed_experts has dtype {str(dtype)[:40]!r} and shape {str(shape)[:80]}, "
            f"needs {'/'.join(DTYPES)} and a list"
        )
    if not isinstance(value.get("data"), str) or not (start is None or _whole(start)):
        raise TraceError("routed_experts needs base64 'data', and a 'start' that is a number from 0")
    little = np.dtype(dtype).newbyteorder("<")
    return _sized(_unbase64(value["data"]), tuple(shape), little).reshape(shape), start


def _flattened(data: bytes, options: Options, dtype: object) -> npt.NDArray[Any]:
    if options.num_layers is None or options.top_k is None:
        raise TraceError(
            "routed_experts is base64 of no .npy array; the size of flattened routing is not sent: "
            "give --num-layers (all blocks) and --top-k"
        )
    if dtype not in DTYPES:
        raise TraceError(f"routed_experts must be base64 of {'/'.join(DTYPES)}, is of {str(dtype)[:40]}")
    little = np.dtype(str(dtype)).newbyteorder("<")
    per_token = options.num_layers * options.top_k
    count, odd = divmod(len(data), little.itemsize)
    if odd or count % per_token:
        raise TraceError(
            f"holds {len(data)} bytes = {len(data) / little.itemsize:g} ids of {dtype}, no multiple of "
            f"--num-layers {options.num_layers} x --top-k {options.top_k} = {per_token}"
        )
    return np.frombuffer(data, little).reshape(-1, options.num_layers, options.top_k)


def _nested(value: list[Any]) -> npt.NDArray[Any]:
    try:
        array = np.array(value)
    except (ValueError, OverflowError):
        raise TraceError("routed_experts is a ragged list, must be [tokens, layers, k]") from None
    if array.ndim == 3 and array.dtype.kind in "iu":
        rows = itertools.chain.from_iterable(value)
        if bool in set(map(type, itertools.chain.from_iterable(rows))):
            raise TraceError("routed_experts must be integers [tokens, layers, k], has true or false")
    return array


def _sized(data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Return the numbers in ``data``, if they are as many as the shape says."""
    count = 1
    for size in shape:
        count *= size
    if count * dtype.itemsize != len(data) or any(size < 0 for size in shape):
        raise TraceError(
            f"routed_experts holds {len(data)} bytes, "
            f"shape {str(list(shape))[:80]} of {dtype.name} needs another number"
        )
    return np.frombuffer(data, dtype, count) if count else np.zeros(0, dtype)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
