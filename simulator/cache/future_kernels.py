"""The compiled look for next uses."""

from __future__ import annotations

import numba
import numpy as np

from lrcsim.base.compiling import watch
from lrcsim.policies.base import NEVER

watch()


@numba.njit(cache=True, nogil=True)
def find_next_uses(keys, starts, per_access, epoch):  # type: ignore[no-untyped-def]
    """Return for every access the time of the next access to the same key, ``NEVER`` if there is none.

    Args:
        keys: int32 [accesses].
        starts: int64 [batches + 1], batch b has the accesses ``starts[b]:starts[b + 1]``.
        per_access: whether time counts in accesses, else in batches.
        epoch: int64 [batches]; a key's uses in another epoch do not count (the cache is emptied between them). Empty:
            there is but one.

    Returns:
        int64 [accesses].
    """
    result = np.empty(len(keys), np.int64)
    most = keys.max() + 1 if len(keys) else 0
    upcoming = np.full(most, -1, np.int64)  # the batch of the next access to each key
    time = np.full(most, NEVER, np.int64)
    for batch in range(len(starts) - 2, -1, -1):
        for i in range(starts[batch + 1] - 1, starts[batch] - 1, -1):
            key = keys[i]
            following = upcoming[key]
            known = following >= 0 and (len(epoch) == 0 or epoch[following] == epoch[batch])
            result[i] = time[key] if known else NEVER
            upcoming[key] = batch
            time[key] = i if per_access else batch
    return result
