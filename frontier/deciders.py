"""What a rule makes of the tokens of a layer, with the caches as they are when each of them runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lrcsim.frontier.caches import Caches
from lrcsim.frontier.router_choice import RouterChoice
from lrcsim.frontier.router_weights import values_of
from lrcsim.policies.routing import RoutingRule, chosen_by
from lrcsim.simulator.setup.miss_actions import Skip

Ids = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Own:
    """The router's own choice for tokens that run one after the other, of one layer.

    Attributes:
        layer: the MoE layer.
        first: number of the first token, from 0 over all requests.
        request: number of the request.
        ids: int64 [tokens, k], heaviest first.
        weights: float64 [tokens, k].
        logits: float32 [tokens, E], raw; None: not known.
    """

    layer: int
    first: int
    request: int
    ids: Ids
    weights: Weights
    logits: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class Decided:
    """What the tokens use and what is executed.

    Attributes:
        ids: int64 [tokens, k], experts used, in the order of the rule's preference.
        weights: float64 [tokens, k], their router weights.
        executed: float64 [tokens, k], what their outputs are multiplied with: 0 for what is left out.
        changed: bool [tokens], whether that is something else than the router's own choice.
    """

    ids: Ids
    weights: Weights
    executed: Weights
    changed: npt.NDArray[np.bool_]


@dataclass
class Kept:
    """How much of the router's own choice is executed, summed over tokens and layers.

    Attributes:
        choices: tokens times layers.
        uses: experts in the router's choices.
        same: of these, those that are executed.
        mass: the router's values of what is executed over those of its own choice; of what is left out, nothing.
    """

    choices: int = 0
    uses: int = 0
    same: int = 0
    mass: float = 0.0

    @property
    def agreement(self) -> float:
        """Share of the router's own choice that is executed."""
        return self.same / self.uses

    @property
    def mass_kept(self) -> float:
        """Mean of `mass`."""
        return self.mass / self.choices


class Decider(Protocol):
    """A rule at work, in caches of its own."""

    caches: Caches
    kept: Kept

    def decide(self, own: Own) -> Decided:
        """Return what the tokens use, and use it in the caches."""
        ...


class RouteDecider:
    """A routing rule.

    Args:
        rule: the rule.
        caches: empty ones.
        choices: of each layer, what its router compares, and what it would have weighed others.
    """

    def __init__(self, rule: RoutingRule, caches: Caches, choices: Sequence[RouterChoice]) -> None:
        self.rule, self.caches, self.choices = rule, caches, choices
        self.kept = Kept()

    def decide(self, own: Own) -> Decided:
        """Ask the rule, token after token.

        Raises:
            ConfigError: the router compared something else than its scores.
            PolicyError: a user's rule or policy failed.
        """
        assert own.logits is not None  # the caller has refused a router without
        ids, weights, layer = own.ids.copy(), own.weights.copy(), own.layer
        changed = np.zeros(len(ids), bool)
        choice = self.choices[layer]
        scores, allowed = choice.scores(own.logits, own.ids, own.first)
        k, caches = ids.shape[1], self.caches
        for token in range(len(ids)):
            caches.begin(layer, own.first + token, own.request)
            some = slice(None) if allowed is None else np.flatnonzero(allowed[token])
            chosen = chosen_by(self.rule, scores[token : token + 1, some], caches.residents(layer)[some], k)[0]
            if not isinstance(some, slice):
                chosen = some[chosen]
            if set(chosen.tolist()) == set(own.ids[token].tolist()):
                weight_of = dict(zip(own.ids[token].tolist(), own.weights[token].tolist(), strict=True))
                weights[token] = [weight_of[expert] for expert in chosen.tolist()]
            else:
                changed[token] = True
                weights[token] = choice.weights.weigh(layer, own.logits[token], chosen, own.weights[token])
            ids[token] = chosen
            caches.use(layer, chosen.tolist(), weights[token].astype(np.float32).tolist())
        self._count(values_of(own.logits, choice.weights.recorded, choice.weights.function), ids, own.ids)
        return Decided(ids, weights, weights, changed)

    def _count(self, values: npt.NDArray[np.float64], ids: Ids, own: Ids) -> None:
        mine, its = (np.take_along_axis(values, chosen, axis=1).sum(axis=1) for chosen in (ids, own))
        kept = self.kept
        kept.choices += len(ids)
        kept.uses += ids.size
        kept.same += int((ids[:, :, None] == own[:, None, :]).sum())
        kept.mass += float((mine / its).sum())


class SkipDecider:
    """Light misses are left out: neither loaded nor computed, and the others' weights stay as they are.

    Args:
        action: threshold and how many experts of each token are kept.
        caches: empty ones.
    """

    def __init__(self, action: Skip, caches: Caches) -> None:
        self.action, self.caches = action, caches
        self.kept = Kept()

    def decide(self, own: Own) -> Decided:
        """Use what is resident or heavy enough, token after token."""
        executed, caches, layer = own.weights.copy(), self.caches, own.layer
        weights = own.weights.astype(np.float32)
        wide = weights.astype(np.float64)
        total = wide.sum(axis=1, keepdims=True)
        share = np.divide(wide, total, out=np.zeros_like(wide), where=total > 0)
        order = np.broadcast_to(np.arange(share.shape[1], dtype=np.int32), share.shape)
        vital = self.action.vital(share, order)
        changed = np.zeros(len(own.ids), bool)
        for token, ids in enumerate(own.ids.tolist()):
            caches.begin(layer, own.first + token, own.request)
            needed = {expert for expert, is_needed in zip(ids, vital[token].tolist(), strict=True) if is_needed}
            missed = caches.use(layer, ids, weights[token].tolist(), needed)
            dropped = set(missed) - needed
            if dropped:
                changed[token] = True
                executed[token, [place for place, expert in enumerate(ids) if expert in dropped]] = 0
        left_out = (executed == 0) & (own.weights != 0)
        self.kept.choices += len(share)
        self.kept.uses += share.size
        self.kept.same += int((~left_out).sum())
        self.kept.mass += len(share) - float(share[left_out].sum())
        return Decided(own.ids, own.weights, executed, changed)
