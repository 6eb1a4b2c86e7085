"""Open an archive of NumPy arrays that may be anything: encrypted, a bomb, of other compressions, of broken headers."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from lrcsim.base.documents import check_regular
from lrcsim.base.errors import TraceError, brief

__all__ = ["check_array", "open_archive"]

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What NumPy itself writes. Others unpack a kilobyte to gigabytes."""

MOST_COMPRESSION = 1_100
"""Above what deflate can do (1,032)."""

MOST_MEMBERS = 100_000


def open_archive(path: Path) -> zipfile.ZipFile:
    """Open an archive after a look at all its members: sizes that the file can hold, and headers that fit them.

    Raises:
        TraceError: it is no zip archive, damaged, encrypted or compressed by other means than NumPy's, claims more than
            it can hold, or holds an array of Python objects (which would have to run code to be read).
    """
    check_regular(path)
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, EOFError) as error:
        raise TraceError(f"{path}: is no readable NumPy archive ({brief(error)})") from None
    try:
        _check_members(path, archive)
    except BaseException:
        archive.close()
        raise
    return archive


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    members, size = archive.infolist(), path.stat().st_size
    names = [member.filename for member in members]
    if len(members) > MOST_MEMBERS or len(set(names)) < len(names):
        raise TraceError(f"{path}: has {len(members):,} members, some of the same name, or too many")
    if sum(member.compress_size for member in members) > size:
        raise TraceError(f"{path}: its members are longer than the file")
    for member in members:
        where = f"{path}: array {member.filename.removesuffix('.npy')!r}"
        if member.flag_bits & 1:
            raise TraceError(f"{where} is encrypted")
        if member.compress_type not in METHODS:
            raise TraceError(f"{where} is compressed by method {member.compress_type}, allowed are stored and deflated")
        if member.file_size > MOST_COMPRESSION * member.compress_size + 1_024:
            raise TraceError(f"{where} claims {member.file_size:,} bytes out of {member.compress_size:,}")
        if member.filename.endswith(".npy"):
            try:
                with archive.open(member) as file:
                    check_array(where, file, member.file_size)
            except TraceError:
                raise
            except Exception as error:
                raise TraceError(f"{where} is damaged ({' '.join(brief(error).split())[:200]})") from None


def check_array(where: str, file: IO[bytes], size: int) -> None:
    """Read the header of a .npy file and hold it against the bytes there are.

    Args:
        where: what messages begin with.
        file: at its beginning; afterwards at the array's first byte.
        size: bytes of the file.

    Raises:
        TraceError: it holds Python objects or records, or its shape needs another number of bytes.
        Exception: whatever NumPy raises on a damaged header.
    """
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject or dtype.kind not in "biufUS":
        raise TraceError(f"{where} is of type {str(dtype)[:80]}, must be numbers or text")
    claimed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or claimed != size - file.tell():
        raise TraceError(f"{where} has shape {str(list(shape))[:80]} of {dtype}, but {size - file.tell():,} bytes")
