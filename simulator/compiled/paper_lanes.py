"""The paper's rule of access for many layers side by side, in lanes of the processor's vectors.

The stacks of `LANES` layers take the same token at the same time. Row p of ``stack`` holds the costs (as in
`stack_decode`, in 32 bits) that stand at place p in each of them, so the minimum of two rows is one instruction for all
layers. Every request starts cold, so a cost has to mean something within one request only: what is used sooner, or
more often and then later, costs less, and no two costs of a stack are equal. Rows are flat: row p is
``[p * LANES:(p + 1) * LANES]``. Loops over lanes have no branch and a constant length, which is what makes the compiler
turn them into vectors; places are taken eight or four at a time, so that they stay in registers.

A token's experts are looked up in the stack that the last one left, then inserted one after the other. Each takes the
top; what was there sinks down to where the expert was, past what costs less. So each insertion carries one cost down
and ends where it meets the expert's old one; the next follows behind it.
"""

from __future__ import annotations

import numba
import numpy as np

from lrcsim.simulator.compiled.stack_decode import LFU, LOOKAHEAD, NEXT_USE

LANES = 16
LEAST_LAYERS = 8
"""Fewer layers are faster one by one."""
FROM_ACCESSES = 1 << 24
"""Accesses of a trace from which on compiling this, once, is worth its time."""
MOST_TOKENS = 1 << 16
"""Of a request: the ids and next uses of one, in all lanes, take 8 bytes per access."""
TILE = 8

W, FOUR_W, EIGHT_W = np.uint64(LANES), np.uint64(4 * LANES), np.uint64(8 * LANES)
NOTHING = np.uint32(0xFFFFFFFF)
"""Stands at places that are empty, and is carried where nothing sinks any more."""
ABSENT = np.uint32(0xFFFFFFFE)
"""In place of the old cost of an expert that is not in the stack: no place holds it."""
WORTHLESS = np.uint32(0xFFFFFFFD)
"""The cost of an expert without uses; uses, and then a later last use, are subtracted."""


def suits(rule: int, layers: int, experts: int, k: int, longest: int, window: int, accesses: int) -> bool:
    """Return whether the stacks of a trace's layers may be run in lanes, where it is recorded completely.

    Args:
        rule: ``LFU``, ``NEXT_USE`` or ``LOOKAHEAD``; any other does not suit.
        layers: how many there are.
        experts: of a layer.
        k: experts per token.
        longest: tokens of the longest request.
        window: tokens looked ahead (rule ``LOOKAHEAD``).
        accesses: of the whole trace.
    """
    if layers < LEAST_LAYERS or accesses < FROM_ACCESSES or rule not in (LFU, NEXT_USE, LOOKAHEAD):
        return False
    uses = {NEXT_USE: 0, LFU: longest, LOOKAHEAD: min(window, longest)}[rule]
    fits = (uses + 1) << time_bits(longest * k) < int(WORTHLESS) and longest * k + experts + 2 < int(WORTHLESS)
    return fits and longest <= MOST_TOKENS


@numba.njit(cache=True, nogil=True)
def time_bits(accesses):  # type: ignore[no-untyped-def]
    """Return how many bits number a request's accesses, counted from 1."""
    bits = 1
    while (1 << bits) < accesses + 2:
        bits += 1
    return bits


@numba.njit(cache=True, nogil=True)
def _sink(carried, old, there):  # type: ignore[no-untyped-def]
    """Let a cost sink past one place, or end in it if the old cost stands there; return what sinks on, what stays."""
    free = NOTHING if there == old else there
    return (free if free > carried else carried), (free if free < carried else carried)


@numba.njit(cache=True, nogil=True)
def _sink_past(c, old, s0, s1, s2, s3, s4, s5, s6, s7):  # type: ignore[no-untyped-def]
    c, s0 = _sink(c, old, s0)
    c, s1 = _sink(c, old, s1)
    c, s2 = _sink(c, old, s2)
    c, s3 = _sink(c, old, s3)
    c, s4 = _sink(c, old, s4)
    c, s5 = _sink(c, old, s5)
    c, s6 = _sink(c, old, s6)
    c, s7 = _sink(c, old, s7)
    return c, s0, s1, s2, s3, s4, s5, s6, s7


@numba.njit(cache=True, nogil=True)
def _insert(stack, stop, olds, news, size, carried, top):  # type: ignore[no-untyped-def]
    """Insert a token's experts one after the other.

    Args:
        stack: rows, a multiple of `TILE`, changed in place.
        stop: uint64, where the places end at which any of the insertions can.
        olds: rows, the experts' old costs or `ABSENT`, in their order; `ABSENT` behind them, to a multiple of 8.
        news: rows, their new costs.
        size: uint64, where those end.
        carried: rows, scratch like ``olds``.
        top: uint32 [LANES], scratch.
    """
    for i in range(W):
        top[i] = stack[i]
    row = np.uint64(0)
    while row < size:
        for i in range(W):
            there = top[i]
            carried[row + i] = NOTHING if there == olds[row + i] else there
            top[i] = news[row + i]
        row += W
    while row < np.uint64(len(carried)):
        for i in range(W):
            carried[row + i] = NOTHING
        row += W
    for i in range(W):
        stack[i] = 0  # nothing costs less: the top is passed
    row = np.uint64(0)
    while row < size:  # four share a pass over the places
        a, b, c, d = row, row + W, row + W + W, row + W + W + W
        p0 = np.uint64(0)
        while p0 < stop:
            p1 = p0 + W
            p2 = p1 + W
            p3 = p2 + W
            p4 = p3 + W
            p5 = p4 + W
            p6 = p5 + W
            p7 = p6 + W
            for i in range(W):
                s0, s1, s2, s3 = stack[p0 + i], stack[p1 + i], stack[p2 + i], stack[p3 + i]
                s4, s5, s6, s7 = stack[p4 + i], stack[p5 + i], stack[p6 + i], stack[p7 + i]
                carried[a + i], s0, s1, s2, s3, s4, s5, s6, s7 = _sink_past(
                    carried[a + i], olds[a + i], s0, s1, s2, s3, s4, s5, s6, s7
                )
                carried[b + i], s0, s1, s2, s3, s4, s5, s6, s7 = _sink_past(
                    carried[b + i], olds[b + i], s0, s1, s2, s3, s4, s5, s6, s7
                )
                carried[c + i], s0, s1, s2, s3, s4, s5, s6, s7 = _sink_past(
                    carried[c + i], olds[c + i], s0, s1, s2, s3, s4, s5, s6, s7
                )
                carried[d + i], s0, s1, s2, s3, s4, s5, s6, s7 = _sink_past(
                    carried[d + i], olds[d + i], s0, s1, s2, s3, s4, s5, s6, s7
                )
                stack[p0 + i], stack[p1 + i], stack[p2 + i], stack[p3 + i] = s0, s1, s2, s3
                stack[p4 + i], stack[p5 + i], stack[p6 + i], stack[p7 + i] = s4, s5, s6, s7
            p0 += EIGHT_W
        row += FOUR_W
    for i in range(W):
        stack[i] = top[i]


@numba.njit(cache=True, nogil=True)
def _look_below(stack, limit, found, at, residents):  # type: ignore[no-untyped-def]
    """Count where costs up to ``limit`` stand: what is used now, where costs are next uses.

    Args:
        stack: rows.
        limit: uint32.
        found: rows, count up.
        at: uint64, where they begin.
        residents: how many there are in all lanes.

    Returns:
        Where the places end that were looked at.
    """
    met, place = np.int64(0), np.uint64(0)
    while met < residents and place < np.uint64(len(stack)):
        here = np.uint32(0)
        for i in range(EIGHT_W):
            hit = np.uint32(stack[place + i] <= limit)
            found[at + place + i] += hit
            here += hit
        met += here
        place += EIGHT_W
    return place


@numba.njit(cache=True, nogil=True)
def _lesser(one, other):  # type: ignore[no-untyped-def]
    return one if one < other else other


@numba.njit(cache=True, nogil=True)
def _differs(s, a, b, c, d, e, f, g, h):  # type: ignore[no-untyped-def]
    """Return 0 if a cost is one of eight, else 1. By minimum: as truth values it takes twice as long."""
    low, high = (
        _lesser(_lesser(s ^ a, s ^ b), _lesser(s ^ c, s ^ d)),
        _lesser(_lesser(s ^ e, s ^ f), _lesser(s ^ g, s ^ h)),
    )
    return _lesser(_lesser(low, high), np.uint32(1))


@numba.njit(cache=True, nogil=True)
def _look(counting, stack, olds, bits, found, at, residents, met_here):  # type: ignore[no-untyped-def]
    """Find where given costs stand: count there, or subtract one use from each.

    Args:
        counting: a tuple, ``(1,)``: count; ``()``: subtract. A type: each is compiled apart.
        stack: rows, changed in place unless ``counting``.
        olds: rows as in `_insert`.
        bits: uint32, below a use in a cost.
        found: rows, count up.
        at: uint64, where they begin.
        residents: how many of ``olds`` are in the stacks.
        met_here: uint32 [LANES], scratch.

    Returns:
        Where the places end that were looked at.
    """
    met, p0, one, use = np.int64(0), np.uint64(0), np.uint32(1), np.uint32(1) << bits
    while met < residents and p0 < np.uint64(len(stack)):  # not all are met if a token has an expert twice
        for i in range(W):
            met_here[i] = 0
        p1 = p0 + W
        p2 = p1 + W
        p3 = p2 + W
        f0, f1, f2, f3 = at + p0, at + p1, at + p2, at + p3
        r0 = np.uint64(0)
        while r0 < np.uint64(len(olds)):
            r1 = r0 + W
            r2 = r1 + W
            r3 = r2 + W
            r4 = r3 + W
            r5 = r4 + W
            r6 = r5 + W
            r7 = r6 + W
            for i in range(W):
                a, b, c, d = olds[r0 + i], olds[r1 + i], olds[r2 + i], olds[r3 + i]
                e, f, g, h = olds[r4 + i], olds[r5 + i], olds[r6 + i], olds[r7 + i]
                s0, s1, s2, s3 = stack[p0 + i], stack[p1 + i], stack[p2 + i], stack[p3 + i]
                m0 = one - _differs(s0, a, b, c, d, e, f, g, h)
                m1 = one - _differs(s1, a, b, c, d, e, f, g, h)
                m2 = one - _differs(s2, a, b, c, d, e, f, g, h)
                m3 = one - _differs(s3, a, b, c, d, e, f, g, h)
                if len(counting):
                    found[f0 + i] += m0
                    found[f1 + i] += m1
                    found[f2 + i] += m2
                    found[f3 + i] += m3
                else:
                    stack[p0 + i] = s0 - m0 * use
                    stack[p1 + i] = s1 - m1 * use
                    stack[p2 + i] = s2 - m2 * use
                    stack[p3 + i] = s3 - m3 * use
                met_here[i] += m0 + m1 + m2 + m3
            r0 += EIGHT_W
        for i in range(W):
            met += met_here[i]
        p0 += FOUR_W
    return p0


@numba.njit(cache=True, nogil=True)
def _find_next_uses(ids, lanes, tokens, low, high, k, upcoming, num_keys, next_use):  # type: ignore[no-untyped-def]
    """Find the number of the next access, from 1, to each expert of a request; those without stand behind, by key.

    Args:
        ids: int16 [lanes * tokens * k].
        lanes: how many are used.
        tokens: of the block.
        low: first token of the request.
        high: token after the last.
        k: experts per token.
        upcoming: uint32 [lanes * num_keys], scratch.
        num_keys: experts of a layer.
        next_use: uint32 [lanes * most accesses of a request], filled in.
    """
    number, most = np.uint64((high - low) * k), np.uint64(len(next_use) // LANES)
    for lane in range(np.uint64(lanes)):
        mine, begin = lane * np.uint64(num_keys), (lane * np.uint64(tokens) + np.uint64(low)) * np.uint64(k)
        for key in range(np.uint64(num_keys)):
            upcoming[mine + key] = np.uint32(number + np.uint64(2) + key)
        at = number
        while at > np.uint64(0):
            used = mine + np.uint64(ids[begin + at - np.uint64(1)])
            next_use[lane * most + at - np.uint64(1)] = upcoming[used]
            upcoming[used] = np.uint32(at)
            at -= np.uint64(1)


@numba.njit(cache=True, nogil=True)
def _come_into_sight(ids, lanes, tokens, token, k, num_keys, bits, cost, uses, olds):  # type: ignore[no-untyped-def]
    """Add the uses of a token that comes into the window; return how many of its experts are in the stacks.

    Args:
        ids: int16 [lanes * tokens * k].
        lanes: how many are used.
        tokens: of the block.
        token: which.
        k: experts per token.
        num_keys: experts of a layer.
        bits: uint32, below a use in a cost.
        cost: uint32 [LANES * num_keys], 0 where an expert is not in the stack.
        uses: uint32 [LANES * num_keys], in the window.
        olds: rows, receive the costs before, or `ABSENT`.
    """
    residents, use = np.int64(0), np.uint32(1) << bits
    for lane in range(np.uint64(lanes)):
        at, row = (lane * np.uint64(tokens) + np.uint64(token)) * np.uint64(k), np.uint64(lane)
        for rank in range(np.uint64(k)):
            key = lane * np.uint64(num_keys) + np.uint64(ids[at + rank])
            uses[key] += np.uint32(1)
            old = cost[key]
            there = old != 0
            cost[key] = old - (use if there else np.uint32(0))
            olds[row] = old if there else ABSENT
            residents += there
            row += W
    return residents


@numba.njit(cache=True, nogil=True)
def run_paper(rule, experts, starts, phases, window, hits, accesses):  # type: ignore[no-untyped-def]
    """Count where each access is found, in up to `LANES` layers, over whole requests of one token a step.

    Args:
        rule: ``LFU``, ``NEXT_USE`` or ``LOOKAHEAD``, from where the caller has made sure that it `suits`.
        experts: int16 [layers, tokens, k], contiguous, all recorded.
        starts: int64 [requests + 1], first tokens.
        phases: uint8 [tokens].
        window: tokens looked ahead, the current one included (rule ``LOOKAHEAD``).
        hits: int64 [layers, 2, experts of a layer], by phase, counts up.
        accesses: int64 [layers, 2], by phase, counts up.

    Returns:
        Whether no token has an expert twice; else the rest is meaningless.
    """
    lanes, tokens, k = experts.shape
    num_keys, ids = hits.shape[2], experts.reshape(-1)
    rows, most = (num_keys + TILE - 1) // TILE * TILE, np.int64(0)
    for request in range(len(starts) - 1):
        most = max(most, (starts[request + 1] - starts[request]) * k)
    bits = np.uint32(time_bits(most))
    times = (np.uint32(1) << bits) - np.uint32(1)
    stack, found = np.empty(rows * LANES, np.uint32), np.zeros(2 * rows * LANES, np.uint32)
    members = (k + 7) // 8 * 8 * LANES
    olds, sighted = np.full(members, ABSENT), np.full(members, ABSENT)
    news, carried = np.full(members, NOTHING), np.empty(members, np.uint32)
    top, met_here = np.empty(LANES, np.uint32), np.empty(LANES, np.uint32)
    cost, uses = np.empty(LANES * num_keys, np.uint32), np.empty(LANES * num_keys, np.uint32)
    next_use = np.empty(LANES * most if rule == NEXT_USE else 0, np.uint32)
    depth, good, size = np.empty(lanes, np.int64), True, np.uint64(k * LANES)
    for request in range(len(starts) - 1):
        low, high = starts[request], starts[request + 1]
        stack[:] = NOTHING
        cost[:] = 0
        uses[:] = 0
        depth[:] = 0
        if rule == NEXT_USE:
            _find_next_uses(ids, lanes, tokens, low, high, k, uses, num_keys, next_use)
        ahead, deepest = low, np.int64(0)
        for token in range(low, high):
            phase, now = np.int64(phases[token]), np.uint32((token - low) * k)
            counted = np.uint64(phase * rows * LANES)
            while rule == LOOKAHEAD and ahead < min(token + window, high):
                there = _come_into_sight(ids, lanes, tokens, ahead, k, num_keys, bits, cost, uses, sighted)
                _look((), stack, sighted, bits, found, counted, there, met_here)
                ahead += 1
            residents = np.int64(0)
            for lane in range(np.uint64(lanes)):
                at, row = (lane * np.uint64(tokens) + np.uint64(token)) * np.uint64(k), np.uint64(lane)
                following = lane * np.uint64(most) + np.uint64(now)
                for rank in range(np.uint64(k)):
                    key = lane * np.uint64(num_keys) + np.uint64(ids[at + rank])
                    old = cost[key]
                    if rule == NEXT_USE:
                        new = next_use[following + rank]
                        good &= new > now + np.uint32(k)
                    else:
                        good &= old == 0 or ((WORTHLESS - old) & times) <= now
                        left = uses[key] + np.uint32(1) if rule == LFU else uses[key] - np.uint32(1)
                        uses[key] = left
                        new = WORTHLESS - (left << bits) - (now + np.uint32(rank + np.uint64(1)))
                    if old == 0:  # the u-th distinct expert of a request hits in caches of more than u slots
                        hits[lane, phase, depth[lane]] += 1
                        depth[lane] += 1
                        old = ABSENT
                    else:
                        residents += 1
                    cost[key] = new
                    olds[row] = old
                    news[row] = new
                    row += W
                deepest = max(deepest, depth[lane])
                accesses[lane, phase] += k
            if not good:
                return False
            if rule == NEXT_USE:
                stop = _look_below(stack, now + np.uint32(k), found, counted, residents)
            else:
                stop = _look((1,), stack, olds, bits, found, counted, residents, met_here)
            if residents < lanes * k:  # what is new ends below all others
                stop = max(stop, np.uint64(deepest * LANES))
            _insert(stack, stop, olds, news, size, carried, top)
    for lane in range(lanes):
        for kind in range(2):
            for place in range(num_keys):
                hits[lane, kind, place] += found[(kind * rows + place) * LANES + lane]
    return True
