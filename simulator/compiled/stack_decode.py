"""The compiled priority stacks of one layer under co-resident access.

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
import numpy.typing as npt

from lrcsim.simulator.compiled.uncounted import inner_njit

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
def distinct(ids, next_use, starts, k, ends, mark, keys, times):  # type: ignore[no-untyped-def]
    """Bring the distinct experts of each step of several tokens, in one layer, to where its ids begin.

    Args:
        ids: int [tokens * k], -1 = not recorded; changed in place.
        next_use: int64 [tokens * k] of `next_use_times`, moved along with them, or empty.
        starts: int64 [steps + 1], first tokens.
        k: ids per token.
        ends: int64 [steps], receives where each step's experts end; in steps of one token -1 may stand among them.
        mark: int64 [keys], all -1, scratch.
        keys: [keys] of the type of ``ids``, scratch.
        times: int64 [keys], scratch.
    """
    for step in range(len(ends)):
        low, high = starts[step] * k, starts[step + 1] * k
        ends[step] = high
        if high - low == k:
            continue
        count = 0
        for i in range(high - 1, low - 1, -1):  # in the order of their last use
            key = ids[i]
            if key >= 0 and mark[key] != step:
                mark[key] = step
                keys[count] = key
                if len(next_use):
                    times[count] = next_use[i]
                count += 1
        for i in range(count):
            ids[low + i] = keys[count - 1 - i]
            if len(next_use):
                next_use[low + i] = times[count - 1 - i]
        ends[step] = low + count


@inner_njit
def key_bits(num_keys):  # type: ignore[no-untyped-def]
    """Return how many bits a key takes."""
    bits = 1
    while (1 << bits) < num_keys:
        bits += 1
    return bits


def fits(rule: int, num_keys: int, uses: npt.NDArray[np.int64], seen: int, accesses: int, steps: int) -> bool:
    """Return whether the numbers of so many further accesses and steps fit into costs."""
    if max((num_keys - 1).bit_length(), 1) > MOST_KEY_BITS:
        return False
    return rule in (NEXT_USE, NEXT_USE_BYPASS) or uses_fit(num_keys, uses, seen, accesses, steps)


def uses_fit(num_keys: int, uses: npt.NDArray[np.int64], seen: int, accesses: int, steps: int) -> bool:
    """Return whether costs by uses and last use hold the numbers of so many further accesses and steps."""
    bits = max((num_keys - 1).bit_length(), 1)
    most = 1 << (62 - COST_SEQUENCE_BITS - bits)
    return int(uses.max()) + steps < most and seen + accesses < 1 << COST_SEQUENCE_BITS


@inner_njit
def pack(by_next_use, depth, bits, stack, worth, uses, costs, place_of):  # type: ignore[no-untyped-def]
    """Fill ``costs`` and ``place_of`` (as in `run_batches`) from the arrays of a `StackState`."""
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


@inner_njit
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
def run_batches(rule, cold, ids, k, ends, steps, next_use, window, state):  # type: ignore[no-untyped-def]
    """Advance the stack of one layer over a block of steps, counting where each access is found.

    A cache of C slots, if the batch fits, ends up with the batch and the best of the rest. So the batch leaves the
    stack and then takes its top, in order of cost; those it pushes out sink past what is better, into the holes it
    left. Without force (bypass) nothing is pushed out, the batch sinks itself.

    Args:
        rule: as in `stack_any.run_stack`; the caller has made sure that the rest `fits`.
        cold: whether the pool is emptied when the request changes.
        ids: int [tokens * k], -1 = not recorded; of steps of several tokens the `distinct` ones.
        k: ids per token.
        ends: int64 [steps], where each step's experts end in ``ids``.
        steps: `Steps` of the block.
        next_use: int64 [tokens * k], costs: of `next_use_times` (rules ``NEXT_USE*``), moved like the ids.
        window: as in `stack_any.run_stack`.
        state: `StackState`, advanced in place.
    """
    stack, worth, uses, _, counter, hits, accesses = state
    depth, seen, request, ahead = counter[0], counter[1], counter[3], counter[4]
    num_keys, num_steps = len(stack), len(steps.starts) - 1
    bits = key_bits(num_keys)
    use = np.int64(1) << (bits + COST_SEQUENCE_BITS)
    mask = (np.int64(1) << bits) - 1
    by_next_use, bypass = rule in (NEXT_USE, NEXT_USE_BYPASS), rule == NEXT_USE_BYPASS
    costs = np.empty(num_keys, np.int64)  # at each place of the stack
    place_of = np.empty(1 << bits, np.uint16)  # of each key
    most = max(num_keys, k)  # ids that repeat are found below
    batch = np.empty(most, np.int64)  # the members' costs after the batch, sorted
    holes = np.empty(most, np.int64)  # the places they leave, sorted
    reals, batch_reals = costs.view(np.float64), batch.view(np.float64)  # the same memory
    pack(by_next_use, depth, bits, stack, worth, uses, costs, place_of)
    starts, requests, phases = steps.starts, steps.request, steps.phase
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
                for i in range(starts[ahead] * k, ends[ahead]):
                    key = ids[i]
                    if key >= 0:
                        uses[key] += 1
                        if place_of[key] < depth:
                            costs[place_of[key]] -= use
                ahead += 1
        found_at = hits[phases[step]]
        count = 0
        for i in range(np.uint64(starts[step] * k), np.uint64(ends[step])):
            key = np.int64(ids[i])
            if key >= 0:
                place = np.int64(place_of[np.uint64(key)])
                if place < depth:
                    found_at[np.uint64(place)] += 1
                seen += 1
                if by_next_use:
                    cost = NOW + next_use[i]
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
        accesses[phases[step]] += count
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
    counter[0], counter[1], counter[3], counter[4] = depth, seen, request, ahead
