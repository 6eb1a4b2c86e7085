"""One text in one layer: what the router gave each expert, token by token."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrcsim.experiments.paper.measure import CASE_TOKENS, Floats, MeasuredTrace
from lrcsim.experiments.paper.names import short_name
from lrcsim.plots.looks import shortened
from lrcsim.traces import RoutingTrace


@dataclass(frozen=True)
class Sample:
    """The first tokens of a text in one layer.

    Attributes:
        title: model, layer and its SRP in the text.
        what: what the scores are, for the colour bar; "" for none: a trace without scores, 1 for the experts chosen.
        scores: float64 [tokens, E]; NaN where an expert has none.
        ids: int64 [tokens], token ids, or positions where the trace has no ids.
        known: whether ``ids`` are token ids.
    """

    title: str
    what: str
    scores: Floats
    ids: npt.NDArray[np.int64]
    known: bool


def case_request(trace: RoutingTrace) -> int:
    """Return the request of the case study: the first with its 256 tokens, or else the longest."""
    tokens = np.diff(trace.offsets)
    return int(np.flatnonzero(tokens >= min(CASE_TOKENS, int(tokens.max())))[0])


def sample_of(one: MeasuredTrace, layer: int, tokens: int) -> Sample:
    """Read the first tokens of the case study's text in a layer.

    Scores are softmax of the recorded logits over all experts of the layer, or else the weights of those chosen.
    """
    trace = one.source.trace
    start = int(trace.offsets[case_request(trace)])
    end = min(start + tokens, int(trace.offsets[case_request(trace) + 1]))
    what, scores = router_scores(trace, start, end, layer)
    known = "token_ids" in trace.columns
    ids = trace.read("token_ids", start, end) if known else np.arange(end - start)
    assert one.case is not None
    title = f"{shortened(short_name(one.source), 30)}, MoE layer {layer}\n"
    title += f"mean SRP of its experts {np.nanmean(one.case[layer]):.2f}"
    title += "" if what else " (chosen or not)"
    return Sample(title, what, scores, ids.astype(np.int64), known)


def router_scores(trace: RoutingTrace, start: int, end: int, layer: int) -> tuple[str, Floats]:
    """Return what the scores of tokens are, and float64 [tokens, E]: see `Sample`."""
    experts = int(trace.layers.num_experts[layer])
    scores = np.full((end - start, experts), np.nan)
    if "logits" in trace.columns:
        logits = trace.read("logits", start, end)[:, layer, :experts].astype(float)
        logits = np.exp(logits - np.nanmax(logits, axis=1, keepdims=True))
        return "router score", logits / np.nansum(logits, axis=1, keepdims=True)
    chosen = trace.read("experts", start, end)[:, layer]
    token, rank = np.nonzero(chosen >= 0)
    weighted = "weights" in trace.columns
    values = trace.read("weights", start, end)[:, layer].astype(float) if weighted else np.ones(chosen.shape)
    scores[token, chosen[token, rank]] = values[token, rank]
    return ("weight" if weighted else ""), scores
