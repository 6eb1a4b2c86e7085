"""The compiled priority stack of a large pool under co-resident access, kept as few sorted runs.

A stack of thousands of experts is nearly sorted: of 5,800 places of a pool of 48 layers x 128 experts some 50 hold less
than the place before (optimum and lfu, benchmarks/NOTES.md). What sinks through a sorted run comes out as the greatest
of both, and the run stays sorted: so it is merged in, and most of that is one move of memory by as many places as
there are costs sinking. Costs are those of `stack_decode`.

Only where a cost fills the place of an expert that was found, or the batch takes the top, can order be lost; the places
where runs begin are known, and looked at again there alone.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from lrcsim.simulator.compiled.stack_decode import (
    COST_SEQUENCE_BITS,
    LFU,
    LOOKAHEAD,
    NEXT_USE_BYPASS,
    NOW,
    SEQUENCE_BITS,
    TWICE,
    WORTHLESS,
    gather,
    key_bits,
    uses_fit,
)

AT_ONCE = np.uint64(16)
"""Costs moved at once, by way of a small array: so the compiler need not ask whether the two places overlap."""


def suits(rule: int, num_keys: int, uses: npt.NDArray[np.int64], seen: int, accesses: int, steps: int) -> bool:
    """Return whether `run_runs` knows the rule, and costs hold its numbers of so many further accesses and steps."""
    if rule == LOOKAHEAD:  # costs change amid the stack there, at every step: it is not nearly sorted
        return False
    return rule != LFU or uses_fit(num_keys, uses, seen, accesses, steps)


@numba.njit(cache=True, nogil=True, inline="always")
def _move(costs, low, high, by, some):  # type: ignore[no-untyped-def]
    """Move ``costs[low:high]`` up by ``by`` places; ``some`` is int64 [AT_ONCE], scratch."""
    end, start, by = np.uint64(high), np.uint64(low), np.uint64(by)
    while end >= start + AT_ONCE:
        end -= AT_ONCE
        for i in range(AT_ONCE):
            some[i] = costs[end + i]
        for i in range(AT_ONCE):
            costs[end + by + i] = some[i]
    while end > start:
        end -= np.uint64(1)
        costs[end + by] = costs[end]


@numba.njit(cache=True, nogil=True, inline="always")
def _above(costs, low, high, cost):  # type: ignore[no-untyped-def]
    """Return the first place of the sorted ``costs[low:high]`` that holds more than ``cost``, ``high`` if none does."""
    first, size = np.uint64(low), np.uint64(high - low)
    while size:  # without a branch that depends on costs
        half = (size + np.uint64(1)) >> np.uint64(1)
        first += half if costs[first + half - np.uint64(1)] <= cost else np.uint64(0)
        size -= half
    return np.int64(first)


@numba.njit(cache=True, nogil=True)
def _merge(costs, low, high, carried, head, tail, out, some):  # type: ignore[no-untyped-def]
    """Let costs sink through sorted places: the least of both stay, in order, the others are carried on.

    Args:
        costs: int64 [keys], sorted from ``low`` to ``high``.
        low: first place.
        high: place after the last.
        carried: int64, what sinks, ``carried[head:tail]``, sorted; after the call what sinks on, sorted.
        head: first that sinks.
        tail: one after the last.
        out: int64, as long as ``carried``, scratch.
        some: int64 [AT_ONCE], scratch.
    """
    last = costs[high - 1]
    end, count = high, 0
    for i in range(head, tail):
        count += carried[i] < last  # the rest passes by all
    by = count
    while by > 0:  # from the greatest, so that nothing is overwritten that is still to be moved
        cost = carried[head + by - 1]
        place = _above(costs, low, end, cost)
        kept = max(place, min(end, high - by))
        for leaving in range(kept, end):
            out[leaving + by - high] = costs[leaving]
        _move(costs, place, kept, by, some)
        if place + by <= high:
            costs[place + by - 1] = cost
        else:
            out[place + by - 1 - high] = cost
        end = place
        by -= 1
    for i in range(count):
        carried[head + i] = out[i]


@numba.njit(cache=True, nogil=True)
def _join(carried, tail, cost):  # type: ignore[no-untyped-def]
    """Insert into the sorted ``carried[:tail]``."""
    i = tail
    while i > 0 and carried[i - 1] > cost:
        carried[i] = carried[i - 1]
        i -= 1
    carried[i] = cost


@numba.njit(cache=True, nogil=True)
def _find(costs, low, high, sought, left, places):  # type: ignore[no-untyped-def]
    """Find which of the costs ``sought[:left]`` the sorted ``costs[low:high]`` holds, and take them out of ``sought``.

    Returns:
        How many are left, and how many were found, whose places are in ``places``, sorted.
    """
    first, last, found, i = costs[low], costs[high - 1], 0, 0
    while i < left:
        cost = sought[i]
        if first <= cost <= last:
            place = _above(costs, low, high, cost) - 1
            if costs[place] == cost:
                _join(places, found, place)
                found += 1
                left -= 1
                sought[i] = sought[left]
                continue
        i += 1
    return left, found


@numba.njit(cache=True, nogil=True)
def run_runs(rule, heads, cold, experts, steps, stride, next_use, state, keys, places):  # type: ignore[no-untyped-def]
    """Advance the stack of a pool over a block of steps, counting where each access is found.

    A cache of C slots, if the batch fits, ends up with the batch and the best of the rest (`stack_decode.run_batches`).

    Args:
        rule: as in `stack_any.run_stack`; the caller has made sure that it and the rest `suits`.
        heads: whether experts that are used now cost less than all others, so that they stand where runs begin. So it
            is by next use, unless uses in one phase are as good as none.
        cold: whether the pool is emptied when the request changes.
        experts: int [tokens, layers of the pool, k], -1 = not recorded.
        steps: `Steps` of the block.
        stride: a key is layer * stride + expert.
        next_use: int64 [tokens * layers * k] of `stack_any.next_use_times`, time in layer-steps (rules ``NEXT_USE*``).
        state: `StackState`, advanced in place.
        keys: int32 [keys], scratch.
        places: int64 [keys], scratch.
    """
    stack, worth, uses, mark, counter, hits, accesses = state
    depth, seen, stamp, request = counter[0], counter[1], counter[2], counter[3]
    layers, num_keys, num_steps = experts.shape[1], len(stack), len(steps.starts) - 1
    bits = key_bits(num_keys)
    use, mask = np.int64(1) << (bits + COST_SEQUENCE_BITS), (np.int64(1) << bits) - 1
    forced, time = rule != NEXT_USE_BYPASS, np.int64(experts.size - num_steps * layers)
    costs, cost_of = np.empty(num_keys, np.int64), np.full(num_keys, -1, np.int64)
    begins, begun = np.empty(num_keys + 1, np.int64), np.empty(num_keys + 1, np.int64)  # of runs; and as they become
    batch, carried = np.empty(num_keys, np.int64), np.empty(num_keys, np.int64)
    sought, out, some = (
        np.empty(num_keys, np.int64),
        np.empty(num_keys, np.int64),
        np.empty(np.int64(AT_ONCE), np.int64),
    )
    runs = 0
    for place in range(depth):
        key = np.int64(stack[place])
        cost = NOW - worth[key]
        if rule == LFU:
            sequence = worth[key] & ((np.int64(1) << SEQUENCE_BITS) - 1)
            cost = WORTHLESS + key - uses[key] * use - (sequence << bits)
        costs[place] = cost
        cost_of[key] = cost
        if place and cost < costs[place - 1]:
            begins[runs] = place
            runs += 1
    for step in range(num_steps):
        if steps.request[step] != request:
            if cold and request >= 0:
                depth, seen, runs = 0, 0, 0
                cost_of[:] = -1
                uses[:] = 0
            request = steps.request[step]
        found_at = hits[steps.phase[step]]
        low, high = steps.starts[step], steps.starts[step + 1]
        for layer in range(layers):
            stamp += 1
            time += 1
            now = NOW + (time << bits)
            count = gather(experts, low, high, layer, layer + 1, stride, mark, stamp, keys, places)
            if count == TWICE:
                counter[5] = 1
                return
            if count == 0:
                continue
            accesses[steps.phase[step]] += count
            left = 0
            for i in range(count):
                key = np.int64(keys[i])
                sought[left] = cost_of[key]
                left += cost_of[key] >= 0
                seen += 1
                if rule == LFU:
                    uses[key] += 1
                    cost = WORTHLESS + key - uses[key] * use - (seen << bits)
                else:
                    cost = NOW + next_use[places[i]]
                cost_of[key] = cost
                mark[key] = stamp
                _join(batch, i, cost)
            head, tail, place, new_runs, run = 0, 0, 0, 0, 0
            if forced:
                place = count
                for top in range(min(count, depth)):
                    cost = costs[top]
                    if mark[cost & mask] == stamp:
                        found_at[top] += 1
                    else:
                        _join(carried, tail, cost)
                        tail += 1
                for i in range(count):
                    costs[i] = batch[i]
                depth = max(depth, count)
            else:
                for i in range(count):
                    carried[i] = batch[i]
                tail = count
            while run < runs and begins[run] <= place:
                run += 1
            while place < depth and head < tail:
                end = begins[run] if run < runs else depth
                run += 1
                holes = 0
                if heads:
                    while place + holes < end and costs[place + holes] < now:
                        places[holes] = place + holes
                        holes += 1
                elif left:
                    left, holes = _find(costs, place, end, sought, left, places)
                for i in range(holes + 1):
                    hole = places[i] if i < holes else end
                    if place < hole:
                        if head < tail and costs[hole - 1] > carried[head]:
                            _merge(costs, place, hole, carried, head, tail, out, some)
                        if place and costs[place] < costs[place - 1]:
                            begun[new_runs] = place
                            new_runs += 1
                    if i < holes:
                        found_at[hole] += 1
                        costs[hole] = carried[head]
                        head += 1
                        if hole and costs[hole] < costs[hole - 1]:
                            begun[new_runs] = hole
                            new_runs += 1
                    place = hole + 1
                place = end
            if place < depth and place and costs[place] < costs[place - 1]:
                begun[new_runs] = place
                new_runs += 1
            while run < runs:
                if begins[run] > place:
                    begun[new_runs] = begins[run]
                    new_runs += 1
                run += 1
            if head < tail and depth and carried[head] < costs[depth - 1]:
                begun[new_runs] = depth
                new_runs += 1
            for i in range(head, tail):
                costs[depth] = carried[i]
                depth += 1
            runs = new_runs
            for i in range(runs):
                begins[i] = begun[i]
    for place in range(depth):
        key = costs[place] & mask
        stack[place] = key
        worth[key] = NOW - costs[place]
        if rule == LFU:
            sequence = (WORTHLESS + key - costs[place] - uses[key] * use) >> bits
            worth[key] = (uses[key] << SEQUENCE_BITS) + sequence
    counter[0], counter[1], counter[2], counter[3] = depth, seen, stamp, request
