"""Mixes of llama.cpp (``q4_k_m`` ...), which choose a format by tensor and layer (src/llama-quant.cpp)."""

from __future__ import annotations

from collections.abc import Callable

from lrcsim.models.geometry import Geometry
from lrcsim.models.tensors import Tensor

Rule = Callable[[Geometry, Tensor], str]


def use_more_bits(layer: int, layers: int) -> bool:
    """Whether llama.cpp's ``_m`` mixes give more bits to this layer: the first and last eighth, and every third."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _value_place(geometry: Geometry, layer: int) -> tuple[int, int]:
    """Return a layer's place among those that have a matrix for values, and how many these are."""
    layers = [other for other in geometry.kv_layers if "attn_v" in geometry.attention_matrices(other)]
    return layers.index(layer), len(layers)


def _mix(base: str, more: str) -> Rule:
    """q4_k_m and q5_k_m: ``more`` for the values and the down projections of some layers."""

    def rule(geometry: Geometry, tensor: Tensor) -> str:
        eight = geometry.experts == 8
        if tensor.name == "attn_v":
            return "q8_0" if eight else more if use_more_bits(*_value_place(geometry, tensor.layer)) else base
        if tensor.name == "attn_k" and eight:
            return "q8_0"
        if tensor.name.startswith("ffn_down"):
            return more if use_more_bits(tensor.layer, geometry.layers) else base
        return "q5_k" if tensor.name == "attn_output" and eight and base == "q4_k" else base

    return rule


def _q3_k_m(geometry: Geometry, tensor: Tensor) -> str:
    eight = geometry.experts == 8
    if tensor.name == "attn_v":
        return "q8_0" if eight else "q5_k" if _value_place(geometry, tensor.layer)[0] < 2 else "q4_k"
    if tensor.name == "attn_k" and eight:
        return "q8_0"
    if tensor.name.startswith("ffn_down"):
        return "q5_k" if tensor.layer < geometry.layers // 16 else "q4_k"
    if tensor.name == "attn_output":
        return "q5_k" if eight else "q4_k"
    return "q3_k"


def _q2_k(geometry: Geometry, tensor: Tensor) -> str:
    eight = geometry.experts == 8
    if tensor.name == "attn_v":
        return "q8_0" if eight else "q4_k" if geometry.heads // geometry.kv_heads >= 4 else "q3_k"
    if tensor.name == "attn_k" and eight:
        return "q8_0"
    if tensor.name.startswith("ffn_down"):
        return "q3_k"
    if tensor.name == "attn_output":
        return "q5_k" if eight else "q3_k"
    return "q2_k"


MIXES: dict[str, Rule] = {
    "q4_k_m": _mix("q4_k", "q6_k"),
    "q5_k_m": _mix("q5_k", "q6_k"),
    "q3_k_m": _q3_k_m,
    "q2_k": _q2_k,
}
