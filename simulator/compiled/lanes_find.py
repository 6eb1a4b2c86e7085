"""Finding experts by their costs in stacks in lanes: used ones leave, those that come into sight are raised."""

from __future__ import annotations

import numba
import numpy as np

from lrcsim.simulator.compiled.lanes import GROUP_W, LANES, TILE, TILE_W, W

HALF = np.uint64(TILE // 2 * LANES)


@numba.njit(cache=True, nogil=True)
def _is_one_of(cost, a, b, c, d):  # type: ignore[no-untyped-def]
    """Return whether a cost is one of four: whether the least difference is 0, which vectors find sooner."""
    a, b, c, d = a ^ cost, b ^ cost, c ^ cost, d ^ cost
    a = a if a < b else b
    c = c if c < d else d
    return (a if a < c else c) == 0


@numba.njit(cache=True, nogil=True)
def leave(costs, stop, olds, first, size, found, at, gone, idle, most):  # type: ignore[no-untyped-def]
    """Take the members out of all lanes, counting where they were; return where the last can have been.

    Args:
        costs: rows, changed in place.
        stop: uint64, where they end: a multiple of `TILE` rows.
        olds: rows, the members' costs.
        first: uint64, where those begin in ``olds``.
        size: uint64, how far they reach: a multiple of `GROUP` rows, some of which no place may hold.
        found: of the type of ``costs``, counts up.
        at: uint64, where its rows begin.
        gone: of the type of ``costs`` [LANES], scratch.
        idle: of the type of ``costs`` [LANES], ``most`` in lanes without a layer, else 0.
        most: of that type, members.
    """
    hole = costs[len(costs) - 1]
    for i in range(W):
        gone[i] = idle[i]
    tile, least = np.uint64(0), gone.dtype.type(0)
    while tile < stop and least < most:
        p0, p1, p2, p3 = tile, tile + W, tile + W + W, tile + W + W + W
        p4, p5, p6, p7 = p0 + HALF, p1 + HALF, p2 + HALF, p3 + HALF
        f0, f1, f2, f3, f4, f5, f6, f7 = at + p0, at + p1, at + p2, at + p3, at + p4, at + p5, at + p6, at + p7
        group = first
        while group < first + size:
            o0, o1, o2, o3 = group, group + W, group + W + W, group + W + W + W
            for i in range(W):
                a, b, c, d = olds[o0 + i], olds[o1 + i], olds[o2 + i], olds[o3 + i]
                s0, s1, s2, s3 = costs[p0 + i], costs[p1 + i], costs[p2 + i], costs[p3 + i]
                s4, s5, s6, s7 = costs[p4 + i], costs[p5 + i], costs[p6 + i], costs[p7 + i]
                m0 = _is_one_of(s0, a, b, c, d)
                m1 = _is_one_of(s1, a, b, c, d)
                m2 = _is_one_of(s2, a, b, c, d)
                m3 = _is_one_of(s3, a, b, c, d)
                m4 = _is_one_of(s4, a, b, c, d)
                m5 = _is_one_of(s5, a, b, c, d)
                m6 = _is_one_of(s6, a, b, c, d)
                m7 = _is_one_of(s7, a, b, c, d)
                found[f0 + i] += m0
                found[f1 + i] += m1
                found[f2 + i] += m2
                found[f3 + i] += m3
                found[f4 + i] += m4
                found[f5 + i] += m5
                found[f6 + i] += m6
                found[f7 + i] += m7
                gone[i] += m0
                gone[i] += m1
                gone[i] += m2
                gone[i] += m3
                gone[i] += m4
                gone[i] += m5
                gone[i] += m6
                gone[i] += m7
                costs[p0 + i] = hole if m0 else s0
                costs[p1 + i] = hole if m1 else s1
                costs[p2 + i] = hole if m2 else s2
                costs[p3 + i] = hole if m3 else s3
                costs[p4 + i] = hole if m4 else s4
                costs[p5 + i] = hole if m5 else s5
                costs[p6 + i] = hole if m6 else s6
                costs[p7 + i] = hole if m7 else s7
            group += GROUP_W
        least = most
        for i in range(W):
            least = gone[i] if gone[i] < least else least
        tile += TILE_W
    return tile


@numba.njit(cache=True, nogil=True)
def raise_uses(costs, stop, olds, first, size, use):  # type: ignore[no-untyped-def]
    """Lower the costs of the experts that come into sight by ``use``, in all lanes; the rest as in `leave`."""
    less = costs.dtype.type(use)
    tile = np.uint64(0)
    while tile < stop:
        p0, p1, p2, p3 = tile, tile + W, tile + W + W, tile + W + W + W
        group = first
        while group < first + size:
            o0, o1, o2, o3 = group, group + W, group + W + W, group + W + W + W
            for i in range(W):
                a, b, c, d = olds[o0 + i], olds[o1 + i], olds[o2 + i], olds[o3 + i]
                s0, s1, s2, s3 = costs[p0 + i], costs[p1 + i], costs[p2 + i], costs[p3 + i]
                m0 = _is_one_of(s0, a, b, c, d)
                m1 = _is_one_of(s1, a, b, c, d)
                m2 = _is_one_of(s2, a, b, c, d)
                m3 = _is_one_of(s3, a, b, c, d)
                costs[p0 + i] = s0 - less if m0 else s0
                costs[p1 + i] = s1 - less if m1 else s1
                costs[p2 + i] = s2 - less if m2 else s2
                costs[p3 + i] = s3 - less if m3 else s3
            group += GROUP_W
        tile += HALF


@numba.njit(cache=True, nogil=True)
def _find_places(costs, lane, experts, mask, place_of):  # type: ignore[no-untyped-def]
    """Fill in where each number stands in the stack of a lane; what is not there finds another's place."""
    hole = costs[len(costs) - 1]
    for place in range(experts):
        there = costs[place * LANES + lane]
        if there != hole:
            place_of[mask - (there & mask)] = place


@numba.njit(cache=True, nogil=True)
def raise_one(costs, lane, experts, bits, olds, first, count, place_of):  # type: ignore[no-untyped-def]
    """Do what `raise_uses` does in one lane, for a step of any size."""
    mask, use = (np.int64(1) << bits) - 1, np.int64(1) << bits
    _find_places(costs, lane, experts, mask, place_of)
    for i in range(count):
        old = olds[first + i * LANES + lane]
        at = place_of[mask - (old & mask)] * LANES + lane
        if costs[at] == old:
            costs[at] = old - use


@numba.njit(cache=True, nogil=True)
def leave_one(costs, lane, experts, bits, olds, first, count, found, counted, place_of):  # type: ignore[no-untyped-def]
    """Do what `leave` does in one lane, for a step of any size."""
    mask, hole = (np.int64(1) << bits) - 1, costs[len(costs) - 1]
    _find_places(costs, lane, experts, mask, place_of)
    for i in range(count):
        old = olds[first + i * LANES + lane]
        at = place_of[mask - (old & mask)] * LANES + lane
        if costs[at] == old:
            found[counted + at] += 1
            costs[at] = hole
