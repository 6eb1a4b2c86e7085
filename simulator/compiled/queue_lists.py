"""A pool of a compiled queue policy: its experts in up to five queues, circular linked lists in one array."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.simulator.compiled.uncounted import inner_njit, uncounted_njit

OUT, FIRST, SECOND, THIRD, GHOST, GHOST2 = range(-1, 5)
"""Where an expert stands: in no queue, or in one of five, three of residents and two of ghosts."""

QUEUES = 5

NEWER, OLDER, QUEUE, USES, CAME_FROM, PROTECTED, ABOVE, BELOW = range(8)
"""Rows of `QueueState.node`; the last two only where a policy has a stack (`lrcsim.simulator.compiled.lirs`)."""

ROWS, ROWS_WITH_STACK = 6, 8

REQUEST, FREE_FOR, USED, HAND, FILLING, SEEN, SEED, SEED2 = range(8)
"""Places in `QueueState.counter`."""


class QueueSizes(NamedTuple):
    """The capacity of a pool and what the policy makes of it; 0 where a policy has no use for it.

    Attributes:
        capacity: slots, or bytes where experts differ in size; at least one expert fits.
        slots: about how many experts fit (`View.slots`), at least 1.
        part: most experts in the protected segment of slru and w-tinylfu, slots of s3-fifo's small queue, 2q's Kin,
            most LIR of lirs, or replacements in a pass of repin.
        ghost: most experts in the ghost queue of s3-fifo, 2q and lirs, or in w-tinylfu's window.
        threshold: uses in s3-fifo's small queue that earn a place in the main one, or in dali's window that protect, or
            between two halvings of w-tinylfu's counts; steps between two passes of repin.
        window: accesses that dali looks back on.
        seed: of random's draws, with ``seed2``.
    """

    capacity: int
    slots: int
    part: int = 0
    ghost: int = 0
    threshold: int = 0
    window: int = 0
    seed: int = 0
    seed2: int = 0


class QueueState(NamedTuple):
    """A pool between blocks; experts are the pool's keys, counted from its first.

    Attributes:
        node: int32 [6, keys + 5], a column per expert: the next newer and the next older in its queue, the queue
            (``OUT``: none), uses (since it joined, as far as the policy asks; dali: in the window; w-tinylfu: all, as
            counted; lirs: 1 in its stack, else 0; repin: the heat of all), the ghost queue it was in when it was loaded
            (or ``OUT``), and whether it must not be evicted now; with a stack two more rows, the next above and the
            next below in it.
            The last five columns are the ends of the queues: their next newer is the oldest expert (or the end
            itself), their next older the newest, their uses the length. The very last is the end of the stack too:
            above it is the bottom, below it the top. (A row per expert took a fifth longer.)
        missed: int32 [keys], the experts of a batch that are being loaded.
        known: bool [keys], used since the pool was last empty (the paper's rule).
        pinned: int32 [n], experts held for good.
        listed: int32 [n], the residents in the order of random's draws, the accesses in dali's window, or how often
            repin has loaded each expert.
        counter: int64 [8]: request (-1 at first), slots (or bytes) of the distinct experts known, of the residents,
            sieve's hand (what it looks at next) or which n steps repin is in, whether s3-fifo or lirs has never evicted
            or how many experts repin has loaded for this step, accesses seen by dali, counted by w-tinylfu or since
            repin's last pass, and the two seeds of random.
        target: float64 [1], arc's length of t1 to aim at.
        hits: int64 [2], by phase.
    """

    node: npt.NDArray[np.int32]
    missed: npt.NDArray[np.int32]
    known: npt.NDArray[np.bool_]
    pinned: npt.NDArray[np.int32]
    listed: npt.NDArray[np.int32]
    counter: npt.NDArray[np.int64]
    target: npt.NDArray[np.float64]
    hits: npt.NDArray[np.int64]

    @classmethod
    def new(
        cls,
        cost: npt.NDArray[np.int64],
        pinned: npt.NDArray[np.int32],
        listed: int = 0,
        seeds: tuple[int, int] = (0, 0),
        rows: int = ROWS,
    ) -> QueueState:
        """Make the state of a pool with nothing in it but what is pinned: 29 bytes per expert, 4 per place listed.

        Args:
            cost: int64 [keys], slots or bytes of each expert.
            pinned: experts held for good.
            listed: length of ``listed``.
            seeds: of random.
            rows: of ``node``: `ROWS`, or `ROWS_WITH_STACK` (8 bytes more per expert).
        """
        keys = len(cost)
        state = cls(
            np.zeros((rows, keys + QUEUES), np.int32),
            np.zeros(keys, np.int32),
            np.zeros(keys, np.bool_),
            pinned,
            np.zeros(listed, np.int32),
            np.array([-1, 0, 0, 0, 0, 0, *seeds], np.int64),
            np.zeros(1),
            np.zeros(2, np.int64),
        )
        empty(state.node, state.known, state.pinned, state.counter, state.target, cost)
        return state


@uncounted_njit
def empty(node, known, pinned, counter, target, cost):  # type: ignore[no-untyped-def]
    """Put everything out but the pinned and forget all, as between the requests of a cold cache; seeds stay."""
    node[:] = 0
    node[QUEUE] = OUT
    for end in range(node.shape[1] - QUEUES, node.shape[1]):
        node[NEWER, end] = node[OLDER, end] = end
    if node.shape[0] > ROWS:
        node[ABOVE, -1] = node[BELOW, -1] = node.shape[1] - 1
    known[:] = False
    counter[FREE_FOR : SEEN + 1] = 0
    counter[HAND] = node.shape[1] - QUEUES
    counter[FILLING] = 1
    target[0] = 0.0
    for expert in pinned:
        append(node, SECOND, expert)
        counter[USED] += cost[expert]


@inner_njit
def length(node, queue):  # type: ignore[no-untyped-def]
    """Return the number of experts in a queue."""
    return node[USES, node.shape[1] - QUEUES + queue]


@inner_njit
def is_in(node, expert):  # type: ignore[no-untyped-def]
    """Return whether an expert is resident."""
    return FIRST <= node[QUEUE, expert] <= THIRD


@inner_njit
def residents(node):  # type: ignore[no-untyped-def]
    """Return how many experts are resident, pinned ones included."""
    return length(node, FIRST) + length(node, SECOND) + length(node, THIRD)


@inner_njit
def oldest(node, queue):  # type: ignore[no-untyped-def]
    """Return the oldest expert of a queue that is not empty."""
    return node[NEWER, node.shape[1] - QUEUES + queue]


@inner_njit
def newest(node, queue):  # type: ignore[no-untyped-def]
    """Return the newest expert of a queue that is not empty."""
    return node[OLDER, node.shape[1] - QUEUES + queue]


@inner_njit
def oldest_free(node, queue):  # type: ignore[no-untyped-def]
    """Return the oldest expert of a queue that may be evicted, or -1."""
    experts = node.shape[1] - QUEUES
    expert = node[NEWER, experts + queue]
    while expert < experts and node[PROTECTED, expert]:
        expert = node[NEWER, expert]
    return expert if expert < experts else -1


@inner_njit
def append(node, queue, expert):  # type: ignore[no-untyped-def]
    """Put an expert that is in no queue at the new end of one."""
    end = node.shape[1] - QUEUES + queue
    newest = node[OLDER, end]
    node[OLDER, expert] = newest
    node[NEWER, expert] = end
    node[NEWER, newest] = expert
    node[OLDER, end] = expert
    node[USES, end] += 1
    node[QUEUE, expert] = queue


@inner_njit
def take(node, expert):  # type: ignore[no-untyped-def]
    """Take an expert out of its queue."""
    newer, older = node[NEWER, expert], node[OLDER, expert]
    node[NEWER, older] = newer
    node[OLDER, newer] = older
    node[USES, node.shape[1] - QUEUES + node[QUEUE, expert]] -= 1
    node[QUEUE, expert] = OUT


@inner_njit
def move(node, queue, expert):  # type: ignore[no-untyped-def]
    """Take an expert out of its queue and put it at the new end of one, the same or another."""
    take(node, expert)
    append(node, queue, expert)
