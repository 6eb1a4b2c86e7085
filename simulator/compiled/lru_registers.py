"""LRU of up to 128 experts with the stack itself in one or two AVX-512 registers, a byte for each place.

Why instructions that not every CPU has: a whole curve comes 1.7 times as fast as from `lru_bits` at 64 experts and 2.2
times at 128 (benchmarks/NOTES.md). Other CPUs keep to `lru_bits`.

All experts are in the stack from the start, the unused ones at the bottom: what is found there is a first use. The
instructions themselves are in `lru_turn`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from lrcsim.simulator.compiled.lru_bits import ALL_BITS, NOTHING, ONE, ones
from lrcsim.simulator.compiled.lru_turn import lru_turn

turn_of: Any = lru_turn  # compiled: type checkers do not know its arguments

MOST = 16
"""Members of a batch up to which it is used; each number is compiled apart."""

TURN = 255
"""Batches after which the counters, bytes, are added to the hits."""


@numba.njit(cache=True, nogil=True)
def _stack_of(words, newer, stack):  # type: ignore[no-untyped-def]
    """Fill in the stack from the sets of `lru_bits`; return the experts used."""
    unused, depth = 64 * len(words), 0
    for key in range(len(newer)):
        place = ones(newer[key]) if len(words) == 1 else ones(newer[key, 0]) + ones(newer[key, 1])
        if place < unused:
            stack[place] = key
            depth += 1
    at = depth
    for key in range(unused):  # bytes that are no expert stand for none
        known = False
        if key < len(newer):
            known = (newer[key] if len(words) == 1 else newer[key, 0] & newer[key, 1]) != ALL_BITS
        if not known:
            stack[at] = key
            at += 1
    return depth


@numba.njit(cache=True, nogil=True)
def _sets_of(words, stack, depth, newer):  # type: ignore[no-untyped-def]
    """Undo `_stack_of`."""
    low, high = NOTHING, NOTHING
    for place in range(depth):
        key = np.uint64(stack[place])
        if len(words) == 1:
            newer[key] = low
        else:
            newer[key, 0] = low
            newer[key, 1] = high
        bit = ONE << (key & np.uint64(63))
        low |= bit if key < np.uint64(64) else NOTHING
        high |= NOTHING if key < np.uint64(64) else bit


@numba.njit(cache=True, nogil=True)
def _filled(depth, word):  # type: ignore[no-untyped-def]
    """Return the bits of the places of a word that are above ``depth``."""
    here = min(max(depth - 64 * word, 0), 64)
    return ALL_BITS >> np.uint64(64 - here) if here else NOTHING


@numba.njit(cache=True, nogil=True)
def insert_in_registers(words, members, keys, first, number, newer, found_at):  # type: ignore[no-untyped-def]
    """Do what `lru_bits.insert_batches` does, for one word or two, where `available`.

    Args:
        words: as there.
        members: a tuple with as many entries as each batch has members, at most `MOST`.
        keys: int16 [n], contiguous; those looked at are at least 0 and below ``len(newer)``.
        first: as there, like ``number``, ``newer`` and ``found_at``.
        number: batches.
        newer: the sets, changed in place.
        found_at: int64 [64 * words + 1], counts up.

    Returns:
        Whether no batch has a key twice; else the rest is meaningless.
    """
    places = 64 * len(words)
    stack, found = np.empty(places, np.uint8), np.zeros(places, np.uint8)
    depth = _stack_of(words, newer, stack)
    used = (_filled(depth, 0),) if len(words) == 1 else (_filled(depth, 0), _filled(depth, 1))
    wrong, at, hits = NOTHING, np.uint64(first), 0
    for done in range(0, number, TURN):
        turn = np.uint64(min(TURN, number - done))
        told = turn_of(members, keys, at, turn, stack, used, found)
        used = told[:-1]
        wrong |= told[-1]
        at += turn * np.uint64(len(members))
        for place in range(places):
            found_at[place] += found[place]
            hits += found[place]
        found[:] = 0
    found_at[places] += number * len(members) - hits
    depth = 0
    for word in used:
        depth += ones(word)
    _sets_of(words, stack, depth, newer)
    return wrong == NOTHING
