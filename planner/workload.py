"""What is replayed for a plan: a trace of the model itself, or traces made to hit as often as it is expected to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lrcsim.planner.bundled_curves import bundled_curve
from lrcsim.planner.locality_prior import Exponent, Law, fit_law, popularity_exponent, published_law
from lrcsim.planner.locality_transfer import LEAST_MISSES, curve_of, curve_of_exponents, halves, relative_exponents
from lrcsim.planner.published_locality import Counted, model_called, published
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

SIZES = (1.0, 1.5, 2.0, 3.0, 4.0)
"""Multiples of the active experts at which a given trace of another model enters the law, as published curves do."""

LARGEST_SHARE = 0.8
"""Of the experts, up to which it does: beyond, a trace of some hundred tokens hardly misses."""

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
    """What is expected of a model nobody has traced: made-up traces of its shape that hit as often.

    Args:
        shape: of the model that is planned for.
        lru: its exponent under LRU.
        popular: that of popular experts.
        source: a trace, of another model, that says how other policies compare with LRU.
        end: 0: as expected; -1, 1: the low and the high end of the exponents' ranges.
    """

    def __init__(self, shape: Shape, lru: Exponent, popular: Exponent, source: SourceTrace, end: int = 0) -> None:
        factor = lru.factor**end
        self.label = "published curves" + ("" if end == 0 else f", locality x {factor:.2g}")
        self.shape, self.lru, self.popular, self.source, self.end = shape, lru, popular, source, end
        self._made: dict[str, Fold] = {}

    def curve(self, policy: str) -> npt.NDArray[np.float64]:
        """Return the hit rate at 0 .. E experts per layer, float64 [E + 1]."""
        known = self.popular if policy == POPULAR else self.lru
        exponents = known.at(np.arange(1, self.shape.experts, dtype=np.float64), self.shape.top_k)
        if policy not in ("lru", POPULAR):
            own, lru = _curve_of(self.source, policy), _curve_of(self.source, "lru")
            exponents = exponents * relative_exponents(own, lru, self.source.shape, self.shape)
        return curve_of_exponents(exponents, known.factor**self.end)

    def folds(self, policy: str) -> list[Fold]:
        """Return a trace on which LRU hits as often as the policy would; `POPULAR`: one with that popularity.

        A profile in which every expert was used once ranks them by number, which is the order in which the made-up
        trace uses them. Counting on that trace itself would rank them by the chance of a few draws each.
        """
        if policy not in self._made:
            if policy == PLACED:  # whatever is used, a layer's experts are all there or none: any trace does
                self._made[policy] = Fold(self.folds("lru")[0].trace, "static", all_experts(self.shape))
                return [self._made[policy]]
            fixed = policy == POPULAR
            tokens = min(max(ACCESSES // (self.shape.layers * self.shape.top_k), 64), 256)
            trace = routing_of_curve(self.shape, self.curve(policy), tokens, fixed=fixed)
            self._made[policy] = Fold(trace, "static", all_experts(self.shape)) if fixed else Fold(trace, "lru", None)
        return [self._made[policy]]


def transferred(shape: Shape, sources: Sequence[SourceTrace], model: str = "") -> list[Transferred]:
    """Return the central workload, and the two ends of its range: less local, more local.

    The exponent is that of the published curves, with traces of other models that the user gave among them; other
    policies are compared with LRU on the nearest of the traces.

    Args:
        shape: of the model.
        sources: traces of other models, nearest first, or the bundled one.
        model: its name; empty: as the sources say.
    """
    name = model or sources[0].planned_for
    lru = _law(sources, name).exponent(name, shape.experts, shape.top_k)
    popular = popularity_exponent(name)
    return [Transferred(shape, lru, popular, sources[0], end) for end in (0, -1, 1)]


def _law(sources: Sequence[SourceTrace], model: str) -> Law:
    """Return the law of the published hit rates, and of given traces of other models."""
    given = [_counted(source, model) for source in sources if not source.bundled]
    found = [one for one in given if one is not None]
    return fit_law([*published(), *found]) if found else published_law()


def _counted(source: SourceTrace, model: str) -> Counted | None:
    """Return a trace's LRU hit rates as the published ones are; None where it has none that tell."""
    _, experts, top_k = source.shape
    slots = top_k * np.array(SIZES)
    rates = np.interp(slots, np.arange(experts + 1), _curve_of(source, "lru"))
    known = (slots <= LARGEST_SHARE * experts) & (rates > 0) & (rates < 1 - LEAST_MISSES)
    if not known.any():
        return None
    name = model if source.same_model else source.model or source.name
    return Counted(model_called(name), source.name, experts, top_k, slots[known], rates[known], 0.0)


def rests_on(shape: Shape, sources: Sequence[SourceTrace]) -> str:
    """Say in a sentence or two where the hit rates of `transferred` are from, and how sure they are."""
    name = sources[0].planned_for
    known = _law(sources, name).exponent(name, shape.experts, shape.top_k)
    several = "s" if len(known.sources) > 1 else ""
    own = f"{len(known.sources)} source{several} of it and of " if known.sources else ""
    given = ", ".join(source.name for source in sources if not source.bundled)
    return (
        f"Its hit rates are those that were published, from {own}other models{f', and {given}' if given else ''}; "
        f"the cache is warm. Its locality is known to a factor of {known.factor:.2f}, four times in five. How other "
        f"policies compare with LRU is counted on {sources[0].name}."
    )


def all_experts(shape: Shape) -> RoutingTrace:
    """Return a profile in which every expert was used once."""
    return RoutingTrace.from_arrays(touching_all(shape), num_experts=shape.experts)


def _curve_of(source: SourceTrace, policy: str) -> npt.NDArray[np.float64]:
    """Return `curve_of`, kept with the trace; of the bundled trace as it was counted."""
    known = bundled_curve(source.bundled, policy) if source.bundled else None
    if known is not None:
        return known
    return _curves.once(source.trace, policy, lambda: curve_of(source.trace, policy))


def _and_all(trace: RoutingTrace) -> RoutingTrace:
    """Return a profile of a trace's uses in which experts it never used come last instead of not at all."""
    shape = Shape(trace.num_layers, trace.num_experts, trace.top_k)
    return RoutingTrace.from_arrays(
        np.concatenate([trace.experts, touching_all(shape)]), num_experts=trace.num_experts, top_k=trace.top_k
    )
