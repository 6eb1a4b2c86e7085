"""Files of strangers: read through their compression, as archives of arrays, and the net under whatever is wrong.

What a library says of a damaged file becomes one line with the file's name, in `foreign` for a whole import, and in
`damaged` where the importer knows better which part it was.
"""

from __future__ import annotations

import inspect
import math
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar

import numpy as np
import pyarrow as pa

from lrcsim.base.documents import check_regular
from lrcsim.base.errors import LrcsimError, TraceError, brief

Given = ParamSpec("Given")
Result = TypeVar("Result")
Value = TypeVar("Value")

MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}

METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compressions of archives that NumPy itself writes. Others unpack a kilobyte to gigabytes."""

MOST_COMPRESSION = 1_100
"""Above what deflate can do (1,032)."""

MOST_MEMBERS = 100_000


@contextmanager
def foreign(path: str | Path) -> Iterator[None]:
    """Turn what libraries raise on a damaged or hostile file into one `TraceError`; ``--debug`` shows where from.

    Raises:
        TraceError: something other than an `LrcsimError` was raised.
    """
    try:
        yield
    except LrcsimError as error:
        if len(str(error).splitlines()) > 1:  # what a library said was passed on
            raise type(error)(one_line(error)) from None
        raise
    except RecursionError as error:
        raise TraceError(f"{path}: is nested too deep") from error
    except MemoryError as error:
        raise TraceError(f"{path}: claims more than fits this machine's memory") from error
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error.strerror or _kind_too(error)})") from error
    except Exception as error:
        raise TraceError(f"{path}: is damaged, or not what its name says ({_kind_too(error)})") from error


@contextmanager
def damaged(what: str, letters: int = 300) -> Iterator[None]:
    """Turn whatever a library raises in the block into a `TraceError`: ``what``, and so many letters of its message."""
    try:
        yield
    except LrcsimError:
        raise
    except Exception as error:
        raise TraceError(f"{what} ({one_line(error)[:letters] or type(error).__name__})") from None


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Put a file's name before what is said to be wrong with it; importers of folders and patterns name files."""
    try:
        yield
    except LrcsimError as error:
        if path.is_dir() or "*" in path.name or str(error).startswith(f"{path}: "):
            raise
        raise type(error)(f"{path}: {error}") from error


def named_while(path: Path, values: Iterator[Value]) -> Iterator[Value]:
    """Yield values as they come, in `named`."""
    with named(path):
        yield from values


def one_line(error: BaseException) -> str:
    """Return what an error says as one line."""
    return " ".join(str(error).split())


def _kind_too(error: BaseException) -> str:
    return " ".join(brief(error).split())[:300]


def reads_foreign_file(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """Decorate what reads the file, folder or pattern given first: no devices, pipes or dangling links, and the net."""
    signature = inspect.signature(function)

    @wraps(function)
    def guarded(*given: Given.args, **named: Given.kwargs) -> Result:
        path = Path(next(iter(signature.bind(*given, **named).arguments.values())))  # a wrong call is no damaged file
        with foreign(path):
            if not path.is_dir() and (path.exists() or path.is_symlink()):
                check_regular(path)
            return function(*given, **named)

    return guarded


def open_bytes(path: Path) -> tuple[Any, Callable[[], int], int]:
    """Open a plain, gzip or zstd file for reading.

    Returns:
        A pyarrow input stream of the plain bytes, a function giving the position in the file on disk, its size.
    """
    check_regular(path)
    try:
        file = pa.OSFile(str(path))
    except OSError as error:
        raise TraceError(f"{path}: cannot be read ({error})") from None
    size = path.stat().st_size
    magic = file.read(4)
    file.seek(0)
    codec = next((codec for start, codec in MAGIC.items() if magic.startswith(start)), None)
    stream = file if codec is None else pa.CompressedInputStream(file, codec)
    return stream, lambda: 0 if file.closed else int(file.tell()), size


def read_some(path: Path, stream: Any, count: int) -> bytes:
    """Read from a stream of `open_bytes`; what cannot be unpacked is said of the file."""
    with damaged(f"{path}: is damaged"):
        return bytes(stream.read(count))


def open_archive(path: Path) -> zipfile.ZipFile:
    """Open an archive of arrays after a look at all its members: sizes that the file can hold, headers that fit them.

    Raises:
        TraceError: it is no zip archive, damaged, encrypted or compressed by other means than NumPy's, claims more than
            it can hold, or holds an array of Python objects (which would have to run code to be read).
    """
    check_regular(path)
    try:
        archive = zipfile.ZipFile(path)
    except Exception as error:
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
                    _check_array(where, file, member.file_size)
            except TraceError:
                raise
            except Exception as error:
                raise TraceError(f"{where} is damaged ({' '.join(brief(error).split())[:200]})") from None


def _check_array(where: str, file: IO[bytes], size: int) -> None:
    """Read the header of a .npy file of ``size`` bytes and hold it against the bytes there are."""
    shape, _, dtype = npy_header(file)
    if dtype.hasobject or dtype.kind not in "biufUS":
        raise TraceError(f"{where} is of type {str(dtype)[:80]}, must be numbers or text")
    claimed = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or claimed != size - file.tell():
        raise TraceError(f"{where} has shape {str(list(shape))[:80]} of {dtype}, but {size - file.tell():,} bytes")


def npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of a .npy file; afterwards the file is at the array's first byte.

    Returns:
        The array's shape, whether it is stored column after column, and its type.

    Raises:
        Exception: whatever NumPy raises on a damaged header.
    """
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():  # of headers that an old Python wrote
        warnings.simplefilter("ignore")
        header: tuple[tuple[int, ...], bool, np.dtype[Any]] = read(file)
    return header
