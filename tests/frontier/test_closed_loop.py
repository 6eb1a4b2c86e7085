"""A model with a rule and caches in it: nothing changes where the rule changes nothing, and hits are the replay's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from lrcsim.base.errors import ConfigError
from lrcsim.frontier.caches import Caches
from lrcsim.frontier.closed_loop import ClosedLoop, Ran
from lrcsim.frontier.deciders import RouteDecider, SkipDecider
from lrcsim.frontier.open_loop import foretold
from lrcsim.frontier.routers import refuse_share, routers
from lrcsim.frontier.rules import parse_rules
from lrcsim.recorder.requests import Request
from lrcsim.simulator import simulate
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of their own affairs

ARCHITECTURES = (
    "olmoe",  # softmax, the chosen ones' values as they are
    "qwen3_moe",
    "mixtral",
    "gpt_oss",  # biases in router and experts
    "granitemoe",
    "deepseek_v2",
    "dbrx",
    "jamba",  # layers with a state besides
    "laguna",  # sigmoid
    "llama4_text",  # the experts are given no ids: the router's output is written
    "gemma4_text",  # the router gives probabilities
)
LENGTHS = (24, 17, 9)


def requests() -> list[Request]:
    generator = torch.Generator().manual_seed(1)
    return [
        Request(torch.randint(3, tiny.VOCABULARY, (length,), generator=generator).tolist(), None, number)
        for number, length in enumerate(LENGTHS)
    ]


def trace_of(ran: Ran) -> RoutingTrace:
    top_k = (ran.columns["experts"] >= 0).any(axis=0).sum(axis=1)
    return RoutingTrace.from_arrays(
        num_experts=[site.num_experts for site in ran.sites],
        offsets=np.cumsum([0, *LENGTHS]),
        top_k=top_k.tolist(),
        **ran.columns,
    )


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> Any:
    return tiny.tiny_model(request.param)


@pytest.fixture(scope="module")
def plain(model: Any) -> Ran:
    """What the model runs without a rule."""
    return ClosedLoop(model, requests()).run()


def decider(model: Any, rule: str, plain: Ran, **options: Any) -> Any:
    run = Run.of(trace_of(plain), **{"cache": 3, **options})
    compared = parse_rules(rule)[1]
    caches = Caches(run)
    if compared.skip is not None:
        return SkipDecider(compared.skip, caches)
    return RouteDecider(compared.route, caches, routers(model, plain, run.trace))  # type: ignore[arg-type]


def test_without_a_rule_the_loss_is_the_models_own(model: Any, plain: Ran) -> None:
    with torch.inference_mode():
        own = [float(model(input_ids=ids, labels=ids, use_cache=False).loss) for ids in tensors()]
    np.testing.assert_allclose(plain.nats / plain.predicted, own, rtol=0, atol=1e-6)


def tensors() -> list[Any]:
    return [torch.tensor([request.ids]) for request in requests()]


@pytest.mark.parametrize("rule", ["prior:0", f"window:{tiny.TOP_K},8", "window:0,1", "substitute:0", "skip:0"])
def test_rules_without_effect_change_nothing(model: Any, plain: Ran, rule: str) -> None:
    loop = ClosedLoop(model, requests())
    if plain.columns["weights"].shape[2] == 1 and rule.startswith("window"):
        rule = "window:1,8"
    ran = loop.run(decider(model, rule, plain))
    assert (ran.nats == plain.nats).all()  # bit for bit
    for name in ("experts", "weights", "predicted_ids"):
        np.testing.assert_array_equal(np.sort(ran.columns[name]), np.sort(plain.columns[name]))
    assert (loop.run().nats == plain.nats).all()  # the hooks are off again


@pytest.mark.parametrize(
    "options",
    [{}, {"warm": False}, {"policy": "lfu"}, {"policy": "lcp", "access": "sequential"}, {"policy": "score-ema"}],
)
def test_hits_are_those_of_the_replay_of_what_ran(model: Any, plain: Ran, options: dict[str, Any]) -> None:
    loop = ClosedLoop(model, requests())
    deciding = decider(model, "prior:0.4", plain, **options)
    ran = loop.run(deciding)
    replayed = simulate(trace_of(ran), **{"cache": 3, **options}, bounds=False)
    caches = deciding.caches
    assert (caches.accesses, caches.misses) == (replayed.counts.accesses.sum(), replayed.counts.misses.sum())
    assert (ran.nats != plain.nats).any()  # the rule did something


@pytest.mark.parametrize("rule", ["prior:0.4", "skip:0.4"])
def test_all_tokens_of_a_layer_together_or_one_token_after_the_other(model: Any, plain: Ran, rule: str) -> None:
    together, single = decider(model, rule, plain), decider(model, rule, plain)
    ran = ClosedLoop(model, requests()).run(together)
    other = ClosedLoop(model, requests(), one_at_a_time=True).run(single)
    np.testing.assert_array_equal(ran.columns["experts"], other.columns["experts"])
    assert together.caches.misses == single.caches.misses
    np.testing.assert_allclose(other.nats / other.predicted, ran.nats / ran.predicted, rtol=0, atol=1e-6)


def test_one_pool_for_all_layers(model: Any, plain: Ran) -> None:
    loop = ClosedLoop(model, requests(), one_at_a_time=True)
    deciding = decider(model, "prior:0.4", plain, scope="model", cache=7)
    replayed = simulate(trace_of(loop.run(deciding)), cache=7, scope="model", bounds=False)
    assert deciding.caches.misses == replayed.counts.misses.sum()
    assert 0 < deciding.caches.misses < deciding.caches.accesses


def test_skip_is_the_miss_action_of_the_replay() -> None:
    model = tiny.tiny_model("olmoe")
    loop = ClosedLoop(model, requests())
    deciding = decider(model, "skip:0.4", loop.run())
    trace = trace_of(loop.run(deciding))
    trace.layers = trace.layers.with_expert_bytes(1 << 20)
    trace.provenance["config"] = model.config.to_dict()
    found = simulate(trace, cache=3, hardware="rtx-4090", miss="skip:0.4", bounds=False)
    assert deciding.caches.misses == found.counts.misses.sum()
    assert 0 < deciding.caches.misses - deciding.caches.left_out == found.loads < deciding.caches.misses


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_open_loop_is_the_replay_of_the_recorded_logits(model: Any, plain: Ran, scope: str) -> None:
    options: dict[str, Any] = {"scope": scope, "cache": 3 if scope == "layer" else 7}
    found = foretold(decider(model, "prior:0.4", plain, **options), Run.of(trace_of(plain), **options))
    replayed = simulate(trace_of(plain), **options, route="prior:0.4", bounds=False)
    assert found == pytest.approx((replayed.hit_rate, replayed.loads_per_access), abs=1e-12)


def test_skip_of_everything(model: Any, plain: Ran) -> None:
    """What is needed by nobody is never loaded, so nothing is ever resident, and no expert runs at all."""
    deciding = decider(model, "skip:1,keep=0", plain, cache=8)
    ran = ClosedLoop(model, requests()).run(deciding)
    assert deciding.caches.misses == deciding.caches.left_out == deciding.caches.accesses  # nothing ever enters
    assert deciding.kept.same == 0
    modules = [site.watched for site in ran.sites if site.before]

    def nothing(_module: Any, _args: Any, output: Any) -> Any:
        return torch.zeros_like(output)

    if not modules:  # Llama 4's experts are given other inputs instead
        return
    handles = [module.register_forward_hook(nothing) for module in modules]
    without = ClosedLoop(model, requests()).run()
    for handle in handles:
        handle.remove()
    np.testing.assert_allclose(ran.nats / ran.predicted, without.nats / without.predicted, rtol=0, atol=1e-6)
    assert abs(without.loss - plain.loss) > 1e-3


# ---- the definition: prefix after prefix, nothing kept but what was decided ----


def naive_olmoe(model: Any, ids: list[int], capacity: int, boost: float) -> tuple[float, int, dict[Any, list[int]]]:
    """Loss in nats, misses, and what each (token, layer) used: LRU lists, a prior, everything computed again."""
    blocks = [(layer.mlp.gate, layer.mlp.experts) for layer in model.model.layers]
    caches: list[list[int]] = [[] for _ in blocks]
    decided: dict[Any, tuple[list[int], list[float]]] = {}
    misses, nats = 0, 0.0
    for token in range(len(ids)):
        logits: dict[int, Any] = {}

        def gate(layer: int, logits: Any = logits) -> Any:
            def hook(_module: Any, _args: Any, output: Any) -> None:
                logits[layer] = output[0]

            return hook

        def experts(layer: int, token: int = token, logits: Any = logits) -> Any:
            def hook(_module: Any, args: Any) -> Any:
                nonlocal misses
                hidden, index, weight = args
                index, weight = index.clone(), weight.clone()
                scores = logits[layer][token].tolist()
                cache = caches[layer]
                span = boost * (max(scores) - min(scores))
                worth = [score + (span if expert in cache else 0) for expert, score in enumerate(scores)]
                best = sorted(range(len(scores)), key=lambda expert: -worth[expert])[: index.shape[1]]
                whole = sum(math.exp(score) for score in scores)
                decided[token, layer] = best, [math.exp(scores[expert]) / whole for expert in best]
                misses += len(set(best) - set(cache))
                for expert in best:
                    if expert in cache:
                        cache.remove(expert)
                    cache.append(expert)
                del cache[:-capacity]
                for before in range(token + 1):
                    index[before] = torch.tensor(decided[before, layer][0])
                    weight[before] = torch.tensor(decided[before, layer][1])
                return hidden, index, weight

            return hook

        handles = [
            handle
            for layer, (router, module) in enumerate(blocks)
            for handle in (
                router.register_forward_hook(gate(layer)),
                module.register_forward_pre_hook(experts(layer)),
            )
        ]
        with torch.inference_mode():
            last = model(input_ids=torch.tensor([ids[: token + 1]]), use_cache=False).logits[0, token]
        for handle in handles:
            handle.remove()
        if token + 1 < len(ids):
            nats -= float(last.log_softmax(dim=-1)[ids[token + 1]])
    return nats, misses, {place: best for place, (best, _) in decided.items()}


@pytest.mark.parametrize("boost", [0.1, 0.4])
def test_against_the_definition(boost: float) -> None:
    model = tiny.tiny_model("olmoe")
    ids = requests()[0].ids
    loop = ClosedLoop(model, [Request(ids, None, 0)])
    plain = loop.run()
    trace = RoutingTrace.from_arrays(num_experts=tiny.EXPERTS, **plain.columns)
    deciding = RouteDecider(
        parse_rules(f"prior:{boost}")[1].route,  # type: ignore[arg-type]
        Caches(Run.of(trace, cache=3)),
        routers(model, plain, trace),
    )
    ran = loop.run(deciding)
    nats, misses, used = naive_olmoe(model, ids, 3, boost)
    assert deciding.caches.misses == misses
    layers = ran.columns["experts"].shape[1]
    assert [ran.columns["experts"][t, layer].tolist() for t in range(len(ids)) for layer in range(layers)] == [
        used[t, layer] for t in range(len(ids)) for layer in range(layers)
    ]
    assert ran.nats[0] / 23 == pytest.approx(nats / 23, abs=1e-6)
    assert abs(ran.nats[0] - plain.nats[0]) > 1e-3


# ---- routers that add a bias when they choose, or choose among groups ----

BIASED = ("deepseek_v3", "ernie4_5_moe", "minimax_m2", "lfm2_moe", "mistral4")


@pytest.mark.parametrize("kind", BIASED)
def test_routers_with_a_bias_or_groups(kind: str) -> None:
    model = tiny.tiny_model(kind)
    loop = ClosedLoop(model, requests())
    plain = loop.run()
    for rule in ("prior:0", f"window:{tiny.TOP_K},8"):
        assert (loop.run(decider(model, rule, plain)).nats == plain.nats).all()
    deciding = decider(model, "prior:0.4", plain)
    ran = loop.run(deciding)
    replayed = simulate(trace_of(ran), cache=3, bounds=False)
    assert deciding.caches.misses == replayed.counts.misses.sum()
    assert deciding.kept.agreement < 1
    for choice, layer in zip(deciding.choices, range(len(ran.sites)), strict=True):
        assert not choice.plain
        experts = ran.columns["experts"][:, layer]
        if choice.groups > 1:  # of 8 experts in 2 groups a token uses one group's
            assert choice.chosen_groups == 1
            assert (experts // 4 == experts[:, :1] // 4).all()


def test_a_bias_is_no_weight() -> None:
    model = tiny.tiny_model("deepseek_v3")
    plain = ClosedLoop(model, requests()).run()
    choices = routers(model, plain, trace_of(plain))
    with pytest.raises(ConfigError, match=r"'substitute:0.1,1' looks at shares .* use prior or window"):
        refuse_share(parse_rules("substitute:0.1")[1], choices)
    refuse_share(parse_rules("window:1,4")[1], choices)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("doge", "cannot be run with a rule token by token: in them its router mixes the tokens"),
        ("switch_transformers", "has an encoder"),
        ("jetmoe", "are not given ids and weights that could be replaced"),
    ],
)
def test_models_that_cannot(kind: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        ClosedLoop(tiny.tiny_model(kind), requests())


def test_identities_are_no_experts() -> None:
    with pytest.raises(ConfigError, match="which no cache holds"):
        ClosedLoop(tiny.tiny_model("longcat_flash"), requests()).run()


def test_a_request_of_one_token() -> None:
    with pytest.raises(ConfigError, match="request 0 has one token, a loss needs two"):
        ClosedLoop(tiny.tiny_model("olmoe"), [Request([5], None, 0)])
