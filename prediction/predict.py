"""Fit a linear predictor of every layer's experts on some requests, test it on others, beside simple ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.base.progress import Progress
from lrcsim.prediction.held_out import HeldOut, hold_out
from lrcsim.prediction.rankings import popularity, previous_token, recorded, top_ids, transition
from lrcsim.prediction.recall import Recall, hits
from lrcsim.prediction.ridge import Linear, Sums
from lrcsim.prediction.sources import Features, features, used_at
from lrcsim.traces import RoutingTrace

RIDGES = (0.03, 0.3, 3.0, 30.0, 300.0)
"""Among which a layer's ridge is chosen, in tokens: a class of so many goes half way from popularity to its mean."""

TRIAL = 5
"""A ridge is chosen by the recall on one in so many of the tokens fitted on, the last; then all of them are fitted.

Of fewer tokens the smallest is taken."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Predicted:
    """A learned predictor, tested.

    Attributes:
        trace: the routing trace.
        sources: what it looks at.
        ahead: layers ahead of the layer predicted.
        parts: what was fitted on, what was tested on.
        ids: int64 [n, L, N], the experts predicted for each token held out, the likeliest first; -1 in the first
            ``ahead`` layers, which nothing comes before.
        recalls: of the learned predictor (``learned``) and of those to compare with, each at every number fetched.
        ridge: by layer predicted.
    """

    trace: RoutingTrace
    sources: tuple[str, ...]
    ahead: int
    parts: HeldOut
    ids: Ints
    recalls: list[Recall]
    ridge: dict[int, float]

    def bytes_per_token(self, one: Recall) -> tuple[float | None, float | None]:
        """Return the bytes fetched for each token counted that were used, and that were not; None without sizes."""
        tokens = int(self.parts.counted.sum())
        if self.trace.expert_bytes is None:
            return None, None
        return one.useful_bytes / tokens, (one.fetched_bytes - one.useful_bytes) / tokens

    def rows(self, bootstrap: int = 1000, confidence: float = 0.95, seed: int = 0) -> list[dict[str, Any]]:
        """Return a row for each predictor and number fetched, as values by name; an interval is a tuple, or None."""
        found = []
        for one in self.recalls:
            useful, wasted = self.bytes_per_token(one)
            interval = one.interval(bootstrap, confidence, seed)
            found.append(
                {
                    "predictor": one.name,
                    "fetched": one.fetched,
                    "recall": one.recall,
                    "low": None if interval is None else interval[0],
                    "high": None if interval is None else interval[1],
                    "mass_recall": one.mass_recall,
                    "useful_bytes_per_token": useful,
                    "wasted_bytes_per_token": wasted,
                }
            )
        return found


def predict(
    trace: RoutingTrace,
    sources: Sequence[str],
    *,
    ahead: int = 1,
    top: int | None = None,
    share: float = 0.25,
    seed: int = 0,
    progress: Progress | None = None,
) -> Predicted:
    """Fit on some requests, test on the others.

    Args:
        trace: the routing trace.
        sources: names of `SOURCES` that the trace has (`sources_named`).
        ahead: how many layers before the layer predicted the routing is known.
        top: experts fetched for each layer; besides the model's top-k, at which all are tested.
        share: of the requests that are tested on (`hold_out`).
        seed: of the draw.
        progress: told of layers done, and in all.

    Raises:
        ConfigError: the trace has no layer so far behind another, ``top`` is not allowed, or no test is possible.
    """
    if not 1 <= ahead < trace.num_layers:
        raise ConfigError(f"--ahead {ahead} is not allowed: the trace has {trace.num_layers} MoE layers, give 1 to "
                          f"{trace.num_layers - 1}")  # fmt: skip
    width = trace.top_k if top is None else top
    if not 1 <= width <= trace.num_experts:
        raise ConfigError(f"--top {top} is not allowed: a layer has {trace.num_experts} experts, give 1 to that")
    parts = hold_out(trace, share, seed)
    numbers = sorted({trace.top_k, width})
    ids = np.full((len(parts.test), trace.num_layers, width), -1)
    request_of = parts.request_of()[parts.counted]
    tested = parts.test[parts.counted]
    recalls: dict[tuple[str, int], Recall] = {}
    ridge = {}
    for layer in range(ahead, trace.num_layers):
        experts = int(trace.layers.num_experts[layer])
        used = used_at(trace, layer)[:, :experts]
        given = features(trace, sources, layer, ahead, parts.fit)
        linear, ridge[layer] = fit_layer(given, used, trace.experts[:, layer], parts.fit, trace.top_k)
        learned = top_ids(linear.scores(given.dense[parts.test], given.classes[parts.test]), max(numbers))
        ids[:, layer, : min(width, experts)] = learned[:, :width]
        popular = popularity(used, parts.fit)
        earlier = used_at(trace, layer - ahead)
        rankings: dict[str, npt.NDArray[Any]] = {
            "learned": learned[parts.counted],
            "popularity": np.tile(top_ids(popular[None], max(numbers)), (len(tested), 1)),
            "previous token": top_ids(previous_token(trace, layer, popular, tested), max(numbers)),
            "transition": top_ids(transition(earlier, used, parts.fit, tested), max(numbers)),
        }
        if f"predictions/{ahead}" in trace.columns:
            rankings["next-gate"] = recorded(trace, layer, ahead, tested)
        weights = None if trace.weights is None else trace.weights[tested, layer]
        size = 0 if trace.expert_bytes is None else int(trace.expert_bytes[layer])
        for name, ranking in rankings.items():
            for number in numbers:
                if name == "next-gate" and number > ranking.shape[1]:
                    continue  # fewer were recorded
                one = recalls.setdefault((name, number), Recall(name, number, len(parts.requests)))
                one.add(layer, ranking, trace.experts[tested, layer], request_of, weights=weights, size=size)
        if progress is not None:
            progress(layer - ahead + 1, trace.num_layers - ahead)
    return Predicted(trace, tuple(sources), ahead, parts, ids, list(recalls.values()), ridge)


def fit_layer(
    given: Features,
    used: npt.NDArray[np.float64],
    ids: npt.NDArray[Any],
    fit: npt.NDArray[np.bool_],
    number: int,
) -> tuple[Linear, float]:
    """Fit a layer's predictor; its ridge is that of `RIDGES` with most recall on the last tokens fitted on.

    Args:
        given: features of all tokens.
        used: float64 [tokens, E], 1 for each expert used.
        ids: int [tokens, k], the same as ids.
        fit: bool [tokens], those to fit on; tokens of which no expert is recorded are left out.
        number: experts fetched, for the choice.

    Returns:
        The predictor and its ridge.
    """
    rows = np.flatnonzero(fit & used.any(axis=1))
    if not len(rows):
        return Linear(np.zeros(used.shape[1]), np.zeros((given.dense.shape[1], used.shape[1])), used[:0]), RIDGES[-1]
    first, last = np.split(rows, [len(rows) - len(rows) // TRIAL])
    best = RIDGES[0]
    if len(last):
        sums = Sums(given.dense[first], given.classes[first], used[first])
        found = []
        for ridge in RIDGES:
            scores = sums.solve(ridge).scores(given.dense[last], given.classes[last])
            found.append(int(hits(top_ids(scores, number), ids[last], number).sum()))
        best = RIDGES[int(np.argmax(found))]
    return Sums(given.dense[rows], given.classes[rows], used[rows]).solve(best), best
