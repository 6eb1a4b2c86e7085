"""Policies that look at router weights."""

# ruff: noqa: ARG004 (the arguments are those of the contract)

from __future__ import annotations

from lrcsim.policies.base import Param
from lrcsim.policies.compiled import CompiledScore, Expert, Now


class Mrs(CompiledScore):
    """Evict the smallest moving router score: at each run of its layer S <- 0.5 s + 0.5 S, with s = 0 if unused.

    The authors take the scores of the 2k best experts; a trace of the k best gives those.
    """

    name = "mrs"
    needs = frozenset({"weights"})
    source = "HybriMoE (arXiv 2504.05897)"
    params = (Param("alpha", 0.5, "weight of the newest score", 0, 1),)

    @staticmethod
    def update(expert: Expert, now: Now, weight: float, alpha: float) -> float:
        """Return S at this use."""
        faded: float = (1 - alpha) ** float(now.layer_runs - expert.last_run)
        return expert.value * faded + alpha * weight

    @staticmethod
    def score(expert: Expert, now: Now, alpha: float) -> float:
        faded: float = (1 - alpha) ** float(now.layer_runs - expert.last_run)
        return expert.value * faded


class ScoreEma(CompiledScore):
    """Evict the smallest moving average of router weights over an expert's own uses.

    It starts from 0, so that one use counts alpha * weight, and outlives eviction.
    """

    name = "score-ema"
    needs = frozenset({"weights"})
    source = "moe-policylang, score EMA"
    params = (Param("alpha", 0.3, "weight of the newest use", 0, 1),)
    at_use = True

    @staticmethod
    def update(expert: Expert, now: Now, weight: float, alpha: float) -> float:
        """Return the average."""
        return (1 - alpha) * expert.value + alpha * weight

    @staticmethod
    def score(expert: Expert, now: Now, alpha: float) -> float:
        return expert.value
