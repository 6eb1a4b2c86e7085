"""HDF5 of strangers: what a trace file may be made of, so that reading it stays within the file and its size.

HDF5 can point anywhere: at bytes of other files (external storage, virtual datasets), at objects in other files
(external and user-defined links), at code (filters loaded from a folder of plugins). It can declare arrays that are
larger than any disk without storing one of their bytes. A trace has no need of any of this, and it is refused here.
"""

from __future__ import annotations

import math

import h5py
import numpy as np

from lrcsim.base.errors import TraceError
from lrcsim.traces.packing import SHUFFLE, ZSTD

FILTERS = {
    h5py.h5z.FILTER_DEFLATE: "gzip",
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
    h5py.h5z.FILTER_LZF: "lzf",
}
"""Filters that read a file with nothing but HDF5 and h5py themselves."""

MOST_COMPRESSION = 1_100
"""Above what gzip (1,032) and lzf (88) can do: an array that claims more was never stored."""

MOST_COMPRESSION_ZSTD = 33_000
"""Above what Zstandard can do: a block of 4 bytes stands for at most 128 KiB (RFC 8878, 3.1.1.2)."""

SMALL = 1 << 20
"""Bytes that an array may claim whatever the file stores of it."""

LARGEST_CHUNK = 1 << 30
"""Bytes of one chunk: it is unpacked whole."""


def group_in(file: h5py.File, place: str) -> h5py.Group | None:
    """Return a group of the file, or None when it has none there.

    Raises:
        TraceError: it is reached by anything but hard links, or is no group.
    """
    found = _object_in(file, place)
    if found is not None and not isinstance(found, h5py.Group):
        raise TraceError(f"{place} must be a group")
    return found


def dataset_in(file: h5py.File, place: str, *, zstd: bool = False) -> h5py.Dataset | None:
    """Return a dataset whose bytes are in the file, or None when it has none there.

    Args:
        file: the trace.
        place: the dataset's name.
        zstd: whether it may be packed with Zstandard, alone or after shuffle.

    Raises:
        TraceError: it is reached by anything but hard links, its bytes are elsewhere or were never stored, it needs a
            filter that is none of `FILTERS`, or holds something other than numbers and text.
    """
    found = _object_in(file, place)
    if found is None:
        return None
    if not isinstance(found, h5py.Dataset):
        raise TraceError(f"{place} must be a dataset")
    created = found.id.get_create_plist()
    layout = created.get_layout()
    if layout == h5py.h5d.VIRTUAL or created.get_external_count() or found.external or found.is_virtual:
        raise TraceError(f"{place} keeps its bytes in other files; a trace holds its data itself")
    used = [created.get_filter(i)[0] for i in range(created.get_nfilters())]
    packed = zstd and used in ([ZSTD], [SHUFFLE, ZSTD])
    strange = [code for code in used if code not in FILTERS]
    if (strange or len(set(used)) < len(used)) and not packed:
        names = ", ".join(FILTERS.values()) + f", each once{', or Zstandard, alone or after shuffle' * zstd}"
        raise TraceError(f"{place} has the HDF5 filters {used}, allowed are {names}")
    text = h5py.check_string_dtype(found.dtype) is not None
    if not text and found.dtype.kind not in "iufb":
        raise TraceError(f"{place} is of type {found.dtype}, must be numbers" + (" or text" if "name" in place else ""))
    if found.dtype.kind == "f" and found.dtype.itemsize not in (2, 4, 8):
        raise TraceError(f"{place} is of type {found.dtype}, must be float16, float32 or float64")
    if found.shape is None:
        raise TraceError(f"{place} is empty")
    most = 1 if layout != h5py.h5d.CHUNKED else MOST_COMPRESSION_ZSTD if packed else MOST_COMPRESSION
    _check_size(found, place, layout == h5py.h5d.CHUNKED, most)
    return found


def _check_size(dataset: h5py.Dataset, place: str, chunked: bool, most: int) -> None:
    claimed = math.prod(dataset.shape) * dataset.dtype.itemsize
    if chunked and math.prod(dataset.chunks) * dataset.dtype.itemsize > LARGEST_CHUNK:
        raise TraceError(f"{place} has chunks of {list(dataset.chunks)}, allowed is 1 GiB")
    stored = dataset.id.get_storage_size()
    if claimed > max(SMALL if stored else 0, stored * most):
        raise TraceError(f"{place} claims {claimed:,} bytes {list(dataset.shape)}, the file holds {stored:,} of it")


def count_in(dataset: h5py.Dataset, place: str, most: int) -> int:
    """Return the length of a list, refusing other shapes and more entries than ``most``.

    Raises:
        TraceError: it is no list, or too long.
    """
    if len(dataset.shape) != 1 or not 1 <= dataset.shape[0] <= most:
        raise TraceError(f"{place} has shape {list(dataset.shape)}, must be a list of 1 to {most:,}")
    return int(dataset.shape[0])


def text_attribute(file: h5py.File, name: str, default: str | None) -> str | None:
    """Return a root attribute that is text, or the default when there is none.

    Raises:
        TraceError: it is something else.
    """
    value = file.attrs.get(name, default)
    if isinstance(value, bytes | np.bytes_):
        value = bytes(value).decode()
    if value is not None and not isinstance(value, str):
        raise TraceError(f"the attribute {name!r} must be text, is {type(value).__name__}")
    return None if value is None else str(value)


def _object_in(file: h5py.File, place: str) -> h5py.Group | h5py.Dataset | None:
    found: h5py.Group | h5py.Dataset = file
    for part in place.split("/"):
        if not isinstance(found, h5py.Group):
            raise TraceError(f"{place}: {found.name} must be a group")
        name = part.encode()
        if not found.id.links.exists(name):
            return None
        if found.id.links.get_info(name).type != h5py.h5l.TYPE_HARD:
            raise TraceError(f"{place} is reached by a soft, external or user-defined link; a trace has none")
        found = found[part]
    return found
