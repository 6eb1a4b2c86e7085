"""The caches of the compiled event loop: pools of queue policies, told one layer-step or one prefetch at a time.

Which experts hit and go is said by `queue_loop`, the same that counts hits without time; here it is told a batch
at a time, because what may be brought ahead depends on what is under way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.simulator.compiled.pools import QueuePool
from lrcsim.simulator.compiled.queue_lists import (
    PROTECTED,
    REQUEST,
    QueueSizes,
    QueueState,
    empty,
    is_in,
)
from lrcsim.simulator.compiled.queue_lists import residents as residents_of
from lrcsim.simulator.compiled.queue_loop import serve_any
from lrcsim.simulator.compiled.queue_rules import REPIN
from lrcsim.simulator.compiled.repin import heat_up, pin_anew
from lrcsim.simulator.compiled.served import DROPPED, EVICTED, LOADED, RESIDENT, Served
from lrcsim.simulator.compiled.stack_any import CORESIDENT
from lrcsim.simulator.compiled.uncounted import inner_loop_njit

Ints = npt.NDArray[np.int64]


class QueuePools(NamedTuple):
    """Pools of one queue policy; what `QueueState` has of one stands here of all, a row each.

    Attributes:
        policy: number of its loop (`Queue`).
        of_layer: int64 [L], the pool of each layer.
        first_key: int64 [pools], each pool's smallest key.
        cost: int64 [pools, keys], slots (1) or bytes of each expert.
        sizes: int64 [pools, 8], `QueueSizes`.
        node: as in `QueueState`, and so on.
        missed: likewise.
        known: likewise.
        pinned: likewise, in each row the first ``pins``.
        pins: int64 [pools].
        listed: likewise.
        counter: likewise.
        target: likewise.
        hits: likewise.
        served: int64 [pools, 4], `Served.counter`.
        protected: int64 [pools], slots or bytes of the residents that may not go for a prefetch; -1: it is not guarded.
        batch: int32 [keys], room for a batch.
        flags: uint8 [keys], likewise.
        evicted: int32 [keys], experts that left the pool last told of something.
        tokens: int64 [0], each expert is used by one token.
    """

    policy: int
    of_layer: Ints
    first_key: Ints
    cost: Ints
    sizes: Ints
    node: npt.NDArray[np.int32]
    missed: npt.NDArray[np.int32]
    known: npt.NDArray[np.bool_]
    pinned: npt.NDArray[np.int32]
    pins: Ints
    listed: npt.NDArray[np.int32]
    counter: Ints
    target: npt.NDArray[np.float64]
    hits: Ints
    served: Ints
    protected: Ints
    batch: npt.NDArray[np.int32]
    flags: npt.NDArray[np.uint8]
    evicted: npt.NDArray[np.int32]
    tokens: Ints


def queue_pools(pools: list[QueuePool], layers: list[tuple[int, ...]], counters: Ints) -> QueuePools:
    """Put pools together; they keep looking at their own parts.

    Args:
        pools: of one policy, all for as many keys.
        layers: of each pool.
        counters: int64 [pools, 4], `Served.counter`.
    """
    fixed = [pool.fixed for pool in pools]
    pins = np.array([len(pool.pinned) for pool in pools])
    pinned = np.zeros((len(pools), int(pins.max())), np.int32)
    for row, pool in zip(pinned, pools, strict=True):
        row[: len(pool.pinned)] = pool.pinned
        pool.state = pool.state._replace(pinned=row)
    stacked: Any = QueueState(*map(np.stack, zip(*(pool.state for pool in pools), strict=True)))
    for number, pool in enumerate(pools):
        own = QueueState(*(part[number] for part in stacked))
        pool.state = own._replace(pinned=own.pinned[: pins[number]])
        pool.hits, pool.pinned = pool.state.hits, pool.state.pinned
    keys = stacked.node.shape[2]
    return QueuePools(
        policy=fixed[0].policy,
        of_layer=np.repeat(np.arange(len(pools)), [len(one) for one in layers]),
        first_key=np.array([one.first_key for one in fixed]),
        cost=np.stack([one.cost for one in fixed]),
        sizes=np.array([one.sizes for one in fixed], np.int64),
        **stacked._asdict(),
        pins=pins,
        served=counters,
        protected=np.full(len(pools), -1),
        batch=np.zeros(keys, np.int32),
        flags=np.zeros(keys, np.uint8),
        evicted=np.zeros(keys, np.int32),
        tokens=np.zeros(0, np.int64),
    )


@inner_loop_njit
def is_resident(pools, pool, key):  # type: ignore[no-untyped-def]
    """Return whether an expert is in its pool."""
    return is_in(pools.node[pool], key - pools.first_key[pool])


@inner_loop_njit
def residents(pools, pool):  # type: ignore[no-untyped-def]
    """Return how many experts are in a pool."""
    return residents_of(pools.node[pool])


@inner_loop_njit
def residents_of_layer(pools, layer, stride):  # type: ignore[no-untyped-def]
    """Return how many experts of a layer are in its pool."""
    pool, count = pools.of_layer[layer], 0
    for key in range(layer * stride, (layer + 1) * stride):
        count += is_resident(pools, pool, key)
    return count


@inner_loop_njit
def empty_pools(pools, request):  # type: ignore[no-untyped-def]
    """Put everything out, as between the requests of a cold cache."""
    for pool in range(len(pools.first_key)):
        pools.served[pool, DROPPED] += residents(pools, pool) - pools.pins[pool]
        empty(
            pools.node[pool],
            pools.known[pool],
            pools.pinned[pool, : pools.pins[pool]],
            pools.counter[pool],
            pools.target[pool],
            pools.cost[pool],
        )
        pools.counter[pool, REQUEST] = request


@inner_loop_njit
def use(pools, pool, count):  # type: ignore[no-untyped-def]
    """Let a pool serve the batch ``pools.batch[:count]``; return how many experts left it, keys in ``pools.evicted``.

    All that miss are loaded. ``pools.flags`` says of each what became of it (`Served.flags`).
    """
    pools.served[pool, EVICTED] = 0
    node, first_key = pools.node[pool], pools.first_key[pool]
    for i in range(count):
        pools.flags[i] = RESIDENT if is_in(node, pools.batch[i] - first_key) else LOADED
    size = pools.sizes[pool]
    serve_any(
        pools.policy,
        QueueSizes(size[0], size[1], size[2], size[3], size[4], size[5], size[6], size[7]),
        CORESIDENT,
        first_key,
        pools.cost[pool],
        pools.batch,
        0,
        count,
        node,
        pools.missed[pool],
        pools.listed[pool],
        pools.counter[pool],
        pools.target[pool],
        Served(1.0, pools.tokens, pools.flags, pools.served[pool], pools.evicted),
    )
    return pools.served[pool, EVICTED]


@inner_loop_njit
def count_uses(pools, pool, keys):  # type: ignore[no-untyped-def]
    """Let repin hear of the experts of a layer-step, also of those that are not loaded (`Policy.elsewhere`)."""
    if pools.policy == REPIN:
        for key in keys:
            heat_up(pools.node[pool], pools.counter[pool], key - pools.first_key[pool])


@inner_loop_njit
def begin_step(pools, pool, number):  # type: ignore[no-untyped-def]
    """Let a pool of repin be pinned anew before a step; return how many left it, keys in ``pools.evicted``.

    What came stands in ``pools.missed[pool]``, numbers in the pool; ``FILLING`` of its counter says how many.
    """
    size = pools.sizes[pool]
    pools.served[pool, EVICTED] = 0
    pin_anew(
        QueueSizes(size[0], size[1], size[2], size[3], size[4], size[5], size[6], size[7]),
        pools.first_key[pool],
        pools.cost[pool],
        pools.node[pool],
        pools.missed[pool],
        pools.listed[pool],
        pools.counter[pool],
        Served(1.0, pools.tokens, pools.flags, pools.served[pool], pools.evicted),
        number,
    )
    return pools.served[pool, EVICTED]


@inner_loop_njit
def protect(pools, pool, key):  # type: ignore[no-untyped-def]
    """Keep an expert of a guarded pool, if it is resident, from going for a prefetch."""
    index = key - pools.first_key[pool]
    if is_resident(pools, pool, key) and not pools.node[pool, PROTECTED, index]:
        pools.node[pool, PROTECTED, index] = 1
        pools.protected[pool] += pools.cost[pool, index]


@inner_loop_njit
def guard(pools, pool, keys, flying, ring):  # type: ignore[no-untyped-def]
    """Protect what may not go for a prefetch: the running batch, and what is under way.

    Args:
        pools: the pools.
        pool: the one that is to take in a prefetch.
        keys: int32 [n], of the batch, if that is its; else empty.
        flying: `EventState.flying`.
        ring: of the pool, there.
    """
    pools.protected[pool] = 0
    for key in keys:
        protect(pools, pool, int(key))
    key = flying[0, ring]
    while key != ring:
        protect(pools, pool, key)
        key = flying[0, key]


@inner_loop_njit
def unguard(pools, pool, keys, flying, ring):  # type: ignore[no-untyped-def]
    """Undo `guard`."""
    pools.protected[pool] = -1
    first, marks = pools.first_key[pool], pools.node[pool, PROTECTED]
    for key in keys:
        marks[key - first] = 0
    key = flying[0, ring]
    while key != ring:
        marks[key - first] = 0
        key = flying[0, key]


@inner_loop_njit
def bring_ahead(pools, pool, key):  # type: ignore[no-untyped-def]
    """Take an expert into a guarded pool ahead of its use, and protect it (`Pool.prefetch`).

    Returns:
        How many experts left for it, keys in ``pools.evicted``; -1 where it would need the room of a protected one.
    """
    if pools.protected[pool] + pools.cost[pool, key - pools.first_key[pool]] > pools.sizes[pool, 0]:
        return -1
    pools.batch[0] = key
    gone = use(pools, pool, np.int64(1))  # for a 1 as such it would be compiled once more
    protect(pools, pool, key)
    return gone
