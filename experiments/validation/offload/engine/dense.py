"""All that is not routed experts: attention with its KV cache, norms, router, output matrix, each layer one graph.

Rotary positions and the norms of queries and keys are left out: they move next to nothing. Attention reads the whole
room of the KV cache, behind a mask, so that a graph's shapes stay; a query window is not used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lrcsim.experiments.validation.offload.engine.device import Device
from lrcsim.experiments.validation.offload.engine.shape import EngineShape

EPSILON = 1e-6


@dataclass(frozen=True)
class LayerWeights:
    """Of one layer, all bfloat16.

    Attributes:
        qkv: [(heads + 2 kv) * hd, hidden], queries, keys, values.
        o: [hidden, heads * hd], what leaves attention.
        router: [E, hidden], scores of experts.
    """

    qkv: Any
    o: Any
    router: Any


class DenseWeights:
    """Random weights of everything but the experts, made once per model.

    Args:
        device: where they are.
        shape: of the model.

    Attributes:
        layers: of each.
        head: bfloat16 [vocab, hidden], the output matrix. Its rows, the last one first, are the embeddings too: a
            token's own row would make it likeliest again.
    """

    def __init__(self, device: Device, shape: EngineShape) -> None:
        torch, of = device.torch, shape.geometry
        generator = torch.Generator(device.where).manual_seed(21)

        def matrix(rows: int, columns: int) -> Any:
            made = device.empty(rows, columns, dtype=torch.bfloat16)
            return made.normal_(0.0, columns**-0.5, generator=generator)

        rows = (of.heads + 2 * of.kv_heads) * of.head_dim
        self.layers = [
            LayerWeights(
                matrix(rows, of.hidden), matrix(of.hidden, of.heads * of.head_dim), matrix(of.experts, of.hidden)
            )
            for _ in range(shape.layers)
        ]
        self.head = matrix(of.vocab, of.hidden)


class State:
    """What a batch of tokens carries from graph to graph, on the device.

    Args:
        device: where.
        shape: of the model.
        table: int64 [steps, layers, tokens * k]: the recorded routing.
        k: experts per token.

    Attributes:
        x: bfloat16 [tokens, hidden], the residual stream.
        h: bfloat16 [tokens, hidden], what enters a layer's experts.
        moe: float32 [tokens, hidden], what leaves them.
        weights: float32 [tokens, k + 1], see `Places`.
        ids: int64 [tokens * k], a layer's experts as recorded.
        token: int64 [tokens], what each sequence got last.
        step: int64 [1], counts from 0.
        keys: bfloat16 [layers, tokens, kv, steps, hd]; ``values`` alike.
    """

    def __init__(self, device: Device, shape: EngineShape, table: Any, k: int) -> None:
        torch, of = device.torch, shape.geometry
        steps, layers, width = table.shape
        self.tokens, self.k, self.steps = width // k, k, steps
        empty = device.empty
        self.table = empty(steps, layers, width, dtype=torch.int64)
        self.table.copy_(table)
        self.x = empty(self.tokens, of.hidden, dtype=torch.bfloat16)
        self.h = empty(self.tokens, of.hidden, dtype=torch.bfloat16)
        self.moe = empty(self.tokens, of.hidden, dtype=torch.float32)
        self.from_cpu = empty(self.tokens, of.hidden, dtype=torch.float32)
        self.weights = empty(self.tokens, k + 1, dtype=torch.float32)
        self.ids = empty(width, dtype=torch.int64)
        self.token = empty(self.tokens, dtype=torch.int64)
        self.step = empty(1, dtype=torch.int64)
        self.places = empty(steps, dtype=torch.int64)
        self.places.copy_(torch.arange(steps))
        room = (layers, self.tokens, of.kv_heads, steps, of.head_dim)
        self.keys, self.values = (empty(*room, dtype=torch.bfloat16) for _ in range(2))

    def reset(self, head: Any) -> None:
        """Go back to before the first step: token 0 of the vocabulary for every sequence, an empty KV cache."""
        for one in (self.moe, self.from_cpu, self.weights, self.token, self.step, self.keys, self.values, self.h):
            one.zero_()
        self.x.copy_(head[-1:].expand_as(self.x))


def layer_work(
    device: Device, shape: EngineShape, weights: LayerWeights, state: State, layer: int
) -> Callable[[], None]:
    """Return what a layer does up to where its routing is known, experts of the layer before added first.

    The router is computed, and its greatest scores become the weights of the recorded experts, rank by rank.
    """
    functional, of = device.torch.nn.functional, shape.geometry
    heads, kv, hd, tokens = of.heads, of.kv_heads, of.head_dim, state.tokens
    keys, values = state.keys[layer], state.values[layer]

    def norm(x: Any) -> Any:
        return functional.rms_norm(x, (of.hidden,), eps=EPSILON)

    def run() -> None:
        state.x.add_(state.moe)
        state.moe.zero_()
        mixed = functional.linear(norm(state.x), weights.qkv).view(tokens, heads + 2 * kv, hd)
        keys.index_copy_(2, state.step, mixed[:, heads : heads + kv].unsqueeze(2))
        values.index_copy_(2, state.step, mixed[:, heads + kv :].unsqueeze(2))
        queries = mixed[:, :heads].reshape(tokens, kv, heads // kv, hd)
        scores = queries.matmul(keys.transpose(2, 3)).float() * hd**-0.5
        scores = scores.masked_fill(state.places > state.step, float("-inf"))
        seen = functional.softmax(scores, dim=-1).to(values.dtype).matmul(values)
        state.x.add_(functional.linear(seen.reshape(tokens, heads * hd), weights.o))
        state.h.copy_(norm(state.x))
        top = functional.linear(state.h, weights.router).float().topk(state.k, dim=1).values
        state.weights[:, : state.k].copy_(functional.softmax(top, dim=1))
        state.ids.copy_(state.table.index_select(0, state.step)[0, layer])

    return run


def output_work(device: Device, shape: EngineShape, head: Any, state: State) -> Callable[[], None]:
    """Return what follows the last layer: the output matrix, the likeliest token, which enters the next step."""
    functional, hidden = device.torch.nn.functional, shape.geometry.hidden

    def run() -> None:
        state.x.add_(state.moe)
        state.moe.zero_()
        state.token.copy_(functional.linear(functional.rms_norm(state.x, (hidden,), eps=EPSILON), head).argmax(dim=1))
        state.x.copy_(head.index_select(0, len(head) - 1 - state.token))
        state.step.add_(1).remainder_(state.steps)  # a step behind the last would be written outside the KV cache

    return run


def join_work(state: State) -> Callable[[], None]:
    """Return what adds the outputs of experts that were computed on the processor."""

    def run() -> None:
        state.moe.add_(state.from_cpu)

    return run
