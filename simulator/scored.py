"""Compiled score policies: "evict the expert of least worth" for one pool at one capacity, in a compiled loop.

`run_scored` is compiled once and kept on disk. What a policy's class says (`CompiledScore`) becomes two small compiled
functions, made anew in every process (half a second of CPU; compiling the loop with them took four times as long), that
the loop calls by their address, once per batch and not per expert: the worths of many experts, and their new values.

The residents stand in an array: a heap by worth where worths are taken at use (``at_use``), in any order where they are
taken when room is needed. A batch is *taken out* of that array, used, and *put back* after the evictions, so that none
of it is evicted for another; only if it alone exceeds the capacity do more go once it is back. Where misses may bypass
the cache it is put back first. Under sequential access, and when inserting under the paper's rule, a batch is one
expert.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from lrcsim.policies.base import NEVER
from lrcsim.policies.compiled import CompiledScore, Expert, Now
from lrcsim.simulator.stack import CORESIDENT, PAPER

__all__ = ["ScoredState", "compile_policy", "run_scored"]

FIRST_STEP, LAST_STEP, LOADED_STEP, LOAD_ORDER, USES, USES_RESIDENT, NEXT_USE = range(7)
"""Rows of `ScoredState.whole`; the meaning is that of `Expert`."""

WEIGHT, WEIGHT_SUM, VALUE = range(3)
"""Rows of `ScoredState.real`."""

SIZE, REQUEST, LOADS, ACCESSES, DISTINCT = range(5)
"""Places in `ScoredState.counter`."""


class ScoredState(NamedTuple):
    """A pool between blocks; columns are the pool's keys, counted from its first.

    Attributes:
        whole: int64 [7, keys], what is known of each expert, in whole numbers.
        real: float64 [3, keys], the same in real numbers.
        worth: float64 [keys], of residents, as last taken.
        order: int64 [keys], `Expert.use_order`.
        resident: int32 [keys], the first ``counter[SIZE]`` are the keys of the residents.
        place: int32 [keys], where an expert stands in ``resident``, -1 if it does not.
        known: bool [keys], used since the pool was last empty (the paper's rule).
        scratch: float64 [keys].
        counter: int64 [5]: residents, request (-1 at first), loads, accesses, distinct experts known.
        hits: int64 [2], by phase.
    """

    whole: npt.NDArray[np.int64]
    real: npt.NDArray[np.float64]
    worth: npt.NDArray[np.float64]
    order: npt.NDArray[np.int64]
    resident: npt.NDArray[np.int32]
    place: npt.NDArray[np.int32]
    known: npt.NDArray[np.bool_]
    scratch: npt.NDArray[np.float64]
    counter: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, keys: int) -> ScoredState:
        """Make the state of a pool over ``keys`` experts, with nothing in it: about 120 bytes each."""
        return cls(
            np.zeros((7, keys), np.int64),
            np.zeros((3, keys)),
            np.zeros(keys),
            np.zeros(keys, np.int64),
            np.zeros(keys, np.int32),
            np.full(keys, -1, np.int32),
            np.zeros(keys, np.bool_),
            np.zeros(keys),
            np.array([0, -1, 0, 0, 0], np.int64),
            np.zeros(2, np.int64),
        )


Compiled = Callable[..., int]
"""``f(whole, real, order, keys, begin, end, first_key, stride, weights, now, out)``: fills out[0:end - begin] with the
worths, or the new values, of the experts keys[begin:end], and returns 0, or 1 where the policy's function failed."""


@numba.njit(cache=True, nogil=True)
def _expert(whole, real, order, index, layer):  # type: ignore[no-untyped-def]
    """Gather what is known of an expert. What the policy does not look at, the compiler leaves out."""
    uses = whole[USES, index]
    return Expert(
        layer,
        whole[FIRST_STEP, index],
        whole[LAST_STEP, index],
        whole[LOADED_STEP, index],
        whole[LOAD_ORDER, index],
        order[index],
        uses,
        whole[USES_RESIDENT, index],
        real[WEIGHT, index],
        real[WEIGHT_SUM, index] / max(uses, 1),
        whole[NEXT_USE, index],
        real[VALUE, index],
    )


def compile_policy(policy: CompiledScore) -> tuple[Compiled, Compiled | None]:
    """Compile a policy with its parameters: its worths, and its new values if it has an ``update``.

    Raises:
        numba.core.errors.NumbaError: numba cannot compile it.
    """
    update = type(policy).update if policy.updates() else None
    return _compile(type(policy).worth, update, policy.values())


@lru_cache(maxsize=256)
def _compile(
    worth: Callable[..., float], update: Callable[..., float] | None, parameters: tuple[int | float, ...]
) -> tuple[Compiled, Compiled | None]:
    worth_of = numba.njit(worth)

    def worths(whole, real, order, keys, begin, end, first_key, stride, _, now, out):  # type: ignore[no-untyped-def]
        for i in range(begin, end):
            expert = _expert(whole, real, order, keys[i] - first_key, keys[i] // stride)
            out[i - begin] = worth_of(expert, now, *parameters)

    if update is None:
        return _by_address(worths), None
    value_of = numba.njit(update)

    def values(whole, real, order, keys, begin, end, first_key, stride, weights, now, out):  # type: ignore[no-untyped-def]
        for i in range(begin, end):
            expert = _expert(whole, real, order, keys[i] - first_key, keys[i] // stride)
            weight = float(weights[i]) if len(weights) else 0.0
            out[i - begin] = value_of(expert, now, weight, *parameters)

    return _by_address(worths), _by_address(values)


def _by_address(function: Callable[..., None]) -> Compiled:
    """Compile to a function that the cached loop can call; errors do not cross such a call, so they become a 1."""
    compiled_function = numba.njit(function)

    def guarded(whole, real, order, keys, begin, end, first_key, stride, weights, now, out):  # type: ignore[no-untyped-def]
        try:
            compiled_function(whole, real, order, keys, begin, end, first_key, stride, weights, now, out)
        except Exception:
            return 1
        return 0

    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]  # set when numba is imported
        return guarded
    state, none = ScoredState.empty(1), np.zeros(0, np.float32)
    arrays, moment = (state.whole, state.real, state.order, state.resident), Now(0, 0, 0, 0, 0, 0)
    example: tuple[Any, ...] = (*arrays, 0, 0, 0, 0, none, moment, state.scratch)
    type_of: Any = numba.typeof
    signature = numba.types.int64(*(type_of(value) for value in example))
    compiled: Compiled = numba.cfunc(signature)(guarded)
    return compiled


@numba.njit(cache=True, nogil=True)
def _before(worth, order, a, b):  # type: ignore[no-untyped-def]
    """Whether expert ``a`` goes before expert ``b``: less worth, or the same and used longer ago."""
    return worth[a] < worth[b] or (worth[a] == worth[b] and order[a] < order[b])


@numba.njit(cache=True, nogil=True)
def _settle(worth, order, resident, place, first_key, size, at):  # type: ignore[no-untyped-def]
    """Restore the heap of ``size`` residents after the one at ``at`` changed."""
    key = resident[at]
    while at > 0:
        parent = resident[(at - 1) // 2]
        if not _before(worth, order, key - first_key, parent - first_key):
            break
        resident[at] = parent
        place[parent - first_key] = at
        at = (at - 1) // 2
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and _before(worth, order, resident[child + 1] - first_key, resident[child] - first_key):
            child += 1
        if not _before(worth, order, resident[child] - first_key, key - first_key):
            break
        resident[at] = resident[child]
        place[resident[at] - first_key] = at
        at = child
    resident[at] = key
    place[key - first_key] = at


@numba.njit(cache=True, nogil=True)
def _take_out(worth, order, resident, place, first_key, size, key, heap):  # type: ignore[no-untyped-def]
    """Remove one of ``size`` residents from the array."""
    last, at = resident[size - 1], place[key - first_key]
    place[key - first_key] = -1
    if last != key:
        resident[at] = last
        place[last - first_key] = at
        if heap:
            _settle(worth, order, resident, place, first_key, size - 1, at)


@numba.njit(cache=True, nogil=True)
def _least(worth, order, resident, first_key, size):  # type: ignore[no-untyped-def]
    """Return the resident that goes first, where they stand in any order."""
    least = resident[0]
    for i in range(1, size):
        if _before(worth, order, resident[i] - first_key, least - first_key):
            least = resident[i]
    return least


@numba.njit(cache=True, nogil=True)
def _empty(state):  # type: ignore[no-untyped-def]
    """Put everything out and forget all, as between the requests of a cold cache."""
    state.whole[:] = 0
    state.real[:] = 0
    state.order[:] = 0
    state.place[:] = -1
    state.known[:] = False
    state.counter[:] = 0


@numba.njit(cache=True, nogil=True)
def run_scored(worths, values, update, at_use, heap, bypass, access, cold, slots, stride, num_layers, first_key, batches, keys, starts, step, request, phase, weights, next_use, state):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Advance a pool over some layer-steps of a block.

    Args:
        worths: the policy's worths, from `compile_policy`.
        values: its new values; anything of that type where there are none.
        update: whether there are.
        at_use: whether worths are taken at use.
        heap: whether the residents are kept as a heap, only with ``at_use``.
        bypass: whether misses may bypass the cache.
        access: ``CORESIDENT``, ``SEQUENTIAL`` or ``PAPER``.
        cold: whether the pool is emptied when the request changes.
        slots: its capacity, at least 1.
        stride: E: the layer of a key is key // E.
        num_layers: L.
        first_key: the pool's smallest key.
        batches: int64 [n], which layer-steps of the block concern the pool.
        keys: int32 [accesses].
        starts: int64 [layer-steps + 1].
        step: int64 [layer-steps].
        request: int64 [layer-steps].
        phase: uint8 [layer-steps].
        weights: float32 [accesses], or empty.
        next_use: int64 [accesses], or empty.
        state: `ScoredState`, advanced in place.

    Returns:
        -1, or the step at which the policy failed.
    """
    whole, real, worth, order, resident, place, known, scratch, counter, hits = state
    first_step, last_step, loaded_step = whole[FIRST_STEP], whole[LAST_STEP], whole[LOADED_STEP]
    load_order, uses, uses_resident = whole[LOAD_ORDER], whole[USES], whole[USES_RESIDENT]
    size, loads, used, none = counter[SIZE], counter[LOADS], counter[ACCESSES], weights[:0]
    for batch in batches:
        if request[batch] != counter[REQUEST]:
            if cold and counter[REQUEST] >= 0:
                _empty(state)
                size = loads = used = 0
            counter[REQUEST] = request[batch]
        low, high, now_step = starts[batch], starts[batch + 1], step[batch]
        found = 0
        if access == PAPER:  # all are looked up first, and the first distinct experts are free
            for i in range(low, high):
                index = keys[i] - first_key
                if known[index]:
                    found += place[index] >= 0
                else:
                    known[index] = True
                    found += counter[DISTINCT] < slots
                    counter[DISTINCT] += 1
        together = high - low if access == CORESIDENT else 1
        for begin in range(low, high, together):
            end = begin + together
            for i in range(begin, end):
                index = keys[i] - first_key
                if place[index] >= 0:
                    found += access != PAPER
                    _take_out(worth, order, resident, place, first_key, size, keys[i], heap)
                    size -= 1
                else:
                    loads += 1
                    load_order[index] = loads
                    loaded_step[index] = now_step
                    uses_resident[index] = 0
                    if uses[index] == 0:
                        first_step[index] = last_step[index] = now_step
                        whole[NEXT_USE, index] = NEVER
            now = Now(now_step, request[batch], keys[begin] // stride, num_layers, slots, loads)
            if update and values(whole, real, order, keys, begin, end, first_key, stride, weights, now, scratch):
                return now_step
            for i in range(begin, end):
                index = keys[i] - first_key
                used += 1
                order[index] = used
                last_step[index] = now_step
                uses[index] += 1
                uses_resident[index] += 1
                if len(next_use):
                    whole[NEXT_USE, index] = next_use[i]
                if len(weights):
                    real[WEIGHT, index] = weights[i]
                    real[WEIGHT_SUM, index] += weights[i]
                if update:
                    real[VALUE, index] = scratch[i - begin]
            if at_use:
                if worths(whole, real, order, keys, begin, end, first_key, stride, none, now, scratch):
                    return now_step
                for i in range(begin, end):
                    if scratch[i - begin] != scratch[i - begin]:  # not a number
                        return now_step
                    worth[keys[i] - first_key] = scratch[i - begin]
            for back in range(2):  # evict before the batch is put back, and after
                if back:
                    for i in range(begin, end):
                        resident[size] = keys[i]
                        place[keys[i] - first_key] = size
                        size += 1
                        if heap:
                            _settle(worth, order, resident, place, first_key, size, size - 1)
                elif bypass:
                    continue
                excess = min(size + (0 if back else together) - slots, size)
                if excess <= 0:
                    continue
                if not at_use:
                    if worths(whole, real, order, resident, 0, size, first_key, stride, none, now, scratch):
                        return now_step
                    for i in range(size):
                        if scratch[i] != scratch[i]:  # not a number
                            return now_step
                        worth[resident[i] - first_key] = scratch[i]
                for _ in range(excess):
                    victim = resident[0] if heap else _least(worth, order, resident, first_key, size)
                    _take_out(worth, order, resident, place, first_key, size, victim, heap)
                    size -= 1
        hits[phase[batch]] += found
    counter[SIZE], counter[LOADS], counter[ACCESSES] = size, loads, used
    return -1
