"""One process at a time: a lock on an open file, which the system lets go of when the process ends, however."""

from __future__ import annotations

import os
import sys


def lock(descriptor: int) -> None:
    """Lock an open file for this process, until it is closed; where a system has no such lock, do nothing.

    Linux and macOS take ``flock``, Windows the file's first byte (``_locking``), which the others then cannot read or
    write either: so it is for files that are made to be locked.

    Args:
        descriptor: the file's number.

    Raises:
        OSError: another process holds it.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        return
    try:
        import fcntl
    except ImportError:
        return
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
