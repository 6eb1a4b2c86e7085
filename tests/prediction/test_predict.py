"""Fitting, holding out and comparing: traces whose answer is known, laws, loops, real traces.

By hand: two layers of four experts, top-1. Token 7 uses expert 1, then 3; token 9 uses expert 2, then 0. Whatever is
held out, ids and experts alike foretell layer 1 wholly; popularity finds the more frequent of the two.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.prediction.held_out import held_out_trace, hold_out
from lrcsim.prediction.predict import Predicted, predict
from lrcsim.prediction.rankings import popularity
from lrcsim.prediction.sources import features, previous, sources_named
from lrcsim.traces import RoutingTrace, check_file
from lrcsim.traces.select import select_layers

SHARED = Path(os.environ.get("LRCSIM_SHARED") or Path(__file__).resolve().parents[3] / "shared") / "traces"

TOKENS = np.array([7, 9, 9, 7, 9, 9, 9, 7, 9, 7, 7, 9])
BY_HAND = np.where((TOKENS == 7)[:, None], [[1, 3]], [[2, 0]])[:, :, None]


def by_hand(**more: Any) -> RoutingTrace:
    return RoutingTrace.from_arrays(
        BY_HAND, num_experts=4, offsets=[0, 3, 6, 9, 12], token_ids=TOKENS, expert_bytes=100, **more
    )


def drawn(seed: int = 0, tokens: int = 600, requests: int = 12, **more: Any) -> RoutingTrace:
    """Three layers of 8 experts, top-2: of a hidden class each token's, with noise; so all sources know something."""
    rng = np.random.default_rng(seed)
    hidden = rng.integers(0, 10, tokens)
    liking = rng.normal(size=(10, 3, 8)) * 2
    score = liking[hidden] + rng.normal(size=(tokens, 3, 8))
    ids = score.argsort(axis=2)[:, :, ::-1][:, :, :2]
    weights = np.sort(rng.random((tokens, 3, 2)), axis=2)[:, :, ::-1]
    offsets = np.linspace(0, tokens, requests + 1).astype(int)
    return RoutingTrace.from_arrays(
        ids, num_experts=8, offsets=offsets, token_ids=hidden, weights=weights, logits=score, expert_bytes=10, **more
    )


def recall(found: Predicted, name: str = "learned", fetched: int | None = None) -> float:
    number = found.trace.top_k if fetched is None else fetched
    (one,) = [one for one in found.recalls if (one.name, one.fetched) == (name, number)]
    assert one.recall is not None
    return one.recall


@pytest.mark.parametrize("source", ["token", "experts"])
def test_by_hand(source: str) -> None:
    found = predict(by_hand(), [source], share=0.5)
    assert recall(found) == 1.0
    held = found.parts.test
    popular = 0 if (TOKENS[found.parts.fit] == 9).sum() >= (TOKENS[found.parts.fit] == 7).sum() else 3
    assert recall(found, "popularity") == (BY_HAND[held, 1, 0] == popular).mean()
    assert recall(found, "transition") == 1.0
    assert (found.ids[:, 0] == -1).all()
    assert (found.ids[:, 1, 0] == BY_HAND[held, 1, 0]).all()
    assert found.bytes_per_token(found.recalls[0]) == (100.0, 0.0)


def test_the_token_before_is_of_the_same_request() -> None:
    ids = np.array([0, 1, 1, 2, 2, 2, 0, 0])[:, None, None].repeat(2, axis=1)
    trace = RoutingTrace.from_arrays(ids, num_experts=3, offsets=[0, 4, 8])
    found = predict(trace, ["experts"], share=0.5)
    (held,) = found.parts.requests.tolist()
    popular = (0, 1)[held]  # of the other request; request 1 uses 2 and 0 twice: of equals the smaller id
    expected = {0: [popular == 0, False, True, False], 1: [popular == 2, True, False, True]}[held]
    assert recall(found, "previous token") == np.mean(expected)


@pytest.mark.parametrize("source", ["token", "experts", "previous", "logits", "token,experts,previous"])
def test_more_fetched_finds_more(source: str) -> None:
    trace = drawn()
    rates = [recall(predict(trace, source.split(","), top=top), fetched=top) for top in range(2, 9)]
    assert rates == sorted(rates)
    assert rates[-1] == 1.0
    assert rates[0] > 0.3  # two of eight by chance are 0.25


def test_learning_beats_popularity_where_there_is_something_to_learn() -> None:
    found = predict(drawn(), ["token"])
    assert recall(found) > recall(found, "popularity") + 0.1


def test_perfect_inputs_are_found_perfectly() -> None:
    trace = drawn()
    inputs = np.zeros((trace.num_tokens, 3, 8), np.float32)
    for layer in (1, 2):
        np.put_along_axis(inputs[:, layer - 1], trace.experts[:, layer].astype(int), 1.0, axis=1)
    given = RoutingTrace.from_arrays(
        trace.experts, num_experts=8, offsets=trace.offsets, router_inputs=inputs, weights=trace.weights
    )
    found = predict(given, ["inputs"])
    assert recall(found) == 1.0
    assert [one.mass_recall for one in found.recalls if one.name == "learned"] == [1.0]


def test_labels_that_mean_nothing_leave_popularity() -> None:
    trace = drawn(tokens=6000)
    rng, ids = np.random.default_rng(1), trace.experts.copy()
    for layer in (1, 2):
        ids[:, layer] = ids[rng.permutation(trace.num_tokens), layer]
    mixed = RoutingTrace.from_arrays(ids, num_experts=8, offsets=trace.offsets, token_ids=trace.token_ids)
    for source in ("token", "experts"):
        found, real = predict(mixed, [source]), predict(trace, [source])
        assert abs(recall(found) - recall(found, "popularity")) < 0.02
        assert recall(real) > recall(real, "popularity") + 0.1


def test_what_is_held_out_is_not_fitted_on() -> None:
    trace = drawn()
    first = predict(trace, ["token", "experts", "previous"])
    other = trace.experts.copy()
    held = first.parts.test
    other[held, 1:] = (other[held, 1:] + 3) % 8  # what is to be foretold is another
    again = predict(
        RoutingTrace.from_arrays(
            other, num_experts=8, offsets=trace.offsets, token_ids=trace.token_ids, weights=trace.weights
        ),
        ["token"],
    )
    alone = predict(trace, ["token"])
    assert (again.parts.test == held).all()
    assert (again.ids == alone.ids).all()
    assert recall(again) != recall(alone)


def test_requests_with_the_same_prompt_stay_together() -> None:
    ids = np.arange(24).reshape(12, 1, 2) % 5
    repeated = np.concatenate([ids, ids, ids[::-1]])
    trace = RoutingTrace.from_arrays(repeated, num_experts=5, offsets=range(0, 37, 4))
    for seed in range(6):
        parts = hold_out(trace, 0.3, seed)
        held = set(parts.requests.tolist())
        assert all((first in held) == (first + 3 in held) for first in range(3))
        assert not parts.fit[parts.test].any()
        assert parts.fit.sum() + len(parts.test) == 36


def test_the_draw_depends_on_the_seed() -> None:
    trace = drawn()
    drawn_once = {tuple(hold_out(trace, 0.25, seed).requests.tolist()) for seed in range(5)}
    assert len(drawn_once) > 1
    assert {len(one) for one in drawn_once} == {3}


def test_one_request_is_divided_in_time() -> None:
    trace = drawn(requests=1)
    parts = hold_out(trace, 0.25)
    assert (parts.by, parts.test.tolist(), parts.offsets.tolist()) == ("time", list(range(450, 600)), [0, 150])
    assert parts.to_dict()["test_requests"] == 1
    assert predict(trace, ["token"]).rows()[0]["low"] is None
    assert held_out_trace(trace, parts, {}).num_tokens == 150


def test_prompts_are_not_counted() -> None:
    phase = np.tile(np.repeat([0, 1], 25), 12)
    trace = drawn(phase=phase)
    parts = hold_out(trace, 0.25)
    assert parts.counted.sum() == 75
    found = predict(trace, ["token"])
    assert sum(one.used.sum() for one in found.recalls if one.name == "learned") == 75 * 2 * 2


def test_features_have_unit_length_and_are_of_the_tokens_fitted_on() -> None:
    trace = drawn()
    fit = np.arange(600) < 400
    found = features(trace, ["token", "experts", "logits"], 1, 1, fit)
    assert found.dense.shape == (600, 16)
    for part in (slice(0, 8), slice(8, 16)):
        assert np.allclose(found.dense[fit, part].mean(axis=0), 0)
        assert np.isclose((found.dense[fit, part] ** 2).sum(axis=1).mean(), 1)
    assert trace.token_ids is not None
    assert (found.classes == trace.token_ids).all()  # all ten are seen


def test_popularity_is_of_the_tokens_fitted_on() -> None:
    used = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0], [0.0, 1.0]])  # the third was not recorded
    assert popularity(used, np.array([True, True, True, False])).tolist() == [0.5, 0.5]


def test_a_request_begins_without_a_token_before() -> None:
    found = previous(by_hand(), 1, 1).argmax(axis=1)
    begins = np.arange(12) % 3 == 0
    assert (previous(by_hand(), 1, 1)[begins] == 0).all()
    assert (found[~begins] == BY_HAND[np.flatnonzero(~begins) - 1, 1, 0]).all()


def test_an_id_never_seen_is_of_no_class() -> None:
    fit = np.arange(12) < 6
    trace = by_hand()
    ids = TOKENS.copy()
    ids[8], ids[9], ids[1] = 8, 11, -1
    other = RoutingTrace.from_arrays(trace.experts, num_experts=4, offsets=trace.offsets, token_ids=ids)
    assert features(other, ["token"], 1, 1, fit).classes[[0, 1, 2, 8, 9]].tolist() == [0, -1, 1, -1, -1]


def test_the_held_out_part_as_a_trace(tmp_path: Path) -> None:
    trace = by_hand(domains=["a", "b", "c", "d"], predictions={1: BY_HAND, 2: BY_HAND})
    found = predict(trace, ["token"], share=0.5)
    own = held_out_trace(trace, found.parts, {1: found.ids})
    assert (own.column("predictions/1")[:, :, 0] == np.where([[False, True]], own.experts[:, :, 0], -1)).all()
    assert (own.column("predictions/2") == BY_HAND[found.parts.test]).all()  # as recorded
    assert own.domains == ["abcd"[one] for one in found.parts.requests]
    assert (own.token_ids == TOKENS[found.parts.test]).all()
    assert (np.diff(own.offsets) == 3).all()
    own.save(tmp_path / "held.h5")
    assert check_file(tmp_path / "held.h5") == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ahead": 3}, "--ahead 3 is not allowed: the trace has 3 MoE layers, give 1 to 2"),
        ({"ahead": 0}, "--ahead 0 is not allowed"),
        ({"top": 9}, "--top 9 is not allowed: a layer has 8 experts"),
        ({"share": 1.0}, "hold-out 1 is not allowed: it lies between 0 and 1"),
    ],
)
def test_what_is_not_allowed(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        predict(drawn(), ["token"], **given)


def test_sources_that_are_not_there() -> None:
    trace = RoutingTrace.from_arrays(BY_HAND, num_experts=4)
    assert sources_named("experts, previous", trace) == ("experts", "previous")
    for text, message in (
        ("token", "--from token needs token_ids, which this trace does not have"),
        ("inputs", "lrcsim record --router-inputs"),
        ("expert", "did you mean 'experts'"),
        ("experts,experts", "names one twice"),
    ):
        with pytest.raises(ConfigError, match=message):
            sources_named(text, trace)


def naive_fit(trace: RoutingTrace, layer: int, fit: npt.NDArray[np.bool_], ridge: float) -> npt.NDArray[np.float64]:
    """Scores of all tokens from their ids, with loops: popularity, and each id's mean shrunk to it."""
    assert trace.token_ids is not None
    rows = [token for token in range(trace.num_tokens) if fit[token]]
    popular = np.zeros(trace.num_experts)
    for token in rows:
        popular[trace.experts[token, layer]] += 1 / len(rows)
    scores = np.empty((trace.num_tokens, trace.num_experts))
    for token in range(trace.num_tokens):
        same = [one for one in rows if trace.token_ids[one] == trace.token_ids[token]]
        scores[token] = popular
        for one in same:
            used = np.zeros(trace.num_experts)
            used[trace.experts[one, layer]] = 1
            scores[token] += (used - popular) / (len(same) + ridge)
    return scores


def test_as_loops_fit_ids() -> None:
    trace = drawn(tokens=120)
    found = predict(trace, ["token"], top=8)
    for layer, ridge in found.ridge.items():
        scores = naive_fit(trace, layer, found.parts.fit, ridge)[found.parts.test]
        ranked = np.take_along_axis(scores, found.ids[:, layer], axis=1)
        assert (np.diff(ranked, axis=1) <= 1e-9).all()


def imported(lrcsim: Callable[..., Any], name: str, folder: Path) -> RoutingTrace:
    """The first six layers of a real trace."""
    if not (SHARED / name).exists():
        pytest.skip(f"the shared trace {name} is not there (LRCSIM_SHARED names the folder that has traces/)")
    assert lrcsim("trace", "import", SHARED / name, "-o", folder / "all.h5").code == 0
    with RoutingTrace.open(folder / "all.h5") as whole:
        select_layers(whole, folder / "some.h5", "0-5")
    return RoutingTrace.open(folder / "some.h5")


def test_one_request_of_a_phone(tmp_path: Path, lrcsim: Callable[..., Any]) -> None:
    with imported(lrcsim, "qwen3-30b-a3b.route.csv", tmp_path) as trace:
        found = predict(trace, ["experts", "previous"])
        assert found.parts.by == "time"
        rates = [recall(found, name) for name in ("popularity", "previous token", "transition", "learned")]
        assert rates == sorted(rates)


def test_requests_of_gpt_oss(tmp_path: Path, lrcsim: Callable[..., Any]) -> None:
    with imported(lrcsim, "gpt-oss-20b.decode.npz", tmp_path) as trace:
        found = predict(trace, ["experts"])
        assert found.parts.by == "request"
        rates = [recall(found, name) for name in ("popularity", "previous token", "transition", "learned")]
        assert rates == sorted(rates)
