"""A pool of a compiled score policy (`ScoredState`), and the policy as functions that the loop of `scored` calls.

What a policy's class says (`CompiledScore`) becomes two small compiled functions (half a second of CPU; compiling the
loop with them took four times as long), that the loop calls by their address, once per batch and not per expert: the
scores of many experts, and their new values. Those of built-in policies are kept on disk, a user's are made anew in
every process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from lrcsim.base.user_code import is_users
from lrcsim.policies.compiled import CompiledScore, Expert, Now
from lrcsim.simulator.compiled.uncounted import filled

FIRST_STEP, LAST_STEP, LAST_RUN, LAST_REQUEST, LOADED_STEP = range(5)
LOAD_ORDER, USE_ORDER, USES, USES_RESIDENT, USES_REQUEST, NEXT_USE = range(5, 11)
"""Rows of `ScoredState.whole`; the meaning is that of `Expert`."""

WEIGHT, WEIGHT_SUM, WEIGHT_AHEAD, VALUE = range(4)
"""Rows of `ScoredState.real`."""

SIZE, HELD, REQUEST, REQUEST_STEP, LOADS, ACCESSES, FREE_FOR, RUN_STEP, RUN_LAYER = range(9)
"""Places in `ScoredState.counter`."""

LAYER_RUNS, LAYER_USES = range(2)
"""Rows of `ScoredState.runs`."""


class ScoredState(NamedTuple):
    """A pool between blocks; columns are the pool's keys, counted from its first.

    Attributes:
        whole: int64 [11, keys], what is known of each expert, in whole numbers.
        real: float64 [4, keys], the same in real numbers.
        score: float64 [keys], of residents, as last taken.
        resident: int32 [keys], the first ``counter[SIZE]`` are the keys of the residents.
        place: int32 [keys], where an expert stands in ``resident``, -1 if it does not.
        known: bool [keys], used since the pool was last empty (the paper's rule).
        scratch: float64 [keys].
        runs: int64 [2, L], `Now.layer_runs` and `Now.layer_uses` of each layer.
        age: float64 [1], `Now.age`.
        counter: int64 [9]: residents, their slots (or bytes), request (-1 at first), its first step, loads, accesses,
            slots (or bytes) of the distinct experts known, step and layer of the last layer-step.
        hits: int64 [2], by phase.
    """

    whole: npt.NDArray[np.int64]
    real: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]
    resident: npt.NDArray[np.int32]
    place: npt.NDArray[np.int32]
    known: npt.NDArray[np.bool_]
    scratch: npt.NDArray[np.float64]
    runs: npt.NDArray[np.int64]
    age: npt.NDArray[np.float64]
    counter: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]

    @classmethod
    def empty(cls, keys: int, layers: int) -> ScoredState:
        """Make the state of a pool over ``keys`` experts, with nothing in it: about 150 bytes each."""
        return cls(
            np.zeros((11, keys), np.int64),
            np.zeros((4, keys)),
            np.zeros(keys),
            np.zeros(keys, np.int32),
            np.full(keys, -1, np.int32),
            np.zeros(keys, np.bool_),
            np.zeros(keys),
            np.zeros((2, layers), np.int64),
            np.zeros(1),
            np.array([0, 0, -1, 0, 0, 0, 0, -1, -1], np.int64),
            np.zeros(2, np.int64),
        )


Compiled = Callable[..., int]
"""``f(whole, real, runs, keys, begin, end, first_key, stride, weights, now, out)``: fills out[0:end - begin]
with the scores, or the new values, of the experts keys[begin:end]; returns 0, or 1 where the policy failed."""


@numba.njit(cache=True, nogil=True)
def _expert(whole, real, index, layer):  # type: ignore[no-untyped-def]
    """Gather what is known of an expert. What the policy does not look at, the compiler leaves out."""
    uses = whole[USES, index]
    return Expert(
        layer,
        whole[FIRST_STEP, index],
        whole[LAST_STEP, index],
        whole[LAST_RUN, index],
        whole[LAST_REQUEST, index],
        whole[LOADED_STEP, index],
        whole[LOAD_ORDER, index],
        whole[USE_ORDER, index],
        uses,
        whole[USES_RESIDENT, index],
        whole[USES_REQUEST, index],
        real[WEIGHT, index],
        real[WEIGHT_SUM, index] / max(uses, 1),
        real[WEIGHT_AHEAD, index],
        whole[NEXT_USE, index],
        real[VALUE, index],
    )


@numba.njit(cache=True, nogil=True)
def _seen_from(now, runs, layer, later):  # type: ignore[no-untyped-def]
    """Return the moment as an expert of a layer sees it, leaving out ``later`` uses of the batch."""
    return Now(
        *(now.step, now.request, now.request_step, now.layer, now.num_layers, now.slots, now.loads),
        *(now.uses - later, now.age, runs[LAYER_RUNS, layer], runs[LAYER_USES, layer]),
    )


def compile_policy(policy: CompiledScore) -> tuple[Compiled, Compiled | None]:
    """Compile a policy with its parameters: its scores, and its new values if it has an ``update``.

    Those of built-in policies with the parameters that they have by default are kept on disk, like the loop.

    Raises:
        numba.core.errors.NumbaError: numba cannot compile it.
    """
    kind, parameters = type(policy), policy.values()
    by_default = parameters == tuple(param.default for param in kind.params)
    name = _name_on_disk(kind) if by_default and not is_users(kind) else ""
    return _compile(kind.score, kind.update if policy.updates() else None, parameters, name)


def _name_on_disk(kind: type[CompiledScore]) -> str:
    """Return a name for a policy's functions that changes with the file of the policy, which numba does not look at.

    Empty where there is no such file, as in an archive.
    """
    try:
        file = os.stat(kind.score.__code__.co_filename)
    except OSError:
        return ""
    return f"{kind.__module__}.{kind.__qualname__}_{file.st_mtime_ns:x}_{file.st_size:x}".replace(".", "_")


@lru_cache(maxsize=256)
def _compile(
    score: Callable[..., float],
    update: Callable[..., float] | None,
    parameters: tuple[int | float, ...],
    name: str,
) -> tuple[Compiled, Compiled | None]:
    scores = _by_address(_scores, score, parameters, name)
    if update is None:
        return scores, None
    return scores, _by_address(_values, update, parameters, name)


def _policy_says(*arguments: Any) -> float:
    """Stands in the templates below for ``score`` or ``update`` of a policy."""
    raise NotImplementedError


def _of_many(*arguments: Any) -> None:
    """Stands in `_guarded` for one of the other two templates, compiled."""
    raise NotImplementedError


PARAMETERS: tuple[int | float, ...] = ()
"""Stands in the templates for the policy's parameters."""


def _scores(whole, real, runs, keys, begin, end, first_key, stride, _, now, out):  # type: ignore[no-untyped-def]
    per_key = 1.0 / stride  # a third faster than to divide whole numbers; of 32 bits always right: half a key is left
    for i in range(begin, end):
        expert = _expert(whole, real, keys[i] - first_key, np.int64((keys[i] + 0.5) * per_key))
        out[i - begin] = _policy_says(expert, _seen_from(now, runs, expert.layer, 0), *PARAMETERS)


def _values(whole, real, runs, keys, begin, end, first_key, stride, weights, now, out):  # type: ignore[no-untyped-def]
    for i in range(begin, end):
        expert = _expert(whole, real, keys[i] - first_key, keys[i] // stride)
        weight = float(weights[i]) if len(weights) else 0.0
        out[i - begin] = _policy_says(expert, _seen_from(now, runs, expert.layer, end - 1 - i), weight, *PARAMETERS)


def _guarded(whole, real, runs, keys, begin, end, first_key, stride, weights, now, out):  # type: ignore[no-untyped-def]
    try:
        _of_many(whole, real, runs, keys, begin, end, first_key, stride, weights, now, out)
    except Exception:
        return 1
    return 0


def _by_address(
    template: Callable[..., None], policy_says: Callable[..., float], parameters: tuple[int | float, ...], name: str
) -> Compiled:
    """Compile to a function that the cached loop can call; errors do not cross such a call, so they become a 1.

    Args:
        template: `_scores` or `_values`.
        policy_says: what the policy says of one expert.
        parameters: its further arguments.
        name: under which it is kept on disk; empty: it is not.
    """
    of_one = numba.njit(policy_says)
    own = name + template.__name__
    of_many = numba.njit(filled(template, own, _policy_says=of_one, PARAMETERS=parameters))
    of_one.kept = of_many.kept = bool(name)  # on disk, within what follows
    guarded = filled(_guarded, own + _guarded.__name__, _of_many=of_many)
    if numba.config.DISABLE_JIT:  # type: ignore[attr-defined]  # set when numba is imported
        return guarded
    state, none = ScoredState.empty(1, 1), np.zeros(0, np.float32)
    arrays = (state.whole, state.real, state.runs, state.resident)
    moment = Now(0, 0, 0, 0, 0, 0, 0, 0, 0.0, 0, 0)
    example: tuple[Any, ...] = (*arrays, 0, 0, 0, 0, none, moment, state.scratch)
    type_of: Any = numba.typeof
    signature = numba.types.int64(*(type_of(value) for value in example))
    compiled: Compiled = numba.cfunc(signature, cache=bool(name))(guarded)
    return compiled


@numba.njit(cache=True, nogil=True)
def ahead_in(weights, low, high, ahead):  # type: ignore[no-untyped-def]
    """Fill in ``ahead[low:high]``, `Expert.weight_ahead` of the accesses of one layer-step; see `weights_ahead`."""
    falling = np.empty(high - low, np.int64)
    for i in range(low, high):  # mostly in order already; numpy's sort takes two seconds to compile
        at = i - low
        while at > 0 and weights[falling[at - 1]] < weights[i]:
            falling[at] = falling[at - 1]
            at -= 1
        falling[at] = i
    total, last = 0.0, falling[0]
    for i in falling:
        ahead[i] = ahead[last] if weights[i] == weights[last] and i != last else total
        total += np.float64(weights[i])  # without the compiler too
        last = i
    for i in range(low, high):
        ahead[i] = ahead[i] / total if total > 0 else 0.0


@numba.njit(cache=True, nogil=True)
def ahead_of(weights, starts):  # type: ignore[no-untyped-def]
    """Return float64 [accesses], `Expert.weight_ahead` of all accesses of a block.

    Args:
        weights: float32 [accesses].
        starts: int64 [layer-steps + 1].
    """
    ahead = np.zeros(len(weights))
    for row in range(len(starts) - 1):
        ahead_in(weights, starts[row], starts[row + 1], ahead)
    return ahead
