"""Experts inserted one by one: the kernel for one layer equals the general one, which more than 1,024 keys take."""

from __future__ import annotations

from unittest.mock import patch

import naive
import naive_traces
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import TraceError
from lrcsim.simulator.compiled.every_size import stack_hits
from lrcsim.traces import RoutingTrace

RULES = ["lfu", "belady", "belady-bypass", "sch-lookahead:1", "sch-lookahead:5", "sch-lookahead:100"]
CASES = [(policy, "sequential") for policy in RULES] + [(policy, "paper") for policy in RULES if "bypass" not in policy]
HAND = [[[0, 1]], [[2, 1]], [[1, 3]], [[2, 0]], [[2, 3]], [[3, 0]]]


@pytest.mark.parametrize(("policy", "access"), CASES)
@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    tokens=st.integers(1, 80),
    experts=st.integers(1, 70),
    k=st.integers(1, 14),
    holes=st.booleans(),
    phases=st.sampled_from(["none", "prompts", "mixed"]),
    warm=st.booleans(),
    prefill=st.sampled_from(["step", "chunk:3", "token"]),
)
def test_equals_the_general_kernel(
    policy: str, access: str, seed: int, tokens: int, experts: int, k: int, holes: bool, phases: str, warm: bool,
    prefill: str,
) -> None:  # fmt: skip
    if access == "paper":
        warm, prefill = False, "token"
    rng = np.random.default_rng(seed)
    taste = np.repeat(rng.random((tokens // 4 + 1, 1, experts)), 4, axis=0)[:tokens]
    ids = (rng.random((tokens, 1, experts)) + taste + rng.random(experts)).argsort(axis=2)[:, :, : min(k, experts)]
    if holes:
        ids[rng.random(ids.shape) < 0.15] = -1
    offsets = [0, *sorted(rng.integers(0, tokens + 1, 3).tolist()), tokens]
    phase = {"none": None, "prompts": np.arange(tokens) % 20 > 6, "mixed": rng.random(tokens) < 0.5}[phases]
    found = []
    for known in (experts, 1025):
        trace = RoutingTrace.from_arrays(
            ids, num_experts=known, offsets=offsets, phase=None if phase is None else phase.astype(np.uint8)
        )
        found.append(stack_hits(trace, policy, "layer", access, prefill, warm, jobs=1))
    assert found[0].hits[0].tolist() == found[1].hits[0][:, : experts + 1].tolist()
    assert found[0].accesses.tolist() == found[1].accesses.tolist()


@pytest.mark.parametrize(("policy", "access"), CASES)
@settings(max_examples=30)
@given(
    data=st.data(),
    experts=st.integers(1, 9),
    lengths=st.lists(st.integers(0, 12), min_size=1, max_size=4).filter(any),
    warm=st.booleans(),
)
def test_every_capacity_equals_the_definition(
    policy: str, access: str, data: st.DataObject, experts: int, lengths: list[int], warm: bool
) -> None:
    k = data.draw(st.integers(1, min(6, experts)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    ids = (rng.random((sum(lengths), 1, experts)) + rng.random(experts)).argsort(axis=2)[:, :, :k]
    ids[rng.random(ids.shape) < data.draw(st.sampled_from([0, 0.1, 0.5]))] = -1
    offsets = np.cumsum([0, *lengths]).tolist()
    phase = rng.integers(0, 2, len(ids)).tolist() if data.draw(st.booleans()) else None
    prefill = data.draw(st.sampled_from(["step", "chunk:2", "token"]))
    if access == "paper":
        warm, prefill = False, "token"
    trace = RoutingTrace.from_arrays(ids, num_experts=experts, offsets=offsets, phase=phase)
    found = stack_hits(trace, policy, "layer", access, prefill, warm, jobs=1)
    name, _, ahead = policy.partition(":")
    for slots in range(experts + 1):
        wanted = naive.replay(
            naive_traces.Trace(ids.tolist(), [experts], [k], offsets, phase),
            name, {"m": float(ahead)} if ahead else {}, str(slots), "layer", access, prefill, warm,
        )  # fmt: skip
        hits = np.subtract(wanted.accesses, wanted.misses).sum(axis=1)
        assert found.at([slots]).tolist() == hits.tolist(), f"{slots} slots"
        assert found.accesses[0].tolist() == np.sum(wanted.accesses, axis=1).tolist()


def test_hand_solved() -> None:
    def hits(policy: str, access: str, slots: int) -> int:
        trace = RoutingTrace.from_arrays(HAND, num_experts=4)
        return int(stack_hits(trace, policy, "layer", access, "token", access != "paper", jobs=1).at([slots]).sum())

    # The paper's rule, two slots: tests/simulator/test_paper_rule.py goes through it token by token.
    assert [hits(policy, "paper", 2) for policy in ("lfu", "belady", "sch-lookahead:3")] == [5, 8, 7]
    # One after the other, lfu, two slots (uses in brackets, * is a hit):
    # 0 1 -> 0(1) 1(1)      2 puts out 0, the older; 1* -> 2(1) 1(2)   1*, 3 puts out 2 -> 1(3) 3(1)
    # 2, now 2 uses, puts out 3; 0, now 2, puts out 2 -> 1(3) 0(2)     2, now 3, puts out 0; 3, now 2, puts out 1, which
    # has as many uses as 2 but is older -> 2(3) 3(2)                  3*, 0 puts out one of them. Three hits.
    assert hits("lfu", "sequential", 2) == 3
    # The optimum with bypass, one slot, next uses in brackets along 0 1 2 1 1 3 2 0 2 3 3 0:
    # 0(7), 1(3) puts it out, 2(6) bypasses 1(3), 1*, 1* and never again, 3(9) puts it out, 2(8) puts that out, 0(11)
    # bypasses, 2* and never again, 3(10) puts it out, 3*, and 0 is not used again. Four hits.
    assert hits("belady-bypass", "sequential", 1) == 4


@pytest.mark.parametrize(("policy", "access"), CASES)
def test_an_expert_twice_in_a_token_is_refused(policy: str, access: str) -> None:
    trace = RoutingTrace.from_arrays([[[0, 1]], [[2, 1]], [[0, 2]]], num_experts=3)
    trace.experts[1, 0] = 2
    with pytest.raises(TraceError, match="twice in one token"):
        stack_hits(trace, policy, "layer", access, "token", access != "paper", jobs=1)


@pytest.mark.parametrize("access", ["sequential", "paper"])
def test_the_state_goes_on_from_block_to_block(access: str) -> None:
    """The stack of lfu, which streams, is packed into costs and back at every block, in the midst of a request."""
    rng = np.random.default_rng(1)
    ids = (rng.random((300, 1, 40)) + rng.random(40)).argsort(axis=2)[:, :, :6]
    trace = RoutingTrace.from_arrays(ids, num_experts=40, offsets=[0, 120, 300])
    found = []
    for block in (7, 1_000):
        with patch("lrcsim.simulator.compiled.every_size.TOKENS_PER_BLOCK", block):
            found.append(stack_hits(trace, "lfu", "layer", access, "token", access != "paper", jobs=1).hits[0])
    assert found[0].tolist() == found[1].tolist()
