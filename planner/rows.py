"""A row of a plan: one way to run the model, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lrcsim.planner.prompt import Prompt
from lrcsim.planner.row_runtimes import Kind, Standing
from lrcsim.planner.strategies import Strategy


@dataclass(frozen=True)
class StrategyRow:
    """A strategy with what it gives.

    Attributes:
        strategy: which.
        slots: experts of each MoE layer on the device.
        speed: tokens/s while decoding, at the trace's short contexts.
        spread: low and high over other requests or other sources, machine and runtime taken as they are.
        full: tokens/s when the context is full.
        full_spread: as ``spread``, of these.
        hit_rate: while decoding.
        binds: the busiest resource, and its share of the time.
        standing: what runs it, and what it can claim.
        prompt: how long a prompt takes.
        context: tokens that attention sees in ``speed``, in the mean.
    """

    strategy: Strategy
    slots: tuple[int, ...]
    speed: float
    spread: tuple[float, float]
    full: float
    full_spread: tuple[float, float]
    hit_rate: float
    binds: tuple[str, float]
    standing: Standing
    prompt: Prompt
    context: float

    @property
    def name(self) -> str:
        """Of the strategy."""
        return self.strategy.name

    @property
    def kind(self) -> Kind:
        """Whether it can be had, and whether it was measured."""
        return self.standing.kind

    @property
    def engines(self) -> tuple[str, ...]:
        """Released ones that have it here, in this dtype."""
        return self.standing.engines

    @property
    def range(self) -> tuple[float, float]:
        """Low and high tokens/s: ``spread``, and how true rows of this class and runtime have been."""
        return self.standing.accuracy.around(self.speed, self.spread)

    @property
    def full_range(self) -> tuple[float, float]:
        """As `range`, when the context is full."""
        return self.standing.accuracy.around(self.full, self.full_spread)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "strategy": self.strategy.name,
            "about": self.strategy.about,
            "kind": self.kind,
            "runtime": self.standing.runtime,
            "released": self.standing.released,
            "measured": self.standing.measured,
            "engines": list(self.engines),
            "policy": self.strategy.policy,
            "miss": self.strategy.miss,
            "experts_per_layer": list(self.slots),
            "tokens_per_s": self.speed,
            "range": list(self.range),
            "spread": list(self.spread),
            "tokens_per_s_full_context": self.full,
            "range_full_context": list(self.full_range),
            **self.prompt.to_dict(),
            "hit_rate": self.hit_rate,
            "binds": {"resource": self.binds[0], "busy": self.binds[1]},
        }
