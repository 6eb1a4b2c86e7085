"""What engines take: formats, cards, and the room they need besides weights and KV cache.

Read from their sources and documents (docs/plan.md says which); none was run here.
"""

from __future__ import annotations

import re

from lrcsim.hardware import HardwareProfile
from lrcsim.models import Geometry
from lrcsim.models.formats import GGUF
from lrcsim.models.quantisation import format_of
from lrcsim.models.tensors import Tensor

IN_GGUF = GGUF | {"f32", "bf16", "f16", "mxfp4"}
"""Formats that GGUF files have for experts."""

IN_MLX = {"bf16", "f16", "mxfp4", "mxfp8", "nvfp4"}
"""Formats that MLX has besides its own, `MLX_GROUPS`."""

MLX_GROUPS = re.compile(r"int[2-8]-g(32|64|128)(-bias)?")
"""MLX's own: N bits, in groups with a scale and a bias; who leaves the bias out of the name means the same files."""

EIGHT_BITS = re.compile(
    r"rtx[ -]?(pro[ -]?)?[456]0\d0|\bl4\b|\bl40s?\b|\b[hb][1238]00\b|\bh20\b|\bg[hb]\d+|\b(ada|hopper|blackwell)\b"
)
"""Names of cards that have them: RTX 40 and later, L4, L40, Hopper, Blackwell."""

UBATCH = 512
"""Tokens that llama.cpp runs at once in a prompt (``-ub``, its default)."""


def expert_format(geometry: Geometry, dtype: str) -> str:
    """Return the format of the model's first routed expert's up projection."""
    tensor = Tensor("ffn_up_exps", geometry.moe_layers[0], geometry.expert_width, geometry.hidden)
    return format_of(geometry, tensor, dtype)


def has_eight_bits(profile: HardwareProfile) -> bool:
    """Whether the GPU is known to compute with 8-bit floats, by the profile's name and description."""
    return EIGHT_BITS.search(f"{profile.name} {profile.description}".lower()) is not None


def compute_buffers(geometry: Geometry, layer_experts: int, context: int) -> int:
    """Return the bytes that llama.cpp takes for running a prompt with experts on the CPU, an estimate.

    It reserves for `UBATCH` tokens (llama-context.cpp, ``graph_reserve``): scores of the whole vocabulary in 32 bits, a
    dozen states, the mask of attention in 16 bits. Prompts of 32 tokens and more run on the GPU though the experts are
    in main memory: their tensors are copied there layer after layer (ggml-backend.cpp; ``--no-op-offload`` turns it
    off). Counted is one layer of them, and as much again for what the allocator cannot use in between.

    Args:
        geometry: the model.
        layer_experts: bytes of the routed experts of the largest layer.
        context: tokens that the KV cache has room for.
    """
    return UBATCH * (4 * geometry.vocab + 12 * 4 * geometry.hidden + 2 * context) + 2 * layer_experts
