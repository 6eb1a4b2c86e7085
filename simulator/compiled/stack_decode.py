"""The compiled priority stacks over steps of one token in one layer, under co-resident access: most of a trace.

Here the stack holds no keys but *costs*: one number that has the worth of an expert in its high bits (less is better)
and its key in the low ones. So an expert sinks by minimum and maximum alone, without a branch that could be
mispredicted, and the stack is all that is read. What each part gained is in benchmarks/NOTES.md.

The minimum of two floats is one instruction, of two integers three. So costs are compared as float64: the bits of
positive floats, read as int64, are in the same order as the floats (IEEE 754). All costs are such bits, from
0x2000000000000000 to 0x7FEF000000000000: normal and finite.

Two further devices keep the inner loop simple. All experts have a place in the stack from the start, those not used
yet at its bottom, at a cost above all others. And the members of a batch leave *holes* in the stack, of a still greater
cost: whatever sinks fills the first hole it meets, and holes are as many as experts that sink.
"""

from __future__ import annotations

import numba
import numpy as np

LFU, NEXT_USE, NEXT_USE_BYPASS, LOOKAHEAD = 0, 1, 2, 3
"""What makes an expert worth keeping: its uses, then its last use; how near its next use is, then its smaller key; the
same where misses may bypass the cache; its uses in the next steps, then its last use. (LRU has kernels of its own.)"""

TWICE = -1
"""What `gather` returns for a token that has an expert twice: no trace that passes its checks does."""
SEQUENCE_BITS = 36
"""A worth has uses above the sequence number of the last use: up to 134 M uses of one expert, 6.9e10 accesses."""
COST_SEQUENCE_BITS = 29
"""The same in a cost, which has the key below: up to 5e8 accesses, and 67 M uses with 256 experts (`fits`)."""
MOST_KEY_BITS = 10
WORTHLESS = np.int64(0x7FD0 << 48)
"""Added to the key, the cost of an expert without uses; more uses and a later last use are subtracted."""
NOW = np.int64(2**61)
"""Added to a time of `stack.next_use_times`, the cost of an expert by its next use."""
UNUSED = np.int64(0x7FE0 << 48)
"""Added to the key, the cost of an expert that is not in the stack: above all others but a hole's."""
HOLE = np.int64(0x7FEF << 48)
HOLE_REAL = np.array([HOLE]).view(np.float64)[0]


@numba.njit(cache=True, nogil=True)
def gather(experts, low, high, first_layer, last_layer, stride, mark, stamp, keys, places):  # type: ignore[no-untyped-def]
    """Collect the distinct experts of tokens ``low:high`` in the order of their last use.

    Args:
        experts: int [tokens, layers, k], -1 = not recorded.
        low: first token.
        high: token after the last; more than one token only with a single layer.
        first_layer: first layer.
        last_layer: layer after the last.
        stride: a key is layer * stride + expert.
        mark: int64 [keys], scratch that holds no ``stamp`` yet.
        stamp: a number not used before.
        keys: int32 [keys], receives the keys.
        places: int64 [keys], receives where each last use stands in ``experts``, flattened.

    Returns:
        How many there are, or `TWICE` if an expert stands twice in one token.
    """
    layers, k = experts.shape[1], experts.shape[2]
    count = 0
    if high - low == 1:
        for layer in range(first_layer, last_layer):
            for rank in range(k):
                expert = experts[low, layer, rank]
                if expert >= 0:
                    key = layer * stride + expert
                    if mark[key] == stamp:
                        return TWICE
                    mark[key] = stamp
                    keys[count] = key
                    places[count] = (low * layers + layer) * k + rank
                    count += 1
        return count
    for token in range(high - 1, low - 1, -1):
        for rank in range(k - 1, -1, -1):
            expert = experts[token, first_layer, rank]
            if expert >= 0:
                key = first_layer * stride + expert
                if mark[key] != stamp:
                    mark[key] = stamp
                    keys[count] = key
                    places[count] = (token * layers + first_layer) * k + rank
                    count += 1
    for i in range(count // 2):
        j = count - 1 - i
        keys[i], keys[j] = keys[j], keys[i]
        places[i], places[j] = places[j], places[i]
    return count


@numba.njit(cache=True, nogil=True)
def key_bits(num_keys):  # type: ignore[no-untyped-def]
    """Return how many bits a key takes."""
    bits = 1
    while (1 << bits) < num_keys:
        bits += 1
    return bits


@numba.njit(cache=True, nogil=True)
def fits(rule, num_keys, uses, seen, accesses, steps):  # type: ignore[no-untyped-def]
    """Return whether the numbers of so many further accesses and steps fit into costs."""
    bits = key_bits(num_keys)
    if bits > MOST_KEY_BITS:
        return False
    if rule in (NEXT_USE, NEXT_USE_BYPASS):
        return True
    most = np.int64(1) << (62 - COST_SEQUENCE_BITS - bits)
    return uses.max() + steps < most and seen + accesses < (np.int64(1) << COST_SEQUENCE_BITS)


@numba.njit(cache=True, nogil=True)
def pack(by_next_use, depth, bits, stack, worth, uses, costs, place_of):  # type: ignore[no-untyped-def]
    """Fill ``costs`` and ``place_of`` (as in `run_tokens`) from the arrays of a `StackState`."""
    place_of[:] = len(stack)
    for place in range(depth):
        key = np.int64(stack[place])
        place_of[key] = place
        if by_next_use:
            costs[place] = NOW - worth[key]
        else:
            sequence = worth[key] & ((np.int64(1) << SEQUENCE_BITS) - 1)
            costs[place] = WORTHLESS + key - (uses[key] << (bits + COST_SEQUENCE_BITS)) - (sequence << bits)
    place = depth
    for unused in range(len(stack)):
        if place_of[unused] == len(stack):
            place_of[unused] = place
            costs[place] = UNUSED + unused
            place += 1


@numba.njit(cache=True, nogil=True)
def unpack(by_next_use, depth, bits, stack, worth, uses, costs):  # type: ignore[no-untyped-def]
    """Undo `pack`."""
    for place in range(depth):
        cost = costs[place]
        key = cost & ((np.int64(1) << bits) - 1)
        stack[place] = key
        if by_next_use:
            worth[key] = NOW - cost
        else:
            sequence = (WORTHLESS + key - cost - (uses[key] << (bits + COST_SEQUENCE_BITS))) >> bits
            worth[key] = (uses[key] << SEQUENCE_BITS) + sequence


@numba.njit(cache=True, nogil=True, inline="always")
def _insert_sorted(row, filled, value):  # type: ignore[no-untyped-def]
    """Insert into ``row[:filled]``, sorted with the least first; all of it is gone through, so nothing branches."""
    for i in range(np.uint64(filled)):
        there = row[i]
        row[i] = min(there, value)
        value = max(there, value)
    row[filled] = value


@numba.njit(cache=True, nogil=True, inline="always")
def _sink(reals, costs, place_of, mask, start, end, a, b, c, d):  # type: ignore[no-untyped-def]
    """Let four costs sink from place ``start`` to ``end``: each place keeps the least of its own and those passing.

    Four in one pass: one at a time takes up to 22 % longer, eight up to 40 % (they are more than the registers hold).
    Indices are unsigned, which spares the checks for negative ones: 10 to 15 % of the whole. ``reals`` and ``costs``
    are the same memory, as float64 and as int64.
    """
    for place in range(np.uint64(start), np.uint64(end)):
        cost = reals[place]
        least = cost if cost < a else a
        a = cost if cost > a else a
        cost = least if least < b else b
        b = least if least > b else b
        least = cost if cost < c else c
        c = cost if cost > c else c
        cost = least if least < d else d
        d = least if least > d else d
        reals[place] = cost
        place_of[np.uint64(costs[place] & mask)] = place


@numba.njit(cache=True, nogil=True)
def run_tokens(rule, cold, experts, steps, first, last, next_use, window, state):  # type: ignore[no-untyped-def]
    """Advance the stack of one layer over steps of one token each, counting where each access is found.

    A cache of C slots, if the batch fits, ends up with the batch and the best of the rest. So the batch leaves the
    stack and then takes its top, in order of cost; those it pushes out sink past what is better, into the holes it
    left. Without force (bypass) nothing is pushed out, the batch sinks itself.

    Args:
        rule: as in `stack.run_stack`, from where the caller has made sure that the rest `fits`.
        cold: whether the pool is emptied when the request changes.
        experts: int [tokens, 1, k], -1 = not recorded.
        steps: `stack.Steps` of the block.
        first: first step; all have the same phase and, if ``cold``, the same request.
        last: step after the last.
        next_use: int64 [tokens * k] of `stack.next_use_times` (rules ``NEXT_USE*``), which are costs.
        window: as in `stack.run_stack`.
        state: `stack.StackState`, advanced in place.
    """
    stack, worth, uses, mark, counter, hits, accesses = state
    depth, seen, batch_number, ahead = counter[0], counter[1], counter[2], counter[4]
    num_keys, num_steps, k = len(stack), len(steps.starts) - 1, experts.shape[2]
    bits = key_bits(num_keys)
    use = np.int64(1) << (bits + COST_SEQUENCE_BITS)
    mask = (np.int64(1) << bits) - 1
    by_next_use, bypass = rule in (NEXT_USE, NEXT_USE_BYPASS), rule == NEXT_USE_BYPASS
    costs = np.empty(num_keys, np.int64)  # at each place of the stack
    place_of = np.empty(1 << bits, np.uint16)  # of each key
    pack(by_next_use, depth, bits, stack, worth, uses, costs, place_of)
    batch = np.empty(k, np.int64)  # the members' costs after the batch, sorted
    reals, batch_reals = costs.view(np.float64), batch.view(np.float64)  # the same memory
    holes = np.empty(k, np.int64)  # the places they leave, sorted
    keys, places = np.empty(num_keys, np.int32), np.empty(num_keys, np.int64)
    starts, requests = steps.starts, steps.request
    found_at = hits[steps.phase[first]]
    for step in range(first, last):
        if rule == LOOKAHEAD:
            while ahead < min(step + window, num_steps) and not (cold and requests[ahead] != requests[step]):
                if starts[ahead + 1] - starts[ahead] == 1:
                    for rank in range(k):
                        expert = experts[starts[ahead], 0, rank]
                        if expert >= 0:
                            uses[expert] += 1
                            if place_of[expert] < depth:
                                costs[place_of[expert]] -= use
                else:
                    batch_number += 1
                    count = gather(
                        experts, starts[ahead], starts[ahead + 1], 0, 1, 0, mark, batch_number, keys, places
                    )  # fmt: skip
                    for i in range(count):
                        uses[keys[i]] += 1
                        if place_of[keys[i]] < depth:
                            costs[place_of[keys[i]]] -= use
                ahead += 1
        token = starts[step]
        count = 0
        for rank in range(k):
            key = np.int64(experts[token, 0, rank])
            if key >= 0:
                place = np.int64(place_of[key])
                if place < depth:
                    found_at[place] += 1
                seen += 1
                if by_next_use:
                    cost = NOW + next_use[token * k + rank]
                else:
                    uses[key] += 1 if rule == LFU else -1
                    cost = WORTHLESS + key - uses[key] * use - (seen << bits)
                costs[place] = HOLE
                _insert_sorted(holes, count, place)
                _insert_sorted(batch, count, cost)
                count += 1
        new = 0
        for i in range(count):
            new += holes[i] >= depth
            if i and holes[i] == holes[i - 1]:
                counter[5] = 1
                return
        depth += new
        accesses[steps.phase[first]] += count
        rising = batch_reals if bypass else reals
        for i in range(0, count, 4):
            end = min(i + 4, count)
            a = rising[i]
            b = rising[i + 1] if i + 1 < end else HOLE_REAL
            c = rising[i + 2] if i + 2 < end else HOLE_REAL
            d = rising[i + 3] if i + 3 < end else HOLE_REAL
            _sink(reals, costs, place_of, mask, 0 if bypass else end, holes[end - 1] + 1, a, b, c, d)
        if not bypass:
            for i in range(count):
                costs[i] = batch[i]
                place_of[np.uint64(batch[i] & mask)] = i
    unpack(by_next_use, depth, bits, stack, worth, uses, costs)
    counter[0], counter[1], counter[2], counter[3], counter[4] = depth, seen, batch_number, requests[last - 1], ahead
