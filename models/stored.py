"""The tensors of a model's file: what is really stored, where a geometry is read from one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from lrcsim.base.errors import ConfigError
from lrcsim.models.gguf_header import BLOCKS

OF_FILE = "gguf"
"""The dtype of weights that are stored as the tensors of the model's own file are."""

ROUTED = re.compile(r"ffn_(gate|up|down|gate_up)_exps(\..*)?")
"""Names of what holds all experts of a layer, biases and scales with it (llama.cpp's ``--cpu-moe`` takes the same)."""

EMBEDDINGS = frozenset({"token_embd", "per_layer_token_embd", "position_embd", "token_types"})
"""Of these a token reads a row each."""

_SIZES = {name: (block, size) for name, block, size in BLOCKS.values()}
_MOST = 1 << 20


class Tensor(NamedTuple):
    """A matrix: llama.cpp's name, its layer (-1: none), rows, and the length of a row.

    ``format``: what it is stored in, where it is read from a file; else empty.
    """

    name: str
    layer: int
    rows: int
    length: int
    format: str = ""

    @property
    def routed(self) -> bool:
        """Whether it is of a routed expert, of which the layer has many."""
        return ROUTED.fullmatch(self.name) is not None

    @property
    def stored_bytes(self) -> int:
        """Bytes that it takes in its file."""
        block, size = _SIZES[self.format]
        return self.rows * self.length // block * size


@dataclass(frozen=True)
class Stored:
    """The tensors of a file.

    Attributes:
        file: its path; of a split model the first part's.
        mix: how its quantisation is called, ``"UD-Q4_K_XL"``; empty: it does not say.
        tensors: all that run, as `in_order` has them, of a layer's routed experts one.
        experts: routed experts of a MoE layer.
        idle: bytes of tensors that do not run: of layers that predict further tokens.
        architecture: llama.cpp's name of it, ``"qwen3moe"``.
        top_k: routed experts per token, as the file says.
        missing: bytes of tensors that the file says it has and does not hold; of the download, not of the model.
    """

    file: str
    mix: str
    tensors: tuple[Tensor, ...]
    experts: int
    idle: int = 0
    architecture: str = ""
    top_k: int = 0
    missing: int = field(default=0, compare=False)

    @cached_property
    def layers(self) -> dict[int, tuple[Tensor, ...]]:
        """The tensors by layer; under -1 those of none."""
        found: dict[int, list[Tensor]] = {}
        for tensor in self.tensors:
            found.setdefault(tensor.layer, []).append(tensor)
        return {layer: tuple(tensors) for layer, tensors in found.items()}

    def of_layer(self, layer: int, *, routed: bool) -> list[Tensor]:
        """Return the tensors of a layer: one routed expert's, or all others."""
        return [tensor for tensor in self.layers.get(layer, ()) if tensor.routed == routed]

    @property
    def bytes(self) -> int:
        """Bytes of all tensors of the file."""
        return self.idle + sum(tensor.stored_bytes * self.count(tensor) for tensor in self.tensors)

    def count(self, tensor: Tensor) -> int:
        """Return how many there are of a tensor."""
        return self.experts if tensor.routed else 1

    @cached_property
    def common(self) -> dict[str, str]:
        """The format of most weights, by the tensor's name."""
        weights: dict[str, Counter[str]] = {}
        for tensor in self.tensors:
            weights.setdefault(tensor.name, Counter())[tensor.format] += tensor.rows * tensor.length
        return {name: count.most_common(1)[0][0] for name, count in weights.items()}

    def format_of(self, name: str) -> str:
        """Return the format of most weights of tensors of a name, or of what stands in their place.

        Experts' gates and up projections may be one tensor; queries, keys and values too; a model without an output
        matrix uses the embedding. What has no other name here is in the format of most weights outside of experts.
        """
        places = {"ffn_up_exps": "ffn_gate_up_exps", "ffn_gate_exps": "ffn_gate_up_exps", "output": "token_embd"}
        places |= dict.fromkeys(("attn_q", "attn_k", "attn_v"), "attn_qkv")
        for other in (name, places.get(name, "")):
            if other in self.common:
                return self.common[other]
        weights: Counter[str] = Counter()
        for tensor in self.tensors:
            if tensor.layer >= 0 and not tensor.routed:
                weights[tensor.format] += tensor.rows * tensor.length
        return weights.most_common(1)[0][0]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: tensors that differ by their layer alone are one row.

        Of each row ``[name, rows, row length, format, layers]``, layers as ``"0-3,7"``; empty: none.
        """
        rows: dict[tuple[str, int, int, str, bool], list[int]] = {}
        for name, layer, rows_of, length, kind in self.tensors:
            rows.setdefault((name, rows_of, length, kind, layer < 0), []).append(layer)
        return {
            "file": self.file,
            "mix": self.mix,
            "experts": self.experts,
            "idle": self.idle,
            "architecture": self.architecture,
            "top_k": self.top_k,
            "tensors": [[*about, "" if alone else ranges(layers)] for (*about, alone), layers in rows.items()],
        }


def read_stored(values: Mapping[str, Any]) -> Stored:
    """Read what `Stored.to_dict` wrote.

    Raises:
        ConfigError: it is not that.
    """
    try:
        tensors = tuple(tensor for row in values["tensors"] for tensor in _tensors(row))
        texts = {name: values.get(name, "") for name in ("file", "mix", "architecture")}
        numbers = {name: values.get(name, 0) for name in ("experts", "idle", "top_k")}
        sound = all(isinstance(text, str) for text in texts.values()) and all(_whole(n, 0) for n in numbers.values())
        if not sound or not tensors or numbers["experts"] < 1:
            raise ValueError("a value is of another kind")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"the tensors of the model's file are not as lrcsim writes them ({error})") from None
    return Stored(tensors=in_order(tensors), **texts, **numbers)


def in_order(tensors: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """Return tensors by layer and name, those of no layer first."""
    return tuple(sorted(tensors, key=lambda tensor: (tensor.layer, tensor)))


def _tensors(row: Sequence[Any]) -> Iterator[Tensor]:
    name, rows, length, kind, layers = row
    block, _ = _SIZES[kind]
    if not (isinstance(name, str) and _whole(rows, 0) and _whole(length, 0) and length % block == 0):
        raise ValueError(f"tensor {str(name)[:40]!r}")
    for part in layers.split(",") if layers else ("-1",):
        first, _, last = part.partition("-") if part != "-1" else (part, "", "")
        span = range(int(first), int(last or first) + 1)
        if len(span) > _MOST:
            raise ValueError(f"layers {part[:40]!r}")
        yield from (Tensor(name, layer, rows, length, kind) for layer in span)


def _whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 62


def ranges(layers: Sequence[int]) -> str:
    """Write layers as ``"0-3,7"``."""
    parts: list[list[int]] = []
    for layer in sorted(layers):
        if parts and layer == parts[-1][1] + 1:
            parts[-1][1] = layer
        else:
            parts.append([layer, layer])
    return ",".join(f"{low}" if low == high else f"{low}-{high}" for low, high in parts)
