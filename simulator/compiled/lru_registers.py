"""LRU of up to 128 experts with the stack itself in one or two AVX-512 registers, a byte for each place.

Why instructions that not every CPU has: a whole curve comes 2 times as fast as from `lru_bits` at 64 experts and 1.8
times as from `lru_places` at 128 (benchmarks/NOTES.md). Other CPUs keep to these.

All experts are in the stack from the start, the unused ones at the bottom: what is found there is a first use. The
instructions themselves are in `lru_turn`. Of 64 experts, long runs are cut into pieces that take turns: the stack at
the beginning of each follows from the last use of each expert before it, mostly found within a few batches.
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

PIECES = 3
"""Into which a long run is cut; two are a tenth slower, more are no faster."""

FOR_PIECES = 3_072
"""Batches in a row from which on cutting takes less time than it saves."""

GLANCE = 64
"""Batches that are looked at together: do they use any expert that was not met yet?"""


@numba.njit(cache=True, nogil=True)
def _from_sets(newer, stack):  # type: ignore[no-untyped-def]
    """Fill in a stack of 64 places from the sets of `lru_bits`; return how many experts were used."""
    depth = 0
    for key in range(len(newer)):
        place = ones(newer[key])
        if place < 64:
            stack[place] = key
            depth += 1
    at = depth
    for key in range(64):  # bytes that are no expert stand for none
        if key >= len(newer) or newer[key] == ALL_BITS:
            stack[at] = key
            at += 1
    return depth


@numba.njit(cache=True, nogil=True)
def _to_sets(stack, depth, newer):  # type: ignore[no-untyped-def]
    """Undo `_from_sets`."""
    above = NOTHING
    for place in range(depth):
        key = np.uint64(stack[place])
        newer[key] = above
        above |= ONE << key


@numba.njit(cache=True, nogil=True)
def _cut(keys, begin, end, before, depth, after):  # type: ignore[no-untyped-def]
    """Fill in the stack of 64 places at the end of a piece from that at its beginning.

    The experts used in it stand on top, the last one first, then the others as before: so it is looked through from
    its end until no expert is left to meet, `GLANCE` batches of eight at a time.

    Args:
        keys: int16 [n].
        begin: where the piece begins in ``keys``.
        end: where it ends.
        before: uint8 [64], the stack at its beginning.
        depth: the experts used before it.
        after: uint8 [64], filled in.

    Returns:
        How many experts were used before its end.
    """
    met, at = NOTHING, 0
    high = end
    while high > begin and at < 64:
        low = max(begin, high - 8 * GLANCE)
        here = NOTHING
        for i in range(np.uint64(low), np.uint64(high)):
            here |= ONE << np.uint64(keys[i])
        if here & ~met:
            for i in range(high - 1, low - 1, -1):
                bit = ONE << np.uint64(keys[i])
                if not met & bit:
                    met |= bit
                    after[at] = keys[i]
                    at += 1
        high = low
    used = at
    for place in range(64):
        if not met >> np.uint64(before[place]) & ONE:
            after[at] = before[place]
            at += 1
            used += place < depth
    return used


@numba.njit(cache=True, nogil=True)
def _run(members, streams, words, keys, firsts, number, stacks, used, found_at):  # type: ignore[no-untyped-def]
    """Run ``number`` batches of each stream, counting in int64; return 0 if no batch has a key twice."""
    found = np.zeros(stacks.shape, np.uint8)
    wrong, stride, hits = NOTHING, np.uint64(len(members)), 0
    for done in range(0, number, TURN):
        turn = np.uint64(min(TURN, number - done))
        wrong |= turn_of(members, streams, words, keys, firsts, stride, turn, stacks, used, found)
        for stream in range(len(firsts)):
            firsts[stream] += turn * stride
            for place in range(found.shape[1]):
                found_at[place] += found[stream, place]
                hits += found[stream, place]
        found[:] = 0
    found_at[found.shape[1]] += number * len(firsts) * len(members) - hits
    return wrong


@numba.njit(cache=True, nogil=True)
def _mark_used(depths, used):  # type: ignore[no-untyped-def]
    """Fill in uint64 [streams, words], a bit for each place above the depth."""
    for stream in range(len(depths)):
        for word in range(used.shape[1]):
            here = min(max(depths[stream] - 64 * word, 0), 64)
            used[stream, word] = ALL_BITS >> np.uint64(64 - here) if here else NOTHING


@numba.njit(cache=True, nogil=True)
def run_sets(members, keys, first, number, newer, found_at):  # type: ignore[no-untyped-def]
    """Do what `lru_bits.insert_in_sets` does for a run of batches, where `lru_turn.available`.

    Args:
        members: a tuple with as many entries as each batch has members, at most `MOST`.
        keys: int16 [n], contiguous; those looked at are at least 0 and below ``len(newer)``.
        first: where the first batch begins.
        number: batches.
        newer: the sets, changed in place.
        found_at: int64 [65], counts up.

    Returns:
        Whether no batch has a key twice; else the rest is meaningless.
    """
    pieces = PIECES if number >= FOR_PIECES else 1
    stacks, depths = np.empty((pieces, 64), np.uint8), np.zeros(pieces, np.int64)
    used = np.empty((pieces, 1), np.uint64)
    each = number // pieces
    firsts = np.empty(pieces, np.int64)  # filled one by one: an array expression takes 2 s more to compile
    for piece in range(pieces):
        firsts[piece] = first + piece * each * len(members)
    depths[0] = _from_sets(newer, stacks[0])
    for piece in range(1, pieces):
        before = stacks[piece - 1], depths[piece - 1]
        depths[piece] = _cut(keys, firsts[piece - 1], firsts[piece], *before, stacks[piece])
    _mark_used(depths, used)
    if pieces == 1:
        wrong = _run(members, (0,), (0,), keys, firsts, each, stacks, used, found_at)
    else:
        wrong = _run(members, (0, 0, 0), (0,), keys, firsts, each, stacks, used, found_at)
        rest = number - pieces * each  # fewer than pieces: they go on from the last
        wrong |= _run(members, (0,), (0,), keys, firsts[-1:], rest, stacks[-1:], used[-1:], found_at)
    _to_sets(stacks[-1], ones(used[-1, 0]), newer)
    return wrong == NOTHING


@numba.njit(cache=True, nogil=True)
def run_places(members, keys, first, number, places, depth, found_at):  # type: ignore[no-untyped-def]
    """Do what `lru_places.insert_in_places` does for a run of batches of up to 128 keys, where `lru_turn.available`.

    Args:
        members: as in `run_sets`, like ``keys``, ``first`` and ``number``.
        keys: those looked at are at least 0 and below ``len(places)``.
        first: where the first batch begins.
        number: batches.
        places: uint8 [keys], changed in place.
        depth: how many keys were used.
        found_at: int64 [129], counts up.

    Returns:
        As there.
    """
    stacks, used = np.empty((1, 128), np.uint8), np.empty((1, 2), np.uint64)
    for key in range(128):  # bytes that are no expert stand for none
        stacks[0, places[key] if key < len(places) else key] = key
    _mark_used(np.full(1, depth, np.int64), used)
    firsts = np.full(1, first, np.int64)
    wrong = _run(members, (0,), (0, 0), keys, firsts, number, stacks, used, found_at)
    for place in range(128):
        if stacks[0, place] < len(places):
            places[stacks[0, place]] = place
    return ones(used[0, 0]) + ones(used[0, 1]), wrong == NOTHING
