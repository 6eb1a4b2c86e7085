"""What each compiled queue policy does on a use, a hit and a miss, where an expert joins, and how one is evicted.

Policies that do much alike are a *family* with functions of its own, for which `queue_loop` is compiled apart: plain,
marked, ghosts, reused (lirs), counted (w-tinylfu), and any, which is all of them.

| queue      | fifo, clock, sieve | slru      | s3-fifo | arc | lru, mru, pinned-lru, dali | static       | random    |
|------------|--------------------|-----------|---------|-----|----------------------------|--------------|-----------|
| ``FIRST``  | the queue          | probation | small   | t1  | by last use                | first misses | residents |
| ``SECOND`` |                    | protected | main    | t2  | pinned                     | pinned       |           |
| ``GHOST``  |                    |           | ghost   | b1  |                            |              |           |
| ``GHOST2`` |                    |           |         | b2  |                            |              |           |

2q has A1in, Am and A1out there; lirs and w-tinylfu have modules of their own, `lirs` and `tiny_lfu`. repin holds all in
``FIRST``, and what it changes between steps stands in `repin`.

Arguments, those that a function has no use for included, as `run_queues` and `QueueState` say: ``cause`` is where the
miss that needs room was a ghost.
"""

# ruff: noqa: ARG001  # the functions of all families have the same arguments

from __future__ import annotations

from lrcsim.policies.kernels import Queue
from lrcsim.simulator.compiled.lirs import drop, evict_lirs, hit_lirs, join_lirs
from lrcsim.simulator.compiled.queue_lists import (
    CAME_FROM,
    FILLING,
    FIRST,
    GHOST,
    GHOST2,
    HAND,
    NEWER,
    OLDER,
    OUT,
    PROTECTED,
    QUEUE,
    QUEUES,
    SECOND,
    SEED,
    SEED2,
    SEEN,
    USES,
    append,
    length,
    move,
    newest,
    oldest,
    oldest_free,
    take,
)
from lrcsim.simulator.compiled.tiny_lfu import choose_tiny_lfu, count_use, hit_tiny_lfu, join_tiny_lfu
from lrcsim.simulator.compiled.uncounted import inner_njit

CLOCK, SIEVE, SLRU, S3_FIFO, ARC, LRU, DALI, STATIC, RANDOM, FIFO, MRU, TWO_Q, LIRS, W_TINYLFU, REPIN = (
    queue.value for queue in Queue
)
"""The policies; `LRU` with experts pinned is pinned-lru."""

MOST_USES = 2**31 - 1


# lru, static, repin, fifo: one queue, and nothing kept but its order


@inner_njit
def miss_plain(policy, sizes, node, target, expert):  # type: ignore[no-untyped-def]
    """Take note that a missed expert comes from nowhere: there are no ghosts."""
    node[CAME_FROM, expert] = OUT


@inner_njit
def join_plain(policy, sizes, node, listed, counter, expert):  # type: ignore[no-untyped-def]
    """Put a loaded expert at the new end; its uses count from now on, but for repin, which counts them all."""
    if policy != REPIN:
        node[USES, expert] = 0
    append(node, FIRST, expert)


@inner_njit
def evict_plain(policy, sizes, node, listed, counter, target, cause):  # type: ignore[no-untyped-def]
    """Evict an expert that is not protected, and return it."""
    expert = newest(node, FIRST) if policy in (STATIC, REPIN) else oldest_free(node, FIRST)
    take(node, expert)
    return expert


# clock, sieve, slru, dali, random, mru: marks beside the queue, or a longer search


@inner_njit
def _look_back(sizes, node, listed, counter, expert):  # type: ignore[no-untyped-def]
    """Count a use in dali's window, which moves on."""
    place = counter[SEEN] % sizes.window
    if counter[SEEN] >= sizes.window:
        node[USES, listed[place]] -= 1
    listed[place] = expert
    node[USES, expert] += 1
    counter[SEEN] += 1


@inner_njit
def heard_marked(policy, sizes, node, listed, counter, expert):  # type: ignore[no-untyped-def]
    """Take note of a use, hit or miss."""
    if policy == DALI:
        _look_back(sizes, node, listed, counter, expert)


@inner_njit
def hit_marked(policy, sizes, node, expert):  # type: ignore[no-untyped-def]
    """Take note of a hit."""
    if policy == SLRU:
        move(node, SECOND, expert)
        while length(node, SECOND) > sizes.part:
            move(node, FIRST, oldest(node, SECOND))
    elif policy in (CLOCK, SIEVE) and node[USES, expert] < MOST_USES:  # they ask whether any
        node[USES, expert] += 1


@inner_njit
def join_marked(policy, sizes, node, listed, counter, expert):  # type: ignore[no-untyped-def]
    """Put a loaded expert at the new end."""
    if policy == RANDOM:
        listed[length(node, FIRST)] = expert
    elif policy != DALI:
        node[USES, expert] = 0
    append(node, FIRST, expert)


@inner_njit
def _choose_random(node, listed, counter):  # type: ignore[no-untyped-def]
    """Draw until an expert comes that is not protected; the last listed takes its place. See `Random.draw`."""
    size = length(node, FIRST)
    while True:
        counter[SEED] = counter[SEED] * 40014 % 2147483563
        counter[SEED2] = counter[SEED2] * 40692 % 2147483399
        place = (counter[SEED] - counter[SEED2]) % 2147483562 * size // 2147483562
        expert = listed[place]
        if not node[PROTECTED, expert]:
            break
    listed[place] = listed[size - 1]
    return expert


@inner_njit
def _choose_dali(sizes, node):  # type: ignore[no-untyped-def]
    """Name the least recent of those not used much of late; if there is none, the least recent."""
    expert, end = oldest(node, FIRST), node.shape[1] - QUEUES
    while expert < end and (node[PROTECTED, expert] or node[USES, expert] >= sizes.threshold):
        expert = node[NEWER, expert]
    return expert if expert < end else oldest_free(node, FIRST)


@inner_njit
def _choose_clock(node):  # type: ignore[no-untyped-def]
    """Name the oldest; protected and used experts go to the new end, the used ones once."""
    expert = oldest(node, FIRST)
    while node[PROTECTED, expert] or node[USES, expert]:
        if not node[PROTECTED, expert]:
            node[USES, expert] = 0
        move(node, FIRST, expert)
        expert = oldest(node, FIRST)
    return expert


@inner_njit
def _choose_sieve(node, counter):  # type: ignore[no-untyped-def]
    """Name where the hand finds an expert unused since it last passed; past the newest it goes on at the oldest."""
    end = node.shape[1] - QUEUES  # of the one queue
    hand = counter[HAND]
    while hand == end or node[PROTECTED, hand] or node[USES, hand]:
        if hand != end and not node[PROTECTED, hand]:
            node[USES, hand] = 0
        hand = node[NEWER, hand]
    counter[HAND] = node[NEWER, hand]
    return hand


@inner_njit
def _choose_mru(node):  # type: ignore[no-untyped-def]
    """Name the newest that is not protected."""
    expert = newest(node, FIRST)
    while node[PROTECTED, expert]:
        expert = node[OLDER, expert]
    return expert


@inner_njit
def _choose_slru(node):  # type: ignore[no-untyped-def]
    """Name the oldest on probation, or the oldest protected by the policy if the batch protects all on probation."""
    expert = oldest_free(node, FIRST)
    return expert if expert >= 0 else oldest_free(node, SECOND)


@inner_njit
def evict_marked(policy, sizes, node, listed, counter, target, cause):  # type: ignore[no-untyped-def]
    """Evict an expert that is not protected, and return it."""
    if policy == CLOCK:
        expert = _choose_clock(node)
    elif policy == SIEVE:
        expert = _choose_sieve(node, counter)
    elif policy == SLRU:
        expert = _choose_slru(node)
    elif policy == DALI:
        expert = _choose_dali(sizes, node)
    elif policy == MRU:
        expert = _choose_mru(node)
    else:
        expert = _choose_random(node, listed, counter)
    take(node, expert)
    return expert


# s3-fifo, arc, 2q: what left is remembered in ghost queues


@inner_njit
def hit_ghosts(policy, sizes, node, expert):  # type: ignore[no-untyped-def]
    """Take note of a hit."""
    if policy == ARC:
        move(node, SECOND, expert)
    elif policy == TWO_Q:
        if node[QUEUE, expert] == SECOND:
            move(node, SECOND, expert)
    elif node[USES, expert] < MOST_USES:
        node[USES, expert] += 1


@inner_njit
def miss_ghosts(policy, sizes, node, target, expert):  # type: ignore[no-untyped-def]
    """Take a missed expert out of the ghost queue where it stands, if any; arc adapts its target."""
    queue = node[QUEUE, expert]
    node[CAME_FROM, expert] = queue
    if queue == OUT:
        return
    if policy == ARC:
        first, second = length(node, GHOST), length(node, GHOST2)
        if queue == GHOST:
            target[0] = min(target[0] + max(second / first, 1.0), float(sizes.slots))
        else:
            target[0] = max(target[0] - max(first / second, 1.0), 0.0)
    take(node, expert)


@inner_njit
def join_ghosts(policy, sizes, node, listed, counter, expert):  # type: ignore[no-untyped-def]
    """Put a loaded expert into the first queue, or, where it was a ghost, into the main one."""
    queue = FIRST if node[CAME_FROM, expert] == OUT else SECOND
    if policy == S3_FIFO and counter[FILLING] and length(node, FIRST) >= sizes.part:
        queue = SECOND
    node[USES, expert] = 0
    append(node, queue, expert)


@inner_njit
def _evict_s3_fifo(sizes, node, counter):  # type: ignore[no-untyped-def]
    """Evict from the small queue unless the main one is too long, moving over what was used often enough."""
    counter[FILLING] = 0
    expert = oldest_free(node, FIRST)
    if length(node, SECOND) > sizes.slots - sizes.part and oldest_free(node, SECOND) >= 0:
        expert = -1
    while expert >= 0 and node[USES, expert] >= sizes.threshold:
        node[USES, expert] = 0
        move(node, SECOND, expert)
        expert = oldest_free(node, FIRST)
    if expert >= 0:
        take(node, expert)
        if sizes.ghost:
            if length(node, GHOST) >= sizes.ghost:
                take(node, oldest(node, GHOST))
            append(node, GHOST, expert)
        return expert
    expert = oldest_free(node, SECOND)
    while node[USES, expert]:
        node[USES, expert] = min(node[USES, expert], 3) - 1
        move(node, SECOND, expert)
        expert = oldest_free(node, SECOND)
    take(node, expert)
    return expert


@inner_njit
def _evict_2q(sizes, node):  # type: ignore[no-untyped-def]
    """Evict from A1in if it is too long, and remember it, else from Am; from the other where the batch protects all."""
    first, main = oldest_free(node, FIRST), oldest_free(node, SECOND)
    from_first = length(node, FIRST) > sizes.part
    if (first if from_first else main) < 0:
        from_first = not from_first
    if not from_first:
        take(node, main)
        return main
    move(node, GHOST, first)
    if length(node, GHOST) > sizes.ghost:
        take(node, oldest(node, GHOST))
    return first


@inner_njit
def _evict_arc(sizes, node, target, cause):  # type: ignore[no-untyped-def]
    """Evict from the list that is longer than its target; ``cause`` is where the miss that needs room was a ghost."""
    slots, t1 = sizes.slots, length(node, FIRST)
    free1, free2 = oldest_free(node, FIRST), oldest_free(node, SECOND)
    if cause == OUT:
        ghosts1, ghosts2 = length(node, GHOST), length(node, GHOST2)
        if t1 + ghosts1 >= slots:
            if ghosts1:
                take(node, oldest(node, GHOST))
            elif free1 >= 0:  # not remembered
                take(node, free1)
                return free1
        elif ghosts2 and t1 + length(node, SECOND) + ghosts1 + ghosts2 >= 2 * slots:
            take(node, oldest(node, GHOST2))
    from_first = t1 > target[0] or (t1 == target[0] and cause == GHOST2)
    if (free1 if from_first else free2) < 0:
        from_first = not from_first
    expert = free1 if from_first else free2
    move(node, GHOST if from_first else GHOST2, expert)
    for ghost in (GHOST, GHOST2):
        if length(node, ghost) > slots:
            take(node, oldest(node, ghost))
    return expert


@inner_njit
def evict_ghosts(policy, sizes, node, listed, counter, target, cause):  # type: ignore[no-untyped-def]
    """Evict an expert that is not protected, and return it."""
    if policy == S3_FIFO:
        return _evict_s3_fifo(sizes, node, counter)
    if policy == ARC:
        return _evict_arc(sizes, node, target, cause)
    return _evict_2q(sizes, node)


# lirs


@inner_njit
def hit_reused(policy, sizes, node, expert):  # type: ignore[no-untyped-def]
    """Take note of a hit."""
    hit_lirs(sizes, node, expert)


@inner_njit
def miss_reused(policy, sizes, node, target, expert):  # type: ignore[no-untyped-def]
    """Take a missed expert out of the ghost queue and the stack, if it stands there."""
    queue = node[QUEUE, expert]
    node[CAME_FROM, expert] = queue
    if queue != OUT:
        drop(node, expert)
        take(node, expert)


@inner_njit
def join_reused(policy, sizes, node, listed, counter, expert):  # type: ignore[no-untyped-def]
    """Put a loaded expert into the queues."""
    join_lirs(sizes, node, counter, expert)


@inner_njit
def evict_reused(policy, sizes, node, listed, counter, target, cause):  # type: ignore[no-untyped-def]
    """Evict an expert that is not protected, and return it."""
    return evict_lirs(sizes, node, counter)


# w-tinylfu


@inner_njit
def heard_counted(policy, sizes, node, listed, counter, expert):  # type: ignore[no-untyped-def]
    """Take note of a use, hit or miss."""
    count_use(sizes, node, counter, expert)


@inner_njit
def hit_counted(policy, sizes, node, expert):  # type: ignore[no-untyped-def]
    """Take note of a hit."""
    hit_tiny_lfu(sizes, node, expert)


@inner_njit
def join_counted(policy, sizes, node, listed, counter, expert):  # type: ignore[no-untyped-def]
    """Put a loaded expert into the window."""
    join_tiny_lfu(sizes, node, expert)


@inner_njit
def evict_counted(policy, sizes, node, listed, counter, target, cause):  # type: ignore[no-untyped-def]
    """Evict an expert that is not protected, and return it."""
    expert = choose_tiny_lfu(node)
    take(node, expert)
    return expert


# all of them, for a loop that takes any policy


@inner_njit
def heard_any(policy, sizes, node, listed, counter, expert):  # type: ignore[no-untyped-def]
    """Take note of a use, hit or miss."""
    if policy == DALI:
        heard_marked(policy, sizes, node, listed, counter, expert)
    elif policy == W_TINYLFU:
        heard_counted(policy, sizes, node, listed, counter, expert)


@inner_njit
def hit_any(policy, sizes, node, expert):  # type: ignore[no-untyped-def]
    """Take note of a hit."""
    if policy in (CLOCK, SIEVE, SLRU):
        hit_marked(policy, sizes, node, expert)
    elif policy in (S3_FIFO, ARC, TWO_Q):
        hit_ghosts(policy, sizes, node, expert)
    elif policy == LIRS:
        hit_reused(policy, sizes, node, expert)
    elif policy == W_TINYLFU:
        hit_counted(policy, sizes, node, expert)


@inner_njit
def miss_any(policy, sizes, node, target, expert):  # type: ignore[no-untyped-def]
    """Take a missed expert out of where it is remembered, if anywhere."""
    if policy == LIRS:
        miss_reused(policy, sizes, node, target, expert)
    else:
        miss_ghosts(policy, sizes, node, target, expert)


@inner_njit
def join_any(policy, sizes, node, listed, counter, expert):  # type: ignore[no-untyped-def]
    """Put a loaded expert into the queues."""
    if policy == LIRS:
        join_reused(policy, sizes, node, listed, counter, expert)
    elif policy == W_TINYLFU:
        join_counted(policy, sizes, node, listed, counter, expert)
    elif policy in (S3_FIFO, ARC, TWO_Q):
        join_ghosts(policy, sizes, node, listed, counter, expert)
    elif policy in (RANDOM, DALI):
        join_marked(policy, sizes, node, listed, counter, expert)
    else:
        join_plain(policy, sizes, node, listed, counter, expert)


@inner_njit
def evict_any(policy, sizes, node, listed, counter, target, cause):  # type: ignore[no-untyped-def]
    """Evict an expert that is not protected, and return it."""
    if policy in (S3_FIFO, ARC, TWO_Q):
        return evict_ghosts(policy, sizes, node, listed, counter, target, cause)
    if policy == LIRS:
        return evict_reused(policy, sizes, node, listed, counter, target, cause)
    if policy == W_TINYLFU:
        return evict_counted(policy, sizes, node, listed, counter, target, cause)
    if policy in (CLOCK, SIEVE, SLRU, DALI, RANDOM, MRU):
        return evict_marked(policy, sizes, node, listed, counter, target, cause)
    return evict_plain(policy, sizes, node, listed, counter, target, cause)
