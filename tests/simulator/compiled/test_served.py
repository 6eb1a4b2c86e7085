"""Which misses of a layer-step are loaded, and what passes through a pool without room, worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import pytest

from lrcsim.simulator.compiled.served import (
    DROPPED,
    ELSEWHERE,
    GONE,
    LOADED,
    LOADS,
    NOBODY_ASKS,
    RESIDENT,
    Served,
    choose,
    pack,
    pass_through,
)

_choose: Any = numba.njit(lambda share, tokens, flags, low, high: choose(share, tokens, flags, low, high))
_pack: Any = numba.njit(lambda column, flags, low, high: pack(column, flags, low, high))
"""Only compiled functions call these."""


@pytest.mark.parametrize(
    ("share", "tokens", "loaded"),
    [
        (0.5, [], [1, 2]),  # of 3 misses 1.5, rounded up: the first two
        (0.4, [], [1]),  # 1.2
        (0, [], []),
        (1, [], [1, 2, 4]),
        (0.5, [9, 1, 3, 9, 2], [2, 4]),  # those that most tokens use; 0 and 3 hit
        (0.4, [9, 3, 1, 9, 3], [1]),  # of equal ones the first
        (0.4, [9, 1, 3, 9, 3], [2]),
    ],
)
def test_the_share_that_most_tokens_use(share: float, tokens: Sequence[int], loaded: list[int]) -> None:
    # 0 and 3 hit, 1, 2 and 4 miss. What stands before and behind the batch is not touched.
    flags = np.array([LOADED, RESIDENT, LOADED, LOADED, RESIDENT, LOADED, LOADED], np.uint8)
    used_by = np.array([7, *tokens, 7] if tokens else [], np.int64)
    assert _choose(share, used_by, flags, 1, 6) == len(loaded)
    assert [place for place in range(5) if flags[1 + place] == LOADED] == loaded
    assert [place for place in range(5) if flags[1 + place] == ELSEWHERE] == [p for p in (1, 2, 4) if p not in loaded]
    assert (flags[0], flags[6]) == (LOADED, LOADED)


def test_what_is_used_elsewhere_is_taken_out_of_the_batch() -> None:
    column = np.array([10, 11, 12, 13, 14], np.int32)
    flags = np.array([ELSEWHERE, RESIDENT, ELSEWHERE, LOADED, RESIDENT], np.uint8)
    assert _pack(column, flags, 1, 5) == 4
    assert column[:4].tolist() == [10, 11, 13, 14]


def test_loads_into_a_pool_without_room_are_gone_at_once() -> None:
    # Layer-steps 0 and 2, of 3 accesses and of 1: half of each is loaded, 1.5 and 0.5 rounded up. Layer-step 1 is
    # another pool's.
    served = Served(0.5, np.zeros(0, np.int64), np.zeros(6, np.uint8), np.zeros(4, np.int64), NOBODY_ASKS)
    pass_through(np.array([0, 2]), np.array([0, 3, 5, 6]), served)
    assert served.flags.tolist() == [LOADED, LOADED, ELSEWHERE, RESIDENT, RESIDENT, LOADED]
    assert served.counter[[LOADS, GONE, DROPPED]].tolist() == [3, 3, 0]
