"""Compiled LIRS: what `lrcsim.policies.reuse.Lirs` does, on the lists of `queue_lists`.

``FIRST`` holds the resident HIR, ``SECOND`` the LIR by last use, ``GHOST`` the evicted HIR that are remembered. The
stack is a fourth list, through all three, in rows of its own.
"""

from __future__ import annotations

from lrcsim.simulator.compiled.queue_lists import (
    ABOVE,
    BELOW,
    CAME_FROM,
    FILLING,
    FIRST,
    GHOST,
    QUEUE,
    SECOND,
    USES,
    append,
    length,
    move,
    oldest,
    oldest_free,
    take,
)
from lrcsim.simulator.compiled.uncounted import inner_njit

IN_STACK = USES
"""Row that says whether an expert is in the stack: LIRS counts no uses."""


@inner_njit
def drop(node, expert):  # type: ignore[no-untyped-def]
    """Take an expert that is in the stack out of it."""
    above, below = node[ABOVE, expert], node[BELOW, expert]
    node[ABOVE, below] = above
    node[BELOW, above] = below
    node[IN_STACK, expert] = 0


@inner_njit
def prune(node):  # type: ignore[no-untyped-def]
    """Take from the bottom of the stack what is not LIR; ghosts among them are forgotten."""
    end = node.shape[1] - 1
    bottom = node[ABOVE, end]
    while bottom != end and node[QUEUE, bottom] != SECOND:
        drop(node, bottom)
        if node[QUEUE, bottom] == GHOST:
            take(node, bottom)
        bottom = node[ABOVE, end]


@inner_njit
def push(node, expert):  # type: ignore[no-untyped-def]
    """Put an expert on top of the stack."""
    if node[IN_STACK, expert]:
        drop(node, expert)
    end = node.shape[1] - 1
    top = node[BELOW, end]
    node[BELOW, expert] = top
    node[ABOVE, expert] = end
    node[ABOVE, top] = expert
    node[BELOW, end] = expert
    node[IN_STACK, expert] = 1
    prune(node)


@inner_njit
def promote(sizes, node, expert):  # type: ignore[no-untyped-def]
    """Make an expert that is in no queue LIR, and the least recent of too many HIR."""
    append(node, SECOND, expert)
    push(node, expert)
    while length(node, SECOND) > sizes.part:
        move(node, FIRST, oldest(node, SECOND))
        prune(node)


@inner_njit
def hit_lirs(sizes, node, expert):  # type: ignore[no-untyped-def]
    """Take note of a hit."""
    if node[QUEUE, expert] == FIRST and node[IN_STACK, expert]:
        take(node, expert)
        promote(sizes, node, expert)
    else:
        move(node, node[QUEUE, expert], expert)
        push(node, expert)


@inner_njit
def join_lirs(sizes, node, counter, expert):  # type: ignore[no-untyped-def]
    """Put a loaded expert into the queues."""
    if node[CAME_FROM, expert] == GHOST:
        promote(sizes, node, expert)
        return
    append(node, SECOND if counter[FILLING] and length(node, SECOND) < sizes.part else FIRST, expert)
    push(node, expert)


@inner_njit
def evict_lirs(sizes, node, counter):  # type: ignore[no-untyped-def]
    """Evict the oldest HIR, or the least recent LIR where the batch protects all HIR; the stack remembers it."""
    counter[FILLING] = 0
    expert = oldest_free(node, FIRST)
    if expert < 0:
        expert = oldest_free(node, SECOND)
    lir = node[QUEUE, expert] == SECOND
    take(node, expert)
    if lir:
        prune(node)
    if node[IN_STACK, expert]:
        append(node, GHOST, expert)
        if length(node, GHOST) > sizes.ghost:
            take(node, oldest(node, GHOST))  # what is no ghost means nothing in the stack, and goes with its bottom
    return expert
