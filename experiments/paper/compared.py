"""Two traces measure by measure: the difference with its interval, and how much of the routing itself is the same.

On the same texts both sides see the same draws of requests; otherwise they are taken as independent, and half widths
add as squares (as `intervals.difference` does for SRP alone).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrcsim.experiments.paper.intervals import Interval, same_texts
from lrcsim.experiments.paper.measure import AT, POOLED, MeasuredTrace, PaperOptions
from lrcsim.simulator.metrics.bootstrap import basic_interval

Floats = npt.NDArray[np.float64]

SIZE = 2.0
"""Relative size of the caches that are compared."""
TOKENS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Value:
    """A measure of one trace: its value, and what the draws of requests gave; float64 [draws], or None."""

    value: float
    draws: Floats | None = None


def values_of(one: MeasuredTrace, options: PaperOptions) -> dict[str, Value]:
    """Return what two traces are compared by, in the order of tables, as far as it was measured.

    SRP at every segment length; SCH (look-ahead) and LRU with a cache of 2x in one pool, by the paper's rule; the
    spread of use over experts; specialisation.
    """
    found = {f"SRP, m = {m}": Value(result.value, result.draws) for m, result in one.srp.items()}
    for name, key in ((f"SCH, m = {AT}, 2x", POOLED), ("LRU, 2x", ("lru", "model"))):
        if (curve := one.curves.get(key)) is not None:
            size = np.array([SIZE])
            drawn = curve.drawn(size, options.draws, options.seed)[:, 0]
            found[name] = Value(float(curve.rate(size)[0]), drawn if len(drawn) else None)
    if one.experts is not None:
        found["load imbalance"] = Value(one.experts.load_imbalance)
        for name in one.experts.present():
            mean = one.experts.mean(name)
            if name != "activation" and mean is not None:
                found[f"{name.replace('_', ' ')} specialisation"] = Value(mean)
    return found


def less(one: Value, base: Value, *, paired: bool) -> tuple[float, Interval | None]:
    """Return one value less another, with its basic 95 % interval where both have draws."""
    value = one.value - base.value
    if one.draws is None or base.draws is None:
        return value, None
    if paired and len(one.draws) == len(base.draws):
        return value, basic_interval(value, one.draws - base.draws, 0.95)
    ends = [basic_interval(side.value, side.draws, 0.95) for side in (one, base) if side.draws is not None]
    half = math.hypot(*(high - low for low, high in ends)) / 2
    return value, (value - half, value + half)


def differences(
    one: MeasuredTrace, base: MeasuredTrace, options: PaperOptions
) -> Iterator[tuple[str, Value, Value, float, Interval | None]]:
    """Yield name, both values, and the difference with its interval, of all that both traces have."""
    mine, theirs = values_of(one, options), values_of(base, options)
    paired = same_texts(one.source, base.source)
    for name in mine:
        if name in theirs:
            yield name, mine[name], theirs[name], *less(mine[name], theirs[name], paired=paired)


def by_domain(one: MeasuredTrace, base: MeasuredTrace) -> dict[str, float]:
    """Return SRP at m = 16 less that of another trace in every domain that both have."""
    sides = []
    for trace in (one, base):
        groups = None if trace.domains is None else trace.domains.groups
        sides.append({} if groups is None else dict(zip(trace.domains.domains or (), groups.value, strict=True)))  # type: ignore[union-attr]
    return {name: float(value - sides[1][name]) for name, value in sides[0].items() if name in sides[1]}


@dataclass(frozen=True)
class Kept:
    """How much of its routing a model keeps against another on the same tokens, over all tokens and layers.

    Attributes:
        sets: share of tokens and layers that are routed to the same experts, in whatever order.
        experts: share of the experts that the other one uses, too.
        first: share with the same first choice.
    """

    sets: float
    experts: float
    first: float


def routing_kept(one: MeasuredTrace, base: MeasuredTrace) -> Kept | None:
    """Compare the routing of two traces token by token; None where they are not of the same texts and shape.

    Tokens and layers at which either lacks an expert are left out.
    """
    a, b = one.source.trace, base.source.trace
    if not same_texts(one.source, base.source) or a.experts.shape != b.experts.shape or a.num_experts != b.num_experts:
        return None
    k, sets, experts, first, rows = a.top_k, 0, 0, 0, 0
    for low in range(0, a.num_tokens, TOKENS_AT_ONCE):
        high = min(low + TOKENS_AT_ONCE, a.num_tokens)
        mine, other = (trace.read("experts", low, high).reshape(-1, k) for trace in (a, b))
        whole = (mine >= 0).all(axis=1) & (other >= 0).all(axis=1)
        mine, other = mine[whole], other[whole]
        common = (mine[:, :, None] == other[:, None, :]).any(axis=2).sum(axis=1)
        sets, experts, rows = sets + int((common == k).sum()), experts + int(common.sum()), rows + len(mine)
        first += int((mine[:, 0] == other[:, 0]).sum())
    return Kept(sets / rows, experts / (rows * k), first / rows) if rows else None
