"""Lossy miss actions against their definition (tests/naive_lossy.py), and what users see of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import naive_lossy
import naive_traces
import numpy as np
import pytest
from helpers import COSTS, SIZE, run, trace
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import geometry, machine

from lrcsim.simulator import Schedule, simulate
from lrcsim.simulator.serving.batching import batched
from lrcsim.simulator.serving.steps import steps_of
from lrcsim.simulator.serving.uses import uses_of
from lrcsim.simulator.setup.miss_actions import make_action
from lrcsim.simulator.setup.outcomes import NOT_LOADED, Outcome, decision
from lrcsim.traces import RoutingTrace
from lrcsim.traces.importers import import_trace

KINDS = {"skip": "skipped", "substitute": "substituted", "low": "low_precision"}
SHARED = Path(os.environ.get("LRCSIM_SHARED") or Path(__file__).resolve().parents[4] / "shared") / "traces"


class Case(NamedTuple):
    """A run with a lossy rule."""

    routing: RoutingTrace
    rule: naive_lossy.Lossy
    policy: str
    cache: str
    scope: str
    prefill: str
    warm: bool


@st.composite
def traces(draw: st.DrawFn) -> RoutingTrace:
    """Requests with prompts; weights in any order, some 0, that sum to 1 or to anything; some ranks not recorded."""
    layers, experts = draw(st.integers(1, 2)), draw(st.integers(1, 7))
    k = draw(st.integers(1, min(experts, 4)))
    requests = draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=4))
    phase = [kind for prompt, decoded in requests for kind in [0] * prompt + [1] * decoded] or [1]
    lengths = [prompt + decoded for prompt, decoded in requests]
    if not sum(lengths):
        lengths[-1] = 1
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = np.argsort(rng.random((len(phase), layers, experts)), axis=2)[:, :, :k]
    ids[rng.random(ids.shape) < draw(st.sampled_from([0, 0.1, 0.5]))] = -1
    weights = rng.integers(0, draw(st.sampled_from([2, 9, 65])), ids.shape) / 64.0
    weights *= draw(st.sampled_from([1.0, 2.5]))
    weights[(ids == -1) & (rng.random(ids.shape) < 0.5)] = draw(st.sampled_from([0.0, -1.0, np.nan]))
    return RoutingTrace.from_arrays(
        ids, num_experts=experts, phase=phase, offsets=np.cumsum([0, *lengths]), weights=weights
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    routing, prefill = draw(traces()), draw(st.sampled_from(["step", "token", "chunk:2", "chunk:3"]))
    batch, drafts = draw(st.integers(1, 4)), draw(st.integers(0, 2))
    speculative = (drafts, draw(st.sampled_from([0.0, 0.5, 1.0]))) if drafts else None
    routing = batched(routing, batch=batch, speculative=speculative, prefill=prefill)
    action = draw(st.sampled_from(list(KINDS)))
    threshold = draw(st.sampled_from(["0", "0.1", "0.125", "0.25", "0.3", "0.5", "0.9", "1"]))
    scope = draw(st.sampled_from(["layer", "model"]))
    top = routing.num_experts * (routing.num_layers if scope == "model" else 1)
    return Case(
        routing,
        naive_lossy.Lossy(action, threshold, draw(st.sampled_from([1, 1, 0, 2, 3]))),
        draw(st.sampled_from(["lru", "fifo", "lfu"])),
        str(draw(st.integers(0, top))),
        scope,
        prefill,
        draw(st.booleans()),
    )


def given_steps(routing: RoutingTrace) -> list[tuple[int, int, list[int]]] | None:
    """Return the steps of a server's order: request (busy period), phase, tokens."""
    if "step" not in routing.columns:
        return None
    steps: dict[int, list[int]] = {}
    for token, step in enumerate(routing.read("step", 0, routing.num_tokens).tolist()):
        steps.setdefault(step, []).append(token)
    phase = routing.read("phase", 0, routing.num_tokens).tolist()
    period = (np.searchsorted(routing.offsets, np.arange(routing.num_tokens), side="right") - 1).tolist()
    return [(period[tokens[0]], phase[tokens[0]], tokens) for tokens in steps.values()]


def expected(case: Case) -> naive_lossy.LossyOutcome:
    routing, every = case.routing, case.routing.num_tokens
    told = naive_traces.Trace(
        routing.read("experts", 0, every).tolist(),
        [routing.num_experts] * routing.num_layers,
        [routing.top_k] * routing.num_layers,
        routing.offsets.tolist(),
        routing.read("phase", 0, every).tolist(),
        routing.read("weights", 0, every).tolist(),
    )
    return naive_lossy.lossy_replay(
        told, case.policy, case.cache, case.scope, case.prefill, case.warm, case.rule, given_steps(routing)
    )


@settings(max_examples=300)
@given(cases())
def test_a_lossy_rule_equals_its_definition(case: Case) -> None:
    rule = case.rule
    found = run(
        case.routing,
        int(case.cache),
        policy=case.policy,
        scope=case.scope,
        prefill=case.prefill,
        warm=case.warm,
        action=f"{rule.action}:{rule.threshold},keep={rule.keep}",
        costs=COSTS,
        log=False,
    )
    wanted, tally, counts = expected(case), found.tally, found.counts
    assert int(counts.misses.sum()) == wanted.misses
    assert int(counts.accesses.sum()) == wanted.hits + wanted.misses
    kind = KINDS[rule.action]
    seen = {outcome.label: tally.misses(outcome) for outcome in NOT_LOADED}
    assert seen == dict.fromkeys(seen, 0) | {kind: wanted.given_up}
    assert tally.outcomes[Outcome.LOADED] == list(wanted.loads)
    loads = np.array(wanted.loads)
    assert counts.loads is not None
    assert int(counts.loads.sum()) == loads.sum() + (wanted.given_up if rule.action == "low" else 0)
    assert counts.evictions == wanted.evictions
    low = wanted.given_up * SIZE // 4 if rule.action == "low" else 0
    assert tally.links["pcie"].bytes == SIZE * loads.sum() + low
    assert tally.given_up.tokens == wanted.tokens
    for outcome, shares in zip(Outcome, tally.given_up.shares, strict=True):
        expected_shares = [float(weight) if outcome.label == kind else 0 for weight in wanted.weight]
        assert shares == pytest.approx(expected_shares, abs=1e-9)


@settings(max_examples=60)
@given(cases())
def test_a_rule_that_gives_nothing_up_is_load(case: Case) -> None:
    options = {name: getattr(case, name) for name in ("policy", "scope", "prefill", "warm")}
    plain = run(case.routing, int(case.cache), action="load", **options)
    for action in KINDS:
        for none in ("0,keep=0", f"1,keep={case.routing.top_k}"):
            found = run(case.routing, int(case.cache), action=f"{action}:{none}", **options)
            assert found.events == plain.events
            assert (found.tally.total, found.tally.links) == (plain.tally.total, plain.tally.links)


@settings(max_examples=100)
@given(cases(), st.integers(1, 12))
def test_uses_do_not_depend_on_the_blocks_of_the_schedule(case: Case, target_tokens: int) -> None:
    whole = [work.uses for step in steps_of(Schedule(case.routing, case.prefill), uses=True) for work in step.layers]
    schedule = Schedule(case.routing, case.prefill)
    parts = [
        uses
        for block in schedule.blocks(target_tokens)
        if len(block.layer)
        for uses in uses_of(case.routing, block)
    ]  # fmt: skip
    assert len(parts) == len(whole)
    for one, other in zip(whole, parts, strict=True):
        assert one is not None
        assert one.tokens == other.tokens
        for name in ("token", "place", "share", "order"):
            assert getattr(one, name).tolist() == getattr(other, name).tolist()


def test_a_phones_own_replay() -> None:
    """BigMoeOnEdge publishes 66 % fewer flash reads and 9.5 % of the router weight for its rule at the uniform share.

    It applies the rule to what its cache missed when it was recorded (docs/expert-dropping.md there), in decode.
    """
    source = SHARED / "qwen3-30b-a3b.route.csv"
    if not source.is_file():
        pytest.skip("the shared trace is not there (LRCSIM_SHARED names the folder that has traces/)")
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        import_trace(source, Path(folder) / "trace.h5")
        with RoutingTrace.open(Path(folder) / "trace.h5") as routing:
            action = make_action(f"skip:{1 / 6}", machine())
            residency, missed_in_all, dropped, weight, tokens = routing.column("residency"), 0, 0, 0.0, 0
            for step in steps_of(Schedule(routing), uses=True):
                if step.phase == 0:
                    continue
                for work in step.layers:
                    assert work.uses is not None
                    used = routing.experts[step.first_token, work.layer] >= 0
                    recorded = residency[step.first_token, work.layer][used]
                    missed = [key for key, state in zip(work.keys, recorded.tolist(), strict=True) if state == 0]
                    skipped = decision(missed, action.decide(missed, work, lambda: 0)).get(Outcome.SKIPPED, [])
                    share = dict(zip(work.keys, work.uses.share_of(len(work.keys)), strict=True))
                    missed_in_all += len(missed)
                    dropped += len(skipped)
                    weight += sum(share[key] for key in skipped)
                    tokens += work.uses.tokens
    assert dropped / missed_in_all == pytest.approx(0.66, abs=0.005)
    assert weight / tokens == pytest.approx(0.095, abs=0.0005)


# What users see


def light(tokens: int, prompt: int = 0) -> RoutingTrace:
    """One layer of 8 experts, top-4: each token has a new first with half of the weight, the rest is 3 light ones."""
    ids = (np.arange(tokens)[:, None] * 4 + np.arange(4)) % 8
    weights = np.tile([0.5, 0.25, 0.125, 0.125], (tokens, 1))
    return RoutingTrace.from_arrays(
        ids[:, None],
        num_experts=8,
        weights=weights[:, None],
        phase=[0] * prompt + [1] * (tokens - prompt),
        expert_bytes=100,
    )


def see(routing: RoutingTrace, miss: str, **options: Any) -> Any:
    shape = geometry(layers=1, moe_layers=(0,), experts=8, top_k=4)
    return simulate(routing, "lru", options.pop("cache", 4), hardware=machine(), model=shape, miss=miss, **options)


def test_more_than_a_third_of_the_weight_is_warned_of() -> None:
    # With room for 4 the second half of 8 has always gone: all that is light is skipped, half of the weight.
    warned = [text for text in see(light(8), "skip:0.3").warnings if "router weight" in text]
    assert warned == [
        "miss action skip:0.3 leaves out 50.0 % of the router weight, more than a third: what runs is hardly the model "
        "that was recorded; use a lower threshold, a larger keep or cache, or load"
    ]
    result = see(light(8), "skip:0.2")  # two of 0.125
    assert result.to_dict()["missed"]["skipped_weight"] == 0.25
    assert not [text for text in result.warnings if "router weight" in text]
    assert not [text for text in see(light(8), "low:0.3").warnings if "router weight" in text]


def test_just_a_third_is_no_more_than_a_third() -> None:
    # Top-3 of equal weights, one slot, keep=2: each token finds nothing and loses its third expert, a third of its
    # weight, whatever the thirds are as binary fractions.
    tokens = 97
    ids = np.array([[[(3 * token + rank) % 9 for rank in range(3)]] for token in range(tokens)])
    for weight in (1 / 3, 0.1, 0.7, 1.0):
        weights = np.full(ids.shape, weight, np.float32)
        routing = RoutingTrace.from_arrays(ids, num_experts=9, weights=weights, expert_bytes=100)
        shape = geometry(layers=1, moe_layers=(0,), experts=9, top_k=3)
        result = simulate(routing, "lru", 1, hardware=machine(), model=shape, miss="skip:0.5,keep=2")
        assert result.to_dict()["missed"]["skipped_weight"] == pytest.approx(1 / 3, rel=1e-12)
        assert not [text for text in result.warnings if "router weight" in text]


def test_each_phase_is_warned_of() -> None:
    # The prompt uses all 8: those that are light for both tokens are skipped, half of the weight; in decode everything
    # is resident, but what was skipped before: the first decoded token drops half, the others nothing.
    result = see(light(10, prompt=2), "skip:0.3", cache=8)
    missed = result.to_dict()["missed"]
    assert (missed["prefill"]["skipped_weight"], missed["decode"]["skipped_weight"]) == (0.5, 0.5)
    (warned,) = [text for text in result.warnings if "router weight" in text]
    assert "leaves out 50.0 % of the router weight (50.0 % in prefill, 50.0 % in decode), more than" in warned
    assert result.to_dict()["warnings"] == result.warnings


def test_a_phase_that_loses_much_is_warned_of_where_both_together_do_not() -> None:
    # In the prompt of 16 each of the 8 experts is the first of two tokens, so all are loaded. Room for 3 leaves those
    # used last, 0, 1 and 2. The first decoded token loads 3 and loses 4, 5, 6, half of its weight; the others find 3
    # and lose the same.
    prompt, decoded = [[(token + rank) % 8 for rank in range(4)] for token in range(16)], [[3, 4, 5, 6]] * 4
    routing = RoutingTrace.from_arrays(
        np.array(prompt + decoded)[:, None],
        num_experts=8,
        weights=np.tile([0.5, 0.25, 0.125, 0.125], (20, 1, 1)),
        phase=[0] * 16 + [1] * 4,
        expert_bytes=100,
    )
    result = see(routing, "skip:0.3", cache=3)
    (warned,) = [text for text in result.warnings if "router weight" in text]
    assert "leaves out 10.0 % of the router weight (0.0 % in prefill, 50.0 % in decode), more than a third" in warned


def test_bytes_loaded_count_low_precision_copies_at_their_own_size() -> None:
    # 8 tokens: their first, 100 bytes, and three copies of 25 bytes. With room for 4 two firsts stay: one load each.
    result = see(light(8), "low:0.3,0.25")
    cache, links = result.to_dict()["cache"], result.to_dict()["links"]
    assert cache["bytes_loaded"] == links["pcie"]["bytes"] == 2 * 100 + 8 * 3 * 25
    assert cache["decode"]["bytes_loaded"] == cache["bytes_loaded"]
    missed = result.to_dict()["missed"]
    assert (missed["low_precision"], missed["low_precision_weight"]) == (24, 0.5)


@pytest.mark.parametrize("miss", ["skip:0.3", "substitute:0.3", "low:0.3"])
def test_requests_that_arrive_are_served_by_the_same_rule(miss: str) -> None:
    # All are there at once, one at a time: as without arrivals.
    routing = light(6, prompt=3)
    alone, arriving = see(routing, miss), see(routing, miss, arrivals=[0.0])
    assert alone.to_dict()["missed"] == arriving.to_dict()["missed"]
    assert alone.to_dict()["time"]["total_s"] == pytest.approx(arriving.to_dict()["time"]["total_s"])
    assert alone.to_dict()["missed"][f"{KINDS[miss.partition(':')[0]]}_weight"] > 0


def test_weights_without_shares_are_refused_in_one_line() -> None:
    routing = trace("01", "01", weights=[[[0.5, 0.5]], [[0.75, -0.25]]], expert_bytes=100)
    with pytest.raises(Exception, match=r"^token 1, layer 0: router weight -0\.25: skip") as caught:
        simulate(
            routing, "lru", 2, hardware=machine(), miss="skip:0.1",
            model=geometry(layers=1, moe_layers=(0,), experts=6, top_k=2),
        )  # fmt: skip
    assert type(caught.value).__name__ == "TraceError"
