"""Traces as nested lists, their schedule, and the sizes of pools, by definition; see `naive`."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

Params = dict[str, float]
"""Of a policy, by name."""


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


# Sizes of pools


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
