"""The matrices of a model, layer by layer, under the names that llama.cpp gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from lrcsim.models.geometry import Geometry


class Tensor(NamedTuple):
    """A matrix: llama.cpp's name, its layer (-1: none), rows, and the length of a row."""

    name: str
    layer: int
    rows: int
    length: int


def ffn_tensors(geometry: Geometry, layer: int, width: int, suffix: str) -> Iterator[Tensor]:
    """Yield gate, up and down of a block of such a width; none where it is 0."""
    if width:
        if geometry.matrices > 2:
            yield Tensor(f"ffn_gate{suffix}", layer, (geometry.matrices - 2) * width, geometry.hidden)
        yield Tensor(f"ffn_up{suffix}", layer, width, geometry.hidden)
        yield Tensor(f"ffn_down{suffix}", layer, geometry.hidden, width)


def dense_tensors(geometry: Geometry, layer: int) -> Iterator[Tensor]:
    """Yield the matrices of a layer that are no routed experts; its norms as one tensor of that name."""
    norms = 2 * geometry.hidden
    if layer in geometry.kv_layers:
        for name, (rows, length) in geometry.attention_matrices.items():
            yield Tensor(name, layer, rows, length)
        if geometry.attention_extra > geometry.attention_idle:
            rows = -(-(geometry.attention_extra - geometry.attention_idle) // geometry.hidden)
            yield Tensor("attn_extra", layer, rows, geometry.hidden)
        norms += 2 * geometry.head_dim if geometry.qk_norm else geometry.kv_rank + geometry.q_rank
    elif geometry.mixer_params:
        yield Tensor("mixer", layer, -(-geometry.mixer_params // geometry.hidden), geometry.hidden)
    yield Tensor("norm", layer, 1, norms)
    if layer in geometry.moe_layers:
        yield Tensor("ffn_gate_inp", layer, geometry.experts, geometry.hidden)
        yield from ffn_tensors(geometry, layer, geometry.shared_width, "_shexp")
    else:
        yield from ffn_tensors(geometry, layer, geometry.dense_width, "")


def tensors(geometry: Geometry) -> Iterator[Tensor]:
    """Yield a model's matrices by layer, one of each kind of the routed experts; then output matrix and embedding."""
    moe = set(geometry.moe_layers)
    for layer in range(geometry.layers):
        yield from dense_tensors(geometry, layer)
        if layer in moe:
            yield from ffn_tensors(geometry, layer, geometry.expert_width, "_exps")
    yield Tensor("output", -1, geometry.vocab, geometry.hidden)
    yield Tensor("token_embd", -1, geometry.vocab, geometry.hidden)
