"""Recall: counted by hand, against loops, its laws.

By hand: layer of 4 experts, top-2, a ranking of 2 (then 3) for each of three tokens, two requests; 10 bytes an expert.
    token 0 (request 0): used 0 1 with weights .75 .25, fetched 1 2 | 3:  at 2: finds 1;  at 3: the same
    token 1 (request 0): used 2 3 with weights .5 .5,   fetched 2 3 | 0:  both
    token 2 (request 1): used 0 - with weight 1,        fetched 1 2 | 0:  at 2 nothing, at 3 it
    token 3 (request 1): not recorded: nothing is fetched for it
    at 2: recall 3/5, request 0 3/4, request 1 0/1; mass (.25 + 1 + 0) / 3; useful 30 of 60 bytes
    at 3: recall 4/5, mass 2.25 / 3; useful 40 of 90 bytes
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.prediction.recall import Recall
from lrcsim.simulator.metrics.bootstrap import basic_interval, resamples

IDS = np.array([[0, 1], [2, 3], [0, -1], [-1, -1]])
WEIGHTS = np.array([[0.75, 0.25], [0.5, 0.5], [1.0, 0.0], [0.0, 0.0]])
RANKING = np.array([[1, 2, 3], [2, 3, 0], [1, 2, 0], [0, 1, 2]])
REQUESTS = np.array([0, 0, 1, 1])


def counted(number: int, **given: Any) -> Recall:
    one = Recall("a", number, 2)
    one.add(5, RANKING, IDS, REQUESTS, size=10, **given)
    return one


def test_by_hand() -> None:
    two, three = counted(2, weights=WEIGHTS), counted(3, weights=WEIGHTS)
    assert (two.recall, three.recall) == (3 / 5, 4 / 5)
    assert (two.mass_recall, three.mass_recall) == (1.25 / 3, 2.25 / 3)
    assert (two.found.tolist(), two.used.tolist()) == ([3, 0], [4, 1])
    assert (two.useful_bytes, two.fetched_bytes) == (30, 60)
    assert (three.useful_bytes, three.fetched_bytes) == (40, 90)
    assert (two.by_layer, three.by_layer) == ({5: (3, 5)}, {5: (4, 5)})
    assert counted(2).mass_recall is None


def test_interval_is_the_bootstrap_over_requests() -> None:
    one = counted(2)
    drawn = resamples(2, 200, 3).astype(float)
    rates = (drawn @ [3, 0]) / (drawn @ [4, 1])
    assert one.interval(200, 0.95, 3) == basic_interval(3 / 5, rates, 0.95)
    assert one.interval(0, 0.95, 3) is None
    assert Recall("a", 1, 2).interval(200, 0.95, 3) is None  # nothing was used
    alone = Recall("a", 2, 1)
    alone.add(5, RANKING, IDS, np.zeros(4, np.int64))
    assert alone.recall == 3 / 5
    assert alone.interval(200, 0.95, 3) is None


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 3), st.integers(3, 6))
def test_as_loops_count(seed: int, tokens: int, k: int, experts: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.random((tokens, experts)).argsort(axis=1)[:, :k]
    ids[rng.random(ids.shape) < 0.2] = -1
    ranking = rng.random((tokens, experts)).argsort(axis=1)
    weights, requests = rng.random(ids.shape), np.sort(rng.integers(0, 3, tokens))
    before = -1.0
    for number in range(1, experts + 1):
        one = Recall("a", number, 3)
        one.add(0, ranking, ids, requests, weights=weights, size=7)
        found = used = mass = whole = fetched = 0.0
        for token in range(tokens):
            chosen = set(ranking[token, :number].tolist())
            if (ids[token] >= 0).any():
                fetched += 7 * number
            for rank in range(k):
                if ids[token, rank] >= 0:
                    used, whole = used + 1, whole + weights[token, rank]
                    if int(ids[token, rank]) in chosen:
                        found, mass = found + 1, mass + weights[token, rank]
        assert one.recall == (found / used if used else None)
        assert one.mass_recall == (pytest.approx(mass / whole) if whole else None)
        assert (one.useful_bytes, one.fetched_bytes) == (7 * found, fetched)
        if used:
            assert one.recall is not None
            assert one.recall >= before  # more fetched never finds less
            before = one.recall
    assert before in (-1.0, 1.0)  # all are fetched at last
