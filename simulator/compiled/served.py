"""What becomes of every access of a compiled cache at one capacity: the part that tells, and that may not load all.

`run_scored` and `run_queues` take a `Served` where somebody wants to know more than the number of hits. They look a
co-resident batch up (its `flags`), let `choose` say which misses are loaded, and `pack` the batch without the others,
of which the policy does not hear (`Pool.coresident` with its ``admit``).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.simulator.compiled.uncounted import inner_njit, uncounted_njit

RESIDENT, LOADED, ELSEWHERE = range(3)
"""What `Served.flags` says of an access: a hit, a miss that was loaded, a miss that was not."""

LOADS, GONE, DROPPED, EVICTED = range(4)
"""Places in `Served.counter`."""


class Served(NamedTuple):
    """Which misses are loaded, and what became of all accesses of a block.

    Attributes:
        share: of the misses of a layer-step that is loaded, rounded to the nearest number: those that most tokens use,
            of equal ones the first.
        tokens: int64 [accesses], tokens of the step that use each; empty: one each.
        flags: uint8 [accesses], filled in: ``RESIDENT``, ``LOADED`` or ``ELSEWHERE``.
        counter: int64 [4], of the pool so far: loads; those of them that did not stay until the end of their batch;
            residents, not counting pinned ones, dropped because the request changed; experts written to ``evicted``.
        evicted: int32 [n], filled in with the keys of experts that left, in order, where somebody wants to know: room
            for all of the pool; else empty.
    """

    share: float
    tokens: npt.NDArray[np.int64]
    flags: npt.NDArray[np.uint8]
    counter: npt.NDArray[np.int64]
    evicted: npt.NDArray[np.int32]


NOBODY_ASKS: npt.NDArray[np.int32] = np.zeros(0, np.int32)
"""In place of `Served.evicted`."""


@inner_njit
def tell_evicted(served, key):  # type: ignore[no-untyped-def]
    """Write down that an expert left, where somebody wants to know."""
    if len(served.evicted):
        served.evicted[served.counter[EVICTED]] = key
        served.counter[EVICTED] += 1


@inner_njit
def choose(share, tokens, flags, low, high):  # type: ignore[no-untyped-def]
    """Mark as ``ELSEWHERE`` those of the misses ``low:high`` that are not loaded; return how many are.

    Args:
        share: as in `Served`.
        tokens: as in `Served`.
        flags: as in `Served`; on entry every miss is ``LOADED``.
        low: first access of the batch.
        high: access after its last.
    """
    misses = 0
    for i in range(low, high):
        misses += flags[i] == LOADED
    loads = int(share * misses + 0.5)
    if loads == misses:
        return loads
    left = loads
    for i in range(low, high):
        if flags[i] == LOADED:
            if left and not len(tokens):
                left -= 1
            else:
                flags[i] = ELSEWHERE
    for _ in range(left):
        most = -1
        for i in range(low, high):
            if flags[i] == ELSEWHERE and (most < 0 or tokens[i] > tokens[most]):
                most = i
        flags[most] = LOADED
    return loads


@inner_njit
def pack(column, flags, low, high):  # type: ignore[no-untyped-def]
    """Move what is not ``ELSEWHERE`` of ``column[low:high]`` to its front; return where that ends."""
    end = low
    for i in range(low, high):
        if flags[i] != ELSEWHERE:
            column[end] = column[i]
            end += 1
    return end


@uncounted_njit
def pass_through(batches, starts, served):  # type: ignore[no-untyped-def]
    """Serve some layer-steps from a pool that cannot hold a single expert.

    Args:
        batches: int64 [n], which layer-steps of the block concern the pool.
        starts: int64 [layer-steps + 1].
        served: `Served`.
    """
    share, tokens, flags, counter, _ = served
    for batch in batches:
        low, high = starts[batch], starts[batch + 1]
        flags[low:high] = LOADED
        loads = choose(share, tokens, flags, low, high)
        counter[LOADS] += loads
        counter[GONE] += loads
