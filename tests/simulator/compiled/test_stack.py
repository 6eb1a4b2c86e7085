"""The compiled stack algorithms equal a replay at every capacity."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.policies import make_policy
from lrcsim.simulator import simulate
from lrcsim.simulator.cache.capacity import Scope
from lrcsim.simulator.compiled import lru_bits, lru_places
from lrcsim.simulator.compiled.every_size import STACK_POLICIES, stack_hits
from lrcsim.simulator.setup.options import Access
from lrcsim.traces import RoutingTrace

POLICIES = [*STACK_POLICIES, "sch-lookahead:1", "sch-lookahead:3", "sch-static:1", "sch-static:3"]


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
@pytest.mark.parametrize(
    "policy", [*STACK_POLICIES, "sch-lookahead:1", "sch-lookahead:3", "sch-static:1", "sch-static:3"]
)
@settings(max_examples=25)
@given(trace=traces(), warm=st.booleans(), prefill=st.sampled_from(["step", "token", "chunk:2"]))
def test_every_capacity_equals_a_replay(
    policy: str, scope: Scope, access: Access, trace: RoutingTrace, warm: bool, prefill: str
) -> None:
    if access == "paper":
        warm, prefill = False, "token"
        if make_policy(policy).bypass:
            return  # refused: the paper's rule inserts every expert
    found = stack_hits(trace, policy, scope, access, prefill, warm, jobs=1)
    everything = trace.num_experts * (trace.num_layers if scope == "model" else 1)
    for slots in range(everything + 2):
        replayed = simulate(
            trace, policy, slots, scope=scope, access=access, prefill=prefill, warm=warm, bounds=False
        ).counts
        assert found.at([slots] * len(found.hits)).tolist() == (replayed.accesses - replayed.misses).sum(1).tolist()
        assert found.accesses.sum(axis=0).tolist() == replayed.accesses.sum(axis=1).tolist()


@pytest.mark.parametrize("access", ["coresident", "sequential", "paper"])
@settings(max_examples=40)
@given(trace=traces(), warm=st.booleans(), prefill=st.sampled_from(["step", "chunk:2"]))
def test_all_ways_to_count_lru_agree(access: Access, trace: RoutingTrace, warm: bool, prefill: str) -> None:
    """Places and the line of marks are for many keys; here they run on the same few as the sets of bits."""
    if access == "paper":
        warm, prefill = False, "token"
    for scope in ("layer", "model"):
        bits = stack_hits(trace, "lru", scope, access, prefill, warm, jobs=1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lru_bits, "MOST_KEYS", 0)
            places = stack_hits(trace, "lru", scope, access, prefill, warm, jobs=1)
            patch.setattr(lru_places, "MOST_KEYS", 0)
            marks = stack_hits(trace, "lru", scope, access, prefill, warm, jobs=1)
        for other in (places, marks):
            assert [hits.tolist() for hits in bits.hits] == [hits.tolist() for hits in other.hits]
            assert bits.accesses.tolist() == other.accesses.tolist()


@pytest.mark.parametrize("experts", [64, 65, 128, 200, 256, 257, 512, 3_072, 3_073])
def test_lru_with_many_experts(experts: int) -> None:
    """Around the borders of the ways to count, and long enough for the line of marks to be compacted."""
    rng = np.random.default_rng(experts)
    ids = (rng.zipf(1.3, (1_500, 1, 60)) % experts + rng.integers(0, 3, (1_500, 1, 60))) % experts
    batches = [list(dict.fromkeys(token[0].tolist()))[:8] for token in ids]
    trace = RoutingTrace.from_arrays(
        [[batch + [-1] * (8 - len(batch))] for batch in batches], num_experts=experts, offsets=[0, 700, 1_500]
    )
    for access, warm in (("coresident", True), ("sequential", True), ("coresident", False)):
        found = stack_hits(trace, "lru", "layer", access, "step", warm)
        for slots in (1, 8, 30, experts - 1):
            counts = simulate(trace, "lru", slots, access=access, warm=warm, bounds=False).counts  # type: ignore[arg-type]
            assert found.at([slots])[1] == (counts.accesses - counts.misses).sum()


@pytest.mark.parametrize("access", ["coresident", "sequential"])
@pytest.mark.parametrize("experts", [64, 128, 256, 512, 3_073])
def test_lru_refuses_an_expert_twice_in_a_token(experts: int, access: str) -> None:
    trace = RoutingTrace.from_arrays(np.tile([3, experts - 1], (40, 1, 1)), num_experts=experts)
    trace.experts[20, 0] = 3
    with pytest.raises(TraceError, match="twice in one token"):
        stack_hits(trace, "lru", "layer", access, "step", True, jobs=1)


def test_sequential_hand_solved() -> None:
    # Top-2: a b, then c a. Looked up together a is at place 1 (behind b), so it hits with two slots. One by one c
    # comes before it: place 2, three slots. Then a b: a at place 0; b behind a and c, a not counted twice: place 2.
    trace = RoutingTrace.from_arrays([[[0, 1]], [[2, 0]], [[0, 1]]], num_experts=3)
    (hits,) = stack_hits(trace, "lru", "layer", "coresident", "step", True, jobs=1).hits
    assert hits[1].tolist() == [0, 1, 2, 3]
    (hits,) = stack_hits(trace, "lru", "layer", "sequential", "step", True, jobs=1).hits
    assert hits[1].tolist() == [0, 1, 1, 3]


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
    with pytest.raises(ConfigError, match=f"'fifo' has no stack algorithm, these have: {', '.join(STACK_POLICIES)}"):
        stack_hits(trace, "fifo", "layer", "coresident", "step", True)


@pytest.mark.parametrize("access", ["coresident", "sequential"])
def test_lru_marks_of_thousands_of_experts_survive_compaction(access: str) -> None:
    """61 layers of 256 experts: 15,616 marks, in four of the line's groups of 4,096 after each compaction.

    The line has 17 groups, 69,632 places, and a token takes 488: it is compacted three times. A plain LRU list at
    some capacities says what must come out.
    """
    layers, experts, k, tokens = 61, 256, 8, 400
    rng = np.random.default_rng(0)
    worn = rng.random((tokens, layers, experts)) ** (1 + np.arange(experts) / 40)  # most used: the last ones
    ids = np.argpartition(-worn, k, axis=2)[:, :, :k]
    trace = RoutingTrace.from_arrays(ids, num_experts=experts)
    found = stack_hits(trace, "lru", "model", access, "step", True)
    assert tokens * layers * k > 2 * 69_632
    assert len(np.unique(ids + np.arange(layers)[:, None] * experts)) > 3 * 4_096
    keys = (ids + np.arange(layers)[:, None] * experts).reshape(-1, k).tolist()
    for capacity in (600, 3_000, 5_000, 9_000, 13_000):
        resident: dict[int, None] = {}  # in the order of last use
        hits = 0
        for batch in keys:
            if access == "coresident":
                hits += sum(key in resident for key in batch)
            for key in batch:
                hits += access == "sequential" and key in resident
                resident.pop(key, None)
                resident[key] = None
                if access == "sequential" and len(resident) > capacity:
                    del resident[next(iter(resident))]
            while len(resident) > capacity:
                del resident[next(iter(resident))]
        assert found.at([capacity]).tolist() == [0, hits], capacity
