"""What a GGUF file says of attention: which layers keep keys and values, how many, for how long.

Heads and windows are keys, widths are tensors. What llama.cpp does where a key is left out is as in src/llama-model.cpp
and src/models/ of ggml-org/llama.cpp, build 11549.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.models.attention import AttentionShape
from lrcsim.models.gguf_header import GgufHeader, GgufTensor

Block = Mapping[str, GgufTensor]
"""The tensors of a layer by their names in it, ``"attn_q.weight"``."""

MOST = 1 << 24
"""Heads, their widths, tokens of a window: more is a lie."""

WINDOWS = {
    "afmoe": 4, "cohere2moe": -4, "exaone-moe": 4, "gpt-oss": 2, "laguna": -4, "llama4": 4, "mellum": 4,
    "muse-glimmer": 4, "smallthinker": -4, "lfm2moe": 0,
}  # fmt: skip
"""Architectures whose windows llama.cpp knows where the file names no layers: of so many layers the last has none, or,
where it is written negative, the first; 0: all that attend have one. Others run without where it is not said."""

FIXED = {"llama4": 8192, "smallthinker": 4096}
"""Windows that llama.cpp takes whatever length the file says."""

LINEAR = {"minimax-01": 8}
"""Architectures with linear attention in all but each so many-th layer, where the file does not say which."""


@dataclass(frozen=True)
class _Latent:
    """Multi-head latent attention, by the fields of `Geometry`."""

    kv_rank: int
    rope_dim: int
    q_rank: int


def attention_of(header: GgufHeader, blocks: Sequence[Block], hidden: int) -> dict[str, Any]:
    """Return what a file says of attention, by the fields of `lrcsim.models.Geometry`.

    Args:
        header: of the file.
        blocks: the tensors of each layer.
        hidden: width of the residual stream.

    Raises:
        ConfigError: keys are missing, disagree with tensors, or tell of attention that a geometry has no place for.
    """
    if header.own("attention.shared_kv_layers") not in (None, 0):
        raise ConfigError(f"{header.path}: layers that use the keys and values of others are not modelled")
    reader = _Reader(header, hidden)
    linear = _linear(header, len(blocks))
    attended = [layer for layer, block in enumerate(blocks) if layer not in linear and _attends(header, block)]
    latent = {layer: reader.latent(blocks[layer]) for layer in attended}
    if len(set(latent.values())) > 1:
        raise ConfigError(f"{header.path}: its layers keep keys and values in unlike ways: that is not modelled")
    window, short = _window(header, attended, len(blocks))
    shapes = {layer: reader.shape(blocks[layer], layer, windowed=layer in short) for layer in attended}
    indexed = [layer for layer in attended if {"indexer.attn_k.weight", "indexer.k_proj.weight"} & blocks[layer].keys()]
    found: dict[str, Any] = {
        **_fields(shapes, short),
        "attention_layers": None if len(attended) == len(blocks) else tuple(attended),
        "window": window,
        "window_layers": short,
        "index_dim": reader.number("attention.indexer.key_length", least=1) if indexed else 0,
        "index_layers": tuple(indexed),
    }
    if attended and (same := latent[attended[0]]) is not None:
        found |= {"kv_rank": same.kv_rank, "rope_dim": same.rope_dim, "q_rank": same.q_rank}
    return found


def _fields(shapes: Mapping[int, AttentionShape], short: Sequence[int]) -> dict[str, Any]:
    """Return heads and their widths: one shape, one for layers with a window and one for the others, or by layer."""
    if not shapes:
        return {"heads": 1, "kv_heads": 1, "head_dim": 1, "value_dim": 1}
    own = Counter(shapes.values()).most_common(1)[0][0]
    more: dict[str, Any] = {}
    if len(set(shapes.values())) > 1 or own.keys_are_values:
        inside = {shape for layer, shape in shapes.items() if layer in short}
        outside = {shape for layer, shape in shapes.items() if layer not in short}
        if len(inside) == len(outside) == 1 and not next(iter(inside)).keys_are_values:
            own, more = inside.pop(), {"global_attention": outside.pop()}
        else:
            more = {"attention_shapes": tuple(shapes.values())}
    widths = {"heads": own.heads, "kv_heads": own.kv_heads, "head_dim": own.head_dim}
    return {**widths, "value_dim": 0 if own.value_dim == own.head_dim else own.value_dim, **more}


def _attends(header: GgufHeader, block: Block) -> bool:
    """Return whether a layer keeps keys and values of every token.

    Layers of Mamba, short convolutions and linear attention have tensors that say so; where both kinds run side by
    side, each has an output matrix of its own.
    """
    if "attn_kv.weight" in block:
        raise ConfigError(f"{header.path}: keys and values that are compressed over tokens (attn_kv) are not modelled")
    if not {"attn_k.weight", "attn_qkv.weight", "attn_kv_a_mqa.weight"} & block.keys():
        return False
    recurrent = any(name.startswith(("ssm_", "shortconv")) for name in block)
    return not recurrent or {"attn_output.weight", "ssm_out.weight"} <= block.keys()


def _linear(header: GgufHeader, layers: int) -> set[int]:
    """Return the layers whose linear attention has tensors with the names of others'."""
    named = header.own("attention.recurrent_layers")
    if isinstance(named, tuple):
        return {layer for layer, linear in enumerate(named[:layers]) if linear}
    every = header.own("full_attention_interval") or LINEAR.get(header.architecture)
    if not isinstance(every, int) or every < 1:
        return set()
    return {layer for layer in range(layers) if (layer + 1) % every}


def _window(header: GgufHeader, attended: Sequence[int], layers: int) -> tuple[int, tuple[int, ...]]:
    """Return the window, and the layers that have it."""
    kind = header.architecture
    said = header.own("attention.sliding_window")
    if said is None and kind == "llama4":
        said = FIXED[kind]  # chunks; the file says 0 where there are none
    if not isinstance(said, int) or isinstance(said, bool) or not 0 < said <= MOST:
        return 0, ()
    named = header.own("attention.sliding_window_pattern")
    if isinstance(named, tuple):
        if len(named) < layers:
            raise ConfigError(
                f"{header.path}: {kind}.attention.sliding_window_pattern has {len(named)} entries for {layers} layers"
            )
        short = tuple(layer for layer in attended if named[layer])
    else:
        known = WINDOWS.get(kind)
        if known is None:
            return 0, ()
        every = named if isinstance(named, int) and not isinstance(named, bool) and named >= 0 else abs(known)
        full = 0 if known < 0 else every - 1
        short = tuple(layer for layer in attended if every == 0 or layer % every != full)
    return (FIXED.get(kind, said), short) if short else (0, ())


class _Reader:
    """Reads what keys and tensors say together of a layer's attention."""

    def __init__(self, header: GgufHeader, hidden: int) -> None:
        self.header, self.hidden = header, hidden

    def number(self, key: str, layer: int = 0, default: int | None = None, *, least: int = 0) -> int:
        """Return a number that a key gives, for all layers or one for each."""
        value = self.header.own(key)
        where = f"{self.header.path}: {self.header.architecture}.{key}"
        if isinstance(value, tuple):
            if layer >= len(value):
                raise ConfigError(f"{where} has {len(value)} entries, and none for layer {layer}")
            value = value[layer]
            found = int(value) if isinstance(value, int) else -1
        else:
            found = self.header.number(key, default)
        if not least <= found <= MOST:
            raise ConfigError(f"{where} is {found:,}: it must be {least} to {MOST:,}")
        return found

    def latent(self, block: Block) -> _Latent | None:
        """Return how keys and values are compressed; None: they are not, or the cache keeps them widened.

        llama.cpp keeps them compressed where ``attn_kv_b`` is in two parts, as files have it since April 2025.
        """
        compressed, keys = block.get("attn_kv_a_mqa.weight"), block.get("attn_k_b.weight")
        if compressed is None or keys is None:
            return None
        rank = self.dimensions(keys, 3)[1]
        rows = self.dimensions(compressed, 2)[1]
        if not 0 < rank <= rows:
            raise ConfigError(f"{self.header.path}: {compressed.name} has {rows} rows, {keys.name} takes {rank}")
        queries = block.get("attn_q_a.weight")
        return _Latent(rank, rows - rank, self.dimensions(queries, 2)[1] if queries is not None else 0)

    def shape(self, block: Block, layer: int, *, windowed: bool) -> AttentionShape:
        """Return a layer's heads and their widths; with MLA of the part without position."""
        keys, values = block.get("attn_k_b.weight"), block.get("attn_v_b.weight")
        if self.latent(block) is not None and keys is not None and values is not None:
            narrow, _, heads = self.dimensions(keys, 3)
            return AttentionShape(heads, heads, narrow, self.dimensions(values, 3)[1])
        heads = self.number("attention.head_count", layer, least=1)
        shared = self.number("attention.head_count_kv", layer, heads, least=1)
        key, value = (self.length(side, heads, windowed=windowed) for side in ("key", "value"))
        if (fused := block.get("attn_qkv.weight")) is not None and "attn_k.weight" not in block:
            rows = self.dimensions(fused, 2)[1]
            if rows <= shared * (key + value):
                raise ConfigError(f"{self.header.path}: {fused.name} has {rows} rows, too few for its heads")
            return AttentionShape(heads, shared, key, value)
        key = self.rows(block, "attn_k.weight", shared) or key
        found = self.rows(block, "attn_v.weight", shared)
        alone = not found and "attn_k.weight" in block
        return AttentionShape(heads, shared, key, key if alone else found or value, keys_are_values=alone)

    def length(self, side: str, heads: int, *, windowed: bool) -> int:
        """Return the width of a key or value head by the keys."""
        own = self.number(f"attention.{side}_length", default=self.hidden // heads)
        return self.number(f"attention.{side}_length_swa", default=own) if windowed else own

    def rows(self, block: Block, name: str, heads: int) -> int:
        """Return the rows of a matrix for each head; 0: there is none."""
        if (tensor := block.get(name)) is None:
            return 0
        rows = self.dimensions(tensor, 2)[1]
        if rows % heads or rows == 0:
            raise ConfigError(f"{self.header.path}: {tensor.name} has {rows:,} rows for {heads:,} heads")
        return rows // heads

    def dimensions(self, tensor: GgufTensor, count: int) -> tuple[int, ...]:
        """Return a tensor's shape, which must have so many dimensions, none of them 0."""
        if len(tensor.shape) != count or 0 in tensor.shape:
            shape = " x ".join(map(str, tensor.shape))
            raise ConfigError(f"{self.header.path}: {tensor.name} is {shape}, {count} dimensions are needed")
        return tensor.shape
