"""SRP: a case solved by hand, every level against its definition, intervals, options.

The case. One layer of four experts, top-2, one request of four tokens:  0 1 | 0 2 | 0 1 | 3 1.  Segments of 2 tokens.
    window 0 (tokens 0, 1): expert 0 twice, 1 once, 2 once, 3 never
    window 1 (tokens 1, 2): expert 0 twice, 1 once, 2 once, 3 never
    window 2 (tokens 2, 3): expert 0 once, 1 twice, 3 once, 2 never
Counts: 2 three times, 1 six times, 0 three times. A = 12.
    tau 0: M 12, P 2 * 12 = 24, F1 = 24 / 36 = 2/3        (the floor: r = 2/4, 2r / (1 + r) = 2/3)
    tau 1: M 12, P 2 * 9 = 18,  F1 = 24 / 30 = 4/5
    tau 2: M 6,  P 2 * 3 = 6,   F1 = 12 / 18 = 2/3
SRP = 0.8 at tau 1, which keeps 18/12 = 1.5 times the active experts.
By position: every window has the counts 2 1 1 0: tau 1, M 4, P 6, F1 = 8 / 10, group size 1.5.
By expert: 0 has 2 2 1 (A 5): tau 1: M 5, P 6: 10/11; tau 2: M 4, P 4: 8/9 -> 10/11.
           1 has 1 1 2 (A 4): tau 1: M 4, P 6: 8/10; tau 2: M 2, P 2: 4/6 -> 4/5.
           2 has 1 1 0 (A 2): tau 1: M 2, P 4: 4/6; tau 0: P 6: 4/8 -> 2/3.   3 has 0 0 1 (A 1): tau 1: P 2: 2/3.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import naive_metrics as naive
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import lrcsim.simulator.metrics.bootstrap
import lrcsim.simulator.metrics.srp_metric
import lrcsim.simulator.metrics.windows
from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.simulator import Srp, srp
from lrcsim.simulator.metrics.srp_metric import SrpGroups
from lrcsim.traces import LayerTable, RoutingTrace

HAND = np.array([[0, 1], [0, 2], [0, 1], [3, 1]])[:, None, :]


@st.composite
def traces(draw: st.DrawFn, *, most_tokens: int = 14) -> RoutingTrace:
    """Small traces: several requests, some empty or short, positions left out, layers of unequal size."""
    tokens, num_layers = draw(st.integers(1, most_tokens)), draw(st.integers(1, 3))
    num_experts = draw(st.lists(st.integers(1, 5), min_size=num_layers, max_size=num_layers))
    top_k = [draw(st.integers(1, min(3, number))) for number in num_experts]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = np.full((tokens, num_layers, max(top_k)), -1)
    for layer, (number, k) in enumerate(zip(num_experts, top_k, strict=True)):
        score = rng.random((tokens, number)) * (1 + np.arange(number)) ** draw(st.sampled_from([0, 1]))
        ids[:, layer, :k] = score.argsort(axis=1)[:, ::-1][:, :k]
    if draw(st.booleans()):
        ids[rng.random(ids.shape) < 0.2] = -1
    ends = sorted(draw(st.lists(st.integers(0, tokens), max_size=3)))
    labels = [draw(st.sampled_from(["law", "code"])) for _ in range(len(ends) + 1)]
    layers = LayerTable.build(num_layers, num_experts, top_k)
    return RoutingTrace.from_arrays(
        ids, num_experts=num_experts, layers=layers, offsets=[0, *ends, tokens], domains=labels
    )


def as_lists(trace: RoutingTrace) -> naive.Experts:
    return [[[e for e in layer if e >= 0] for layer in token] for token in trace.experts.tolist()]


def naive_counts(trace: RoutingTrace, m: int) -> list[naive.Count]:
    return naive.counts(as_lists(trace), trace.offsets.tolist(), trace.layers.num_experts.tolist(), m)


def longest(trace: RoutingTrace) -> int:
    return int(np.diff(trace.offsets).max())


def check(found: Any, place: Any, uses: list[int], m: int) -> None:
    """Compare one set of the result with its definition."""
    value, tau, group_size, activation, floor = (
        np.asarray(getattr(found, name))[place] for name in ("value", "tau", "group_size", "activation", "floor")
    )
    best = naive.srp(uses, m)
    if best is None:
        assert math.isnan(value)
        assert math.isnan(group_size)
        assert tau == 0
        return
    assert (value, tau, group_size) == (float(best.value), best.tau, float(best.group_size))
    assert activation == pytest.approx(float(best.activation), rel=1e-14)
    assert floor == pytest.approx(2 * activation / (1 + activation), rel=1e-14)
    assert value >= floor - 1e-15


def test_the_case_solved_by_hand() -> None:
    trace = RoutingTrace.from_arrays(HAND, num_experts=4)
    found = srp(trace, 2)
    assert (found.value, found.tau, found.group_size, found.windows) == (0.8, 1, 1.5, 3)
    assert (found.activation, found.floor) == (0.5, 2 / 3)
    assert found.interval is None
    experts = srp(trace, 2, level="expert").groups
    assert experts is not None
    assert experts.value.tolist() == [[10 / 11, 4 / 5, 2 / 3, 2 / 3]]
    places = srp(trace, 2, level="position")
    assert places.groups is not None
    assert places.positions is not None
    assert places.groups.value.tolist() == [0.8, 0.8, 0.8]
    assert places.positions.tolist() == [1, 2, 3]


def test_a_segment_of_one_token_is_served_perfectly() -> None:
    found = srp(RoutingTrace.from_arrays(HAND, num_experts=4), 1)
    assert (found.value, found.tau, found.group_size) == (1.0, 1, 1.0)


@given(trace=traces(), data=st.data())
def test_every_level_follows_its_definition(trace: RoutingTrace, data: st.DataObject) -> None:
    m = data.draw(st.integers(1, longest(trace)))
    counts = naive_counts(trace, m)
    for level in ("model", "stack", "layer", "domain", "expert", "position"):
        found = srp(trace, m, level=level)
        assert found.level == level
        check(found, (), [c.uses for c in counts], m)
        assert found.windows == len({(c.request, c.start) for c in counts})
        if level == "model":
            assert found.groups is None
            continue
        assert found.groups is not None
        for place in np.ndindex(found.groups.value.shape):
            check(found.groups, place, [c.uses for c in counts if key(c, trace, found, level) == place], m)
            assert found.groups.windows[place] == windows_at(counts, trace, found, level, place)


def key(count: naive.Count, trace: RoutingTrace, found: Srp, level: str) -> tuple[int, ...]:
    if level == "stack":  # one, in all traces but those of the tests of stacks
        return (0,)
    if level == "layer":
        return (count.layer,)
    if level == "expert":
        return (count.layer, count.expert)
    if level == "position":
        return (count.start,)
    assert trace.domains is not None
    assert found.domains is not None
    return (found.domains.index(trace.domains[count.request]),)


def windows_at(counts: list[naive.Count], trace: RoutingTrace, found: Srp, level: str, place: tuple[int, ...]) -> int:
    if level in ("layer", "expert"):
        return found.windows
    return len({(c.request, c.start) for c in counts if key(c, trace, found, level) == place})


@settings(max_examples=40)
@given(trace=traces(most_tokens=4), data=st.data())
def test_no_other_choice_of_experts_is_better(trace: RoutingTrace, data: st.DataObject) -> None:
    m = data.draw(st.integers(1, longest(trace)))
    uses = [c.uses for c in naive_counts(trace, m)][:14]  # at most 2^14 choices
    best = naive.srp(uses, m)
    assert naive.best_of_all_choices(uses, m) == (best and best.value)


@pytest.mark.parametrize("level", ["model", "stack", "layer", "domain", "expert", "position"])
@given(trace=traces(), data=st.data())
def test_blocks_do_not_matter(level: Any, trace: RoutingTrace, data: st.DataObject) -> None:
    m = data.draw(st.integers(1, longest(trace)))
    whole = srp(trace, m, level=level, bootstrap=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lrcsim.simulator.metrics.windows, "BLOCK_IDS", 0)  # four segments a block
        assert same(whole, srp(trace, m, level=level, bootstrap=3, jobs=1))


def same(a: Srp, b: Srp) -> bool:
    def arrays(result: Srp) -> list[Any]:
        groups = [] if result.groups is None else [v for v in vars(result.groups).values() if v is not None]
        return [result.value, result.tau, result.windows, result.interval or (), *groups]

    return all(np.array_equal(x, y, equal_nan=True) for x, y in zip(arrays(a), arrays(b), strict=True))


def test_an_encoder_and_a_decoder_have_windows_of_their_own_tokens() -> None:
    # Tokens 0 1 3 run through layer 0, tokens 2 4 through layer 1: segments of 2 are (0 1), (1 3) and (2 4).
    layers = LayerTable.build(2, 2, 1, stack=[0, 1], stack_names=("encoder", "decoder"))
    ids = np.array([[0, -1], [0, -1], [-1, 1], [1, -1], [-1, 0]])[:, :, None]
    trace = RoutingTrace.from_arrays(ids, num_experts=2, layers=layers, stack=[0, 0, 1, 0, 1])
    found = srp(trace, 2, level="layer")
    assert found.groups is not None
    assert found.windows == 3
    assert found.groups.windows.tolist() == [2, 1]
    check(found.groups, 0, [2, 0, 1, 1], 2)
    check(found.groups, 1, [1, 1], 2)
    check(found, (), [2, 0, 1, 1, 1, 1], 2)
    places = srp(trace, 2, level="position").groups
    assert places is not None
    check(places, 0, [2, 0, 1, 1], 2)
    check(places, 1, [1, 1], 2)
    assert places.windows.tolist() == [2, 1]
    stacks = srp(trace, 2, level="stack")
    assert stacks.stacks == ("encoder", "decoder")
    assert stacks.groups is not None
    assert stacks.groups.windows.tolist() == [2, 1]
    check(stacks.groups, 0, [2, 0, 1, 1], 2)
    check(stacks.groups, 1, [1, 1], 2)


@settings(max_examples=60)
@given(data=st.data(), lengths=st.lists(st.integers(0, 12), min_size=1, max_size=5).filter(any))
def test_every_stack_is_measured_as_if_it_were_a_trace(data: st.DataObject, lengths: list[int]) -> None:
    tokens = sum(lengths)
    of_layer = [0] * data.draw(st.integers(1, 2)) + [1] * data.draw(st.integers(1, 2))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    of_token = (rng.random(tokens) < data.draw(st.sampled_from([0, 0.3, 0.6]))).astype(np.uint8)
    ids = rng.random((tokens, len(of_layer), 4)).argsort(axis=2)[:, :, :2]
    ids[of_token[:, None] != np.array(of_layer)] = -1
    offsets = np.cumsum([0, *lengths])
    layers = LayerTable.build(len(of_layer), 4, 2, stack=of_layer, stack_names=("encoder", "decoder"))
    trace = RoutingTrace.from_arrays(ids, num_experts=4, layers=layers, offsets=offsets, stack=of_token)
    counted = [np.diff([(of_token[:end] == stack).sum() for end in offsets]).tolist() for stack in (0, 1)]
    m = data.draw(st.integers(1, max(max(of_stack) for of_stack in counted)))
    found = srp(trace, m, level="stack", bootstrap=20, seed=1)
    assert found.groups is not None
    assert found.groups.value.shape == (2,)
    for stack, of_requests in enumerate(counted):
        if sum(of_requests) == 0:
            assert math.isnan(found.groups.value[stack])
            assert found.groups.windows[stack] == 0
            continue
        own = RoutingTrace.from_arrays(
            ids[of_token == stack][:, np.array(of_layer) == stack], num_experts=4, offsets=np.cumsum([0, *of_requests])
        )
        check(found.groups, stack, [count.uses for count in naive_counts(own, m)], m)
        assert found.groups.windows[stack] == sum(max(length - m + 1, 0) for length in of_requests)
        if found.groups.low is not None and found.groups.high is not None:
            alone = srp(own, m, bootstrap=20, seed=1).interval if max(of_requests) >= m else None
            ends = (found.groups.low[stack], found.groups.high[stack])
            assert ends == pytest.approx(alone or (math.nan, math.nan), nan_ok=True)


# --- intervals -------------------------------------------------------------------------------------------------------


def redrawn(trace: RoutingTrace, m: int, weights: npt.NDArray[Any], chosen: Any) -> npt.NDArray[Any]:
    """SRP of the counts that ``chosen`` keeps, in every resample, with sets repeated as often as they were drawn."""
    counts = [c for c in naive_counts(trace, m) if chosen(c)]
    if len({c.request for c in counts}) < 2:
        return np.full(len(weights), math.nan)
    values = []
    for row in weights.tolist():
        best = naive.srp([c.uses for c in counts for _ in range(row[c.request])], m)
        values.append(math.nan if best is None else float(best.value))
    return np.array(values)


def interval(value: float, drawn: npt.NDArray[Any], confidence: float) -> list[float]:
    drawn = np.sort(drawn[~np.isnan(drawn)])
    if len(drawn) == 0:
        return [math.nan, math.nan]
    low = round(len(drawn) * (1 - confidence) / 2)
    return [2 * value - drawn[min(len(drawn) - low, len(drawn) - 1)], 2 * value - drawn[low]]


@settings(max_examples=30)
@given(trace=traces(), data=st.data())
def test_intervals_equal_a_plain_bootstrap(trace: RoutingTrace, data: st.DataObject) -> None:
    m, seed = data.draw(st.integers(1, longest(trace))), data.draw(st.integers(0, 5))
    rng = np.random.default_rng(seed)
    requests = trace.num_requests
    drawn = [rng.integers(0, requests, requests) for _ in range(20)]
    weights = np.array([[(row == request).sum() for request in range(requests)] for row in drawn])
    with_windows = int((np.diff(trace.offsets) >= m).sum())
    for level in ("stack", "layer", "domain"):
        found = srp(trace, m, level=level, bootstrap=20, confidence=0.8, seed=seed)
        if with_windows < 2:
            assert found.interval is None
            assert found.draws is None
            continue
        pooled = redrawn(trace, m, weights, lambda c: True)
        assert found.draws == pytest.approx(pooled, abs=1e-12, nan_ok=True)
        expected = interval(found.value, pooled, 0.8)
        assert found.interval == pytest.approx(expected, abs=1e-12, nan_ok=True)
        assert found.groups is not None
        assert found.groups.low is not None
        assert found.groups.high is not None
        for place in np.ndindex(found.groups.value.shape):
            of_place = redrawn(trace, m, weights, lambda c, place=place, found=found, level=level: (
                key(c, trace, found, level) == place))  # fmt: skip
            expected = interval(float(found.groups.value[place]), of_place, 0.8)
            ends = [found.groups.low[place], found.groups.high[place]]
            assert ends == pytest.approx(expected, abs=1e-12, nan_ok=True)


def random_trace(requests: int = 30, tokens: int = 40) -> RoutingTrace:
    rng = np.random.default_rng(1)
    ids = rng.random((requests * tokens, 3, 16)).argsort(axis=2)[:, :, :4]
    return RoutingTrace.from_arrays(ids, num_experts=16, offsets=range(0, requests * tokens + 1, tokens))


def test_the_seed_decides_and_the_number_of_jobs_does_not() -> None:
    trace = random_trace()
    runs = [srp(trace, 8, level="layer", bootstrap=100, seed=s, jobs=j) for s, j in ((3, 1), (3, 2), (4, 1))]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])
    one, two = (srp(trace, 8, level="position", jobs=jobs) for jobs in (1, 2))
    assert same(one, two)


def test_the_paper_uses_order_statistics_25_and_975_of_1000() -> None:
    from lrcsim.simulator.metrics.bootstrap import basic_interval

    assert basic_interval(600.0, np.arange(1000.0)[::-1], 0.95) == (1200.0 - 975.0, 1200.0 - 25.0)


def test_random_routing_lies_just_above_the_floor() -> None:
    found = srp(random_trace(200), 16, bootstrap=200)
    assert found.activation == 0.25
    assert found.floor == 0.4
    assert 0.4 < found.value < 0.5
    assert found.interval is not None
    assert found.interval[0] < found.value < found.interval[1]


# --- large numbers and bad input -------------------------------------------------------------------------------------


def test_sums_beyond_32_bits() -> None:
    # Half of 2^34 (window, expert) pairs are used by all 256 tokens: P(0) + A is 2^42.6.
    from lrcsim.simulator.metrics.srp_metric import _best

    histogram = np.zeros(257, np.int64)
    histogram[256], histogram[0] = 2**33, 2**33
    best = _best(histogram, 256)
    assert (best.value, best.tau, best.group_size) == (1.0, 1, 1.0)


def test_intervals_need_two_requests_with_windows() -> None:
    trace = RoutingTrace.from_arrays(HAND, num_experts=4, offsets=[0, 1, 4])
    assert srp(trace, 2, bootstrap=10).interval is None
    assert srp(trace, 1, bootstrap=10).interval is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"segment": 0}, "segment 0 is not allowed"),
        ({"segment": 2.5}, "segment 2.5 is not allowed"),
        ({"segment": True}, "segment True is not allowed"),
        ({"segment": 5}, "segment 5 is longer than every request, the longest has 4 tokens: use at most 4"),
        ({"level": "layers"}, "level 'layers' is not known, use model, stack, layer, .* did you mean 'layer'"),
        ({"level": "domain"}, "does not say which domain its requests belong to"),
        ({"level": "domain", "domains": ["a", "b"]}, r"one label per request \(1\), given 2"),
        ({"bootstrap": -1}, "bootstrap -1 is not allowed"),
        ({"bootstrap": 1, "confidence": 1.0}, "confidence 1.0 is not allowed"),
    ],
)
def test_options_that_are_not_allowed(options: dict[str, Any], message: str) -> None:
    trace = RoutingTrace.from_arrays(HAND, num_experts=4)
    with pytest.raises(ConfigError, match=message):
        srp(trace, **{"segment": 2, **options})


@pytest.mark.parametrize("level", ["model", "position"])
def test_damaged_traces_are_refused(level: Any) -> None:
    trace = RoutingTrace.from_arrays(HAND, num_experts=4)
    trace.experts[:, 0] = 2  # twice in every token
    with pytest.raises(TraceError, match="twice in one token"):
        srp(trace, 2, level=level)
    trace.experts[:, 0] = 7
    with pytest.raises(TraceError, match="expert id 7"):
        srp(trace, 2, level=level)


def test_a_trace_with_nothing_recorded_has_no_srp() -> None:
    found = srp(RoutingTrace.from_arrays(np.full((4, 1, 2), -1), num_experts=4), 2, level="expert")
    assert math.isnan(found.value)
    assert found.tau == 0
    assert isinstance(found.groups, SrpGroups)
    assert np.isnan(found.groups.value).all()


def test_the_functions_are_exported_under_their_names_whatever_was_imported_before() -> None:
    import importlib
    import sys

    for module in ("srp_metric", "sch_metric", "windows", "specialisation"):
        importlib.import_module(f"lrcsim.simulator.metrics.{module}")
    package = sys.modules["lrcsim.simulator"]
    assert callable(package.srp)
    assert callable(package.sch)
    assert set(package.LAZY) <= set(package.__all__)


@pytest.mark.parametrize("level", ["model", "layer", "domain", "expert", "position"])
def test_draws_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch, level: Any) -> None:
    rng = np.random.default_rng(3)
    ids = np.argsort(rng.random((90, 2, 6)), axis=2)[:, :, :2]
    trace = RoutingTrace.from_arrays(
        ids, num_experts=6, offsets=np.arange(0, 91, 9), domains=["law", "code"] * 5
    )  # ten requests: ten bytes a draw
    whole = srp(trace, 4, level=level, bootstrap=23, seed=5)
    monkeypatch.setattr(lrcsim.simulator.metrics.bootstrap, "MEMORY", 40)  # six parts, the last of three
    monkeypatch.setattr(lrcsim.simulator.metrics.srp_metric, "BYTES_OF_WEIGHTS", 3 * 8 * 10)  # three draws at a time
    told: list[tuple[int, int]] = []
    parts = srp(trace, 4, level=level, bootstrap=23, seed=5, progress=lambda done, total: told.append((done, total)))
    assert same(whole, parts)
    assert whole.draws is not None
    np.testing.assert_array_equal(whole.draws, parts.draws)
    assert told[-1][0] == told[-1][1]
    assert all(a <= b for (a, _), (b, _) in pairwise(told))
