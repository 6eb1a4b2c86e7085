"""A model run with a rule and caches in it: what the rule chooses is what its experts compute, and so what comes next.

Teacher-forced: the texts are given, nothing is sampled. Tokens see only earlier ones, and a cache that a layer has of
its own sees only that layer. So with a cache for every layer all tokens of a request go through a layer together, the
rule asked for one after the other, which gives what running token after token gives; one pool for all layers sees the
layers of one token before the next token, and then tokens are run one at a time with the KV cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from lrcsim.base.errors import ConfigError
from lrcsim.base.progress import Progress
from lrcsim.frontier.deciders import Decider, Own
from lrcsim.frontier.hooks import Hooks, Routed
from lrcsim.recorder.outputs import predicts_tokens
from lrcsim.recorder.passes import stacked
from lrcsim.recorder.requests import Request
from lrcsim.recorder.runs import one_line
from lrcsim.recorder.sites import Site

Columns = dict[str, npt.NDArray[Any]]


@dataclass
class Ran:
    """What a model ran on all requests.

    Attributes:
        columns: ``experts`` int32 [tokens, L, K] in rank order (-1: the layer has fewer), ``weights`` float32
            [tokens, L, K], ``logits`` float32 [tokens, L, E] where no rule was asked and all routers tell,
            ``token_ids`` and ``predicted_ids`` int32 [tokens], the latter the most likely next token.
        sites: the layer of the model that each MoE layer of the columns is.
        nats: float64 [requests], sum of -log p of each token given those before.
        predicted: int64 [requests], tokens that were predicted: all but the first.
    """

    columns: Columns
    sites: list[Site]
    nats: npt.NDArray[np.float64]
    predicted: npt.NDArray[np.int64]

    @property
    def loss(self) -> float:
        """Nats per token over all requests."""
        return float(self.nats.sum() / self.predicted.sum())


class ClosedLoop:
    """Runs requests through a model with and without rules.

    Args:
        model: a transformers model that predicts tokens, in evaluation mode.
        requests: token ids, two or more in each.
        one_at_a_time: run tokens one at a time with the KV cache.

    Raises:
        ConfigError: the model cannot be run with rules, or a request is too short.
    """

    def __init__(self, model: Any, requests: Sequence[Request], *, one_at_a_time: bool = False) -> None:
        if not predicts_tokens(model):
            raise ConfigError(f"{type(model).__name__} predicts no tokens, so it has no loss: give a causal model")
        for request in requests:
            if len(request.ids) < 2:
                raise ConfigError(f"request {request.number} has one token, a loss needs two: leave it out")
        self.model, self.requests, self.one_at_a_time = model, requests, one_at_a_time
        self.hooks = Hooks(model)

    def run(self, decider: Decider | None = None, progress: Progress | None = None) -> Ran:
        """Run all requests.

        Args:
            decider: the rule with its caches; None: the model is left to itself.
            progress: told the tokens done and all.

        Raises:
            ConfigError: the model cannot be run on a request, or with the rule.
            PolicyError: a user's rule or policy failed.
        """
        notes = _Notes(decider)
        self.hooks.replace = notes.replace
        total = sum(len(request.ids) for request in self.requests)
        nats, predicted_ids, done = np.zeros(len(self.requests)), [], 0
        with self.hooks.on(), torch.inference_mode(), one_line(self.model):
            for number, request in enumerate(self.requests):
                best = []
                for first, ids, targets in self._passes(request, notes, number, done):
                    scores = self._outputs(ids, first == 0).float().log_softmax(dim=-1)
                    best.append(scores.argmax(dim=-1).to(torch.int32).cpu().numpy())
                    told = scores[: len(targets)].gather(1, targets[:, None])
                    nats[number] -= float(told.double().sum())
                predicted_ids += best
                done += len(request.ids)
                if progress is not None:
                    progress(done, total)
        self._state = None
        columns = notes.columns()
        columns["token_ids"] = np.concatenate([np.asarray(request.ids, np.int32) for request in self.requests])
        columns["predicted_ids"] = np.concatenate(predicted_ids)
        lengths = np.array([len(request.ids) - 1 for request in self.requests], np.int64)
        return Ran(columns, notes.sites, nats, lengths)

    def _passes(self, request: Request, notes: _Notes, number: int, first: int) -> Iterator[tuple[int, Any, Any]]:
        """Yield the forward passes of a request: place of the first token, token ids, and the next token of each."""
        ids = torch.tensor(request.ids, device=self.model.device)
        width = 1 if self.one_at_a_time else len(ids)
        for low in range(0, len(ids), width):
            notes.begin(number, first + low)
            yield low, ids[low : low + width], ids[low + 1 : low + width + 1]

    def _outputs(self, ids: Any, first: bool) -> Any:
        """Return the output of a pass, float [tokens, vocabulary]."""
        if not self.one_at_a_time:
            return self.model(input_ids=ids[None], use_cache=False).logits[0]
        self._state = None if first else self._state
        output = self.model(input_ids=ids[None], use_cache=True, past_key_values=self._state)
        self._state = getattr(output, "past_key_values", None)
        if self._state is None:
            raise ConfigError(
                f"{type(self.model).__name__} gives no KV cache, which scope 'model' needs: use scope 'layer'"
            )
        return output.logits[0]

    _state: Any = None


class _Notes:
    """What the layers of each pass ran, and the rule's answers.

    Args:
        decider: asked about each layer; None: only what ran is noted.
    """

    def __init__(self, decider: Decider | None) -> None:
        self.decider = decider
        self.sites: list[Site] = []
        self._request = self._first = self._at = 0
        self._layers: list[list[Columns]] = []
        self._rounds = 0

    def begin(self, request: int, first: int) -> None:
        """Begin a forward pass of tokens from number ``first`` of all on."""
        if self._rounds == 1:
            self._count = self._at
        elif self._rounds and self._at != self._count:
            raise ConfigError("the model ran other MoE layers than before: it cannot be run with a rule")
        self._request, self._first, self._at = request, first, 0
        self._rounds += 1

    def replace(self, routed: Routed) -> tuple[Any, Any] | None:
        """Note what a layer is to run, and return what to run instead (`hooks.Replace`)."""
        layer, self._at = self._at, self._at + 1
        if layer == len(self._layers):
            self._layers.append([])
            self.sites.append(routed.site)
        ids, weights = routed.ids.cpu().numpy().astype(np.int64), routed.weights.float().cpu().numpy()
        if ids.min() < 0:
            raise ConfigError(
                f"{routed.site.name}: the router chose what is no expert (an identity, or none), which no cache holds: "
                "models of this kind can be recorded, and rules replayed on the trace (lrcsim run --route)"
            )
        order = np.argsort(-weights, axis=1, kind="stable")
        ids, weights = np.take_along_axis(ids, order, axis=1), np.take_along_axis(weights, order, axis=1)
        scores = None if routed.scores is None else routed.scores.float().cpu().numpy()
        noted: Columns = {"experts": ids.astype(np.int32), "weights": weights}
        if self.decider is None:
            if scores is not None:
                noted["logits"] = scores
            self._layers[layer].append(noted)
            return None
        own = Own(layer, self._first, self._request, ids, weights.astype(np.float64), scores)
        decided = self.decider.decide(own)
        noted |= {"experts": decided.ids.astype(np.int32), "weights": decided.weights.astype(np.float32)}
        self._layers[layer].append(noted)
        if not decided.changed.any():
            return None
        rows = torch.from_numpy(np.flatnonzero(decided.changed)).to(routed.ids.device)
        new_ids, new_weights = routed.ids.clone(), routed.weights.clone()
        new_ids[rows] = torch.from_numpy(decided.ids[decided.changed]).to(new_ids)
        new_weights[rows] = torch.from_numpy(decided.executed[decided.changed]).to(new_weights)
        return new_ids, new_weights

    def columns(self) -> Columns:
        """Return what ran, layers side by side."""
        if not self._layers:
            raise ConfigError("no MoE layer of the model ran")
        layers = [{name: np.concatenate([part[name] for part in parts]) for name in parts[0]} for parts in self._layers]
        if any("logits" not in layer for layer in layers):
            for layer in layers:
                layer.pop("logits", None)
        return stacked(layers)
