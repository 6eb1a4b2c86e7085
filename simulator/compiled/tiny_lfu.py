"""Compiled W-TinyLFU: what `lrcsim.policies.admission.WTinyLfu` does, on the lists of `queue_lists`.

``FIRST`` is the window, ``SECOND`` probation, ``THIRD`` the protected segment; the row ``USES`` has the counts, which
outlive eviction.
"""

from __future__ import annotations

from lrcsim.policies.admission import MOST_USES
from lrcsim.simulator.compiled.queue_lists import (
    FIRST,
    QUEUE,
    QUEUES,
    SECOND,
    SEEN,
    THIRD,
    USES,
    append,
    length,
    move,
    oldest,
    oldest_free,
)
from lrcsim.simulator.compiled.uncounted import inner_njit


@inner_njit
def count_use(sizes, node, counter, expert):  # type: ignore[no-untyped-def]
    """Count a use; after every so many all counts are halved."""
    if node[USES, expert] < MOST_USES:
        node[USES, expert] += 1
    counter[SEEN] += 1
    if counter[SEEN] >= sizes.threshold:
        counter[SEEN] //= 2
        for other in range(node.shape[1] - QUEUES):  # the ends of the queues have their length there
            node[USES, other] //= 2


@inner_njit
def hit_tiny_lfu(sizes, node, expert):  # type: ignore[no-untyped-def]
    """Take note of a hit, which is counted already."""
    if node[QUEUE, expert] == FIRST:
        move(node, FIRST, expert)
        return
    move(node, THIRD, expert)
    while length(node, THIRD) > sizes.part:
        move(node, SECOND, oldest(node, THIRD))


@inner_njit
def join_tiny_lfu(sizes, node, expert):  # type: ignore[no-untyped-def]
    """Put a loaded expert into the window; what overflows it goes on probation while there is room."""
    append(node, FIRST, expert)
    room = sizes.slots - sizes.ghost - length(node, SECOND) - length(node, THIRD)
    while length(node, FIRST) > sizes.ghost and room > 0:
        move(node, SECOND, oldest(node, FIRST))
        room -= 1


@inner_njit
def choose_tiny_lfu(node):  # type: ignore[no-untyped-def]
    """Name the window's least recent or the main cache's, the one with fewer uses; the other is on probation then."""
    candidate, victim = oldest_free(node, FIRST), oldest_free(node, SECOND)
    if victim < 0:
        victim = oldest_free(node, THIRD)
    if candidate < 0:
        return victim
    if victim < 0 or node[USES, candidate] <= node[USES, victim]:
        return candidate
    move(node, SECOND, candidate)
    return victim
