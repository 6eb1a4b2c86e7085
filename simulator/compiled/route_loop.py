"""A compiled routing rule beside a compiled LRU: each layer-step's choice, by the residents before it.

LRU needs no more than the order of last use, so hits are not counted here: what was chosen is a trace like any other,
and the engines that count and time traces take it. A `CompiledRule` becomes one small compiled function (`value_of`)
that the loop calls by its address for all experts of a token, so the loop itself stays on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from lrcsim.base.user_code import attributes_of
from lrcsim.policies.routing import Candidate, CompiledRule

LEAST = float(np.finfo(np.float64).min)
"""What a value of minus infinity counts as; the loop marks with that what it has taken."""


class LruState(NamedTuple):
    """The pools between blocks: of each a ring of its residents by last use, through a node of its own.

    Attributes:
        newer: int64 [keys + pools], the next resident towards the newest; behind the newest stands the pool's node,
            ``keys + pool``.
        older: int64 [keys + pools], the other way.
        resident: bool [keys].
        size: int64 [pools], residents.
    """

    newer: npt.NDArray[np.int64]
    older: npt.NDArray[np.int64]
    resident: npt.NDArray[np.bool_]
    size: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, keys: int, pools: int) -> LruState:
        """Make pools with nothing in them."""
        return cls(
            np.arange(keys + pools), np.arange(keys + pools), np.zeros(keys, np.bool_), np.zeros(pools, np.int64)
        )


@numba.njit(cache=True, nogil=True)
def route_lru(  # type: ignore[no-untyped-def]
    value_of,
    parameters,
    ranked,
    weighed,
    scores,
    experts,
    chosen,
    starts,
    emptied,
    num_experts,
    pool_of_layer,
    slots,
    state,
):
    """Choose for the tokens of some steps, and keep the caches.

    Args:
        value_of: of `compiled_value`.
        parameters: float64 of the rule, a tuple.
        ranked: whether the rule looks at ranks; if not, they are 0.
        weighed: whether it looks at shares; if not, they are 0.
        scores: float32 [tokens, L, E]; of equal ones the lower id is the better.
        experts: int [tokens, L, k], the unmodified choice, -1 = not recorded.
        chosen: int [tokens, L, k], filled in where ``experts`` is recorded; the other places stay.
        starts: int64 [steps + 1], step i is tokens ``starts[i]:starts[i + 1]``.
        emptied: bool [steps], whether the caches are emptied before it.
        num_experts: int64 [L].
        pool_of_layer: int64 [L].
        slots: int64 [pools].
        state: the pools, brought up to date.

    Returns:
        -1, or the first token of which the rule's value is not a number.
    """
    layers, most, k = scores.shape[1], scores.shape[2], experts.shape[2]
    keys = len(state.resident)
    own, value, share = np.empty(most), np.empty(most), np.zeros(most)
    rank, order = np.zeros(most, np.int64), np.empty(most, np.int64)
    for step in range(len(starts) - 1):
        if emptied[step]:
            for node in range(len(state.newer)):
                state.newer[node] = state.older[node] = node
            state.resident[:] = False
            state.size[:] = 0
        for layer in range(layers):
            count, first = num_experts[layer], layer * most
            resident = state.resident[first : first + count]
            for token in range(starts[step], starts[step + 1]):
                wanted = 0
                for place in range(k):
                    wanted += experts[token, layer, place] >= 0
                if wanted == 0:
                    continue
                high, low = -np.inf, np.inf
                for expert in range(count):
                    score = np.float64(scores[token, layer, expert])
                    own[expert] = score
                    high, low = max(high, score), min(low, score)
                if ranked or weighed:
                    _rank(scores[token, layer], count, rank)
                if weighed:
                    _weigh(own, rank, count, wanted, high, share)
                value_of(own, rank, share, resident, high, low, wanted, parameters, value)
                if _choose(value, count, wanted, order):
                    return token
                at = 0
                for place in range(k):
                    if experts[token, layer, place] >= 0:
                        chosen[token, layer, place] = order[at]
                        at += 1
            _use(chosen, starts[step], starts[step + 1], layer, first, keys, pool_of_layer[layer], slots, state)
    return -1


@numba.njit(cache=True, nogil=True)
def _rank(scores, count, rank):  # type: ignore[no-untyped-def]
    """Fill in the rank of each expert.

    To count the better ones of each takes 64 steps for each of 64, but the machine makes 16 of them at a time: 0.2 us,
    sorting 2 to 5.
    """
    total = 0
    for expert in range(count):
        score, better = scores[expert], 0
        for other in range(count):
            better += scores[other] > score
        rank[expert] = better
        total += better
    if 2 * total < count * (count - 1):  # some are equal: of these the lower id is the better
        for expert in range(count):
            for other in range(expert):
                rank[expert] += scores[other] == scores[expert]


@numba.njit(cache=True, nogil=True)
def _weigh(own, rank, count, wanted, high, share):  # type: ignore[no-untyped-def]
    """Fill in the share of each expert."""
    total = 0.0
    for expert in range(count):
        share[expert] = np.exp(own[expert] - high)
        if rank[expert] < wanted:
            total += share[expert]
    for expert in range(count):
        share[expert] /= total


@numba.njit(cache=True, nogil=True)
def _choose(value, count, wanted, order):  # type: ignore[no-untyped-def]
    """Put the ``wanted`` experts of greatest value into ``order``; return whether one is not a number."""
    for expert in range(count):
        if np.isnan(value[expert]):
            return True
        value[expert] = max(value[expert], LEAST)
    for place in range(wanted):
        best = 0
        for expert in range(1, count):
            if value[expert] > value[best]:
                best = expert
        value[best] = -np.inf  # taken
        order[place] = best
    return False


@numba.njit(cache=True, nogil=True)
def _use(chosen, begin, end, layer, first, keys, pool, slots, state):  # type: ignore[no-untyped-def]
    """Make what a layer-step uses the newest residents, in the order of its uses; then evict the oldest."""
    node = keys + pool
    for token in range(begin, end):
        for place in range(chosen.shape[2]):
            if chosen[token, layer, place] < 0:
                continue
            key = first + chosen[token, layer, place]
            if state.resident[key]:
                _unlink(key, state)
            else:
                state.resident[key] = True
                state.size[pool] += 1
            newest = state.older[node]
            state.newer[newest] = key
            state.older[key] = newest
            state.newer[key] = node
            state.older[node] = key
    while state.size[pool] > slots[pool]:
        oldest = state.newer[node]
        _unlink(oldest, state)
        state.resident[oldest] = False
        state.size[pool] -= 1


@numba.njit(cache=True, nogil=True)
def _unlink(key, state):  # type: ignore[no-untyped-def]
    state.newer[state.older[key]] = state.newer[key]
    state.older[state.newer[key]] = state.older[key]


def _rule_says(*arguments: Any) -> float:
    """Stands in `_values` for ``value`` of a rule."""
    raise NotImplementedError


def _values(own, rank, share, resident, high, low, k, parameters, out):  # type: ignore[no-untyped-def]
    for expert in range(len(resident)):
        out[expert] = _rule_says(
            Candidate(own[expert], rank[expert], share[expert], resident[expert], high, low, k), *parameters
        )


def compiled_value(rule: CompiledRule) -> Callable[..., None]:
    """Compile a rule: ``f(own, rank, share, resident, high, low, k, parameters, out)`` fills in every expert's value.

    Raises:
        numba.core.errors.NumbaError: numba cannot compile it.
    """
    return _compiled(type(rule).value, len(rule.values()))


@lru_cache(maxsize=64)
def _compiled(value: Callable[..., Any], parameters: int) -> Callable[..., None]:
    template: Any = _values
    filled = FunctionType(
        template.__code__, {**globals(), "_rule_says": numba.njit(value, error_model="numpy")}, "_values_of_rule"
    )
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]  # set when numba is imported
        return filled
    reals, flags, whole = np.zeros(1), np.zeros(1, np.bool_), np.zeros(1, np.int64)
    type_of: Any = numba.typeof
    example = (reals, whole, reals, flags, 0.0, 0.0, 0, (0.0,) * parameters, reals)
    signature = numba.types.void(*(type_of(one) for one in example))
    compiled: Callable[..., None] = numba.cfunc(signature)(filled)
    return compiled


def looks_at(rule: CompiledRule, field: str) -> bool:
    """Return whether ``value`` looks at a field of `Candidate`: ranks and shares take time to find."""
    fields = attributes_of(type(rule).value, 0)
    return fields is None or field in fields
