"""A GGUF file with random weights for any geometry with plain attention, each tensor in the format that lrcsim counts.

Names and metadata are those of llama.cpp's architectures ``olmoe`` and ``qwen3moe``, by package ``gguf``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.models import Geometry, load_geometry
from lrcsim.models.quantisation import format_of
from lrcsim.models.tensors import tensors
from lrcsim.recorder.llama_cpp.declarations import HOW
from lrcsim.recorder.llama_cpp.library import Library

POOL = 512
"""Different rows of each length and format; a tensor's rows are drawn from them."""
PIECE = 64 << 20
"""Bytes written at a time."""
TOKENS_OF_CONTEXT = 4096

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


class Stored(NamedTuple):
    """A tensor of the file: its name, its shape with the longest-running axis last, and its format."""

    name: str
    shape: tuple[int, ...]
    format: str


def olmoe() -> Geometry:
    """Return OLMoE-1B-7B, as the models of lrcsim have it."""
    return load_geometry("olmoe-1b-7b")


def narrow() -> Geometry:
    """Return a model with more layers than OLMoE and far fewer bytes in each, built as Qwen3's.

    Invented, so that costs per layer and per byte can be told apart: 24 layers instead of 16, 32 experts of 1024 x 512.
    """
    source = "invented: layers built as those of Qwen3-30B-A3B (its config.json), smaller"
    return replace(
        olmoe(), name="narrow", source=source, layers=24, moe_layers=tuple(range(24)), experts=32, top_k=8,
        hidden=1024, expert_width=512, heads=16, kv_heads=4, head_dim=128, vocab=32000, qk_norm=True,
    )  # fmt: skip


def shallow(geometry: Geometry, layers: int) -> Geometry:
    """Return a model with its first layers alone."""
    return replace(geometry, layers=layers, moe_layers=tuple(range(layers)))


def wide() -> Geometry:
    """Return four layers of Qwen3-30B-A3B with 32 of their 128 experts and few tokens in the vocabulary.

    Its experts are those of a real model, 2048 x 768; a prompt of 128 tokens gives each the 32 tokens that 512 tokens
    give each of 128.
    """
    return replace(shallow(load_geometry("qwen3-30b-a3b"), 4), name="wide", experts=32, vocab=4096)


def cached() -> Geometry:
    """Return one narrow layer with eight experts of 1024 x 256 and few tokens in the vocabulary.

    At most 19 MB, output included, so that all of it stays in the processor's caches from one token to the next.
    """
    return replace(shallow(narrow(), 1), name="cached", experts=8, expert_width=256, vocab=512)


def tiny() -> Geometry:
    """Return the narrow model with two layers and eight experts of 256 x 256: some 2 MB, to try things on."""
    return replace(
        shallow(narrow(), 2), name="tiny", experts=8, top_k=2, hidden=256, expert_width=256, heads=4,
        kv_heads=2, head_dim=64, vocab=512,
    )  # fmt: skip


def stored(geometry: Geometry, dtype: str) -> Iterator[Stored]:
    """Yield every tensor of a file, in llama.cpp's names.

    Args:
        geometry: experts in every layer, plain attention, no shared experts.
        dtype: how the weights are stored, as `lrcsim.models` counts them (``"q4_0"``: the output matrix in Q6_K).

    Raises:
        ConfigError: the geometry is of another kind.
    """
    if geometry.mla or geometry.shared_experts or len(geometry.moe_layers) != geometry.layers or geometry.tied:
        raise ConfigError(f"{geometry.name}: give a model with experts in every layer, without MLA or shared experts")
    for tensor in tensors(geometry):
        kind = format_of(geometry, tensor, dtype)
        if tensor.name == "norm":
            yield from _norms(geometry, tensor.layer)
            continue
        place = tensor.name if tensor.layer < 0 else f"blk.{tensor.layer}.{tensor.name}"
        experts = (geometry.experts,) if tensor.name.endswith("_exps") else ()
        yield Stored(f"{place}.weight", (*experts, tensor.rows, tensor.length), kind)
    yield Stored("output_norm.weight", (geometry.hidden,), "f32")


def write(path: Path, geometry: Geometry, dtype: str, library: Library, seed: int = 0) -> None:
    """Write a GGUF file with random weights.

    Every matrix keeps the size of what goes through it: weights are normal with variance 1 / row length, quantised by
    ggml itself, so that all scales and outputs are finite. Norms are 1.

    Args:
        path: of the file.
        geometry: see `stored`.
        dtype: see `stored`.
        library: quantises.
        seed: of the weights.

    Raises:
        ConfigError: package gguf is not installed, or the geometry is of another kind.
    """
    gguf = _gguf()
    writer = gguf.GGUFWriter(path, architecture(geometry))
    _describe(writer, geometry)
    found = list(stored(geometry, dtype))
    for tensor in found:
        number = getattr(gguf.GGMLQuantizationType, tensor.format.upper())
        row = int(library.c.ggml_row_size(number, tensor.shape[-1]))
        size = row * int(np.prod(tensor.shape[:-1], dtype=np.int64))
        shape = (*tensor.shape[:-1], row) if tensor.format not in ("f32", "f16") else tensor.shape
        kind = {"f32": np.dtype(np.float32), "f16": np.dtype(np.float16)}.get(tensor.format, np.dtype(np.uint8))
        writer.add_tensor_info(tensor.name, shape, kind, size, raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    random, pools = np.random.default_rng(seed), dict[tuple[int, str], Bytes]()
    for tensor in found:
        file = writer.fout[0]
        writer.write_padding(file, file.tell())
        for piece in _rows(tensor, gguf, library, random, pools):
            file.write(piece.tobytes())
        writer.write_padding(file, file.tell())
    writer.close()


@contextmanager
def weights_file(folder: Path, geometry: Geometry, dtype: str, library: Library) -> Iterator[Path]:
    """Give a file with random weights, see `write`; it is removed at the end."""
    path = folder / f".lrcsim-{geometry.name}-{os.getpid()}.gguf"
    try:
        write(path, geometry, dtype, library)
        yield path
    finally:
        path.unlink(missing_ok=True)


def set_top_k(path: Path, geometry: Geometry, top_k: int) -> None:
    """Change in a file how many experts a token uses; models loaded before keep theirs."""
    reader = _gguf().GGUFReader(path, "r+")
    field = reader.get_field(f"{architecture(geometry)}.expert_used_count")
    field.parts[field.data[0]][0] = top_k


def architecture(geometry: Geometry) -> str:
    """Return llama.cpp's name of it: by how queries and keys are normalised, per head or over all heads."""
    return "qwen3moe" if geometry.qk_norm else "olmoe"


def _norms(geometry: Geometry, layer: int) -> Iterator[Stored]:
    heads = (1, 1) if geometry.qk_norm else (geometry.heads, geometry.kv_heads)
    sizes = {"attn_norm": geometry.hidden, "ffn_norm": geometry.hidden} | {
        "attn_q_norm": heads[0] * geometry.head_dim, "attn_k_norm": heads[1] * geometry.head_dim
    }  # fmt: skip
    for name, size in sizes.items():
        yield Stored(f"blk.{layer}.{name}.weight", (size,), "f32")


def _describe(writer: Any, geometry: Geometry) -> None:
    writer.add_name(geometry.name)
    writer.add_context_length(TOKENS_OF_CONTEXT)
    writer.add_embedding_length(geometry.hidden)
    writer.add_block_count(geometry.layers)
    writer.add_feed_forward_length(geometry.expert_width)
    writer.add_expert_feed_forward_length(geometry.expert_width)
    writer.add_expert_count(geometry.experts)
    writer.add_expert_used_count(geometry.top_k)
    writer.add_head_count(geometry.heads)
    writer.add_head_count_kv(geometry.kv_heads)
    writer.add_key_length(geometry.head_dim)
    writer.add_value_length(geometry.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(geometry.vocab)


def _rows(
    tensor: Stored, gguf: Any, library: Library, random: np.random.Generator, pools: dict[tuple[int, str], Bytes]
) -> Iterator[Bytes]:
    """Yield a tensor's bytes, some rows at a time."""
    length, rows = tensor.shape[-1], int(np.prod(tensor.shape[:-1], dtype=np.int64))
    if len(tensor.shape) == 1:
        yield np.ones(length, np.float32).view(np.uint8)
        return
    if (length, tensor.format) not in pools:
        values = random.standard_normal((POOL, length), np.float32) * np.float32(length**-0.5)
        number = getattr(gguf.GGMLQuantizationType, tensor.format.upper())
        pools[length, tensor.format] = library.quantise(values, number)
    pool = pools[length, tensor.format]
    step = max(PIECE // pool.shape[1], 1)
    for begin in range(0, rows, step):
        yield pool[random.integers(0, POOL, min(step, rows - begin))]


def _gguf() -> Any:
    if importlib.util.find_spec("gguf") is None:
        raise ConfigError(f"gguf is not installed: {HOW}")
    return importlib.import_module("gguf")
