"""Compiled LRU at every capacity: an access's place in the LRU stack is the number of experts used since its last use.

Two ways to count them. With up to 256 experts, as a set of bits for each expert, the experts used since it was: one
OR per expert ages them all by a whole batch, and a place is one population count. With more, as a line of marks, one
for each expert at the time of its last use: a place is the number of marks behind its own.
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from lrcsim.simulator.stack import PAPER, SEQUENTIAL, TWICE, gather

__all__ = ["BITS", "LruState", "run_lru_bits", "run_lru_marks"]

BITS = 256
"""Up to this many keys the sets of bits are faster (benchmarks/NOTES.md)."""

WORDS_PER_GROUP = 64


class LruState(NamedTuple):
    """The LRU stack of one pool between blocks.

    Attributes:
        newer: uint64 [1 or 4 words, keys], the bits of the experts used since each one's last use (up to `BITS` keys).
        used: uint8 [keys], 1 once an expert has been used.
        line: uint64 [words of the line], a mark at each expert's last use (more than `BITS` keys).
        group: int64 [groups], marks in each `WORDS_PER_GROUP` words of the line.
        time: int64 [keys], each expert's place on the line, -1 when it has none.
        mark: int64 [keys], scratch of `gather`.
        counter: int64 [6]: distinct experts used, next place on the line, batches so far, request (-1 at first),
            unused, 1 once the ids were found to be impossible.
        hits: int64 [2, keys]: by phase, accesses found at each place of the stack.
        accesses: int64 [2], by phase.
    """

    newer: npt.NDArray[np.uint64]
    used: npt.NDArray[np.uint8]
    line: npt.NDArray[np.uint64]
    group: npt.NDArray[np.int64]
    time: npt.NDArray[np.int64]
    mark: npt.NDArray[np.int64]
    counter: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]
    accesses: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, keys: int) -> LruState:
        """Make the state of a pool over ``keys`` experts, with nothing in it."""
        bits = keys <= BITS
        groups = 0 if bits else -(-4 * keys // (64 * WORDS_PER_GROUP)) + 1
        return cls(
            np.zeros((1 if keys <= 64 else 4, keys) if bits else (1, 1), np.uint64),
            np.zeros(keys, np.uint8),
            np.zeros(groups * WORDS_PER_GROUP, np.uint64),
            np.zeros(groups, np.int64),
            np.full(keys, -1, np.int64),
            np.full(keys, -1, np.int64),
            np.array([0, 0, 0, -1, 0, 0], np.int64),
            np.zeros((2, keys), np.int64),
            np.zeros(2, np.int64),
        )


@numba.njit(cache=True, nogil=True, inline="always")
def _ones(word):  # type: ignore[no-untyped-def]
    """Count the bits that are set; the compiler makes one instruction of it."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@numba.njit(cache=True, nogil=True)
def _one_word(batches, newer, used, found_at, accessed, paper, distinct):  # type: ignore[no-untyped-def]
    """Look up each batch (-1 = not recorded), then make it the newest, in order; up to 64 keys.

    Args:
        batches: int [batches, accesses], keys.
        newer: as in `LruState`.
        used: as in `LruState`.
        found_at: int64 [keys], the phase's row of ``hits``.
        accessed: int64 [1], the phase's ``accesses``.
        paper: whether the u-th distinct expert hits in caches of more than u slots.
        distinct: experts used so far.

    Returns:
        The new ``distinct``, or `TWICE` if a batch has a key twice.
    """
    row = newer[0]
    one = np.uint64(1)
    for number in range(len(batches)):
        batch = batches[number]
        bits, members = np.uint64(0), 0
        for key in batch:
            if key >= 0:
                members += 1
                if used[key]:
                    found_at[_ones(row[key])] += 1
                else:
                    if paper:
                        found_at[distinct] += 1
                    used[key] = 1
                    distinct += 1
                bits |= one << np.uint64(key)
        if _ones(bits) != members:
            return TWICE
        accessed[0] += members
        for key in range(len(row)):
            row[key] |= bits
        for key in batch:
            if key >= 0:
                bits &= ~(one << np.uint64(key))
                row[key] = bits  # those later in the batch are newer
    return distinct


@numba.njit(cache=True, nogil=True, inline="always")
def _bit(key, word):  # type: ignore[no-untyped-def]
    """Return the key's bit if it stands in this word, else 0."""
    return np.uint64(key >> 6 == word) << np.uint64(key & 63)


@numba.njit(cache=True, nogil=True)
def _four_words(batches, newer, used, found_at, accessed, paper, distinct):  # type: ignore[no-untyped-def]
    """Do the same for up to 256 keys; the four words are written out, a loop over them takes twice as long."""
    row0, row1, row2, row3 = newer[0], newer[1], newer[2], newer[3]
    for number in range(len(batches)):
        batch = batches[number]
        bits0, bits1, bits2, bits3 = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
        members = 0
        for key in batch:
            if key >= 0:
                members += 1
                if used[key]:
                    found_at[_ones(row0[key]) + _ones(row1[key]) + _ones(row2[key]) + _ones(row3[key])] += 1
                else:
                    if paper:
                        found_at[distinct] += 1
                    used[key] = 1
                    distinct += 1
                bits0 |= _bit(key, 0)
                bits1 |= _bit(key, 1)
                bits2 |= _bit(key, 2)
                bits3 |= _bit(key, 3)
        if _ones(bits0) + _ones(bits1) + _ones(bits2) + _ones(bits3) != members:
            return TWICE
        accessed[0] += members
        for key in range(len(row0)):
            row0[key] |= bits0
        for key in range(len(row1)):
            row1[key] |= bits1
        if bits2 | bits3:
            for key in range(len(row2)):
                row2[key] |= bits2
            for key in range(len(row3)):
                row3[key] |= bits3
        for key in batch:
            if key >= 0:
                bits0 &= ~_bit(key, 0)
                bits1 &= ~_bit(key, 1)
                bits2 &= ~_bit(key, 2)
                bits3 &= ~_bit(key, 3)
                row0[key] = bits0
                row1[key] = bits1
                row2[key] = bits2
                row3[key] = bits3
    return distinct


@numba.njit(cache=True, nogil=True)
def run_lru_bits(access, cold, experts, steps, stride, state):  # type: ignore[no-untyped-def]
    """Advance one pool of up to `BITS` keys over a block of tokens (arguments as `stack.run_stack`)."""
    newer, used, mark, counter, hits, accesses = (
        state.newer, state.used, state.mark, state.counter, state.hits, state.accesses,
    )  # fmt: skip
    words, num_keys = newer.shape
    layers = experts.shape[1]
    keys, places = np.empty(num_keys, np.int32), np.empty(num_keys, np.int64)
    distinct, batch_number = counter[0], counter[2]
    paper = access == PAPER
    layers_at_once = layers if paper else 1
    starts, requests, phases = steps.starts, steps.request, steps.phase
    num_steps, step = len(starts) - 1, 0
    while step < num_steps:
        if requests[step] != counter[3]:
            if cold and counter[3] >= 0:
                used[:] = 0
                distinct = 0
            counter[3] = requests[step]
        phase, low = phases[step], starts[step]
        found_at, accessed = hits[phase], accesses[phase : phase + 1]
        run = step  # steps of one token each: their ids are the batches, there is nothing to gather
        if layers == 1 and access != SEQUENTIAL:
            while (
                run < num_steps
                and starts[run + 1] - starts[run] == 1
                and phases[run] == phase
                and (not cold or requests[run] == counter[3])
            ):
                run += 1
        if run > step:
            batches = experts[low : starts[run], 0]
            if words == 1:
                distinct = _one_word(batches, newer, used, found_at, accessed, paper, distinct)
            else:
                distinct = _four_words(batches, newer, used, found_at, accessed, paper, distinct)
            if distinct == TWICE:
                counter[5] = 1
                return
            counter[3] = requests[run - 1]
            step = run
            continue
        for layer in range(0, layers, layers_at_once):
            batch_number += 1
            count = gather(
                experts, low, starts[step + 1], layer, layer + layers_at_once, stride, mark, batch_number, keys, places
            )
            if count == TWICE:
                counter[5] = 1
                return
            together = 1 if access == SEQUENTIAL else count  # accesses that are looked up before any is inserted
            if count:
                batches = keys[:count].reshape((count // together, together))
                if words == 1:
                    distinct = _one_word(batches, newer, used, found_at, accessed, paper, distinct)
                else:
                    distinct = _four_words(batches, newer, used, found_at, accessed, paper, distinct)
        step += 1
    counter[0], counter[2] = distinct, batch_number


@numba.njit(cache=True, nogil=True)
def _behind(line, group, time):  # type: ignore[no-untyped-def]
    """Count the marks after a place on the line."""
    word = time >> 6
    block = word // WORDS_PER_GROUP
    count = _ones(line[word] & ~(np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(63 - (time & 63))))
    for i in range(word + 1, (block + 1) * WORDS_PER_GROUP):
        count += _ones(line[i])
    for i in range(block + 1, len(group)):
        count += group[i]
    return count


@numba.njit(cache=True, nogil=True)
def _compact(line, group, time):  # type: ignore[no-untyped-def]
    """Move all marks to the start of the line, in their order; return the first free place."""
    order = np.argsort(time)
    line[:] = np.uint64(0)
    group[:] = 0
    free = 0
    for key in order:
        if time[key] >= 0:
            time[key] = free
            line[free >> 6] |= np.uint64(1) << np.uint64(free & 63)
            group[(free >> 6) // WORDS_PER_GROUP] += 1
            free += 1
    return free


@numba.njit(cache=True, nogil=True)
def run_lru_marks(access, cold, experts, steps, stride, state):  # type: ignore[no-untyped-def]
    """Advance one pool of any number of keys over a block of tokens (arguments as `stack.run_stack`)."""
    line, group, time, mark, counter, hits, accesses = (
        state.line, state.group, state.time, state.mark, state.counter, state.hits, state.accesses,
    )  # fmt: skip
    layers = experts.shape[1]
    keys, places = np.empty(len(time), np.int32), np.empty(len(time), np.int64)
    distinct, free, batch_number = counter[0], counter[1], counter[2]
    layers_at_once = layers if access == PAPER else 1
    for step in range(len(steps.starts) - 1):
        if steps.request[step] != counter[3]:
            if cold and counter[3] >= 0:
                time[:] = -1
                line[:] = np.uint64(0)
                group[:] = 0
                distinct = free = 0
            counter[3] = steps.request[step]
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
            together = 1 if access == SEQUENTIAL else count
            if free + count > len(line) * 64:
                free = _compact(line, group, time)
            for first in range(0, count, max(together, 1)):
                for i in range(first, first + together):
                    if time[keys[i]] >= 0:
                        found_at[_behind(line, group, time[keys[i]])] += 1
                    else:
                        if access == PAPER:
                            found_at[distinct] += 1
                        distinct += 1
                for i in range(first, first + together):
                    old = time[keys[i]]
                    if old >= 0:
                        line[old >> 6] &= ~(np.uint64(1) << np.uint64(old & 63))
                        group[(old >> 6) // WORDS_PER_GROUP] -= 1
                    time[keys[i]] = free
                    line[free >> 6] |= np.uint64(1) << np.uint64(free & 63)
                    group[(free >> 6) // WORDS_PER_GROUP] += 1
                    free += 1
    counter[0], counter[1], counter[2] = distinct, free, batch_number
