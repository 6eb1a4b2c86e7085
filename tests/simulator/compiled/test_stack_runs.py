"""A large pool's stack, kept as sorted runs, has the hits of the general kernel."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import naive
import naive_traces
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import TraceError
from lrcsim.simulator.compiled import every_size, stack_runs
from lrcsim.simulator.compiled.every_size import StackHits, stack_hits
from lrcsim.simulator.compiled.stack_decode import LFU, LOOKAHEAD, NEXT_USE, NEXT_USE_BYPASS
from lrcsim.traces import RoutingTrace

RULES = ["belady", "belady-bypass", "lfu"]


def general(*arguments: Any, **named: Any) -> StackHits:
    """Return the hits as the general kernel counts them."""
    with patch.object(every_size, "suits", lambda *_: False):
        return stack_hits(*arguments, **named)


@pytest.mark.parametrize("policy", RULES)
@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    tokens=st.integers(1, 120),
    layers=st.integers(2, 7),
    experts=st.integers(1, 70),
    k=st.integers(1, 12),
    holes=st.booleans(),
    phases=st.sampled_from(["none", "prompts", "mixed"]),
    warm=st.booleans(),
    prefill=st.sampled_from(["step", "token", "chunk:3"]),
    only=st.sampled_from([None, 0, 1]),
)
def test_equals_the_general_kernel(
    policy: str, seed: int, tokens: int, layers: int, experts: int, k: int, holes: bool, phases: str, warm: bool,
    prefill: str, only: int | None,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    taste = np.repeat(rng.random((tokens // 4 + 1, layers, experts)), 4, axis=0)[:tokens]
    ids = (rng.random(taste.shape) + taste + rng.random((layers, experts))).argsort(axis=2)[:, :, : min(k, experts)]
    if holes:
        ids[rng.random(ids.shape) < 0.15] = -1
    offsets = [0, *sorted(rng.integers(0, tokens + 1, 2).tolist()), tokens]
    phase = {"none": None, "prompts": np.arange(tokens) % 20 > 6, "mixed": rng.random(tokens) < 0.5}[phases]
    trace = RoutingTrace.from_arrays(
        ids, num_experts=experts, offsets=offsets, phase=None if phase is None else phase.astype(np.uint8)
    )
    how: Any = (policy, "model", "coresident", prefill, warm)
    with patch.object(every_size, "TOKENS_PER_BLOCK", 50):  # lfu streams: its state goes on from block to block
        found = stack_hits(trace, *how, jobs=1, only=only)
    wanted = general(trace, *how, jobs=1, only=only)
    assert found.hits[0].tolist() == wanted.hits[0].tolist()
    assert found.accesses.tolist() == wanted.accesses.tolist()


@pytest.mark.parametrize("policy", RULES)
@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32),
    tokens=st.integers(1, 20),
    warm=st.booleans(),
    prefill=st.sampled_from(["step", "token"]),
)
def test_every_capacity_equals_the_definition(policy: str, seed: int, tokens: int, warm: bool, prefill: str) -> None:
    rng = np.random.default_rng(seed)
    layers, experts, k = 3, 5, 2
    ids = (rng.random((tokens, layers, experts)) + rng.random(experts)).argsort(axis=2)[:, :, :k]
    offsets, phase = sorted([0, int(rng.integers(0, tokens + 1)), tokens]), rng.integers(0, 2, tokens).tolist()
    trace = RoutingTrace.from_arrays(ids, num_experts=experts, offsets=offsets, phase=phase)
    found = stack_hits(trace, policy, "model", "coresident", prefill, warm, jobs=1)
    for slots in range(layers * experts + 1):
        wanted = naive.replay(
            naive_traces.Trace(ids.tolist(), [experts] * layers, [k] * layers, offsets, phase),
            policy, {}, str(slots), "model", "coresident", prefill, warm,
        )  # fmt: skip
        hits = np.subtract(wanted.accesses, wanted.misses).sum(axis=1)
        assert found.at([slots]).tolist() == hits.tolist(), f"{slots} slots"


def test_what_sinks_through_a_run_hand_solved() -> None:
    # 4 and 9 sink through 1 3 5 8: 1 and 3 stay, 4 takes the place of 5, which takes that of 8; 8 and 9 sink on.
    costs, carried = np.array([0, 1, 3, 5, 8, 7]), np.array([4, 9])
    merge: Any = stack_runs._merge
    merge(costs, 1, 5, carried, 0, 2, np.zeros(2, np.int64), np.zeros(16, np.int64))
    assert (costs.tolist(), carried.tolist()) == ([0, 1, 3, 4, 5, 7], [8, 9])
    # 2 and 6 sink through 1 3 5: the two greatest of the five come out.
    costs, carried = np.array([1, 3, 5]), np.array([2, 6])
    merge(costs, 0, 3, carried, 0, 2, np.zeros(2, np.int64), np.zeros(16, np.int64))
    assert (costs.tolist(), carried.tolist()) == ([1, 2, 3], [5, 6])


def test_hand_solved() -> None:
    # Two layers of 2 experts, a b in layer 0, c d in layer 1, one per token: a c, b c, a d, a c. One pool, the optimum.
    # 2 slots: a, c; b puts out a (used in layer-step 4, c in 3); c*; a puts out b (never again); d puts out c (used in
    # 7, a in 6); a*; c puts out d: two hits. 3 slots: a, c, b; c*, a*; d puts out b (never again); a*, c*: four.
    trace = RoutingTrace.from_arrays([[[0], [0]], [[1], [0]], [[0], [1]], [[0], [0]]], num_experts=2)
    found = stack_hits(trace, "belady", "model", "coresident", "token", True, jobs=1)
    assert found.hits[0][1].tolist() == [0, 0, 2, 4, 4]


@pytest.mark.parametrize("policy", RULES)
def test_an_expert_twice_in_a_token_is_refused(policy: str) -> None:
    trace = RoutingTrace.from_arrays(np.tile([[[0, 1]], [[2, 1]], [[0, 2]]], (1, 3, 1)), num_experts=3)
    trace.experts[1, 1] = 2
    with pytest.raises(TraceError, match="twice in one token"):
        stack_hits(trace, policy, "model", "coresident", "step", True, jobs=1)


def test_what_suits() -> None:
    uses = np.zeros(4, np.int64)
    assert stack_runs.suits(LFU, 6_144, uses, 0, 2**29 - 1, 2**20 - 1)
    assert not stack_runs.suits(LFU, 6_144, uses, 1, 2**29 - 1, 2**20 - 1)
    assert not stack_runs.suits(LFU, 6_144, uses + 1, 0, 8, 2**20 - 1)
    assert [stack_runs.suits(rule, 6_144, uses, 2**40, 8, 8) for rule in (NEXT_USE, NEXT_USE_BYPASS, LOOKAHEAD)] == [
        True,
        True,
        False,
    ]
