"""LRU batch by batch, with each expert's place in the stack as a small number: plain loops, any CPU.

An expert that is not in the batch moves down by the members that stood below it; the members take the top. So a batch
is one pass over all places, a comparison and an addition per member, which the compiler does for 16 to 64 experts at a
time. All experts have a place from the start, those not used yet at the bottom.
"""

from __future__ import annotations

import numba
import numpy as np

MOST_KEYS = 3_072
"""Up to this many keys it is faster than the line of marks of `lru` (benchmarks/NOTES.md)."""

AT_ONCE = np.uint64(8)
ONE = np.uint64(1)


@numba.njit(cache=True, nogil=True, inline="always")
def _count(place, before, depth, found_at):  # type: ignore[no-untyped-def]
    """Count where an access is found, without a branch; return whether it is a first use.

    Args:
        place: the expert's.
        before: how many of its batch were inserted already and stood below it.
        depth: how many experts were used.
        found_at: as in `insert_in_places`.
    """
    fresh = np.int64(place) >= depth
    found_at[np.uint64(len(found_at) - 1 if fresh else np.int64(place) + before)] += 1
    return fresh


@numba.njit(cache=True, nogil=True, inline="always")
def _insert_eight(apart, keys, at, end, places, depth, found_at):  # type: ignore[no-untyped-def]
    """Make up to eight members the newest; they are written out, so that the compiler keeps them in registers.

    With ``apart`` also count where each is found once those before it are inserted; return how many are first uses.
    """
    zero = places.dtype.type(0)
    members, new = min(end - at, AT_ONCE), np.int64(0)
    a = places[np.uint64(keys[at])]
    b = places[np.uint64(keys[at + np.uint64(1)])] if members > np.uint64(1) else zero
    c = places[np.uint64(keys[at + np.uint64(2)])] if members > np.uint64(2) else zero
    d = places[np.uint64(keys[at + np.uint64(3)])] if members > np.uint64(3) else zero
    e = places[np.uint64(keys[at + np.uint64(4)])] if members > np.uint64(4) else zero
    f = places[np.uint64(keys[at + np.uint64(5)])] if members > np.uint64(5) else zero
    g = places[np.uint64(keys[at + np.uint64(6)])] if members > np.uint64(6) else zero
    h = places[np.uint64(keys[at + np.uint64(7)])] if members > np.uint64(7) else zero
    if len(apart):
        new += _count(a, 0, depth, found_at)
        if members > np.uint64(1):
            new += _count(b, np.int64(a > b), depth, found_at)
        if members > np.uint64(2):
            new += _count(c, np.int64(a > c) + (b > c), depth, found_at)
        if members > np.uint64(3):
            new += _count(d, np.int64(a > d) + (b > d) + (c > d), depth, found_at)
        if members > np.uint64(4):
            new += _count(e, np.int64(a > e) + (b > e) + (c > e) + (d > e), depth, found_at)
        if members > np.uint64(5):
            new += _count(f, np.int64(a > f) + (b > f) + (c > f) + (d > f) + (e > f), depth, found_at)
        if members > np.uint64(6):
            new += _count(g, np.int64(a > g) + (b > g) + (c > g) + (d > g) + (e > g) + (f > g), depth, found_at)
        if members > np.uint64(7):
            before = np.int64(a > h) + (b > h) + (c > h) + (d > h) + (e > h) + (f > h) + (g > h)
            new += _count(h, before, depth, found_at)
    for key in range(np.uint64(len(places))):
        it = places[key]
        places[key] = it + (it < a) + (it < b) + (it < c) + (it < d) + (it < e) + (it < f) + (it < g) + (it < h)
    for i in range(members):
        places[np.uint64(keys[at + i])] = members - ONE - i
    return new


@numba.njit(cache=True, nogil=True)
def insert_in_places(apart, keys, first, size, number, places, depth, found_at):  # type: ignore[no-untyped-def]
    """Look up each batch, then make it the newest, its members in order.

    Args:
        apart: as in `lru_bits.insert_in_sets`, like ``keys``, ``first``, ``size`` and ``number``.
        keys: those looked at are at least 0 and below ``len(places)``.
        first: where the first batch begins.
        size: accesses of each batch.
        number: batches.
        places: uint8 or uint16 [keys], each key's place in the stack, changed in place.
        depth: how many keys were used.
        found_at: int64 [keys + 1 or more], counts up where accesses are found, first uses at the end.

    Returns:
        The new depth, and whether no batch has a key twice; else the rest is meaningless.
    """
    begin, members = np.uint64(first), np.uint64(size)
    for _ in range(number):
        end = begin + members
        new = np.int64(0)
        if not len(apart):
            for at in range(begin, end):
                new += _count(places[np.uint64(keys[at])], 0, depth, found_at)
        for at in range(begin, end, AT_ONCE):
            depth += _insert_eight(apart, keys, at, end, places, depth, found_at)
        depth += new
        for i in range(members):
            if np.int64(places[np.uint64(keys[begin + i])]) != np.int64(members - ONE - i):  # another took its place
                return depth, False
        begin = end
    return depth, True
