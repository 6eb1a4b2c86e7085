"""One chunk of a dataset, packed and unpacked: the HDF5 filters gzip, shuffle and Zstandard, without the HDF5 library.

Through HDF5 itself Zstandard needs a plug-in, reading holds a lock of the whole process, and a chunk of which a part
is wanted is unpacked anew for every part. The bytes are those that HDF5's filters write and read:
https://support.hdfgroup.org/documentation/hdf5/latest/group___s_h_u_f_f_l_e.html (shuffle), number 32015 of the
registered filters https://github.com/HDFGroup/hdf5_plugins/blob/master/docs/RegisteredFilterPlugins.md (Zstandard).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

GZIP: int = h5py.h5z.FILTER_DEFLATE
SHUFFLE: int = h5py.h5z.FILTER_SHUFFLE
ZSTD = 32_015

LEVEL = 1
"""Of Zstandard: levels 3 and 9 make expert ids 1 and 4 % smaller, and take 1.5 and 8 times as long to write."""

Bytes = npt.NDArray[np.uint8]


def most_stored(size: int) -> int:
    """Return the most bytes that a chunk of ``size`` bytes may take in a file: what the filters add at worst, amply."""
    return size + size // 100 + 1_024


def pack(values: npt.NDArray[Any], worth: float = 1.0) -> tuple[bytes, int]:
    """Pack a chunk with `SHUFFLE` (where elements have several bytes) and `ZSTD`, as `filters` says.

    Args:
        values: the chunk.
        worth: the share of its bytes below which it is stored packed, else as it is.

    Returns:
        The bytes to store, and HDF5's mask of the filters left out: none or all.
    """
    plain = np.ascontiguousarray(values)
    codes = filters(plain.dtype)
    data = _bytes(plain)
    if SHUFFLE in codes:
        data = np.ascontiguousarray(data.reshape(-1, plain.itemsize).T).reshape(-1)
    import pyarrow as pa  # 30 MB of memory and 0.02 s: not all files need it, and nor does who only counts

    packed: bytes = pa.Codec("zstd", compression_level=LEVEL).compress(data, asbytes=True)
    if len(packed) >= worth * plain.nbytes:
        return plain.tobytes(), (1 << len(codes)) - 1
    return packed, 0


def filters(dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Return the filters with which `pack` packs numbers of a type, in HDF5's order."""
    return (SHUFFLE, ZSTD) if dtype.itemsize > 1 else (ZSTD,)


def unpack(stored: Bytes, codes: Sequence[int], mask: int, count: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Unpack a chunk of ``count`` numbers.

    Args:
        stored: its bytes in the file.
        codes: the dataset's filters, in HDF5's order; any of `GZIP`, `SHUFFLE`, `ZSTD`.
        mask: HDF5's mask of the filters that this chunk does without (bit i: the i-th).
        count: numbers in a chunk.
        dtype: their type.

    Returns:
        [count]; it may be a view of ``stored``.

    Raises:
        OSError: the bytes are damaged, or of more or fewer numbers.
    """
    size, data = count * dtype.itemsize, stored
    for at in reversed(range(len(codes))):
        if mask >> at & 1:
            continue
        if codes[at] == ZSTD:
            import pyarrow as pa

            data = np.frombuffer(pa.decompress(data, size, "zstd"), np.uint8)
        elif codes[at] == GZIP:
            data = _inflate(data, size)
        else:
            data = _unshuffle(data, dtype.itemsize)
    if len(data) != size:
        raise OSError(f"a chunk has {len(data):,} bytes, must have {size:,}")
    return data.view(dtype)


def _bytes(values: npt.NDArray[Any]) -> Bytes:
    return values.reshape(-1).view(np.uint8)


def _inflate(data: Bytes, size: int) -> Bytes:
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(memoryview(data.data), size + 1)  # and no further, whatever the bytes claim
    except zlib.error as error:
        raise OSError(str(error)) from None
    if len(plain) != size or not inflater.eof:
        raise OSError(f"a chunk of {size:,} bytes is damaged, or unpacks to another size")
    return np.frombuffer(plain, np.uint8)


def _unshuffle(data: Bytes, itemsize: int) -> Bytes:
    if len(data) % itemsize:
        raise OSError(f"a chunk has {len(data):,} bytes, must be a multiple of {itemsize}")
    planes = data.reshape(itemsize, -1)
    if itemsize == 2:  # three times as fast as moving bytes
        pairs = planes[1].astype("<u2")
        pairs <<= 8
        pairs |= planes[0]
        whole: Bytes = pairs.view(np.uint8)
        return whole
    return np.ascontiguousarray(planes.T).reshape(-1)
