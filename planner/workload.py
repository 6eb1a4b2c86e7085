"""What is replayed for a plan: a trace of the model itself, or traces made to have the curve of another model's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lrcsim.planner.locality_transfer import LOCALITY_RANGE, RULES, Rule, curve_of, halves, transfer
from lrcsim.planner.synthetic_trace import routing_of_curve, touching_all
from lrcsim.planner.traces import Shape, SourceTrace
from lrcsim.traces import RoutingTrace
from lrcsim.traces.kept import Kept

POPULAR = "static"
"""The most used experts of each layer, always resident."""

PLACED = "placed"
"""All experts of some layers resident, none of the others: what is used where does not matter."""

ACCESSES = 50_000
"""Of a made-up trace while decoding, 64 tokens at least and 256 at most: enough for its hit rate to be within half a
point of the curve."""

MOST_SOURCES = 3
"""Traces of other models that make up the range."""

_curves: Kept[npt.NDArray[np.float64]] = Kept()
"""`curve_of`, by policy."""


class Fold(NamedTuple):
    """One replay: of a trace, under a policy, with the counts of a profile where the policy needs them."""

    trace: RoutingTrace
    policy: str
    profile: RoutingTrace | None


class Workload(Protocol):
    """Gives the replays that stand for a policy."""

    label: str

    def folds(self, policy: str) -> list[Fold]:
        """Return the replays for a policy of lrcsim, `POPULAR` or `PLACED`; their times are added."""

    def curve(self, policy: str) -> npt.NDArray[np.float64]:
        """Return the hit rate at 0 .. E experts per layer, first uses left out, float64 [E + 1]."""


class OwnTrace:
    """The model's own trace, replayed under the policy itself."""

    def __init__(self, source: SourceTrace) -> None:
        self.label = "its own trace"
        self.source = source
        self._halves: tuple[RoutingTrace, RoutingTrace] | None = None

    def curve(self, policy: str) -> npt.NDArray[np.float64]:
        """Return the trace's own curve."""
        return _curve_of(self.source, policy)

    def folds(self, policy: str) -> list[Fold]:
        """Return the trace itself; for `POPULAR` each half, with the popularity counted in the other."""
        trace = self.source.trace
        if policy == PLACED:
            return [Fold(trace, "static", all_experts(self.source.shape))]
        if policy != POPULAR:
            return [Fold(trace, policy, None)]
        one, other = self._halves = self._halves or halves(trace)
        return [Fold(one, "static", _and_all(other)), Fold(other, "static", _and_all(one))]


class Transferred:
    """Another model's curves, carried over: made-up traces of the wanted shape that hit as often.

    Args:
        shape: of the model that is planned for.
        source: a trace of another.
        rule: of `transfer`.
        locality: factor of `transfer`.
    """

    def __init__(self, shape: Shape, source: SourceTrace, rule: Rule = "middle", locality: float = 1.0) -> None:
        self.label = f"{source.name}, {rule}" + ("" if locality == 1 else f", locality x {locality:.2g}")
        self.shape, self.source, self.rule, self.locality = shape, source, rule, locality
        self._made: dict[str, Fold] = {}

    def curve(self, policy: str) -> npt.NDArray[np.float64]:
        """Return the hit rate at 0 .. E experts per layer, float64 [E + 1]."""
        return transfer(_curve_of(self.source, policy), self.source.shape, self.shape, self.rule, self.locality)

    def folds(self, policy: str) -> list[Fold]:
        """Return a trace on which LRU hits as often as the policy would; `POPULAR`: one with that popularity."""
        if policy not in self._made:
            fixed = policy == POPULAR
            tokens = min(max(ACCESSES // (self.shape.layers * self.shape.top_k), 64), 256)
            trace = routing_of_curve(self.shape, self.curve("lru" if policy == PLACED else policy), tokens, fixed=fixed)
            profile = trace if fixed else all_experts(self.shape) if policy == PLACED else None
            self._made[policy] = Fold(trace, "static" if profile is not None else "lru", profile)
        return [self._made[policy]]


def transferred(shape: Shape, sources: Sequence[SourceTrace]) -> list[Transferred]:
    """Return the central workload, the nearest source under the middle rule, and those that make the range.

    These are the nearest source with `LOCALITY_RANGE` times more and less locality and under the other two rules, and
    the next sources.
    """
    nearest, *others = sources[:MOST_SOURCES]
    return [
        Transferred(shape, nearest),
        Transferred(shape, nearest, locality=1 / LOCALITY_RANGE),
        Transferred(shape, nearest, locality=LOCALITY_RANGE),
        *(Transferred(shape, nearest, rule) for rule in RULES if rule != "middle"),
        *(Transferred(shape, source) for source in others),
    ]


def all_experts(shape: Shape) -> RoutingTrace:
    """Return a profile in which every expert was used once."""
    return RoutingTrace.from_arrays(touching_all(shape), num_experts=shape.experts)


def _curve_of(source: SourceTrace, policy: str) -> npt.NDArray[np.float64]:
    """Return `curve_of`, kept with the trace."""
    return _curves.once(source.trace, policy, lambda: curve_of(source.trace, policy))


def _and_all(trace: RoutingTrace) -> RoutingTrace:
    """Return a profile of a trace's uses in which experts it never used come last instead of not at all."""
    shape = Shape(trace.num_layers, trace.num_experts, trace.top_k)
    return RoutingTrace.from_arrays(
        np.concatenate([trace.experts, touching_all(shape)]), num_experts=trace.num_experts, top_k=trace.top_k
    )
