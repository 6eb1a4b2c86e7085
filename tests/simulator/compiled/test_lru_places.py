"""Places in the LRU stack: by hand, against a list that is searched, and where they are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.simulator.compiled.lru_places import insert_in_places

insert: Any = insert_in_places


def test_hand_solved() -> None:
    # Top-2, stack with the newest first. (0 1) new: 1 0. (1 2): 1 at place 0, 2 new: 2 1 0. (0 3): 0 at place 2, 3 new:
    # 3 0 2 1. (2 1): 2 at place 2, 1 at place 3: 1 2 3 0.
    ids, found, places = (
        np.array([0, 1, 1, 2, 0, 3, 2, 1], np.int16),
        np.zeros(6, np.int64),
        np.arange(5, dtype=np.uint8),
    )
    assert insert((), ids, 0, 2, 4, places, 0, found) == (4, True)
    assert found.tolist() == [1, 0, 2, 1, 0, 4]
    assert places.tolist() == [3, 0, 1, 2, 4]


def test_one_by_one_hand_solved() -> None:
    # The stack is 1 2 3 0. Of (3 0 1): 3 at place 2, then 0 at place 3, then 1, behind both, at place 2.
    found, places = np.zeros(6, np.int64), np.array([3, 0, 1, 2, 4], np.uint8)
    assert insert((1,), np.array([3, 0, 1], np.int16), 0, 3, 1, places, 4, found) == (4, True)
    assert found.tolist() == [0, 0, 2, 1, 0, 0]
    assert places.tolist() == [1, 0, 3, 2, 4]  # 1 0 3 2


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    keys=st.sampled_from([9, 100, 256, 257, 700]),
    size=st.sampled_from([1, 3, 8, 9, 20]),
    apart=st.booleans(),
)
def test_equals_a_list_that_is_searched(seed: int, keys: int, size: int, apart: bool) -> None:
    rng, size = np.random.default_rng(seed), min(size, keys)
    ids = (rng.random((50, keys)) ** (1 + np.arange(keys) / 9)).argsort(axis=1)[:, :size].astype(np.int16)
    expected, line = np.zeros(keys + 1, np.int64), list[int]()
    for batch in ids.tolist():
        before = list(line)
        for key in batch:
            seen = line if apart else before
            expected[seen.index(key) if key in seen else keys] += 1
            line = [key, *(other for other in line if other != key)]
    found, places = np.zeros(keys + 1, np.int64), np.arange(keys, dtype=np.uint8 if keys <= 256 else np.uint16)
    how = (1,) if apart else ()
    assert insert(how, ids.reshape(-1), 0, size, 50, places, 0, found) == (len(line), True)
    assert found.tolist() == expected.tolist()
    assert places[line].tolist() == list(range(len(line)))
    assert sorted(places.tolist()) == list(range(keys))


@pytest.mark.parametrize("size", [2, 8, 12])
def test_a_key_twice_in_a_batch_is_found(size: int) -> None:
    ids, found = np.arange(size, dtype=np.int16), np.zeros(21, np.int64)
    assert insert((), ids, 0, size, 1, np.arange(20, dtype=np.uint8), 0, found)[1]
    ids[-1] = 0
    assert not insert((), ids, 0, size, 1, np.arange(20, dtype=np.uint8), 0, found)[1]
