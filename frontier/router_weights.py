"""What a router would have weighed experts that it did not choose: found from those that it did.

Routers differ in what they make of their scores: softmax or sigmoid of all experts, the chosen ones' values times a
factor, or made to sum to one. Nothing of it is read from a config: the weights that were recorded tell.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.simulator.setup.router_scores import Floats, RouterScores
from lrcsim.traces import RoutingTrace

LOOKED_AT = 4_096
"""Tokens by whose weights the rule is told."""

WEIGHT_ERROR = 0.02
"""By which a weight, or a token's sum, may differ from the rule, as a share of it: bf16 has 8 bits (0.4 %), and logits
of 16 are off by up to 0.8 % (`lrcsim.simulator.setup.router_scores`)."""


@dataclass(frozen=True)
class RouterWeights:
    """From a router's raw scores to the weights of any choice.

    Attributes:
        recorded: ``"raw"`` logits or ``"probabilities"``.
        function: ``"softmax"`` or ``"sigmoid"``.
        total: float64 [L], what a token's weights sum to in each layer; NaN: they are ``factor`` times the values.
        factor: float64 [L], the weight over the router's value; NaN where they sum to ``total``.
    """

    recorded: str
    function: str
    total: npt.NDArray[np.float64]
    factor: npt.NDArray[np.float64]

    @classmethod
    def of(cls, trace: RoutingTrace) -> RouterWeights:
        """Tell the rule from what a model ran of its own.

        Args:
            trace: with ``weights`` and ``logits``.

        Raises:
            ConfigError: neither softmax nor sigmoid explains the weights.
        """
        scores = RouterScores.of(trace)
        high = min(trace.num_tokens, LOOKED_AT)
        experts, weights = trace.read("experts", 0, high), trace.read("weights", 0, high).astype(np.float64)
        logits = trace.read("logits", 0, high).astype(np.float32)
        total, factor = np.full(trace.num_layers, np.nan), np.full(trace.num_layers, np.nan)
        for layer, (count, k) in enumerate(zip(trace.layers.num_experts, trace.layers.top_k, strict=True)):
            ids, mine = experts[:, layer, :k].astype(np.int64), weights[:, layer, :k]
            values = values_of(logits[:, layer, :count], scores.recorded, scores.function)
            sums, ratio = mine.sum(axis=1), mine / np.take_along_axis(values, ids, axis=1)
            if _alike(sums):
                total[layer] = np.median(sums)
            elif _alike(ratio):
                factor[layer] = np.median(ratio)
            else:
                raise ConfigError(
                    f"MoE layer {layer}: the router's weights are neither its {scores.function} times a factor nor "
                    "made to sum to the same for every token, so it is not known what other experts would weigh: "
                    "compare skip and none only"
                )
        return cls(scores.recorded, scores.function, total, factor)

    def weigh(
        self, layer: int, logits: Floats, experts: npt.NDArray[np.int64], own: npt.NDArray[np.float64]
    ) -> npt.NDArray[np.float64]:
        """Return float64 [k], the weights of one token's experts.

        Args:
            layer: the MoE layer.
            logits: float32 [E], of the token.
            experts: int [k], whatever was chosen.
            own: float64 [k], the weights of the router's own choice; their sum is kept where sums are alike.
        """
        values: npt.NDArray[np.float64] = values_of(logits[None], self.recorded, self.function)[0, experts]
        scale = own.sum() / values.sum() if np.isnan(self.factor[layer]) else self.factor[layer]
        weights: npt.NDArray[np.float64] = values * scale
        return weights


def values_of(logits: Floats, recorded: str, function: str) -> npt.NDArray[np.float64]:
    """Return float64 [tokens, E], the router's softmax or sigmoid of its scores."""
    wide = logits.astype(np.float64)
    if recorded == "probabilities":
        return wide
    if function == "sigmoid":
        sigmoid: npt.NDArray[np.float64] = np.exp(-np.logaddexp(0, -wide))
        return sigmoid
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    softmax: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return softmax


def _alike(numbers: npt.NDArray[np.float64]) -> bool:
    middle = np.median(numbers)
    return bool((abs(numbers - middle) <= WEIGHT_ERROR * abs(middle)).all())
