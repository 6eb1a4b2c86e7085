"""The paper's rule in lanes: by hand, and against each layer by itself, which is held against replays elsewhere."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import TraceError
from lrcsim.simulator.compiled import paper_lanes
from lrcsim.simulator.compiled.every_size import StackHits, stack_hits, stack_hits_of
from lrcsim.simulator.compiled.stack_decode import LFU, LOOKAHEAD, NEXT_USE, NEXT_USE_BYPASS
from lrcsim.traces import RoutingTrace

POLICIES = ("lru", "lfu", "belady", "sch-lookahead:1", "sch-lookahead:5", "sch-lookahead:300")
run: Any = paper_lanes.run_paper


def values(found: list[StackHits]) -> list[Any]:
    return [([hits.tolist() for hits in one.hits], one.accesses.tolist()) for one in found]


def together(trace: RoutingTrace) -> list[StackHits]:
    return stack_hits_of(trace, POLICIES, "layer", "paper", "token", False, jobs=1)


def one_by_one(trace: RoutingTrace) -> list[StackHits]:
    with patch.object(paper_lanes, "LEAST_LAYERS", 10**9):
        return [stack_hits(trace, policy, "layer", "paper", "token", False, jobs=1) for policy in POLICIES]


@pytest.mark.parametrize(
    ("rule", "window", "expected"),
    [
        # a b c a b, top-1. The first three are new: places 0, 1, 2.
        (LFU, 0, [1, 1, 3]),  # as often, so the later first: c b a, a at place 2; then a c b, b at place 2
        (NEXT_USE, 0, [1, 2, 2]),  # c a b, a at place 1; c, never used again, sinks to where a was: a c b
        (LOOKAHEAD, 1, [1, 1, 3]),  # nothing but the token itself is in sight: as lru
        (LOOKAHEAD, 2, [1, 2, 2]),  # a comes into sight when c is inserted, b when a is
    ],
)
def test_hand_solved(rule: int, window: int, expected: list[int]) -> None:
    hits, accesses = np.zeros((1, 2, 3), np.int64), np.zeros((1, 2), np.int64)
    ids, phases = np.array([[[0], [1], [2], [0], [1]]], np.int16), np.ones(5, np.uint8)
    assert run(rule, ids, np.array([0, 5]), phases, window, hits, accesses)
    assert hits.tolist() == [[[0, 0, 0], expected]]
    assert accesses.tolist() == [[0, 5]]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    layers=st.sampled_from([8, 16, 19, 25]),
    experts=st.sampled_from([9, 16, 64, 130]),
    k=st.sampled_from([1, 4, 8, 9]),
    lengths=st.lists(st.sampled_from([0, 1, 7, 40]), min_size=1, max_size=4).filter(any),
    prompts=st.booleans(),
    recorded=st.booleans(),
)
def test_equals_each_layer_by_itself(
    seed: int, layers: int, experts: int, k: int, lengths: list[int], prompts: bool, recorded: bool
) -> None:
    rng, tokens = np.random.default_rng(seed), sum(lengths)
    ids = (rng.random((tokens, layers, experts)) ** (1 + np.arange(experts) / 9)).argsort(axis=2)[:, :, :k]
    if not recorded:
        ids[rng.integers(tokens), rng.integers(layers)] = -1
    phase = rng.integers(0, 2, tokens).astype(np.uint8) if prompts else None
    offsets = np.append(0, np.cumsum(lengths))
    trace = RoutingTrace.from_arrays(ids, num_experts=experts, offsets=offsets, phase=phase)
    with (
        patch.object(paper_lanes, "FROM_ACCESSES", 0),
        patch("lrcsim.simulator.compiled.every_size.TOKENS_PER_BLOCK", 30),
    ):
        assert values(together(trace)) == values(one_by_one(trace))


def test_an_expert_twice_in_a_token_is_refused() -> None:
    trace = RoutingTrace.from_arrays(np.tile([3, 5, 7], (40, 8, 1)), num_experts=9)
    trace.experts[20, 4, 2] = 5
    for policy in ("lfu", "belady", "sch-lookahead:4"):
        with patch.object(paper_lanes, "FROM_ACCESSES", 0), pytest.raises(TraceError, match="twice in one token"):
            stack_hits(trace, policy, "layer", "paper", "token", False, jobs=1)


def test_what_does_not_suit() -> None:
    sizes: dict[str, int] = {"layers": 8, "experts": 64, "k": 8, "longest": 4_096, "window": 256}
    enough = paper_lanes.FROM_ACCESSES
    assert paper_lanes.suits(LFU, **sizes, accesses=enough)
    assert not paper_lanes.suits(LFU, **sizes, accesses=enough - 1)
    assert not paper_lanes.suits(NEXT_USE_BYPASS, **sizes, accesses=enough)
    assert not paper_lanes.suits(LFU, **{**sizes, "layers": 7}, accesses=enough)
    # 32,768 tokens x 8 are 19 bits with the one more, and as many uses 16 more: 35 bits are too many
    assert not paper_lanes.suits(LFU, **{**sizes, "longest": 32_768}, accesses=enough)
    assert paper_lanes.suits(LOOKAHEAD, **{**sizes, "longest": 32_768}, accesses=enough)
    assert paper_lanes.suits(NEXT_USE, **{**sizes, "longest": 1 << 16}, accesses=enough)
    assert not paper_lanes.suits(NEXT_USE, **{**sizes, "longest": (1 << 16) + 1}, accesses=enough)
