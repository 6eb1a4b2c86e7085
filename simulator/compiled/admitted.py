"""Second-touch admission (`lrcsim.policies.admission.Admit2`) before the compiled loops.

Batch after batch it is decided who of the misses is admitted; the loop of the policy behind, `run_queues` or
`run_scored`, is told of the others as little as in Python: it gets the batch without them.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from lrcsim.policies.kernels import Queue
from lrcsim.simulator.compiled.queue_lists import REQUEST as QUEUE_REQUEST
from lrcsim.simulator.compiled.queue_lists import USED, is_in
from lrcsim.simulator.compiled.queue_loop import loop_of, run_queues
from lrcsim.simulator.compiled.score_loop import run_scored
from lrcsim.simulator.compiled.score_state import HELD, REQUEST, ahead_in
from lrcsim.simulator.compiled.served import ELSEWHERE, GONE, LOADED, LOADS, NOBODY_ASKS, RESIDENT, Served, choose
from lrcsim.simulator.compiled.stack_any import CORESIDENT
from lrcsim.simulator.compiled.uncounted import filled

FIRST_USE = 3
"""What `Served.flags` says, until it is decided, of a miss that was not used lately; see there."""

SEEN, LAST_REQUEST = range(2)
"""Places in `Admission.counter`."""


class Admission(NamedTuple):
    """What the admission of a pool remembers, and room for a batch without those that are not admitted.

    Attributes:
        window: uses of the pool looked back on; 0: all since it was empty.
        last_use: int64 [keys], the number of each expert's last use among those of the pool, 0 if there is none.
        counter: int64 [2]: uses of the pool, request (-1 at first).
        kept: int64 [keys], where the experts of the batch stand in the columns of the block.
        keys: int32 [keys], the experts.
        weights: float32 [keys], their router weights.
        ahead: float64 [keys], `Expert.weight_ahead`.
        flags: uint8 [keys], what becomes of them.
        bounds: int64 [2], 0 and the length of the batch.
        when: int64 [2, 1], its step and its request.
        phase: uint8 [1], its phase.
        one: int64 [1], 0: the only batch.
    """

    window: int
    last_use: npt.NDArray[np.int64]
    counter: npt.NDArray[np.int64]
    kept: npt.NDArray[np.int64]
    keys: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    ahead: npt.NDArray[np.float64]
    flags: npt.NDArray[np.uint8]
    bounds: npt.NDArray[np.int64]
    when: npt.NDArray[np.int64]
    phase: npt.NDArray[np.uint8]
    one: npt.NDArray[np.int64]

    @classmethod
    def new(cls, window: int, keys: int) -> Admission:
        """Make the state for an empty pool over ``keys`` experts: 33 bytes each."""
        return cls(
            min(window, 2**62),
            np.zeros(keys, np.int64),
            np.array([0, -1], np.int64),
            np.zeros(keys, np.int64),
            np.zeros(keys, np.int32),
            np.zeros(keys, np.float32),
            np.zeros(keys),
            np.zeros(keys, np.uint8),
            np.zeros(2, np.int64),
            np.zeros((2, 1), np.int64),
            np.zeros(1, np.uint8),
            np.zeros(1, np.int64),
        )


@numba.njit(cache=True, nogil=True)
def begin_request(admission, cold, request):  # type: ignore[no-untyped-def]
    """Forget all uses where the request has changed and the cache starts cold."""
    if admission.counter[LAST_REQUEST] != request:
        if cold:
            admission.last_use[:] = 0
        admission.counter[LAST_REQUEST] = request


@numba.njit(cache=True, nogil=True)
def admit(admission, free, keys, begin, end, first_key, served):  # type: ignore[no-untyped-def]
    """Decide about a batch that was looked up; fill in ``admission.kept`` and ``keys``, and return their number.

    Args:
        admission: `Admission`.
        free: experts of the batch's layer that the pool has room for.
        keys: int32 [accesses].
        begin: first access of the batch.
        end: access after its last.
        first_key: the pool's smallest key.
        served: `Served`; a miss that is not admitted is ``LOADED`` all the same, and gone at once.
    """
    flags, last_use, counter = served.flags, admission.last_use, admission.counter
    for i in range(begin, end):
        if flags[i] == ELSEWHERE:
            continue
        counter[SEEN] += 1
        before = last_use[keys[i] - first_key]
        if flags[i] == LOADED:
            if before == 0 or (admission.window and counter[SEEN] - before > admission.window):
                flags[i] = FIRST_USE
            else:
                free -= 1
        last_use[keys[i] - first_key] = counter[SEEN]
    count = 0
    for i in range(begin, end):
        if flags[i] == ELSEWHERE:
            continue
        if flags[i] == FIRST_USE:
            flags[i] = LOADED
            if free <= 0:
                served.counter[LOADS] += 1
                served.counter[GONE] += 1
                continue
            free -= 1
        admission.kept[count] = i
        admission.keys[count] = keys[i]
        count += 1
    admission.bounds[1] = count
    return count


@numba.njit(cache=True, nogil=True)
def _told(admission, served):  # type: ignore[no-untyped-def]
    """Return what the loop behind tells of its batch; all its misses are loaded."""
    return Served(1.0, served.tokens[:0], admission.flags, served.counter, served.evicted)


def run_admitted_queues(policy, sizes, access, cold, first_key, cost, batches, keys, starts, request, phase, state, admission, served):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Advance a pool of a queue policy behind an admission; arguments as those of `run_queues`, returns -1.

    A template, for the loop of each family (`admitted_loop_of`). ``access`` is ``CORESIDENT`` or ``SEQUENTIAL``, and no
    column is changed; ``admission`` is an `Admission`, advanced in place.
    """
    for batch in batches:
        begin_request(admission, cold, request[batch])
        admission.when[1, 0], admission.phase[0] = request[batch], phase[batch]
        low, high = starts[batch], starts[batch + 1]
        together = high - low if access == CORESIDENT else 1
        for begin in range(low, high, together):
            end = begin + together
            emptied = cold and state.counter[QUEUE_REQUEST] != request[batch]  # the loop will, when it is told
            for i in range(begin, end):
                there = not emptied and is_in(state.node, keys[i] - first_key)
                served.flags[i] = RESIDENT if there else LOADED
            if access == CORESIDENT:
                choose(served.share, served.tokens, served.flags, begin, end)
            room = sizes.capacity - (0 if emptied else state.counter[USED])
            free = room // cost[keys[begin] - first_key]
            if admit(admission, free, keys, begin, end, first_key, served):
                run_queues(  # type: ignore[no-untyped-call]  # stands for a family's, compiled
                    policy,
                    sizes,
                    access,
                    cold,
                    first_key,
                    cost,
                    admission.one,
                    admission.keys,
                    admission.bounds,
                    admission.when[1],
                    admission.phase,
                    state,
                    _told(admission, served),
                )
    return -1


@cache
def admitted_loop_of(queue: Queue) -> Any:
    """Return the loop that runs a policy behind an admission, with the arguments of `run_admitted_queues`."""
    behind = loop_of(queue)
    return numba.njit(cache=True, nogil=True)(
        filled(run_admitted_queues, f"admitted_{behind.__name__}", run_queues=behind)
    )


@numba.njit(cache=True, nogil=True)
def _weigh(admission, weights, ahead, begin, end, flags):  # type: ignore[no-untyped-def]
    """Fill in the weights of the batch, and what lies ahead of each among all that the policy would have heard of."""
    some_elsewhere = False
    for i in range(begin, end):
        some_elsewhere = some_elsewhere or flags[i] == ELSEWHERE
    heard, at = 0, 0
    if some_elsewhere:
        for i in range(begin, end):
            if flags[i] != ELSEWHERE:
                admission.weights[heard] = weights[i]
                heard += 1
        ahead_in(admission.weights, 0, heard, admission.ahead)
        heard = 0
        for i in range(begin, end):
            if at < admission.bounds[1] and admission.kept[at] == i:
                admission.ahead[at] = admission.ahead[heard]
                at += 1
            heard += flags[i] != ELSEWHERE
    for at in range(admission.bounds[1]):
        i = admission.kept[at]
        admission.weights[at] = weights[i]
        if not some_elsewhere:
            admission.ahead[at] = ahead[i]


@numba.njit(cache=True, nogil=True)
def run_admitted_scored(scores, values, update, at_use, heap, bypass, ties, access, cold, slots, capacity, cost, stride, num_layers, first_key, batches, keys, starts, step, request, phase, weights, ahead, next_use, state, admission, served):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Advance a pool of a score policy behind an admission; arguments and result as those of `run_scored`.

    ``access`` is ``CORESIDENT`` or ``SEQUENTIAL``, ``next_use`` is empty, and no column is changed; ``admission`` is an
    `Admission`, advanced in place.
    """
    for batch in batches:
        begin_request(admission, cold, request[batch])
        admission.when[0, 0], admission.when[1, 0], admission.phase[0] = step[batch], request[batch], phase[batch]
        low, high = starts[batch], starts[batch + 1]
        together = high - low if access == CORESIDENT else 1
        for begin in range(low, high, together):
            end = begin + together
            emptied = cold and state.counter[REQUEST] != request[batch]  # the loop will, when it is told
            for i in range(begin, end):
                there = not emptied and state.place[keys[i] - first_key] >= 0
                served.flags[i] = RESIDENT if there else LOADED
            if access == CORESIDENT:
                choose(served.share, served.tokens, served.flags, begin, end)
            free = (capacity - (0 if emptied else state.counter[HELD])) // cost[keys[begin] - first_key]
            count = admit(admission, free, keys, begin, end, first_key, served)
            if not count:
                continue
            if len(weights):
                _weigh(admission, weights, ahead, begin, end, served.flags)
            failed = run_scored(
                scores,
                values,
                update,
                at_use,
                heap,
                bypass,
                ties,
                access,
                cold,
                slots,
                capacity,
                cost,
                stride,
                num_layers,
                first_key,
                admission.one,
                admission.keys,
                admission.bounds,
                admission.when[0],
                admission.when[1],
                admission.phase,
                admission.weights if len(weights) else admission.weights[:0],
                admission.ahead if len(weights) else admission.ahead[:0],
                next_use,
                state,
                _told(admission, served),
            )
            if failed >= 0:
                return failed
    return -1


class AdmittedPool:
    """A compiled pool behind an admission, as `lrcsim.simulator.compiled.pools.CompiledPool`.

    Args:
        behind: the pool of the policy behind, a `QueuePool` or a `ScorePool`.
        run: what advances it: of `admitted_loop_of`, or `run_admitted_scored`.
        window: of the admission.
        keys: experts of the pool's layers.
    """

    def __init__(self, behind: Any, run: Any, window: int, keys: int) -> None:
        self._behind, self._run = behind, run
        self.hits, self.pinned = behind.hits, behind.pinned
        self._admission = Admission.new(window, keys)

    def advance(self, batches: npt.NDArray[np.int64], columns: Any, served: Served | None = None) -> int:
        """Run some layer-steps; return -1, or the step at which the policy failed."""
        if served is None:
            flags = np.zeros(len(columns[0]), np.uint8)
            served = Served(1.0, np.zeros(0, np.int64), flags, np.zeros(4, np.int64), NOBODY_ASKS)
        return int(self._run(*self._behind.fixed, batches, *columns, self._behind.state, self._admission, served))

    def residents(self) -> int:
        """Return how many experts are in the pool."""
        return int(self._behind.residents())

    def request(self) -> int:
        """Return the request that the policy behind heard of last, -1 if of none; the next one empties a cold pool."""
        return int(self._behind.request())
