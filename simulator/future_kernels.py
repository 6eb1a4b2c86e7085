"""The compiled look for next uses."""

from __future__ import annotations

import numba
import numpy as np

from lrcsim.policies.base import NEVER

__all__ = ["find_next_uses"]


@numba.njit(cache=True, nogil=True)
def find_next_uses(keys, time, epoch):  # type: ignore[no-untyped-def]
    """Return int64 [accesses], what `future.next_uses` says (``epoch`` is empty where there is but one)."""
    result = np.empty(len(keys), np.int64)
    upcoming = np.full(keys.max() + 1 if len(keys) else 0, len(keys))  # the next access to each key
    for i in range(len(keys) - 1, -1, -1):
        following = upcoming[keys[i]]
        known = following < len(keys) and (len(epoch) == 0 or epoch[following] == epoch[i])
        result[i] = time[following] if known else NEVER
        upcoming[keys[i]] = i
    return result
