"""Policies that look at router weights."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from lrcsim.policies.base import Param
from lrcsim.policies.ordering import RankedPolicy, ScorePolicy

__all__ = ["Mrs", "ScoreEma"]


class Mrs(ScorePolicy):
    """Evict the smallest moving router score: at each run of its layer S <- 0.5 s + 0.5 S, with s = 0 if unused.

    The authors take the scores of the 2k best experts; a trace of the k best gives those.
    """

    name = "mrs"
    needs = frozenset({"weights"})
    source = "HybriMoE (arXiv 2504.05897)"
    params = (Param("alpha", 0.5, "weight of the newest score", 0, 1),)
    alpha: float

    def reset(self) -> None:
        super().reset()
        self.moving: dict[int, tuple[float, int]] = {}  # S at the last use, and the layer's run then
        self.runs: defaultdict[int, int] = defaultdict(int)
        self.last_run = (-1, -1)

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        super().access(batch, missed)
        for key, weight in zip(batch, self.view.weights, strict=True):
            layer = self.view.layer_of(key)
            if self.last_run != (self.view.step, layer):
                self.last_run = self.view.step, layer
                self.runs[layer] += 1
            run = self.runs[layer]
            old, seen = self.moving.get(key, (0.0, run))
            self.moving[key] = old * (1 - self.alpha) ** (run - seen) + self.alpha * weight, run

    def score(self, key: int) -> float:
        moving, seen = self.moving[key]
        return moving * (1 - self.alpha) ** (self.runs[self.view.layer_of(key)] - seen)


class ScoreEma(RankedPolicy):
    """Evict the smallest moving average of router weights over an expert's own uses.

    It starts from 0, so that one use counts alpha * weight, and outlives eviction.
    """

    name = "score-ema"
    needs = frozenset({"weights"})
    source = "moe-policylang, score EMA"
    params = (Param("alpha", 0.3, "weight of the newest use", 0, 1),)
    alpha: float

    def reset(self) -> None:
        super().reset()
        self.average: dict[int, float] = {}

    def rank(self, key: int, place: int, missed: bool) -> float:
        weight = self.view.weights[place]
        old = self.average.get(key, 0.0)
        self.average[key] = (1 - self.alpha) * old + self.alpha * weight
        return self.average[key]
