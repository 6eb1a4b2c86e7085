"""Priority stacks of many layers side by side, in lanes of the processor's vectors: what all rules share.

The stacks of `LANES` layers take the same step at the same time. Row p of ``costs`` holds what stands at place p in
each of them, so a minimum of two rows is one instruction for all layers. Costs are those of `stack_decode` made short:
they mean something within one block of steps only, and are all told anew for the next (`lanes_next_use`, `lanes_uses`).
A place that is empty holds the greatest number of their type, a *hole*; so do the last rows always.

A step of one token is done in lanes (`insert`); one of several, a prompt say, in each layer by itself (`insert_one`).
Rows are flat: row p is ``[p * LANES:(p + 1) * LANES]``. Loops over lanes have no branch and a constant length, which is
what makes the compiler turn them into vectors.
"""

from __future__ import annotations

import numba
import numpy as np

LANES = 16
TILE = 8
"""Places done together: what sinks is read and written once for all of them, they themselves stay in registers."""
GROUP = 4
"""Costs that sink together."""

W = np.uint64(LANES)
TILE_W = np.uint64(TILE * LANES)
GROUP_W = np.uint64(GROUP * LANES)


def rows_for(number: int, multiple: int) -> int:
    """Return the least multiple that is not less."""
    return -(-number // multiple) * multiple


@numba.njit(cache=True, nogil=True)
def _pass(c, s0, s1, s2, s3, s4, s5, s6, s7):  # type: ignore[no-untyped-def]
    """Let one cost sink past eight places; return what sinks on, and the places."""
    out = s0 if s0 > c else c
    s0 = s0 if s0 < c else c
    c = s1 if s1 > out else out
    s1 = s1 if s1 < out else out
    out = s2 if s2 > c else c
    s2 = s2 if s2 < c else c
    c = s3 if s3 > out else out
    s3 = s3 if s3 < out else out
    out = s4 if s4 > c else c
    s4 = s4 if s4 < c else c
    c = s5 if s5 > out else out
    s5 = s5 if s5 < out else out
    out = s6 if s6 > c else c
    s6 = s6 if s6 < c else c
    c = s7 if s7 > out else out
    s7 = s7 if s7 < out else out
    return c, s0, s1, s2, s3, s4, s5, s6, s7


@numba.njit(cache=True, nogil=True)
def sink(costs, start, stop, carried, end):  # type: ignore[no-untyped-def]
    """Let costs sink: each place keeps the least of its own and those passing.

    Args:
        costs: rows, changed in place.
        start: uint64, where the first place begins.
        stop: uint64, where they end: tiles are whole, so up to ``TILE - 1`` more rows are gone through.
        carried: rows, what sinks, and after the call what sinks on.
        end: uint64, where they end, a multiple of `GROUP` rows.
    """
    group = np.uint64(0)
    while group < end:
        a, b, c, d = group, group + W, group + W + W, group + W + W + W
        p0 = start
        while p0 < stop:
            p1 = p0 + W
            p2 = p1 + W
            p3 = p2 + W
            p4 = p3 + W
            p5 = p4 + W
            p6 = p5 + W
            p7 = p6 + W
            for i in range(W):
                s0, s1, s2, s3 = costs[p0 + i], costs[p1 + i], costs[p2 + i], costs[p3 + i]
                s4, s5, s6, s7 = costs[p4 + i], costs[p5 + i], costs[p6 + i], costs[p7 + i]
                carried[a + i], s0, s1, s2, s3, s4, s5, s6, s7 = _pass(carried[a + i], s0, s1, s2, s3, s4, s5, s6, s7)
                carried[b + i], s0, s1, s2, s3, s4, s5, s6, s7 = _pass(carried[b + i], s0, s1, s2, s3, s4, s5, s6, s7)
                carried[c + i], s0, s1, s2, s3, s4, s5, s6, s7 = _pass(carried[c + i], s0, s1, s2, s3, s4, s5, s6, s7)
                carried[d + i], s0, s1, s2, s3, s4, s5, s6, s7 = _pass(carried[d + i], s0, s1, s2, s3, s4, s5, s6, s7)
                costs[p0 + i], costs[p1 + i], costs[p2 + i], costs[p3 + i] = s0, s1, s2, s3
                costs[p4 + i], costs[p5 + i], costs[p6 + i], costs[p7 + i] = s4, s5, s6, s7
            p0 += TILE_W
        group += GROUP_W


@numba.njit(cache=True, nogil=True)
def insert(whole, costs, stop, news, first, size, carried, batch):  # type: ignore[no-untyped-def]
    """Insert a batch into the stack of every lane, whose members have left it.

    The batch takes the top, in order of cost; what it pushes out sinks into the holes that its members left.

    Args:
        whole: whether no lane has fewer members than ``news`` has rows, but none at all where there is no layer.
        costs: rows, changed in place.
        stop: uint64, where the places end to which holes reach.
        news: rows, the members' costs after the batch, holes where there is none.
        first: uint64, where those begin in ``news``.
        size: uint64, how far they reach.
        carried: rows, scratch: ``size``, rounded up to a multiple of `GROUP`.
        batch: rows, scratch: ``size``, rounded up to a multiple of `TILE`.
    """
    hole = costs[len(costs) - 1]
    for i in range(np.uint64(len(batch))):
        batch[i] = hole
    for i in range(size):
        carried[i] = news[first + i]
    for i in range(size, np.uint64(len(carried))):
        carried[i] = hole
    sink(batch, np.uint64(0), size, carried, np.uint64(len(carried)))
    if whole:
        for i in range(size):
            carried[i] = costs[i]
            costs[i] = batch[i]
        sink(costs, size, stop, carried, np.uint64(len(carried)))
        return
    for i in range(size):  # the places that members take are passed by
        taken = batch[i] != hole
        carried[i] = costs[i] if taken else hole
        costs[i] = 0 if taken else costs[i]
    sink(costs, np.uint64(0), stop, carried, np.uint64(len(carried)))
    for i in range(size):
        costs[i] = batch[i] if batch[i] != hole else costs[i]


@numba.njit(cache=True, nogil=True)
def _join(row, filled, value):  # type: ignore[no-untyped-def]
    """Insert into the sorted ``row[:filled]``."""
    i = filled
    while i > 0 and row[i - 1] > value:
        row[i] = row[i - 1]
        i -= 1
    row[i] = value


@numba.njit(cache=True, nogil=True)
def insert_one(costs, lane, places, news, first, count, carried, batch):  # type: ignore[no-untyped-def]
    """Do what `insert` does in one lane, for a batch of any size.

    Args:
        costs: rows, changed in place.
        lane: which.
        places: experts, so places.
        news: rows, of which this lane has the members' costs after the batch.
        first: where those begin in ``news``.
        count: members.
        carried: [2 * places], scratch.
        batch: [places], scratch.
    """
    hole = costs[len(costs) - 1]
    for i in range(count):
        _join(batch, i, news[first + i * LANES + lane])
    head, tail = 0, 0
    for place in range(places):
        at = place * LANES + lane
        there = costs[at]
        if place < count:
            costs[at] = batch[place]
            if there != hole:
                _join(carried, tail, there)
                tail += 1
        elif head == tail:
            break
        elif carried[head] < there:
            costs[at] = carried[head]
            head += 1
            if there != hole:
                i = tail
                while i > head and carried[i - 1] > there:
                    carried[i] = carried[i - 1]
                    i -= 1
                carried[i] = there
                tail += 1
