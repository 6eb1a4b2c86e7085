"""Write a file under a hidden name; it takes its final name in one step, when it is complete."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from lrcsim.base.errors import TraceError

try:
    import fcntl

    CAN_LOCK = True
except ImportError:  # Windows: what killed processes leave behind stays there
    CAN_LOCK = False


def partial_of(final: Path) -> Path:
    """Return the hidden name under which this process writes a file, in the same folder."""
    return final.with_name(f".{final.name}.{os.getpid()}.tmp")


def hold(file: IO[Any]) -> None:
    """Mark an open partial file as in use, for as long as it is open."""
    if CAN_LOCK:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def take_place(held: IO[Any], partial: Path, final: Path) -> None:
    """Give a complete partial file, still held open, its final name.

    Windows renames no file that is open; there it is closed before, elsewhere it stays locked until it has its name.

    Raises:
        OSError: it cannot be renamed; on Windows also while another process reads the file that is there.
    """
    if not CAN_LOCK:
        held.close()
    os.replace(partial, final)


def clear_abandoned(final: Path) -> None:
    """Remove what processes that were killed left of this file: of no running process, and held by none elsewhere."""
    if not CAN_LOCK:
        return
    for left in final.parent.glob(glob.escape(f".{final.name}.") + "*.tmp"):
        number = left.name.removeprefix(f".{final.name}.").removesuffix(".tmp")
        if not (number.isascii() and number.isdecimal()) or len(number) > 10 or _runs(int(number)):
            continue
        with suppress(OSError), open(left, "rb") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where another machine writes it
            left.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path to write to; when the block ends well the file there replaces ``path``, else it is removed.

    Raises:
        TraceError: the folder does not exist, or something cannot be written.
    """
    final = Path(path)
    partial = partial_of(final)
    try:
        clear_abandoned(final)
        with open(partial, "wb") as held:
            hold(held)
            yield partial
            with open(partial, "r+b") as written:  # Windows syncs no file that is open for reading only
                os.fsync(written.fileno())
            take_place(held, partial, final)
    except OSError as error:
        raise TraceError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with suppress(OSError):  # Windows removes no file that somebody has open: what failed before is what is told
            partial.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text in UTF-8, with line ends as they are; the file appears complete or not at all.

    Raises:
        TraceError: it cannot be written.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


class Sink:
    """A new file that HDF5 writes to through Python, and that never fails while HDF5 looks.

    The HDF5 library does not survive a write that fails (it crashes when the file is closed after a full disk). So a
    failure is noted, what comes after it is dropped, and `check` raises it when HDF5 is not in the middle of something.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115 - closed by `close`
        self._error: OSError | None = None
        hold(self._file)

    def check(self) -> None:
        """Raise the first failure there was.

        Raises:
            OSError: the disk is full, the file too large, or the device broken.
        """
        if self._error is not None:
            raise self._error

    def write(self, data: Any) -> int:
        """Write bytes at the present position."""
        view = memoryview(data).cast("B")
        begin, length = self._file.tell(), len(view)
        try:
            while self._error is None and len(view):
                view = view[self._file.write(view) :]
        except OSError as error:
            self._error = error
        if self._error is not None:
            self._file.seek(begin + length)
        return length

    def readinto(self, buffer: Any) -> int:
        """Read bytes from the present position; zeros where a failed write should have put others."""
        view = memoryview(buffer).cast("B")
        count = 0
        while count < len(view):
            read = self._file.readinto(view[count:])
            if not read:
                view[count:] = bytes(len(view) - count)
                break
            count += read
        return len(view)

    def read(self, count: int) -> bytes:
        """Read bytes from the present position, as `readinto`."""
        data = bytearray(count)
        self.readinto(data)
        return bytes(data)

    def truncate(self, size: int | None = None) -> int:
        """Set the size of the file."""
        size = self._file.tell() if size is None else size
        try:
            self._file.truncate(size)
        except OSError as error:
            self._error = self._error or error
        return size

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the present position."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the present position."""
        return self._file.tell()

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def sync(self) -> None:
        """Bring everything to the disk.

        Raises:
            OSError: that, or something before, has failed.
        """
        self.check()
        os.fsync(self._file.fileno())

    def take_place(self, partial: Path, final: Path) -> None:
        """Give the file its final name and close it.

        Raises:
            OSError: as of `take_place`.
        """
        take_place(self._file, partial, final)
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()
