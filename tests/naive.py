"""Definition-level twins of the schedule, the rules of access and every built-in policy: plain lists, slow, readable.

Nothing here is shared with lrcsim, so that an error would have to be made twice to stay unseen. Wherever a policy can
be stated as "evict the resident of smallest score, judged by everything that has happened so far", its twin is just
that: a function of the whole log of uses and evictions (`SCORE`). The queue algorithms are written with plain lists,
oldest entry first. Scores are exact (fractions, or decimals of 60 digits rounded to 40), so ties are true ties.

The words are those of the design: a step is a forward pass, a layer-step one layer of it, a batch the distinct experts
of a layer-step, in the order of their last use. A key is ``layer * E + expert``, E being that of the largest layer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal
from fractions import Fraction
from itertools import pairwise
from typing import Any

NEVER = float("inf")
PRECISE, ROUNDED = Context(prec=60), Context(prec=40)

Params = dict[str, float]


# ---------------------------------------------------------------------------------------------------------------------
# Traces and schedules
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Trace:
    """A routing trace as nested lists."""

    experts: list[list[list[int]]]  # [token][layer][rank], -1 where nothing was recorded
    num_experts: list[int]  # of each layer
    top_k: list[int]  # of each layer
    offsets: list[int]  # request r is tokens offsets[r] .. offsets[r + 1] - 1
    phase: list[int] | None = None  # of each token: 0 prefill, 1 decode
    weights: list[list[list[float]]] | None = None  # like experts
    expert_bytes: list[int] | None = None  # of each layer
    each_bytes: list[list[int]] | None = None  # of each expert of each layer, in place of expert_bytes

    @property
    def num_layers(self) -> int:
        return len(self.num_experts)

    @property
    def stride(self) -> int:
        return max(self.num_experts)


@dataclass
class LayerStep:
    """One layer of one step."""

    layer: int
    batch: list[int]
    weights: list[Fraction]  # mean router weight of each expert of the batch over the tokens of the step
    high: list[bool]  # is the use one that HOBBIT would serve in high precision?


@dataclass
class Step:
    """One forward pass over ``tokens``."""

    number: int
    request: int
    phase: int
    tokens: list[int]
    layers: list[LayerStep] = field(default_factory=list)


def steps_of(trace: Trace, prefill: str) -> list[tuple[int, int, list[int]]]:
    """Cut the tokens into forward passes: (request, phase, tokens)."""
    steps: list[tuple[int, int, list[int]]] = []
    for request in range(len(trace.offsets) - 1):
        prompt: list[int] = []  # the prefill tokens that the next step will take together
        for token in range(trace.offsets[request], trace.offsets[request + 1]):
            if trace.phase is None or trace.phase[token] == 1:
                if prompt:
                    steps.append((request, 0, prompt))
                    prompt = []
                steps.append((request, 1, [token]))
                continue
            prompt.append(token)
            if prefill == "token" or (prefill.startswith("chunk:") and len(prompt) == int(prefill[6:])):
                steps.append((request, 0, prompt))
                prompt = []
        if prompt:
            steps.append((request, 0, prompt))
    return steps


def schedule(trace: Trace, prefill: str, given: list[tuple[int, int, list[int]]] | None = None) -> list[Step]:
    """Return the steps of a trace, or the given ones, with the batch of every layer that recorded anything."""
    result = []
    for number, (request, phase, tokens) in enumerate(steps_of(trace, prefill) if given is None else given):
        step = Step(number, request, phase, tokens)
        for layer in range(trace.num_layers):
            uses: list[int] = []
            weight_of: dict[int, Fraction] = {}
            for token in tokens:
                for rank, expert in enumerate(trace.experts[token][layer]):
                    if expert == -1:
                        continue
                    key = layer * trace.stride + expert
                    if key in uses:
                        uses.remove(key)
                    uses.append(key)  # so that the oldest last use comes first
                    weight = Fraction(0) if trace.weights is None else Fraction(trace.weights[token][layer][rank])
                    weight_of[key] = weight_of.get(key, Fraction(0)) + weight
            if uses:
                weights = [weight_of[key] / len(tokens) for key in uses]
                high = high_precision(weights) if trace.weights is not None else [False] * len(uses)
                step.layers.append(LayerStep(layer, uses, weights, high))
        result.append(step)
    return result


def high_precision(weights: list[Fraction]) -> list[bool]:
    """Say of each expert whether those of larger weight hold at most 0.6 of the weight of the layer-step."""
    return [sum(w for w in weights if w > mine) <= Fraction(3, 5) * sum(weights) for mine in weights]


# ---------------------------------------------------------------------------------------------------------------------
# Capacities
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class PoolSize:
    """What one pool may hold: so many of the units that ``size`` gives for an expert of each layer.

    ``each``: by key, where experts of a layer differ.
    """

    layers: list[int]
    capacity: int
    size: dict[int, int]
    each: dict[int, int] | None = None


def slots(text: str, active: int, experts: int) -> int:
    """Read "1.5x", "25%" or "3" as a number of experts, rounded down."""
    if text.endswith("x"):
        return int(Fraction(text[:-1]) * active)
    if text.endswith("%"):
        return int(Fraction(text[:-1]) / 100 * experts)
    return int(text)


def part(share: float, capacity: int) -> int:
    """Return a share, as written in decimal, of a capacity, rounded down."""
    return int(Fraction(str(share)) * capacity)


def pool_sizes(trace: Trace, cache: str, scope: str) -> list[PoolSize]:
    """Turn a cache size into pools; bytes are written as "123B", one entry per layer as "1,2x,50%"."""
    every = list(range(trace.num_layers))
    if trace.each_bytes is not None and cache.endswith("B"):
        pools = [every] if scope == "model" else [[layer] for layer in every]
        texts = cache.split(",") if "," in cache else [f"{int(cache[:-1]) // len(pools)}B"] * len(pools)
        return [
            PoolSize(
                layers,
                int(text[:-1]),
                {},
                {
                    layer * trace.stride + expert: size
                    for layer in layers
                    for expert, size in enumerate(trace.each_bytes[layer])
                },
            )
            for layers, text in zip(pools, texts, strict=True)
        ]
    if scope == "layer":
        texts = cache.split(",") if "," in cache else [cache] * len(every)
        pools = []
        for layer, text in enumerate(texts):
            if text.endswith("B"):
                assert trace.expert_bytes is not None
                budget = int(text[:-1]) if "," in cache else int(text[:-1]) // len(every)
                capacity = budget // trace.expert_bytes[layer]
            else:
                capacity = slots(text, trace.top_k[layer], trace.num_experts[layer])
            pools.append(PoolSize([layer], capacity, {layer: 1}))
        return pools
    if cache.endswith("B"):
        assert trace.expert_bytes is not None
        sizes = trace.expert_bytes
        if len(set(sizes)) == 1:
            return [PoolSize(every, int(cache[:-1]) // sizes[0], dict.fromkeys(every, 1))]
        return [PoolSize(every, int(cache[:-1]), dict(enumerate(sizes)))]
    return [PoolSize(every, slots(cache, sum(trace.top_k), sum(trace.num_experts)), dict.fromkeys(every, 1))]


# ---------------------------------------------------------------------------------------------------------------------
# What has happened, and what will
# ---------------------------------------------------------------------------------------------------------------------


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


# ---------------------------------------------------------------------------------------------------------------------
# Policies that evict the resident of smallest score; ties go to the least recent (but see `belady`)
# ---------------------------------------------------------------------------------------------------------------------


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


# ---------------------------------------------------------------------------------------------------------------------
# Queue algorithms: "evict, then insert". Lists are oldest first.
# ---------------------------------------------------------------------------------------------------------------------


class Queues:
    """A queue algorithm. ``choose`` names the victim and takes it out of its queue."""

    def __init__(self, capacity: int, params: Params) -> None:
        self.capacity = capacity

    def begin(self) -> None:
        """Begin with a batch (or, one by one, with an access)."""

    def hit(self, key: int) -> None:
        """Use a resident."""

    def miss(self, key: int) -> None:
        """Ask for an expert that is not resident."""

    def insert(self, key: int) -> None:
        """Let an expert in."""
        raise NotImplementedError

    def choose(self, protected: Sequence[int]) -> int:
        """Put one out."""
        raise NotImplementedError


class Clock(Queues):
    def __init__(self, capacity: int, params: Params) -> None:
        super().__init__(capacity, params)
        self.queue: list[int] = []
        self.used: list[int] = []

    def hit(self, key: int) -> None:
        if key not in self.used:
            self.used.append(key)

    def insert(self, key: int) -> None:
        self.queue.append(key)

    def choose(self, protected: Sequence[int]) -> int:
        while True:
            key = self.queue.pop(0)
            if key in protected:
                self.queue.append(key)
            elif key in self.used:
                self.used.remove(key)
                self.queue.append(key)
            else:
                return key


class Sieve(Queues):
    def __init__(self, capacity: int, params: Params) -> None:
        super().__init__(capacity, params)
        self.queue: list[int] = []
        self.used: list[int] = []
        self.hand = 0

    def hit(self, key: int) -> None:
        if key not in self.used:
            self.used.append(key)

    def insert(self, key: int) -> None:
        self.queue.append(key)

    def choose(self, protected: Sequence[int]) -> int:
        while True:
            if self.hand >= len(self.queue):
                self.hand = 0
            key = self.queue[self.hand]
            if key not in protected and key not in self.used:
                self.queue.remove(key)
                if self.hand == len(self.queue):  # it was the newest: the next sweep begins with the oldest
                    self.hand = 0
                return key  # else the hand stands at the next newer one
            if key not in protected:
                self.used.remove(key)
            self.hand += 1


class Slru(Queues):
    def __init__(self, capacity: int, params: Params) -> None:
        super().__init__(capacity, params)
        self.probation: list[int] = []
        self.kept: list[int] = []
        self.room = part(params["share"], capacity)

    def hit(self, key: int) -> None:
        (self.kept if key in self.kept else self.probation).remove(key)
        self.kept.append(key)
        while len(self.kept) > self.room:
            self.probation.append(self.kept.pop(0))

    def insert(self, key: int) -> None:
        self.probation.append(key)

    def choose(self, protected: Sequence[int]) -> int:
        for queue in (self.probation, self.kept):
            for key in queue:
                if key not in protected:
                    queue.remove(key)
                    return key
        raise AssertionError("nothing to evict")


class S3Fifo(Queues):
    def __init__(self, capacity: int, params: Params) -> None:
        super().__init__(capacity, params)
        self.small: list[int] = []
        self.main: list[int] = []
        self.ghost: list[int] = []
        self.small_room = max(1, part(params["share"], capacity))
        self.main_room = capacity - self.small_room
        self.ghost_room = part(0.9, capacity)
        self.threshold = params["threshold"]
        self.hits: dict[int, int] = {}
        self.remembered: list[int] = []
        self.filling = True

    def begin(self) -> None:
        self.remembered = []

    def hit(self, key: int) -> None:
        self.hits[key] += 1

    def miss(self, key: int) -> None:
        if key in self.ghost:
            self.ghost.remove(key)
            self.remembered.append(key)

    def insert(self, key: int) -> None:
        self.hits[key] = 0
        no_room = self.filling and len(self.small) >= self.small_room
        (self.main if key in self.remembered or no_room else self.small).append(key)

    def choose(self, protected: Sequence[int]) -> int:
        self.filling = False
        while True:
            main = [key for key in self.main if key not in protected]
            small = [key for key in self.small if key not in protected]
            if small and (len(self.main) <= self.main_room or not main):
                for key in small:
                    self.small.remove(key)
                    if self.hits[key] < self.threshold:
                        if self.ghost_room:
                            self.ghost = [*self.ghost, key][-self.ghost_room :]
                        return key
                    self.main.append(key)
                    self.hits[key] = 0
            else:
                key = main[0]
                self.main.remove(key)
                if self.hits[key] == 0:
                    return key
                self.main.append(key)
                self.hits[key] = min(self.hits[key], 3) - 1


class Arc(Queues):
    def __init__(self, capacity: int, params: Params) -> None:
        super().__init__(capacity, params)
        self.t1: list[int] = []
        self.t2: list[int] = []
        self.b1: list[int] = []
        self.b2: list[int] = []
        self.target = Fraction(0)
        self.causes: list[str] = []  # where each miss of the batch was found: "b1", "b2" or ""
        self.again: list[int] = []  # those of them that were in a ghost list

    def begin(self) -> None:
        self.causes, self.again = [], []

    def hit(self, key: int) -> None:
        (self.t1 if key in self.t1 else self.t2).remove(key)
        self.t2.append(key)

    def miss(self, key: int) -> None:
        one, two = len(self.b1), len(self.b2)
        if key in self.b1:
            self.target = min(Fraction(self.capacity), self.target + max(Fraction(1), Fraction(two, one)))
            self.b1.remove(key)
            self.causes.append("b1")
            self.again.append(key)
        elif key in self.b2:
            self.target = max(Fraction(0), self.target - max(Fraction(1), Fraction(one, two)))
            self.b2.remove(key)
            self.causes.append("b2")
            self.again.append(key)
        else:
            self.causes.append("")

    def insert(self, key: int) -> None:
        (self.t2 if key in self.again else self.t1).append(key)

    def choose(self, protected: Sequence[int]) -> int:
        cause = self.causes.pop(0) if self.causes else ""
        ghosts = True
        if cause == "":
            if len(self.t1) + len(self.b1) >= self.capacity:
                if self.b1:
                    self.b1.pop(0)
                else:
                    ghosts = all(key in protected for key in self.t1)
            elif len(self.t1) + len(self.t2) + len(self.b1) + len(self.b2) >= 2 * self.capacity and self.b2:
                self.b2.pop(0)
        one = [key for key in self.t1 if key not in protected]
        two = [key for key in self.t2 if key not in protected]
        size = len(self.t1)
        from_one = not ghosts or size > self.target or (cause == "b2" and size == self.target)
        if one and (from_one or not two):
            self.t1.remove(one[0])
            if ghosts:
                self.b1 = [*self.b1, one[0]][-self.capacity :]
            return one[0]
        self.t2.remove(two[0])
        self.b2 = [*self.b2, two[0]][-self.capacity :]
        return two[0]


class TwoQ(Queues):
    def __init__(self, capacity: int, params: Params) -> None:
        super().__init__(capacity, params)
        self.kin, self.kout = (max(1, part(params[name], capacity)) for name in ("share", "ghost"))
        self.a1in: list[int] = []
        self.a1out: list[int] = []
        self.am: list[int] = []
        self.again: list[int] = []  # those of the batch that were in A1out

    def begin(self) -> None:
        self.again = []

    def hit(self, key: int) -> None:
        if key in self.am:
            self.am.remove(key)
            self.am.append(key)

    def miss(self, key: int) -> None:
        if key in self.a1out:
            self.a1out.remove(key)
            self.again.append(key)

    def insert(self, key: int) -> None:
        (self.am if key in self.again else self.a1in).append(key)

    def choose(self, protected: Sequence[int]) -> int:
        once = [key for key in self.a1in if key not in protected]
        more = [key for key in self.am if key not in protected]
        if once and (len(self.a1in) > self.kin or not more):
            self.a1in.remove(once[0])
            self.a1out = [*self.a1out, once[0]][-self.kout :]
            return once[0]
        self.am.remove(more[0])
        return more[0]


class Lirs(Queues):
    """The stack is one list of (expert, status), bottom first; "hir" are resident, "out" are not."""

    def __init__(self, capacity: int, params: Params) -> None:
        super().__init__(capacity, params)
        self.most_lir = capacity - max(1, part(params["share"], capacity))
        self.stack: list[tuple[int, str]] = []
        self.queue: list[int] = []
        self.evicted: list[int] = []
        self.again: list[int] = []
        self.evicted_yet = False

    def begin(self) -> None:
        self.again = []

    def lirs(self) -> list[int]:
        return [key for key, status in self.stack if status == "lir"]

    def on_top(self, key: int, status: str) -> None:
        """Put an expert on top of the stack, whatever it was, with a status."""
        self.stack = [(other, its) for other, its in self.stack if other != key] + [(key, status)]
        if status == "lir":
            self.queue = [other for other in self.queue if other != key]
            if len(self.lirs()) > self.most_lir:
                bottom = self.lirs()[0]
                self.stack = [(other, "hir" if other == bottom else its) for other, its in self.stack]
                self.queue.append(bottom)
        self.prune()

    def prune(self) -> None:
        while self.stack and self.stack[0][1] != "lir":
            self.stack.pop(0)
        there = [key for key, _ in self.stack]
        self.evicted = [key for key in self.evicted if key in there]

    def hit(self, key: int) -> None:
        if (key, "lir") in self.stack or (key, "hir") in self.stack:
            self.on_top(key, "lir")
        else:
            self.queue.remove(key)
            self.queue.append(key)
            self.on_top(key, "hir")

    def miss(self, key: int) -> None:
        if (key, "out") in self.stack:
            self.stack.remove((key, "out"))
            self.evicted.remove(key)
            self.again.append(key)

    def insert(self, key: int) -> None:
        if key in self.again or (not self.evicted_yet and len(self.lirs()) < self.most_lir):
            self.on_top(key, "lir")
        else:
            self.queue.append(key)
            self.on_top(key, "hir")

    def choose(self, protected: Sequence[int]) -> int:
        self.evicted_yet = True
        key = next(key for key in [*self.queue, *self.lirs()] if key not in protected)
        self.queue = [other for other in self.queue if other != key]
        self.stack = [(other, "out" if other == key else status) for other, status in self.stack]
        self.evicted.append(key)
        self.prune()
        if len(self.evicted) > self.capacity:
            self.stack.remove((self.evicted.pop(0), "out"))
        return key


class WTinyLfu(Queues):
    def __init__(self, capacity: int, params: Params) -> None:
        super().__init__(capacity, params)
        self.window_room = max(1, part(params["window"], capacity))
        self.main_room = capacity - self.window_room
        self.kept_room = part(params["share"], self.main_room)
        self.window: list[int] = []
        self.probation: list[int] = []
        self.kept: list[int] = []
        self.sample = int(params["sample"]) * capacity
        self.count: dict[int, int] = {}
        self.counted = 0

    def use(self, key: int) -> None:
        self.count[key] = min(15, self.count.get(key, 0) + 1)
        self.counted += 1
        if self.counted >= self.sample:
            self.counted //= 2
            self.count = {other: uses // 2 for other, uses in self.count.items()}

    def hit(self, key: int) -> None:
        self.use(key)
        if key in self.window:
            self.window.remove(key)
            self.window.append(key)
            return
        (self.kept if key in self.kept else self.probation).remove(key)
        self.kept.append(key)
        while len(self.kept) > self.kept_room:
            self.probation.append(self.kept.pop(0))

    def miss(self, key: int) -> None:
        self.use(key)

    def insert(self, key: int) -> None:
        self.window.append(key)
        while len(self.window) > self.window_room and len(self.probation + self.kept) < self.main_room:
            self.probation.append(self.window.pop(0))

    def choose(self, protected: Sequence[int]) -> int:
        new = [key for key in self.window if key not in protected]
        main = [key for key in self.probation + self.kept if key not in protected]
        if new and (not main or self.count[new[0]] <= self.count[main[0]]):
            self.window.remove(new[0])
            return new[0]
        (self.kept if main[0] in self.kept else self.probation).remove(main[0])
        if new:
            self.window.remove(new[0])
            self.probation.append(new[0])
        return main[0]


class Random(Queues):
    """Draw by L'Ecuyer's combined generator, again where the draw is protected; the last resident fills the gap."""

    def __init__(self, capacity: int, params: Params) -> None:
        super().__init__(capacity, params)
        self.residents: list[int] = []
        self.one = self.two = 0  # seeds, which outlive an emptied pool

    def begin_draws(self, seed: int, layer: int) -> None:
        start = random.Random(f"{seed}/{layer}")
        self.one, self.two = start.randrange(1, 2147483563), start.randrange(1, 2147483399)

    def insert(self, key: int) -> None:
        self.residents.append(key)

    def choose(self, protected: Sequence[int]) -> int:
        while True:
            self.one = 40014 * self.one % 2147483563
            self.two = 40692 * self.two % 2147483399
            share = Fraction((self.one - self.two) % 2147483562, 2147483562)
            place = int(share * len(self.residents))
            key = self.residents[place]
            if key not in protected:
                self.residents[place] = self.residents[-1]
                self.residents.pop()
                return key


QUEUES: dict[str, type[Queues]] = {
    "clock": Clock,
    "sieve": Sieve,
    "slru": Slru,
    "s3-fifo": S3Fifo,
    "arc": Arc,
    "2q": TwoQ,
    "lirs": Lirs,
    "w-tinylfu": WTinyLfu,
    "random": Random,
}


# ---------------------------------------------------------------------------------------------------------------------
# Policies that fill the pool of their own accord
# ---------------------------------------------------------------------------------------------------------------------


LOADED_AHEAD = ("static", "pinned-lru", "sch-static", "repin")
"""Those whose law is in `Pool.begin_step` and `Pool.victim`."""


def that_fit(ranked: Iterable[int], room: int, cost: Callable[[int], int]) -> list[int]:
    """Take experts in this order, passing over those for which there is no room left."""
    taken: list[int] = []
    for key in ranked:
        if sum(map(cost, taken)) + cost(key) <= room:
            taken.append(key)
    return taken


def most_used(uses: Iterable[int]) -> list[int]:
    """Rank the experts of a list of uses: most used first, ties to the smaller key."""
    uses = list(uses)
    return sorted(set(uses), key=lambda key: (-uses.count(key), key))


# ---------------------------------------------------------------------------------------------------------------------
# Pools and the rules of access
# ---------------------------------------------------------------------------------------------------------------------


ADMISSION = ("admit2",)
"""Before another policy, ``lru`` if none is named; the law is in `Pool.not_admitted`."""


class Pool:
    """The residents of one pool, with the counts of what went in and out.

    ``admission``: second-touch admission before the policy, with the uses that it looks back on (0: all); None: none.
    """

    def __init__(
        self,
        size: PoolSize,
        policy: str,
        params: Params,
        world: World,
        popular: list[int],
        admission: int | None = None,
    ) -> None:
        if policy == "admit2":
            policy, admission = "lru", int(params["window"])
        self.admission = admission
        self.size, self.policy, self.params, self.world = size, policy, params, world
        self.popular = [key for key in popular if key // world.stride in size.layers]
        self.any_victim = policy in ("belady-bypass", *LOADED_AHEAD)  # also one of the batch
        self.bypass = self.any_victim or admission is not None
        self.evictions = self.bypassed = 0
        self.preloaded: list[int] = []
        self.empty()

    def cost(self, key: int) -> int:
        return self.size.size[key // self.world.stride] if self.size.each is None else self.size.each[key]

    def empty(self) -> None:
        self.resident: list[int] = []
        self.world.log = []
        self.touched: list[int] = []  # all uses since the pool was emptied, those that were not admitted too
        self.seen: list[int] = []  # distinct experts used since the pool was emptied
        self.pinned: list[int] = []
        self.window_end = 0  # first step after the current window
        self.fresh = True  # emptied, and nothing loaded since
        self.passes: list[list[int]] = []  # uses before each pass of repin, since the one before
        self.part = 0  # which n steps the last step was in
        if self.policy in QUEUES:
            before: Queues | None = getattr(self, "queues", None)
            self.queues = QUEUES[self.policy](self.size.capacity, self.params)
            if isinstance(self.queues, Random):
                self.queues.begin_draws(int(self.params["seed"]), self.size.layers[0])
                if isinstance(before, Random):
                    self.queues.one, self.queues.two = before.one, before.two

    def begin_step(self, step: int, steps: list[Step]) -> None:
        """Let policies that load of their own accord do so."""
        wanted: list[int] | None = None
        if self.policy == "sch-static":
            request = steps[step].request
            if step >= self.window_end or steps[self.window_end - 1].request != request:
                window = [s for s in steps[step : step + int(self.params["m"])] if s.request == request]
                self.window_end = window[-1].number + 1
                uses = [k for s in window for run in s.layers if run.layer in self.size.layers for k in run.batch]
                wanted = that_fit(most_used(uses), self.size.capacity, self.cost)
        elif self.fresh and self.policy == "static":
            wanted = that_fit(self.popular, self.size.capacity, self.cost)
        elif self.fresh and self.policy == "pinned-lru":
            room = part(self.params["share"], self.size.capacity)
            wanted = self.pinned = that_fit(self.popular, room, self.cost)
        elif self.policy == "repin":
            part_before, self.part = self.part, step // int(self.params["n"])
            used = [use.key for use in self.world.log if isinstance(use, Use)]
            new = used[sum(map(len, self.passes)) :]
            if new and self.part != part_before:
                self.passes.append(new)
                wanted = self.pinned_anew()
        self.fresh = False
        if wanted is not None:
            self.preloaded += [key for key in wanted if key not in self.resident]
            self.resident = list(wanted)
            self.pinned = list(wanted)

    def heat(self, key: int) -> int:
        """Say how hot an expert is at the last pass of repin: that at the one before, halved, and its uses since."""
        heat = 0
        for uses in self.passes:
            heat = heat // 2 + uses.count(key)
        return heat

    def pinned_anew(self) -> list[int]:
        """Say what repin holds after a pass."""
        before, contents = list(self.resident), list(self.resident)
        hottest = sorted({key for uses in self.passes for key in uses}, key=lambda key: (-self.heat(key), key))
        for key in hottest:
            if key not in contents and self.heat(key) and not self.over([*contents, key]):
                contents.append(key)
        came = [key for key in contents if key not in before]
        for cold in sorted(before, key=lambda key: (self.heat(key), key))[: int(self.params["swaps"])]:
            others = [key for key in contents if key != cold]
            fit = [key for key in hottest if key not in before + came and not self.over([*others, key])]
            if not fit or self.heat(fit[0]) - self.heat(cold) <= self.heat(cold) // 4 + 4:
                break
            contents = [*others, fit[0]]
            came.append(fit[0])
        return contents

    def over(self, keys: Sequence[int]) -> bool:
        return sum(map(self.cost, keys)) > self.size.capacity

    def victim(self, candidates: list[int], missed: list[int]) -> int:
        """Name the candidate of smallest score."""
        if self.policy in ("static", "sch-static", "repin"):
            return [key for key in missed if key in candidates][-1]
        if self.policy == "pinned-lru":
            return min((key for key in candidates if key not in self.pinned), key=self.world.last_use)
        score = SCORE[self.policy]
        return min(candidates, key=lambda key: (score(self.world, key), self.world.last_use(key)))

    def serve(self, uses: list[Use]) -> list[int]:
        """Look up these experts, all of which must be resident together; return those that missed."""
        batch = [use.key for use in uses]
        missed = [key for key in batch if key not in self.resident]
        if self.admission is not None:
            passing = self.not_admitted(batch, missed)
            self.bypassed += len(passing)
            if passing:
                heard = [use for use in uses if use.key not in passing]
                self.serve_admitted(heard, [key for key in missed if key not in passing])
                return missed
        self.serve_admitted(uses, missed)
        return missed

    def not_admitted(self, batch: list[int], missed: list[int]) -> list[int]:
        """Return the misses not used lately for which no slot is free beside the residents and the other misses."""
        first = []
        for key in batch:
            lately = self.touched[-self.admission :] if self.admission else self.touched
            if key in missed and key not in lately:
                first.append(key)
            self.touched.append(key)
        passing, inside = [], self.resident + [key for key in missed if key not in first]
        for key in first:
            if self.over([*inside, key]):
                passing.append(key)
            else:
                inside.append(key)
        return passing

    def serve_admitted(self, uses: list[Use], missed: list[int]) -> None:
        """Serve a batch whose misses are all loaded; an empty one changes nothing."""
        batch = [use.key for use in uses]
        for use in uses:
            use.loaded = use.key in missed
            self.world.log.append(use)
            self.world.now = use
        self.resident += missed
        if self.policy in QUEUES:
            self.serve_queues(batch, missed)
        else:
            while self.over(self.resident):
                others = [key for key in self.resident if key not in batch]
                candidates = self.resident if self.any_victim or not others else others
                self.put_out(self.victim(candidates, missed), missed)

    def serve_queues(self, batch: list[int], missed: list[int]) -> None:
        self.queues.begin()
        for key in batch:
            (self.queues.miss if key in missed else self.queues.hit)(key)
        while self.over(self.resident) and any(key not in batch for key in self.resident):
            self.put_out(self.queues.choose(batch), missed)
        for key in missed:
            self.queues.insert(key)
        while self.over(self.resident):
            self.put_out(self.queues.choose([]), missed)

    def put_out(self, key: int, missed: list[int]) -> None:
        self.resident.remove(key)
        self.world.log.append(Eviction(key))
        if self.bypass and key in missed:
            self.bypassed += 1
        else:
            self.evictions += 1

    def run(self, uses: list[Use], access: str) -> list[bool]:
        """Serve one batch under one rule of access; return a hit flag for each use."""
        flags = []
        if access == "coresident":
            missed = self.serve(uses)
            flags = [use.key not in missed for use in uses]
        elif access == "sequential":
            flags = [not self.serve([use]) for use in uses]
        else:
            before = list(self.resident)
            for use in uses:
                free = use.key not in self.seen and not self.over([*self.seen, use.key])
                flags.append(use.key in before or free)
                if use.key not in self.seen:
                    self.seen.append(use.key)
            for use in uses:
                self.serve([use])
        return flags


@dataclass
class Outcome:
    """What a replay counts. Tables are [phase][layer]."""

    hit: list[bool]
    accesses: list[list[int]]
    misses: list[list[int]]
    cold_misses: int
    evictions: int
    bypassed: int
    preloaded: list[int]  # of each layer
    steps: list[int]  # of each phase, those that recorded anything
    resident: int


def replay(
    trace: Trace,
    policy: str,
    params: Params,
    cache: str,
    scope: str,
    access: str,
    prefill: str = "step",
    warm: bool = True,
    profile: Trace | None = None,
    admission: int | None = None,
) -> Outcome:
    """Run a trace through a cache, one access after the other; ``admission`` as in `Pool`."""
    if access == "paper":
        prefill, warm = "token", False
    steps = schedule(trace, prefill)
    popular = (
        [] if profile is None else most_used(k for s in schedule(profile, "step") for r in s.layers for k in r.batch)
    )
    first_step: dict[int, int] = {}
    for step in steps:
        first_step.setdefault(step.request, step.number)

    runs: list[tuple[Step, LayerStep, list[Use]]] = []
    accesses: list[Use] = []
    for step in steps:
        for layer_step in step.layers:
            uses = []
            for key, weight, high in zip(layer_step.batch, layer_step.weights, layer_step.high, strict=True):
                uses.append(
                    Use(key, layer_step.layer, step.number, step.request, len(runs), len(accesses), weight, high, False)
                )
                accesses.append(uses[-1])
            runs.append((step, layer_step, uses))

    unit = "run" if access == "coresident" else "time"
    pools = [
        Pool(
            size,
            policy,
            params,
            World(trace.stride, trace.num_layers, unit, warm, accesses, first_step, params),
            popular,
            admission,
        )
        for size in pool_sizes(trace, cache, scope)
    ]
    table = [[0] * trace.num_layers for _ in range(2)]
    outcome = Outcome([], table, [list(row) for row in table], 0, 0, 0, [0] * trace.num_layers, [0, 0], 0)
    used_before: list[int] = []
    request = -1
    for step in steps:
        if not step.layers:  # nothing recorded
            continue
        outcome.steps[step.phase] += 1
        if not warm and step.request != request:
            used_before, request = [], step.request
            for pool in pools:
                pool.empty()
        for pool in pools:
            pool.begin_step(step.number, steps)
            mine = [uses for s, run, uses in runs if s is step and run.layer in pool.size.layers]
            if access == "paper":
                mine = [[use for uses in mine for use in uses]]
            for uses in mine:
                flags = pool.run(uses, access)
                for use, hit in zip(uses, flags, strict=True):
                    outcome.hit.append(hit)
                    outcome.accesses[step.phase][use.layer] += 1
                    outcome.misses[step.phase][use.layer] += not hit
                    outcome.cold_misses += not hit and use.key not in used_before
                    used_before.append(use.key)
    for pool in pools:
        outcome.evictions += pool.evictions
        outcome.bypassed += pool.bypassed
        outcome.resident += len(pool.resident)
        for key in pool.preloaded:
            outcome.preloaded[key // trace.stride] += 1
    return outcome


# ---------------------------------------------------------------------------------------------------------------------
# Lossy miss actions
# ---------------------------------------------------------------------------------------------------------------------


@dataclass
class Lossy:
    """A rule that gives up misses: ``skip``, ``substitute`` or ``low``."""

    action: str
    threshold: str  # as written, in decimal
    keep: int


@dataclass
class LossyOutcome:
    """What came of a run with a lossy rule. Lists are [phase]."""

    hits: int
    misses: int
    loads: list[int]
    given_up: int  # misses that were not loaded whole
    evictions: int
    tokens: list[int]  # that used experts, times layers
    weight: list[Fraction]  # shares of their router weight that were given up, summed up


def shares(trace: Trace, token: int, layer: int) -> dict[int, Fraction]:
    """Return the token's experts in a layer, heaviest first, ties by rank, each with its share of their weight."""
    assert trace.weights is not None
    row = zip(trace.experts[token][layer], trace.weights[token][layer], strict=True)
    mine = {layer * trace.stride + expert: Fraction(weight) for expert, weight in row if expert != -1}
    total = sum(mine.values())
    ranked = sorted(mine, key=lambda key: -mine[key])
    return {key: mine[key] / total if total else Fraction(0) for key in ranked}


def kept_whole(trace: Trace, tokens: list[int], layer: int, resident: list[int], rule: Lossy) -> list[int]:
    """Return the misses of a layer-step that are loaded: what one token needs, or cannot have replaced."""
    needed: list[int] = []
    for token in tokens:
        for place, (key, share) in enumerate(shares(trace, token, layer).items()):
            light = share < Fraction(rule.threshold) - Fraction(1, 10**6) and place >= rule.keep
            if key not in resident and not light:
                needed.append(key)
    irreplaceable: list[int] = []
    if rule.action == "substitute":
        for token in tokens:
            mine = list(shares(trace, token, layer))
            light_misses = [key for key in mine if key not in resident and key not in needed]
            stand_ins = [key for key in resident if key // trace.stride == layer and key not in mine]
            irreplaceable += light_misses[: max(len(light_misses) - len(stand_ins), 0)]
    return needed + irreplaceable


def lossy_replay(
    trace: Trace,
    policy: str,
    cache: str,
    scope: str,
    prefill: str,
    warm: bool,
    rule: Lossy,
    given: list[tuple[int, int, list[int]]] | None = None,
) -> LossyOutcome:
    """Run a trace through a co-resident cache whose misses fall to a lossy rule; the policy needs no future."""
    pools = [
        Pool(size, policy, {}, World(trace.stride, trace.num_layers, "run", warm, [], {}, {}), [])
        for size in pool_sizes(trace, cache, scope)
    ]
    outcome = LossyOutcome(0, 0, [0, 0], 0, 0, [0, 0], [Fraction(0), Fraction(0)])
    request, number = -1, 0
    for step in schedule(trace, prefill, given):
        if not step.layers:
            continue
        if not warm and step.request != request:
            request = step.request
            for pool in pools:
                pool.empty()
        for run in step.layers:
            (pool,) = (pool for pool in pools if run.layer in pool.size.layers)
            loaded = kept_whole(trace, step.tokens, run.layer, pool.resident, rule)
            lost = [key for key in run.batch if key not in pool.resident and key not in loaded]
            outcome.hits += sum(key in pool.resident for key in run.batch)
            outcome.misses += sum(key not in pool.resident for key in run.batch)
            outcome.given_up += len(lost)
            for token in step.tokens:
                share = shares(trace, token, run.layer)
                outcome.tokens[step.phase] += len(share) > 0
                outcome.weight[step.phase] += sum(share.get(key, 0) for key in lost)
            shown = [key for key in run.batch if key not in lost]
            place = (step.number, step.request, number, number)
            uses = [Use(key, run.layer, *place, Fraction(0), False, False) for key in shown]
            number += 1
            outcome.loads[step.phase] += len(pool.serve(uses))
    outcome.evictions = sum(pool.evictions for pool in pools)
    return outcome
