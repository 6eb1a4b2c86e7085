"""Requests counted apart in one call have the hits that each has in a trace of its own."""

from __future__ import annotations

from itertools import pairwise
from unittest.mock import patch

import naive
import naive_traces
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import TraceError
from lrcsim.simulator.cache.capacity import Scope
from lrcsim.simulator.compiled import by_request
from lrcsim.traces import RoutingTrace


def test_hand_solved() -> None:
    # Top-1, one layer, looking at this token alone: nothing is used again in sight, so the least recently used goes.
    # Request 0: a b a. With one slot a is free (first of one), b is not, a was put out; two hold all: 1, 3 of 3.
    # Request 2, after an empty one: b b, cold again: 2 with any cache.
    trace = RoutingTrace.from_arrays([[[e]] for e in (0, 1, 0, 1, 1)], num_experts=2, offsets=[0, 3, 3, 5])
    ((requests, hits),) = by_request.lookahead_by_request(trace, 1, "layer", jobs=1)
    assert requests == slice(0, 3)
    assert hits.tolist() == [[[0, 1, 3], [0, 0, 0], [0, 2, 2]]]


@pytest.mark.parametrize("scope", ["layer", "model"])
@settings(max_examples=30)
@given(
    data=st.data(),
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=7).filter(any),
    window=st.integers(1, 4),
    together=st.integers(1, 3),
    tokens=st.integers(1, 12),
)
def test_every_request_equals_the_definition_alone(
    scope: Scope, data: st.DataObject, lengths: list[int], window: int, together: int, tokens: int
) -> None:
    experts, layers = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 2))
    k = data.draw(st.integers(1, experts))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    ids = rng.random((sum(lengths), layers, experts)).argsort(axis=2)[:, :, :k]
    ids[rng.random(ids.shape) < data.draw(st.sampled_from([0, 0.3]))] = -1
    offsets = np.cumsum([0, *lengths]).tolist()
    trace = RoutingTrace.from_arrays(ids, num_experts=experts, offsets=offsets)
    found = np.zeros((len(lengths), experts * (layers if scope == "model" else 1) + 1), int)
    with patch.multiple(by_request, REQUESTS=together, TOKENS=tokens):
        for requests, hits in by_request.lookahead_by_request(trace, window, scope, jobs=1):
            assert requests.stop - requests.start <= together
            found[requests] += hits.sum(axis=0)
    for request, (low, high) in enumerate(pairwise(offsets)):
        for slots in range(1, found.shape[1]):
            wanted = 0
            if low < high:
                alone = naive_traces.Trace(ids[low:high].tolist(), [experts] * layers, [k] * layers, [0, high - low])
                counts = naive.replay(
                    alone, "sch-lookahead", {"m": window}, str(slots), scope, "paper", "token", False
                )  # fmt: skip
                wanted = np.subtract(counts.accesses, counts.misses).sum()
            assert found[request, slots] == wanted, f"request {request}, {slots} slots"


def test_the_number_of_jobs_does_not_matter() -> None:
    ids = np.random.default_rng(0).random((90, 5, 16)).argsort(axis=2)[:, :, :4]
    trace = RoutingTrace.from_arrays(ids, num_experts=16, offsets=[0, 20, 50, 90])
    one, two = (list(by_request.lookahead_by_request(trace, 3, "layer", jobs)) for jobs in (1, 2))
    assert [hits.tolist() for _, hits in one] == [hits.tolist() for _, hits in two]


def test_impossible_ids_are_refused() -> None:
    trace = RoutingTrace.from_arrays([[[0, 1]], [[2, 1]]], num_experts=3)
    trace.experts[1, 0] = 2
    with pytest.raises(TraceError, match="twice in one token"):
        list(by_request.lookahead_by_request(trace, 2, "layer", jobs=1))
