"""What `repin` (`lrcsim.policies.engines.Repin`) does between steps: a pool is pinned anew by the heat of its experts.

Within a step its pool is one of `static` with nothing pinned: misses take free slots or bypass (`queue_loop`). The heat
stands in `QueueState.node`, row ``USES``, and the loops that serve a pool count it (`heat_up`), since the policy hears
of misses that are not loaded, too.
"""

from __future__ import annotations

import numba
import numpy as np

from lrcsim.simulator.compiled.queue_lists import (
    FILLING,
    FIRST,
    HAND,
    PROTECTED,
    QUEUES,
    REQUEST,
    SEEN,
    USED,
    USES,
    append,
    empty,
    is_in,
    residents,
    take,
)
from lrcsim.simulator.compiled.queue_loop import run_plain
from lrcsim.simulator.compiled.served import DROPPED, LOADS, tell_evicted
from lrcsim.simulator.compiled.uncounted import inner_njit

STAYED, CAME, LEFT = range(3)
"""What row ``PROTECTED`` says of an expert during a pass."""


@inner_njit
def heat_up(node, counter, expert):  # type: ignore[no-untyped-def]
    """Count a use of an expert, by its number in the pool."""
    node[USES, expert] += 1
    counter[SEEN] += 1


@inner_njit
def _coldest(node):  # type: ignore[no-untyped-def]
    """Return the resident of least heat that was there before this pass, ties to the smaller; -1: there is none."""
    coldest = -1
    for expert in range(node.shape[1] - QUEUES):
        free = is_in(node, expert) and node[PROTECTED, expert] == STAYED
        if free and (coldest < 0 or node[USES, expert] < node[USES, coldest]):
            coldest = expert
    return coldest


@inner_njit
def _hottest(node, cost, room):  # type: ignore[no-untyped-def]
    """Return the used expert of most heat, outside now and before, that fits; ties to the smaller; -1: none."""
    hottest = -1
    for expert in range(node.shape[1] - QUEUES):
        outside = node[PROTECTED, expert] == STAYED and not is_in(node, expert)
        if outside and node[USES, expert] > (0 if hottest < 0 else node[USES, hottest]) and cost[expert] <= room:
            hottest = expert
    return hottest


@inner_njit
def _load(node, counter, cost, expert):  # type: ignore[no-untyped-def]
    """Take an expert in."""
    append(node, FIRST, expert)
    counter[USED] += cost[expert]
    node[PROTECTED, expert] = CAME


@inner_njit
def _replace(sizes, cost, node, counter):  # type: ignore[no-untyped-def]
    """Fill the free room, then give slots of the coldest to hotter experts."""
    hot = _hottest(node, cost, sizes.capacity - counter[USED])
    while hot >= 0:
        _load(node, counter, cost, hot)
        hot = _hottest(node, cost, sizes.capacity - counter[USED])
    for _ in range(min(sizes.part, len(cost))):
        cold = _coldest(node)
        if cold < 0:
            return
        hot = _hottest(node, cost, sizes.capacity - counter[USED] + cost[cold])
        if hot < 0 or node[USES, hot] <= node[USES, cold] + node[USES, cold] // 4 + 4:
            return
        take(node, cold)
        counter[USED] -= cost[cold]
        node[PROTECTED, cold] = LEFT
        _load(node, counter, cost, hot)


@inner_njit
def pin_anew(sizes, first_key, cost, node, missed, listed, counter, served, step):  # type: ignore[no-untyped-def]
    """Pin the pool anew if a step is the first of its n steps and anything was used since the last time.

    Args:
        sizes: `QueueSizes`.
        first_key: the pool's smallest key.
        cost: int64 [keys], slots (1) or bytes of each expert.
        node: as in `QueueState`, and so on.
        missed: likewise; the experts loaded, in ascending order.
        listed: likewise.
        counter: likewise; ``FILLING`` says how many were loaded.
        served: `Served`, told of those that left, in ascending order, which are no evictions; None: nobody asks.
        step: number of the forward pass.
    """
    counter[FILLING] = 0
    before, counter[HAND] = counter[HAND], step // sizes.threshold
    if counter[HAND] == before or not counter[SEEN]:
        return
    _replace(sizes, cost, node, counter)
    for expert in range(len(cost)):
        if node[PROTECTED, expert] == CAME:
            missed[counter[FILLING]] = expert
            counter[FILLING] += 1
            listed[expert] += 1
        if served is not None and node[PROTECTED, expert] != STAYED:
            served.counter[LOADS] += 1 if node[PROTECTED, expert] == CAME else -1
            if node[PROTECTED, expert] == LEFT:
                tell_evicted(served, expert + first_key)
        node[PROTECTED, expert] = STAYED
        node[USES, expert] //= 2
    counter[SEEN] = 0


@inner_njit
def _begin_step(sizes, cold, first_key, cost, request, state, served, step):  # type: ignore[no-untyped-def]
    """Empty the pool where it starts cold and the request is another, then pin it anew."""
    node, missed, known, pinned, listed, counter, target, _ = state
    if request != counter[REQUEST]:
        if cold and counter[REQUEST] >= 0:
            if served is not None:
                served.counter[DROPPED] += residents(node)
            empty(node, known, pinned, counter, target, cost)
        counter[REQUEST] = request
    pin_anew(sizes, first_key, cost, node, missed, listed, counter, served, step)


@numba.njit(cache=True, nogil=True)
def run_repinned(policy, sizes, access, cold, first_key, cost, batches, keys, starts, request, phase, step, state, served):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Advance a pool of repin; arguments as those of `run_queues`, and ``step``, int64 [layer-steps].

    A step in which the pool's layers do not run pins it anew, too.
    """
    begun, one = -1, np.empty(1, np.int64)
    for batch in batches:
        while begun < batch:
            begun += 1
            if begun == 0 or step[begun] != step[begun - 1]:
                _begin_step(sizes, cold, first_key, cost, request[begun], state, served, step[begun])
        for i in range(starts[batch], starts[batch + 1]):
            heat_up(state.node, state.counter, keys[i] - first_key)
        one[0] = batch
        run_plain(policy, sizes, access, cold, first_key, cost, one, keys, starts, request, phase, state, served)
    for row in range(begun + 1, len(step)):
        if row == 0 or step[row] != step[row - 1]:
            _begin_step(sizes, cold, first_key, cost, request[row], state, served, step[row])
