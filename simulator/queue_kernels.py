"""Compiled queue policies (clock, sieve, slru, s3-fifo, arc): one pool at one capacity, in a compiled loop.

They do what the classes of the same name in `lrcsim.policies` do, which say where each comes from; tests hold the two
equal. `run_queues` drives: it looks a batch up, evicts (never for a member of the batch, unless the batch alone exceeds
the capacity), then lets the new experts join. A policy is what it does on a hit (`_hit`) and a miss (`_miss`), where an
expert joins (`_join`), and how one is evicted (``_evict_...``).

Experts stand in up to four queues, two of residents and two of ghosts (evicted experts that are remembered), which are
circular linked lists in one array:

| queue      | clock, sieve | slru      | s3-fifo | arc |
|------------|--------------|-----------|---------|-----|
| ``FIRST``  | the queue    | probation | small   | t1  |
| ``SECOND`` |              | protected | main    | t2  |
| ``GHOST``  |              |           | ghost   | b1  |
| ``GHOST2`` |              |           |         | b2  |
"""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from lrcsim.simulator.stack import CORESIDENT, PAPER

__all__ = ["ARC", "CLOCK", "S3_FIFO", "SIEVE", "SLRU", "QueueSizes", "QueueState", "run_queues"]

CLOCK, SIEVE, SLRU, S3_FIFO, ARC = range(5)
"""The policies."""

OUT, FIRST, SECOND, GHOST, GHOST2 = range(-1, 4)
"""Where an expert stands: in no queue, or in one of four."""

QUEUES = 4

NEWER, OLDER, QUEUE, USES, CAME_FROM, PROTECTED = range(6)
"""Rows of `QueueState.node`."""

REQUEST, DISTINCT, HAND, FILLING = range(4)
"""Places in `QueueState.counter`."""

MOST_USES = 2**31 - 1


class QueueSizes(NamedTuple):
    """The capacity of a pool and what the policy makes of it; 0 where a policy has no use for it.

    Attributes:
        slots: capacity, at least 1.
        part: most experts in slru's protected segment, or slots of s3-fifo's small queue.
        ghost: most experts in s3-fifo's ghost queue.
        threshold: uses in s3-fifo's small queue that earn a place in the main one.
    """

    slots: int
    part: int = 0
    ghost: int = 0
    threshold: int = 0


class QueueState(NamedTuple):
    """A pool between blocks; experts are the pool's keys, counted from its first.

    Attributes:
        node: int32 [6, keys + 4], a column per expert: the next newer and the next older in its queue, the queue
            (``OUT``: none), uses since it joined (as far as the policy asks), the ghost queue it was in when it was
            loaded (or ``OUT``), and whether it must not be evicted now. The last four columns are the ends of the
            queues: their next newer is the oldest expert (or the end itself), their next older the newest, their uses
            the length. (A row per expert took a fifth longer.)
        missed: int32 [keys], the experts of a batch that are being loaded.
        known: bool [keys], used since the pool was last empty (the paper's rule).
        counter: int64 [4]: request (-1 at first), distinct experts known, sieve's hand (what it looks at next),
            whether s3-fifo has never evicted.
        target: float64 [1], arc's length of t1 to aim at.
        hits: int64 [2], by phase.
    """

    node: npt.NDArray[np.int32]
    missed: npt.NDArray[np.int32]
    known: npt.NDArray[np.bool_]
    counter: npt.NDArray[np.int64]
    target: npt.NDArray[np.float64]
    hits: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, keys: int) -> QueueState:
        """Make the state of a pool over ``keys`` experts, with nothing in it: 29 bytes each."""
        state = cls(
            np.zeros((6, keys + QUEUES), np.int32),
            np.zeros(keys, np.int32),
            np.zeros(keys, np.bool_),
            np.zeros(4, np.int64),
            np.zeros(1),
            np.zeros(2, np.int64),
        )
        _empty(state.node, state.known, state.counter, state.target)
        state.counter[REQUEST] = -1
        return state


@numba.njit(cache=True, nogil=True)
def _empty(node, known, counter, target):  # type: ignore[no-untyped-def]
    """Put everything out and forget all, as between the requests of a cold cache."""
    node[:] = 0
    node[QUEUE] = OUT
    for end in range(node.shape[1] - QUEUES, node.shape[1]):
        node[NEWER, end] = node[OLDER, end] = end
    known[:] = False
    counter[DISTINCT] = 0
    counter[HAND] = node.shape[1] - QUEUES
    counter[FILLING] = 1
    target[0] = 0.0


@numba.njit(cache=True, nogil=True)
def _length(node, queue):  # type: ignore[no-untyped-def]
    """Return the number of experts in a queue."""
    return node[USES, node.shape[1] - QUEUES + queue]


@numba.njit(cache=True, nogil=True)
def _oldest(node, queue):  # type: ignore[no-untyped-def]
    """Return the oldest expert of a queue that is not empty."""
    return node[NEWER, node.shape[1] - QUEUES + queue]


@numba.njit(cache=True, nogil=True)
def _oldest_free(node, queue):  # type: ignore[no-untyped-def]
    """Return the oldest expert of a queue that may be evicted, or -1."""
    experts = node.shape[1] - QUEUES
    expert = node[NEWER, experts + queue]
    while expert < experts and node[PROTECTED, expert]:
        expert = node[NEWER, expert]
    return expert if expert < experts else -1


@numba.njit(cache=True, nogil=True)
def _append(node, queue, expert):  # type: ignore[no-untyped-def]
    """Put an expert that is in no queue at the new end of one."""
    end = node.shape[1] - QUEUES + queue
    newest = node[OLDER, end]
    node[OLDER, expert] = newest
    node[NEWER, expert] = end
    node[NEWER, newest] = expert
    node[OLDER, end] = expert
    node[USES, end] += 1
    node[QUEUE, expert] = queue


@numba.njit(cache=True, nogil=True)
def _take(node, expert):  # type: ignore[no-untyped-def]
    """Take an expert out of its queue."""
    newer, older = node[NEWER, expert], node[OLDER, expert]
    node[NEWER, older] = newer
    node[OLDER, newer] = older
    node[USES, node.shape[1] - QUEUES + node[QUEUE, expert]] -= 1
    node[QUEUE, expert] = OUT


@numba.njit(cache=True, nogil=True)
def _move(node, queue, expert):  # type: ignore[no-untyped-def]
    """Take an expert out of its queue and put it at the new end of one, the same or another."""
    _take(node, expert)
    _append(node, queue, expert)


@numba.njit(cache=True, nogil=True)
def _hit(policy, sizes, node, expert):  # type: ignore[no-untyped-def]
    """Take note of a hit."""
    if policy == SLRU:
        _move(node, SECOND, expert)
        while _length(node, SECOND) > sizes.part:
            _move(node, FIRST, _oldest(node, SECOND))
    elif policy == ARC:
        _move(node, SECOND, expert)
    elif node[USES, expert] < MOST_USES:  # clock and sieve only ask whether there are any
        node[USES, expert] += 1


@numba.njit(cache=True, nogil=True)
def _miss(policy, sizes, node, target, expert):  # type: ignore[no-untyped-def]
    """Take a missed expert out of the ghost queue where it stands, if any; arc adapts its target."""
    queue = node[QUEUE, expert]
    node[CAME_FROM, expert] = queue
    if queue == OUT:
        return
    if policy == ARC:
        first, second = _length(node, GHOST), _length(node, GHOST2)
        if queue == GHOST:
            target[0] = min(target[0] + max(second / first, 1.0), float(sizes.slots))
        else:
            target[0] = max(target[0] - max(first / second, 1.0), 0.0)
    _take(node, expert)


@numba.njit(cache=True, nogil=True)
def _join(policy, sizes, node, counter, expert):  # type: ignore[no-untyped-def]
    """Put a loaded expert into the queues."""
    queue = FIRST if node[CAME_FROM, expert] == OUT else SECOND
    if policy == S3_FIFO and counter[FILLING] and _length(node, FIRST) >= sizes.part:
        queue = SECOND
    node[USES, expert] = 0
    _append(node, queue, expert)


@numba.njit(cache=True, nogil=True)
def _evict_clock(node):  # type: ignore[no-untyped-def]
    """Evict the oldest; protected and used experts go to the new end, the used ones once."""
    expert = _oldest(node, FIRST)
    while node[PROTECTED, expert] or node[USES, expert]:
        if not node[PROTECTED, expert]:
            node[USES, expert] = 0
        _move(node, FIRST, expert)
        expert = _oldest(node, FIRST)
    _take(node, expert)


@numba.njit(cache=True, nogil=True)
def _evict_sieve(node, counter):  # type: ignore[no-untyped-def]
    """Evict where the hand finds an expert unused since it last passed; past the newest it goes on at the oldest."""
    end = node.shape[1] - QUEUES  # of the one queue
    hand = counter[HAND]
    while hand == end or node[PROTECTED, hand] or node[USES, hand]:
        if hand != end and not node[PROTECTED, hand]:
            node[USES, hand] = 0
        hand = node[NEWER, hand]
    counter[HAND] = node[NEWER, hand]
    _take(node, hand)


@numba.njit(cache=True, nogil=True)
def _evict_slru(node):  # type: ignore[no-untyped-def]
    """Evict the oldest on probation, or the oldest protected by the policy if the batch protects all on probation."""
    expert = _oldest_free(node, FIRST)
    _take(node, expert if expert >= 0 else _oldest_free(node, SECOND))


@numba.njit(cache=True, nogil=True)
def _evict_s3_fifo(sizes, node, counter):  # type: ignore[no-untyped-def]
    """Evict from the small queue unless the main one is too long, moving over what was used often enough."""
    counter[FILLING] = 0
    expert = _oldest_free(node, FIRST)
    if _length(node, SECOND) > sizes.slots - sizes.part and _oldest_free(node, SECOND) >= 0:
        expert = -1
    while expert >= 0 and node[USES, expert] >= sizes.threshold:
        node[USES, expert] = 0
        _move(node, SECOND, expert)
        expert = _oldest_free(node, FIRST)
    if expert >= 0:
        _take(node, expert)
        if sizes.ghost:
            if _length(node, GHOST) >= sizes.ghost:
                _take(node, _oldest(node, GHOST))
            _append(node, GHOST, expert)
        return
    expert = _oldest_free(node, SECOND)
    while node[USES, expert]:
        node[USES, expert] = min(node[USES, expert], 3) - 1
        _move(node, SECOND, expert)
        expert = _oldest_free(node, SECOND)
    _take(node, expert)


@numba.njit(cache=True, nogil=True)
def _evict_arc(sizes, node, target, cause):  # type: ignore[no-untyped-def]
    """Evict from the list that is longer than its target; ``cause`` is where the miss that needs room was a ghost."""
    slots, t1 = sizes.slots, _length(node, FIRST)
    free1, free2 = _oldest_free(node, FIRST), _oldest_free(node, SECOND)
    if cause == OUT:
        ghosts1, ghosts2 = _length(node, GHOST), _length(node, GHOST2)
        if t1 + ghosts1 >= slots:
            if ghosts1:
                _take(node, _oldest(node, GHOST))
            elif free1 >= 0:  # not remembered
                _take(node, free1)
                return
        elif ghosts2 and t1 + _length(node, SECOND) + ghosts1 + ghosts2 >= 2 * slots:
            _take(node, _oldest(node, GHOST2))
    from_first = t1 > target[0] or (t1 == target[0] and cause == GHOST2)
    if (free1 if from_first else free2) < 0:
        from_first = not from_first
    _move(node, GHOST if from_first else GHOST2, free1 if from_first else free2)
    for ghost in (GHOST, GHOST2):
        if _length(node, ghost) > slots:
            _take(node, _oldest(node, ghost))


@numba.njit(cache=True, nogil=True)
def _evict(policy, sizes, node, counter, target, cause):  # type: ignore[no-untyped-def]
    """Evict one expert that is not protected."""
    if policy == CLOCK:
        _evict_clock(node)
    elif policy == SIEVE:
        _evict_sieve(node, counter)
    elif policy == SLRU:
        _evict_slru(node)
    elif policy == S3_FIFO:
        _evict_s3_fifo(sizes, node, counter)
    else:
        _evict_arc(sizes, node, target, cause)


@numba.njit(cache=True, nogil=True)
def run_queues(policy, sizes, access, cold, first_key, batches, keys, starts, request, phase, state):  # type: ignore[no-untyped-def]  # fmt: skip
    """Advance a pool over some layer-steps of a block.

    Args:
        policy: ``CLOCK``, ``SIEVE``, ``SLRU``, ``S3_FIFO`` or ``ARC``.
        sizes: `QueueSizes`.
        access: ``CORESIDENT``, ``SEQUENTIAL`` or ``PAPER``.
        cold: whether the pool is emptied when the request changes.
        first_key: the pool's smallest key.
        batches: int64 [n], which layer-steps of the block concern the pool.
        keys: int32 [accesses].
        starts: int64 [layer-steps + 1].
        request: int64 [layer-steps].
        phase: uint8 [layer-steps].
        state: `QueueState`, advanced in place.
    """
    node, missed, known, counter, target, hits = state
    for batch in batches:
        if request[batch] != counter[REQUEST]:
            if cold and counter[REQUEST] >= 0:
                _empty(node, known, counter, target)
            counter[REQUEST] = request[batch]
        low, high = starts[batch], starts[batch + 1]
        found = 0
        if access == PAPER:  # all are looked up first, and the first distinct experts are free
            for i in range(low, high):
                expert = keys[i] - first_key
                if known[expert]:
                    found += node[QUEUE, expert] == FIRST or node[QUEUE, expert] == SECOND
                else:
                    known[expert] = True
                    found += counter[DISTINCT] < sizes.slots
                    counter[DISTINCT] += 1
        together = high - low if access == CORESIDENT else 1
        for begin in range(low, high, together):
            end = begin + together
            misses = 0
            for i in range(begin, end):
                expert = keys[i] - first_key
                if node[QUEUE, expert] == FIRST or node[QUEUE, expert] == SECOND:
                    found += access != PAPER
                    _hit(policy, sizes, node, expert)
                else:
                    _miss(policy, sizes, node, target, expert)
                    missed[misses] = expert
                    misses += 1
            held = _length(node, FIRST) + _length(node, SECOND)
            excess = held + misses - sizes.slots
            before = min(excess, held + misses - together)  # the rest has to wait until the batch has joined
            if misses and before > 0:
                for i in range(begin, end):
                    node[PROTECTED, keys[i] - first_key] = 1
                for i in range(before):
                    _evict(policy, sizes, node, counter, target, node[CAME_FROM, missed[i]])
                for i in range(begin, end):
                    node[PROTECTED, keys[i] - first_key] = 0
            for i in range(misses):
                _join(policy, sizes, node, counter, missed[i])
            for i in range(max(before, 0), excess):
                _evict(policy, sizes, node, counter, target, node[CAME_FROM, missed[i]])
        hits[phase[batch]] += found
