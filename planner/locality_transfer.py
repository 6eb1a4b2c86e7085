"""Hit-rate curves of a trace, warm, and what of them carries over to a model of another shape.

The exponent a of misses (1 - C / E) ** a says how many times more local than chance a policy's uses are. How local a
model is under LRU is known from published curves (`locality_prior`). What a trace of another model adds is how another
policy compares: at the size that matches, C = C' ((E / E') (k / k')) ** (1 / 2), half way between equal C / E and equal
C / k, its exponent over LRU's.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lrcsim.planner.published_locality import first_use_hits
from lrcsim.planner.traces import Shape, take
from lrcsim.traces import DECODE, RoutingTrace

Floats = npt.NDArray[np.float64]

LEAST_MISSES = 0.01
"""Where the source misses less, its exponent is no longer known well: the one before stays."""


def matching_size(capacity: Floats, source: Shape, target: Shape) -> Floats:
    """Return the source's capacities, experts per layer, that match the target's ``capacity``; maybe not whole."""
    factor: float = (source.experts / target.experts * source.top_k / target.top_k) ** 0.5
    return capacity * factor


def relative_exponents(curve: Floats, lru: Floats, source: Shape, target: Shape) -> Floats:
    """Return a policy's exponent over LRU's at the target's capacities, float64 [E' - 1], of 1 .. E' - 1 experts.

    Args:
        curve: float64 [E + 1], the policy's hit rate at 0 .. E experts per layer; 0 at 0, 1 at E.
        lru: that of LRU.
        source: shape of the model they are of.
        target: shape of the other.
    """
    wanted = matching_size(np.arange(1, target.experts, dtype=np.float64), source, target)
    found: Floats = np.interp(wanted, *_exponents(curve)) / np.interp(wanted, *_exponents(lru))
    return found


def curve_of_exponents(exponents: Floats, locality: float = 1.0) -> Floats:
    """Return the curve whose misses are (1 - C / E) ** a.

    Args:
        exponents: float64 [E - 1], a at 1 .. E - 1 experts.
        locality: factor on a. It takes a curve that is better than chance to chance, not beyond.

    Returns:
        float64 [E + 1], 0 at 0, 1 at E, never falling.
    """
    experts = len(exponents) + 1
    scaled = np.maximum(exponents * locality, np.minimum(exponents, 1.0))
    misses = (1 - np.arange(1, experts) / experts) ** scaled
    return np.maximum.accumulate(np.concatenate([[0.0], 1 - misses, [1.0]]))


def _exponents(curve: Floats) -> tuple[Floats, Floats]:
    """Return the capacities at which the exponent is known, and it; one point at least."""
    experts = len(curve) - 1
    capacity = np.arange(1, experts, dtype=np.float64)
    misses = 1 - curve[1:-1]
    known = np.maximum.accumulate(misses[::-1])[::-1] > LEAST_MISSES
    known[:1] = True
    capacity, misses = capacity[known], np.clip(misses[known], LEAST_MISSES**2, 1.0)
    if len(capacity) == 0:  # a single expert
        return np.ones(1), np.ones(1)
    return capacity, np.log(misses) / np.log(1 - capacity / experts)


def curve_of(trace: RoutingTrace, policy: str) -> Floats:
    """Return a policy's hit rate while decoding at 0 .. E experts per layer, as if the cache had been warm.

    A trace begins with an empty cache, in which every first use misses. Warm, it would hit as often as the expert,
    somewhere below those already used, is among the first C (`first_use_hits`). Policies that have to be run at every
    capacity are run at a dozen, with straight lines between.

    Args:
        trace: the routing.
        policy: one of lrcsim's, or ``"static"``: the most used experts of each layer, counted on one half of the
            trace and used for the other.

    Returns:
        float64 [E + 1], from 0 to 1.
    """
    experts = np.arange(trace.num_experts + 1, dtype=np.float64)
    if policy == "static":
        return _popular(trace)
    from lrcsim.simulator import hit_rate_curve  # a plan on the bundled trace needs none

    curve = hit_rate_curve(trace, policy)
    rates = curve.hit_rate if curve.decode_hit_rate is None else curve.decode_hit_rate
    found = np.interp(experts, np.append(0.0, curve.capacities), np.append(0.0, rates))
    return np.maximum.accumulate(np.minimum(found + _first_use_rate(trace, experts), 1.0))


def _first_use_rate(trace: RoutingTrace, slots: Floats) -> Floats:
    """Return the first uses that hit in a warm cache, over all decoded uses, float64 [capacities]."""
    experts = trace.experts
    decoded = np.ones(trace.num_tokens, bool) if trace.phase is None else trace.phase == DECODE
    hits = np.zeros(len(slots))
    for layer in range(trace.num_layers):
        token, rank = np.nonzero(experts[:, layer] >= 0)
        first = np.sort(token[np.unique(experts[token, layer, rank], return_index=True)[1]])
        before = np.searchsorted(first, first)  # distinct experts used by earlier tokens
        hits += first_use_hits(slots, before[decoded[first]], trace.num_experts)
    return hits / max(int((experts[decoded] >= 0).sum()), 1)


def halves(trace: RoutingTrace) -> tuple[RoutingTrace, RoutingTrace]:
    """Divide a trace in two: every other request, or the two halves of its tokens where there is one request."""
    bounds = [(int(low), int(high)) for low, high in zip(trace.offsets[:-1], trace.offsets[1:], strict=True)]
    if len(bounds) > 1:
        return take(trace, bounds[::2]), take(trace, bounds[1::2])
    middle = -(-trace.num_tokens // 2)
    return take(trace, [(0, middle)]), take(trace, [(middle, trace.num_tokens)])


def _popular(trace: RoutingTrace) -> Floats:
    """Return the curve of fixed contents: ranked by uses in one half, counted in the other, both ways."""
    counted = [_uses(half) for half in halves(trace)]
    hits = np.zeros(trace.num_experts + 1)
    for ranked, used in (counted, counted[::-1]):
        order = np.argsort(-ranked, axis=1, kind="stable")
        hits[1:] += np.cumsum(np.take_along_axis(used, order, axis=1), axis=1).sum(axis=0)
    rates: Floats = hits / hits[-1]
    return rates


def _uses(trace: RoutingTrace) -> npt.NDArray[np.int64]:
    """Return int64 [L, E]: how many decoded tokens used each expert."""
    experts = trace.experts if trace.phase is None else trace.experts[trace.phase == DECODE]
    layers, stride = trace.num_layers, trace.num_experts
    keys = (np.arange(layers)[:, None] * stride + experts)[experts >= 0]
    return np.bincount(keys.ravel(), minlength=layers * stride).reshape(layers, stride)
