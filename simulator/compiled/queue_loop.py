"""Compiled queue policies: one pool at one capacity, in a compiled loop.

They do what the classes of the same name in `lrcsim.policies` do, which say where each comes from; tests hold the two
equal. `run_queues` drives: it looks a batch up, evicts (never for a member of the batch, unless the batch alone exceeds
the capacity), then lets the new experts join. What a policy does at each of these moments stands in `queue_rules`, by
families, and the loop is compiled for one family at a time: a run of lru does not wait for lirs. `loop_of` says which
loop runs a policy. The event loop, which takes any policy, has all families in one (`serve_any`).

The policies that order by last use move a whole batch to the new end once it has joined; lru serves a co-resident one
in one go (`queue_lru`). Those whose misses may bypass the cache let it join first, and evict without regard to it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from lrcsim.policies.kernels import Queue
from lrcsim.simulator.compiled.queue_lists import (
    CAME_FROM,
    FIRST,
    FREE_FOR,
    OUT,
    PROTECTED,
    QUEUE,
    REQUEST,
    USED,
    empty,
    is_in,
    move,
    residents,
)
from lrcsim.simulator.compiled.queue_lru import use_most_recent
from lrcsim.simulator.compiled.queue_rules import (
    DALI,
    LRU,
    MRU,
    REPIN,
    STATIC,
    evict_any,
    evict_counted,
    evict_ghosts,
    evict_marked,
    evict_plain,
    evict_reused,
    heard_any,
    heard_counted,
    heard_marked,
    hit_any,
    hit_counted,
    hit_ghosts,
    hit_marked,
    hit_reused,
    join_any,
    join_counted,
    join_ghosts,
    join_marked,
    join_plain,
    join_reused,
    miss_any,
    miss_ghosts,
    miss_plain,
    miss_reused,
)
from lrcsim.simulator.compiled.served import DROPPED, GONE, LOADED, LOADS, RESIDENT, choose, pack, tell_evicted
from lrcsim.simulator.compiled.stack_any import CORESIDENT, PAPER, SEQUENTIAL
from lrcsim.simulator.compiled.uncounted import filled, inlined_njit, uncounted_njit


class Family(NamedTuple):
    """What policies do that share a loop: functions of `queue_rules`; None: nothing.

    Attributes:
        heard: when an expert is used.
        hit: when it hits.
        miss: when it misses.
        join: when it is loaded.
        evict: when one must go.
        at_once: what serves a co-resident batch of lru, where that is of the family.
    """

    heard: Any
    hit: Any
    miss: Any
    join: Any
    evict: Any
    at_once: Any = None


heard, hit, miss, join, evict, at_once = Family(None, None, None, None, None)
"""Stand in the templates below for those of a family."""


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
    if at_once is not None and policy == LRU and access == CORESIDENT:
        return at_once(sizes.capacity, first_key, cost, keys, begin, end, node, missed, counter, served)
    by_last_use = policy in (LRU, DALI, MRU)
    join_first = policy in (LRU, STATIC, REPIN)  # for lru that changes nothing: the batch is the most recent
    found = 0
    misses = 0
    used = counter[USED]
    for i in range(begin, end):
        expert = keys[i] - first_key
        if heard is not None:
            heard(policy, sizes, node, listed, counter, expert)
        if is_in(node, expert):
            found += access != PAPER
            if hit is not None:
                hit(policy, sizes, node, expert)
        else:
            if served is not None and access == SEQUENTIAL:
                served.flags[i] = LOADED
            miss(policy, sizes, node, target, expert)
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
            victim = evict(policy, sizes, node, listed, counter, target, cause)
            used -= cost[victim]
            evicted += 1
            if served is not None:
                tell_evicted(served, victim + first_key)
        for i in range(begin, end):
            node[PROTECTED, keys[i] - first_key] = 0
    for i in range(misses):
        join(policy, sizes, node, listed, counter, missed[i])
    if by_last_use:
        for i in range(begin, end):
            if node[QUEUE, keys[i] - first_key] == FIRST:
                move(node, FIRST, keys[i] - first_key)
    while used > sizes.capacity:  # the rest had to wait until the batch had joined
        cause = node[CAME_FROM, missed[evicted]] if evicted < misses else OUT
        victim = evict(policy, sizes, node, listed, counter, target, cause)
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


def run_queues(policy, sizes, access, cold, first_key, cost, batches, keys, starts, request, phase, state, served):  # type: ignore[no-untyped-def]  # fmt: skip
    """Advance a pool over some layer-steps of a block.

    Args:
        policy: one of the numbers in `queue_rules`, of the family.
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
                    there = is_in(node, expert)
                else:
                    known[expert] = True
                    counter[FREE_FOR] += cost[expert]
                    there = counter[FREE_FOR] <= sizes.capacity
                found += there
                if served is not None:
                    served.flags[i] = RESIDENT if there else LOADED
        together = high - low if access == CORESIDENT else 1
        for begin in range(low, high, together):
            end = begin + together
            found += serve(  # type: ignore[no-untyped-call]  # stands for a compiled one
                *(policy, sizes, access, first_key, cost, keys, begin, end),
                *(node, missed, listed, counter, target, served),
            )
        hits[phase[batch]] += found


def _serving(name: str, family: Family) -> Any:
    """Return `serve`, compiled for a family; what calls it has it on disk."""
    return inlined_njit(filled(serve, f"serve_{name}", **family._asdict()))


def _loop(name: str, family: Family) -> Any:
    """Return `run_queues`, compiled for a family."""
    return uncounted_njit(filled(run_queues, f"run_{name}", serve=_serving(name, family)))


run_plain = _loop("plain", Family(None, None, miss_plain, join_plain, evict_plain, use_most_recent))
run_marked = _loop("marked", Family(heard_marked, hit_marked, miss_plain, join_marked, evict_marked))
run_ghosts = _loop("ghosts", Family(None, hit_ghosts, miss_ghosts, join_ghosts, evict_ghosts))
run_reused = _loop("reused", Family(None, hit_reused, miss_reused, join_reused, evict_reused))
run_counted = _loop("counted", Family(heard_counted, hit_counted, miss_plain, join_counted, evict_counted))
serve_any = _serving("any", Family(heard_any, hit_any, miss_any, join_any, evict_any, use_most_recent))


def loop_of(queue: Queue) -> Any:
    """Return the loop that runs a policy: arguments as those of `run_queues`."""
    if queue in (Queue.CLOCK, Queue.SIEVE, Queue.SLRU, Queue.DALI, Queue.RANDOM, Queue.MRU):
        return run_marked
    if queue in (Queue.S3_FIFO, Queue.ARC, Queue.TWO_Q):
        return run_ghosts
    return {Queue.LIRS: run_reused, Queue.W_TINYLFU: run_counted}.get(queue, run_plain)
