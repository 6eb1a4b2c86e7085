"""Compiled sch-lookahead and sch-static at one capacity, told access by access: all pools of a run in one pass.

Both look at the steps to come, so they are handed the whole schedule; keys tell the pools apart, and what is counted of
an expert stands in one array for all pools. Access is co-resident. Hits alone, at every capacity, are counted by
`stack_*` and `sch_static`.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from lrcsim.simulator.compiled.score_loop import AT_ONCE, choose_least
from lrcsim.simulator.compiled.served import ELSEWHERE, LOADED, RESIDENT, choose

REQUEST, AHEAD, SEEN, EVICTED, WINDOW_END, BYPASSED = range(6)
"""Places in `AheadState.counter`."""


class Steps(NamedTuple):
    """The whole schedule (`lrcsim.simulator.cache.future.Future`).

    Attributes:
        keys: int32 [accesses].
        starts: int64 [layer-steps + 1].
        step: int64 [layer-steps].
        request: int64 [steps].
        stride: E.
    """

    keys: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    step: npt.NDArray[np.int64]
    request: npt.NDArray[np.int64]
    stride: int


class Rooms(NamedTuple):
    """The pools.

    Attributes:
        pool: int64 [L], that of each layer.
        first_key: int64 [pools + 1], the smallest key of each, and the number of keys.
        capacity: int64 [pools], slots or bytes.
        cost: int64 [L], slots (1) or bytes of an expert of each layer.
    """

    pool: npt.NDArray[np.int64]
    first_key: npt.NDArray[np.int64]
    capacity: npt.NDArray[np.int64]
    cost: npt.NDArray[np.int64]


class AheadState(NamedTuple):
    """All pools between blocks.

    Attributes:
        uses: int64 [keys], uses in the window that are still to come; sch-static: all of the window.
        last_use: int64 [keys], number of each expert's last use, from 1.
        place: int32 [keys], where an expert stands among the residents of its pool, -1 if it does not; sch-static: 0 or
            -1.
        resident: int32 [keys], the residents of a pool from its first key on.
        size: int64 [pools], how many they are.
        held: int64 [pools], their slots (or bytes).
        preloaded: int64 [L], experts that came with a window.
        counter: int64 [6]: request (-1 at first), first layer-step not yet counted, uses, evictions, first step past
            the window (sch-static), misses that were loaded and gone at once (sch-static).
    """

    uses: npt.NDArray[np.int64]
    last_use: npt.NDArray[np.int64]
    place: npt.NDArray[np.int32]
    resident: npt.NDArray[np.int32]
    size: npt.NDArray[np.int64]
    held: npt.NDArray[np.int64]
    preloaded: npt.NDArray[np.int64]
    counter: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, keys: int, layers: int, pools: int) -> AheadState:
        """Make the state of empty pools: 24 bytes per key."""
        return cls(
            np.zeros(keys, np.int64),
            np.zeros(keys, np.int64),
            np.full(keys, -1, np.int32),
            np.zeros(keys, np.int32),
            np.zeros(pools, np.int64),
            np.zeros(pools, np.int64),
            np.zeros(layers, np.int64),
            np.array([-1, 0, 0, 0, 0, 0], np.int64),
        )


@numba.njit(cache=True, nogil=True)
def _evict(steps, rooms, pool, limit, state, scores, victims):  # type: ignore[no-untyped-def]
    """Evict from a pool what has the fewest uses to come, of equals the least recent, until it holds ``limit``."""
    uses, last_use, place, resident, size, held, _, counter = state
    mine = resident[rooms.first_key[pool] : rooms.first_key[pool + 1]]
    while held[pool] > limit and size[pool]:
        for i in range(size[pool]):
            scores[i] = uses[mine[i]]
        chosen = victims[: min(held[pool] - limit, AT_ONCE)]
        for next_one in range(choose_least(scores, last_use, mine, 0, size[pool], chosen)):
            if held[pool] <= limit:
                break
            victim = chosen[next_one]
            size[pool] -= 1
            last = mine[size[pool]]
            mine[place[victim]], place[last] = last, place[victim]
            place[victim] = -1
            held[pool] -= rooms.cost[victim // steps.stride]
            counter[EVICTED] += 1


@numba.njit(cache=True, nogil=True)
def run_lookahead(window, cold, steps, rooms, share, tokens, begin, end, state, flags):  # type: ignore[no-untyped-def]
    """Serve some layer-steps under sch-lookahead.

    Args:
        window: steps looked ahead, the current one included.
        cold: whether the pools are emptied when the request changes.
        steps: `Steps`.
        rooms: `Rooms`.
        share: as in `Served`.
        tokens: int64 [accesses of these layer-steps], as in `Served`.
        begin: first layer-step; the one before was served last.
        end: layer-step after the last.
        state: `AheadState`, advanced in place.
        flags: uint8 [accesses of these layer-steps], filled in: `Served.flags`.
    """
    uses, last_use, place, resident, size, held, _, counter = state
    keys, starts, step, request, stride = steps
    scores, victims, batch = np.empty(len(uses)), np.empty(AT_ONCE, np.int32), np.empty(stride, np.int32)
    base = starts[begin]
    for row in range(begin, end):
        low, high, now = starts[row], starts[row + 1], step[row]
        if request[now] != counter[REQUEST]:
            if cold:
                uses[:] = 0
                place[:] = -1
                size[:] = 0
                held[:] = 0
            counter[REQUEST] = request[now]
        ahead = counter[AHEAD]
        while ahead < len(step) and step[ahead] < now + window and not (cold and request[step[ahead]] != request[now]):
            for i in range(starts[ahead], starts[ahead + 1]):
                uses[keys[i]] += 1
            ahead += 1
        counter[AHEAD] = ahead
        if low == high:
            continue
        for i in range(low, high):
            flags[i - base] = RESIDENT if place[keys[i]] >= 0 else LOADED
        choose(share, tokens, flags, low - base, high - base)
        layer = keys[low] // stride
        pool, cost = rooms.pool[layer], rooms.cost[layer]
        mine = resident[rooms.first_key[pool] :]
        count = 0
        for i in range(low, high):  # the batch is taken out, and comes back when there is room
            if flags[i - base] == ELSEWHERE:
                continue
            key = keys[i]
            batch[count] = key
            count += 1
            counter[SEEN] += 1
            uses[key] -= 1
            last_use[key] = counter[SEEN]
            if place[key] >= 0:
                size[pool] -= 1
                last = mine[size[pool]]
                mine[place[key]], place[last] = last, place[key]
                held[pool] -= cost
        _evict(steps, rooms, pool, rooms.capacity[pool] - count * cost, state, scores, victims)
        for i in range(count):
            mine[size[pool]], place[batch[i]] = batch[i], size[pool]
            size[pool] += 1
        held[pool] += count * cost
        _evict(steps, rooms, pool, rooms.capacity[pool], state, scores, victims)


@numba.njit(cache=True, nogil=True)
def _fill(rooms, pool, stride, number_of, state):  # type: ignore[no-untyped-def]
    """Let a pool hold the most used experts of a window, of equals those of smallest key.

    Args:
        rooms: `Rooms`.
        pool: which one.
        stride: E.
        number_of: int64 [window + 1], scratch: experts by their uses.
        state: `AheadState`, changed in place.
    """
    uses, place = state.uses, state.place
    number_of[:] = 0
    first, end = rooms.first_key[pool], rooms.first_key[pool + 1]
    for key in range(first, end):
        number_of[uses[key]] += 1
    room, least = rooms.capacity[pool] // rooms.cost[first // stride], len(number_of) - 1
    while least > 0 and number_of[least] <= room:
        room -= number_of[least]
        least -= 1
    if least == 0:
        room = 0  # all that are used fit
    state.size[pool] = 0
    for key in range(first, end):
        stays = uses[key] > least
        if uses[key] == least and room:
            room -= 1
            stays = True
        state.preloaded[key // stride] += stays and place[key] < 0
        place[key] = 0 if stays else -1
        state.size[pool] += stays


@numba.njit(cache=True, nogil=True)
def run_static_windows(window, cold, steps, rooms, share, tokens, begin, end, state, flags):  # type: ignore[no-untyped-def]
    """Serve some layer-steps under sch-static; arguments as those of `run_lookahead`.

    The experts of a pool are of one size. All that a window uses is ranked for it, so what misses finds no room left.
    """
    uses, _, place, _, _, _, _, counter = state
    keys, starts, step, request, stride = steps
    number_of = np.empty(window + 1, np.int64)
    base = starts[begin]
    for row in range(begin, end):
        low, high, now = starts[row], starts[row + 1], step[row]
        if request[now] != counter[REQUEST] or now >= counter[WINDOW_END]:
            if cold and request[now] != counter[REQUEST]:
                place[:] = -1
            counter[REQUEST], counter[WINDOW_END] = request[now], now + window
            uses[:] = 0
            ahead = row
            while ahead < len(step) and step[ahead] < now + window and request[step[ahead]] == request[now]:
                for i in range(starts[ahead], starts[ahead + 1]):
                    uses[keys[i]] += 1
                ahead += 1
            for pool in range(len(rooms.capacity)):
                _fill(rooms, pool, stride, number_of, state)
        for i in range(low, high):
            flags[i - base] = RESIDENT if place[keys[i]] >= 0 else LOADED
        counter[BYPASSED] += choose(share, tokens, flags, low - base, high - base)
