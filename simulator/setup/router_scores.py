"""What a routing rule looks at: the router's scores of all experts, out of the logits that a trace recorded.

A trace records the router's scores and what it chose, not how it came from one to the other. So the function is the one
that explains the recorded weights, and a choice that is not the k greatest scores (a bias added for the choice alone,
groups of experts) is refused: the scores that were compared are not in the trace.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.traces import RoutingTrace

Floats = npt.NDArray[np.float32]

FUNCTIONS = ("softmax", "sigmoid")

LOOKED_AT = 256
"""Tokens by whose weights the router's function is told."""

WEIGHT_ERROR = 0.02
"""By which a weight, as a share of its token's, may differ from that of the scores. Logits of 16 bits are off by 0.008
where they are 16, and so weights by 0.8 % of themselves. The checkpoint of experiments/model_family is off by 0.0011
with its softmax; with a sigmoid it would be by 0.41."""

CHOICE_ERROR = 2**-7
"""By which a score may be above that of a chosen expert: routers that compare probabilities of bf16 (8 bits) cannot
tell closer ones apart."""

GAP = 2.0**-22
"""By which a chosen score is put above the next, as a share of it (of 1, if it is less): what rules add in 64 bits
leaves that standing, and logits of 16 bits are off by 2,000 times as much."""

LEAST = 2.0**-25
"""Half of the least probability that 16 bits write: what was written as 0 is taken to be."""


@dataclass(frozen=True)
class RouterScores:
    """The scores of a trace's routers.

    Attributes:
        trace: the trace; it has logits.
        recorded: ``"raw"`` logits or ``"probabilities"``.
        function: ``"softmax"`` or ``"sigmoid"``, which the router makes of raw logits.
        told_by: what says so: ``"probabilities"``, ``"weights"``, or ``"assumed"`` where there are none.
    """

    trace: RoutingTrace
    recorded: str
    function: str
    told_by: str

    @classmethod
    def of(cls, trace: RoutingTrace) -> RouterScores:
        """Find out what a trace's logits are.

        Raises:
            ConfigError: there are none, or neither function explains the weights.
        """
        if "logits" not in trace.columns:
            raise ConfigError(
                "a routing rule looks at the router's scores of all experts, and this trace has none: record them with "
                "lrcsim record --logits, or leave out route"
            )
        first = min(trace.num_tokens, LOOKED_AT)
        experts, logits = trace.read("experts", 0, first), trace.read("logits", 0, first).astype(np.float32)
        routed = np.asarray((experts >= 0).any(axis=2))
        recorded = trace.provenance.get("logits")
        if recorded not in ("raw", "probabilities"):
            recorded = "probabilities" if _are_probabilities(logits, routed, trace) else "raw"
        if recorded == "probabilities":
            return cls(trace, recorded, "softmax", "probabilities")
        if "weights" not in trace.columns or not routed.any():
            return cls(trace, recorded, "softmax", "assumed")
        weights = trace.read("weights", 0, first)
        off = {}
        for function in FUNCTIONS:
            off[function] = _weights_off(as_scores(logits, recorded, function), experts, weights)
        best = min(off, key=lambda function: off[function])  # of equals softmax: with k = 1 both explain everything
        if off[best] > WEIGHT_ERROR:
            raise ConfigError(
                "the recorded router weights are neither softmax nor sigmoid of the recorded logits (shares differ by "
                f"{off['softmax']:.2g} and {off['sigmoid']:.2g}), so a routing rule cannot tell what other experts "
                "would weigh: leave out route"
            )
        return cls(trace, recorded, best, "weights")

    def read(self, low: int, high: int) -> Floats:
        """Return float32 [tokens, L, E], the logarithm of what the router gives each expert, up to a token's constant.

        Equal ones are told apart by the recorded choice, and the chosen ones stand in its order. Experts that a layer
        does not have are -inf; where nothing is recorded all are alike.

        Args:
            low: first token.
            high: token after the last.

        Raises:
            ConfigError: a choice is not the k greatest scores, or a score is not finite.
        """
        trace = self.trace
        experts, logits = trace.read("experts", low, high), trace.read("logits", low, high).astype(np.float32)
        routed = (experts >= 0).any(axis=2)
        logits[~routed] = 0
        scores = as_scores(logits, self.recorded, self.function)
        for layer, count in enumerate(trace.layers.num_experts.tolist()):
            scores[:, layer, count:] = -np.inf  # experts that the layer does not have
            if not np.isfinite(scores[:, layer, :count]).all():
                raise ConfigError(
                    "a logit of this trace is not finite, so a routing rule has nothing to compare: leave out route"
                )
        return told_apart(scores, experts, low)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {"recorded": self.recorded, "function": self.function, "told_by": self.told_by}


def told_apart(scores: Floats, experts: npt.NDArray[Any], first_token: int = 0) -> Floats:
    """Return scores of which a chosen expert's is above the next one's, and the last of them above all others'.

    Args:
        scores: float32 [tokens, L, E], -inf for experts that a layer does not have.
        experts: int [tokens, L, k], the choice in rank order, -1 = not recorded.
        first_token: number of the first token, for errors.

    Raises:
        ConfigError: a chosen one is lower by more than `CHOICE_ERROR`.
    """
    k, count = experts.shape[2], scores.shape[2]
    unrecorded = count + np.arange(k)  # ranks that are not recorded have a column each, behind the others
    places = np.where(experts >= 0, experts, unrecorded).astype(np.int64)
    table = np.concatenate([scores, np.full((*scores.shape[:2], k), np.inf, np.float32)], axis=2)
    chosen = np.take_along_axis(table, places, axis=2)
    np.put_along_axis(table, places, np.float32(-np.inf), axis=2)
    below = table[:, :, :count].max(axis=2, initial=np.finfo(np.float32).min)  # there may be no others
    for rank in reversed(range(k)):
        mine, there = chosen[:, :, rank], experts[:, :, rank] >= 0
        wrong = there & (mine < below - CHOICE_ERROR)
        if wrong.any():
            at, where = (int(index[0]) for index in np.nonzero(wrong))
            raise ConfigError(
                f"token {first_token + at}, MoE layer {where}: the router chose expert "
                f"{int(experts[at, where, rank])}, and by the logits another is better by "
                f"{float(below[at, where] - mine[at, where]):.3g}: it compared something else (a bias, groups of "
                "experts) that the trace does not have, so no routing rule can be applied"
            )
        np.maximum(mine, below + np.float32(GAP) * np.maximum(np.abs(below), 1), out=mine)
        below = np.where(there, mine, below)
    np.put_along_axis(table, places, chosen, axis=2)
    return np.ascontiguousarray(table[:, :, :count])


def as_scores(logits: Floats, recorded: str, function: str) -> Floats:
    """Return the logarithm of what the router makes of its logits, up to a constant for each token."""
    if recorded == "probabilities":
        return np.log(np.maximum(logits, np.float32(LEAST)))
    if function == "softmax":
        return logits.copy()
    scores: Floats = -np.logaddexp(np.float32(0), -logits)  # log sigmoid
    return scores


def _are_probabilities(logits: Floats, routed: npt.NDArray[np.bool_], trace: RoutingTrace) -> bool:
    """Return whether the rows of routed tokens are 0 or more and sum to 1, as the recorder tells (`recorder.store`)."""
    there = np.arange(logits.shape[2]) < trace.layers.num_experts[:, None]
    rows = np.where(there, logits, np.float32(0))[routed]
    return bool(len(rows) and (rows >= 0).all() and (abs(rows.sum(axis=1) - 1) < 0.02).all())


def _weights_off(scores: Floats, experts: npt.NDArray[Any], weights: npt.NDArray[Any]) -> float:
    """Return the largest difference of a recorded weight from that of the scores, both as shares of their token's."""
    recorded = experts >= 0
    chosen = np.take_along_axis(scores, np.where(recorded, experts, 0).astype(np.int64), axis=2).astype(np.float64)
    chosen = np.where(recorded, chosen, -np.inf)
    top = chosen.max(axis=2, keepdims=True)
    mine = np.where(recorded, np.exp(chosen - np.where(np.isfinite(top), top, 0)), 0)
    theirs = np.where(recorded, weights.astype(np.float64), 0)

    def shares(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        total = values.sum(axis=2, keepdims=True)
        found: npt.NDArray[np.float64] = np.divide(values, total, out=np.zeros_like(values), where=total > 0)
        return found

    return float(abs(shares(mine) - shares(theirs)).max(initial=0))
