"""The matrices of a model, layer by layer, under the names that llama.cpp gives them."""

from __future__ import annotations

from collections.abc import Iterator

from lrcsim.models.geometry import Geometry
from lrcsim.models.stored import EMBEDDINGS
from lrcsim.models.stored import Tensor as Tensor

SMALL = frozenset({"norm", "bias", "bias_exps", "ffn_gate_inp", "ffn_gate_inp_shexp"})
"""Tensors that a recipe for all weights leaves as they are: f32 in a GGUF file, 16 bits elsewhere."""


def is_small(tensor: Tensor) -> bool:
    """Whether a recipe for all weights leaves a tensor as it is: see `SMALL`; of a file also all that has one row.

    And what llama.cpp never quantises: kernels of convolutions, tables of whole numbers, norms (src/llama-quant.cpp).
    """
    name = tensor.name
    if name in SMALL:
        return True
    if not tensor.format:
        return False
    kept = ("ssm_conv1d", "shortconv.conv", "tid2eid", "altup", "laurel", "per_layer_model_proj")
    ends = ("norm", ".bias", "scale")
    return tensor.rows == 1 or tensor.length < 32 or name.endswith(ends) or any(part in name for part in kept)


def ffn_tensors(geometry: Geometry, layer: int, width: int, suffix: str) -> Iterator[Tensor]:
    """Yield gate, up and down of a block of such a width; none where it is 0."""
    if width:
        if geometry.matrices > 2:
            yield Tensor(f"ffn_gate{suffix}", layer, (geometry.matrices - 2) * width, geometry.hidden)
        yield Tensor(f"ffn_up{suffix}", layer, width, geometry.hidden)
        yield Tensor(f"ffn_down{suffix}", layer, geometry.hidden, width)


def expert_tensors(geometry: Geometry, layer: int) -> Iterator[Tensor]:
    """Yield what one routed expert is made of: its matrices, and its biases as one tensor where it has any."""
    if geometry.stored is not None:
        yield from geometry.stored.of_layer(layer, routed=True)
        return
    yield from ffn_tensors(geometry, layer, geometry.expert_width, "_exps")
    if geometry.expert_biases:
        yield Tensor("bias_exps", layer, 1, geometry.expert_biases)


def dense_tensors(geometry: Geometry, layer: int) -> Iterator[Tensor]:
    """Yield the matrices of a layer that are no routed experts; its norms and its biases as one tensor each."""
    if geometry.stored is not None:
        yield from geometry.stored.of_layer(layer, routed=False)
        return
    norms = geometry.norms * geometry.hidden
    more = geometry.uncounted_params(layer)
    if more < 0:  # what the formulas divide it into is more than it has
        yield Tensor("attn_extra", layer, -(-geometry.layer_params(layer) // geometry.hidden), geometry.hidden)
        yield Tensor("norm", layer, 1, norms)
        if biases := geometry.layer_biases(layer):
            yield Tensor("bias", layer, 1, biases)
        return
    if layer in geometry.kv_layers:
        for name, (rows, length) in geometry.attention_matrices(layer).items():
            yield Tensor(name, layer, rows, length)
        if extra := geometry.attention_extra - geometry.attention_idle + more:
            yield Tensor("attn_extra", layer, -(-extra // geometry.hidden), geometry.hidden)
        norms += (
            2 * geometry.attention_shape(layer).head_dim if geometry.qk_norm else geometry.kv_rank + geometry.q_rank
        )
    elif mixer := geometry.mixer_params + more:
        yield Tensor("mixer", layer, -(-mixer // geometry.hidden), geometry.hidden)
    yield Tensor("norm", layer, 1, norms)
    if biases := geometry.layer_biases(layer):
        yield Tensor("bias", layer, 1, biases)
    if layer in geometry.moe_layers:
        yield Tensor("ffn_gate_inp", layer, geometry.experts, geometry.hidden)
        yield from ffn_tensors(geometry, layer, geometry.shared_width, "_shexp")
        if geometry.shared_gate:
            yield Tensor("ffn_gate_inp_shexp", layer, 1, geometry.hidden)
    else:
        yield from ffn_tensors(geometry, layer, geometry.dense_width, "")


def tensors(geometry: Geometry) -> Iterator[Tensor]:
    """Yield a model's matrices by layer, one of each kind of the routed experts; then output matrix and embedding."""
    moe = set(geometry.moe_layers)
    for layer in range(geometry.layers):
        yield from dense_tensors(geometry, layer)
        if layer in moe:
            yield from expert_tensors(geometry, layer)
    yield from output_tensors(geometry)
    yield from embedding_tensors(geometry)


def output_tensors(geometry: Geometry) -> Iterator[Tensor]:
    """Yield the output matrix; of a file all that belongs to no layer and is no embedding, the last norm too.

    A model without an output matrix of its own multiplies with the embedding, which then is it.
    """
    whole = [one for one in geometry.stored.layers.get(-1, ()) if one.name not in EMBEDDINGS] if geometry.stored else []
    if not any(one.name == "output" for one in whole):
        same = [one for one in embedding_tensors(geometry) if one.name == "token_embd"]
        yield same[0]._replace(name="output")
    yield from whole


def embedding_tensors(geometry: Geometry) -> Iterator[Tensor]:
    """Yield the embedding; of a file all tables of which a token reads a row."""
    if geometry.stored is not None:
        yield from (one for one in geometry.stored.layers.get(-1, ()) if one.name in EMBEDDINGS)
        return
    yield Tensor("token_embd", -1, geometry.vocab, geometry.hidden)
