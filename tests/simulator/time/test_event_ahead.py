"""What prefetchers propose, worked out before the loop runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.simulator.setup.prefetchers import Prefetcher
from lrcsim.simulator.time import event_ahead


class Ranked(Prefetcher):
    """One with a width."""

    name = "ranked"

    def __init__(self, width: int) -> None:
        self.width = width


def most(scores: list[float], width: int) -> list[int]:
    """Return the keys of a layer that begins at 1000, behind two that stand there already."""
    find: Any = event_ahead._most
    keys = np.full(2 + width, 7, np.int32)
    end = find(np.array(scores), width, 1000, keys, 2, np.zeros(len(scores)), np.zeros(len(scores), np.int32))
    assert keys[:2].tolist() == [7, 7]
    return keys[2:end].tolist()  # type: ignore[no-any-return]


def test_the_greatest_scores() -> None:
    # Two of five, of equal ones the first; only those above 0; as many as there are.
    assert most([1, 3, 2, 3, 0], 2) == [1001, 1003]
    assert most([0, 0, 0.5, 0, 0], 2) == [1002]
    assert most([0, 0], 2) == []
    assert most([2, 1, 3], 3) == [1002, 1000, 1001]
    # In two groups (experts 0, 2, 4 and 1, 3, 5) the greatest are 9 and 1, but 8 and 7 beat the 1.
    assert most([9, 1, 8, 0, 7, 0], 2) == [1000, 1002]
    assert most([1, 1, 1, 1], 2) == [1000, 1001]


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.data())
def test_as_every_prefetcher_ranks(scores: list[int], data: st.DataObject) -> None:
    width = data.draw(st.integers(1, len(scores)))
    ranked = Ranked(width)
    ranked.stride = len(scores)
    expected = [1000 + expert for expert in ranked.most(np.array(scores, float), 0)]
    assert most([float(score) for score in scores], width) == expected
