"""Write a file under a hidden name; it takes its final name in one step, when it is complete."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lrcsim.errors import TraceError

__all__ = ["replacing"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path to write to; when the block ends well the file there replaces ``path``, else it is removed.

    Raises:
        TraceError: the folder does not exist, or something cannot be written.
    """
    final = Path(path)
    partial = final.with_name(f".{os.getpid()}.{final.name}")
    try:
        yield partial
        with open(partial, "rb") as written:
            os.fsync(written.fileno())
        os.replace(partial, final)
    except OSError as error:
        raise TraceError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        partial.unlink(missing_ok=True)
