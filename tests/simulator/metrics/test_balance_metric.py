"""Load balance: a case solved by hand, its ends, its definition pair by pair, intervals, options, real traces.

The case. One layer of four experts, top-2, segments of 2 tokens, two requests:  0 1 | 0 1 | 0 2  and  2 3 | 2 3.
Two tokens of balanced random routing share 2 * 2 / 4 = 1 expert, two of the same experts share 2.
    local: windows (01 01), (01 02), (23 23) share 2, 1, 2. Of both orders: 10, chance 6, most 12: (10 - 6) / 6 = 2/3
           the first request alone: (6 - 4) / (8 - 4) = 1/2; the second: (4 - 2) / (4 - 2) = 1
    global: 01 with 23 share nothing, four times, 02 with 23 one, twice. Of both orders: 4, chance 12, most 24: -2/3
    local CV^2: counts 2 2 0 0, 2 1 1 0, 2 2 0 0: 4 * 8/16 - 1 = 1, 4 * 6/16 - 1 = 1/2, 1; mean 5/6
           random: (1 - r) / (m r) = (1/2) / (2 * 1/2) = 1/2
    global CV^2: counts 3 2 3 2: 4 * 26/100 - 1 = 1/25; random, five tokens: (1/2) / (5 * 1/2) = 1/5
"""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import naive_metrics as naive
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lrcsim.simulator.metrics.balance_sums
import lrcsim.simulator.metrics.bootstrap
import lrcsim.simulator.metrics.windows
from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.simulator import Balance, balance, srp
from lrcsim.simulator.metrics.balance_metric import NUMBERS
from lrcsim.simulator.metrics.specialisation import activation_by_domain
from lrcsim.traces import LayerTable, RoutingTrace

HAND = np.array([[0, 1], [0, 1], [0, 2], [2, 3], [2, 3]])[:, None, :]


def hand(**options: Any) -> RoutingTrace:
    return RoutingTrace.from_arrays(HAND, num_experts=4, offsets=[0, 3, 5], domains=["law", "code"], **options)


@st.composite
def traces(draw: st.DrawFn) -> RoutingTrace:
    """Small traces: several requests, some empty or short, positions left out, layers of unequal size, two stacks."""
    tokens, num_layers = draw(st.integers(2, 12)), draw(st.integers(1, 3))
    num_experts = draw(st.lists(st.integers(1, 5), min_size=num_layers, max_size=num_layers))
    top_k = [draw(st.integers(1, min(3, number))) for number in num_experts]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = np.full((tokens, num_layers, max(top_k)), -1)
    for layer, (number, k) in enumerate(zip(num_experts, top_k, strict=True)):
        score = rng.random((tokens, number)) * (1 + np.arange(number)) ** draw(st.sampled_from([0, 1]))
        ids[:, layer, :k] = score.argsort(axis=1)[:, ::-1][:, :k]
    if draw(st.booleans()):
        ids[rng.random(ids.shape) < 0.3] = -1
    stack, names = np.zeros(num_layers, np.int64), ("decoder",)
    columns: dict[str, Any] = {}
    if draw(st.booleans()):
        stack, names = np.sort(rng.integers(0, 2, num_layers)), ("encoder", "decoder")
        columns["stack"] = rng.integers(0, 2, tokens).astype(np.uint8)
        ids[columns["stack"][:, None] != stack] = -1
    ends = sorted(draw(st.lists(st.integers(0, tokens), max_size=3)))
    labels = [draw(st.sampled_from(["law", "code"])) for _ in range(len(ends) + 1)]
    layers = LayerTable.build(num_layers, num_experts, top_k, stack=stack, stack_names=names)
    return RoutingTrace.from_arrays(
        ids, num_experts=num_experts, layers=layers, offsets=[0, *ends, tokens], domains=labels, **columns
    )


def lists_of(trace: RoutingTrace, layer: int) -> tuple[naive.Experts, list[int]]:
    """The tokens of a layer's stack as lists, and where their requests begin."""
    rows = [[[e for e in row if e >= 0] for row in token] for token in trace.experts.tolist()]
    if "stack" not in trace.columns:
        return rows, trace.offsets.tolist()
    mine = trace.column("stack") == trace.layers.stack[layer]
    offsets = [int(mine[:end].sum()) for end in trace.offsets]
    return [row for row, own in zip(rows, mine, strict=True) if own], offsets


def longest(trace: RoutingTrace) -> int:
    return max(max(b - a for a, b in pairwise(lists_of(trace, i)[1])) for i in range(trace.num_layers))


def only(trace: RoutingTrace, requests: list[int]) -> RoutingTrace:
    """A trace of some requests, in the order and as often as given."""
    spans = [np.arange(trace.offsets[i], trace.offsets[i + 1]) for i in requests]
    tokens = np.concatenate([np.zeros(0, np.int64), *spans])
    columns = {"stack": trace.column("stack")[tokens]} if "stack" in trace.columns else {}
    offsets = np.cumsum([0, *(len(span) for span in spans)])
    return RoutingTrace.from_arrays(
        trace.experts[tokens], num_experts=trace.layers.num_experts, layers=trace.layers, offsets=offsets, **columns
    )


def local(trace: RoutingTrace, m: int, layers: Any = None) -> Fraction | None:
    found = []
    for layer in range(trace.num_layers) if layers is None else layers:
        pairs = naive.local_pairs(*lists_of(trace, layer), layer, m)
        found.append(naive.shared(pairs, int(trace.layers.num_experts[layer])))
    return naive.imbalance(found)


def overall(trace: RoutingTrace, layers: Any = None) -> Fraction | None:
    found = []
    for layer in range(trace.num_layers) if layers is None else layers:
        pairs = naive.global_pairs(*lists_of(trace, layer), layer)
        found.append(naive.shared(pairs, int(trace.layers.num_experts[layer])))
    return naive.imbalance(found)


def agrees(value: float, expected: Fraction | None) -> bool:
    return math.isnan(value) if expected is None else value == pytest.approx(float(expected), abs=1e-12)


def test_the_case_solved_by_hand() -> None:
    found = balance(hand(), 2)
    assert found.local_imbalance == pytest.approx(2 / 3, rel=1e-14)
    assert found.global_imbalance == pytest.approx(-2 / 3, rel=1e-14)
    assert found.above_global == pytest.approx(4 / 3, rel=1e-14)
    assert (found.local_cv, found.local_cv_random) == pytest.approx((math.sqrt(5 / 6), math.sqrt(1 / 2)))
    assert (found.global_cv, found.global_cv_random) == pytest.approx((1 / 5, math.sqrt(1 / 5)))
    assert (found.windows, found.interval, found.groups) == (3, None, None)
    groups = balance(hand(), 2, level="domain").groups
    assert groups is not None
    assert groups.local_imbalance.tolist() == pytest.approx([1 / 2, 1])
    assert np.isnan(groups.global_imbalance).all()  # a request each: no two to compare
    assert groups.windows.tolist() == [2, 1]
    assert groups.low is None


def test_the_ends_of_the_scale() -> None:
    def at(ids: npt.ArrayLike, m: int) -> float:
        return balance(RoutingTrace.from_arrays(np.asarray(ids)[:, None, :], num_experts=6), m).local_imbalance

    assert at([[1, 4]] * 8, 4) == 1
    assert at([[0, 1], [2, 3], [4, 5]] * 3, 3) == pytest.approx(-1 / 2)  # round robin: -1 / (m - 1)
    assert at([[0, 1, 2, 3, 4, 5]] * 4, 2) != at([[1, 4]] * 8, 4)
    assert math.isnan(at([[0, 1, 2, 3, 4, 5]] * 4, 2))  # every token uses every expert: nothing to be unequal


def test_every_choice_of_two_tokens_has_imbalance_0_on_average() -> None:
    # Balanced random routing, by brute force: all 15 * 15 pairs of choices of 2 of 6 experts, each once.
    from itertools import combinations

    choices = list(combinations(range(6), 2))
    ids = np.array([pair for one in choices for other in choices for pair in (one, other)])[:, None, :]
    found = balance(RoutingTrace.from_arrays(ids, num_experts=6, offsets=range(0, len(ids) + 1, 2)), 2)
    assert found.local_imbalance == pytest.approx(0, abs=1e-14)
    assert found.local_cv == pytest.approx(found.local_cv_random)
    assert found.local_cv_random == pytest.approx(math.sqrt((1 - 1 / 3) / (2 * 1 / 3)))


@given(trace=traces(), data=st.data())
def test_every_level_follows_its_definition(trace: RoutingTrace, data: st.DataObject) -> None:
    if longest(trace) < 2:
        return
    m = data.draw(st.integers(2, longest(trace)))
    for level in ("model", "stack", "layer", "domain"):
        found = balance(trace, m, level=level)
        assert agrees(found.local_imbalance, local(trace, m))
        assert agrees(found.global_imbalance, overall(trace))
        if found.groups is None:
            continue
        for place in range(len(found.groups.local_imbalance)):
            part, layers = trace, list(range(trace.num_layers))
            if level == "stack":
                layers = np.flatnonzero(trace.layers.stack == place).tolist()
            elif level == "layer":
                layers = [place]
            else:
                assert found.domains is not None
                assert trace.domains is not None
                label = found.domains[place]
                own = [i for i, name in enumerate(trace.domains) if name == label]
                if not np.diff(trace.offsets)[own].any():  # no tokens
                    assert math.isnan(found.groups.local_imbalance[place])
                    assert math.isnan(found.groups.global_imbalance[place])
                    continue
                part = only(trace, own)
            assert agrees(float(found.groups.local_imbalance[place]), local(part, m, layers))
            assert agrees(float(found.groups.global_imbalance[place]), overall(part, layers))
            difference = found.groups.local_imbalance[place] - found.groups.global_imbalance[place]
            assert found.groups.above_global[place] == pytest.approx(difference, nan_ok=True)


@given(trace=traces(), data=st.data())
def test_windows_and_variation_follow_their_definition(trace: RoutingTrace, data: st.DataObject) -> None:
    if longest(trace) < 2:
        return
    m = data.draw(st.integers(2, longest(trace)))
    found = balance(trace, m, level="layer")
    assert found.groups is not None
    squares, active, chance, every_window = 0.0, 0.0, 0.0, set()
    for layer, number in enumerate(trace.layers.num_experts.tolist()):
        tokens, offsets = lists_of(trace, layer)
        counts = [c for c in naive.counts(tokens, offsets, [number] * trace.num_layers, m) if c.layer == layer]
        windows = sorted({(c.request, c.start) for c in counts})
        assert found.groups.windows[layer] == len(windows)
        every_window |= {(int(trace.layers.stack[layer]), *window) for window in windows}
        for request, start in windows:
            uses = [c.uses for c in counts if (c.request, c.start) == (request, start)]
            own = tokens[offsets[request] + start : offsets[request] + start + m]
            squares += number * sum(n * n for n in uses)
            active += sum(uses) ** 2
            # sum over experts of the variance of a count and of its mean squared, token by token: a (1 - a / E)
            chance += number * sum(len(token[layer]) * (1 - len(token[layer]) / number) for token in own)
    assert found.windows == len(every_window)
    if active:
        assert found.local_cv == pytest.approx(math.sqrt(max(squares / active - 1, 0)), abs=1e-7)
        assert found.local_cv_random == pytest.approx(math.sqrt(chance / active), abs=1e-7)
    else:
        assert math.isnan(found.local_cv)


@given(seed=st.integers(0, 2**32), m=st.integers(2, 6), k=st.integers(1, 3))
def test_the_measure_is_the_coefficient_of_variation_between_its_two_ends(seed: int, m: int, k: int) -> None:
    ids = np.random.default_rng(seed).random((12, 1, 4)).argsort(axis=2)[:, :, :k]
    found = balance(RoutingTrace.from_arrays(ids, num_experts=4), m)
    floor, most = found.local_cv_random**2, (1 - k / 4) / (k / 4)
    assert floor == pytest.approx(most / m)
    assert found.local_imbalance == pytest.approx((found.local_cv**2 - floor) / (most - floor), abs=1e-12)


@given(seed=st.integers(0, 2**32), m=st.integers(2, 6))
def test_local_variance_is_that_of_the_sums_of_windows_and_that_between_windows(seed: int, m: int) -> None:
    # The law of total variance. Sums of windows count tokens near the ends of a request less: `activation_by_domain`.
    ids = np.random.default_rng(seed).random((15, 1, 5)).argsort(axis=2)[:, :, :2]
    trace = RoutingTrace.from_arrays(ids, num_experts=5, offsets=[0, 8, 15], domains=["law", "law"])
    counts = naive.counts([[list(row) for row in token] for token in ids.tolist()], [0, 8, 15], [5], m)
    by_expert = np.array([[c.uses for c in counts if c.expert == expert] for expert in range(5)], float)
    mean = m * 2 / 5
    between = by_expert.var(axis=1).mean() / mean**2
    rates = activation_by_domain(trace, m)[0, 0]
    assert balance(trace, m).local_cv ** 2 == pytest.approx((rates.std() / rates.mean()) ** 2 + between)


@pytest.mark.parametrize("level", ["model", "stack", "layer", "domain"])
@given(trace=traces(), data=st.data())
def test_blocks_do_not_matter(level: Any, trace: RoutingTrace, data: st.DataObject) -> None:
    if longest(trace) < 2:
        return
    m = data.draw(st.integers(2, longest(trace)))
    whole = balance(trace, m, level=level, bootstrap=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lrcsim.simulator.metrics.windows, "BLOCK_IDS", 0)  # four segments a block
        assert same(whole, balance(trace, m, level=level, bootstrap=3, jobs=1))


def same(a: Balance, b: Balance) -> bool:
    def arrays(result: Balance) -> list[Any]:
        groups = [] if result.groups is None else [v for v in vars(result.groups).values() if v is not None]
        ends = (result.interval, result.global_interval, result.above_global_interval)
        drawn = [] if result.draws is None else [result.draws]
        return [*(getattr(result, name) for name in NUMBERS), result.windows, *(e or () for e in ends), *groups, *drawn]

    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(arrays(a), arrays(b), strict=True))


# --- intervals -------------------------------------------------------------------------------------------------------


def weighted(trace: RoutingTrace, weights: list[int], m: int | None, layers: Any = None) -> float:
    """Imbalance of a resample, its pairs repeated by hand; of different requests of the trace where ``m`` is None."""
    total = []
    for layer in range(trace.num_layers) if layers is None else layers:
        tokens, offsets = lists_of(trace, layer)
        pairs: list[Any] = []
        for i, weight in enumerate(weights):
            mine = tokens[offsets[i] : offsets[i + 1]]
            if m is not None:
                pairs += naive.local_pairs(mine, [0, len(mine)], layer, m) * weight
                continue
            for j, other in enumerate(weights):
                if i != j:
                    others = tokens[offsets[j] : offsets[j + 1]]
                    pairs += [(s[layer], t[layer]) for s in mine for t in others] * (weight * other)
        total.append(naive.shared(pairs, int(trace.layers.num_experts[layer])))
    value = naive.imbalance(total)
    return math.nan if value is None else float(value)


def interval(value: float, drawn: list[float], confidence: float) -> list[float]:
    known = sorted(one for one in drawn if not math.isnan(one))
    if not known:
        return [math.nan, math.nan]
    low = round(len(known) * (1 - confidence) / 2)
    return [2 * value - known[min(len(known) - low, len(known) - 1)], 2 * value - known[low]]


@settings(max_examples=30)
@given(trace=traces(), data=st.data())
def test_intervals_equal_a_plain_bootstrap(trace: RoutingTrace, data: st.DataObject) -> None:
    if longest(trace) < 2:
        return
    m, seed = data.draw(st.integers(2, longest(trace))), data.draw(st.integers(0, 5))
    rng, requests = np.random.default_rng(seed), trace.num_requests
    weights = [np.bincount(rng.integers(0, requests, requests), minlength=requests).tolist() for _ in range(20)]
    spans = [np.diff(lists_of(trace, layer)[1]) >= m for layer in range(trace.num_layers)]
    for level in ("model", "stack", "layer", "domain"):
        found = balance(trace, m, level=level, bootstrap=20, confidence=0.8, seed=seed)
        if np.any(spans, axis=0).sum() < 2:
            assert (found.interval, found.draws) == (None, None)
            continue
        near = [weighted(trace, row, m) for row in weights]
        far = [weighted(trace, row, None) for row in weights]
        assert found.draws is not None
        np.testing.assert_allclose(found.draws, [near, far], atol=1e-12)
        assert found.interval == pytest.approx(interval(found.local_imbalance, near, 0.8), abs=1e-12, nan_ok=True)
        expected = interval(found.global_imbalance, far, 0.8)
        assert found.global_interval == pytest.approx(expected, abs=1e-12, nan_ok=True)
        differences = [a - b for a, b in zip(near, far, strict=True)]
        expected = interval(found.above_global, differences, 0.8)
        assert found.above_global_interval == pytest.approx(expected, abs=1e-12, nan_ok=True)
        if found.groups is None:
            continue
        assert found.groups.low is not None
        assert found.groups.high is not None
        for place, value in enumerate(found.groups.local_imbalance.tolist()):
            rows, layers = weights, list(range(trace.num_layers))
            if level == "domain":
                assert found.domains is not None
                assert trace.domains is not None
                own = [name == found.domains[place] for name in trace.domains]
                rows = [[w * mine for w, mine in zip(row, own, strict=True)] for row in weights]
                able = (np.any(spans, axis=0) & own).sum()
            else:
                layers = [place] if level == "layer" else np.flatnonzero(trace.layers.stack == place).tolist()
                able = np.any([spans[i] for i in layers] or [[False]], axis=0).sum()
            drawn = [weighted(trace, row, m, layers) for row in rows] if able > 1 else []
            ends = [found.groups.low[place], found.groups.high[place]]
            assert ends == pytest.approx(interval(value, drawn, 0.8), abs=1e-12, nan_ok=True)


def random_trace(requests: int = 30, tokens: int = 40) -> RoutingTrace:
    rng = np.random.default_rng(1)
    ids = rng.random((requests * tokens, 3, 16)).argsort(axis=2)[:, :, :4]
    return RoutingTrace.from_arrays(ids, num_experts=16, offsets=range(0, requests * tokens + 1, tokens))


def test_the_seed_decides_and_the_number_of_jobs_does_not() -> None:
    runs = [
        balance(random_trace(), 8, level="layer", bootstrap=100, seed=s, jobs=j) for s, j in ((3, 1), (3, 2), (4, 1))
    ]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_random_routing_is_balanced_within_its_interval() -> None:
    found = balance(random_trace(200), 16, bootstrap=400)
    for value, ends in (
        (found.local_imbalance, found.interval),
        (found.global_imbalance, found.global_interval),
        (found.above_global, found.above_global_interval),
    ):
        assert abs(value) < 0.002
        assert ends is not None
        assert ends[0] < 0 < ends[1]
    assert found.local_cv == pytest.approx(found.local_cv_random, rel=0.01)
    assert found.local_cv_random == pytest.approx(math.sqrt(0.75 / (16 * 0.25)))


def test_draws_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.argsort(np.random.default_rng(3).random((90, 2, 6)), axis=2)[:, :, :2]
    trace = RoutingTrace.from_arrays(ids, num_experts=6, offsets=np.arange(0, 91, 9), domains=["law", "code"] * 5)
    whole = balance(trace, 4, level="domain", bootstrap=23, seed=5)
    monkeypatch.setattr(lrcsim.simulator.metrics.bootstrap, "MEMORY", 40)  # six parts, the last of three
    monkeypatch.setattr(lrcsim.simulator.metrics.balance_sums, "BYTES_OF_WEIGHTS", 3 * 8 * 10)  # three draws at a time
    told: list[tuple[int, int]] = []
    parts = balance(
        trace, 4, level="domain", bootstrap=23, seed=5, progress=lambda done, total: told.append((done, total))
    )
    assert same(whole, parts)
    assert told[-1][0] == told[-1][1]
    assert all(a <= b for (a, _), (b, _) in pairwise(told))


# --- real traces, options, damage ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled() -> Any:
    with RoutingTrace.open("bundled:teacher-forced") as trace:
        yield trace


def test_tokens_in_random_order_are_as_unbalanced_in_a_window_as_in_the_trace(bundled: RoutingTrace) -> None:
    order = np.random.default_rng(0).permutation(bundled.num_tokens)
    mixed = RoutingTrace.from_arrays(
        bundled.experts[order], num_experts=bundled.num_experts, offsets=bundled.offsets, model="mixed"
    )
    recorded, random = balance(bundled, 16), balance(mixed, 16, bootstrap=200)
    assert recorded.above_global > 0.1
    assert abs(random.above_global) < 0.002
    # The trace's own global imbalance leaves out pairs within a request, which share more: the mixed one has them.
    assert recorded.global_imbalance < random.global_imbalance < recorded.global_imbalance + 0.01


def test_what_the_bundled_model_gives(bundled: RoutingTrace) -> None:
    by_m = [balance(bundled, m) for m in (4, 16, 64, 256)]
    assert all(a.local_imbalance > b.local_imbalance for a, b in pairwise(by_m))
    assert len({found.global_imbalance for found in by_m}) == 1
    assert by_m[1].windows == srp(bundled, 16).windows
    domains = balance(bundled, 16, level="domain").groups
    assert domains is not None
    # Balanced over the trace, not within a domain: every domain has experts of its own.
    assert domains.global_imbalance.min() > 5 * by_m[1].global_imbalance


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment": 0}, "segment 0 is not allowed"),
        ({"segment": 1}, "segment 1 is not allowed: balance compares tokens of a segment, it takes at least 2"),
        ({"segment": 4}, "segment 4 is longer than every request, the longest has 3 tokens: use at most 3"),
        ({"level": "expert"}, "level 'expert' is not known, use model, stack, layer, domain"),
        ({"level": "domain", "domains": ["a"]}, r"one label per request \(2\), given 1"),
        ({"bootstrap": -1}, "bootstrap -1 is not allowed"),
        ({"bootstrap": 1, "confidence": 1.0}, "confidence 1.0 is not allowed"),
    ],
)
def test_options_that_are_not_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        balance(hand(), **{"segment": 2, **options})


def test_labels_may_be_given_in_place_of_the_traces() -> None:
    found = balance(hand(), 2, level="domain", domains=["one", "one"])
    assert found.labels == ("one",)
    assert found.groups is not None
    assert found.groups.global_imbalance.tolist() == pytest.approx([-2 / 3])


def test_damaged_traces_are_refused() -> None:
    trace = hand()
    trace.experts[:, 0] = 2  # twice in every token
    with pytest.raises(TraceError, match="twice in one token"):
        balance(trace, 2)


def test_a_trace_with_nothing_recorded_has_no_imbalance() -> None:
    found = balance(RoutingTrace.from_arrays(np.full((4, 1, 2), -1), num_experts=4, offsets=[0, 2, 4]), 2, bootstrap=5)
    assert all(math.isnan(getattr(found, name)) for name in NUMBERS)
    assert found.interval is not None
    assert all(math.isnan(end) for end in found.interval)


def test_json_has_null_for_what_is_not_known() -> None:
    data = balance(hand(), 2, level="domain").to_dict("t")
    assert (data["trace"], data["segment"], data["windows"], data["interval"]) == ("t", 2, 3, None)
    assert data["domains"] == ["law", "code"]
    assert data["groups"]["global_imbalance"] == [None, None]
    assert "draws" not in data
