"""Compiled stack algorithms: one pass over a schedule gives the hits at every capacity.

A policy has the inclusion property when a larger cache always holds what a smaller one holds; then the experts can be
kept in one list, the stack, whose first C entries are the contents of a cache of C slots, and an access hits in all
caches larger than its place in the stack (Mattson et al. 1970). Every policy that keeps the experts of greatest *worth*
has it, if an expert's worth does not depend on the capacity.

For co-resident batches the members of the batch count as worth more than anything else while it is inserted, so none
is put out for another, and inserting them one by one leaves the same contents as evicting after all are loaded. Then
the top of the stack, the batch, is put in order of worth, which is what a cache smaller than the batch keeps.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

__all__ = [
    "CORESIDENT",
    "LFU",
    "LOOKAHEAD",
    "LRU",
    "NEXT_USE",
    "NEXT_USE_BYPASS",
    "NO_WINDOW",
    "PAPER",
    "SEQUENTIAL",
    "StackState",
    "Window",
    "run_stack",
]

LRU, LFU, NEXT_USE, NEXT_USE_BYPASS, LOOKAHEAD = 0, 1, 2, 3, 4
"""What makes an expert worth keeping: its last use; its uses, then its last use; how near its next use is, then its
smaller key; the same where misses may bypass the cache; its uses in the next steps, then its last use."""

CORESIDENT, SEQUENTIAL, PAPER = 0, 1, 2
MOST_WORTH = np.int64(2**62)
SEQUENCE_BITS = 40
"""Uses are packed above the sequence number of the last use: up to 4 M uses of one expert and 1.1e12 accesses."""


class Window(NamedTuple):
    """The steps ahead of a pool, for ``LOOKAHEAD``; one-element arrays for the other rules.

    Attributes:
        steps: int64 [1], steps looked ahead, the current one included.
        keys: int32 [accesses], the pool's accesses of the whole trace.
        starts: int64 [steps + 1], step s accesses ``keys[starts[s]:starts[s + 1]]``.
        horizon: int64 [steps], the first step out of sight of each step.
    """

    steps: npt.NDArray[np.int64]
    keys: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    horizon: npt.NDArray[np.int64]


NO_WINDOW = Window(np.zeros(1, np.int64), np.zeros(1, np.int32), np.zeros(1, np.int64), np.zeros(1, np.int64))


class StackState(NamedTuple):
    """The stack of one pool between blocks; keys are counted from the pool's first one.

    Attributes:
        stack: int32 [keys], the first ``counter[0]`` are in use, greatest worth of a one-slot cache first.
        worth: int64 [keys].
        uses: int64 [keys]: so far for ``LFU``, still to come in the window for ``LOOKAHEAD``.
        mark: int64 [keys], the last batch that a key was in.
        counter: int64 [5]: depth of the stack, accesses so far, batches so far, request (-1 at first), first step not
            yet in the window (-1: the window is empty).
        hits: int64 [2, keys]: by phase, accesses found at each place of the stack.
    """

    stack: npt.NDArray[np.int32]
    worth: npt.NDArray[np.int64]
    uses: npt.NDArray[np.int64]
    mark: npt.NDArray[np.int64]
    counter: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, keys: int) -> StackState:
        """Make the state of a pool over ``keys`` experts, with nothing in it."""
        return cls(
            np.zeros(keys, np.int32),
            np.zeros(keys, np.int64),
            np.zeros(keys, np.int64),
            np.full(keys, -1, np.int64),
            np.array([0, 0, 0, -1, -1], np.int64),
            np.zeros((2, keys), np.int64),
        )


@numba.njit(cache=True, nogil=True)
def _sink(stack, worth, depth, key, forced):  # type: ignore[no-untyped-def]
    """Insert a key from the top; what is worth less sinks past what is worth more, down to the key's old place.

    With ``forced`` the key itself takes the top whatever it is worth. Returns the new depth of the stack.
    """
    carried = key
    for place in range(depth):
        there = stack[place]
        if there == key:
            stack[place] = carried
            return depth
        if (forced and place == 0) or worth[carried] > worth[there]:
            stack[place] = carried
            carried = there
    stack[depth] = carried
    return depth + 1


@numba.njit(cache=True, nogil=True)
def run_stack(rule, access, cold, layer, first_key, keys, starts, layers, step, request, phase, next_use, window, state):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Advance one pool's stack over a block of layer-steps, counting where each access is found.

    Args:
        rule: ``LRU``, ``LFU``, ``NEXT_USE``, ``NEXT_USE_BYPASS`` or ``LOOKAHEAD``.
        access: ``CORESIDENT``, ``SEQUENTIAL`` or ``PAPER``.
        cold: whether the pool is emptied when the request changes.
        layer: the pool's layer, or -1 for all.
        first_key: the pool's smallest key.
        keys: int32 [accesses].
        starts: int64 [batches + 1].
        layers: int64 [batches], the layer of each batch.
        step: int64 [batches].
        request: int64 [batches].
        phase: uint8 [batches].
        next_use: int64 [accesses], the time of the next use with ties already broken (rules ``NEXT_USE*``).
        window: `Window` of the pool (rule ``LOOKAHEAD``).
        state: `StackState`, advanced in place.
    """
    stack, worth, uses, mark, counter, hits = state
    depth, seen, batch_number = counter[0], counter[1], counter[2]
    forced = rule != NEXT_USE_BYPASS
    protect = access == CORESIDENT and forced
    for batch in range(len(layers)):
        if layer >= 0 and layers[batch] != layer:
            continue
        if request[batch] != counter[3]:
            if cold and counter[3] >= 0:
                depth = 0
                uses[:] = 0
                counter[4] = -1
            counter[3] = request[batch]
        batch_number += 1
        if rule == LOOKAHEAD:
            now = step[batch]
            if counter[4] < 0:
                counter[4] = now
            limit = min(now + window.steps[0], window.horizon[now])
            while counter[4] < limit:
                for i in range(window.starts[counter[4]], window.starts[counter[4] + 1]):
                    key = window.keys[i] - first_key
                    uses[key] += 1
                    worth[key] += np.int64(1) << SEQUENCE_BITS
                counter[4] += 1
        low, high = starts[batch], starts[batch + 1]
        found_at = hits[phase[batch]]
        if access != SEQUENTIAL:  # the whole batch is looked up in what the last one left
            for i in range(low, high):
                mark[keys[i] - first_key] = batch_number
            missing = high - low
            for place in range(depth):
                if mark[stack[place]] == batch_number:
                    found_at[place] += 1
                    missing -= 1
                    if missing == 0:
                        break
            if access == PAPER:  # the u-th distinct expert of a request hits in caches of more than u slots
                for new in range(missing):
                    found_at[depth + new] += 1
        if protect:
            for i in range(low, high):
                worth[keys[i] - first_key] = MOST_WORTH
            for i in range(low, high):
                depth = _sink(stack, worth, depth, keys[i] - first_key, True)
        for i in range(low, high):
            key = keys[i] - first_key
            if access == SEQUENTIAL:
                for place in range(depth):
                    if stack[place] == key:
                        found_at[place] += 1
                        break
            if access != CORESIDENT and forced:
                depth = _sink(stack, worth, depth, key, True)
            seen += 1
            if rule == LRU:
                worth[key] = seen
            elif rule == LFU:
                uses[key] += 1
                worth[key] = (uses[key] << SEQUENCE_BITS) + seen
            elif rule == LOOKAHEAD:
                uses[key] -= 1
                worth[key] = (uses[key] << SEQUENCE_BITS) + seen
            else:
                worth[key] = -next_use[i]
            if access != CORESIDENT and not forced:
                depth = _sink(stack, worth, depth, key, False)
        if access == CORESIDENT and not forced:
            for i in range(low, high):
                depth = _sink(stack, worth, depth, keys[i] - first_key, False)
        if protect:  # the batch is on top; a cache smaller than it keeps those worth most
            for i in range(1, high - low):
                key = stack[i]
                place = i
                while place > 0 and worth[stack[place - 1]] < worth[key]:
                    stack[place] = stack[place - 1]
                    place -= 1
                stack[place] = key
    counter[0], counter[1], counter[2] = depth, seen, batch_number
