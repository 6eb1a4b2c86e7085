"""A co-resident batch of lru and pinned-lru in one go: what leaves with the batch it came with never joins the queue.

The order of use is known beforehand: first those that were there and are not used, the least recent first, then the
batch in its order. So the batch's residents are taken out, the least recent of the rest make room, and where all of
them have gone and the batch is still too large, its own first members leave.
"""

from __future__ import annotations

from lrcsim.simulator.compiled.queue_lists import FIRST, OUT, QUEUE, USED, append, oldest_free, take
from lrcsim.simulator.compiled.served import GONE, LOADS, tell_evicted
from lrcsim.simulator.compiled.uncounted import inner_njit


@inner_njit
def use_most_recent(capacity, first_key, cost, keys, low, high, node, missed, counter, served):  # type: ignore[no-untyped-def]  # fmt: skip
    """Serve the batch ``keys[low:high]``; return how many of it hit.

    Args:
        capacity: of the pool, slots or bytes; at least what is pinned.
        first_key: the pool's smallest key.
        cost: int64 [keys of the pool], slots (1) or bytes of each expert.
        keys: int32 [accesses].
        low: first access of the batch.
        high: access after its last.
        node: `QueueState.node`; pinned experts stand in its second queue, all others that are there in the first.
        missed: `QueueState.missed`.
        counter: `QueueState.counter`.
        served: `Served`, or None: nobody asks.
    """
    used, misses, members = counter[USED], 0, high - low
    for i in range(low, high):
        expert = keys[i] - first_key
        queue = node[QUEUE, expert]
        if queue == OUT:
            missed[misses] = expert
            misses += 1
            used += cost[expert]
        elif queue == FIRST:
            take(node, expert)
    while used > capacity:
        victim = oldest_free(node, FIRST)
        if victim < 0:
            break
        take(node, victim)
        used -= cost[victim]
        if served is not None:
            tell_evicted(served, victim + first_key)
    while used > capacity:
        expert = keys[low] - first_key
        low += 1
        if node[QUEUE, expert] == OUT:  # pinned ones stay
            used -= cost[expert]
            if served is not None:
                tell_evicted(served, expert + first_key)
    for i in range(low, high):
        if node[QUEUE, keys[i] - first_key] == OUT:
            append(node, FIRST, keys[i] - first_key)
    if served is not None:
        served.counter[LOADS] += misses
        for i in range(misses):
            served.counter[GONE] += node[QUEUE, missed[i]] == OUT
    counter[USED] = used
    return members - misses
