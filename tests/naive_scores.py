"""Policies that evict the resident of smallest score, each a function of the log of what has happened; see `naive`.

Scores are exact (fractions, or decimals of 60 digits rounded to 40), so ties are true ties; they go to the least recent
(but see `belady`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Context, Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

from naive_traces import Params

NEVER = float("inf")
PRECISE, ROUNDED = Context(prec=60), Context(prec=40)


# What has happened, and what will


@dataclass
class Use:
    """An expert was used."""

    key: int
    layer: int
    step: int
    request: int
    run: int  # number of the layer-step
    time: int  # number of the access
    weight: Fraction
    high: bool
    loaded: bool  # it was not resident


@dataclass
class Eviction:
    """An expert left the pool."""

    key: int


@dataclass
class World:
    """All accesses of the trace, past and future, and where we are. ``log`` is one pool's past since it was emptied."""

    stride: int
    num_layers: int
    unit: str  # what next uses are counted in: "run" (layer-steps) or "time" (accesses)
    warm: bool
    accesses: list[Use]
    first_step: dict[int, int]  # of each request
    params: Params
    log: list[Use | Eviction] = field(default_factory=list)
    now: Use | None = None  # the access being served; of a co-resident batch, its last

    def uses(self, key: int) -> list[Use]:
        return [event for event in self.log if isinstance(event, Use) and event.key == key]

    def all_uses(self) -> list[Use]:
        return [event for event in self.log if isinstance(event, Use)]

    def last_use(self, key: int) -> int:
        """Return where in the log the last use of an expert stands."""
        return max(at for at, event in enumerate(self.log) if isinstance(event, Use) and event.key == key)

    def loaded_at(self, key: int) -> int:
        """Return where in the log the last loading of an expert stands."""
        return max(at for at, e in enumerate(self.log) if isinstance(e, Use) and e.key == key and e.loaded)

    def uses_since_loaded(self, key: int) -> int:
        return sum(isinstance(e, Use) and e.key == key for e in self.log[self.loaded_at(key) :])

    def here(self) -> Use:
        assert self.now is not None
        return self.now

    def in_sight(self) -> list[Use]:
        """Return the accesses still to come; those of later requests only when the cache stays warm."""
        return [u for u in self.accesses[self.here().time + 1 :] if self.warm or u.request == self.here().request]

    def next_use(self, key: int) -> float:
        return next((getattr(use, self.unit) for use in self.in_sight() if use.key == key), NEVER)


# Scores


def root(base: str, numerator: int, denominator: float) -> Decimal:
    """Return base ** (numerator / denominator), precise enough for the rounded result to be exact where it can be."""
    exponent = PRECISE.divide(Decimal(numerator), Decimal(denominator))
    return PRECISE.power(Decimal(base), exponent)


def rounded(value: Decimal) -> Decimal:
    return ROUNDED.plus(value)


def lru(world: World, key: int) -> Any:
    return world.last_use(key)


def mru(world: World, key: int) -> Any:
    return -world.last_use(key)


def fifo(world: World, key: int) -> Any:
    return world.loaded_at(key)


def lfu(world: World, key: int) -> Any:
    return len(world.uses(key))


def lfu_resident(world: World, key: int) -> Any:
    return world.uses_since_loaded(key)


def lfu_decay(world: World, key: int) -> Any:
    total = Decimal(0)
    for use in world.uses(key):
        total = PRECISE.add(total, root("0.5", world.here().step - use.step, world.params["half_life"]))
    return rounded(total)


def lrfu(world: World, key: int) -> Any:
    total = Decimal(0)
    for age, use in enumerate(reversed(world.all_uses())):
        if use.key == key:
            rate = Decimal(str(world.params["lambda"]))
            total = PRECISE.add(total, PRECISE.power(Decimal("0.5"), PRECISE.multiply(rate, Decimal(age))))
    return rounded(total)


def lru_2(world: World, key: int) -> Any:
    times = [at for at, event in enumerate(world.log) if isinstance(event, Use) and event.key == key]
    return times[-2] if len(times) > 1 else -1


def lfu_aging(world: World, key: int) -> Any:
    interval, count = int(world.params["interval"]), Fraction(0)
    for number, use in enumerate(world.all_uses(), start=1):
        if use.key == key:
            count += 1
        if number % interval == 0:
            count *= Fraction(world.params["decay"])
    return count


def lfuda(world: World, key: int) -> Any:
    floor = 0
    count: dict[int, int] = {}
    rank: dict[int, int] = {}
    for event in world.log:
        if isinstance(event, Use):
            count[event.key] = count.get(event.key, 0) + 1
            rank[event.key] = floor + min(count[event.key], int(world.params["cap"]))
        else:
            floor = rank[event.key]
            count[event.key] //= 2
    return rank[key]


def lfru(world: World, key: int) -> Any:
    return Fraction(world.uses_since_loaded(key), world.here().step - world.uses(key)[-1].step + 1)


def lcp(world: World, key: int) -> Any:
    uses = world.uses(key)
    return rounded(PRECISE.multiply(len(uses), root("0.25", world.here().step - uses[-1].step, world.params["window"])))


def mrs(world: World, key: int) -> Any:
    alpha, score = Fraction(world.params["alpha"]), Fraction(0)
    runs = sorted({use.run for use in world.all_uses() if use.layer == key // world.stride})
    for run in runs:
        weight = sum((use.weight for use in world.uses(key) if use.run == run), Fraction(0))
        score = alpha * weight + (1 - alpha) * score
    return score


def score_ema(world: World, key: int) -> Any:
    alpha, uses = Fraction(world.params["alpha"]), world.uses(key)
    average = Fraction(0)
    for use in uses:
        average = alpha * use.weight + (1 - alpha) * average
    return average


def least_stale_fifo(world: World, key: int) -> Any:
    fresh = any(use.step == world.here().step for use in world.uses(key))
    return fresh, world.loaded_at(key)


def least_stale_gap(world: World, key: int) -> Any:
    uses, mean_gap = world.uses(key), Fraction(0)
    for before, after in pairwise(uses):
        mean_gap = mean_gap / 2 + Fraction(after.step - before.step, 2)
    overdue = world.here().step - uses[-1].step - mean_gap
    return -overdue


def least_stale_layer(world: World, key: int) -> Any:
    layer = key // world.stride
    return (0, layer) if layer < world.here().layer else (1, 0)


def hobbit(world: World, key: int) -> Any:
    now, layers = world.here(), world.num_layers
    first = world.first_step[now.request]
    uses = [use for use in world.uses(key) if use.request == now.request]
    steps = now.step - first + 1
    recency = Fraction(uses[-1].step - first + 1 if uses else 0, steps)
    frequency = Fraction(len(uses), steps)
    high = Fraction(sum(use.high for use in uses), steps)
    nearness = 1 - Fraction((now.layer - key // world.stride + layers) % layers, layers)
    w1, w2, w3, w4 = (Fraction(world.params[name]) for name in ("w1", "w2", "w3", "w4"))
    return w1 * recency + w2 * frequency + w3 * high + w4 * nearness


def moe_infinity(world: World, key: int) -> Any:
    now, layer, small = world.here(), key // world.stride, Fraction(1, 10**6)
    visits = world.all_uses()
    freq = Fraction(len(world.uses(key)), len(visits)) + small
    row = [use for use in visits if use.request == now.request and use.layer == layer]
    request = (Fraction(sum(use.key == key for use in row), len(row)) if row else Fraction(0)) + small
    topo = Fraction(1) if layer <= now.layer else 1 - Fraction(layer - now.layer, world.num_layers)
    return topo * request * freq


def dali(world: World, key: int) -> Any:
    window = world.all_uses()[-int(world.params["window"]) :]
    return sum(use.key == key for use in window) >= world.params["heavy"]


def heat(world: World, key: int) -> Any:
    return world.uses_since_loaded(key) > world.params["cold"]


def belady(world: World, key: int) -> Any:
    return -world.next_use(key), -key


def sch_lookahead(world: World, key: int) -> Any:
    end = world.here().step + int(world.params["m"])
    return sum(use.key == key and use.step < end for use in world.in_sight())


SCORE: dict[str, Callable[[World, int], Any]] = {
    "lru": lru,
    "mru": mru,
    "fifo": fifo,
    "lfu": lfu,
    "lfu-resident": lfu_resident,
    "lfu-decay": lfu_decay,
    "lrfu": lrfu,
    "lru-2": lru_2,
    "lfu-aging": lfu_aging,
    "lfuda": lfuda,
    "lfru": lfru,
    "lcp": lcp,
    "mrs": mrs,
    "score-ema": score_ema,
    "least-stale-fifo": least_stale_fifo,
    "least-stale-gap": least_stale_gap,
    "least-stale-layer": least_stale_layer,
    "hobbit": hobbit,
    "moe-infinity": moe_infinity,
    "dali": dali,
    "heat": heat,
    "belady": belady,
    "belady-bypass": belady,
    "sch-lookahead": sch_lookahead,
}
