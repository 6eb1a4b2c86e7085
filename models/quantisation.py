"""Bytes of a model's weights in the formats that people run.

A *format* stores blocks of weights with their scales. A *mix* of llama.cpp (``q4_k_m`` ...) chooses a format by tensor
and layer; any other dtype gives one format to all matrices. Tensors have llama.cpp's names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.errors import ConfigError, did_you_mean
from lrcsim.models.geometry import Geometry

__all__ = ["bits_per_weight", "dense_bytes", "dtype_names", "expert_bytes", "output_bytes", "parse_dtype"]

IntArray = npt.NDArray[np.int64]


class Format(NamedTuple):
    """Weights in blocks along a row: ``bits`` for every ``block`` weights, scales included."""

    block: int
    bits: int


FORMATS: dict[str, Format] = {
    "f32": Format(1, 32),
    "bf16": Format(1, 16),
    "f16": Format(1, 16),
    # fp8 with a float32 scale per 128 x 128, int8 with a scale per row: below 0.02 bits per weight, not counted
    "fp8": Format(1, 8),
    "int8": Format(1, 8),
    # GPTQ and AWQ: 4 bits, per group a 16-bit scale and a 4-bit zero point
    "int4-g32": Format(32, 32 * 4 + 20),
    "int4-g128": Format(128, 128 * 4 + 20),
    # OCP MX: 4 bits, an 8-bit exponent per 32; NVFP4: 4 bits, an 8-bit scale per 16
    "mxfp4": Format(32, 32 * 4 + 8),
    "nvfp4": Format(16, 16 * 4 + 8),
    # ggml, one 16-bit scale (and for _1 a 16-bit minimum) per 32
    "q4_0": Format(32, 32 * 4 + 16),
    "q4_1": Format(32, 32 * 4 + 32),
    "q5_0": Format(32, 32 * 5 + 16),
    "q5_1": Format(32, 32 * 5 + 32),
    "q8_0": Format(32, 32 * 8 + 16),
    "iq4_nl": Format(32, 32 * 4 + 16),
    # ggml k-quants: super-blocks of 256, in 8 or 16 blocks with quantised scales (and minima), 16-bit scales above them
    "q2_k": Format(256, 256 * 2 + 16 * 8 + 32),
    "q3_k": Format(256, 256 * 3 + 16 * 6 + 16),
    "q4_k": Format(256, 256 * 4 + 8 * 12 + 32),
    "q5_k": Format(256, 256 * 5 + 8 * 12 + 32),
    "q6_k": Format(256, 256 * 6 + 16 * 8 + 16),
    # ggml i-quants: super-blocks of 256 with codebooks
    "iq1_s": Format(256, 50 * 8),
    "iq1_m": Format(256, 56 * 8),
    "iq2_xxs": Format(256, 66 * 8),
    "iq2_xs": Format(256, 74 * 8),
    "iq2_s": Format(256, 82 * 8),
    "iq3_xxs": Format(256, 98 * 8),
    "iq3_s": Format(256, 110 * 8),
    "iq4_xs": Format(256, 136 * 8),
}
ALIASES = {"fp32": "f32", "float32": "f32", "fp16": "f16", "float16": "f16", "bfloat16": "bf16", "int4": "int4-g128"}

# What llama.cpp takes where a row is no multiple of 256 (src/llama-quant.cpp, "fallback quantization").
FALLBACK = {"q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}
GGUF = {name for name in FORMATS if re.match(r"i?q\d", name)}


class Tensor(NamedTuple):
    """A matrix: llama.cpp's name, its layer (-1: none), rows, and the length of a row."""

    name: str
    layer: int
    rows: int
    length: int


Rule = Callable[[Geometry, Tensor], str]


def use_more_bits(layer: int, layers: int) -> bool:
    """Whether llama.cpp's ``_m`` mixes give more bits to this layer: the first and last eighth, and every third."""
    return layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2


def _mix(base: str, more: str) -> Rule:
    """q4_k_m and q5_k_m: ``more`` for the values and the down projections of some layers."""

    def rule(geometry: Geometry, tensor: Tensor) -> str:
        eight = geometry.experts == 8
        if tensor.name == "attn_v":
            order = geometry.kv_layers.index(tensor.layer)
            return "q8_0" if eight else more if use_more_bits(order, len(geometry.kv_layers)) else base
        if tensor.name == "attn_k" and eight:
            return "q8_0"
        if tensor.name.startswith("ffn_down"):
            return more if use_more_bits(tensor.layer, geometry.layers) else base
        return "q5_k" if tensor.name == "attn_output" and eight and base == "q4_k" else base

    return rule


def _q3_k_m(geometry: Geometry, tensor: Tensor) -> str:
    eight = geometry.experts == 8
    if tensor.name == "attn_v":
        return "q8_0" if eight else "q5_k" if geometry.kv_layers.index(tensor.layer) < 2 else "q4_k"
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


def dtype_names() -> list[str]:
    """Return the names that a dtype may have."""
    return sorted({*FORMATS, *MIXES, *ALIASES})


def bits_per_weight(dtype: str) -> float:
    """Return the bits per weight of a format, scales included; of a mix those of its most common format.

    Raises:
        ConfigError: there is no such format.
    """
    name = _known(dtype)
    block, bits = FORMATS[name if name in FORMATS else name.removesuffix("_m")]
    return bits / block


class Override(NamedTuple):
    """A dtype for some layers (all if empty) and some tensors (all of whose names start with ``tensor``)."""

    layers: range | None
    tensor: str
    dtype: str


def parse_dtype(dtype: str) -> tuple[str, tuple[Override, ...]]:
    """Read ``"q4_k_m"`` or, with overrides, ``"q4_k_m,0-3=q8_0,ffn_down_exps=q6_k,40-47:ffn_up=bf16"``.

    An override is ``LAYERS=``, ``TENSOR=`` or ``LAYERS:TENSOR=`` and a dtype; layers are counted from 0 among
    all layers, a tensor is named by llama.cpp's name or how it begins. The last override that fits counts.

    Raises:
        ConfigError: an unknown dtype, or an override that is not understood.
    """
    base, *rest = (part.strip() for part in dtype.split(","))
    return _known(base), tuple(_override(part) for part in rest)


def _override(text: str) -> Override:
    match = re.fullmatch(r"(?:(\d+)(?:-(\d+))?)?(?:(?:^|:)([A-Za-z][A-Za-z_]*))?=(.+)", text)
    if not match or not (match[1] or match[3]):
        raise ConfigError(
            f"dtype override {text!r} is not understood: write LAYERS=DTYPE, as 0-3=q8_0, TENSOR=DTYPE, "
            "as ffn_down_exps=q6_k, or both as 0-3:ffn_down_exps=q6_k"
        )
    layers = range(int(match[1]), int(match[2] or match[1]) + 1) if match[1] else None
    return Override(layers, match[3] or "", _known(match[4]))


def _known(name: str) -> str:
    name = name.strip().lower()
    name = ALIASES.get(name, name)
    if name not in FORMATS and name not in MIXES:
        hint = did_you_mean(name, dtype_names()) or f"; there are {', '.join(dtype_names())}"
        raise ConfigError(f"there is no dtype {name!r}{hint}")
    return name


def _format(geometry: Geometry, tensor: Tensor, name: str) -> str:
    """Return the format of a tensor under a recipe."""
    small = tensor.name in ("norm", "ffn_gate_inp")
    if name in MIXES or name in GGUF:
        if small:
            return "f32"
        if geometry.dtype == "mxfp4" and tensor.name.endswith("_exps"):
            return "mxfp4"  # GGUF files of gpt-oss keep the released experts, whatever the rest is
        if tensor.name == "output":
            name = "q8_0" if name == "q8_0" or tensor.length % 256 else "q6_k"
        elif name in MIXES:
            name = MIXES[name](geometry, tensor)
        if tensor.length % FORMATS[name].block:
            name = FALLBACK.get(name, "iq4_nl")
        return "f16" if tensor.length % FORMATS[name].block else name
    experts_only = name in ("mxfp4", "nvfp4")
    whole = FORMATS[name].block == 1 and FORMATS[name].bits >= 16
    if whole or not (small or tensor.name == "output" or (experts_only and not tensor.name.endswith("_exps"))):
        return name
    return "bf16"


def tensor_bytes(geometry: Geometry, tensor: Tensor, dtype: str) -> int:
    """Return the bytes of one matrix, whole blocks per row."""
    name, overrides = parse_dtype(dtype)
    for override in overrides:
        if (override.layers is None or tensor.layer in override.layers) and tensor.name.startswith(override.tensor):
            name = override.dtype
    block, bits = FORMATS[_format(geometry, tensor, name)]
    return tensor.rows * (-(-tensor.length // block) * bits) // 8


def _ffn(geometry: Geometry, layer: int, width: int, suffix: str) -> Iterator[Tensor]:
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
        yield from _ffn(geometry, layer, geometry.shared_width, "_shexp")
    else:
        yield from _ffn(geometry, layer, geometry.dense_width, "")


def expert_bytes(geometry: Geometry, dtype: str | None = None) -> IntArray:
    """Return the bytes of one routed expert, int64 [MoE layers].

    Args:
        geometry: the model.
        dtype: a format or mix, with overrides (see `parse_dtype`); None: as the weights were released.

    Raises:
        ConfigError: the dtype is not known.
    """
    dtype = dtype or geometry.dtype
    sizes = [
        sum(tensor_bytes(geometry, tensor, dtype) for tensor in _ffn(geometry, layer, geometry.expert_width, "_exps"))
        for layer in geometry.moe_layers
    ]
    return np.array(sizes, dtype=np.int64)


def dense_bytes(geometry: Geometry, dtype: str | None = None) -> IntArray:
    """Return the bytes that each layer reads for one token besides routed experts, int64 [all layers].

    Attention (or what stands in its place), norms, router, shared experts or the dense block. Biases are left out.

    Args:
        geometry: the model.
        dtype: as in `expert_bytes`.

    Raises:
        ConfigError: the dtype is not known.
    """
    dtype = dtype or geometry.dtype
    sizes = [
        sum(tensor_bytes(geometry, tensor, dtype) for tensor in dense_tensors(geometry, layer))
        for layer in range(geometry.layers)
    ]
    return np.array(sizes, dtype=np.int64)


def output_bytes(geometry: Geometry, dtype: str | None = None) -> int:
    """Return the bytes of the output matrix, which every token reads in full; of the embedding it reads one row.

    Args:
        geometry: the model.
        dtype: as in `expert_bytes`.

    Raises:
        ConfigError: the dtype is not known.
    """
    return tensor_bytes(geometry, Tensor("output", -1, geometry.vocab, geometry.hidden), dtype or geometry.dtype)
