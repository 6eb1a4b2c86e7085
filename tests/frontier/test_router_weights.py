"""From a router's scores to the weights of what it did not choose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.frontier.router_weights import RouterWeights
from lrcsim.traces import RoutingTrace

E, K = 6, 2


def made(function: str, rule: str, factor: float, seed: int) -> tuple[RoutingTrace, Any, Any]:
    """A trace of a router as its makers write it; its logits and the values of all experts."""
    logits = np.random.default_rng(seed).normal(size=(40, 1, E)).astype(np.float32)
    wide = logits.astype(np.float64)
    values = 1 / (1 + np.exp(-wide))
    if function == "softmax":
        values = np.exp(wide) / np.exp(wide).sum(axis=2, keepdims=True)
    experts = np.argsort(-logits, axis=2)[:, :, :K]
    weights = np.take_along_axis(values, experts, axis=2)
    if rule == "normed":
        weights = weights / weights.sum(axis=2, keepdims=True)
    trace = RoutingTrace.from_arrays(
        experts, num_experts=E, weights=(factor * weights).astype(np.float32), logits=logits
    )
    return trace, logits, values


@given(
    st.sampled_from(["softmax", "sigmoid"]),
    st.sampled_from(["normed", "plain"]),
    st.sampled_from([1.0, 2.5]),
    st.integers(0, 99),
    st.permutations(range(E)),
)
def test_any_choice_is_weighed_as_the_router_would(
    function: str, rule: str, factor: float, seed: int, order: list[int]
) -> None:
    trace, logits, values = made(function, rule, factor, seed)
    router = RouterWeights.of(trace)
    assert router.function == function
    chosen = np.array(order[:K])
    expected = values[3, 0, chosen]
    if rule == "normed":
        expected = expected / expected.sum()
    own = trace.read("weights", 3, 4)[0, 0].astype(np.float64)
    np.testing.assert_allclose(router.weigh(0, logits[3, 0], chosen, own), factor * expected, rtol=2e-6)


def test_neither() -> None:
    trace, _, values = made("softmax", "plain", 1.0, 0)
    weights = np.take_along_axis(values, trace.experts.astype(np.int64), axis=2)
    weights = weights * (1 + np.arange(40)[:, None, None] % 2)  # twice as much for every other token
    odd = RoutingTrace.from_arrays(
        trace.experts, num_experts=E, weights=weights.astype(np.float32), logits=trace.read("logits", 0, 40)
    )
    with pytest.raises(ConfigError, match="MoE layer 0: the router's weights are neither its softmax times a factor"):
        RouterWeights.of(odd)
