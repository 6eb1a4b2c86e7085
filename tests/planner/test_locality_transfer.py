"""Curves carried over to another shape, and the traces made to have them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planned import local_trace

from lrcsim.planner.locality_transfer import LOCALITY_RANGE, RULES, Rule, curve_of, halves, matching_size, transfer
from lrcsim.planner.synthetic_trace import inclusion, routing_of_curve, touching_all
from lrcsim.planner.traces import Shape
from lrcsim.simulator import hit_rate_curve, simulate
from lrcsim.traces import RoutingTrace


def power(experts: int, exponent: float) -> np.ndarray:
    """Return the curve whose misses are (1 - C / E) ** exponent."""
    return 1 - (1 - np.arange(experts + 1) / experts) ** exponent


def test_same_share_of_experts_by_hand() -> None:
    # 4 experts top-1 and 8 top-2 use a quarter each, so all rules agree: misses of the source at C = 1, 2, 3 are
    # 0.5, 0.25, 0.125, so the exponents are ln 0.5 / ln 0.75 = 2.409, ln 0.25 / ln 0.5 = 2, ln 0.125 / ln 0.25 = 1.5.
    curve = np.array([0, 0.5, 0.75, 0.875, 1])
    for rule in RULES:
        carried = transfer(curve, Shape(1, 4, 1), Shape(1, 8, 2), rule)
        assert carried[[0, 2, 4, 6, 8]] == pytest.approx([0, 0.5, 0.75, 0.875, 1])
        between = (1 - 3 / 8) ** ((2.4094208 + 2) / 2)
        assert carried[3] == pytest.approx(1 - between, rel=1e-6)


def test_sparser_by_hand() -> None:
    # From 1 of 4 to 1 of 16: four times sparser. Misses (1 - C/E) ** 2 everywhere.
    source, target = Shape(1, 4, 1), Shape(1, 16, 1)
    assert transfer(power(4, 2), source, target, "fraction") == pytest.approx(power(16, 2))
    assert transfer(power(4, 2), source, target, "middle") == pytest.approx(power(16, 4))
    assert transfer(power(4, 2), source, target, "rho") == pytest.approx(power(16, 8))
    # and at small caches the rule rho gives what the source has at as many experts
    carried = transfer(power(64, 2), Shape(1, 64, 4), Shape(1, 1024, 4), "rho")
    assert carried[4] == pytest.approx(power(64, 2)[4], abs=0.01)


@pytest.mark.parametrize(("rule", "size"), [("fraction", 2), ("middle", 4), ("rho", 8)])
def test_sizes_that_match_by_hand(rule: Rule, size: float) -> None:
    # 8 of 16 experts, top-1: the same share of 4 are 2; the same number per token used are 8; between them lies 4.
    assert matching_size(np.array([8.0]), Shape(1, 4, 1), Shape(1, 16, 1), rule) == pytest.approx([size])


def test_chance_stays_chance_at_equal_fraction_and_is_the_floor() -> None:
    source, target = Shape(1, 8, 2), Shape(1, 32, 2)
    assert transfer(power(8, 1), source, target, "fraction") == pytest.approx(power(32, 1))
    assert transfer(power(8, 1.5), source, target, "fraction", 1 / LOCALITY_RANGE) == pytest.approx(power(32, 1))
    worse = transfer(power(8, 0.8), source, target, "fraction", 1 / LOCALITY_RANGE)
    assert worse == pytest.approx(power(32, 0.8))  # what is worse than chance is not made worse still


def test_a_carried_curve_never_falls() -> None:
    # A source that misses half at 1, 2 and 3 of 4: exponents ln .5 / ln .75 = 2.409, 1 and 1/2, straight lines between.
    # At 3 of 8 the exponent is (2.409 + 1) / 2: misses .625 ** 1.705 = 0.449, less than the half at 4 of 8, and less
    # than .375 ** .75 = 0.479 at 5 and the half at 6. At 7 it is .125 ** .5 = 0.354, at 1 .875 ** 2.409 = 0.725.
    found = transfer(np.array([0, 0.5, 0.5, 0.5, 1]), Shape(1, 4, 1), Shape(1, 8, 2))
    least = 0.625 ** ((np.log(0.5) / np.log(0.75) + 1) / 2)
    misses = [1, 0.875 ** (np.log(0.5) / np.log(0.75)), 0.5, least, least, least, least, 0.125**0.5, 0]
    assert found == pytest.approx(1 - np.array(misses))


@pytest.mark.parametrize(("misses", "carried"), [(1e-3, 1e-3), (1e-4, 1e-4), (1e-6, 1e-4)])
def test_a_source_that_hardly_misses_at_all(misses: float, carried: float) -> None:
    # Its one exponent is kept, but misses of less than 1 in 10,000 are taken for that.
    source = Shape(1, 4, 1)
    found = transfer(np.array([0, 1 - misses, 1, 1, 1]), source, source)
    assert found[1] == pytest.approx(1 - carried, abs=1e-9)
    assert 1 - found[2] == pytest.approx(0.5 ** (np.log(carried) / np.log(0.75)), rel=1e-6)


def test_misses_that_are_too_few_to_tell_leave_the_exponent_before() -> None:
    # Half at 1 of 4, 0.011 at 2; 0.009 at 3 is no longer known well: there the exponent of 2 holds.
    source = Shape(1, 4, 1)
    found = transfer(np.array([0, 0.5, 0.989, 0.991, 1]), source, source)
    assert 1 - found[1:3] == pytest.approx([0.5, 0.011])
    assert 1 - found[3] == pytest.approx(0.25 ** (np.log(0.011) / np.log(0.5)))


def test_misses_are_few_only_where_no_larger_cache_has_more() -> None:
    # 0.005 at 2 of 4, but 0.02 again at 3: then 0.005 is known too, and its exponent is that of 2.
    source = Shape(1, 4, 1)
    found = transfer(np.array([0, 0.5, 0.995, 0.98, 1]), source, source)
    assert found[1:4] == pytest.approx([0.5, 0.995, 0.995])  # never falling


exponents = st.floats(0.5, 12)


@given(exponents, st.integers(2, 40), st.integers(2, 200), st.integers(1, 8), st.integers(1, 8), st.sampled_from(RULES))
def test_laws(exponent: float, experts: int, others: int, k: int, other_k: int, rule: str) -> None:
    source, target = Shape(1, experts, min(k, experts)), Shape(1, others, min(other_k, others))
    curve = power(experts, exponent)
    low, middle, high = (transfer(curve, source, target, rule, factor) for factor in (0.5, 1.0, 2.0))  # type: ignore[arg-type]
    for found in (low, middle, high):
        assert len(found) == others + 1
        assert (found[0], found[-1]) == (0, 1)
        assert (np.diff(found) >= 0).all()
    assert (low <= middle + 1e-12).all()
    assert (middle <= high + 1e-12).all()
    assert transfer(curve, source, source, rule)[:-1] == pytest.approx(curve[:-1], abs=0.011)  # type: ignore[arg-type]


def test_curve_of_leaves_first_uses_out() -> None:
    # one expert per token, 0 1 0 1 0 2 0 2: LRU with 1 slot hits 0 of 8; with 2: 0 1 0 1 0 | 2 0 2: misses 0, 1, 2;
    # with 3: the same three first uses. 5 of 8 hits at 2 and 3, so both count as 1.
    trace = RoutingTrace.from_arrays(np.array([0, 1, 0, 1, 0, 2, 0, 2]).reshape(-1, 1, 1), num_experts=3)
    assert curve_of(trace, "lru").tolist() == [0, 0, 1, 1]


def test_curve_of_is_that_of_decoded_tokens() -> None:
    # A prompt 0, then 1; another prompt 1, then 0. One slot: only the second prompt hits. Two: 0 hits too, of the
    # decoded 1 and 0 that is the one that is no first use. With the prompts the rates were 1/4 and 2/4.
    trace = RoutingTrace.from_arrays(
        np.array([0, 1, 1, 0]).reshape(-1, 1, 1), num_experts=3, offsets=[0, 2, 4], phase=[0, 1, 0, 1]
    )
    assert curve_of(trace, "lru").tolist() == [0, 0, 1, 1]


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
    # never. Seven of seven uses that are not the first.
    trace = RoutingTrace.from_arrays(np.reshape([0, 1, 2, 3, 0, 1, 4, 0, 1, 2, 3, 4], (-1, 1, 1)), num_experts=5)
    assert hit_rate_curve(trace, "fifo").hit_rate == pytest.approx([0, 0, 3 / 12, 2 / 12, 7 / 12])
    assert curve_of(trace, "fifo") == pytest.approx([0, 0, 0, 3 / 7, 3 / 7, 1])


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
    accesses = 400 * shape[0] * shape[2]
    possible = np.cumsum(inclusion(wanted, shape[2])) / shape[2]  # a token cannot use a place twice
    assert found == pytest.approx(possible, abs=4 * 0.5 / np.sqrt(accesses))
    assert found[-1] == 1  # the prompt has filled the cache


def test_made_traces_of_fixed_places() -> None:
    wanted = power(16, 3)
    trace = routing_of_curve(Shape(4, 16, 2), wanted, 1_000, fixed=True)
    for capacity in (2, 5, 9):
        found = simulate(trace, "static", capacity, profile=trace, bounds=False).phase_rate(1)
        assert found == pytest.approx(wanted[capacity], abs=0.025)


def test_equal_seeds_make_equal_traces() -> None:
    one, same = (routing_of_curve(Shape(2, 8, 2), power(8, 2), 20) for _ in range(2))
    assert np.array_equal(one.experts, same.experts)


def test_a_trace_stands_for_itself() -> None:
    """Made of its own curve, a trace hits as the original: what is lost is only who was used."""
    original = local_trace(3, 16, 2, tokens=1_000)
    made = routing_of_curve(Shape(3, 16, 2), curve_of(original, "lru"), 1_000)
    found = hit_rate_curve(made, "lru").decode_hit_rate
    assert found is not None
    assert found[1:] == pytest.approx(curve_of(original, "lru")[2:], abs=0.02)
