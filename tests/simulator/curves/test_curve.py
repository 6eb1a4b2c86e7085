"""`hit_rate_curve`: the public face of the stack algorithms, and of replays where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lrcsim.base.errors import ConfigError, PolicyError
from lrcsim.policies import Policy
from lrcsim.policies.recency import Lru
from lrcsim.simulator import hit_rate_curve, simulate
from lrcsim.simulator.curves.curve import curve_of, passes_of
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace


@pytest.fixture(scope="module")
def trace() -> RoutingTrace:
    ids = np.random.default_rng(1).random((80, 3, 12)).argsort(axis=2)[:, :, :2]
    return RoutingTrace.from_arrays(ids, num_experts=12, phase=[0] * 20 + [1] * 60)


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("policy", ["lru", "belady", "fifo", "sch-lookahead:4"])
def test_each_point_is_what_simulate_gives(trace: RoutingTrace, policy: str, scope: str) -> None:
    curve = hit_rate_curve(trace, policy, scope=scope)  # type: ignore[arg-type]
    assert curve.exact_at_all == (policy != "fifo")
    assert curve.prefill_hit_rate is not None
    assert curve.decode_hit_rate is not None
    for i in range(0, len(curve.capacities), 3):
        one = simulate(trace, policy, int(curve.capacities[i]), scope=scope, bounds=False)  # type: ignore[arg-type]
        assert curve.hit_rate[i] == pytest.approx(one.hit_rate, abs=1e-15)
        assert curve.prefill_hit_rate[i] == pytest.approx(one.phase_rate(0), abs=1e-15)
        assert curve.decode_hit_rate[i] == pytest.approx(one.phase_rate(1), abs=1e-15)


def test_capacities(trace: RoutingTrace) -> None:
    layer, model = (hit_rate_curve(trace, "lru", scope=scope) for scope in ("layer", "model"))  # type: ignore[arg-type]
    assert layer.capacities.tolist() == list(range(1, 13))
    assert layer.relative[3] == 2.0
    assert model.capacities.tolist() == list(range(1, 37))
    assert model.relative[11] == 2.0
    few = hit_rate_curve(trace, "lru", capacities=[0, 4, 100])
    assert few.hit_rate.tolist() == [0.0, layer.hit_rate[3], layer.hit_rate[-1]]


def test_layers_of_different_size() -> None:
    """Layer 0 has 2 experts, layer 1 has 4: from 2 slots on, layer 0 stays as it is."""
    ids = np.array([[[t % 2], [t % 4]] for t in range(12)])
    trace = RoutingTrace.from_arrays(ids, num_experts=[2, 4])
    curve = hit_rate_curve(trace, "lru")
    # Layer 0: 12 accesses, 10 hits from 2 slots on. Layer 1: cyclic over 4, LRU hits only with all 4: 8 hits.
    assert curve.hit_rate.tolist() == [0.0, 10 / 24, 10 / 24, 18 / 24]


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("policy", ["lru", "belady", "fifo"])
def test_sizes_in_bytes(policy: str, scope: str) -> None:
    """Experts of 10, 20 and 30 bytes: in scope layer each layer holds what its share of the bytes has room for."""
    ids = np.random.default_rng(2).random((60, 3, 6)).argsort(axis=2)[:, :, :2]
    trace = RoutingTrace.from_arrays(ids, num_experts=6, expert_bytes=[10, 20, 30])
    sizes = ["60B", "120B", "240B"]
    curve = hit_rate_curve(trace, policy, scope=scope, capacities=sizes)  # type: ignore[arg-type]
    assert (curve.unit, curve.capacities.tolist()) == ("bytes", [60, 120, 240])
    assert curve.relative.tolist() == [0.5, 1.0, 2.0]  # of 2 * (10 + 20 + 30) bytes
    each = [simulate(trace, policy, size, scope=scope, bounds=False).hit_rate for size in sizes]  # type: ignore[arg-type]
    assert curve.hit_rate.tolist() == each
    assert curve.engine == ("stack" if scope == "layer" and policy != "fifo" else "compiled")


def test_policies_that_need_a_profile(trace: RoutingTrace) -> None:
    curve = hit_rate_curve(trace, "static", profile=trace, capacities=[4])
    assert curve.hit_rate[0] == simulate(trace, "static", 4, profile=trace, bounds=False).hit_rate
    with pytest.raises(PolicyError, match="needs a profile"):
        hit_rate_curve(trace, "static")


def test_knee() -> None:
    """Ten accesses to one expert, then one each to nine: a second slot brings nothing, so the knee is at the first."""
    ids = [[[e]] for e in [0] * 10 + [e for e in range(1, 10) for _ in (0, 1)]]
    curve = hit_rate_curve(RoutingTrace.from_arrays(ids, num_experts=10), "lru")
    assert curve.hit_rate[0] == curve.hit_rate[-1]
    assert curve.knee == 0


def test_one_phase_only() -> None:
    curve = hit_rate_curve(RoutingTrace.from_arrays([[[0]], [[0]]], num_experts=1), "lru")
    assert curve.prefill_hit_rate is None
    assert curve.hit_rate.tolist() == [0.5]


def test_a_users_class_of_a_known_name_is_not_taken_for_the_built_in(trace: RoutingTrace) -> None:
    mine: type[Policy] = type("Mine", (Lru,), {"name": "lru", "victim": lambda self, protected: max(
        key for key in self.order if key not in protected)})  # fmt: skip
    curve = hit_rate_curve(trace, mine, capacities=[4])
    assert not curve.exact_at_all
    assert curve.hit_rate[0] == simulate(trace, mine, 4, bounds=False).hit_rate


def test_refused(trace: RoutingTrace) -> None:
    with pytest.raises(ConfigError, match="did you mean 'model'"):
        hit_rate_curve(trace, "lru", scope="modle")  # type: ignore[arg-type]
    for wrong in ([-1], [], [2, "4GiB"], ["2x"]):
        with pytest.raises(ConfigError, match="capacities must be a list"):
            hit_rate_curve(trace, "lru", capacities=wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="does not say how large an expert is"):
        hit_rate_curve(trace, "lru", capacities=["4GiB"])
    with pytest.raises(PolicyError, match="needs router weights"):
        hit_rate_curve(trace, "mrs")
    with pytest.raises(PolicyError, match="inserts every expert"):
        hit_rate_curve(trace, "belady-bypass", access="paper")


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_policies_together_read_the_trace_once(scope: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.random.default_rng(3).random((90, 3, 6)).argsort(axis=2)[:, :, :2]
    trace = RoutingTrace.from_arrays(ids, num_experts=6, expert_bytes=[10, 20, 30])
    policies = ["lru", "fifo", "belady", "sch-lookahead:4", "lru"]
    runs = [Run.of(trace, policy=policy, cache=0, scope=scope) for policy in policies]
    read, given = RoutingTrace.read, []

    def noted(trace: RoutingTrace, name: str, low: int, high: int, **how: Any) -> Any:
        found = read(trace, name, low, high, **how)
        given.append(found.size)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(RoutingTrace, "read", noted)
        passes = passes_of(runs, jobs=1)
        assert sum(given) == ids.size
        assert list(passes) == ["lru", "belady", "sch-lookahead:m=4"]
        given.clear()
        together = [curve_of(run, passes=passes) for run in runs if run.policy != "fifo"]
        assert not given
    for curve in together:
        alone = hit_rate_curve(trace, curve.policy, scope=scope)  # type: ignore[arg-type]
        assert curve.hit_rate.tolist() == alone.hit_rate.tolist()
        assert curve.engine == "stack"
    # In bytes of experts that differ in one pool nothing is counted together: no stack algorithm serves there.
    assert list(passes_of(runs, ["60B"], jobs=1)) == (
        [] if scope == "model" else ["lru", "belady", "sch-lookahead:m=4"]
    )
    with pytest.raises(ConfigError, match="capacities must be"):
        passes_of(runs, [-1])


def test_other_orders_of_the_trace_are_not_counted_together() -> None:
    trace = RoutingTrace.from_arrays(np.arange(24).reshape(8, 1, 3) % 7, num_experts=7, offsets=[0, 4, 8])
    runs = [Run.of(trace, policy="lru", cache=0), Run.of(trace, policy="lfu", cache=0, batch=2)]
    assert list(passes_of(runs)) == ["lru"]
