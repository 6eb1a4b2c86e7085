"""What the logits of a trace are, as a routing rule sees them, and what cannot be told from them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lrcsim.errors import ConfigError
from lrcsim.simulator.setup.router_scores import RouterScores, told_apart
from lrcsim.traces import RoutingTrace


def traced(kind: str, **changed: Any) -> RoutingTrace:
    """Make a trace of 40 tokens, 2 layers of 6 experts, top-3, by a router of some kind."""
    logits = np.random.default_rng(0).normal(size=(40, 2, 6)).astype(np.float32) * 2
    made = np.exp(logits) if kind == "softmax" else 1 / (1 + np.exp(-logits))
    experts = np.argsort(-logits, axis=2)[:, :, :3]
    weights = np.take_along_axis(made, experts, axis=2)
    columns = {
        "experts": experts,
        "weights": weights / weights.sum(axis=2, keepdims=True),
        "logits": logits,
        "provenance": {"logits": "raw"},
    } | changed
    return RoutingTrace.from_arrays(columns.pop("experts"), num_experts=6, **columns)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_the_weights_tell_the_function(kind: str, scale: float) -> None:
    """Of DeepSeek the weights are scaled after they are made to sum to 1: their shares tell."""
    trace = traced(kind)
    weights = trace.weights
    assert weights is not None
    found = RouterScores.of(traced(kind, weights=weights * scale))
    assert (found.recorded, found.function, found.told_by) == ("raw", kind, "weights")
    logits = trace.column("logits")
    wanted = logits if kind == "softmax" else -np.log1p(np.exp(-logits))
    assert found.read(5, 30) == pytest.approx(wanted[5:30], abs=1e-5)


def test_without_weights_softmax_is_assumed_and_said() -> None:
    found = RouterScores.of(traced("softmax", weights=None))
    assert found.to_dict() == {"recorded": "raw", "function": "softmax", "told_by": "assumed"}


@pytest.mark.parametrize("said", [{"logits": "probabilities"}, {}])
def test_probabilities(said: dict[str, str]) -> None:
    logits = traced("softmax").column("logits")
    chances = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    found = RouterScores.of(traced("softmax", logits=chances, provenance=said))
    assert found.to_dict() == {"recorded": "probabilities", "function": "softmax", "told_by": "probabilities"}
    scores = found.read(0, 40)
    assert scores - scores[:, :, :1] == pytest.approx(logits - logits[:, :, :1], abs=1e-4)


def test_a_probability_of_zero_is_a_small_one() -> None:
    chances = np.array([[[0.75, 0.25, 0.0]]], np.float32)
    trace = RoutingTrace.from_arrays([[[0]]], num_experts=3, logits=chances, provenance={"logits": "probabilities"})
    assert RouterScores.of(trace).read(0, 1)[0, 0].tolist() == pytest.approx(np.log([0.75, 0.25, 2**-25]).tolist())


def test_no_logits() -> None:
    with pytest.raises(ConfigError, match="this trace has none: record them with lrcsim record --logits"):
        RouterScores.of(traced("softmax", logits=None))


def test_weights_that_no_function_explains() -> None:
    weights = np.tile([0.4, 0.35, 0.25], (40, 2, 1))
    with pytest.raises(ConfigError, match="neither softmax nor sigmoid of the recorded logits"):
        RouterScores.of(traced("softmax", weights=weights))


def test_a_choice_by_something_else() -> None:
    experts = traced("softmax").experts.copy()
    logits = traced("softmax").column("logits")
    worst = int(np.argmin(logits[7, 1]))
    experts[7, 1, 2] = worst
    scores = RouterScores.of(traced("softmax", weights=None, experts=experts))
    with pytest.raises(ConfigError, match=rf"token 7, MoE layer 1: the router chose expert {worst}, and by the logits"):
        scores.read(3, 20)


def test_a_logit_that_is_not_finite() -> None:
    logits = traced("softmax").column("logits").copy()
    logits[4, 0, int(np.argmin(logits[4, 0]))] = -np.inf
    scores = RouterScores.of(traced("softmax", logits=logits, weights=None))
    with pytest.raises(ConfigError, match="a logit of this trace is not finite"):
        scores.read(0, 40)
    experts = traced("softmax").experts.copy()
    experts[4, 0] = -1
    scores = RouterScores.of(traced("softmax", logits=logits, weights=None, experts=experts))
    assert np.isfinite(scores.read(0, 40)).all()


def test_equal_scores_are_told_apart_by_the_choice() -> None:
    """All alike: 2 and 1 were chosen, so 2 is above 1, and 1 above 0 and 3; by less than 1e-6."""
    apart = told_apart(np.full((1, 1, 4), 3, np.float32), np.array([[[2, 1]]]))[0, 0]
    assert np.argsort(-apart, kind="stable").tolist() == [2, 1, 0, 3]
    assert apart == pytest.approx(3, abs=2e-6)
    assert len(set((apart.astype(np.float64) + 1000).tolist())) == 3  # 0 and 3 are alike


def test_a_rank_that_was_not_recorded_moves_nothing() -> None:
    scores = np.array([[[3, 2, 1, 0]]], np.float32)
    assert told_apart(scores, np.array([[[0, -1]]])).tolist() == scores.tolist()


def test_rounding_of_the_router_is_allowed_and_no_more() -> None:
    """Expert 1 was chosen, and 0 is better by a little: the router rounds."""
    little = np.array([[[1 + 2**-8, 1, 0]]], np.float32)
    assert np.argmax(told_apart(little, np.array([[[1]]]))) == 1
    with pytest.raises(ConfigError, match=r"another is better by 0\.0156"):
        told_apart(np.array([[[1 + 2**-6, 1, 0]]], np.float32), np.array([[[1]]]))
