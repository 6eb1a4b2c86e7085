"""Compiled stack algorithms: one pass over a trace gives the hits at every capacity.

A policy has the inclusion property when a larger cache always holds what a smaller one holds; then the experts can be
kept in one list, the stack, whose first C entries are the contents of a cache of C slots, and an access hits in all
caches larger than its place in the stack (Mattson et al. 1970). Every policy that keeps the experts of greatest *worth*
has it, if an expert's worth does not depend on the capacity.

A co-resident batch is inserted as a whole (`_insert_batch`), in the other rules one expert after the other (`_sink`).

The kernels read expert ids as the trace has them; `gather` forms the batches of `schedule.Schedule` on the way. Pools
of one layer have faster kernels, among which Python chooses: `stack_decode.run_batches` under co-resident access,
`stack_single.run_singles` under the other two rules.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from lrcsim.simulator.compiled.stack_decode import (
    LFU,
    LOOKAHEAD,
    NEXT_USE_BYPASS,
    SEQUENCE_BITS,
    TWICE,
    gather,
    key_bits,
)

CORESIDENT, SEQUENTIAL, PAPER = 0, 1, 2
RULES = {"coresident": CORESIDENT, "sequential": SEQUENTIAL, "paper": PAPER}
"""The rules of access as all kernels number them."""


class Steps(NamedTuple):
    """The steps of a block of tokens.

    Attributes:
        starts: int64 [steps + 1], step s is tokens ``starts[s]:starts[s + 1]`` of the block.
        request: int64 [steps].
        phase: uint8 [steps], 0 prefill, 1 decode.
    """

    starts: npt.NDArray[np.int64]
    request: npt.NDArray[np.int64]
    phase: npt.NDArray[np.uint8]


class StackState(NamedTuple):
    """The stack of one pool between blocks.

    Attributes:
        stack: int32 [keys], the first ``counter[0]`` are in use, the contents of a one-slot cache first.
        worth: int64 [keys].
        uses: int64 [keys]: so far for ``LFU``, still to come in the window for ``LOOKAHEAD``.
        mark: int64 [keys], the last batch that a key was in.
        counter: int64 [6]: depth of the stack, accesses so far, batches so far, request (-1 at first), first step not
            yet in the window (-1: the window is empty), 1 once the ids were found to be impossible.
        hits: int64 [2, keys]: by phase, accesses found at each place of the stack.
        accesses: int64 [2], by phase. (`by_request` has more rows in both, one for each request.)
    """

    stack: npt.NDArray[np.int32]
    worth: npt.NDArray[np.int64]
    uses: npt.NDArray[np.int64]
    mark: npt.NDArray[np.int64]
    counter: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]
    accesses: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, keys: int, rows: int = 2) -> StackState:
        """Make the state of a pool over ``keys`` experts, with nothing in it, that counts in so many rows."""
        return cls(
            np.zeros(keys, np.int32),
            np.zeros(keys, np.int64),
            np.zeros(keys, np.int64),
            np.full(keys, -1, np.int64),
            np.array([0, 0, 0, -1, -1, 0], np.int64),
            np.zeros((rows, keys), np.int64),
            np.zeros(rows, np.int64),
        )


@numba.njit(cache=True, nogil=True)
def next_use_times(experts, steps, stride, cold, per_access, only, keys, places, mark, upcoming, result):  # type: ignore[no-untyped-def]
    """Find when each batch member is used next, with ties broken: the nearer first, then the smaller key.

    Args:
        experts: int [tokens, layers, k], the whole trace.
        steps: `Steps` of the whole trace.
        stride: a key is layer * stride + expert.
        cold: whether uses in later requests are out of sight.
        per_access: whether time counts in accesses, else in layer-steps.
        only: the phase whose hits count (0 prefill, 1 decode): a next use in the other one is as good as none. -1:
            both.
        keys: [keys], scratch of the type of ``experts`` where the keys fit into it.
        places: int64 [keys], scratch.
        mark: int64 [keys], all -1, scratch.
        upcoming: int64 [keys], scratch.
        result: int64 [tokens * layers * k], filled in: time << `key_bits` | key, at the place of each expert's last use
            in its step.
    """
    tokens, layers, k = experts.shape
    num_keys = len(upcoming)
    bits = key_bits(num_keys)
    never = np.int64(2**60)  # and the key added
    for other in range(num_keys):
        upcoming[other] = never + other
    time = np.int64(tokens) * layers * k
    stamp = 0
    for step in range(len(steps.starts) - 2, -1, -1):
        if cold and step + 1 < len(steps.request) and steps.request[step] != steps.request[step + 1]:
            for other in range(num_keys):
                upcoming[other] = never + other
        low, high = steps.starts[step], steps.starts[step + 1]
        counts = only < 0 or steps.phase[step] == only
        for layer in range(layers - 1, -1, -1):
            time -= not per_access
            if high - low == 1:  # nothing to gather: a quarter of the time
                first = (low * layers + layer) * k
                for rank in range(k - 1, -1, -1):
                    expert = experts[low, layer, rank]
                    if expert >= 0:
                        key = layer * stride + np.int64(expert)
                        result[first + rank] = upcoming[key]
                        upcoming[key] = (time << bits) + key if counts else never + key
                        time -= per_access
                continue
            stamp += 1
            count = gather(experts, low, high, layer, layer + 1, stride, mark, stamp, keys, places)
            for i in range(count - 1, -1, -1):  # none if the ids are impossible; `run_stack` finds that too
                key = np.int64(keys[i])
                result[places[i]] = upcoming[key]
                upcoming[key] = (time << bits) + key if counts else never + key
                if per_access:
                    time -= 1


@numba.njit(cache=True, nogil=True)
def _sink(stack, worth, depth, key, forced):  # type: ignore[no-untyped-def]
    """Insert a key from the top; what is worth less sinks past what is worth more, down to the key's old place.

    With ``forced`` the key itself takes the top whatever it is worth. Returns the new depth of the stack.
    """
    carried, worth_carried = key, worth[key]
    for place in range(depth):
        there = stack[place]
        if there == key:
            stack[place] = carried
            return depth
        worth_there = worth[there]
        if (forced and place == 0) or worth_carried > worth_there:
            stack[place] = carried
            carried = there
            worth_carried = worth_there
    stack[depth] = carried
    return depth + 1


@numba.njit(cache=True, nogil=True)
def _join(key, rank, floating, ranks, head, tail):  # type: ignore[no-untyped-def]
    """Insert into the queue ``floating[head:tail]``, sorted by rank with the greatest first; return the new tail.

    What joins is mostly worth least (the stack itself is nearly sorted), so the search starts at the end.
    """
    i = tail
    while i > head and ranks[i - 1] < rank:
        floating[i] = floating[i - 1]
        ranks[i] = ranks[i - 1]
        i -= 1
    floating[i] = key
    ranks[i] = rank
    return tail + 1


@numba.njit(cache=True, nogil=True)
def _insert_batch(forced, stack, worth, depth, mark, stamp, keys, count, found_at, floating, ranks):  # type: ignore[no-untyped-def]
    """Look up and insert a co-resident batch in one pass over the stack.

    A cache of C slots keeps the best of what it held and what came. So, going down, what a place held joins those still
    ``floating``, and the best of them takes the place; where the place held a member of the batch, nothing joins. With
    ``forced`` the batch itself takes the top, in order of worth; without (bypass) it floats too.

    Args:
        forced: whether every member must enter.
        stack: as in `StackState`, changed in place.
        worth: as in `StackState`, already that of after the batch.
        depth: places in use.
        mark: holds ``stamp`` for the members of the batch.
        stamp: number of the batch.
        keys: int32, the batch.
        count: members of the batch.
        found_at: int64 [keys], counts up where a member is found.
        floating: int32 [2 * keys], scratch.
        ranks: int64 [2 * keys], scratch.

    Returns:
        The new depth.
    """
    head, tail, place = 0, 0, 0
    for i in range(count):
        tail = _join(keys[i], worth[keys[i]], floating, ranks, head, tail)
    if forced:
        for i in range(count):
            keys[i] = floating[i]
        tail = 0
        for place in range(min(count, depth)):
            there = stack[place]
            if mark[there] == stamp:
                found_at[place] += 1
            else:
                tail = _join(there, worth[there], floating, ranks, head, tail)
        for i in range(count):
            stack[i] = keys[i]
        place = count
    while place < depth and head < tail:
        there = stack[place]
        if mark[there] == stamp:
            found_at[place] += 1
            stack[place] = floating[head]
            head += 1
        else:
            rank = worth[there]
            if rank < ranks[head]:
                stack[place] = floating[head]
                head += 1
                tail = _join(there, rank, floating, ranks, head, tail)
        place += 1
    depth = max(depth, place)
    while head < tail:
        stack[depth] = floating[head]
        depth += 1
        head += 1
    return depth


@numba.njit(cache=True, nogil=True)
def run_stack(rule, access, cold, experts, steps, stride, next_use, window, state, keys, places):  # type: ignore[no-untyped-def]
    """Advance one pool's stack over a block of tokens, counting where each access is found.

    Args:
        rule: ``LFU``, ``NEXT_USE``, ``NEXT_USE_BYPASS`` or ``LOOKAHEAD``; all but the first need the whole trace in
            one block.
        access: ``CORESIDENT``, ``SEQUENTIAL`` or ``PAPER``.
        cold: whether the pool is emptied when the request changes.
        experts: int [tokens, layers of the pool, k], -1 = not recorded.
        steps: `Steps`.
        stride: a key is layer * stride + expert.
        next_use: int64 [tokens * layers * k] of `next_use_times` (rules ``NEXT_USE*``).
        window: steps looked ahead, the current one included (rule ``LOOKAHEAD``).
        state: `StackState`, advanced in place.
        keys: int32 [keys], scratch.
        places: int64 [keys], scratch.
    """
    stack, worth, uses, mark, counter, hits, accesses = state
    depth, seen, batch_number = counter[0], counter[1], counter[2]
    layers = experts.shape[1]
    forced = rule != NEXT_USE_BYPASS
    floating = np.empty(2 * len(stack), np.int32)
    ranks = np.empty(2 * len(stack), np.int64)
    layers_at_once = layers if access == PAPER else 1
    num_steps = len(steps.starts) - 1
    for step in range(num_steps):
        if steps.request[step] != counter[3]:
            if cold and counter[3] >= 0:
                depth = 0
                uses[:] = 0
                counter[4] = -1
            counter[3] = steps.request[step]
        if rule == LOOKAHEAD and counter[4] < 0:
            counter[4] = step
        if rule == LOOKAHEAD:
            while counter[4] < min(step + window, num_steps):
                ahead = counter[4]
                if cold and steps.request[ahead] != counter[3]:
                    break
                for layer in range(layers):
                    batch_number += 1
                    count = gather(
                        experts, steps.starts[ahead], steps.starts[ahead + 1], layer, layer + 1, stride, mark,
                        batch_number, keys, places,
                    )  # fmt: skip
                    if count == TWICE:
                        counter[5] = 1
                        return
                    for i in range(count):
                        uses[keys[i]] += 1
                        worth[keys[i]] += np.int64(1) << SEQUENCE_BITS
                counter[4] += 1
        found_at = hits[steps.phase[step]]
        for layer in range(0, layers, layers_at_once):
            batch_number += 1
            count = gather(
                experts, steps.starts[step], steps.starts[step + 1], layer, layer + layers_at_once, stride, mark,
                batch_number, keys, places,
            )  # fmt: skip
            if count == TWICE:
                counter[5] = 1
                return
            accesses[steps.phase[step]] += count
            if access != SEQUENTIAL:
                for i in range(count):
                    mark[keys[i]] = batch_number
            if access == PAPER:  # the whole token is looked up in what the last one left
                missing = count
                for place in range(depth):
                    if mark[stack[place]] == batch_number:
                        found_at[place] += 1
                        missing -= 1
                        if missing == 0:
                            break
                for new in range(missing):  # the u-th distinct expert of a request hits in caches of over u slots
                    found_at[depth + new] += 1
            for i in range(count):
                key = keys[i]
                if access == SEQUENTIAL:
                    for place in range(depth):
                        if stack[place] == key:
                            found_at[place] += 1
                            break
                if access != CORESIDENT and forced:
                    depth = _sink(stack, worth, depth, key, True)
                seen += 1
                if rule == LFU:
                    uses[key] += 1
                    worth[key] = (uses[key] << SEQUENCE_BITS) + seen
                elif rule == LOOKAHEAD:
                    uses[key] -= 1
                    worth[key] = (uses[key] << SEQUENCE_BITS) + seen
                else:
                    worth[key] = -next_use[places[i]]
                if access != CORESIDENT and not forced:
                    depth = _sink(stack, worth, depth, key, False)
            if access == CORESIDENT:
                depth = _insert_batch(
                    forced, stack, worth, depth, mark, batch_number, keys, count, found_at, floating, ranks
                )
    counter[0], counter[1], counter[2] = depth, seen, batch_number
