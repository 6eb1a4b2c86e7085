"""Hit-rate curves of one model, carried over to a model of another shape.

What is carried over is *locality*: how many times better than chance. Were every token's experts drawn at random, a
cache of C of E experts would miss with 1 - C / E. The exponent a of

    M(C) = (1 - C / E) ** a

says how far the model is from that: chance is 1, and a hardly changes with C. The other model is given

    M'(C') = (1 - C' / E') ** (a(C) r ** s),        r = (E' / k') / (E / k)

where r is how much sparser it is, and C = C' (E / E') ** (1 - s) (k / k') ** s is the size that matches. s is the rule:
``fraction`` (s = 0) gives equal hit rates at equal C / E, ``rho`` (s = 1) nearly so at equal C / k, ``middle``
(s = 1/2) is between. Where both models use the same share of their experts the three agree. docs/plan.md says how far
each was off between models whose curves are known: the middle least.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from lrcsim.planner.traces import Shape, take
from lrcsim.simulator import hit_rate_curve
from lrcsim.traces import DECODE, RoutingTrace

Floats = npt.NDArray[np.float64]
Rule = Literal["fraction", "middle", "rho"]
RULES: tuple[Rule, ...] = get_args(Rule)
SPARSITY_SHARE: dict[Rule, float] = {"fraction": 0.0, "middle": 0.5, "rho": 1.0}

LOCALITY_RANGE = 2.4
"""The exponent of a model was within this factor of what ``middle`` says from another, for 80 % of 1,520 comparisons of
20 models (curves read from the figures of arXiv 2505.16056; docs/plan.md)."""

LEAST_MISSES = 0.01
"""Where the source misses less, its exponent is no longer known well: the one before stays."""


def matching_size(capacity: Floats, source: Shape, target: Shape, rule: Rule) -> Floats:
    """Return the source's capacities, experts per layer, that match the target's ``capacity``; maybe not whole."""
    share = SPARSITY_SHARE[rule]
    by_fraction, by_rho = source.experts / target.experts, source.top_k / target.top_k
    factor: float = by_fraction ** (1 - share) * by_rho**share
    return capacity * factor


def transfer(curve: Floats, source: Shape, target: Shape, rule: Rule = "middle", locality: float = 1.0) -> Floats:
    """Carry a hit-rate curve over to another shape.

    Args:
        curve: float64 [E + 1], hit rate at 0 .. E experts per layer; 0 at 0, 1 at E.
        source: shape of the model it is of.
        target: shape of the other.
        rule: how sparsity counts.
        locality: factor on the exponent. It takes a curve that is better than chance to chance, not beyond.

    Returns:
        float64 [E' + 1], 0 at 0, 1 at E', never falling.
    """
    known, exponents = _exponents(curve)
    wanted = np.arange(1, target.experts, dtype=np.float64)
    sparser = (target.experts / target.top_k) / (source.experts / source.top_k)
    carried = np.interp(matching_size(wanted, source, target, rule), known, exponents)
    carried *= sparser ** SPARSITY_SHARE[rule]
    scaled = np.maximum(carried * locality, np.minimum(carried, 1.0))
    misses = (1 - wanted / target.experts) ** scaled
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
    """Return a policy's hit rate while decoding at 0 .. E experts per layer, first uses left out.

    A first use misses in a cache of any size. In a short trace there are many of them, in a long run hardly any, so the
    curve is divided by its last point, that of a cache for all experts. Policies that have to be run at every
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
    curve = hit_rate_curve(trace, policy)
    rates = curve.hit_rate if curve.decode_hit_rate is None else curve.decode_hit_rate
    found = np.interp(experts, np.append(0.0, curve.capacities), np.append(0.0, rates))
    return np.maximum.accumulate(found / found[-1])


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
