"""A batch of lru in one go: hand-solved, and against a list, with bytes, pinned experts and guarded ones."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numba
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.simulator.compiled.queue_lists import FIRST, NEWER, OUT, PROTECTED, QUEUE, QUEUES, USED, QueueState, append
from lrcsim.simulator.compiled.queue_lru import use_most_recent
from lrcsim.simulator.compiled.served import EVICTED, GONE, LOADS, Served

FIRST_KEY = 10

_put: Any = numba.njit(lambda node, queue, expert: append(node, queue, expert))  # only compiled functions call it
_serve: Any = numba.njit(lambda *told: use_most_recent(*told))


class Pool:
    """A pool of keys from 10 on."""

    def __init__(self, capacity: int, cost: list[int], pinned: list[int], residents: list[int]) -> None:
        self.capacity, self.cost = capacity, np.array(cost)
        self.state = QueueState.new(self.cost, np.array(pinned, np.int32))
        self.served = Served(
            1.0, np.zeros(0, np.int64), np.zeros(0, np.uint8), np.zeros(4, np.int64), np.zeros(99, np.int32)
        )
        for expert in residents:
            _put(self.state.node, FIRST, expert)
            self.state.counter[USED] += cost[expert]

    def use(self, *batch: int, told: bool = True) -> int:
        """Serve a batch; it stands between two keys that are none of it."""
        keys = np.array([FIRST_KEY, *batch, FIRST_KEY], np.int32)
        _, missed, *_ = self.state
        room = (keys, 1, len(batch) + 1, self.state.node, missed, self.state.counter)
        return int(_serve(self.capacity, FIRST_KEY, self.cost, *room, self.served if told else None))

    def residents(self) -> list[int]:
        """Return keys, the least recent first, without pinned ones."""
        node, found = self.state.node, []
        expert = node[NEWER, node.shape[1] - QUEUES + FIRST]
        while expert < node.shape[1] - QUEUES:
            found.append(int(expert) + FIRST_KEY)
            expert = node[NEWER, expert]
        return found

    def evicted(self) -> list[int]:
        """Return keys, in order."""
        return self.served.evicted[: self.served.counter[EVICTED]].tolist()


def test_hand_solved() -> None:
    # Three slots: 10, 11, 12, the last most recent. 11 and 13: 11 hits, 10 makes room; then 12, 11, 13.
    pool = Pool(3, [1] * 6, [], [0, 1, 2])
    assert pool.use(11, 13) == 1
    assert (pool.residents(), pool.evicted()) == ([12, 11, 13], [10])
    # Four at once, 13 among them: 12 and 11 go, then 14, the first of the batch, which was loaded for nothing.
    assert pool.use(14, 10, 13, 15) == 1
    assert (pool.residents(), pool.evicted()) == ([10, 13, 15], [10, 12, 11, 14])
    # The member that leaves was there: it is no load. 10 leaves, 11, 12 and 13 stay.
    assert pool.use(10, 11, 12, 13) == 2
    assert (pool.residents(), pool.evicted()[4:]) == ([11, 12, 13], [15, 10])
    assert pool.served.counter[[LOADS, GONE]].tolist() == [6, 1]
    assert pool.state.counter[USED] == 3


def test_bytes_pinned_and_guarded() -> None:
    # Nine bytes, of which 10 holds two for good; 11 is guarded, as a prefetch under way. 13 of three bytes: 11 may not
    # go, 12 does. A pinned expert hits and stays, wherever it stands in the batch.
    pool = Pool(9, [2, 3, 4, 3, 1], [0], [1, 2])
    pool.state.node[PROTECTED, 1] = 1
    assert pool.use(10, 13) == 1
    assert (pool.residents(), pool.evicted(), pool.state.counter[USED]) == ([11, 13], [12], 8)
    pool.state.node[PROTECTED, 1] = 0
    # 12 and 14 and the pinned one in front: 2 + 4 + 1 fit when 11 and 13 are gone; 11 alone would not do.
    assert pool.use(10, 12, 14) == 1
    assert (pool.residents(), pool.evicted(), pool.state.counter[USED]) == ([12, 14], [12, 11, 13], 7)


@given(
    keys=st.integers(1, 7),
    capacity=st.integers(1, 12),
    batches=st.lists(st.lists(st.integers(0, 6), min_size=1, max_size=7, unique=True), max_size=8),
    pinned=st.sets(st.integers(0, 6), max_size=2),
    seed=st.integers(0, 99),
    told=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_as_a_list_has_it(
    keys: int, capacity: int, batches: list[list[int]], pinned: set[int], seed: int, told: bool
) -> None:
    """Every member joins at the new end; then the oldest leave until all fits."""
    cost = np.random.default_rng(seed).integers(1, 4, keys).tolist()
    held = sorted(one for one in pinned if one < keys)
    if capacity < sum(cost[one] for one in held):
        return
    pool, queue, gone, loads, lost = Pool(capacity, cost, held, []), list[int](), list[int](), 0, 0
    for drawn in batches:
        batch = [one for one in drawn if one < keys]
        hits = sum(one in queue or one in held for one in batch)
        missed = [one for one in batch if one not in queue and one not in held]
        for one in batch:
            if one not in held:
                queue = [other for other in queue if other != one] + [one]
        while sum(cost[one] for one in queue + held) > capacity:
            gone.append(queue.pop(0))
        loads, lost = loads + len(missed), lost + sum(one not in queue for one in missed)
        assert pool.use(*(one + FIRST_KEY for one in batch), told=told) == hits
        assert pool.residents() == [one + FIRST_KEY for one in queue]
        assert pool.state.counter[USED] == sum(cost[one] for one in queue + held)
        where = pool.state.node[QUEUE, :keys].tolist()
        assert [one for one in range(keys) if where[one] != OUT] == sorted(queue + held)
    if told:
        assert pool.evicted() == [one + FIRST_KEY for one in gone]
        assert pool.served.counter[[LOADS, GONE]].tolist() == [loads, lost]


def test_without_the_compiler() -> None:
    """The kernel as plain Python: index errors and wrong types show here."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    done = subprocess.run(
        [*command, "-k", "not without"],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
