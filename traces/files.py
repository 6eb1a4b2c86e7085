"""Files by their contents."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lrcsim.traces.trace import RoutingTrace

BLOCK = 1 << 20


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file's bytes, or of a bundled trace's.

    Raises:
        OSError: it cannot be read.
    """
    if str(path).startswith("bundled:"):
        with RoutingTrace.open(path) as trace:
            assert trace.path is not None  # it was opened from a file
            path = trace.path
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()
