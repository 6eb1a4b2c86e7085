"""Compiled sch-static at every capacity: in each window the most used experts are there from the start.

The contents of a cache of C slots are the first C experts of the window in order of use, so an access hits in all
caches larger than its expert's place in that order: the policy has the inclusion property without any stack to keep.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from lrcsim.simulator.compiled.stack_decode import TWICE, gather


class StaticState(NamedTuple):
    """What a pool counts.

    Attributes:
        counter: int64 [6], of which the last is 1 once the ids were found to be impossible.
        hits: int64 [2, keys]: by phase, accesses to the expert at each place of its window's order of use.
        accesses: int64 [2], by phase.
    """

    counter: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]
    accesses: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, keys: int) -> StaticState:
        """Make the state of a pool over ``keys`` experts."""
        return cls(np.zeros(6, np.int64), np.zeros((2, keys), np.int64), np.zeros(2, np.int64))


@numba.njit(cache=True, nogil=True)
def find_windows(recorded, request, length):  # type: ignore[no-untyped-def]
    """Number the windows: from the first recorded step of a request on, and from the first one past each window.

    Args:
        recorded: bool [steps], whether any expert of the step was recorded.
        request: int64 [steps].
        length: steps per window.

    Returns:
        int64 [steps], the window of each step.
    """
    windows = np.zeros(len(request), np.int64)
    window, end = -1, 0
    current = np.int64(-1)
    for step in range(len(request)):
        if recorded[step] and (step >= end or request[step] != current):
            window += 1
            end = step + length
            current = request[step]
        windows[step] = max(window, 0)
    return windows


@numba.njit(cache=True, nogil=True)
def run_static(experts, steps, stride, windows, state):  # type: ignore[no-untyped-def]
    """Count where the experts of each access stand in their window's order of use, for the whole trace.

    Args:
        experts: int [tokens, layers of the pool, k], -1 = not recorded.
        steps: `stack.Steps`.
        stride: a key is layer * stride + expert.
        windows: int64 [steps] of `find_windows`.
        state: `StaticState`, filled in.
    """
    num_keys = state.hits.shape[1]
    mark = np.full(num_keys, -1, np.int64)
    keys, places = np.empty(num_keys, np.int32), np.empty(num_keys, np.int64)
    uses = np.zeros((2, num_keys), np.int64)
    num_steps, batch = len(windows), 0
    for step in range(num_steps):
        for layer in range(experts.shape[1]):
            batch += 1
            count = gather(
                experts, steps.starts[step], steps.starts[step + 1], layer, layer + 1, stride, mark, batch, keys, places
            )
            if count == TWICE:
                state.counter[5] = 1
                return
            state.accesses[steps.phase[step]] += count
            for i in range(count):
                uses[steps.phase[step], keys[i]] += 1
        if step + 1 == num_steps or windows[step + 1] != windows[step]:
            used = np.flatnonzero(uses[0] + uses[1])
            order = np.argsort((uses[0][used] + uses[1][used]) * -num_keys + used)  # most used, then smallest key
            for place in range(len(used)):
                key = used[order[place]]
                for phase in range(2):
                    state.hits[phase, place] += uses[phase, key]
                    uses[phase, key] = 0
