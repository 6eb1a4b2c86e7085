"""The compiled priority stacks of one layer where experts are inserted one by one: access ``paper`` and ``sequential``.

As in `stack_decode`, the stack holds costs, which sink by minimum and maximum alone. An insertion puts the new cost on
top; what was there sinks down to where the expert's old cost is. With bypass the new cost itself sinks from the top.

Four insertions share one pass over the stack: at each place the first has its turn, then the second, and so on, and so
each finds there what those before it left. It ends where it meets the expert's old cost. Where that will be is known
before the pass for the first of the four alone, as each may move the others' experts; but none moves anything beyond
its own end, so the pass can stop at the lowest of the four places. Measurements are in benchmarks/NOTES.md.
"""

from __future__ import annotations

import numba
import numpy as np

from lrcsim.simulator.compiled.stack_decode import (
    COST_SEQUENCE_BITS,
    HOLE,
    HOLE_REAL,
    LFU,
    LOOKAHEAD,
    NEXT_USE,
    NEXT_USE_BYPASS,
    NOW,
    TWICE,
    UNUSED,
    WORTHLESS,
    gather,
    key_bits,
    pack,
    unpack,
)


@numba.njit(cache=True, nogil=True, inline="always")
def _sink(look_up, reals, costs, place_of, mask, start, end, carried, old):  # type: ignore[no-untyped-def]
    """Make four insertions in one pass from place ``start`` to ``end``.

    Args:
        look_up: whether to return places.
        reals: float64 [keys], the costs.
        costs: int64 [keys], the same memory.
        place_of: uint16, of each key.
        mask: the bits of a key in a cost.
        start: first place.
        end: place after the last.
        carried: four costs, what sinks in each insertion; ``HOLE_REAL`` if nothing does.
        old: four costs, where each insertion ends; the first is not looked at, there is a hole in its place already.

    Returns:
        Where the second, third and fourth insertion ended.
    """
    a, b, c, d = carried
    _, b_old, c_old, d_old = old
    b_place, c_place, d_place = np.int64(start), np.int64(start), np.int64(start)
    for place in range(np.uint64(start), np.uint64(end)):
        cost = reals[place]
        least = cost if cost < a else a
        a = cost if cost > a else a
        cost = HOLE_REAL if least == b_old else least
        least = cost if cost < b else b
        b = cost if cost > b else b
        cost = HOLE_REAL if least == c_old else least
        least = cost if cost < c else c
        c = cost if cost > c else c
        cost = HOLE_REAL if least == d_old else least
        least = cost if cost < d else d
        d = cost if cost > d else d
        reals[place] = least
        if look_up:  # counting is done without branches, noting the place at each end is not: 67 ns per access for 27
            b_place += b < HOLE_REAL
            c_place += c < HOLE_REAL
            d_place += d < HOLE_REAL
        place_of[np.uint64(costs[place] & mask)] = place
    return b_place, c_place, d_place


@numba.njit(cache=True, nogil=True, inline="always")
def _gather(experts, low, high, first_layer, mark, stamp, keys, places):  # type: ignore[no-untyped-def]
    """Collect the experts of a step as `gather` does; a step of one token without a call: a fifth of the whole."""
    if high - low > 1:
        return gather(experts, low, high, first_layer, first_layer + 1, first_layer, mark, stamp, keys, places)
    count, k = 0, experts.shape[2]
    for rank in range(k):
        key = np.int64(experts[low, 0, rank])
        if key >= 0:
            if mark[np.uint64(key)] == stamp:
                return TWICE
            mark[np.uint64(key)] = stamp
            keys[np.uint64(count)] = key
            places[np.uint64(count)] = low * k + rank
            count += 1
    return count


@numba.njit(cache=True, nogil=True)
def run_singles(paper, rule, cold, experts, steps, next_use, window, state, keys, places):  # type: ignore[no-untyped-def]
    """Advance the stack of one layer over a block of steps, counting where each access is found.

    Args:
        paper: whether a batch is looked up before any of it is inserted and the u-th distinct expert of a request hits
            in caches of more than u slots (access ``paper``), else one expert after the other (``sequential``).
        rule: as in `stack_any.run_stack`, from where the caller has made sure that the rest `stack_decode.fits`.
        cold: whether the pool is emptied when the request changes.
        experts: int [tokens, 1, k], -1 = not recorded.
        steps: `Steps` of the block.
        next_use: int64 [tokens * k] of `stack_any.next_use_times` (rules ``NEXT_USE*``).
        window: as in `stack_any.run_stack`.
        state: `StackState`, advanced in place.
        keys: [keys] of the type of ``experts``, scratch.
        places: int64 [keys], scratch.
    """
    stack, worth, uses, mark, counter, hits, accesses = state
    depth, seen, batch_number, request, ahead = counter[0], counter[1], counter[2], counter[3], counter[4]
    num_keys, num_steps = len(stack), len(steps.starts) - 1
    bits = key_bits(num_keys)
    use = np.int64(1) << (bits + COST_SEQUENCE_BITS)
    mask = (np.int64(1) << bits) - 1
    by_next_use, bypass = rule in (NEXT_USE, NEXT_USE_BYPASS), rule == NEXT_USE_BYPASS
    costs = np.empty(num_keys, np.int64)  # at each place of the stack
    place_of = np.empty(1 << bits, np.uint16)  # of each key
    four = np.empty(8, np.int64)  # new costs, then four old ones
    reals, four_reals = costs.view(np.float64), four.view(np.float64)  # the same memory
    pack(by_next_use, depth, bits, stack, worth, uses, costs, place_of)
    starts, requests = steps.starts, steps.request
    first_layer = np.int64(0)
    for step in range(num_steps):
        if requests[step] != request:
            if cold and request >= 0:
                depth, seen, ahead = 0, 0, -1
                for unused in range(num_keys):  # requests may be short: not packed anew
                    costs[unused] = UNUSED + unused
                    place_of[unused] = unused
                    uses[unused] = 0
            request = requests[step]
        if rule == LOOKAHEAD:
            ahead = step if ahead < 0 else ahead
            while ahead < min(step + window, num_steps) and not (cold and requests[ahead] != request):
                batch_number += 1
                count = _gather(
                    experts, starts[ahead], starts[ahead + 1], first_layer, mark, batch_number, keys, places
                )
                for i in range(count):  # none if the ids are impossible; that is found below
                    uses[keys[i]] += 1
                    if place_of[keys[i]] < depth:
                        costs[place_of[keys[i]]] -= use
                ahead += 1
        batch_number += 1
        count = _gather(experts, starts[step], starts[step + 1], first_layer, mark, batch_number, keys, places)
        if count == TWICE:
            counter[5] = 1
            return
        found_at = hits[steps.phase[step]]
        accesses[steps.phase[step]] += count
        if paper:
            known = depth
            for i in range(count):
                place = np.int64(place_of[np.uint64(keys[i])])
                found_at[np.uint64(place if place < known else depth)] += 1
                depth += place >= known
        for first in range(0, count, 4):
            size = min(4, count - first)
            end = np.int64(0)
            for i in range(size):
                key = np.int64(keys[first + i])
                place = np.int64(place_of[np.uint64(key)])
                end = max(end, place)
                seen += 1
                if by_next_use:
                    cost = NOW + next_use[places[first + i]]
                else:
                    uses[key] += 1 if rule == LFU else -1
                    cost = WORTHLESS + key - uses[key] * use - (seen << bits)
                four[i] = cost
                four[4 + i] = costs[np.uint64(place)]
                if i == 0:
                    first_place = place
                    costs[np.uint64(place)] = HOLE
            for i in range(size, 4):  # not all four first: that takes 4 ns more per access
                four[i] = HOLE
                four[4 + i] = HOLE
            if bypass:
                carried = four_reals[0], four_reals[1], four_reals[2], four_reals[3]
            else:
                top = four[size - 1]
                four[size - 1] = HOLE
                carried = reals[0], four_reals[0], four_reals[1], four_reals[2]
                costs[0] = top
                place_of[np.uint64(top & mask)] = 0
            start = 0 if bypass else 1
            goals = four_reals[4], four_reals[5], four_reals[6], four_reals[7]
            if paper:
                _sink(False, reals, costs, place_of, mask, start, end + 1, carried, goals)
            else:
                b, c, d = _sink(True, reals, costs, place_of, mask, start, end + 1, carried, goals)
                found = np.uint64(first_place), np.uint64(b), np.uint64(c), np.uint64(d)
                for i in range(size):
                    held = found[i] < np.uint64(depth)
                    found_at[found[i]] += held
                    depth += not held
    unpack(by_next_use, depth, bits, stack, worth, uses, costs)
    counter[0], counter[1], counter[2], counter[3], counter[4] = depth, seen, batch_number, request, ahead
