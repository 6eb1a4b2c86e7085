"""Arrays as servers send them."""

from __future__ import annotations

import base64
import io
import struct
from typing import Any

import numpy as np
import pytest

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers import Options
from lrcsim.traces.importers.wire import DTYPES, decode_array

ROWS = np.arange(24).reshape(4, 3, 2)


def base(data: bytes) -> str:
    return base64.b64encode(data).decode()


def npy(array: np.ndarray[Any, Any], version: tuple[int, int] = (1, 0)) -> str:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version)
    return base(file.getvalue())


def header(text: str, data: bytes = b"") -> str:
    """A .npy file whose header says ``text``."""
    line = text.encode() + b"\n"
    return base(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + data)


@pytest.mark.parametrize("dtype", [*DTYPES, ">i4", ">u2"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_npy_of_any_type_and_order(dtype: str, order: Any, version: tuple[int, int]) -> None:
    wire = decode_array(npy(np.asarray(ROWS.astype(dtype), order=order), version))
    np.testing.assert_array_equal(wire.experts, ROWS)
    assert (wire.experts.dtype, wire.start, wire.flattened) == (np.int32, None, False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_buffers_and_flattened_ids_of_any_type(dtype: str) -> None:
    data = base(ROWS.astype(np.dtype(dtype).newbyteorder("<")).tobytes())
    for name in (dtype, f"torch.{dtype}"):
        wire = decode_array({"data": data, "shape": [4, 3, 2], "dtype": name, "start": 7})
        np.testing.assert_array_equal(wire.experts, ROWS)
        assert wire.start == 7
    wire = decode_array(data, Options(num_layers=3, top_k=2), dtype)
    np.testing.assert_array_equal(wire.experts, ROWS)
    assert wire.flattened


def test_ids_above_127_and_missing_ones() -> None:
    rows = np.array([[[200, 255]], [[128, 0]]])
    data = base(rows.astype(np.uint8).tobytes())
    np.testing.assert_array_equal(decode_array({"data": data, "shape": [2, 1, 2]}).experts, rows)
    missing = np.array([[[-1, -1]], [[127, 0]]], np.int8)
    buffer = {"data": base(missing.tobytes()), "shape": [2, 1, 2], "dtype": "int8"}
    np.testing.assert_array_equal(decode_array(buffer).experts, missing)


def test_no_rows() -> None:
    assert decode_array({"data": "", "shape": [0, 3, 2]}).experts.shape == (0, 3, 2)
    assert decode_array(npy(np.zeros((0, 3, 2), np.uint8))).experts.shape == (0, 3, 2)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 4, 2), }", b"abc"), "holds 3 bytes"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (9223372036854775807, 9, 9), }"), "holds 0 bytes"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 4, 2), }", b"abc"), "holds 3 bytes"),
        (header("{'descr': '|O', 'fortran_order': False, 'shape': (1, 1, 1), }", b"\0" * 8), "array of numbers"),
        (
            header("{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1, 1, 1), }", b"\0" * 4),
            "must be integers",
        ),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1), }", b"\0" * 4), "must be integers"),
        (header("{'descr': '|b1', 'fortran_order': False, 'shape': (1, 1, 1), }", b"\0"), "must be integers"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (), }", b"\0"), "must be integers"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (4, 0, 2), }"), "must be integers"),
        (header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, -3, 1), }", b"abc"), "holds 3 bytes"),
        ({"data": "", "shape": [0, 1 << 40, 2]}, "must be integers"),
        (header("(" * 5000), "no .npy array"),
        (header("{'descr'"), "no .npy array"),
        (header("'''"), "no .npy array"),
        (header("9" * 5000), "no .npy array"),
        (base(b"\x93NUMPY"), "no .npy array"),
        (base(b"\x93NUMPY\x09\x09\x00\x00"), "no .npy array"),
        (npy(ROWS.astype(np.int32) - 2), "ids from -2"),
        (npy(ROWS.astype(np.int64) + 70_000), "allowed -1..65534"),
        ("naïve", "no base64"),
        ({"data": "AAAA", "shape": [1, 1, 3], "dtype": "float16"}, "needs uint8"),
        ({"data": "AAAA", "shape": [3], "dtype": "uint8"}, "must be integers"),
        ({"data": "AAAA", "shape": [], "dtype": "uint8"}, "needs another number"),
        ({"data": 3, "shape": [1, 1, 3]}, "needs base64 'data'"),
        ({"data": "AAAA", "shape": [1, 1, 3], "start": -1}, "a 'start' that is a number"),
        ({"data": "AAAA", "shape": [1, 1, 3], "start": 1.0}, "a 'start' that is a number"),
        ([[[1, 2], [3]]], "ragged"),
        ([[["1", "2"]]], "must be integers"),
        ([[{}]], "must be integers"),
        ([1, 2], "must be integers"),
        (3.5, "must be a list, base64"),
    ],
)
def test_what_is_no_routing(value: object, message: str) -> None:
    with pytest.raises(TraceError, match=message) as error:
        decode_array(value)
    assert len(str(error.value)) < 300
    assert "\n" not in str(error.value)
