"""SCH: a case solved by hand, both definitions at every capacity and scope, intervals, options.

The case. Two layers of three experts, top-1, one request of four tokens, ids of layer 0 and layer 1:
0 2 | 0 2 | 1 2 | 0 1.  Static, segments of 3 tokens, sorted counts of layer 0; of layer 1:
    window 0 (tokens 0-2): 2 1 0;  3 0 0
    window 1 (tokens 1-3): 2 1 0;  2 1 0
Scope layer, 1 expert each: hits 2 + 3 + 2 + 2 = 9 of 12 accesses; by layer 4/6 and 5/6. 2 experts: 12 of 12.
Scope model, sorted over both layers: 3 2 1 0 0 0 and 2 2 1 1 0 0: 5, 9, 11 and 12 of 12 for 1, 2, 3 and 4 experts.
"""

from __future__ import annotations

from typing import Any

import naive_metrics as naive
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lrcsim.simulator.metrics.windows
from lrcsim.base.errors import ConfigError
from lrcsim.simulator import hit_rate_curve, resolve_capacity, sch, simulate
from lrcsim.simulator.cache.capacity import Scope
from lrcsim.simulator.metrics.sch_metric import Definition, sch_at_sizes
from lrcsim.traces import LayerTable, RoutingTrace

HAND = np.array([[0, 2], [0, 2], [1, 2], [0, 1]])[:, :, None]


@st.composite
def traces(draw: st.DrawFn, *, complete: bool = False) -> RoutingTrace:
    """Small traces: several requests, some empty or short, positions left out, layers of unequal size."""
    tokens, num_layers = draw(st.integers(1, 14)), draw(st.integers(1, 3))
    num_experts = draw(st.lists(st.integers(1, 5), min_size=num_layers, max_size=num_layers))
    top_k = [draw(st.integers(1, min(3, number))) for number in num_experts]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = np.full((tokens, num_layers, max(top_k)), -1)
    for layer, (number, k) in enumerate(zip(num_experts, top_k, strict=True)):
        ids[:, layer, :k] = rng.random((tokens, number)).argsort(axis=1)[:, :k]
    if not complete and draw(st.booleans()):
        ids[rng.random(ids.shape) < 0.2] = -1
    ends = sorted(draw(st.lists(st.integers(0, tokens), max_size=3)))
    layers = LayerTable.build(num_layers, num_experts, top_k)
    return RoutingTrace.from_arrays(ids, num_experts=num_experts, layers=layers, offsets=[0, *ends, tokens])


def naive_counts(trace: RoutingTrace, m: int) -> list[naive.Count]:
    experts = [[[e for e in layer if e >= 0] for layer in token] for token in trace.experts.tolist()]
    return naive.counts(experts, trace.offsets.tolist(), trace.layers.num_experts.tolist(), m)


def longest(trace: RoutingTrace) -> int:
    return int(np.diff(trace.offsets).max())


def test_the_case_solved_by_hand() -> None:
    trace = RoutingTrace.from_arrays(HAND, num_experts=3)
    found = sch(trace, 3, "1x")
    assert (found.value, found.accesses, found.interval) == (9 / 12, 12, None)
    assert found.slots.tolist() == [1, 1]
    assert found.by_layer is not None
    assert found.by_layer.tolist() == [4 / 6, 5 / 6]
    assert found.capacities.tolist() == [1, 2, 3]
    assert found.relative.tolist() == [1.0, 2.0, 3.0]
    assert found.hit_rate.tolist() == [9 / 12, 1.0, 1.0]
    found = sch(trace, 3, "1x", scope="model")
    assert (found.value, found.slots.tolist(), found.by_layer) == (9 / 12, [2], None)
    assert found.hit_rate.tolist() == [5 / 12, 9 / 12, 11 / 12, 1.0, 1.0, 1.0]
    assert found.relative.tolist() == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]


def test_the_default_is_the_papers() -> None:
    rng = np.random.default_rng(0)
    trace = RoutingTrace.from_arrays(rng.random((40, 2, 8)).argsort(axis=2)[:, :, :2], num_experts=8)
    found = sch(trace)
    assert (found.segment, found.cache, found.definition, found.slots.tolist()) == (16, "2x", "static", [4, 4])


@pytest.mark.parametrize("scope", ["layer", "model"])
@given(trace=traces(), data=st.data())
def test_static_follows_its_definition_at_every_capacity(
    scope: Scope, trace: RoutingTrace, data: st.DataObject
) -> None:
    m = data.draw(st.integers(1, longest(trace)))
    counts = naive_counts(trace, m)
    found = sch(trace, m, 1, scope=scope)
    for capacity, rate in zip(found.capacities.tolist(), found.hit_rate.tolist(), strict=True):
        hits, accesses = naive.sch_static(counts, capacity, shared=scope == "model")
        assert found.accesses == accesses
        assert rate == hits / accesses if accesses else np.isnan(rate)
        np.testing.assert_equal(sch(trace, m, capacity, scope=scope).value, rate)
    if scope == "layer":
        assert found.by_layer is not None
        for layer, rate in enumerate(found.by_layer.tolist()):
            hits, accesses = naive.sch_static([c for c in counts if c.layer == layer], 1, shared=False)
            assert rate == hits / accesses if accesses else np.isnan(rate)


@given(trace=traces(complete=True), data=st.data())
def test_the_divisor_is_m_k_layers_for_a_complete_trace(trace: RoutingTrace, data: st.DataObject) -> None:
    m = data.draw(st.integers(1, longest(trace)))
    windows = int(np.maximum(np.diff(trace.offsets) - m + 1, 0).sum())
    assert sch(trace, m).accesses == m * int(trace.layers.top_k.sum()) * windows


@given(trace=traces(complete=True))
def test_static_is_1_for_one_token_and_falls_with_the_segment(trace: RoutingTrace) -> None:
    assert sch(trace, 1, "1x").value == 1.0


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("m", [1, 3, 40])
@settings(max_examples=20)
@given(trace=traces())
def test_lookahead_is_the_policy_under_the_papers_rule(scope: Scope, m: int, trace: RoutingTrace) -> None:
    found = sch(trace, m, "1x", definition="lookahead", scope=scope)
    curve = hit_rate_curve(trace, f"sch-lookahead:{m}", scope=scope, access="paper")
    replayed = simulate(trace, f"sch-lookahead:{m}", "1x", scope=scope, access="paper", bounds=False).counts
    accesses = int(replayed.accesses.sum())
    assert found.accesses == accesses
    if accesses:
        assert found.hit_rate.tolist() == curve.hit_rate.tolist()
        assert found.value == (accesses - int(replayed.misses.sum())) / accesses


@pytest.mark.parametrize("definition", ["static", "lookahead"])
@pytest.mark.parametrize("scope", ["layer", "model"])
@settings(max_examples=20)
@given(trace=traces(), seed=st.integers(0, 5), data=st.data())
def test_intervals_equal_a_plain_bootstrap(
    definition: Definition, scope: Scope, trace: RoutingTrace, seed: int, data: st.DataObject
) -> None:
    m = data.draw(st.integers(1, longest(trace)))
    caches = ["1x", 2]
    found = sch_at_sizes(trace, m, caches, definition=definition, scope=scope, bootstrap=15, confidence=0.7, seed=seed)
    plain = sch_at_sizes(trace, m, caches, definition=definition, scope=scope)
    requests = trace.num_requests
    rng = np.random.default_rng(seed)
    weights = [np.bincount(rng.integers(0, requests, requests), minlength=requests) for _ in range(15)]
    for cache, result, same in zip(caches, found, plain, strict=True):
        np.testing.assert_equal(result.value, same.value)
        np.testing.assert_equal(result.hit_rate, same.hit_rate)
        hits, accesses = np.array([of_request(trace, r, m, cache, definition, scope) for r in range(requests)]).T
        if np.count_nonzero(accesses) < 2:
            assert result.interval is None
            continue
        drawn = np.sort([(w @ hits) / (w @ accesses) for w in weights if w @ accesses])
        low = round(len(drawn) * 0.15)
        expected = [2 * result.value - drawn[min(len(drawn) - low, len(drawn) - 1)], 2 * result.value - drawn[low]]
        assert result.interval == pytest.approx(expected, abs=1e-12)


def of_request(
    trace: RoutingTrace, request: int, m: int, cache: str | int, definition: str, scope: Scope
) -> tuple[int, int]:
    low, high = trace.offsets[request : request + 2].tolist()
    if high - low < (m if definition == "static" else 1):
        return 0, 0
    alone = RoutingTrace.from_arrays(trace.experts[low:high], num_experts=1, layers=trace.layers)
    if definition == "lookahead":
        counts = simulate(alone, f"sch-lookahead:{m}", cache, scope=scope, access="paper", bounds=False).counts
        return int(counts.accesses.sum() - counts.misses.sum()), int(counts.accesses.sum())
    counts = naive_counts(alone, m)
    if scope == "model":
        (pool,) = resolve_capacity(cache, trace.layers, scope)
        return naive.sch_static(counts, pool.capacity, shared=True)
    both = [
        naive.sch_static([c for c in counts if c.layer == pool.layers[0]], pool.capacity, shared=False)
        for pool in resolve_capacity(cache, trace.layers, scope)
    ]
    return sum(hits for hits, _ in both), sum(accesses for _, accesses in both)


@pytest.mark.parametrize("scope", ["layer", "model"])
@given(trace=traces(), data=st.data())
def test_blocks_and_jobs_do_not_matter(scope: Scope, trace: RoutingTrace, data: st.DataObject) -> None:
    m = data.draw(st.integers(1, longest(trace)))
    whole = sch(trace, m, scope=scope, bootstrap=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lrcsim.simulator.metrics.windows, "BLOCK_IDS", 0)  # four segments a block
        parts = sch(trace, m, scope=scope, bootstrap=3, jobs=1)
    for name, value in vars(whole).items():
        np.testing.assert_equal(getattr(parts, name), value)


def test_seeds() -> None:
    ids = np.random.default_rng(0).random((600, 2, 8)).argsort(axis=2)[:, :, :2]
    trace = RoutingTrace.from_arrays(ids, num_experts=8, offsets=range(0, 601, 30))
    first, again, other = (sch(trace, 8, bootstrap=100, seed=seed).interval for seed in (0, 0, 1))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment": 0}, "segment 0 is not allowed"),
        ({"segment": 0, "definition": "lookahead"}, "segment 0 is not allowed"),
        ({"segment": 5}, "longer than every request"),
        ({"definition": "statik"}, "did you mean 'static'"),
        ({"scope": "modle"}, "did you mean 'model'"),
        ({"cache": "two"}, "cache size 'two' is not understood"),
        ({"cache": "1GiB"}, "does not say how large an expert is"),
        ({"bootstrap": 0.5}, "bootstrap 0.5 is not allowed"),
    ],
)
def test_options_that_are_not_allowed(options: dict[str, Any], message: str) -> None:
    trace = RoutingTrace.from_arrays(HAND, num_experts=3)
    with pytest.raises(ConfigError, match=message):
        sch(trace, **{"segment": 2, **options})


def test_bytes_need_experts_of_one_size_in_a_shared_pool() -> None:
    trace = RoutingTrace.from_arrays(HAND, num_experts=3, expert_bytes=[10, 20])
    with pytest.raises(ConfigError, match="SCH counts experts"):
        sch(trace, 3, "60B", scope="model")
    assert sch(trace, 3, "60B").slots.tolist() == [3, 1]
