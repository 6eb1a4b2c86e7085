"""Compiled score policies: "evict the expert of smallest score" for one pool at one capacity, in a compiled loop.

`run_scored` is compiled once and kept on disk; a policy comes as two compiled functions (`compile_policy`).

The residents stand in an array: a heap by score where scores are taken at use (``at_use``), in any order where they are
taken when room is needed; then all that have to go are chosen in one pass. A batch is *taken out* of that array, used,
and *put back* after the evictions, so that none of it is evicted for another; only if it alone exceeds the capacity do
more go once it is back. Where misses may bypass the cache it is put back first. Under sequential access, and when
inserting under the paper's rule, a batch is one expert.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from lrcsim.policies.base import NEVER
from lrcsim.policies.compiled import Now
from lrcsim.simulator.compiled.score_state import (
    ACCESSES,
    FIRST_STEP,
    FREE_FOR,
    HELD,
    LAST_REQUEST,
    LAST_RUN,
    LAST_STEP,
    LAYER_RUNS,
    LAYER_USES,
    LOAD_ORDER,
    LOADED_STEP,
    LOADS,
    NEXT_USE,
    REQUEST,
    REQUEST_STEP,
    RUN_LAYER,
    RUN_STEP,
    SIZE,
    USE_ORDER,
    USES,
    USES_REQUEST,
    USES_RESIDENT,
    VALUE,
    WEIGHT,
    WEIGHT_AHEAD,
    WEIGHT_SUM,
    ahead_in,
)
from lrcsim.simulator.compiled.served import DROPPED, GONE, LOADED, RESIDENT, choose, pack, tell_evicted
from lrcsim.simulator.compiled.served import LOADS as SERVED_LOADS
from lrcsim.simulator.compiled.stack_any import CORESIDENT, PAPER, SEQUENTIAL

AT_ONCE = 16
"""Experts to evict that are chosen in one pass over the residents, at most."""


@numba.njit(cache=True, nogil=True)
def _before(score, ties, a, b):  # type: ignore[no-untyped-def]
    """Whether expert ``a`` goes before expert ``b``: less score, or the same and first in ``ties``."""
    return score[a] < score[b] or (score[a] == score[b] and ties[a] < ties[b])


@numba.njit(cache=True, nogil=True)
def _settle(score, ties, resident, place, first_key, size, at):  # type: ignore[no-untyped-def]
    """Restore the heap of ``size`` residents after the one at ``at`` changed."""
    key = resident[at]
    while at > 0:
        parent = resident[(at - 1) // 2]
        if not _before(score, ties, key - first_key, parent - first_key):
            break
        resident[at] = parent
        place[parent - first_key] = at
        at = (at - 1) // 2
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and _before(score, ties, resident[child + 1] - first_key, resident[child] - first_key):
            child += 1
        if not _before(score, ties, resident[child] - first_key, key - first_key):
            break
        resident[at] = resident[child]
        place[resident[at] - first_key] = at
        at = child
    resident[at] = key
    place[key - first_key] = at


@numba.njit(cache=True, nogil=True)
def _take_out(score, ties, resident, place, first_key, size, key, heap):  # type: ignore[no-untyped-def]
    """Remove one of ``size`` residents from the array."""
    last, at = resident[size - 1], place[key - first_key]
    place[key - first_key] = -1
    if last != key:
        resident[at] = last
        place[last - first_key] = at
        if heap:
            _settle(score, ties, resident, place, first_key, size - 1, at)


@numba.njit(cache=True, nogil=True)
def _least(score, ties, resident, first_key, size):  # type: ignore[no-untyped-def]
    """Return the resident that goes first, where they stand in any order."""
    least = resident[0]
    for i in range(1, size):
        if _before(score, ties, resident[i] - first_key, least - first_key):
            least = resident[i]
    return least


@numba.njit(cache=True, nogil=True)
def choose_least(scratch, ties, resident, first_key, size, victims):  # type: ignore[no-untyped-def]
    """Write down those of ``size`` residents that go first, in order; return their number, or -1.

    Args:
        scratch: float64, the score of each, in the order of ``resident``.
        ties: as for `run_scored`.
        resident: int32, their keys.
        first_key: the pool's smallest key.
        size: how many they are.
        victims: int32 [n], filled in: keys of the n that go first, or of all.

    Returns:
        The number written, -1 where a score is not a number.
    """
    found, bound = 0, math.inf
    scores = np.empty(len(victims))
    for i in range(size):
        score = scratch[i]
        if score > bound:  # most of them; what is not a number goes on
            continue
        if score != score:
            return -1
        key = resident[i]
        tie = ties[key - first_key]
        at = found
        if found == len(victims):
            at -= 1
            if score == scores[at] and tie > ties[victims[at] - first_key]:
                continue
        else:
            found += 1
        while at > 0 and (
            score < scores[at - 1] or (score == scores[at - 1] and tie < ties[victims[at - 1] - first_key])
        ):
            victims[at], scores[at] = victims[at - 1], scores[at - 1]
            at -= 1
        victims[at], scores[at] = key, score
        if found == len(victims):
            bound = scores[found - 1]
    return found


@numba.njit(cache=True, nogil=True)
def _empty(state):  # type: ignore[no-untyped-def]
    """Put everything out and forget all, as between the requests of a cold cache."""
    state.whole[:] = 0
    state.real[:] = 0
    state.place[:] = -1
    state.known[:] = False
    state.runs[:] = 0
    state.age[0] = 0.0
    state.counter[:] = 0


@numba.njit(cache=True, nogil=True)
def run_scored(scores, values, update, at_use, heap, bypass, ties, access, cold, slots, capacity, cost, stride, num_layers, first_key, batches, keys, starts, step, request, phase, weights, ahead, next_use, state, served):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Advance a pool over some layer-steps of a block.

    Args:
        scores: the policy's scores, from `compile_policy`.
        values: its new values; anything of that type where there are none.
        update: whether there are.
        at_use: whether scores are taken at use.
        heap: whether the residents are kept as a heap, only with ``at_use``.
        bypass: whether misses may bypass the cache.
        ties: int64 [keys of the pool], by which equal scores are ordered: the row ``USE_ORDER``, or fixed numbers.
        access: ``CORESIDENT``, ``SEQUENTIAL`` or ``PAPER``.
        cold: whether the pool is emptied when the request changes.
        slots: about how many experts fit (`Now.slots`), at least 1.
        capacity: slots, or bytes where experts differ in size.
        cost: int64 [keys of the pool], slots (1) or bytes of each expert.
        stride: E: the layer of a key is key // E.
        num_layers: L.
        first_key: the pool's smallest key.
        batches: int64 [n], which layer-steps of the block concern the pool.
        keys: int32 [accesses].
        starts: int64 [layer-steps + 1].
        step: int64 [layer-steps].
        request: int64 [layer-steps].
        phase: uint8 [layer-steps].
        weights: float32 [accesses], or empty.
        ahead: float64 [accesses], `Expert.weight_ahead`, or empty.
        next_use: int64 [accesses], or empty.
        state: `ScoredState`, advanced in place.
        served: `Served`; ``keys``, ``weights``, ``ahead`` and ``next_use`` are changed where not all misses are
            loaded, only with ``CORESIDENT``. None: all are, and nobody asks.

    Returns:
        -1, or the step at which the policy failed.
    """
    whole, real, score, resident, place, known, scratch, runs, age, counter, hits = state
    first_step, last_step, loaded_step = whole[FIRST_STEP], whole[LAST_STEP], whole[LOADED_STEP]
    last_run, last_request, load_order = whole[LAST_RUN], whole[LAST_REQUEST], whole[LOAD_ORDER]
    order, uses, uses_resident, uses_request = whole[USE_ORDER], whole[USES], whole[USES_RESIDENT], whole[USES_REQUEST]
    size, held, loads, used = counter[SIZE], counter[HELD], counter[LOADS], counter[ACCESSES]
    none, victims = weights[:0], np.empty(AT_ONCE, np.int32)
    for batch in batches:
        if request[batch] != counter[REQUEST]:
            if cold and counter[REQUEST] >= 0:
                if served is not None:
                    served.counter[DROPPED] += size
                _empty(state)
                size = held = loads = used = 0
            counter[REQUEST] = request[batch]
            counter[REQUEST_STEP] = step[batch]
            runs[LAYER_USES] = 0
        low, high, now_step, now_request = starts[batch], starts[batch + 1], step[batch], request[batch]
        found = 0
        if served is not None and access == CORESIDENT:
            for i in range(low, high):
                served.flags[i] = RESIDENT if place[keys[i] - first_key] >= 0 else LOADED
            choose(served.share, served.tokens, served.flags, low, high)
            end = pack(keys, served.flags, low, high)
            if end == low:
                continue
            if end < high and len(next_use):
                pack(next_use, served.flags, low, high)
            if end < high and len(weights):
                pack(weights, served.flags, low, high)
                ahead_in(weights, low, end, ahead)
            high = end
        if access == PAPER:  # all are looked up first, and the first distinct experts are free
            for i in range(low, high):
                index = keys[i] - first_key
                if known[index]:
                    hit = place[index] >= 0
                else:
                    known[index] = True
                    counter[FREE_FOR] += cost[index]
                    hit = counter[FREE_FOR] <= capacity
                found += hit
                if served is not None:
                    served.flags[i] = RESIDENT if hit else LOADED
        together = high - low if access == CORESIDENT else 1
        for begin in range(low, high, together):
            end = begin + together
            layer = keys[begin] // stride
            batch_cost = 0
            first_load = loads
            if counter[RUN_STEP] != now_step or counter[RUN_LAYER] != layer:
                counter[RUN_STEP], counter[RUN_LAYER] = now_step, layer
                runs[LAYER_RUNS, layer] += 1
            for i in range(begin, end):
                index = keys[i] - first_key
                batch_cost += cost[index]
                if place[index] >= 0:
                    found += access != PAPER
                    _take_out(score, ties, resident, place, first_key, size, keys[i], heap)
                    size -= 1
                    held -= cost[index]
                else:
                    if served is not None and access == SEQUENTIAL:
                        served.flags[i] = LOADED
                    loads += 1
                    load_order[index] = loads
                    loaded_step[index] = now_step
                    uses_resident[index] = 0
                    if uses[index] == 0:
                        first_step[index] = last_step[index] = now_step
                        last_request[index] = -1
                        real[WEIGHT_AHEAD, index] = 1.0
                        whole[NEXT_USE, index] = NEVER
            if served is not None:
                served.counter[SERVED_LOADS] += loads - first_load
            now = Now(
                *(now_step, now_request, counter[REQUEST_STEP], layer, num_layers, slots),
                *(loads, used + together, age[0], 0, 0),
            )
            if update and values(whole, real, runs, keys, begin, end, first_key, stride, weights, now, scratch):
                return now_step
            for i in range(begin, end):
                index = keys[i] - first_key
                used += 1
                order[index] = used
                last_step[index] = now_step
                last_run[index] = runs[LAYER_RUNS, layer]
                if last_request[index] != now_request:
                    last_request[index] = now_request
                    uses_request[index] = 0
                uses_request[index] += 1
                uses[index] += 1
                uses_resident[index] += 1
                if len(next_use):
                    whole[NEXT_USE, index] = next_use[i]
                if len(weights):
                    real[WEIGHT, index] = weights[i]
                    real[WEIGHT_SUM, index] += weights[i]
                    real[WEIGHT_AHEAD, index] = ahead[i]
                if update:
                    real[VALUE, index] = scratch[i - begin]
            runs[LAYER_USES, layer] += together
            if at_use:
                if scores(whole, real, runs, keys, begin, end, first_key, stride, none, now, scratch):
                    return now_step
                for i in range(begin, end):
                    if scratch[i - begin] != scratch[i - begin]:  # not a number
                        return now_step
                    score[keys[i] - first_key] = scratch[i - begin]
            for back in range(2):  # evict before the batch is put back, and after
                if back:
                    held += batch_cost
                    for i in range(begin, end):
                        resident[size] = keys[i]
                        place[keys[i] - first_key] = size
                        size += 1
                        if heap:
                            _settle(score, ties, resident, place, first_key, size, size - 1)
                elif bypass:
                    continue
                limit = capacity if back else capacity - batch_cost
                if held <= limit or size == 0:
                    continue
                if not at_use and scores(whole, real, runs, resident, 0, size, first_key, stride, none, now, scratch):
                    return now_step
                number, next_one = 0, 0  # of the victims chosen, and of the next of them
                while held > limit and size:
                    if at_use:
                        victim = resident[0] if heap else _least(score, ties, resident, first_key, size)
                        worth = score[victim - first_key]
                    else:
                        if next_one == number:
                            chosen = victims[: min(held - limit, AT_ONCE)]  # fewer where they take more than one slot
                            number = choose_least(scratch, ties, resident, first_key, size, chosen)
                            if number < 0:
                                return now_step
                            next_one = 0
                        victim = victims[next_one]
                        next_one += 1
                        worth = scratch[place[victim - first_key]]
                        scratch[place[victim - first_key]] = scratch[size - 1]  # as `_take_out` moves the last resident
                    _take_out(score, ties, resident, place, first_key, size, victim, heap)
                    size -= 1
                    held -= cost[victim - first_key]
                    age[0] = worth
                    if served is not None:
                        tell_evicted(served, victim)
                        served.counter[GONE] += load_order[victim - first_key] > first_load
        hits[phase[batch]] += found
    counter[SIZE], counter[HELD], counter[LOADS], counter[ACCESSES] = size, held, loads, used
    return -1
