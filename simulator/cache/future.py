"""What policies that know the future are told: next uses, and the accesses of the steps to come.

This holds the whole schedule in memory, for k experts in a layer-step 12 + 16 / k bytes per access: its key (4), its
next use (8), and of each layer-step where it begins and its step. Look-ahead takes 4 more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.traces.schedule import Schedule

Ints = npt.NDArray[np.int64]
NO_EPOCHS: Ints = np.zeros(0, np.int64)


class Future:
    """The whole schedule of a trace, for one rule of access.

    Args:
        schedule: the schedule that is replayed.
        access: the rule; co-resident batches count time in layer-steps, the others in accesses.
        warm: False when the cache is emptied between requests, so that later requests are out of sight.

    Attributes:
        stride: E, for keys.
        keys: int32 [accesses].
        starts: int64 [layer-steps + 1], layer-step b has the accesses ``starts[b]:starts[b + 1]``.
        batch_step: int64 [layer-steps], the step of each.
        step_request: int64 [steps].
    """

    def __init__(self, schedule: Schedule, access: str, warm: bool) -> None:
        self.stride = schedule.stride
        self.warm = warm
        self.per_access = access != "coresident"
        keys = np.empty(math.prod(schedule.trace.columns["experts"].shape), np.int32)  # the most that there can be
        end, lengths, steps = 0, [], []
        for block in schedule.blocks():  # keys go where they stay: joined in the end they would be there twice
            keys[end : end + len(block.keys)] = block.keys
            end += len(block.keys)
            lengths.append(np.diff(block.starts))
            steps.append(block.step)
        self.keys: npt.NDArray[np.int32] = keys[:end]
        self.starts = np.append(0, np.cumsum(np.concatenate(lengths)))
        del lengths
        self.batch_step = np.concatenate(steps)
        self.step_request = schedule.all_steps().request

    @property
    def time(self) -> Ints:
        """int64 [accesses]: when each takes place; made anew for whoever asks."""
        return np.arange(len(self.keys)) if self.per_access else self._of_accesses(np.arange(len(self.batch_step)))

    @property
    def step(self) -> Ints:
        """int64 [accesses]: the step of each; made anew for whoever asks."""
        return self._of_accesses(self.batch_step)

    @cached_property
    def next_use(self) -> Ints:
        """int64 [accesses]: time of the next use of each access's expert, `policies.base.NEVER` if there is none."""
        from lrcsim.simulator.cache.future_kernels import find_next_uses  # numba takes half a second to import

        find: Any = find_next_uses  # compiled: type checkers do not know its arguments
        epoch = NO_EPOCHS if self.warm else self.step_request[self.batch_step]
        result: Ints = find(self.keys, self.starts, self.per_access, epoch)
        return result

    def of_pool(self, layers: Sequence[int]) -> PoolFuture:
        """Return the part that concerns the given layers: one, or all."""
        return PoolFuture(self, layers)

    def _of_accesses(self, of_batches: Ints) -> Ints:
        return np.repeat(of_batches, np.diff(self.starts))


class PoolFuture:
    """The accesses of one pool, step by step (the contract is `lrcsim.policies.base.Upcoming`).

    They are picked out when somebody first asks for a step's: not all policies that know the future do.

    Args:
        future: the whole schedule.
        layers: those of the pool: one, or all.
    """

    def __init__(self, future: Future, layers: Sequence[int]) -> None:
        self._future = future
        self._layers = layers
        self._request = future.step_request

    @cached_property
    def _own(self) -> tuple[npt.NDArray[np.int32], Ints]:
        """int32 [accesses of the pool], and int64 [steps + 1], where each step's begin."""
        future = self._future
        keys, step, lengths = future.keys, future.batch_step, np.diff(future.starts)
        if len(self._layers) == 1:
            mine = keys[future.starts[:-1]] // future.stride == self._layers[0]
            keys, step, lengths = keys[np.repeat(mine, lengths)], step[mine], lengths[mine]
        batches = np.searchsorted(step, np.arange(len(self._request) + 1))
        return keys, np.append(0, np.cumsum(lengths))[batches]

    def uses(self, step: int) -> list[int]:
        """Return the experts used in a step; empty past the last one."""
        if step >= len(self._request):
            return []
        keys, starts = self._own
        uses: list[int] = keys[starts[step] : starts[step + 1]].tolist()
        return uses

    def end(self, step: int) -> int:
        """Return the first step that no longer belongs to the request of ``step``."""
        return int(np.searchsorted(self._request, self._request[step], side="right"))

    def horizon(self, step: int) -> int:
        """Return the first step out of sight."""
        return len(self._request) if self._future.warm else self.end(step)
