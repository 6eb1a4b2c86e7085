"""The optimum's rule in lanes, under co-resident access: experts are worth keeping the nearer their next use.

A pass over the trace (`find_first_uses`) tells of every block of steps which expert is used first when. From the last
block to the first, that gives the order of the next uses beyond each block (`rank_next_uses`). Then one more pass does
the stacks (`run_next_use`). Of each layer of a block, from its last step to its first, it notes the costs that members
have after each step; a cost is

* within the block: the step of the next use, counted from the block's first, then the expert (ties: the smaller one);
* beyond it: ``far`` + the expert's rank among the next uses there.

Uses in later requests count as well where the pools are emptied between requests: who is not used again before that is
worth less than all who are, and who of them goes first changes no hit.

So those used in a step are those whose costs are below that of the step after it: one comparison finds them in all
lanes.
"""

from __future__ import annotations

import numba
import numpy as np

from lrcsim.simulator.compiled.lanes import LANES, TILE, TILE_W, W, insert, insert_one

NOT_USED = np.uint16(65535)
"""In place of a cost: not used in the block; in a stack: nothing stands there."""
NEVER = np.int64(2**62)
MOST_EXPERTS = 256
HALF = np.uint64(TILE // 2 * LANES)


def steps_per_block(num_experts: int) -> int:
    """Return how many steps' costs fit into 16 bits: twice the experts, so that ranking them costs little.

    Not more either, so that what is noted of a block stays near the processor.
    """
    bits = max((num_experts - 1).bit_length(), 1)
    return min(max(2 * num_experts, 128), (65_534 - num_experts) >> bits)


@numba.njit(cache=True, nogil=True)
def find_first_uses(experts, first_layer, lanes, starts, bits, size, first):  # type: ignore[no-untyped-def]
    """Find the first use of each expert in each block of some steps.

    Args:
        experts: int [tokens, layers, k], -1 = not recorded.
        first_layer: the layer of the first lane.
        lanes: how many there are.
        starts: int64 [steps + 1], first tokens.
        bits: of a key.
        size: steps per block.
        first: uint16 [blocks, lanes, experts], receives the experts' costs before the block if used in it.
    """
    k, num_steps = experts.shape[2], len(starts) - 1
    for block in range(len(first)):
        low = block * size
        for lane in range(lanes):
            mine = first[block, lane]
            mine[:] = NOT_USED
            for step in range(min(low + size, num_steps) - 1, low - 1, -1):
                for token in range(starts[step], starts[step + 1]):
                    for rank in range(k):
                        expert = np.int64(experts[token, first_layer + lane, rank])
                        if expert >= 0:
                            mine[np.uint64(expert)] = ((step - low) << bits) + expert


@numba.njit(cache=True, nogil=True)
def rank_next_uses(first, ranks):  # type: ignore[no-untyped-def]
    """Rank the experts by their next use after each block, those that have none by number behind them.

    Args:
        first: uint16 [blocks, lanes, experts] of `find_first_uses`.
        ranks: uint16 [blocks, lanes, experts], filled in; may be ``first`` itself.
    """
    blocks, lanes, experts = first.shape
    following, used = np.empty(experts, np.int64), np.empty(experts, np.uint16)
    for lane in range(lanes):
        for expert in range(experts):
            following[expert] = NEVER + expert
        for block in range(blocks - 1, -1, -1):
            for expert in range(experts):
                used[expert] = first[block, lane, expert]
            for expert in range(experts):
                rank, mine = np.int64(0), following[expert]
                for other in range(experts):
                    rank += following[other] < mine
                ranks[block, lane, expert] = rank
            for expert in range(experts):
                if used[expert] != NOT_USED:
                    following[expert] = (np.int64(block) << 16) + used[expert]


@numba.njit(cache=True, nogil=True)
def _leave(costs, stop, limit, found, at, gone, idle, most):  # type: ignore[no-untyped-def]
    """Take what costs less than ``limit`` out of all lanes, counting where it was; return where the last can have been.

    Args:
        costs: uint16 rows, changed in place.
        stop: uint64, where they end: a multiple of `TILE` rows.
        limit: uint16.
        found: uint16, counts up.
        at: uint64, where its rows begin.
        gone: uint16 [LANES], scratch.
        idle: uint16 [LANES], ``most`` in lanes without a layer, else 0.
        most: uint16, how many each lane has at most.
    """
    for i in range(W):
        gone[i] = idle[i]
    tile, least = np.uint64(0), np.uint16(0)
    while tile < stop and least < most:
        p0, p1, p2, p3 = tile, tile + W, tile + W + W, tile + W + W + W
        p4, p5, p6, p7 = p0 + HALF, p1 + HALF, p2 + HALF, p3 + HALF
        f0, f1, f2, f3, f4, f5, f6, f7 = at + p0, at + p1, at + p2, at + p3, at + p4, at + p5, at + p6, at + p7
        for i in range(W):
            s0, s1, s2, s3 = costs[p0 + i], costs[p1 + i], costs[p2 + i], costs[p3 + i]
            s4, s5, s6, s7 = costs[p4 + i], costs[p5 + i], costs[p6 + i], costs[p7 + i]
            m0, m1, m2, m3, m4, m5 = s0 < limit, s1 < limit, s2 < limit, s3 < limit, s4 < limit, s5 < limit
            m6, m7 = s6 < limit, s7 < limit
            found[f0 + i] += m0
            found[f1 + i] += m1
            found[f2 + i] += m2
            found[f3 + i] += m3
            found[f4 + i] += m4
            found[f5 + i] += m5
            found[f6 + i] += m6
            found[f7 + i] += m7
            costs[p0 + i] = NOT_USED if m0 else s0
            costs[p1 + i] = NOT_USED if m1 else s1
            costs[p2 + i] = NOT_USED if m2 else s2
            costs[p3 + i] = NOT_USED if m3 else s3
            costs[p4 + i] = NOT_USED if m4 else s4
            costs[p5 + i] = NOT_USED if m5 else s5
            costs[p6 + i] = NOT_USED if m6 else s6
            costs[p7 + i] = NOT_USED if m7 else s7
            gone[i] += (
                np.uint16(m0)
                + np.uint16(m1)
                + np.uint16(m2)
                + np.uint16(m3)
                + np.uint16(m4)
                + np.uint16(m5)
                + np.uint16(m6)
                + np.uint16(m7)
            )
        least = most
        for i in range(W):
            least = gone[i] if gone[i] < least else least
        tile += TILE_W
    return tile


@numba.njit(cache=True, nogil=True)
def _note(experts, first_layer, starts, low, high, bits, whole, rows, upcoming, news, counts):  # type: ignore[no-untyped-def]
    """Note the costs that the members of each step of a block have after it.

    Step by step, not layer by layer: so what is written lies together.

    Args:
        experts: int [tokens, layers, k], -1 = not recorded.
        first_layer: the layer of the first lane.
        starts: int64 [steps + 1], first tokens.
        low: first step.
        high: step after the last.
        bits: of a key.
        whole: bool [steps of a block], whether all is recorded, filled in for steps of one token.
        rows: int64 [steps of a block], where each step's costs begin in ``news``.
        upcoming: uint16 [lanes, experts], costs after the block; before it, in the end.
        news: uint16 rows, filled in.
        counts: int64 [steps of a block, LANES], members.

    Returns:
        Whether no token has an expert twice.
    """
    k, lanes, good = experts.shape[2], len(upcoming), True
    for step in range(high - 1, low - 1, -1):
        i = step - low
        now, row = np.int64(i) << bits, np.uint64(rows[i])
        several, whole[i] = starts[step + 1] - starts[step] > 1, True
        if not several:
            token = starts[step]
            for lane in range(np.uint64(lanes)):
                at, count = row + lane, k
                for rank in range(k):
                    if experts[token, first_layer + lane, rank] < 0:
                        news[at] = NOT_USED
                        whole[i] = False
                        count -= 1
                        at += W
                        continue
                    member = np.uint64(experts[token, first_layer + lane, rank])
                    cost, used = upcoming[lane, member], np.uint16(now + member)
                    good &= cost != used
                    news[at] = cost
                    upcoming[lane, member] = used
                    at += W
                counts[i, lane] = count
        else:
            for lane in range(lanes):
                at, count = row + np.uint64(lane), 0
                for token in range(starts[step], starts[step + 1]):
                    for rank in range(k):
                        expert = np.int64(experts[token, first_layer + lane, rank])
                        if expert >= 0:
                            cost = upcoming[lane, expert]
                            if cost != now + expert:
                                news[at] = cost
                                at += W
                                count += 1
                                upcoming[lane, expert] = now + expert
                counts[i, lane] = count
    return good


@numba.njit(cache=True, nogil=True)
def _one_by_one(costs, places, limit, news, row, counts, step, lanes, found, at, carried, batch):  # type: ignore[no-untyped-def]
    """Do a step in each lane by itself."""
    for lane in range(lanes):
        if counts[step, lane]:
            for place in range(places):
                there = place * LANES + lane
                if costs[there] < limit:
                    found[at + there] += 1
                    costs[there] = NOT_USED
            insert_one(costs, lane, places, news, row, counts[step, lane], carried, batch)


@numba.njit(cache=True, nogil=True)
def run_next_use(  # type: ignore[no-untyped-def]
    experts, first_layer, lanes, starts, requests, phases, cold, bits, size, ranks, before, costs, hits, accesses
):
    """Advance the stacks of some layers over some steps, a whole number of blocks but for the end of the trace.

    Args:
        experts: int [tokens, layers, k], -1 = not recorded.
        first_layer: the layer of the first lane.
        lanes: how many are used.
        starts: int64 [steps + 1], first tokens.
        requests: int64 [1 + steps], the request of each step, before them that of the step before (-1: none).
        phases: uint8 [steps].
        cold: whether the pools are emptied when the request changes.
        bits: of a key.
        size: steps per block.
        ranks: uint16 [blocks, lanes, experts] of `rank_next_uses`.
        before: uint16 [lanes, experts], the ranks after the block before; those after the last one in the end.
        costs: uint16 rows, the stacks, changed in place: the experts in a multiple of `TILE`, and `TILE` more.
        hits: int64 [2, as many rows], by phase, counts up.
        accesses: int64 [2, LANES], by phase, counts up.

    Returns:
        Whether no token has an expert twice; else the rest is meaningless.
    """
    places, k, num_steps = before.shape[1], experts.shape[2], len(starts) - 1
    stop, most = np.uint64(len(costs)) - TILE_W, np.uint16(k)
    far = np.int64(size) << bits
    whole, rows = np.empty(size, np.bool_), np.empty(size, np.int64)
    news, counts = np.full(size * k * LANES, NOT_USED), np.zeros((size, LANES), np.int64)
    upcoming, key_of = np.empty((lanes, places), np.uint16), np.empty((lanes, places), np.int64)
    gone, found = np.empty(LANES, np.uint16), np.zeros(2 * len(costs), np.uint16)
    idle = np.full(LANES, most)
    idle[:lanes] = 0
    carried = np.empty((k + 3) // 4 * 4 * LANES, np.uint16)
    batch = np.empty((k + 7) // 8 * 8 * LANES, np.uint16)
    floating, members = np.empty(2 * places, np.uint16), np.empty(places, np.uint16)
    batch_size, good = np.uint64(k * LANES), True
    for block in range(len(ranks)):
        low = block * size
        high = min(low + size, num_steps)
        needed = 0
        for step in range(low, high):
            rows[step - low] = needed
            needed += max(k, min((starts[step + 1] - starts[step]) * k, places)) * LANES
        if needed > len(news):
            news = np.full(needed, NOT_USED)
        for lane in range(lanes):
            for expert in range(places):
                key_of[lane, before[lane, expert]] = expert
                upcoming[lane, expert] = far + ranks[block, lane, expert]
                before[lane, expert] = ranks[block, lane, expert]
        good = _note(
            experts, first_layer, starts, low, high, bits, whole, rows, upcoming, news, counts
        )  # fmt: skip
        for place in range(places):
            for lane in range(lanes):
                at = place * LANES + lane
                if costs[at] != NOT_USED:
                    costs[at] = upcoming[lane, key_of[lane, costs[at] - far]]
        if not good:
            break
        for step in range(low, high):
            i = step - low
            if cold and requests[step] != requests[step + 1]:
                for at in range(len(costs)):
                    costs[at] = NOT_USED
            limit, phase = np.uint16((i + 1) << bits), np.int64(phases[step])
            counted = np.uint64(phase * len(costs))
            if starts[step + 1] - starts[step] == 1:
                reached = _leave(costs, stop, limit, found, counted, gone, idle, most)
                insert(whole[i], costs, reached, news, np.uint64(rows[i]), batch_size, carried, batch)
            else:
                _one_by_one(
                    costs, places, limit, news, rows[i], counts, i, lanes, found, counted, floating, members
                )  # fmt: skip
            for lane in range(lanes):
                accesses[phase, lane] += counts[i, lane]
        for row in range(2):
            for at in range(len(costs)):
                hits[row, at] += found[row * len(costs) + at]
        found[:] = 0
    return good
