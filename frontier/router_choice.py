"""What a router compares when it chooses: its values, with a bias and within groups where it has them.

A bias for the choice alone and groups of experts (DeepSeek-V3 and its kin) are not in a trace, but in the model. They
are looked for by the names that transformers gives them, and believed only where they explain every choice recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.frontier.router_weights import RouterWeights, values_of
from lrcsim.recorder.sites import Site
from lrcsim.simulator.setup.router_scores import Floats, as_scores, told_apart

BIAS = ("e_score_correction_bias", "expert_bias")
"""Names of the bias, a tensor [E], in the router or the block around it."""

GROUPS = ("num_group", "n_group", "num_expert_group")
CHOSEN_GROUPS = "topk_group"

CHOICE_ERROR = 2**-7
"""By which what is compared may be above that of a chosen expert, as in `lrcsim.simulator.setup.router_scores`."""

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RouterChoice:
    """What one layer's router compares.

    Attributes:
        weights: what its scores are.
        bias: float64 [E], added to its values for the choice; None: nothing is.
        groups: into how many equal groups the experts are divided; 1: they are not.
        chosen_groups: of these, the groups from which a token may choose: those of the greatest sum of the two best.
    """

    weights: RouterWeights
    bias: npt.NDArray[np.float64] | None = None
    groups: int = 1
    chosen_groups: int = 1

    @property
    def plain(self) -> bool:
        """Whether it compares its scores alone."""
        return self.bias is None and self.groups == 1

    @classmethod
    def of(cls, site: Site, block: Any, weights: RouterWeights, logits: Floats, ids: Ids) -> RouterChoice:
        """Find what explains the choices of a layer.

        Args:
            site: the layer.
            block: the module around its router.
            weights: what its scores are.
            logits: float32 [tokens, E], of what ran.
            ids: int64 [tokens, k], what was chosen.

        Raises:
            ConfigError: nothing does.
        """
        bias, (groups, chosen) = _bias(site.router, block, site.num_experts), _groups(site.router, block)
        simple = cls(weights)
        for choice in (
            simple,
            cls(weights, bias),
            cls(weights, None, groups, chosen),
            cls(weights, bias, groups, chosen),
        ):
            if choice.explains(logits, ids):
                return choice
        raise ConfigError(
            f"{site.name}: the router's choices are not those of its greatest scores, with its bias and groups of "
            "experts or without, so it is not known what other experts it would choose: compare skip and none only"
        )

    def explains(self, logits: Floats, ids: Ids) -> bool:
        """Return whether every choice is of the greatest scores of the experts that may be chosen."""
        scores, allowed = self.compared(logits)
        chosen = np.take_along_axis(scores, ids, axis=1).min(axis=1)
        others = np.where(allowed, scores, -np.inf)
        np.put_along_axis(others, ids, -np.inf, axis=1)
        inside = np.take_along_axis(allowed, ids, axis=1).all()
        return bool(inside and (others.max(axis=1) <= chosen + CHOICE_ERROR).all())

    def compared(self, logits: Floats) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
        """Return what is compared, float64 [tokens, E], and which experts may be chosen, bool [tokens, E].

        The logarithm of the router's values; with a bias values and bias themselves, which have no logarithm.
        """
        if self.bias is not None:
            scores = values_of(logits, self.weights.recorded, self.weights.function) + self.bias
        else:
            scores = as_scores(logits, self.weights.recorded, self.weights.function).astype(np.float64)
        allowed = np.ones(scores.shape, bool)
        if self.groups > 1:
            linear = scores
            if self.bias is None:
                linear = values_of(logits, self.weights.recorded, self.weights.function)
            grouped = linear.reshape(len(linear), self.groups, -1)
            best = np.sort(grouped, axis=2)[:, :, -2:].sum(axis=2)
            order = np.argsort(-best, axis=1, kind="stable")[:, : self.chosen_groups]
            of_group = np.zeros(best.shape, bool)
            np.put_along_axis(of_group, order, True, axis=1)
            allowed = np.repeat(of_group, grouped.shape[2], axis=1)
        return scores, allowed

    def scores(
        self, logits: Floats, ids: Ids, first_token: int
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_] | None]:
        """Return what rules compare, the router's own choice on top, and which experts may be chosen (None: all).

        Args:
            logits: float32 [tokens, E].
            ids: int64 [tokens, k], the router's choice, heaviest first.
            first_token: number of the first token, for errors.

        Raises:
            ConfigError: the choice is not of the greatest scores.
        """
        if self.plain:
            raw = as_scores(logits[:, None], self.weights.recorded, self.weights.function)
            return told_apart(raw, ids[:, None], first_token)[:, 0].astype(np.float64), None
        if not self.explains(logits, ids):
            raise ConfigError(
                f"a router chose otherwise than by its bias and groups (tokens {first_token} to "
                f"{first_token + len(ids) - 1}), which explain all it chose without a rule: compare skip and none only"
            )
        scores, allowed = self.compared(logits)
        own = np.take_along_axis(scores, ids, axis=1)
        others = np.where(allowed, scores, -np.inf)
        np.put_along_axis(others, ids, -np.inf, axis=1)
        least = others.max(axis=1, keepdims=True)
        least = np.where(np.isfinite(least), np.nextafter(least, np.inf), own)
        np.put_along_axis(scores, ids, np.maximum(own, least), axis=1)
        return scores, allowed


def _bias(router: Any, block: Any, experts: int) -> npt.NDArray[np.float64] | None:
    for module in (router, block):
        for name, tensor in [*module.named_buffers(), *module.named_parameters()]:
            if name.rpartition(".")[2] in BIAS and tensor.numel() == experts:
                found: npt.NDArray[np.float64] = tensor.detach().double().cpu().numpy().reshape(-1)
                return found if found.any() else None
    return None


def _groups(router: Any, block: Any) -> tuple[int, int]:
    for module in (router, block):
        chosen = getattr(module, CHOSEN_GROUPS, None)
        count = next((value for name in GROUPS if isinstance(value := getattr(module, name, None), int)), None)
        if isinstance(chosen, int) and count:
            return count, chosen
    return 1, 1
