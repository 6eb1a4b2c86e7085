"""Traces drawn at random, small, with all that a count may stumble over."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from lrcsim.traces import RoutingTrace


def popular(rng: np.random.Generator, tokens: int, experts: list[int], k: int) -> npt.NDArray[np.int64]:
    """Choose int64 [tokens, L, k] of each layer's experts, some of which are more popular than others."""
    layers = len(experts)
    scores = rng.random((tokens, layers, max(experts))) * (0.3 + rng.random((layers, max(experts))))
    for layer, number in enumerate(experts):
        scores[:, layer, number:] = -1
    return (-scores).argsort(axis=2)[:, :, :k]


@st.composite
def traces_with_holes(draw: st.DrawFn, *, most_tokens: int = 30, most_experts: int = 7) -> RoutingTrace:
    """Holes, tokens and requests of which nothing was recorded, prompts, layers of unequal experts and bytes."""
    tokens, layers = draw(st.integers(1, most_tokens)), draw(st.integers(1, 3))
    experts = draw(st.lists(st.integers(1, most_experts), min_size=layers, max_size=layers))
    k = draw(st.integers(1, min(4, *experts)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = popular(rng, tokens, experts, k)
    ids[rng.random(ids.shape) < draw(st.sampled_from([0, 0.1, 0.5]))] = -1
    ids[rng.random(tokens) < draw(st.sampled_from([0, 0.2]))] = -1
    ends = sorted(draw(st.lists(st.integers(0, tokens), max_size=4)))
    return RoutingTrace.from_arrays(
        ids,
        num_experts=experts,
        offsets=[0, *ends, tokens],
        phase=draw(st.sampled_from([None, (rng.random(tokens) < 0.5).astype(int)])),
        weights=(rng.integers(0, 9, ids.shape) / 16).astype(np.float32),
        expert_bytes=draw(st.lists(st.integers(1, 5), min_size=layers, max_size=layers)),
    )
