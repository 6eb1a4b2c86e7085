"""The compiled stack algorithms equal a replay at every capacity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.errors import ConfigError
from lrcsim.simulator import simulate
from lrcsim.simulator.capacity import Scope
from lrcsim.simulator.rules import Access
from lrcsim.simulator.stack_hits import STACK_POLICIES, stack_hits
from lrcsim.traces import RoutingTrace


@st.composite
def traces(draw: st.DrawFn) -> RoutingTrace:
    tokens, layers, experts = draw(st.integers(1, 16)), draw(st.integers(1, 2)), draw(st.integers(1, 6))
    k = draw(st.integers(1, min(4, experts)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = rng.random((tokens, layers, experts)).argsort(axis=2)[:, :, :k]
    if draw(st.booleans()):
        ids[rng.random(ids.shape) < 0.1] = -1
    ends = sorted(draw(st.lists(st.integers(0, tokens), max_size=2)))
    phase = rng.integers(0, 2, tokens) if draw(st.booleans()) else None
    return RoutingTrace.from_arrays(ids, num_experts=experts, offsets=[0, *ends, tokens], phase=phase)


@pytest.mark.parametrize("access", ["coresident", "sequential", "paper"])
@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("policy", [*STACK_POLICIES, "sch-lookahead:1", "sch-lookahead:3"])
@settings(max_examples=25)
@given(trace=traces(), warm=st.booleans(), prefill=st.sampled_from(["step", "token", "chunk:2"]))
def test_every_capacity_equals_a_replay(
    policy: str, scope: Scope, access: Access, trace: RoutingTrace, warm: bool, prefill: str
) -> None:
    if access == "paper":
        warm, prefill = False, "token"
        if policy == "belady-bypass":
            return  # refused: the paper's rule inserts every expert
    found = stack_hits(trace, policy, scope, access, prefill, warm, jobs=1)
    everything = trace.num_experts * (trace.num_layers if scope == "model" else 1)
    for slots in range(everything + 2):
        replayed = simulate(
            trace, policy, slots, scope=scope, access=access, prefill=prefill, warm=warm, bounds=False
        ).counts
        assert found.at([slots] * len(found.hits)).tolist() == (replayed.accesses - replayed.misses).sum(1).tolist()
        assert found.accesses.sum(axis=0).tolist() == replayed.accesses.sum(axis=1).tolist()


def test_hand_solved() -> None:
    # One layer, top-1: a b c a b. LRU finds a, then b, at place 2 (two others since): hits for 3 slots and more.
    trace = RoutingTrace.from_arrays([[[e]] for e in (0, 1, 2, 0, 1)], num_experts=3)
    (hits,) = stack_hits(trace, "lru", "layer", "coresident", "step", True).hits
    assert hits.tolist() == [[0, 0, 0, 0], [0, 0, 0, 2]]
    # Next use: with 2 slots c puts out b, so a hits; with 3 both do.
    (hits,) = stack_hits(trace, "belady", "layer", "coresident", "step", True).hits
    assert hits[1].tolist() == [0, 0, 1, 2]
    # With bypass c never enters a cache that holds a: one slot already hits a.
    (hits,) = stack_hits(trace, "belady-bypass", "layer", "coresident", "step", True).hits
    assert hits[1].tolist() == [0, 1, 2, 2]


def test_the_number_of_jobs_does_not_matter() -> None:
    ids = np.random.default_rng(0).random((400, 5, 16)).argsort(axis=2)[:, :, :4]
    trace = RoutingTrace.from_arrays(ids, num_experts=16)
    one, two = (stack_hits(trace, "lfu", "layer", "coresident", "step", True, jobs=jobs) for jobs in (1, 2))
    assert all((a == b).all() for a, b in zip(one.hits, two.hits, strict=True))


def test_policies_without_the_property_are_refused() -> None:
    trace = RoutingTrace.from_arrays([[[0]]], num_experts=1)
    with pytest.raises(ConfigError, match="'fifo' has no stack algorithm, these have: lru, lfu"):
        stack_hits(trace, "fifo", "layer", "coresident", "step", True)
