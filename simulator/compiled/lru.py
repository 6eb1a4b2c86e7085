"""Compiled LRU at every capacity: an access's place in the LRU stack is the number of experts used since its last use.

Three ways to count them. With up to 64 experts, as a set of bits for each expert, the experts used since it was
(`lru_bits`). With up to 3,072, as each expert's place (`lru_places`). With more, as a line of marks, one for each
expert at the time of its last use: a place is the number of marks behind its own. Runs of batches of up to 128 experts
go through registers where the CPU has what they need (`lru_registers`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from lrcsim.simulator.compiled import lru_bits, lru_places
from lrcsim.simulator.compiled.lru_bits import ALL_BITS, insert_in_sets, ones
from lrcsim.simulator.compiled.lru_places import insert_in_places
from lrcsim.simulator.compiled.lru_registers import run_places, run_sets
from lrcsim.simulator.compiled.stack_any import PAPER, SEQUENTIAL
from lrcsim.simulator.compiled.stack_decode import TWICE, gather

WORDS_PER_GROUP = 64

FOR_REGISTERS = 16
"""Batches in a row from which on it pays to bring the stack into registers and back."""


class LruState(NamedTuple):
    """The LRU stack of one pool between blocks.

    Attributes:
        held: uint64 [keys], the experts used since each one's last use (up to 64 keys), or uint8 or uint16 [keys], each
            one's place (up to 3,072 keys), else empty.
        line: uint64 [words of the line], a mark at each expert's last use (more keys than that).
        group: int64 [groups], marks in each `WORDS_PER_GROUP` words of the line.
        time: int64 [keys], each expert's place on the line, -1 when it has none.
        mark: int64 [keys], scratch of `gather`.
        counter: int64 [6]: distinct experts used (sets: only under `PAPER`), next place on the line, batches so far,
            request (-1 at first), experts used as `lru_places` counts them, 1 once the ids were found to be impossible.
        hits: int64 [2, keys] or, without a line, [2, keys rounded up to 64, + 1]: by phase, accesses found at each
            place of the stack, and at the end first uses.
        accesses: int64 [2], by phase.
    """

    held: npt.NDArray[np.uint64] | npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
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
        on_line = keys > lru_places.MOST_KEYS
        groups = -(-4 * keys // (64 * WORDS_PER_GROUP)) + 1 if on_line else 0
        held: npt.NDArray[Any] = np.arange(0 if on_line else keys, dtype=np.uint8 if keys <= 256 else np.uint16)
        if keys <= lru_bits.MOST_KEYS:
            held = np.full(keys, ALL_BITS)
        return cls(
            held,
            np.zeros(groups * WORDS_PER_GROUP, np.uint64),
            np.zeros(groups, np.int64),
            np.full(keys, -1, np.int64),
            np.full(keys, -1, np.int64),
            np.array([0, 0, 0, -1, 0, 0], np.int64),
            np.zeros((2, keys if on_line else -(-keys // 64) * 64 + 1), np.int64),
            np.zeros(2, np.int64),
        )


@numba.njit(cache=True, nogil=True)
def least_and_most(ids):  # type: ignore[no-untyped-def]
    """Return the least and the greatest id in one look, (0, 0) of none: numpy's two take a tenth of an LRU curve."""
    least, most = ids.dtype.type(0), ids.dtype.type(0)
    for i in range(np.uint64(len(ids))):
        least = min(least, ids[i])
        most = max(most, ids[i])
    return np.int64(least), np.int64(most)


@numba.njit(cache=True, nogil=True)
def _alike(steps, cold):  # type: ignore[no-untyped-def]
    """Say whether all steps of a block have one token, one phase and, if the pool is emptied between them, one request.

    A look at each step by itself takes a sixth of the whole call.
    """
    number, others = len(steps.phase), 0
    for phase in steps.phase:
        others += phase != steps.phase[0]
    one_request = not cold or steps.request[0] == steps.request[-1]
    return others == 0 and one_request and steps.starts[number] - steps.starts[0] == number


@numba.njit(cache=True, nogil=True)
def run_lru_stack(sets, members, apart, access, cold, experts, ids, complete, steps, stride, state, keys, places):  # type: ignore[no-untyped-def]
    """Advance one pool of up to `lru_places.MOST_KEYS` keys over a block of tokens.

    Args:
        sets: ``(1,)`` where ``state.held`` has sets of bits, ``()`` where it has places; a type, like the next two.
        members: as in `lru_registers.run_sets`, or ``()`` where these instructions are not to be used.
        apart: as in `lru_bits.insert_in_sets`, ``(1,)`` under access ``sequential`` and ``()`` else.
        access: as in `stack_any.run_stack`, like ``cold``, ``experts``, ``steps`` and ``stride``.
        cold: whether the pool is emptied when the request changes.
        experts: int [tokens, layers of the pool, k], -1 = not recorded.
        ids: the same memory, flat.
        complete: whether every position of ``experts`` was recorded.
        steps: `Steps`.
        stride: a key is layer * stride + expert.
        state: `LruState`, advanced in place.
        keys: [keys], scratch of the type of ``experts``.
        places: int64 [keys], scratch.
    """
    held, mark, counter, hits, accesses = state.held, state.mark, state.counter, state.hits, state.accesses
    layers, k, first_uses = experts.shape[1], experts.shape[2], hits.shape[1] - 1
    layers_at_once = layers if access == PAPER else 1
    starts, requests, phases = steps.starts, steps.request, steps.phase
    num_steps, step = len(starts) - 1, 0
    while step < num_steps:
        if requests[step] != counter[3]:
            if cold and counter[3] >= 0:
                counter[0] = counter[4] = 0
                if len(sets):
                    held[:] = ALL_BITS
            counter[3] = requests[step]
        phase, low = phases[step], starts[step]
        found_at = hits[phase]
        new = found_at[first_uses]
        run = step  # steps of one token each: their ids are the batches, there is nothing to gather
        if step == 0 and complete and layers == 1 and _alike(steps, cold):
            run = num_steps
        elif complete and layers == 1:
            while (
                run < num_steps
                and starts[run + 1] - starts[run] == 1
                and phases[run] == phase
                and (not cold or requests[run] == counter[3])
            ):
                run += 1
        good = True
        if run > step:
            accesses[phase] += (run - step) * k
            number, first = run - step, low * k
            if len(members) and number >= FOR_REGISTERS:
                if len(sets):
                    good = run_sets(members, ids, first, number, held, found_at)
                else:
                    counter[4], good = run_places(members, ids, first, number, held, counter[4], found_at)
            elif len(sets):
                good = insert_in_sets(apart, ids, first, k, number, held, found_at)
            else:
                counter[4], good = insert_in_places(apart, ids, first, k, number, held, counter[4], found_at)
            counter[3] = requests[run - 1]
            step = run
        else:
            for layer in range(0, layers, layers_at_once):
                counter[2] += 1
                count = gather(
                    experts, low, starts[step + 1], layer, layer + layers_at_once, stride, mark, counter[2], keys,
                    places,
                )  # fmt: skip
                if count == TWICE:
                    good = False
                elif count:
                    accesses[phase] += count
                    one, start = np.int64(1), np.int64(0)
                    if len(sets):
                        fine = insert_in_sets(apart, keys, start, count, one, held, found_at)
                    else:
                        counter[4], fine = insert_in_places(apart, keys, start, count, one, held, counter[4], found_at)
                    good = good and fine
            step += 1
        if not good:
            counter[5] = 1
            return
        if access == PAPER:  # the u-th distinct expert of a request hits in caches of more than u slots
            for _ in range(new, found_at[first_uses]):
                found_at[counter[0]] += 1
                counter[0] += 1


@numba.njit(cache=True, nogil=True)
def _behind(line, group, time):  # type: ignore[no-untyped-def]
    """Count the marks after a place on the line."""
    word = time >> 6
    block = word // WORDS_PER_GROUP
    count = ones(line[word] & ~(np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(63 - (time & 63))))
    for i in range(word + 1, (block + 1) * WORDS_PER_GROUP):
        count += ones(line[i])
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
