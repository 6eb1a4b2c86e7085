"""Layers side by side in lanes have the hits that each has by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import naive
import naive_traces
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import TraceError
from lrcsim.simulator.compiled import in_lanes, lanes_uses
from lrcsim.simulator.compiled.every_size import StackHits, stack_hits
from lrcsim.simulator.compiled.stack_decode import LFU, LOOKAHEAD, NEXT_USE
from lrcsim.traces import RoutingTrace
from lrcsim.traces.importers import import_trace
from lrcsim.traces.schedule import Schedule

SHARED = Path(os.environ.get("LRCSIM_SHARED") or Path(__file__).resolve().parents[4] / "shared") / "traces"
RULES = ["belady", "lfu", "sch-lookahead:1", "sch-lookahead:3", "sch-lookahead:40", "sch-lookahead:5000"]


@pytest.fixture(autouse=True, scope="module")
def short_traces_too() -> Iterator[None]:
    """Let lanes be taken where they suit, whether they pay or not."""
    with patch.object(in_lanes, "pays", lambda *_: True):
        yield


PAYS = in_lanes.pays


def by_itself(*arguments: Any, **named: Any) -> StackHits:
    """Return the hits as the kernels of one layer count them."""
    with patch.object(in_lanes, "suits", lambda *_: False):
        return stack_hits(*arguments, **named)


def same(one: StackHits, other: StackHits) -> bool:
    """Return whether all hits and accesses are the same."""
    pools = zip(one.hits, other.hits, strict=True)
    return all(np.array_equal(a, b) for a, b in pools) and np.array_equal(one.accesses, other.accesses)


@pytest.mark.parametrize("policy", RULES)
@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32),
    tokens=st.integers(1, 400),
    layers=st.integers(6, 19),
    experts=st.integers(1, 70),
    k=st.integers(1, 14),
    holes=st.sampled_from([0, 0.02, 0.4]),
    phases=st.sampled_from(["none", "prompts", "mixed"]),
    warm=st.booleans(),
    prefill=st.sampled_from(["step", "token", "chunk:3"]),
    part=st.sampled_from([7, 100, 65_536]),
)
def test_equals_the_kernels_of_one_layer(
    policy: str, seed: int, tokens: int, layers: int, experts: int, k: int, holes: float, phases: str, warm: bool,
    prefill: str, part: int,
) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    taste = np.repeat(rng.random((tokens // 4 + 1, layers, experts)), 4, axis=0)[:tokens]
    ids = (rng.random(taste.shape) + taste + rng.random((layers, experts))).argsort(axis=2)[:, :, : min(k, experts)]
    ids[rng.random(ids.shape) < holes] = -1
    ids[rng.random(tokens) < holes] = -1
    offsets = [0, *sorted(rng.integers(0, tokens + 1, 3).tolist()), tokens]
    phase = {"none": None, "prompts": np.arange(tokens) % 20 > 6, "mixed": rng.random(tokens) < 0.5}[phases]
    trace = RoutingTrace.from_arrays(
        ids, num_experts=experts, offsets=offsets, phase=None if phase is None else phase.astype(np.uint8)
    )
    how: Any = (policy, "layer", "coresident", prefill, warm)
    with patch.object(in_lanes, "TOKENS", part):
        found = stack_hits(trace, *how, jobs=1)
    assert same(found, by_itself(trace, *how, jobs=1))


@pytest.mark.parametrize("policy", ["belady", "lfu", "sch-lookahead:2"])
@settings(max_examples=15)
@given(
    seed=st.integers(0, 2**32),
    tokens=st.integers(1, 24),
    warm=st.booleans(),
    prefill=st.sampled_from(["step", "chunk:2"]),
)
def test_every_capacity_equals_the_definition(policy: str, seed: int, tokens: int, warm: bool, prefill: str) -> None:
    rng = np.random.default_rng(seed)
    layers, experts, k = 6, 5, 2
    ids = (rng.random((tokens, layers, experts)) + rng.random(experts)).argsort(axis=2)[:, :, :k]
    ids[rng.random(ids.shape) < 0.1] = -1
    offsets, phase = sorted([0, int(rng.integers(0, tokens + 1)), tokens]), rng.integers(0, 2, tokens).tolist()
    trace = RoutingTrace.from_arrays(ids, num_experts=experts, offsets=offsets, phase=phase)
    assert in_lanes.suits(trace, LFU, 0)
    found = stack_hits(trace, policy, "layer", "coresident", prefill, warm, jobs=1)
    name, _, ahead = policy.partition(":")
    for slots in range(experts + 1):
        wanted = naive.replay(
            naive_traces.Trace(ids.tolist(), [experts] * layers, [k] * layers, offsets, phase),
            name, {"m": float(ahead)} if ahead else {}, str(slots), "layer", "coresident", prefill, warm,
        )  # fmt: skip
        hits = np.subtract(wanted.accesses, wanted.misses).sum(axis=1)
        assert found.at([slots] * layers).tolist() == hits.tolist(), f"{slots} slots"


def test_hand_solved() -> None:
    # One expert per token, 0 1 2 0 1 0 in even layers, 2 1 0 2 1 2 in odd ones: the same but for names.
    # Two slots, * is a hit; which is put out:
    # optimum       0, 1, 2 (puts out 1: 0 is used sooner), 0*, 1 (2 is never used again), 0*        two hits
    # lfu           0, 1, 2 (0, the older of one use each), 0 (1), 1 (2: one use against two), 0*     one hit
    # next 2 steps  0, 1, 2 (neither is used in steps 2 and 3 but 0, so 1), 0*, 1 (2), 0*             two hits
    line = np.array([0, 1, 2, 0, 1, 0])
    ids = np.stack([line if layer % 2 == 0 else 2 - line for layer in range(7)], axis=1)[:, :, None]
    trace = RoutingTrace.from_arrays(ids, num_experts=3)
    for policy, hits in (("belady", 2), ("lfu", 1), ("sch-lookahead:2", 2)):
        found = stack_hits(trace, policy, "layer", "coresident", "token", True, jobs=1)
        assert [int(layer[:, 2].sum()) for layer in found.hits] == [hits] * 7, policy
        assert [int(layer[:, 3].sum()) for layer in found.hits] == [3] * 7, policy


@pytest.mark.parametrize("policy", ["belady", "lfu", "sch-lookahead:2"])
def test_an_expert_twice_in_a_token_is_refused(policy: str) -> None:
    for token in range(3):
        trace = RoutingTrace.from_arrays(np.tile([[[0, 1]], [[2, 1]], [[0, 2]]], (1, 8, 1)), num_experts=3)
        trace.experts[token, 5] = 2
        with pytest.raises(TraceError, match="twice in one token"):
            stack_hits(trace, policy, "layer", "coresident", "step", True, jobs=1)


def test_what_does_not_fit_takes_the_kernels_of_one_layer() -> None:
    few = RoutingTrace.from_arrays(np.zeros((2, 5, 1), np.int16), num_experts=4)
    assert not in_lanes.suits(few, LFU, 0)
    for experts, fits in ((256, True), (257, False)):
        trace = RoutingTrace.from_arrays(np.zeros((2, 6, 1), np.int16), num_experts=experts)
        assert [in_lanes.suits(trace, rule, 16) for rule in (LFU, NEXT_USE, LOOKAHEAD)] == [fits] * 3
    uneven = RoutingTrace.from_arrays(np.array([[[0, 1]] * 5 + [[0, -1]]]), num_experts=4, top_k=[2] * 5 + [1])
    assert not in_lanes.suits(uneven, LFU, 0)
    # Uses and numbers together take 32 bits: 11 for numbers leave 2**21 uses, 10 twice as many.
    assert [in_lanes.form_of(64, 8, uses, 0).bits for uses in (2**20, 2**21, 2**22 - 3)] == [11, 10, 10]  # type: ignore[union-attr]
    assert in_lanes.form_of(64, 8, 2**24, 0) is None
    assert in_lanes.form_of(64, 8, 2**40, 16).kind is np.uint16  # type: ignore[union-attr]


def steps_of(lengths: list[int]) -> tuple[RoutingTrace, Schedule]:
    """Make a trace of which each prompt is one step of so many tokens."""
    offsets = np.cumsum([0, *lengths])
    trace = RoutingTrace.from_arrays(
        np.zeros((offsets[-1], 6, 1), np.int16), num_experts=4, offsets=offsets, phase=np.zeros(offsets[-1], np.uint8)
    )
    return trace, Schedule(trace, "step")


@pytest.mark.parametrize(
    ("rule", "lengths", "pays"),
    [
        (LFU, [2] + [1] * 5, True),
        (LFU, [2] + [1] * 4, False),  # a step of two tokens costs as much as five of one gain
        (LFU, [12] + [1] * 4, False),
        (LFU, [13] + [1] * 4, True),
        (LOOKAHEAD, [13] + [1] * 4, False),
        (LOOKAHEAD, [13, 100] + [1] * 10, True),
        (LOOKAHEAD, [13, 100] + [1] * 9, False),
        (NEXT_USE, [2, 2, 2], True),
    ],
)
def test_small_steps_of_several_tokens_do_not_pay(rule: int, lengths: list[int], pays: bool) -> None:
    trace, schedule = steps_of(lengths)
    with patch.object(in_lanes, "FROM_ACCESSES", 0):
        assert PAYS(trace, schedule, rule, 16) == pays


def test_nothing_is_compiled_for_a_short_trace() -> None:
    trace, schedule = steps_of([1] * 7)  # 42 accesses
    form = in_lanes.form_of(4, 1, 7, 0)
    assert form is not None
    assert form.kind is np.uint16
    for known, found in (([], False), ([("any",)], True)):
        with patch.object(in_lanes, "signatures", lambda run, known=known: known):
            for length, pays in ((43, found), (42, True)):
                with patch.object(in_lanes, "FROM_ACCESSES", length):
                    assert PAYS(trace, schedule, NEXT_USE, 0) == pays
    for kind, found in (("uint16", True), ("uint32", False)):
        known = [(None,) * lanes_uses.COSTS + (np.empty(0, kind),)]
        with patch.object(in_lanes, "signatures", lambda run, known=known: known):
            assert PAYS(trace, schedule, LFU, 0) == found


@pytest.mark.parametrize("name", ["gpt-oss-20b.decode.npz", "qwen3-30b-a3b.route.csv"])
def test_recorded_traces(tmp_path: Path, name: str) -> None:
    if not (SHARED / name).is_file():
        pytest.skip(f"the shared trace {name} is not there (LRCSIM_SHARED names the folder that has traces/)")
    import_trace(SHARED / name, tmp_path / "t.h5")
    trace = RoutingTrace.open(tmp_path / "t.h5")
    for policy in ("belady", "lfu", "sch-lookahead:16"):
        for warm in (True, False):
            how: Any = (policy, "layer", "coresident", "step", warm)
            assert same(stack_hits(trace, *how, jobs=2), by_itself(trace, *how, jobs=1)), (policy, warm)
