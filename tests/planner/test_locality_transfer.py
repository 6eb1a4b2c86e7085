"""Curves carried over to another shape, and the traces made to have them."""

from __future__ import annotations

from itertools import permutations
from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import local_trace

from lrcsim.planner.locality_transfer import (
    curve_of,
    curve_of_exponents,
    halves,
    matching_size,
    relative_exponents,
)
from lrcsim.planner.synthetic_trace import balanced_draws, inclusion, routing_of_curve, touching_all
from lrcsim.planner.traces import Shape
from lrcsim.simulator import hit_rate_curve, simulate
from lrcsim.traces import RoutingTrace


def power(experts: int, exponent: float) -> np.ndarray:
    """Return the curve whose misses are (1 - C / E) ** exponent."""
    return 1 - (1 - np.arange(experts + 1) / experts) ** exponent


def test_a_policy_over_lru_by_hand() -> None:
    # 4 experts top-1 and 8 top-2: C' = 2 C matches C. LRU misses .75 .5 .25 at C = 1, 2, 3 (exponent 1), the policy
    # half, a quarter, an eighth: exponents ln .5 / ln .75 = 2.409, ln .25 / ln .5 = 2, ln .125 / ln .25 = 1.5.
    lru, policy = np.array([0, 0.25, 0.5, 0.75, 1]), np.array([0, 0.5, 0.75, 0.875, 1])
    found = relative_exponents(policy, lru, Shape(1, 4, 1), Shape(1, 8, 2))
    first = np.log(0.5) / np.log(0.75)
    assert found[[1, 3, 5]] == pytest.approx([first, 2, 1.5])
    assert found[2] == pytest.approx((first + 2) / 2)  # between two sizes
    assert found[[0, 6]] == pytest.approx([first, 1.5])  # beyond the first and the last known one


def test_sizes_that_match_by_hand() -> None:
    # 8 of 16 experts, top-1: the same share of 4 are 2; the same number per token used are 8; between them lies 4.
    assert matching_size(np.array([8.0]), Shape(1, 4, 1), Shape(1, 16, 1)) == pytest.approx([4])


def test_a_curve_of_exponents_by_hand() -> None:
    # 4 experts: misses .75 ** 2, .5 ** 2, .25 ** 1; with half the locality .75, .5, and .25 stays chance
    assert curve_of_exponents(np.array([2.0, 2, 1])) == pytest.approx([0, 1 - 0.5625, 0.75, 0.75, 1])
    assert curve_of_exponents(np.array([2.0, 2, 1]), 0.5) == pytest.approx([0, 0.25, 0.5, 0.75, 1])
    assert curve_of_exponents(np.array([0.8, 0.8, 0.8]), 0.5) == pytest.approx(power(4, 0.8))  # worse is not made worse
    # misses of .75 ** 8 at 1 and of .5 ** 1 at 2: a curve never falls
    assert curve_of_exponents(np.array([8.0, 1, 1]))[2] == pytest.approx(1 - 0.75**8)


def test_misses_that_are_too_few_to_tell_leave_the_exponent_before() -> None:
    # LRU is chance. The policy misses half at 1 of 4, 0.011 at 2; 0.009 at 3 is no longer known well: there the
    # exponent of 2 holds.
    source = Shape(1, 4, 1)
    found = relative_exponents(np.array([0, 0.5, 0.989, 0.991, 1]), power(4, 1), source, source)
    assert found[1] == found[2] == pytest.approx(np.log(0.011) / np.log(0.5))


def test_misses_are_few_only_where_no_larger_cache_has_more() -> None:
    # 0.005 at 2 of 4, but 0.02 again at 3: then 0.005 is known too.
    source = Shape(1, 4, 1)
    found = relative_exponents(np.array([0, 0.5, 0.995, 0.98, 1]), power(4, 1), source, source)
    assert found[1:] == pytest.approx([np.log(0.005) / np.log(0.5), np.log(0.02) / np.log(0.25)])


exponents = st.floats(0.5, 12)


@given(exponents, exponents, st.integers(2, 40), st.integers(2, 200), st.integers(1, 8), st.integers(1, 8))
def test_laws_of_relative_exponents(one: float, other: float, experts: int, others: int, k: int, other_k: int) -> None:
    source, target = Shape(1, experts, min(k, experts)), Shape(1, others, min(other_k, others))
    assert relative_exponents(power(experts, one), power(experts, one), source, target) == pytest.approx(1.0)
    found = relative_exponents(power(experts, one), power(experts, other), source, target)
    assert len(found) == others - 1
    if max(one, other) * np.log(experts / (experts - 1)) < 4.5:  # misses of a hundredth and more at one expert
        assert found == pytest.approx(one / other)


@given(st.lists(exponents, min_size=1, max_size=50), st.floats(0.2, 5))
def test_laws_of_curves(given_exponents: list[float], factor: float) -> None:
    as_is, scaled = (curve_of_exponents(np.array(given_exponents), locality) for locality in (1.0, factor))
    for found in (as_is, scaled):
        assert (found[0], found[-1]) == (0, 1)
        assert (np.diff(found) >= 0).all()
    assert ((scaled >= as_is - 1e-12) if factor >= 1 else (scaled <= as_is + 1e-12)).all()


def test_a_first_use_is_a_hit_as_often_as_in_a_warm_cache() -> None:
    # One expert per token, 0 1 0 1 0 2 0 2 of 3. Empty, LRU with 1 slot hits 0 of 8; with 2: misses 0, 1, 2; with 3 the
    # same. Warm, 0 is at each of three places: 1/3, 2/3, 1 of a hit; 1 at the second or third: 0, 1/2, 1; 2 is third.
    trace = RoutingTrace.from_arrays(np.array([0, 1, 0, 1, 0, 2, 0, 2]).reshape(-1, 1, 1), num_experts=3)
    assert curve_of(trace, "lru") == pytest.approx([0, 1 / 24, (5 + 2 / 3 + 1 / 2) / 8, 1])


def test_curve_of_is_that_of_decoded_tokens() -> None:
    # A prompt 0, then 1; another prompt 1, then 0, of 3 experts. One slot: only the second prompt hits. Two: the
    # decoded 0 hits; the decoded 1 is a first use after one expert, at the second place or the third.
    trace = RoutingTrace.from_arrays(
        np.array([0, 1, 1, 0]).reshape(-1, 1, 1), num_experts=3, offsets=[0, 2, 4], phase=[0, 1, 0, 1]
    )
    assert curve_of(trace, "lru") == pytest.approx([0, 0, 1.5 / 2, 1])


@settings(max_examples=20)
@given(st.integers(0, 1_000), st.sampled_from([(4, 1), (4, 2), (5, 2)]))
def test_a_warm_cache_against_every_order_before(seed: int, shape: tuple[int, int]) -> None:
    """LRU by hand after every order in which the experts may have been used before, the mean of all."""
    experts, k = shape
    random = np.random.default_rng(seed)
    tokens = [random.permutation(experts)[:k].tolist() for _ in range(4)]
    hits = np.zeros(experts + 1)
    for order in permutations(range(experts)):
        stack = list(order)
        for token in tokens:
            for expert in token:
                hits[stack.index(expert) + 1 :] += 1
            stack = token[::-1] + [expert for expert in stack if expert not in token]
    wanted = hits / (factorial(experts) * 4 * k)
    trace = RoutingTrace.from_arrays(np.array(tokens)[:, None, :], num_experts=experts)
    assert curve_of(trace, "lru")[k:] == pytest.approx(wanted[k:])


def test_popularity_is_counted_elsewhere() -> None:
    # two requests: 0 0 1 and 0 2 2 of 3 experts. Ranked by the first, 0 1 2: the second hits 1, 1, 3 of 3 at C = 1, 2,
    # 3.
    # Ranked by the second, 2 0 1: the first hits 0, 2, 3. Together 1, 3, 6 of 6.
    trace = RoutingTrace.from_arrays(np.array([0, 0, 1, 0, 2, 2]).reshape(-1, 1, 1), num_experts=3, offsets=[0, 3, 6])
    assert curve_of(trace, "static").tolist() == pytest.approx([0, 1 / 6, 3 / 6, 1])


def test_popularity_is_counted_by_layer() -> None:
    # Two equal requests. Layer 0 uses 0 0 1, layer 1 uses 2 2 0: the most used of each hits 2 of 3, the first two all.
    tokens = [[[0], [2]], [[0], [2]], [[1], [0]]] * 2
    trace = RoutingTrace.from_arrays(tokens, num_experts=3, offsets=[0, 3, 6])
    assert curve_of(trace, "static").tolist() == pytest.approx([0, 2 / 3, 1, 1])


def test_popularity_leaves_prompts_out() -> None:
    # The example above with prompts that use something else.
    tokens = [2, 2, 0, 0, 1, 1, 1, 0, 2, 2]
    trace = RoutingTrace.from_arrays(
        np.reshape(tokens, (-1, 1, 1)), num_experts=3, offsets=[0, 5, 10], phase=[0, 0, 1, 1, 1, 0, 0, 1, 1, 1]
    )
    assert curve_of(trace, "static").tolist() == pytest.approx([0, 1 / 6, 3 / 6, 1])


def test_a_curve_of_decoding_leaves_prompts_out() -> None:
    # One prompt of 0 and 1, then 0 1 0 1: with one slot LRU hits none of the four, with two all.
    trace = RoutingTrace.from_arrays(
        np.reshape([0, 1, 0, 1, 0, 1], (-1, 1, 1)), num_experts=2, phase=[0, 0, 1, 1, 1, 1]
    )
    assert curve_of(trace, "lru").tolist() == [0, 0, 1]


def test_a_curve_never_falls_where_the_policy_has_more_faults_with_more_room() -> None:
    # Belady's anomaly: 1 2 3 4 1 2 5 1 2 3 4 5 hits FIFO of 3 three times, of 4 twice, of 5 seven times; of 1 and 2
    # never. Five first uses of five experts: with C slots they hit 1/5 (C = 1), 2/5 + 1/4, 3/5 + 2/4 + 1/3, 4/5 + 3/4 +
    # 2/3 + 1/2 of a time each, and all with 5.
    trace = RoutingTrace.from_arrays(np.reshape([0, 1, 2, 3, 0, 1, 4, 0, 1, 2, 3, 4], (-1, 1, 1)), num_experts=5)
    assert hit_rate_curve(trace, "fifo").hit_rate == pytest.approx([0, 0, 3 / 12, 2 / 12, 7 / 12])
    first = [0, 1 / 5, 2 / 5 + 1 / 4, 3 / 5 + 2 / 4 + 1 / 3, 4 / 5 + 3 / 4 + 2 / 3 + 1 / 2, 5]
    wanted = (np.array([0, 0, 0, 3, 2, 7]) + first) / 12
    assert wanted[4] > wanted[3]  # of these first uses the fourth place has enough to hide that
    assert curve_of(trace, "fifo") == pytest.approx(wanted)
    longer = RoutingTrace.from_arrays(np.tile([0, 1, 2, 3, 0, 1, 4, 0, 1, 2, 3, 4], 9).reshape(-1, 1, 1), num_experts=5)
    found = curve_of(longer, "fifo")
    assert (np.diff(found) >= 0).all()
    assert found[4] == found[3]


@pytest.mark.parametrize(
    ("tokens", "offsets", "expected"),
    [
        (4, [0, 4], ([0, 1], [2, 3])),
        (5, [0, 5], ([0, 1, 2], [3, 4])),  # the first half has the odd one
        (5, [0, 1, 3, 5], ([0, 3, 4], [1, 2])),  # every other request
    ],
)
def test_halves_of_a_trace(tokens: int, offsets: list[int], expected: tuple[list[int], list[int]]) -> None:
    trace = RoutingTrace.from_arrays(np.arange(tokens).reshape(-1, 1, 1), num_experts=8, offsets=offsets)
    assert tuple(half.experts.ravel().tolist() for half in halves(trace)) == expected


def test_inclusion_by_hand() -> None:
    # top-2, curve 0 .7 .8 1: places 1.4, 0.2, 0.4; no place twice, so 1, 0.6, 0.4
    assert inclusion(np.array([0, 0.7, 0.8, 1]), 2).tolist() == pytest.approx([1, 0.6, 0.4])
    # 0 0 .1 1: 0, 0.2, 1.8: what is too much at the end goes back: 0, 1, 1
    assert inclusion(np.array([0, 0, 0.1, 1]), 2).tolist() == pytest.approx([0, 1, 1])


@given(st.integers(1, 6), st.integers(0, 20), exponents)
def test_inclusion_adds_up(k: int, more: int, exponent: float) -> None:
    found = inclusion(power(k + more, exponent), k)
    assert found.sum() == pytest.approx(k)
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()


def test_touching_all_uses_every_expert_once() -> None:
    tokens = touching_all(Shape(2, 5, 2))
    assert tokens.shape == (3, 2, 2)
    for layer in range(2):
        assert sorted(tokens[:, layer][tokens[:, layer] >= 0]) == [0, 1, 2, 3, 4]


@settings(max_examples=10)
@given(st.sampled_from([(3, 8, 2), (2, 32, 4), (4, 16, 1)]), st.floats(1, 8), st.integers(0, 3))
def test_made_traces_have_the_curve(shape: tuple[int, int, int], exponent: float, seed: int) -> None:
    wanted = power(shape[1], exponent)
    trace = routing_of_curve(Shape(*shape), wanted, 400, seed=seed)
    found = hit_rate_curve(trace, "lru").decode_hit_rate
    assert found is not None
    possible = np.cumsum(inclusion(wanted, shape[2])) / shape[2]  # a token cannot use a place twice
    assert found == pytest.approx(possible, abs=0.005)
    assert found[-1] == 1  # the prompt has filled the cache


def test_made_traces_of_fixed_places() -> None:
    wanted = power(16, 3)
    trace = routing_of_curve(Shape(4, 16, 2), wanted, 300, fixed=True)
    ranked = RoutingTrace.from_arrays(touching_all(Shape(4, 16, 2)), num_experts=16)
    for capacity in (2, 5, 9):
        found = simulate(trace, "static", capacity, profile=ranked, bounds=False).phase_rate(1)
        assert found == pytest.approx(wanted[capacity], abs=0.001)


def test_balanced_draws_by_hand() -> None:
    # two of three places in four steps, with chances 1, 1/2, 1/2: four times the first, twice each of the others
    found = balanced_draws(np.array([1.0, 0.5, 0.5]), 4, 2, np.random.default_rng(0))
    assert np.bincount(found.ravel()).tolist() == [4, 2, 2]


@given(st.integers(1, 6), st.integers(1, 20), exponents, st.integers(1, 60), st.integers(0, 5))
def test_draws_are_balanced(k: int, more: int, exponent: float, steps: int, seed: int) -> None:
    chances = inclusion(power(k + more, exponent), k)
    found = balanced_draws(chances, steps, k, np.random.default_rng(seed))
    assert found.shape == (steps, k)
    assert all(len(set(step)) == k for step in found.tolist())
    counts = np.bincount(found.ravel(), minlength=k + more)
    assert np.abs(np.cumsum(counts) - steps * np.cumsum(chances)).max() <= 0.5 + 1e-9


def test_equal_seeds_make_equal_traces() -> None:
    one, same = (routing_of_curve(Shape(2, 8, 2), power(8, 2), 20) for _ in range(2))
    assert np.array_equal(one.experts, same.experts)


def test_a_trace_stands_for_itself() -> None:
    """Made of its own curve, a trace hits as the original: what is lost is only who was used."""
    original = local_trace(3, 16, 2, tokens=1_000)
    made = routing_of_curve(Shape(3, 16, 2), curve_of(original, "lru"), 1_000)
    found = hit_rate_curve(made, "lru").decode_hit_rate
    assert found is not None
    assert found[1:] == pytest.approx(curve_of(original, "lru")[2:], abs=0.005)
