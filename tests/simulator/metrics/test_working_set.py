"""How many experts a layer uses: a case solved by hand, and definition-level twins on random traces.

The case. One layer of 4 experts, top-2. Requests of 3 and 2 decoded tokens: 01 12 23 | 01 03. Batches of 2: steps 01+01
and 12+03 have 2 and 4 experts; the first request's last token runs alone and does not count. Windows of 2 tokens: 012
123 | 013: 3 each. Requests: 4 and 3; the trace: 4. Of two tokens, even routing: 4 (1 - (1 - 1/2)^2) = 3.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_sch import traces

from lrcsim.simulator.metrics import windows
from lrcsim.simulator.metrics.working_set import Sizes, batch_unions, quantile, whole_sets, working_sets
from lrcsim.simulator.serving.batching import batched
from lrcsim.traces import RoutingTrace

HAND = np.array([[0, 1], [1, 2], [2, 3], [0, 1], [0, 3]])[:, None, :]


def hand() -> RoutingTrace:
    return RoutingTrace.from_arrays(HAND, num_experts=4, offsets=[0, 3, 5])


def test_the_case_solved_by_hand() -> None:
    one, two = batch_unions(hand(), [1, 2, 4])
    assert (one.batch, one.sizes.mean, one.sizes.number, one.picks, one.even) == (1, 2, 5, 2, 2)
    assert (two.batch, two.sizes.mean, two.sizes.quantile(0.9), two.picks, two.even) == (2, 3, 4, 4, 3)
    assert two.sizes.over(1) == (1.5, 0.5)  # 2/2 and 4/2
    assert two.sizes.over(2) == (0.75, 0.0)  # 2/4 and 4/4: it fits
    pairs = working_sets(hand(), 2)
    assert pairs is not None
    assert pairs.counted.tolist() == [[0, 0, 0, 3, 0]]
    assert working_sets(hand(), 4) is None
    of_requests, of_trace = whole_sets(hand())
    assert of_requests.counted.tolist() == [[0, 0, 0, 1, 1]]
    assert of_trace.counted.tolist() == [[0, 0, 0, 0, 1]]


def test_only_decode_steps_with_all_positions_count() -> None:
    ids = np.concatenate([HAND, HAND])
    ids[9, 0, 1] = -1
    trace = RoutingTrace.from_arrays(ids, num_experts=4, offsets=[0, 5, 10], phase=[0, 0, 1, 1, 1] * 2)
    (two,) = batch_unions(trace, [2])
    assert two.sizes.counted.tolist() == [[0, 0, 2, 0, 0]]  # 23+23, 01+01; 03+0? is not complete


def test_layers_of_different_size_are_held_against_their_own_capacity() -> None:
    sizes = Sizes(np.array([[0, 0, 1, 0], [0, 0, 0, 1]]), np.array([1, 2]))
    assert sizes.over(2) == ((2 / 2 + 3 / 4) / 2, 0.0)
    assert sizes.over(1) == ((2 / 1 + 3 / 2) / 2, 1.0)


@given(traces(), st.integers(1, 5))
def test_windows_against_the_definition(trace: RoutingTrace, length: int) -> None:
    kept = windows.BLOCK_IDS
    windows.BLOCK_IDS = 1  # several blocks
    try:
        found = working_sets(trace, length)
    finally:
        windows.BLOCK_IDS = kept
    wanted: Counter[tuple[int, int]] = Counter()
    for low, high in zip(trace.offsets[:-1], trace.offsets[1:], strict=True):
        for start in range(low, high - length + 1):
            for layer in range(trace.num_layers):
                used = set(trace.experts[start : start + length, layer].ravel().tolist()) - {-1}
                wanted[layer, len(used)] += 1
    counted = {} if found is None else dict(np.ndenumerate(found.counted))
    assert {key: number for key, number in counted.items() if number} == dict(wanted)


def test_a_request_that_ends_with_a_block_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "BLOCK_IDS", 1)  # blocks of four windows' lengths
    trace = RoutingTrace.from_arrays(np.arange(8).reshape(8, 1, 1), num_experts=8, offsets=[0, 4, 8])
    found = working_sets(trace, 1)
    assert found is not None
    assert found.counted[0].tolist() == [0, 8, 0, 0, 0, 0, 0, 0, 0]


@given(traces())
def test_whole_sets_against_the_definition(trace: RoutingTrace) -> None:
    of_requests, of_trace = whole_sets(trace)
    for sizes, bounds in (
        (of_requests, list(zip(trace.offsets[:-1], trace.offsets[1:], strict=True))),
        (of_trace, [(0, trace.num_tokens)]),
    ):
        wanted: Counter[tuple[int, int]] = Counter()
        for low, high in bounds:
            for layer in range(trace.num_layers):
                if used := set(trace.experts[low:high, layer].ravel().tolist()) - {-1}:
                    wanted[layer, len(used)] += 1
        assert {key: number for key, number in np.ndenumerate(sizes.counted) if number} == dict(wanted)


@given(traces(), st.integers(1, 4))
def test_unions_against_the_definition(trace: RoutingTrace, batch: int) -> None:
    """Over the order that a server runs, step by step."""
    order = batched(trace, batch=batch)
    tokens = [[token] for token in range(trace.num_tokens)]
    if batch > 1:
        step = order.column("step")
        tokens = [np.flatnonzero(step == number).tolist() for number in np.unique(step)]
    wanted: Counter[tuple[int, int]] = Counter()
    for together in tokens:
        for layer, k in enumerate(trace.layers.top_k.tolist()):
            used = [e for token in together for e in order.experts[token, layer].tolist() if e >= 0]
            if len(together) == batch and len(used) == batch * k:
                wanted[layer, len(set(used))] += 1
    found = batch_unions(trace, [batch])
    assert bool(found) == bool(wanted)
    if found:
        counted = {key: number for key, number in np.ndenumerate(found[0].sizes.counted) if number}
        assert counted == dict(wanted)
        number = sum(wanted.values())
        k, experts = trace.layers.top_k.tolist(), trace.layers.num_experts.tolist()
        assert found[0].picks == pytest.approx(sum(n * batch * k[at] for (at, _), n in wanted.items()) / number)
        even = sum(n * experts[at] * (1 - (1 - k[at] / experts[at]) ** batch) for (at, _), n in wanted.items())
        assert found[0].even == pytest.approx(even / number)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=12), st.sampled_from([0.1, 0.5, 0.9, 0.99, 1.0]))
def test_quantile_against_the_definition(values: list[int], share: float) -> None:
    counted = np.bincount(values)
    wanted = min(v for v in values if sum(other <= v for other in values) >= share * len(values) - 1e-9)
    assert quantile(counted, share) == wanted


def test_random_routing_uses_what_the_formula_says() -> None:
    rng = np.random.default_rng(0)
    ids = rng.random((16_000, 1, 32)).argsort(axis=2)[:, :, :4]
    trace = RoutingTrace.from_arrays(ids, num_experts=32, offsets=np.arange(0, 16_001, 1000))
    for found in batch_unions(trace, [2, 8, 16]):
        assert found.sizes.mean == pytest.approx(found.even, rel=0.01)
