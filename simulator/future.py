"""What policies that know the future are told: next uses, and the accesses of the steps to come.

This holds the whole schedule in memory: 12 bytes per access for next uses, 4 more for look-ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.simulator.schedule import Schedule

__all__ = ["Future", "PoolFuture", "next_uses"]

Ints = npt.NDArray[np.int64]


def next_uses(keys: npt.NDArray[np.integer], time: Ints, epoch: Ints | None = None) -> Ints:
    """Return for every access the time of the next access to the same key, `policies.base.NEVER` if there is none.

    Args:
        keys: int [accesses].
        time: int64 [accesses], never falling.
        epoch: int64 [accesses]; a key's uses in another epoch do not count (the cache is emptied between them).

    Returns:
        int64 [accesses].
    """
    from lrcsim.simulator.future_kernels import find_next_uses  # numba takes half a second to import

    find: Any = find_next_uses  # compiled: type checkers do not know its arguments
    result: Ints = find(keys, time, np.zeros(0, np.int64) if epoch is None else epoch)
    return result


class Future:
    """The whole schedule of a trace, for one rule of access.

    Args:
        schedule: the schedule that is replayed.
        access: the rule; co-resident batches count time in layer-steps, the others in accesses.
        warm: False when the cache is emptied between requests, so that later requests are out of sight.
    """

    def __init__(self, schedule: Schedule, access: str, warm: bool) -> None:
        self.stride = schedule.stride
        self.warm = warm
        blocks = list(schedule.blocks())
        self.keys = np.concatenate([block.keys for block in blocks])
        counts = [np.diff(block.starts) for block in blocks]
        self.step = np.concatenate([np.repeat(b.step, c) for b, c in zip(blocks, counts, strict=True)])
        if access == "coresident":
            lengths = np.concatenate(counts)
            self.time = np.repeat(np.arange(len(lengths)), lengths)
        else:
            self.time = np.arange(len(self.keys))
        self.step_request = schedule.all_steps().request

    @cached_property
    def next_use(self) -> Ints:
        """int64 [accesses]: time of the next use of each access's expert."""
        return next_uses(self.keys, self.time, None if self.warm else self.step_request[self.step])

    def of_pool(self, layers: Sequence[int]) -> PoolFuture:
        """Return the part that concerns the given layers."""
        mine = slice(None) if len(layers) > 1 else self.keys // self.stride == layers[0]
        return PoolFuture(self.keys[mine], self.step[mine], self.step_request, self.warm)


class PoolFuture:
    """The accesses of one pool, step by step (the contract is `lrcsim.policies.base.Upcoming`).

    Attributes:
        keys: int32 [accesses of the pool].
        starts: int64 [steps + 1], step s accesses ``keys[starts[s]:starts[s + 1]]``.
    """

    def __init__(self, keys: npt.NDArray[np.int32], step: Ints, step_request: Ints, warm: bool) -> None:
        self.keys = keys
        self.starts = np.searchsorted(step, np.arange(len(step_request) + 1))
        self._request = step_request
        self._warm = warm

    def uses(self, step: int) -> list[int]:
        """Return the experts used in a step; empty past the last one."""
        if step >= len(self._request):
            return []
        uses: list[int] = self.keys[self.starts[step] : self.starts[step + 1]].tolist()
        return uses

    def end(self, step: int) -> int:
        """Return the first step that no longer belongs to the request of ``step``."""
        return int(np.searchsorted(self._request, self._request[step], side="right"))

    def horizons(self) -> Ints:
        """Return `horizon` of every step, int64 [steps]."""
        if self._warm:
            return np.full(len(self._request), len(self._request))
        return np.searchsorted(self._request, self._request, side="right").astype(np.int64)

    def horizon(self, step: int) -> int:
        """Return the first step out of sight."""
        return len(self._request) if self._warm else self.end(step)
