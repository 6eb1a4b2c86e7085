"""What a routing rule makes of a trace: solved by hand, against its definition (tests/naive_routing.py), its laws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import naive_routing
import naive_traces
import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.errors import ConfigError, PolicyError
from lrcsim.policies import BUILT_IN, CompiledRule, RoutingRule
from lrcsim.simulator import simulate
from lrcsim.simulator.compiled import reroute
from lrcsim.simulator.compiled.counts import count
from lrcsim.simulator.compiled.reroute import rerouted
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.serving import batched
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import LayerTable, RoutingTrace

ENGINES = ("compiled", "python")


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Say which engine chooses."""

    def use(name: str) -> None:
        monkeypatch.setattr(reroute, "_better_in_python", lambda _: name == "python")

    return use


def traced(logits: list[list[list[float]]], k: int, **columns: Any) -> RoutingTrace:
    """Make the trace of a router that takes the k best of [token][layer][expert], with softmax weights."""
    scores = np.array(logits, np.float32)
    experts = np.argsort(-scores, axis=2, kind="stable")[:, :, :k]
    chances = np.exp(scores)
    weights = np.take_along_axis(chances, experts, axis=2)
    return RoutingTrace.from_arrays(
        experts,
        num_experts=scores.shape[2],
        weights=weights / weights.sum(axis=2, keepdims=True),
        logits=scores,
        provenance={"logits": "raw"},
        **columns,
    )


# Four experts, two a token, two slots. The prior adds 0.6 spans to residents.
#
# token  scores     span  residents  with the prior      router  rule  hits  cache after (oldest first)
# 0      4 3 1 0    4     –          4 3 1 0             0 1     0 1   –     0 1
# 1      2 0 4 3    4     0 1        4.4 2.4 4 3         2 3     0 2   0     0 2
# 2      0 4 3 2    4     0 2        2.4 4 5.4 2         1 2     2 1   2     2 1
#
# Without it token 1 has no hit, and token 2 finds 2: 1 hit of 6, 5 loads; with it 2 hits, 4 loads.
# Of the six experts five are the router's. Of its mass token 1 keeps (e^4 + e^2) / (e^4 + e^3), the others all.
BY_HAND = [[[4.0, 3.0, 1.0, 0.0]], [[2.0, 0.0, 4.0, 3.0]], [[0.0, 4.0, 3.0, 2.0]]]


@pytest.mark.parametrize("name", ENGINES)
def test_solved_by_hand(name: str, engine: Callable[[str], None]) -> None:
    engine(name)
    trace = traced(BY_HAND, 2)
    chosen, found = rerouted(Run.of(trace, cache=2, route="prior:0.6"))
    assert chosen.trace.experts[:, 0].tolist() == [[0, 1], [0, 2], [2, 1]]
    assert found.engine == name
    told = found.to_dict()
    kept = (np.e**4 + np.e**2) / (np.e**4 + np.e**3)
    assert told["agreement"] == 5 / 6
    assert told["mass_kept"] == pytest.approx((2 + kept) / 3)
    chances = [np.exp(np.array(row[0])) / np.exp(row[0]).sum() for row in BY_HAND]
    own = [-np.log(chances[i][ids].sum()) for i, ids in enumerate(([0, 1], [2, 3], [1, 2]))]
    mine = [-np.log(chances[i][ids].sum()) for i, ids in enumerate(([0, 1], [0, 2], [2, 1]))]
    assert told["kl_nats"] == pytest.approx(np.mean(mine))
    assert told["kl_nats_unmodified"] == pytest.approx(np.mean(own))
    weights = chosen.trace.weights
    assert weights is not None
    assert weights[1, 0].tolist() == pytest.approx([1 / (1 + np.e**2), np.e**2 / (1 + np.e**2)])


def test_what_simulate_says_of_it() -> None:
    result = simulate(traced(BY_HAND, 2), cache=2, route="prior:0.6").to_dict()
    assert (result["cache"]["hits"], result["cache"]["accesses"]) == (2, 6)
    route = result["route"]
    assert route["rule"] == result["config"]["route"] == "prior:0.6"
    assert (route["loads"], route["loads_per_access"]) == (4, 4 / 6)
    assert (route["without"]["loads"], route["without"]["hit_rate"]) == (5, 1 / 6)
    assert route["router"] == {"recorded": "raw", "function": "softmax", "told_by": "weights"}
    assert route["decode"]["agreement"] == 5 / 6
    assert route["prefill"]["agreement"] is None


# The same trace, both other rules, tokens 1 and 2.
#
# window:1,3      token 1: 2 is sacred; of ranks 1 and 2 (3, 0) the resident 0: 2 0; cache 2 0
#                 token 2: 1 is sacred; of ranks 1 and 2 (2, 3) the resident 2: 1 2
# substitute:0.3  token 1: 3 has 1 / (1 + e) = 0.27 of the weight and is not there: the best resident, 0: 2 0; cache 2 0
#                 token 2: 2 is there: 1 2
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("rule", ["window:1,3", "substitute:0.3"])
def test_the_other_rules_solved_by_hand(name: str, rule: str, engine: Callable[[str], None]) -> None:
    engine(name)
    chosen, _ = rerouted(Run.of(traced(BY_HAND, 2), cache=2, route=rule))
    assert chosen.trace.experts[:, 0].tolist() == [[0, 1], [2, 0], [1, 2]]


class Case(NamedTuple):
    """A run with a rule."""

    trace: RoutingTrace
    rule: str
    naive_rule: naive_routing.Rule
    policy: str
    cache: str
    scope: str
    access: str
    prefill: str
    warm: bool

    def run(self, **changed: Any) -> Run:
        given = {name: getattr(self, name) for name in ("policy", "cache", "scope", "access", "prefill", "warm")}
        return Run.of(self.trace, **{**given, "route": self.rule, **changed})


@st.composite
def traces(draw: st.DrawFn) -> RoutingTrace:
    """Layers of different width and top-k, equal scores, tokens and layers that were not recorded, prompts."""
    layers = draw(st.integers(1, 3))
    experts = draw(st.lists(st.integers(2, 7), min_size=layers, max_size=layers))
    top_k = [draw(st.integers(1, min(count, 4))) for count in experts]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))  # draws of hypothesis would be mostly small
    requests = [(int(rng.integers(0, 6)), int(rng.integers(1, 9))) for _ in range(draw(st.integers(1, 4)))]
    phase = [kind for prompt, decoded in requests for kind in [0] * prompt + [1] * decoded]
    lengths = [prompt + decoded for prompt, decoded in requests]
    scores = rng.integers(0, draw(st.sampled_from([3, 9])), (len(phase), layers, max(experts))).astype(np.float32)
    ids = np.full((len(phase), layers, max(top_k)), -1)
    for layer, (count_, k) in enumerate(zip(experts, top_k, strict=True)):
        at = rng.integers(0, count_, len(phase))
        scores[np.arange(len(phase)), layer, at] = 10  # somebody is the best
        order = np.lexsort((rng.random((len(phase), count_)), -scores[:, layer, :count_]), axis=1)
        ids[:, layer, :k] = order[:, :k]
        scores[:, layer, count_:] = 99  # experts that the layer does not have
    ids[rng.random(ids.shape[:2]) < draw(st.sampled_from([0, 0.2]))] = -1
    return RoutingTrace.from_arrays(
        ids,
        num_experts=max(experts),
        layers=LayerTable.build(layers, experts, top_k),
        phase=phase,
        offsets=np.cumsum([0, *lengths]),
        logits=scores,
        provenance={"logits": "raw"},
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    trace, prefill = draw(traces()), draw(st.sampled_from(["step", "token", "chunk:2"]))
    trace = batched(trace, batch=draw(st.integers(1, 3)), prefill=prefill)
    kind = draw(st.sampled_from(["prior", "window", "substitute"]))
    if kind == "prior":
        boost = draw(st.sampled_from([0.3141, 0.0637, 0.0, 1.4142, float("inf")]))
        rule, naive_rule = f"prior:{boost}", naive_routing.prior(boost)
    elif kind == "window":
        sacred, width = draw(st.integers(0, 3)), draw(st.sampled_from([5, 3, 1, 4, 7]))
        rule, naive_rule = f"window:{sacred},{width}", naive_routing.window(sacred, width)
    else:
        threshold, keep = draw(st.sampled_from([0.4142, 0.2718, 0.0313, 1.0, 0.0])), draw(st.integers(0, 3))
        rule, naive_rule = f"substitute:{threshold},keep={keep}", naive_routing.substitute(threshold, keep)
    scope = draw(st.sampled_from(["layer", "model"]))
    most = trace.num_experts * (trace.num_layers if scope == "model" else 1)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return Case(
        trace,
        rule,
        naive_rule,
        draw(st.sampled_from(["lru", "lru", "fifo", "lfu"])),
        str(rng.integers(0, most + 1)),
        scope,
        draw(st.sampled_from(["coresident", "coresident", "sequential"])),
        prefill,
        draw(st.booleans()),
    )


def given_steps(trace: RoutingTrace) -> list[tuple[int, int, list[int]]] | None:
    """Return the steps of a server's order: request (busy period), phase, tokens."""
    if "step" not in trace.columns:
        return None
    steps: dict[int, list[int]] = {}
    for token, step in enumerate(trace.read("step", 0, trace.num_tokens).tolist()):
        steps.setdefault(step, []).append(token)
    phase = trace.read("phase", 0, trace.num_tokens).tolist()
    period = (np.searchsorted(trace.offsets, np.arange(trace.num_tokens), side="right") - 1).tolist()
    return [(period[tokens[0]], phase[tokens[0]], tokens) for tokens in steps.values()]


def expected(case: Case) -> naive_routing.Outcome:
    trace, every = case.trace, case.trace.num_tokens
    told = naive_traces.Trace(
        trace.read("experts", 0, every).tolist(),
        trace.layers.num_experts.tolist(),
        trace.layers.top_k.tolist(),
        trace.offsets.tolist(),
        trace.read("phase", 0, every).tolist(),
    )
    logits = trace.read("logits", 0, every).astype(int).tolist()
    rules = (case.policy, case.cache, case.scope, case.access, case.prefill, case.warm)
    return naive_routing.reroute(told, logits, case.naive_rule, *rules, given_steps(trace))


def by_phase(counts: Counts) -> tuple[list[int], list[int]]:
    """Return accesses and hits of prefill and decode."""
    return counts.accesses.sum(axis=1).tolist(), (counts.accesses - counts.misses).sum(axis=1).tolist()


@settings(max_examples=200)
@given(case=cases(), name=st.sampled_from(ENGINES), at_once=st.sampled_from([1, 50, 1 << 20]))
def test_a_rule_equals_its_definition(case: Case, name: str, at_once: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reroute, "SCORES_AT_ONCE", at_once)
        patch.setattr(reroute, "_better_in_python", lambda _: name == "python")
        chosen, found = rerouted(case.run())
    wanted = expected(case)
    assert found.engine == ("compiled" if name == "compiled" and case.policy == "lru" else "python")
    assert chosen.trace.experts.tolist() == wanted.chosen
    assert by_phase(count(chosen)[0]) == (wanted.accesses, wanted.hits)
    assert found.same.tolist() == wanted.same
    assert found.mass.tolist() == pytest.approx(wanted.mass, rel=1e-5)


@settings(max_examples=40)
@given(cases(), st.sampled_from(["prior:0", "window:9,9", "window:0,1", "substitute:0", "substitute:1,keep=4"]))
def test_rules_that_change_nothing(case: Case, rule: str) -> None:
    if rule == "window:0,1":  # nobody but the best can be taken, who is the first anyhow
        assert int(case.trace.layers.top_k.min()) >= 1
    chosen, found = rerouted(case.run(route=rule))
    assert chosen.trace.experts.tolist() == case.trace.read("experts", 0, case.trace.num_tokens).tolist()
    assert found.same.tolist() == found.uses.tolist()
    assert found.mass.tolist() == found.choices.tolist()
    assert found.kl.tolist() == found.own_kl.tolist()


@settings(max_examples=40)
@given(cases())
def test_a_window_of_k_keeps_the_experts(case: Case) -> None:
    k = int(case.trace.layers.top_k.max())
    same_k = (case.trace.layers.top_k == k).all()
    chosen, found = rerouted(case.run(route=f"window:1,{k}"))
    if same_k:
        assert found.same.tolist() == found.uses.tolist()
        own = case.trace.read("experts", 0, case.trace.num_tokens)
        assert np.sort(chosen.trace.experts, axis=2).tolist() == np.sort(own, axis=2).tolist()


@settings(max_examples=40)
@given(cases())
def test_more_is_kept_where_less_is_preferred_and_twice_is_the_same(case: Case) -> None:
    first, found = rerouted(case.run())
    again, also = rerouted(case.run())
    assert first.trace.experts.tolist() == again.trace.experts.tolist()
    assert found.to_dict() == also.to_dict()
    told = found.to_dict()
    if told["mass_kept"] is not None:
        assert told["kl_nats"] >= told["kl_nats_unmodified"] - 1e-12  # the k best have the greatest mass
        assert 0 < told["mass_kept"] <= 1 + 1e-12


@pytest.mark.parametrize("policy", [name for name, kind in BUILT_IN.items() if "future" not in kind.needs])
@pytest.mark.parametrize("scope", ["layer", "model"])
def test_every_policy_has_the_hits_in_what_was_chosen_that_it_had_while_choosing(policy: str, scope: str) -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(120, 2, 8)).tolist()
    trace = traced(scores, 2, phase=[0, 0, 0, 1] * 30, offsets=np.arange(0, 121, 12))
    run = Run.of(trace, policy=policy, scope=scope, cache=6, profile="self", warm=False, route="prior:0.3")
    chooser = reroute._InPython(run, reroute.make_rule("prior:0.3"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reroute, "SCORES_AT_ONCE", 16 * 40)  # some blocks
        patch.setattr(reroute, "_compiles", lambda *_: False)
        patch.setattr(reroute, "_InPython", lambda *_: chooser)
        chosen, _ = rerouted(run)
    counted, _ = count(chosen)
    assert chooser.misses == int(counted.misses.sum())
    assert chooser.misses < int(count(run.without_rule())[0].misses.sum())


class BestResident(RoutingRule):
    """A user's rule: the best resident first, then the best."""

    def choose(self, scores: Any, resident: Any, k: int) -> Any:
        worth = scores + 1e6 * (resident & (scores == np.where(resident, scores, -np.inf).max(axis=1, keepdims=True)))
        return np.argsort(-worth, axis=1)[:, :k]


class Own(CompiledRule):
    """A user's rule in arithmetic."""

    @staticmethod
    def value(expert: Any) -> Any:
        return np.where(expert.resident, expert.score + 1, expert.score)


class Broken(CompiledRule):
    """A user's rule that is no number for residents."""

    @staticmethod
    def value(expert: Any) -> Any:
        return expert.score + np.log(0.0 - expert.resident)


class NotCompiled(CompiledRule):
    """A user's rule that numba does not know."""

    @staticmethod
    def value(expert: Any) -> Any:
        return np.nan_to_num(np.gradient(expert.score))


def test_users_rules() -> None:
    trace = traced(np.random.default_rng(0).normal(size=(50, 1, 8)).tolist(), 2)
    best, plain = simulate(trace, cache=4, route=BestResident), simulate(trace, cache=4)
    assert best.counts.misses.sum() < plain.counts.misses.sum()
    chosen = []
    for name in ENGINES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(reroute, "_better_in_python", lambda _, name=name: name == "python")
            run, found = rerouted(Run.of(trace, cache=4, route=Own))
        assert found.engine == name
        chosen.append(run.trace.experts.tolist())
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize("name", ENGINES)
def test_users_rules_that_fail(name: str, engine: Callable[[str], None]) -> None:
    engine(name)
    trace = traced(BY_HAND, 2)
    with pytest.raises(PolicyError, match=r"not a number.*test_reroute.py:\d+ in Broken.value"):
        rerouted(Run.of(trace, cache=2, route=Broken))
    if name == "compiled" and not numba.config.DISABLE_JIT:  # type: ignore[attr-defined]  # set when it is imported
        with pytest.raises(PolicyError, match=r"NotCompiled: value\(\) cannot be compiled"):
            rerouted(Run.of(trace, cache=2, route=NotCompiled))


class Wrong(RoutingRule):
    """Chooses what a test says."""

    def __init__(self, ids: Any) -> None:
        super().__init__()
        self.ids = ids

    def choose(self, scores: Any, resident: Any, k: int) -> Any:
        return self.ids


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        ([[0, 0]], "an expert twice"),
        ([[0, 4]], r"ids from 0 to 4, allowed 0\.\.3"),
        ([[0]], r"int64 \[1, 1\], return ids \[1, 2\]"),
        ([[0.0, 1.0]], r"float64 \[1, 2\], return ids"),
    ],
)
def test_what_a_users_rule_chose_is_checked(ids: Any, told: str) -> None:
    with pytest.raises(PolicyError, match=rf"{told}.*in Wrong.choose"):
        simulate(traced(BY_HAND, 2), cache=2, route=Wrong(ids))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"access": "paper"}, "access 'paper' looks whole tokens up"),
        ({"policy": "belady"}, "needs to know the uses to come"),
        ({"route": "prior:-1"}, "boost must be at least 0"),
        ({"route": "window:1,2,3"}, "more parameters than there are"),
        (
            {"route": "priority"},
            "there is no routing rule 'priority', there are prior, window, substitute.*did you mean",
        ),
    ],
)
def test_what_does_not_go_together(options: dict[str, Any], told: str) -> None:
    with pytest.raises((ConfigError, PolicyError), match=told):
        simulate(traced(BY_HAND, 2), **{"cache": 2, "route": "prior:0.1", **options})


def test_a_run_whose_rule_was_not_asked_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"route 'prior:0\.1' cannot be used here"):
        count(Run.of(traced(BY_HAND, 2), cache=2, route="prior:0.1"))


def test_none_is_no_rule() -> None:
    found = simulate(traced(BY_HAND, 2), cache=2, route="none")
    assert found.routing is None
    assert "route" not in found.to_dict()
    assert "route" not in found.config
