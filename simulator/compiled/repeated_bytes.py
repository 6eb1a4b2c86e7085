"""Look for equal bytes in words: what `lrcsim.traces.repeats` is given by `lrcsim.simulator`."""

from __future__ import annotations

import numba
import numpy as np

ONES, HIGH = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
WHOLE = np.uint64(64)


@numba.njit(cache=True, nogil=True)
def any_repeated_byte(words):  # type: ignore[no-untyped-def]
    """Tell whether any word holds a byte twice.

    A word is compared with itself turned by 1, 2, 3 and 4 bytes: every byte with each other. Where two are equal their
    difference is 0, and ``(x - ONES) & ~x & HIGH`` is not 0 just where a byte of x is
    (https://graphics.stanford.edu/~seander/bithacks.html#ZeroInWord). No branch: the compiler takes eight at a time.

    Args:
        words: uint64 [n].
    """
    found = np.uint64(0)
    for word in words:
        for bits in (np.uint64(8), np.uint64(16), np.uint64(24), np.uint64(32)):
            differ = word ^ ((word >> bits) | (word << (WHOLE - bits)))
            found |= (differ - ONES) & ~differ
    return (found & HIGH) != 0
