"""LRU batch by batch, with the experts used since each expert's last use as a set of bits: up to 512 experts.

An access's place in the LRU stack is the number of bits in its set. A batch is added to all sets at once, and starts
the sets of its members anew. An expert that was never used has all bits set, which no other has (its own bit is never
in its set): so first uses are counted in a bin of their own, `64 * words`, without a branch.

With one word per set, every batch is added to every set (`_one_word`). With more, that would be most of the time. There
batches make *epochs* of up to `EPOCH`, in which an expert's set is the union of two parts: ``within``, what followed it
in the batch of its last use (or, if that was before the epoch, its whole set then), and ``since[at]``, the batches of
the epoch after that one, kept once per batch. Only at the end of an epoch the parts are joined.
"""

from __future__ import annotations

import numba
import numpy as np

ALL_BITS = np.uint64(0xFFFFFFFFFFFFFFFF)

EPOCH = 32
"""Batches per epoch; 16 are as fast, 8 and 64 up to a fifth slower (benchmarks/NOTES.md)."""

ONE, NOTHING, IN_WORD, WORD_SHIFT = np.uint64(1), np.uint64(0), np.uint64(63), np.uint64(6)


@numba.njit(cache=True, nogil=True, inline="always")
def ones(word):  # type: ignore[no-untyped-def]
    """Count the bits that are set; the compiler makes one instruction of it."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@numba.njit(cache=True, nogil=True)
def insert_batches(words, apart, keys, first, size, number, newer, found_at):  # type: ignore[no-untyped-def]
    """Look up each batch, then make it the newest, its members in order.

    Args:
        words: a tuple with as many entries as a set has words, 1, 2, 4 or 8. Its length is part of its type: only the
            function for it is compiled.
        apart: a tuple, ``(1,)``: a member finds those before it in its batch inserted already, as under access
            ``sequential``; ``()``: all are looked up before any is inserted. Its length is part of its type too: as a
            number it takes 5 to 20 % more.
        keys: int [n], those looked at are at least 0 and below ``len(newer)``.
        first: where the first batch begins in ``keys``.
        size: accesses of each batch.
        number: batches, one behind the other.
        newer: uint64 [keys, words], or [keys] for one word, the keys used since each one's last use; all bits where it
            has none. Changed in place.
        found_at: int64 [64 * words + 1], counts up where accesses are found, first uses at the end.

    Returns:
        Whether no batch has a key twice; else the rest is meaningless.
    """
    if len(words) == 1:
        return _one_word(apart, keys, first, size, number, newer, found_at)
    if len(words) == 2:
        return _two_words(apart, keys, first, size, number, newer, found_at)
    if len(words) == 4:
        return _four_words(apart, keys, first, size, number, newer, found_at)
    return _eight_words(apart, keys, first, size, number, newer, found_at)


@numba.njit(cache=True, nogil=True)
def _one_word(apart, keys, low, members, number, newer, found_at):  # type: ignore[no-untyped-def]
    """Take two batches at a time and add both to the sets at once: a tenth faster than one by one."""
    size, wrong, pairs, at = np.uint64(members), 0, number // 2, np.uint64(low)
    for _ in range(pairs):
        next_at = at + size
        first, second = NOTHING, NOTHING
        for i in range(size):
            first |= ONE << np.uint64(keys[at + i])  # unsigned: spares the check for negative indices
        for i in range(size):
            second |= ONE << np.uint64(keys[next_at + i])
        wrong |= (members - ones(first)) | (members - ones(second))
        bits, both = first, first | second
        for i in range(size):
            key = np.uint64(keys[at + i])
            found_at[ones(newer[key] | (first & ~bits if len(apart) else NOTHING))] += 1
            bits &= ~(ONE << key)
            newer[key] = bits  # those later in the batch are newer
        seen = NOTHING
        for i in range(size):
            key = np.uint64(keys[next_at + i])
            before = seen if len(apart) else NOTHING
            found_at[ones(newer[key] | before | (NOTHING if (first >> key) & ONE else first))] += 1
            seen |= ONE << key
        for other in range(np.uint64(len(newer))):
            newer[other] |= second if (first >> other) & ONE else both
        for i in range(size):
            key = np.uint64(keys[next_at + i])
            second &= ~(ONE << key)
            newer[key] = second
        at = next_at + size
    for _ in range(2 * pairs, number):
        bits = NOTHING
        for i in range(size):
            key = np.uint64(keys[at + i])
            found_at[ones(newer[key] | (bits if len(apart) else NOTHING))] += 1
            bits |= ONE << key
        wrong |= members - ones(bits)
        for other in range(np.uint64(len(newer))):
            newer[other] |= bits
        for i in range(size):
            key = np.uint64(keys[at + i])
            bits &= ~(ONE << key)
            newer[key] = bits
        at += size
    return wrong == 0


@numba.njit(cache=True, nogil=True, inline="always")
def _join(words, newer, at, since):  # type: ignore[no-untyped-def]
    """End an epoch: join the two parts of every set, of as many words (a constant: a tenth of the whole)."""
    for key in range(np.uint64(len(newer))):
        batch = np.uint64(at[key])
        for word in range(words):
            newer[key, word] |= since[batch, word]
    at[:] = 0
    since[:] = NOTHING


@numba.njit(cache=True, nogil=True)
def _two_words(apart, keys, low, members, number, within, found_at):  # type: ignore[no-untyped-def]
    size, wrong, begin = np.uint64(members), 0, np.uint64(low)
    at = np.zeros(len(within), np.uint8)  # 0: before the epoch
    since = np.zeros((EPOCH + 1, 2), np.uint64)
    for batch in range(number):
        now = np.uint64(batch % EPOCH)
        bits0, bits1 = NOTHING, NOTHING
        for i in range(size):
            key = np.uint64(keys[begin + i])
            last = np.uint64(at[key])
            place = ones(since[last, 0] | within[key, 0] | (bits0 if len(apart) else NOTHING))
            found_at[place + ones(since[last, 1] | within[key, 1] | (bits1 if len(apart) else NOTHING))] += 1
            bit, high = ONE << (key & IN_WORD), NOTHING - (key >> WORD_SHIFT)
            bits0 |= bit & ~high
            bits1 |= bit & high
        wrong |= members - ones(bits0) - ones(bits1)
        for before in range(now + ONE):
            since[before, 0] |= bits0
            since[before, 1] |= bits1
        for i in range(size):
            key = np.uint64(keys[begin + i])
            bit, high = ONE << (key & IN_WORD), NOTHING - (key >> WORD_SHIFT)
            bits0 &= ~(bit & ~high)
            bits1 &= ~(bit & high)
            at[key] = now + ONE
            within[key, 0] = bits0
            within[key, 1] = bits1
        begin += size
        if now == EPOCH - 1:
            _join(2, within, at, since)
    _join(2, within, at, since)
    return wrong == 0


@numba.njit(cache=True, nogil=True, inline="always")
def _bit(key, word):  # type: ignore[no-untyped-def]
    """Return the key's bit if it stands in this word, else 0."""
    return (ONE << (key & IN_WORD)) if key >> WORD_SHIFT == word else NOTHING


@numba.njit(cache=True, nogil=True)
def _four_words(apart, keys, low, members, number, within, found_at):  # type: ignore[no-untyped-def]
    """Do the same; the words are written out, as a loop over them takes half as long again."""
    size, wrong, begin = np.uint64(members), 0, np.uint64(low)
    at = np.zeros(len(within), np.uint8)
    since = np.zeros((EPOCH + 1, 4), np.uint64)
    for batch in range(number):
        now = np.uint64(batch % EPOCH)
        bits0, bits1, bits2, bits3 = NOTHING, NOTHING, NOTHING, NOTHING
        for i in range(size):
            key = np.uint64(keys[begin + i])
            last = np.uint64(at[key])
            place = ones(since[last, 0] | within[key, 0] | (bits0 if len(apart) else NOTHING))
            place += ones(since[last, 1] | within[key, 1] | (bits1 if len(apart) else NOTHING))
            place += ones(since[last, 2] | within[key, 2] | (bits2 if len(apart) else NOTHING))
            place += ones(since[last, 3] | within[key, 3] | (bits3 if len(apart) else NOTHING))
            found_at[place] += 1
            bits0 |= _bit(key, 0)
            bits1 |= _bit(key, 1)
            bits2 |= _bit(key, 2)
            bits3 |= _bit(key, 3)
        wrong |= members - ones(bits0) - ones(bits1) - ones(bits2) - ones(bits3)
        for before in range(now + ONE):
            since[before, 0] |= bits0
            since[before, 1] |= bits1
            since[before, 2] |= bits2
            since[before, 3] |= bits3
        for i in range(size):
            key = np.uint64(keys[begin + i])
            bits0 &= ~_bit(key, 0)
            bits1 &= ~_bit(key, 1)
            bits2 &= ~_bit(key, 2)
            bits3 &= ~_bit(key, 3)
            at[key] = now + ONE
            within[key, 0] = bits0
            within[key, 1] = bits1
            within[key, 2] = bits2
            within[key, 3] = bits3
        begin += size
        if now == EPOCH - 1:
            _join(4, within, at, since)
    _join(4, within, at, since)
    return wrong == 0


@numba.njit(cache=True, nogil=True)
def _eight_words(apart, keys, low, members, number, within, found_at):  # type: ignore[no-untyped-def]
    """Do the same; eight words written out are no faster than loops over them."""
    size, wrong, begin = np.uint64(members), 0, np.uint64(low)
    at = np.zeros(len(within), np.uint8)
    since = np.zeros((EPOCH + 1, 8), np.uint64)
    bits = np.zeros(8, np.uint64)
    for batch in range(number):
        now = np.uint64(batch % EPOCH)
        bits[:] = NOTHING
        for i in range(size):
            key = np.uint64(keys[begin + i])
            last, place = np.uint64(at[key]), np.int64(0)
            for word in range(8):
                place += ones(since[last, word] | within[key, word] | (bits[word] if len(apart) else NOTHING))
            found_at[place] += 1
            bits[key >> WORD_SHIFT] |= ONE << (key & IN_WORD)
        different = np.int64(0)
        for word in range(8):
            different += ones(bits[word])
        wrong |= members - different
        for before in range(now + ONE):
            for word in range(8):
                since[before, word] |= bits[word]
        for i in range(size):
            key = np.uint64(keys[begin + i])
            bits[key >> WORD_SHIFT] &= ~(ONE << (key & IN_WORD))
            at[key] = now + ONE
            for word in range(8):
                within[key, word] = bits[word]
        begin += size
        if now == EPOCH - 1:
            _join(8, within, at, since)
    _join(8, within, at, since)
    return wrong == 0
