"""Bytes of a model's weights in the formats that people run.

A *format* stores blocks of weights with their scales. A *mix* of llama.cpp (``q4_k_m`` ...) chooses a format by tensor
and layer; any other dtype gives one format to all matrices. ``gguf`` is what a model's own file stores its tensors in,
where the geometry is read from one. Tensors have llama.cpp's names.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.models.formats import FORMATS, GGUF, WeightFormat, find_format, format_names, known_name
from lrcsim.models.geometry import Geometry
from lrcsim.models.gguf_header import BLOCKS
from lrcsim.models.mixes import MIXES
from lrcsim.models.stored import OF_FILE
from lrcsim.models.tensors import (
    Tensor,
    dense_tensors,
    embedding_tensors,
    expert_tensors,
    is_small,
    output_tensors,
    tensors,
)

IntArray = npt.NDArray[np.int64]


# What llama.cpp takes where a row is no multiple of 256 (src/llama-quant.cpp, "fallback quantization").
FALLBACK = {"q2_k": "q4_0", "q3_k": "q4_0", "tq1_0": "q4_0", "tq2_0": "q4_0"} | {
    "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"
}  # fmt: skip


def dtype_names() -> list[str]:
    """Return the names that a dtype may have."""
    return sorted({*format_names(), *MIXES})


def bits_per_weight(dtype: str) -> float:
    """Return the bits per weight of a format, scales included; of a mix those of its most common format.

    Raises:
        ConfigError: there is no such format.
    """
    name = _known(dtype)
    return _named(MIXES[name].base if name not in FORMATS and name in MIXES else name).bits_per_weight


class Override(NamedTuple):
    """A dtype for some layers (all if empty) and some tensors (all of whose names start with ``tensor``)."""

    layers: range | None
    tensor: str
    dtype: str


@lru_cache(maxsize=256)
def parse_dtype(dtype: str) -> tuple[str, tuple[Override, ...]]:
    """Read ``"q4_k_m"`` or, with overrides, ``"q4_k_m,0-3=q8_0,ffn_down_exps=q6_k,40-47:ffn_up=bf16"``.

    An override is ``LAYERS=``, ``TENSOR=`` or ``LAYERS:TENSOR=`` and a dtype; layers are counted from 0 among
    all layers, a tensor is named by llama.cpp's name or how it begins. The last override that fits counts. Norms,
    biases and routers keep their own format unless they are named in full.

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
    return known_name(name, frozenset({*MIXES, OF_FILE}))


def is_of_file(dtype: str) -> bool:
    """Return whether a dtype says that weights are as in the model's own GGUF file, but for its overrides.

    Raises:
        ConfigError: the dtype is not known.
    """
    return parse_dtype(dtype)[0] == OF_FILE


def said_dtype(geometry: Geometry, dtype: str) -> str:
    """Return a dtype for readers: where it is the file's own ``"in its file (UD-Q4_K_XL)"``, as far as that is known.

    Args:
        geometry: the model.
        dtype: as in `expert_bytes`.

    Raises:
        ConfigError: the dtype is not known.
    """
    if geometry.stored is None or not is_of_file(dtype):
        return dtype
    _, *overrides = dtype.split(",")
    mix = f" ({geometry.stored.mix})" if geometry.stored.mix else ""
    return ",".join([f"in its file{mix}", *overrides])


def mean_bits(geometry: Geometry, dtype: str) -> float:
    """Return the bits per weight of a format or mix, as `bits_per_weight`; of a file those of its experts' mean.

    Raises:
        ConfigError: there is no such format, or the model is not read from a file.
    """
    if not is_of_file(dtype):
        return bits_per_weight(dtype.partition(",")[0])
    weights = sum(one.rows * one.length for layer in geometry.moe_layers for one in expert_tensors(geometry, layer))
    return 8 * float(expert_bytes(geometry, dtype).sum()) / weights


_IN_FILES = {name: WeightFormat(block, 8 * size) for name, block, size in BLOCKS.values()}
"""What the tensors of a file may be in, besides formats that weights are asked for in."""


def _named(name: str) -> WeightFormat:
    found = find_format(name) or _IN_FILES.get(name)
    assert found is not None  # checked where the dtype was read
    return found


def stored_dtype(geometry: Geometry, dtype: str | None = None) -> str:
    """Return the dtype that was asked for, or the one that the weights were released in.

    Args:
        geometry: the model.
        dtype: what was asked for; None: nothing.

    Raises:
        ConfigError: none was asked for, and the model's config has a quantisation that lrcsim cannot read.
    """
    if dtype is None and geometry.unread:
        raise ConfigError(geometry.unread)
    return dtype or geometry.dtype


def _format(geometry: Geometry, tensor: Tensor, name: str) -> str:
    """Return the format of a tensor under a recipe for all of them."""
    small = is_small(tensor)
    if name == OF_FILE:
        return _as_in_file(geometry, tensor)
    if tensor.format and tensor.layer >= 0 and tensor.name == "attn_v" and tensor.layer not in geometry.kv_layers:
        tensor = tensor._replace(name="mixer")  # of linear attention, which recipes do not take for values
    if name in MIXES or name in GGUF:
        if small:
            return "f32"
        released = "mxfp4" in (geometry.dtype.partition(",")[0], tensor.format)
        if released and tensor.name.endswith("_exps"):
            return "mxfp4"  # GGUF files of gpt-oss keep the released experts, whatever the rest is
        if tensor.name == "output" and tensor.length % 256:
            return _stored(tensor, "q8_0")
        if name not in MIXES:
            return _stored(tensor, "q6_k" if tensor.name == "output" else name)
        return _stored(tensor, MIXES[name](geometry, tensor))
    experts_only = name in ("mxfp4", "nvfp4")
    whole = _named(name).block == 1 and _named(name).bits >= 16
    other = small or tensor.name in ("output", "token_embd")
    if whole or not (other or (experts_only and not tensor.name.endswith("_exps"))):
        return name
    return "bf16"


def _named_tensor(geometry: Geometry, tensor: Tensor, name: str) -> str:
    """Return the format of a tensor that is named with it: itself, or what a file type that is no format chooses."""
    return _stored(tensor, name if find_format(name) else MIXES[name](geometry, tensor))


def _stored(tensor: Tensor, name: str) -> str:
    """Return the format of a tensor that is to have this one, with llama.cpp's fallback for rows it cannot store."""
    if name not in GGUF:
        return name
    if tensor.length % FORMATS[name].block:
        name = FALLBACK.get(name, "iq4_nl")
    return "f16" if tensor.length % FORMATS[name].block else name


def _as_in_file(geometry: Geometry, tensor: Tensor) -> str:
    if geometry.stored is None:
        raise ConfigError(
            f"dtype gguf is that of a model's own file, and {geometry.name} is not read from one: give the path of the "
            "GGUF file as the model, or another dtype"
        )
    return tensor.format or geometry.stored.format_of(tensor.name)


def format_of(geometry: Geometry, tensor: Tensor, dtype: str) -> str:
    """Return the format that a tensor has under a dtype: an override that names it, or the recipe's own choice."""
    name, overrides = parse_dtype(dtype)
    chosen: Override | None = None
    for override in overrides:
        if (override.layers is None or tensor.layer in override.layers) and tensor.name.startswith(override.tensor):
            chosen = override
    if chosen is None:
        return _format(geometry, tensor, name)
    exact, small = chosen.tensor == tensor.name, is_small(tensor)
    if chosen.dtype != OF_FILE and (exact or (chosen.tensor and not small)):
        return _named_tensor(geometry, tensor, chosen.dtype)
    return _format(geometry, tensor, chosen.dtype)


def tensor_bytes(geometry: Geometry, tensor: Tensor, dtype: str) -> int:
    """Return the bytes of one matrix, scales included."""
    return _named(format_of(geometry, tensor, dtype)).matrix_bytes(tensor.rows, tensor.length)


def expert_bytes(geometry: Geometry, dtype: str | None = None, *, biases: bool = True) -> IntArray:
    """Return the bytes of one routed expert, int64 [MoE layers].

    Args:
        geometry: the model.
        dtype: a format or mix, with overrides (see `parse_dtype`); None: as the weights were released.
        biases: count an expert's biases, which lie and are read where its matrices are (llama.cpp puts
            ``ffn_*_exps.bias`` with them, in f32); False: the matrices alone, as engines that keep all biases on the
            device move them.

    Raises:
        ConfigError: the dtype is not known, or none is given and that of the release cannot be read.
    """
    return np.array(_expert_sizes(geometry, stored_dtype(geometry, dtype), biases), dtype=np.int64)


@lru_cache(maxsize=256)  # a plan asks for the same model hundreds of times: a third of its time
def _expert_sizes(geometry: Geometry, dtype: str, biases: bool) -> tuple[int, ...]:
    return tuple(
        sum(
            tensor_bytes(geometry, tensor, dtype)
            for tensor in expert_tensors(geometry, layer)
            if biases or not is_small(tensor)
        )
        for layer in geometry.moe_layers
    )


@lru_cache(maxsize=256)
def _dense_sizes(geometry: Geometry, dtype: str) -> tuple[int, ...]:
    return tuple(
        sum(tensor_bytes(geometry, tensor, dtype) for tensor in dense_tensors(geometry, layer))
        for layer in range(geometry.layers)
    )


def dense_bytes(geometry: Geometry, dtype: str | None = None) -> IntArray:
    """Return the bytes that each layer reads for one token besides routed experts, int64 [all layers].

    Attention (or what stands in its place), norms, router, shared experts or the dense block, biases of these.

    Args:
        geometry: the model.
        dtype: as in `expert_bytes`.

    Raises:
        ConfigError: the dtype is not known, or none is given and that of the release cannot be read.
    """
    return np.array(_dense_sizes(geometry, stored_dtype(geometry, dtype)), dtype=np.int64)


def output_bytes(geometry: Geometry, dtype: str | None = None) -> int:
    """Return the bytes of the output matrix and its biases, which every token reads in full.

    Of the embedding it reads one row. Where the model is read from a file, with all else that belongs to no layer, as
    the last norm; a model whose embedding is the output matrix reads that.

    Args:
        geometry: the model.
        dtype: as in `expert_bytes`.

    Raises:
        ConfigError: the dtype is not known, or none is given and that of the release cannot be read.
    """
    dtype = stored_dtype(geometry, dtype)
    apart = "output" in geometry.biases and geometry.stored is None
    biases = tensor_bytes(geometry, Tensor("bias", -1, 1, geometry.vocab), dtype) if apart else 0
    return sum(tensor_bytes(geometry, tensor, dtype) for tensor in output_tensors(geometry)) + biases


def embedding_bytes(geometry: Geometry, dtype: str | None = None) -> int:
    """Return the bytes of the embedding, the output matrix's own where they are the same.

    Args:
        geometry: the model.
        dtype: as in `expert_bytes`.

    Raises:
        ConfigError: the dtype is not known, or none is given and that of the release cannot be read.
    """
    dtype = stored_dtype(geometry, dtype)
    return sum(tensor_bytes(geometry, tensor, dtype) for tensor in embedding_tensors(geometry))


def storage(geometry: Geometry, dtype: str | None = None) -> dict[str, str]:
    """Say for each kind of tensor in which format it is and with how many bits a weight.

    Args:
        geometry: the model.
        dtype: as in `expert_bytes`.

    Returns:
        By ``attention``, ``experts``, ``output`` and, where there are such, ``shared experts``, ``dense blocks``: as
        ``"int4-g128, 4.16 bits"``; several formats with the number of tensors in each, the most common first.

    Raises:
        ConfigError: the dtype is not known, or none is given and that of the release cannot be read.
    """
    dtype = stored_dtype(geometry, dtype)
    kinds: dict[str, dict[str, list[int]]] = {}
    for kind, tensor in _by_kind(geometry):
        name = format_of(geometry, tensor, dtype)
        count = kinds.setdefault(kind, {}).setdefault(name, [0, 0, 0])
        for i, value in enumerate((1, tensor_bytes(geometry, tensor, dtype), tensor.rows * tensor.length)):
            count[i] += value
    return {kind: _said(formats) for kind, formats in kinds.items()}


def _said(formats: dict[str, list[int]]) -> str:
    ordered = sorted(formats.items(), key=lambda item: -item[1][2])
    names = ordered[0][0] if len(ordered) == 1 else " and ".join(f"{name} ({n[0]})" for name, n in ordered)
    size, weights = (sum(n[i] for n in formats.values()) for i in (1, 2))
    return f"{names}, {8 * size / weights:.4g} bits"


def _by_kind(geometry: Geometry) -> Iterator[tuple[str, Tensor]]:
    kinds = {"_exps": "experts", "_shexp": "shared experts"}
    for tensor in tensors(geometry):
        if is_small(tensor):
            continue
        suffix = next((kind for end, kind in kinds.items() if tensor.name.endswith(end)), "")
        if suffix:
            yield suffix, tensor
        elif tensor.name.startswith(("attn", "mixer", "ssm", "shortconv", "indexer")):
            yield "attention", tensor
        elif tensor.name == "output":
            yield "output", tensor
        elif tensor.name in ("ffn_gate", "ffn_up", "ffn_down"):
            yield "dense blocks", tensor
        elif geometry.stored is not None and tensor.name == "token_embd":
            yield "embedding", tensor
