"""The size of what the engine runs: a model's geometry, in bfloat16, and how many different experts there are."""

from __future__ import annotations

import os
from dataclasses import dataclass

from lrcsim.base.errors import ConfigError
from lrcsim.models import Geometry

BYTES = 2
"""Of a number in bfloat16."""
UNIQUE_BYTES = 10 << 30
"""Of different experts in host memory, at most; further ones have the weights of these."""


@dataclass(frozen=True)
class EngineShape:
    """A model as the engine runs it.

    Attributes:
        geometry: the model.
        unique: different experts; expert ``key`` has the weights of number ``key % unique``.
    """

    geometry: Geometry
    unique: int

    @property
    def layers(self) -> int:
        """MoE layers."""
        return len(self.geometry.moe_layers)

    @property
    def numbers(self) -> int:
        """Weights of an expert: gate, up, down."""
        return 3 * self.geometry.hidden * self.geometry.expert_width

    @property
    def expert_bytes(self) -> int:
        """Bytes of an expert."""
        return BYTES * self.numbers

    def to_dict(self) -> dict[str, int]:
        """Return what files say of it."""
        of = self.geometry
        return {
            "L": self.layers,
            "E": of.experts,
            "hidden": of.hidden,
            "ffn": of.expert_width,
            "heads": of.heads,
            "kv": of.kv_heads,
            "hd": of.head_dim,
            "vocab": of.vocab,
            "unique": self.unique,
        }


def shape_of(geometry: Geometry, unique: int | None = None) -> EngineShape:
    """Return the shape of a model.

    Args:
        geometry: every layer has routed experts of three matrices, softmax attention, and nothing else.
        unique: different experts; None: `UNIQUE_BYTES` of them, but no more than a third of main memory.

    Raises:
        ConfigError: the model has parts that this engine does not run.
    """
    others = geometry.shared_experts or geometry.dense_layers or geometry.mla or geometry.matrices != 3
    if others or geometry.attention_layers is not None:
        raise ConfigError(
            f"model {geometry.name} has shared experts, dense layers or attention of another kind, which this engine "
            "does not run: use one such as qwen3-30b-a3b or gpt-oss-20b"
        )
    experts = len(geometry.moe_layers) * geometry.experts
    if unique is None:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        room = min(UNIQUE_BYTES, memory // 3)
        unique = room // EngineShape(geometry, 1).expert_bytes
    if unique < 1:
        raise ConfigError(f"{unique} different experts are given or fit into memory: at least 1 is needed (--unique)")
    return EngineShape(geometry, min(unique, experts))
