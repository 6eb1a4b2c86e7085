"""Tokens that did not run (a cached prefix, -1 in every layer) take no time, and those after them attend to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.simulator import Schedule, simulate
from lrcsim.simulator.serving.batching import batched
from lrcsim.simulator.serving.steps import steps_of
from lrcsim.traces import RoutingTrace


def trace_of(requests: list[tuple[int, int, list[int]]]) -> RoutingTrace:
    """Requests of (prompt, decoded, positions that did not run); 2 layers, 4 experts, top-1."""
    lengths = [prompt + decoded for prompt, decoded, _ in requests]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    experts = np.arange(offsets[-1] * 2).reshape(-1, 2, 1) % 4
    for begin, (_, _, idle) in zip(offsets, requests, strict=False):
        experts[[begin + at for at in idle]] = -1
    phase = np.concatenate([np.arange(prompt + decoded) >= prompt for prompt, decoded, _ in requests]).astype(np.uint8)
    return RoutingTrace.from_arrays(experts, num_experts=4, offsets=offsets, phase=phase, expert_bytes=1000)


def test_a_cached_prefix_by_hand() -> None:
    # a prompt of 6 tokens, the first 4 cached; then 2 tokens decoded. The prefill step runs positions 4 and 5, which
    # attend to 5 and 6 tokens; the KV cache that is read is that of all 6.
    steps = list(steps_of(Schedule(trace_of([(6, 2, [0, 1, 2, 3])]))))
    assert [tuple(step.size) for step in steps] == [(2, 1, 6, 11, 1), (1, 1, 7, 7, 1), (1, 1, 8, 8, 1)]
    assert steps[0].rows is not None
    assert steps[0].rows.tolist() == [4, 5]
    assert steps[1].rows is None


def test_a_cached_prefix_makes_prefill_shorter() -> None:
    def prefill(idle: int, **how: Any) -> float:
        experts = np.random.default_rng(0).random((401, 16, 64)).argsort(axis=2)[:, :, :8]
        experts[:idle] = -1
        phase = (np.arange(401) == 400).astype(np.uint8)
        trace = RoutingTrace.from_arrays(experts, num_experts=64, phase=phase)
        result = simulate(trace, cache=64, hardware="rtx-4090", model="olmoe-1b-7b", bounds=False, **how)
        return float(result.to_dict()["time"]["compute_s"])

    assert prefill(384) < prefill(0)
    assert prefill(384) == pytest.approx(prefill(384, log=True), rel=1e-9)  # the engine that has a log is the other one


def test_tokens_that_did_not_run_are_not_emitted() -> None:
    # After a prompt of one token 4 are decoded, of which the third is a hole in the record; one draft, always accepted:
    # steps of 2 and 2 tokens, which give 2 and 1. Without drafts 3 steps give one each.
    trace = trace_of([(1, 4, [3])])
    drafted = batched(trace, speculative=(1, [1]))
    assert [step.emitted for step in steps_of(Schedule(drafted))] == [(), (2,), (1,)]
    together = batched(trace_of([(1, 2, [2]), (1, 2, [])]), batch=2)
    assert [step.emitted for step in steps_of(Schedule(together))] == [(), (), (1, 1), (0, 1)]


def test_the_rate_counts_tokens_that_ran() -> None:
    random = np.random.default_rng(0).random((9, 16, 64)).argsort(axis=2)[:, :, :8]
    random[[3, 6]] = -1
    phase = (np.arange(9) > 0).astype(np.uint8)
    trace = RoutingTrace.from_arrays(random, num_experts=64, phase=phase)
    for how in ({}, {"speculative": (1, [1])}, {"speculative": (1, [0])}):
        time = simulate(trace, cache=8, hardware="rtx-4090", model="olmoe-1b-7b", **how).to_dict()["time"]
        assert time["decode_tokens_per_s"] * time["decode_s"] == pytest.approx(6), how


def test_every_block_names_its_own() -> None:
    trace = trace_of([(3, 2, [0, 1]), (4, 1, [2]), (2, 2, [])])
    blocks = list(Schedule(trace, "token").blocks(2))
    assert len(blocks) > 3
    assert [int(token) for block in blocks for token in block.idle] == [0, 1, 7]


@given(data=st.data(), batch=st.sampled_from([1, 1, 2, 3]), chunk=st.sampled_from(["step", "chunk:2", "token"]))
def test_sizes_by_position(data: st.DataObject, batch: int, chunk: str) -> None:
    requests = []
    for _ in range(data.draw(st.integers(1, 4))):
        prompt, decoded = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 4))
        idle = data.draw(st.lists(st.integers(0, prompt + decoded - 1), unique=True, max_size=6))
        requests.append((prompt, decoded, sorted(idle)))
    trace = batched(trace_of(requests), batch=batch, prefill=chunk)
    experts = trace.experts
    place = trace.read("position", 0, trace.num_tokens) if "position" in trace.columns else None
    starts = [*Schedule(trace, chunk).all_steps().starts]
    for step in steps_of(Schedule(trace, chunk)):
        end = next(start for start in starts if start > step.first_token)
        tokens = range(step.first_token, end)
        begin = max(offset for offset in trace.offsets if offset <= step.first_token)
        position = {token: int(place[token]) if place is not None else int(token - begin) for token in tokens}
        ran = [token for token in tokens if (experts[token] >= 0).any()]
        assert step.size.tokens == len(ran)
        assert step.size.pairs == sum(position[token] + 1 for token in ran)
        assert (list(tokens) if step.rows is None else step.rows.tolist()) == ran
        if place is None:
            assert step.size.context == position[tokens[-1]] + 1
