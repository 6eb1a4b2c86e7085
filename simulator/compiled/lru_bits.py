"""LRU batch by batch, with the experts used since each expert's last use as a set of bits: up to 64 experts.

An access's place in the LRU stack is the number of bits in its set. A batch is added to all sets at once, and starts
the sets of its members anew. An expert that was never used has all bits set, which no other has (its own bit is never
in its set): so first uses are counted in a bin of their own, the 64th, without a branch.
"""

from __future__ import annotations

import numba
import numpy as np

MOST_KEYS = 64
ALL_BITS = np.uint64(0xFFFFFFFFFFFFFFFF)
ONE, NOTHING = np.uint64(1), np.uint64(0)


@numba.njit(cache=True, nogil=True, inline="always")
def ones(word):  # type: ignore[no-untyped-def]
    """Count the bits that are set; the compiler makes one instruction of it."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@numba.njit(cache=True, nogil=True)
def insert_in_sets(apart, keys, first, size, number, newer, found_at):  # type: ignore[no-untyped-def]
    """Look up each batch, then make it the newest, its members in order.

    Two batches at a time are added to the sets at once: a tenth faster than one by one.

    Args:
        apart: a tuple, ``(1,)``: a member finds those before it in its batch inserted already, as under access
            ``sequential``; ``()``: all are looked up before any is inserted. Its length is part of its type: as a
            number it takes 5 to 20 % more.
        keys: int [n], those looked at are at least 0 and below ``len(newer)``.
        first: where the first batch begins in ``keys``.
        size: accesses of each batch.
        number: batches, one behind the other.
        newer: uint64 [keys], the keys used since each one's last use; all bits where it has none. Changed in place.
        found_at: int64 [65], counts up where accesses are found, first uses at the end.

    Returns:
        Whether no batch has a key twice; else the rest is meaningless.
    """
    members, wrong, pairs, at = np.uint64(size), 0, number // 2, np.uint64(first)
    for _ in range(pairs):
        next_at = at + members
        one, two = NOTHING, NOTHING
        for i in range(members):
            one |= ONE << np.uint64(keys[at + i])  # unsigned: spares the check for negative indices
        for i in range(members):
            two |= ONE << np.uint64(keys[next_at + i])
        wrong |= (size - ones(one)) | (size - ones(two))
        bits, both = one, one | two
        for i in range(members):
            key = np.uint64(keys[at + i])
            found_at[ones(newer[key] | (one & ~bits if len(apart) else NOTHING))] += 1
            bits &= ~(ONE << key)
            newer[key] = bits  # those later in the batch are newer
        seen = NOTHING
        for i in range(members):
            key = np.uint64(keys[next_at + i])
            before = seen if len(apart) else NOTHING
            found_at[ones(newer[key] | before | (NOTHING if (one >> key) & ONE else one))] += 1
            seen |= ONE << key
        for other in range(np.uint64(len(newer))):
            newer[other] |= two if (one >> other) & ONE else both
        for i in range(members):
            key = np.uint64(keys[next_at + i])
            two &= ~(ONE << key)
            newer[key] = two
        at = next_at + members
    for _ in range(2 * pairs, number):
        bits = NOTHING
        for i in range(members):
            key = np.uint64(keys[at + i])
            found_at[ones(newer[key] | (bits if len(apart) else NOTHING))] += 1
            bits |= ONE << key
        wrong |= size - ones(bits)
        for other in range(np.uint64(len(newer))):
            newer[other] |= bits
        for i in range(members):
            key = np.uint64(keys[at + i])
            bits &= ~(ONE << key)
            newer[key] = bits
        at += members
    return wrong == 0
