"""LFU and look-ahead in lanes, under co-resident access.

Experts are worth keeping the more uses they have, so far or in the next steps, and then the later their last use.

A cost has the uses, counted down from ``idle``, above ``bits`` bits for the number of the last use in the block,
counted down too. Experts not used yet have costs as well, but stand in no stack. Of each step of a block the costs are
noted that its members have before and after it; for look-ahead, first those of the experts of the step that comes into
sight, which are then raised by one use.
"""

from __future__ import annotations

import numba
import numpy as np

from lrcsim.simulator.compiled.lanes import LANES, TILE_W, W, insert, insert_one
from lrcsim.simulator.compiled.lanes_find import leave, leave_one, raise_one, raise_uses

COSTS = 12
"""Which argument of `run_uses` the costs are."""


@numba.njit(cache=True, nogil=True)
def _distinct(experts, layer, low, high, mark, stamp, keys):  # type: ignore[no-untyped-def]
    """Collect a layer's experts of tokens ``low:high`` in the order of their last use.

    Returns:
        How many, or -1 if one token alone has an expert twice.
    """
    count, good = 0, True
    for token in range(high - 1, low - 1, -1):
        for rank in range(experts.shape[2] - 1, -1, -1):
            expert = np.int64(experts[token, layer, rank])
            if expert >= 0:
                if mark[expert] != stamp:
                    mark[expert] = stamp
                    keys[count] = expert
                    count += 1
                elif high - low == 1:
                    good = False
    for i in range(count // 2):
        keys[i], keys[count - 1 - i] = keys[count - 1 - i], keys[i]
    return count if good else -1


@numba.njit(cache=True, nogil=True)
def _begin(bits, cost_of, key_of, costs, lane, spare):  # type: ignore[no-untyped-def]
    """Number the last uses of a layer's experts anew, from 0, before a block."""
    mask = (np.int64(1) << bits) - 1
    experts, hole = len(cost_of), costs[len(costs) - 1]
    for expert in range(experts):
        spare[expert] = mask - (cost_of[expert] & mask)
    for expert in range(experts):
        number, mine = 0, spare[expert]
        for other in range(experts):
            number += spare[other] < mine
        cost_of[expert] = (np.int64(cost_of[expert]) >> bits << bits) + mask - number
    for place in range(experts):
        at = place * LANES + lane
        if costs[at] != hole:
            costs[at] = cost_of[key_of[mask - (costs[at] & mask)]]
    for expert in range(experts):
        key_of[mask - (cost_of[expert] & mask)] = expert


@numba.njit(cache=True, nogil=True)
def _note(  # type: ignore[no-untyped-def]
    lookahead,
    experts,
    first_layer,
    starts,
    resets,
    sights,
    low,
    high,
    idle,
    bits,
    kinds,
    rows,
    cost_of,
    key_of,
    hole,
    sighted,
    olds,
    news,
    seen,
    counts,
    mark,
    keys,
):
    """Note the costs that the members of each step of a block have before and after it.

    Step by step, not layer by layer: so what is written lies together.

    Args:
        lookahead: whether uses are those to come, else those so far.
        experts: as in `run_uses`.
        first_layer: the layer of the first lane.
        starts: as in `run_uses`.
        resets: bool [steps], whether the pools are emptied before the step.
        sights: as in `run_uses`.
        low: first step.
        high: step after the last.
        idle: the uses part of a cost without uses.
        bits: of the part below.
        kinds: int64 [steps of a block]: 1 if the step is one token, plus 2 if that which comes into sight is; 4 is
            added where not all is recorded.
        rows: int64 [steps of a block], where each step's costs begin.
        cost_of: int64 [lanes, experts], changed in place.
        key_of: uint16 [lanes, 1 << bits], the expert of each number.
        hole: in place of the cost of an expert not recorded.
        sighted: rows, filled in: what is to be raised, with its cost before.
        olds: rows, filled in.
        news: rows, filled in.
        seen: int64 [steps of a block, LANES], how many rows of ``sighted`` are filled in.
        counts: the same, of ``olds`` and ``news``.
        mark: int64 [lanes, experts], scratch, below all stamps: numbers of steps, twice.
        keys: int64 [experts], scratch.

    Returns:
        Whether no token has an expert twice.
    """
    k, (lanes, places), good = experts.shape[2], cost_of.shape, True
    use, mask = np.int64(1) << bits, (np.int64(1) << bits) - 1
    change, padded = use if lookahead else -use, (k + 3) // 4 * 4
    numbers = np.full(lanes, places, np.int64)
    for step in range(low, high):
        i = step - low
        if resets[step]:
            for lane in range(lanes):
                for expert in range(places):
                    cost_of[lane, expert] = (idle << bits) + (cost_of[lane, expert] & mask)
        first, last, row = sights[0, step], sights[1, step], np.uint64(rows[i])
        seen[i, :] = 0
        if kinds[i] & 2:
            token = starts[first]
            for lane in range(np.uint64(lanes)):
                at = row + lane
                for rank in range(k):
                    sighted[at] = 0
                    if experts[token, first_layer + lane, rank] >= 0:
                        member = np.uint64(experts[token, first_layer + lane, rank])
                        old = cost_of[lane, member]
                        sighted[at] = old
                        cost_of[lane, member] = old - use
                    at += W
                for _ in range(k, padded):
                    sighted[at] = 0
                    at += W
        else:
            for ahead in range(first, last):
                for lane in range(lanes):
                    count = _distinct(
                        experts, first_layer + lane, starts[ahead], starts[ahead + 1], mark[lane], 2 * ahead, keys
                    )
                    good &= count >= 0
                    for j in range(count):
                        if last - first == 1:
                            sighted[row + np.uint64(j * LANES + lane)] = cost_of[lane, keys[j]]
                        cost_of[lane, keys[j]] -= use
                    seen[i, lane] = count if last - first == 1 else 0
        if kinds[i] & 1:
            token = starts[step]
            for lane in range(np.uint64(lanes)):
                at, number = row + lane, numbers[lane]
                least = mask - number
                for rank in range(k):
                    if experts[token, first_layer + lane, rank] < 0:
                        olds[at] = 0
                        news[at] = hole
                        kinds[i] |= 4
                        at += W
                        continue
                    member = np.uint64(experts[token, first_layer + lane, rank])
                    old = cost_of[lane, member]
                    good &= (old & mask) > least
                    cost = (old | mask) + change - number
                    olds[at] = old
                    news[at] = cost
                    cost_of[lane, member] = cost
                    key_of[lane, np.uint64(number)] = member
                    number += 1
                    at += W
                for _ in range(k, padded):
                    olds[at] = 0
                    at += W
                counts[i, lane] = number - numbers[lane]
                numbers[lane] = number
        else:
            for lane in range(lanes):
                count = _distinct(
                    experts, first_layer + lane, starts[step], starts[step + 1], mark[lane], 2 * step + 1, keys
                )
                good &= count >= 0
                for j in range(count):
                    expert, at = keys[j], row + np.uint64(j * LANES + lane)
                    olds[at] = cost_of[lane, expert]
                    cost_of[lane, expert] = (cost_of[lane, expert] | mask) + change - numbers[lane]
                    news[at] = cost_of[lane, expert]
                    key_of[lane, numbers[lane]] = expert
                    numbers[lane] += 1
                counts[i, lane] = max(count, 0)
    return good


@numba.njit(cache=True, nogil=True)
def _plan(k, starts, sights, low, places, room, kinds, rows):  # type: ignore[no-untyped-def]
    """Find how many steps make the next block, and what kind each is.

    Args:
        k: experts per token.
        starts: as in `run_uses`.
        sights: as in `run_uses`.
        low: first step.
        places: experts of a layer.
        room: numbers that a block has.
        kinds: int64 [most steps], as in `_note`, filled in.
        rows: int64 [most steps], as in `_note`, filled in.

    Returns:
        The step after the last, and how many costs are noted at most.
    """
    at, numbers, step = np.int64(0), 0, low
    while step < sights.shape[1] and step - low < len(kinds):
        tokens = starts[step + 1] - starts[step]
        first, last = sights[0, step], sights[1, step]
        ahead = starts[last] - starts[first] if last - first == 1 else 0  # of several at once nothing is noted
        numbers += min(tokens * k, places)
        if numbers > room and step > low:
            break
        kinds[step - low] = (tokens == 1) + 2 * (ahead == 1)
        rows[step - low] = at
        most = max(k, min(max(tokens, ahead) * k, places))
        at += (most + 3) // 4 * 4 * LANES
        step += 1
    return step, at


@numba.njit(cache=True, nogil=True)
def run_uses(  # type: ignore[no-untyped-def]
    lookahead,
    experts,
    first_layer,
    lanes,
    starts,
    resets,
    sights,
    phases,
    idle,
    bits,
    cost_of,
    key_of,
    costs,
    hits,
    accesses,
):
    """Advance the stacks of some layers over some steps.

    Args:
        lookahead: whether uses are those to come, else those so far.
        experts: int [tokens, layers, k], -1 = not recorded; with those of the steps that come into sight.
        first_layer: the layer of the first lane.
        lanes: how many are used.
        starts: int64 [steps + 1 at least], first tokens; so too.
        resets: bool [steps], whether the pools are emptied before the step.
        sights: int64 [2, steps], the first step that comes into sight and the one after the last: the same for LFU.
        phases: uint8 [steps].
        idle: the uses part of a cost without uses.
        bits: of the part below.
        cost_of: int64 [lanes, experts], of every expert, changed in place.
        key_of: uint16 [lanes, 1 << bits], the expert of each number, changed in place.
        costs: rows, the stacks, changed in place: the experts in a multiple of `TILE`, and `TILE` more.
        hits: int64 [2, as many rows], by phase, counts up.
        accesses: int64 [2, LANES], by phase, counts up.

    Returns:
        Whether no token has an expert twice; else the rest is meaningless.
    """
    places, k, num_steps, low = cost_of.shape[1], experts.shape[2], len(phases), 0
    hole, most, stop = costs[len(costs) - 1], costs.dtype.type(k), np.uint64(len(costs)) - TILE_W
    room = (1 << bits) - places - 1
    steps = max(room // k, 1)
    padded = (k + 3) // 4 * 4 * LANES
    kinds, rows = np.empty(steps, np.int64), np.empty(steps, np.int64)
    news, olds, sighted = np.full(0, hole), np.zeros(0, costs.dtype), np.zeros(0, costs.dtype)
    seen, counts = np.zeros((steps, LANES), np.int64), np.zeros((steps, LANES), np.int64)
    gone, found = np.empty(LANES, costs.dtype), np.zeros(2 * len(costs), costs.dtype)
    unused = np.full(LANES, most)
    unused[:lanes] = 0
    carried, batch = np.empty(padded, costs.dtype), np.empty((k + 7) // 8 * 8 * LANES, costs.dtype)
    floating, members = np.empty(2 * places, costs.dtype), np.empty(places, costs.dtype)
    mark, keys, spare = np.empty(cost_of.shape, np.int64), np.empty(places, np.int64), np.empty(places, np.int64)
    place_of = np.zeros(1 << bits, np.int64)
    size, good = np.uint64(k * LANES), True
    while low < num_steps and good:
        high, needed = _plan(k, starts, sights, low, places, room, kinds, rows)
        if needed > len(news):
            news, olds, sighted = np.full(needed, hole), np.zeros(needed, costs.dtype), np.zeros(needed, costs.dtype)
        for lane in range(lanes):
            _begin(bits, cost_of[lane], key_of[lane], costs, lane, spare)
        mark[:] = -1
        good = _note(
            lookahead, experts, first_layer, starts, resets, sights, low, high, idle, bits, kinds, rows, cost_of,
            key_of, hole, sighted, olds, news, seen, counts, mark, keys,
        )  # fmt: skip
        if not good:
            break
        for step in range(low, high):
            i, phase = step - low, np.int64(phases[step])
            if resets[step]:
                costs[:] = hole
            counted, row = np.uint64(phase * len(costs)), np.uint64(rows[i])
            if kinds[i] & 2:
                raise_uses(costs, stop, sighted, row, np.uint64(padded), 1 << bits)
            else:
                for lane in range(lanes):
                    if seen[i, lane]:
                        raise_one(costs, lane, places, bits, sighted, rows[i], seen[i, lane], place_of)
            if kinds[i] & 1:
                reached = leave(costs, stop, olds, row, np.uint64(padded), found, counted, gone, unused, most)
                insert(kinds[i] & 4 == 0, costs, reached, news, row, size, carried, batch)
            else:
                for lane in range(lanes):
                    if counts[i, lane]:
                        leave_one(
                            costs, lane, places, bits, olds, rows[i], counts[i, lane], found, phase * len(costs),
                            place_of,
                        )  # fmt: skip
                        insert_one(costs, lane, places, news, rows[i], counts[i, lane], floating, members)
            for lane in range(lanes):
                accesses[phase, lane] += counts[i, lane]
        for kind in range(2):
            for at in range(len(costs)):
                hits[kind, at] += found[kind * len(costs) + at]
        found[:] = 0
        low = high
    return good
