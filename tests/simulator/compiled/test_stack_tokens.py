"""The kernel for steps of one token equals the general one, which more than 1,024 keys take."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import TraceError
from lrcsim.simulator.compiled import stack_decode as stack_tokens
from lrcsim.simulator.compiled.every_size import stack_hits
from lrcsim.traces import RoutingTrace

RULES = ["lfu", "belady", "belady-bypass", "sch-lookahead:1", "sch-lookahead:5", "sch-lookahead:100"]


@pytest.mark.parametrize("policy", RULES)
@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32),
    tokens=st.integers(1, 80),
    experts=st.integers(1, 70),
    k=st.integers(1, 14),
    holes=st.booleans(),
    phases=st.sampled_from(["none", "prompts", "mixed"]),
    warm=st.booleans(),
    prefill=st.sampled_from(["step", "token"]),
)
def test_equals_the_general_kernel(
    policy: str, seed: int, tokens: int, experts: int, k: int, holes: bool, phases: str, warm: bool, prefill: str
) -> None:
    rng = np.random.default_rng(seed)
    taste = np.repeat(rng.random((tokens // 4 + 1, 1, experts)), 4, axis=0)[:tokens]
    ids = (rng.random((tokens, 1, experts)) + taste + rng.random(experts)).argsort(axis=2)[:, :, : min(k, experts)]
    if holes:
        ids[rng.random(ids.shape) < 0.15] = -1
    offsets = [0, *sorted(rng.integers(0, tokens + 1, 2).tolist()), tokens]
    phase = {"none": None, "prompts": np.arange(tokens) % 20 > 6, "mixed": rng.random(tokens) < 0.5}[phases]
    found = []
    for known in (experts, 1025):
        trace = RoutingTrace.from_arrays(
            ids, num_experts=known, offsets=offsets, phase=None if phase is None else phase.astype(np.uint8)
        )
        found.append(stack_hits(trace, policy, "layer", "coresident", prefill, warm, jobs=1))
    assert found[0].hits[0].tolist() == found[1].hits[0][:, : experts + 1].tolist()
    assert found[0].accesses.tolist() == found[1].accesses.tolist()


@pytest.mark.parametrize("policy", RULES)
def test_an_expert_twice_in_a_token_is_refused(policy: str) -> None:
    trace = RoutingTrace.from_arrays([[[0, 1]], [[2, 1]], [[0, 2]]], num_experts=3)
    trace.experts[1, 0] = 2
    with pytest.raises(TraceError, match="twice in one token"):
        stack_hits(trace, policy, "layer", "coresident", "step", True, jobs=1)


def test_what_does_not_fit_into_costs_takes_the_general_kernel() -> None:
    fits, uses = stack_tokens.fits, np.zeros(4, np.int64)
    assert fits(stack_tokens.LFU, 256, uses, 0, 2**29 - 1, 2**25 - 1)
    assert not fits(stack_tokens.LFU, 256, uses, 1, 2**29 - 1, 2**25 - 1)
    assert not fits(stack_tokens.LOOKAHEAD, 256, uses + 1, 0, 8, 2**25 - 1)
    assert not fits(stack_tokens.NEXT_USE, 1025, uses, 0, 8, 1)
    assert fits(stack_tokens.NEXT_USE, 1024, uses, 2**40, 8, 2**40)
