"""The budget allocator: hand-solved, against every possible division, and fed back into `simulate`."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.policies.recency import Lru
from lrcsim.simulator import simulate
from lrcsim.simulator.curves import allocate as module
from lrcsim.simulator.curves.allocate import Ints, allocate, exact_split, greedy_split, uniform_split
from lrcsim.traces import RoutingTrace


def curve(*hits: int) -> Ints:
    return np.array(hits, np.int64)


def hits_of(curves: list[Ints], slots: list[int]) -> int:
    return sum(int(curve[n]) for curve, n in zip(curves, slots, strict=True))


def used(costs: list[int], slots: list[int]) -> int:
    return sum(cost * n for cost, n in zip(costs, slots, strict=True))


@st.composite
def knapsacks(draw: st.DrawFn, concave: bool = False) -> tuple[list[Ints], list[int], int]:
    layers = draw(st.integers(1, 4))
    curves = []
    for _ in range(layers):
        gains = draw(st.lists(st.integers(0, 9), min_size=0, max_size=5))
        curves.append(np.cumsum([0, *(sorted(gains, reverse=True) if concave else gains)]))
    costs = [1] * layers if concave else draw(st.lists(st.integers(1, 6), min_size=layers, max_size=layers))
    return curves, costs, draw(st.integers(0, 40))


@settings(max_examples=400)
@given(knapsack=knapsacks())
def test_exact_is_the_best_of_all_divisions_and_greedy_no_better(knapsack: tuple[list[Ints], list[int], int]) -> None:
    curves, costs, budget = knapsack
    every = product(*(range(len(curve)) for curve in curves))
    best = max(hits_of(curves, list(slots)) for slots in every if used(costs, list(slots)) <= budget)
    exact = exact_split(curves, costs, budget)
    greedy, most_hits = greedy_split(curves, costs, budget)
    uniform = uniform_split([len(curve) - 1 for curve in curves], costs, budget)
    assert hits_of(curves, exact) == best
    assert hits_of(curves, greedy) <= best <= most_hits
    assert max(used(costs, slots) for slots in (exact, greedy, uniform)) <= budget
    # No layer's greedy share can still be raised to gain anything.
    left = budget - used(costs, greedy)
    for curve, cost, slots in zip(curves, costs, greedy, strict=True):
        assert curve[min(slots + left // cost, len(curve) - 1)] == curve[slots]


@settings(max_examples=200)
@given(knapsack=knapsacks(concave=True))
def test_greedy_is_exact_where_curves_are_concave(knapsack: tuple[list[Ints], list[int], int]) -> None:
    curves, costs, budget = knapsack
    greedy, most_hits = greedy_split(curves, costs, budget)
    assert hits_of(curves, greedy) == hits_of(curves, exact_split(curves, costs, budget)) == most_hits


def test_hand_solved() -> None:
    # Layer 0 gains nothing before its third slot, layer 1 gains 4, 1, 1.
    curves = [curve(0, 0, 0, 9), curve(0, 4, 5, 6)]
    # 3 slots: greedy takes 4 for one slot, then 9 for three does not fit, so 1 and 1. Best: all three to layer 0.
    assert greedy_split(curves, [1, 1], 3) == ([0, 3], 4 + 9 * 2 // 3)
    assert exact_split(curves, [1, 1], 3) == [3, 0]
    assert greedy_split(curves, [1, 1], 4) == ([3, 1], 13)
    assert exact_split(curves, [1, 1], 4) == [3, 1]
    # Experts of layer 1 are three times as large: 9 for three bytes first, then 4 for three more.
    assert greedy_split(curves, [1, 3], 5)[0] == exact_split(curves, [1, 3], 5) == [3, 0]
    assert greedy_split(curves, [1, 3], 6)[0] == exact_split(curves, [1, 3], 6) == [3, 1]
    assert uniform_split([3, 3], [1, 1], 5) == [3, 2]
    assert uniform_split([1, 9], [1, 1], 5) == [1, 4]
    assert uniform_split([3, 3], [1, 3], 6) == [3, 1]


def sticky(tokens: int, expert_bytes: list[int] | None = None) -> RoutingTrace:
    """Layer 0 uses two of its experts only, layer 1 nearly all, layer 2 few, with 4 experts fewer."""
    rng = np.random.default_rng(3)
    shares = [[1, 1, *[0] * 6], [1] * 8, [4, 3, 2, 1, 0, 0, 0, 0]]
    ids = np.array([[rng.choice(8, 2, replace=False, p=np.array(s) / sum(s)) for s in shares] for _ in range(tokens)])
    return RoutingTrace.from_arrays(
        ids, num_experts=[8, 8, 4], phase=[0] * 9 + [1] * (tokens - 9), expert_bytes=expert_bytes
    )


@pytest.mark.parametrize("access", ["coresident", "sequential", "paper"])
@pytest.mark.parametrize("policy", ["lru", "lfu", "belady", "sch-lookahead:4"])
def test_the_capacities_fed_back_have_these_hits(policy: str, access: str) -> None:
    trace = sticky(80)
    found = allocate(trace, policy, "2x", access=access)
    assert (found.budget, found.unit) == (12, "experts")
    assert found.exact is not None
    for split in (found.greedy, found.exact, found.uniform):
        again = simulate(trace, policy, list(split.capacities), access=access, bounds=False)  # type: ignore[arg-type]
        by_phase = (again.counts.accesses - again.counts.misses).sum(axis=1).tolist()
        assert list(split.hits) == by_phase
        assert split.hit_rate == again.hit_rate
        assert split.used == sum(split.capacities) <= 12
    pooled = simulate(trace, policy, 12, scope="model", access=access, bounds=False)  # type: ignore[arg-type]
    assert found.shared.hit_rate == pytest.approx(pooled.hit_rate, abs=1e-15)
    assert sum(found.uniform.hits) <= sum(found.exact.hits) <= found.most_hits
    assert sum(found.greedy.hits) <= sum(found.exact.hits)
    assert found.exact.hit_rate > found.uniform.hit_rate  # layer 0 needs no more than two


def test_bytes_of_unequal_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    trace = sticky(80, expert_bytes=[300, 200, 500])
    found = allocate(trace, "lru", "2050B")
    assert (found.budget, found.unit) == (2050, "bytes")
    assert found.exact is not None
    assert max(split.used for split in (found.greedy, found.exact, found.uniform, found.shared)) <= 2050
    again = simulate(trace, "lru", list(found.best.capacities), bounds=False)
    assert found.best.hit_rate == again.hit_rate
    pooled = simulate(trace, "lru", "2050B", scope="model", bounds=False)
    assert found.shared.hit_rate == pytest.approx(pooled.hit_rate, abs=1e-15)
    equal = allocate(sticky(80, expert_bytes=[100, 100, 100]), "lru", "1250B")
    assert (equal.budget, equal.unit) == (12, "experts")
    monkeypatch.setattr(module, "MOST_EXACT_WORK", 100)
    bounded = allocate(trace, "lru", "2050B")
    assert bounded.exact is None
    assert bounded.best == bounded.greedy == found.greedy
    assert bounded.exact_left_out == "the dynamic program would be too large, 4e+02 steps over 20 units of budget"
    data = bounded.to_dict()
    assert data["exact"] is None
    assert data["capacities"] == list(found.greedy.capacities)


def test_more_than_everything_and_nothing() -> None:
    trace = sticky(40)
    everything, nothing = allocate(trace, "lru", 1000), allocate(trace, "lru", 0)
    warm = simulate(trace, "lru", "100%", bounds=False)
    assert everything.exact is not None
    splits = (everything.greedy, everything.exact, everything.uniform, everything.shared)
    assert {split.hit_rate for split in splits} == {warm.hit_rate}
    assert everything.uniform.capacities == (8, 8, 4)
    assert nothing.best.capacities == (0, 0, 0)
    assert nothing.most_hits == 0


@pytest.mark.parametrize(
    ("policy", "budget", "message"),
    [
        ("fifo", "2x", "'fifo' has no stack algorithm"),
        ("lru", "4GiB", "does not say how large an expert is"),
        ("lru", "2,2,2", "must be one size for all layers together"),
        ("lru", [2, 2, 2], "must be one size for all layers together"),
        ("lru", "some", "is not understood"),
        ("lru", "120%", "out of range"),
    ],
)
def test_refused(policy: str, budget: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        allocate(sticky(20), policy, budget)


def test_a_class_of_the_user_has_no_stack_algorithm() -> None:
    """Whatever it is called: its name once decided, and a class named lru was given LRU's curve."""

    class Mine(Lru):
        pass

    class Named(Lru):
        name = "lru"

    trace = RoutingTrace.from_arrays(np.zeros((4, 2, 1), int), num_experts=4)
    for kind in (Mine, Named):
        with pytest.raises(ConfigError, match="has no stack algorithm"):
            allocate(trace, kind, 4)  # type: ignore[arg-type]  # a class, as elsewhere


def of_unequal_sizes(seed: int = 0) -> RoutingTrace:
    rng = np.random.default_rng(seed)
    ids = (rng.random((60, 3, 6)) + rng.random((3, 6))).argsort(axis=2)[:, :, :2]
    sizes = rng.integers(1, 5, (3, 6)) * 1000
    return RoutingTrace.from_arrays(ids, num_experts=6, phase=np.arange(60) % 3 > 0, expert_bytes=sizes)


@pytest.mark.parametrize("policy", ["lru", "lfu", "belady"])
@pytest.mark.parametrize("budget", ["9kB", "20kB", "33kB", "1MB"])
def test_a_budget_in_bytes_of_experts_of_unequal_size(policy: str, budget: str) -> None:
    trace = of_unequal_sizes()
    found = allocate(trace, policy, budget)
    assert found.unit == "bytes"
    assert found.exact is not None
    for division in (found.greedy, found.exact, found.uniform):
        result = simulate(trace, policy, list(division.capacities), bounds=False)
        counts = result.counts
        assert (counts.accesses - counts.misses).sum(axis=1).tolist() == list(division.hits)
        assert counts.accesses.sum(axis=1).tolist() == list(division.accesses)
        assert division.used == sum(int(str(size).removesuffix("B")) for size in division.capacities) <= found.budget
        assert sum(division.hits) <= sum(found.exact.hits) <= found.most_hits
    pool = simulate(trace, policy, budget, scope="model", bounds=False).counts
    assert (pool.accesses - pool.misses).sum(axis=1).tolist() == list(found.shared.hits)


def test_a_budget_in_bytes_solved_by_hand() -> None:
    # Layer 0 uses one expert of 1 kB all the time, layer 1 two of 3 kB in turn: with 1 kB and 6 kB all but the first
    # uses hit. 7 kB are just that; an even share would be 3.5 kB each, with which layer 1 never hits.
    ids = np.array([[[0], [0]], [[0], [1]]] * 6)
    trace = RoutingTrace.from_arrays(ids, num_experts=2, expert_bytes=[[1000, 2000], [3000, 3000]])
    found = allocate(trace, "lru", "7.5kB")
    assert sum(found.best.hits) == 11 + 10
    assert sum(found.uniform.hits) == 11
    low, high = (int(str(size).removesuffix("B")) for size in found.best.capacities)
    assert 1000 <= low <= 1500
    assert 6000 <= high <= 6500


def test_policies_that_have_no_loop_for_bytes() -> None:
    with pytest.raises(ConfigError, match="policy sch-lookahead has no compiled loop where experts of a layer differ"):
        allocate(of_unequal_sizes(), "sch-lookahead:4", "20kB")
