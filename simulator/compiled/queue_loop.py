"""Compiled queue policies: one pool at one capacity, in a compiled loop.

They do what the classes of the same name in `lrcsim.policies` do, which say where each comes from; tests hold the two
equal. `run_queues` drives: it looks a batch up, evicts (never for a member of the batch, unless the batch alone exceeds
the capacity), then lets the new experts join. A policy is what it does on a hit (`_hit`) and a miss (`_miss`), where an
expert joins (`_join`), and how one is evicted (``_evict_...``, or ``_choose_...`` where no more is to be done).

| queue      | fifo, clock, sieve | slru      | s3-fifo | arc | lru, mru, pinned-lru, dali | static       | random    |
|------------|--------------------|-----------|---------|-----|----------------------------|--------------|-----------|
| ``FIRST``  | the queue          | probation | small   | t1  | by last use                | first misses | residents |
| ``SECOND`` |                    | protected | main    | t2  | pinned                     | pinned       |           |
| ``GHOST``  |                    |           | ghost   | b1  |                            |              |           |
| ``GHOST2`` |                    |           |         | b2  |                            |              |           |

2q has A1in, Am and A1out there; lirs and w-tinylfu have modules of their own, `lirs` and `tiny_lfu`. repin holds all in
``FIRST``, and what it changes between steps stands in `repin`.
The policies that order by last use move a whole batch to the new end once it has joined; lru serves a co-resident one
in one go (`queue_lru`). Those whose misses may bypass the cache let it join first, and evict without regard to it.
"""

from __future__ import annotations

from lrcsim.policies.kernels import Queue
from lrcsim.simulator.compiled.lirs import drop, evict_lirs, hit_lirs, join_lirs
from lrcsim.simulator.compiled.queue_lists import (
    CAME_FROM,
    FILLING,
    FIRST,
    FREE_FOR,
    GHOST,
    GHOST2,
    HAND,
    NEWER,
    OLDER,
    OUT,
    PROTECTED,
    QUEUE,
    QUEUES,
    REQUEST,
    SECOND,
    SEED,
    SEED2,
    SEEN,
    USED,
    USES,
    append,
    empty,
    is_in,
    length,
    move,
    newest,
    oldest,
    oldest_free,
    residents,
    take,
)
from lrcsim.simulator.compiled.queue_lru import use_most_recent
from lrcsim.simulator.compiled.served import DROPPED, GONE, LOADED, LOADS, RESIDENT, choose, pack, tell_evicted
from lrcsim.simulator.compiled.stack_any import CORESIDENT, PAPER, SEQUENTIAL
from lrcsim.simulator.compiled.tiny_lfu import choose_tiny_lfu, count_use, hit_tiny_lfu, join_tiny_lfu
from lrcsim.simulator.compiled.uncounted import inlined_njit, uncounted_njit

CLOCK, SIEVE, SLRU, S3_FIFO, ARC, LRU, DALI, STATIC, RANDOM, FIFO, MRU, TWO_Q, LIRS, W_TINYLFU, REPIN = (
    queue.value for queue in Queue
)
"""The policies; `LRU` with experts pinned is pinned-lru."""

MOST_USES = 2**31 - 1


@uncounted_njit
def _hit(policy, sizes, node, expert):  # type: ignore[no-untyped-def]
    """Take note of a hit."""
    if policy == SLRU:
        move(node, SECOND, expert)
        while length(node, SECOND) > sizes.part:
            move(node, FIRST, oldest(node, SECOND))
    elif policy == ARC:
        move(node, SECOND, expert)
    elif policy == TWO_Q:
        if node[QUEUE, expert] == SECOND:
            move(node, SECOND, expert)
    elif policy == LIRS:
        hit_lirs(sizes, node, expert)
    elif policy == W_TINYLFU:
        hit_tiny_lfu(sizes, node, expert)
    elif policy in (CLOCK, SIEVE, S3_FIFO) and node[USES, expert] < MOST_USES:  # clock and sieve ask whether any
        node[USES, expert] += 1


@uncounted_njit
def _miss(policy, sizes, node, target, expert):  # type: ignore[no-untyped-def]
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
    elif policy == LIRS:
        drop(node, expert)
    take(node, expert)


@uncounted_njit
def _join(policy, sizes, node, listed, counter, expert):  # type: ignore[no-untyped-def]
    """Put a loaded expert into the queues."""
    if policy == LIRS:
        join_lirs(sizes, node, counter, expert)
        return
    if policy == W_TINYLFU:
        join_tiny_lfu(sizes, node, expert)
        return
    queue = FIRST if node[CAME_FROM, expert] == OUT else SECOND
    if policy == S3_FIFO and counter[FILLING] and length(node, FIRST) >= sizes.part:
        queue = SECOND
    if policy == RANDOM:
        listed[length(node, FIRST)] = expert
    elif policy not in (DALI, REPIN):
        node[USES, expert] = 0
    append(node, queue, expert)


@uncounted_njit
def _look_back(sizes, node, listed, counter, expert):  # type: ignore[no-untyped-def]
    """Count a use in dali's window, which moves on."""
    place = counter[SEEN] % sizes.window
    if counter[SEEN] >= sizes.window:
        node[USES, listed[place]] -= 1
    listed[place] = expert
    node[USES, expert] += 1
    counter[SEEN] += 1


@uncounted_njit
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


@uncounted_njit
def _choose_dali(sizes, node):  # type: ignore[no-untyped-def]
    """Name the least recent of those not used much of late; if there is none, the least recent."""
    expert, end = oldest(node, FIRST), node.shape[1] - QUEUES
    while expert < end and (node[PROTECTED, expert] or node[USES, expert] >= sizes.threshold):
        expert = node[NEWER, expert]
    return expert if expert < end else oldest_free(node, FIRST)


@uncounted_njit
def _choose_clock(node):  # type: ignore[no-untyped-def]
    """Name the oldest; protected and used experts go to the new end, the used ones once."""
    expert = oldest(node, FIRST)
    while node[PROTECTED, expert] or node[USES, expert]:
        if not node[PROTECTED, expert]:
            node[USES, expert] = 0
        move(node, FIRST, expert)
        expert = oldest(node, FIRST)
    return expert


@uncounted_njit
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


@uncounted_njit
def _choose_mru(node):  # type: ignore[no-untyped-def]
    """Name the newest that is not protected."""
    expert = newest(node, FIRST)
    while node[PROTECTED, expert]:
        expert = node[OLDER, expert]
    return expert


@uncounted_njit
def _choose_slru(node):  # type: ignore[no-untyped-def]
    """Name the oldest on probation, or the oldest protected by the policy if the batch protects all on probation."""
    expert = oldest_free(node, FIRST)
    return expert if expert >= 0 else oldest_free(node, SECOND)


@uncounted_njit
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


@uncounted_njit
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


@uncounted_njit
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


@uncounted_njit
def _evict(policy, sizes, node, listed, counter, target, cause):  # type: ignore[no-untyped-def]
    """Evict one expert that is not protected, and return it."""
    if policy == S3_FIFO:
        return _evict_s3_fifo(sizes, node, counter)
    if policy == ARC:
        return _evict_arc(sizes, node, target, cause)
    if policy == TWO_Q:
        return _evict_2q(sizes, node)
    if policy == LIRS:
        return evict_lirs(sizes, node, counter)
    if policy == CLOCK:
        expert = _choose_clock(node)
    elif policy == SIEVE:
        expert = _choose_sieve(node, counter)
    elif policy == SLRU:
        expert = _choose_slru(node)
    elif policy == W_TINYLFU:
        expert = choose_tiny_lfu(node)
    elif policy == DALI:
        expert = _choose_dali(sizes, node)
    elif policy == RANDOM:
        expert = _choose_random(node, listed, counter)
    elif policy == FIFO:
        expert = oldest_free(node, FIRST)
    elif policy == MRU:
        expert = _choose_mru(node)
    else:
        expert = newest(node, FIRST) if policy in (STATIC, REPIN) else oldest_free(node, FIRST)
    take(node, expert)
    return expert


@inlined_njit
def serve(policy, sizes, access, first_key, cost, keys, begin, end, node, missed, listed, counter, target, served):  # type: ignore[no-untyped-def]  # fmt: skip
    """Serve a batch; return how many of it hit, but for ``PAPER``.

    Args:
        policy: as for `run_queues`, like those without a line here.
        sizes: likewise.
        access: likewise.
        first_key: likewise.
        cost: likewise.
        keys: likewise; the batch is ``keys[begin:end]``.
        begin: its first access.
        end: the access after its last.
        node: as in `QueueState`, and so on.
        missed: likewise.
        listed: likewise.
        counter: likewise.
        target: likewise.
        served: `Served`; None: nobody asks.
    """
    if policy == LRU and access == CORESIDENT:
        return use_most_recent(sizes.capacity, first_key, cost, keys, begin, end, node, missed, counter, served)
    by_last_use = policy in (LRU, DALI, MRU)
    join_first = policy in (LRU, STATIC, REPIN)  # for lru that changes nothing: the batch is the most recent
    found = 0
    misses = 0
    used = counter[USED]
    for i in range(begin, end):
        expert = keys[i] - first_key
        if policy == DALI:
            _look_back(sizes, node, listed, counter, expert)
        elif policy == W_TINYLFU:
            count_use(sizes, node, counter, expert)
        if is_in(node, expert):
            found += access != PAPER
            _hit(policy, sizes, node, expert)
        else:
            if served is not None and access == SEQUENTIAL:
                served.flags[i] = LOADED
            _miss(policy, sizes, node, target, expert)
            missed[misses] = expert
            misses += 1
            used += cost[expert]
    evicted = 0
    others = 0 if join_first else residents(node) - (end - begin - misses)
    if used > sizes.capacity and others > 0:
        for i in range(begin, end):
            node[PROTECTED, keys[i] - first_key] = 1
        while used > sizes.capacity and evicted < others:
            cause = node[CAME_FROM, missed[evicted]] if evicted < misses else OUT
            victim = _evict(policy, sizes, node, listed, counter, target, cause)
            used -= cost[victim]
            evicted += 1
            if served is not None:
                tell_evicted(served, victim + first_key)
        for i in range(begin, end):
            node[PROTECTED, keys[i] - first_key] = 0
    for i in range(misses):
        _join(policy, sizes, node, listed, counter, missed[i])
    if by_last_use:
        for i in range(begin, end):
            if node[QUEUE, keys[i] - first_key] == FIRST:
                move(node, FIRST, keys[i] - first_key)
    while used > sizes.capacity:  # the rest had to wait until the batch had joined
        cause = node[CAME_FROM, missed[evicted]] if evicted < misses else OUT
        victim = _evict(policy, sizes, node, listed, counter, target, cause)
        used -= cost[victim]
        evicted += 1
        if served is not None:
            tell_evicted(served, victim + first_key)
    if served is not None:
        served.counter[LOADS] += misses
        for i in range(misses):
            served.counter[GONE] += not is_in(node, missed[i])
    counter[USED] = used
    return found


@uncounted_njit
def run_queues(policy, sizes, access, cold, first_key, cost, batches, keys, starts, request, phase, state, served):  # type: ignore[no-untyped-def]  # fmt: skip
    """Advance a pool over some layer-steps of a block.

    Args:
        policy: one of the numbers above.
        sizes: `QueueSizes`.
        access: ``CORESIDENT``, ``SEQUENTIAL`` or ``PAPER``.
        cold: whether the pool is emptied when the request changes.
        first_key: the pool's smallest key.
        cost: int64 [keys of the pool], slots (1) or bytes of each expert.
        batches: int64 [n], which layer-steps of the block concern the pool.
        keys: int32 [accesses].
        starts: int64 [layer-steps + 1].
        request: int64 [layer-steps].
        phase: uint8 [layer-steps].
        state: `QueueState`, advanced in place.
        served: `Served`; ``keys`` is changed where not all misses are loaded, only with ``CORESIDENT``. None: all
            are, and nobody asks.
    """
    node, missed, known, pinned, listed, counter, target, hits = state
    for batch in batches:
        if request[batch] != counter[REQUEST]:
            if cold and counter[REQUEST] >= 0:
                if served is not None:
                    served.counter[DROPPED] += residents(node) - len(pinned)
                empty(node, known, pinned, counter, target, cost)
            counter[REQUEST] = request[batch]
        low, high = starts[batch], starts[batch + 1]
        found = 0
        if served is not None and access == CORESIDENT:
            for i in range(low, high):
                served.flags[i] = RESIDENT if is_in(node, keys[i] - first_key) else LOADED
            choose(served.share, served.tokens, served.flags, low, high)
            high = pack(keys, served.flags, low, high)
            if high == low:
                continue
        if access == PAPER:  # all are looked up first, and the first distinct experts are free
            for i in range(low, high):
                expert = keys[i] - first_key
                if known[expert]:
                    hit = is_in(node, expert)
                else:
                    known[expert] = True
                    counter[FREE_FOR] += cost[expert]
                    hit = counter[FREE_FOR] <= sizes.capacity
                found += hit
                if served is not None:
                    served.flags[i] = RESIDENT if hit else LOADED
        together = high - low if access == CORESIDENT else 1
        for begin in range(low, high, together):
            end = begin + together
            found += serve(
                *(policy, sizes, access, first_key, cost, keys, begin, end),
                *(node, missed, listed, counter, target, served),
            )
        hits[phase[batch]] += found
