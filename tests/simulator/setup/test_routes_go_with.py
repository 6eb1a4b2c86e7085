"""A routing rule on a machine: the same hits, the time of what was chosen; what it does not go with; ``substitute``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from machines import geometry, machine

from lrcsim.errors import ConfigError
from lrcsim.simulator import simulate
from lrcsim.simulator.compiled.reroute import rerouted
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace

SHAPE = geometry(experts=6, top_k=2)


def traced(**changed: Any) -> RoutingTrace:
    """Make a trace of three requests with prompts: 2 layers of 6 experts, top-2."""
    logits = np.random.default_rng(4).normal(size=(60, 2, 6)).astype(np.float32)
    experts = np.argsort(-logits, axis=2)[:, :, :2]
    weights = np.exp(np.take_along_axis(logits, experts, axis=2))
    columns: dict[str, Any] = {
        "weights": weights / weights.sum(axis=2, keepdims=True),
        "logits": logits,
        "phase": ([0] * 5 + [1] * 15) * 3,
        "offsets": [0, 20, 40, 60],
        "expert_bytes": 100,
    }
    return RoutingTrace.from_arrays(experts, num_experts=6, **columns | changed)


@pytest.mark.parametrize("engine", ["events", "compiled"])
@pytest.mark.parametrize("options", [{}, {"batch": 2, "policy": "lfu"}, {"speculative": (1, 0.5), "scope": "model"}])
def test_hits_with_time_are_those_without(engine: str, options: dict[str, Any]) -> None:
    told = {"policy": "lru", "cache": 3, "route": "prior:0.3"} | options
    alone = simulate(traced(), **told)
    timed = simulate(traced(), hardware=machine(), model=SHAPE, engine=engine, **told)
    assert timed.counts.misses.tolist() == alone.counts.misses.tolist()
    assert timed.counts.accesses.tolist() == alone.counts.accesses.tolist()
    first, second = alone.to_dict()["route"], timed.to_dict()["route"]
    assert {name: first[name] for name in ("agreement", "mass_kept", "loads")} == {
        name: second[name] for name in ("agreement", "mass_kept", "loads")
    }


def test_time_is_that_of_the_trace_of_what_was_chosen() -> None:
    told: dict[str, Any] = {"policy": "lru", "cache": 3, "hardware": machine(), "model": SHAPE}
    timed = simulate(traced(), route="window:1,4", **told)
    chosen, _ = rerouted(Run.of(traced(), route="window:1,4", policy="lru", cache=3))
    again = simulate(as_recorded(chosen.trace), **told)
    assert timed.to_dict()["time"] == again.to_dict()["time"]
    plain = simulate(traced(), **told)
    beside = timed.to_dict()["route"]["without"]
    assert beside["decode_tokens_per_s"] == plain.to_dict()["time"]["decode_tokens_per_s"]
    assert beside["total_s"] > timed.to_dict()["time"]["total_s"]
    bare = simulate(traced(), route="window:1,4", bounds=False, **told).to_dict()
    assert bare["route"]["without"]["total_s"] is None
    assert bare["route"]["without"]["hit_rate"] == plain.hit_rate


def as_recorded(chosen: RoutingTrace) -> RoutingTrace:
    """Return a trace with nothing left of how it was chosen."""
    columns = {"weights": chosen.weights, "phase": chosen.phase, "offsets": chosen.offsets}
    return RoutingTrace.from_arrays(chosen.experts, num_experts=6, expert_bytes=100, **columns)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"prefetch": "oracle:1"}, "loads on demand, not with prefetch 'oracle.*leave it out"),
        ({"miss": "cpu"}, "not with miss action 'cpu': use load"),
        ({"arrivals": "poisson:1"}, "with arrivals the order of steps does: leave out arrivals"),
        ({"miss": "substitute:0.2"}, "is the routing rule 'substitute:0.2,keep=1', and route names another"),
    ],
)
def test_what_it_does_not_go_with(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        simulate(traced(), "lru", 3, route="prior:0.1", hardware=machine(), model=SHAPE, **options)


def test_substitute_is_the_rule_where_the_trace_has_logits() -> None:
    told: dict[str, Any] = {"policy": "lru", "cache": 3, "hardware": machine(), "model": SHAPE}
    named = simulate(traced(), miss="substitute:0.4,keep=0", **told)
    rule = simulate(traced(), route="substitute:0.4,keep=0", **told)
    assert named.to_dict() == rule.to_dict()
    assert (named.config["miss"], named.config["route"]) == ("load", "substitute:0.4,0")
    assert Run.from_dict(named.run.to_dict(), traced(), hardware=machine(), model=SHAPE).options.miss == "load"
    counted = simulate(traced(logits=None), miss="substitute:0.4,keep=0", **told)
    assert counted.routing is None
    assert counted.config["miss"] == "substitute:0.4,keep=0"
    assert counted.to_dict()["missed"]["substituted"] > 0


def test_the_rule_loads_what_the_miss_action_does_until_stand_ins_are_younger() -> None:
    """Of two tokens: which resident stood in makes no difference yet."""
    told: dict[str, Any] = {"policy": "lru", "cache": 3, "hardware": machine(), "model": SHAPE}
    two = {"phase": None, "offsets": [0, 2], "weights": traced().column("weights")[:2], "expert_bytes": 100}
    experts, logits = traced().experts[:2], traced().column("logits")[:2]
    for threshold in (0.2, 0.4, 0.6, 1):
        rule, action = (
            simulate(
                RoutingTrace.from_arrays(experts, num_experts=6, logits=scores, **two),
                miss=f"substitute:{threshold}",
                **told,
            )
            for scores in (logits, None)
        )
        assert (rule.routing is None, action.routing is None) == (False, True)
        assert rule.loads == action.loads
