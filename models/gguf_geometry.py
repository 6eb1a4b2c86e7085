"""The geometry of a model from the header of its GGUF file: what its tensors are, and what its keys say of attention.

Tensors count before keys: which layers have experts, how wide things are, what is shared and what is tied follows from
them, for any architecture. Keys say what tensors do not: heads, top-k, windows. Names of both are llama.cpp's
(src/llama-arch.cpp of ggml-org/llama.cpp, build 11549).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.models.geometry import BIASES, Geometry
from lrcsim.models.gguf_attention import attention_of
from lrcsim.models.gguf_header import GgufHeader, GgufTensor, read_header
from lrcsim.models.gguf_names import mix_of, name_of
from lrcsim.models.stored import OF_FILE, Stored, Tensor, in_order

BLOCK = re.compile(r"blk\.(\d{1,6})\.(.+)")
ONE_BY_ONE = re.compile(r"ffn_(gate|up|down)\.\d+\.weight")
MOST_LAYERS = 10_000
UNLIKE = ("ffn_gate_chexps", "ffn_up_chexps", "ffn_down_chexps", "attn_v_exps")
"""Routed parts that a geometry has no place for."""


def geometry_from_gguf(path: str | Path) -> Geometry:
    """Read a GGUF file's header, of a split model all headers, as a geometry with every tensor (`Stored`).

    Args:
        path: the file; of a split model any of its parts.

    Raises:
        ConfigError: it cannot be read, is no Mixture-of-Experts model, or says what cannot be; one line.
    """
    return geometry_from_header(read_header(path))


def geometry_from_header(header: GgufHeader) -> Geometry:
    """Turn a header into a geometry; see `geometry_from_gguf`."""
    layers, blocks, others, idle = _blocks(header)
    moe = [layer for layer in range(layers) if any(_routed(tensor) for tensor in blocks[layer])]
    if not moe:
        one_by_one = any(ONE_BY_ONE.fullmatch(name) for block in blocks for name, _ in _named(block))
        raise ConfigError(
            f"{header.path}: has a tensor for each expert, as files had until April 2024: convert it anew"
            if one_by_one
            else f"{header.path} is no Mixture-of-Experts model: no layer has routed experts"
        )
    experts, hidden = _experts(header, [blocks[layer] for layer in moe]), _width(header, others)
    top_k = _alike(header, "expert_used_count", moe, layers)
    if not 1 <= top_k <= experts:
        raise ConfigError(f"{header.path} routes a token to {top_k} of {experts} experts: it must be 1 to {experts}")
    placed = [*enumerate(blocks), (-1, others)]
    stored = Stored(
        str(header.path),
        mix_of(header),
        in_order(_tensor(tensor, layer, experts) for layer, inside in placed for tensor in inside),
        experts,
        idle,
        header.architecture,
        top_k,
        header.missing,
    )
    embedding = next(one for one in stored.layers[-1] if one.name == "token_embd")
    names = {one.name for one in stored.layers[-1]}
    return Geometry(
        name=name_of(header),
        source=f"GGUF file {header.path.name}, architecture {header.architecture}",
        layers=layers,
        moe_layers=tuple(moe),
        experts=experts,
        top_k=top_k,
        hidden=hidden,
        vocab=embedding.rows,
        tied="output" not in names,
        biases=_biases(stored),
        dtype=OF_FILE,
        stored=stored,
        **_feed_forward(header, stored, moe, layers),
        **attention_of(header, [dict(_named(block)) for block in blocks], hidden),
    )


def _blocks(header: GgufHeader) -> tuple[int, list[list[GgufTensor]], list[GgufTensor], int]:
    """Return how many layers run, their tensors, those of no layer, and the bytes of those that do not run."""
    every = header.number("block_count")
    ahead = header.number("nextn_predict_layers", 0)
    if not 0 <= ahead < every <= MOST_LAYERS:
        raise ConfigError(
            f"{header.path}: says it has {every:,} layers, {ahead:,} of them for further tokens: it must be 1 to "
            f"{MOST_LAYERS:,}, and fewer"
        )
    layers, idle = every - ahead, 0
    blocks: list[list[GgufTensor]] = [[] for _ in range(layers)]
    others: list[GgufTensor] = []
    for tensor in header.tensors.values():
        match = BLOCK.fullmatch(tensor.name)
        if match is None:
            if tensor.name.startswith("nextn."):
                idle += tensor.bytes
            else:
                others.append(tensor)
        elif int(match[1]) < layers:
            blocks[int(match[1])].append(tensor)
        elif int(match[1]) < every:
            idle += tensor.bytes
        else:
            raise ConfigError(f"{header.path}: says it has {every} layers, and has the tensor {tensor.name[:60]!r}")
    if empty := next((str(layer) for layer, block in enumerate(blocks) if not block), ""):
        raise ConfigError(f"{header.path}: says it has {every} layers, and layer {empty} has no tensors")
    return layers, blocks, others, idle


def _named(block: Iterable[GgufTensor]) -> list[tuple[str, GgufTensor]]:
    """Return tensors of a block by their names in it, ``"attn_q.weight"``."""
    return [(match[2], tensor) for tensor in block if (match := BLOCK.fullmatch(tensor.name))]


def _routed(tensor: GgufTensor) -> bool:
    return _short(tensor) in ("ffn_up_exps", "ffn_gate_up_exps", "ffn_down_exps", "ffn_gate_exps")


def _short(tensor: GgufTensor) -> str:
    """Return a tensor's name without its block and ``.weight``: of a bias ``"attn_q.bias"``."""
    match = BLOCK.fullmatch(tensor.name)
    return (match[2] if match else tensor.name).removesuffix(".weight")


def _tensor(tensor: GgufTensor, layer: int, experts: int) -> Tensor:
    """Return a file's tensor as rows, of routed experts one's; rows of all further dimensions together."""
    length, *rest = tensor.shape
    found = Tensor(_short(tensor), layer, prod(rest), length, tensor.type)
    if layer < 0 or not found.routed:
        return found
    if len(rest) == 0:  # a number for each expert
        return found._replace(length=length // experts)
    return found._replace(rows=prod(rest) // experts)


def _experts(header: GgufHeader, blocks: Sequence[Sequence[GgufTensor]]) -> int:
    """Return the number of experts of every layer that has any.

    Raises:
        ConfigError: tensors disagree, or are of parts that a geometry has no place for.
    """
    counts = set()
    for tensor in (tensor for block in blocks for tensor in block):
        found = _tensor(tensor, 0, 1)
        if found.routed:
            counts.add(tensor.shape[-1])
            if _routed(tensor) and len(tensor.shape) != 3:
                raise ConfigError(f"{header.path}: {tensor.name} has {len(tensor.shape)} dimensions, experts have 3")
        elif found.name == "ffn_gate_inp":
            counts.add(tensor.shape[-1])
        elif found.name in UNLIKE:
            raise ConfigError(
                f"{header.path}: has {tensor.name}: parts that are routed besides experts are not modelled"
            )
    if len(counts) != 1 or 0 in counts:
        raise ConfigError(
            f"{header.path}: its layers have {', '.join(map(str, sorted(counts)))} experts: one number is needed"
        )
    return counts.pop()


def _width(header: GgufHeader, others: Sequence[GgufTensor]) -> int:
    """Return the width of the residual stream, a row of the embedding."""
    embedding = next((tensor for tensor in others if tensor.name == "token_embd.weight"), None)
    if embedding is None or len(embedding.shape) != 2 or 0 in embedding.shape:
        raise ConfigError(f"{header.path}: has no embedding (token_embd.weight): a whole model is needed")
    return embedding.shape[0]


def _alike(header: GgufHeader, key: str, moe: Sequence[int], layers: int) -> int:
    """Return a number that a key may give by layer, which all MoE layers must share."""
    value = header.own(key)
    if not isinstance(value, tuple):
        return header.number(key)
    if len(value) < layers or len(found := {value[layer] for layer in moe}) != 1 or not isinstance(value[0], int):
        raise ConfigError(f"{header.path}: {header.architecture}.{key} differs by layer: one number is needed")
    return int(found.pop())


def _feed_forward(header: GgufHeader, stored: Stored, moe: Sequence[int], layers: int) -> dict[str, Any]:
    """Return the widths of experts, of what they share, and of dense blocks, by the fields of `Geometry`.

    Raises:
        ConfigError: experts are not as wide in every layer.
    """

    def widths(name: str, among: Iterable[int]) -> Counter[int]:
        """Return the rows of the last matrices: how wide it is inside."""
        return Counter(one.length for layer in among for one in stored.layers.get(layer, ()) if one.name == name)

    inside = widths("ffn_down_exps", moe)
    if len(inside) != 1 or inside.total() != len(moe) or 0 in inside:
        raise ConfigError(
            f"{header.path}: its experts are {', '.join(map(str, sorted(inside))) or 'nothing'} wide: one is needed"
        )
    width = inside.popitem()[0]
    beside = {name: widths(name, moe) for name in ("ffn_down_shexp", "ffn_down")}
    shared = sum(max(found, default=0) for found in beside.values())
    counted = header.number("expert_shared_count", 0) if isinstance(header.own("expert_shared_count"), int) else 0
    dense = widths("ffn_down", set(range(layers)) - set(moe))
    names = {one.name for one in stored.tensors}
    return {
        "expert_width": width,
        "shared_experts": (counted or max(1, shared // width)) if shared else 0,
        "shared_width": shared,
        "shared_gate": "ffn_gate_inp_shexp" in names,
        "dense_width": dense.most_common(1)[0][0] if dense else 0,
        "matrices": 3 if {"ffn_gate_exps", "ffn_gate_up_exps"} & names else 2,
        "qk_norm": "attn_q_norm" in names,
    }


def _biases(stored: Stored) -> tuple[str, ...]:
    """Return what has biases, in words of `lrcsim.models.geometry.BIASES`."""
    names = {one.name for one in stored.tensors}
    signs = {
        "q": ("attn_q.bias", "attn_qkv.bias"), "k": ("attn_k.bias", "attn_qkv.bias"),
        "v": ("attn_v.bias", "attn_qkv.bias"), "attn_output": ("attn_output.bias",), "sinks": ("attn_sinks",),
        "router": ("ffn_gate_inp.bias", "exp_probs_b.bias", "exp_probs_b"),
        "ffn": ("ffn_down_exps.bias", "ffn_down.bias"), "output": ("output.bias",),
    }  # fmt: skip
    return tuple(name for name in BIASES if names & set(signs[name]))
