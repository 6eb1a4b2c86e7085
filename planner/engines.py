"""What released engines take: formats, cards, and the room they need besides weights and KV cache.

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
"""Formats that MLX has besides its own, of N bits with a scale and a bias."""

WITHOUT_CUDA = re.compile(r"apple|phone|adreno|mali")
"""Machines, by name and description, whose GPU vLLM and SGLang do not run on."""

KT_METHODS = {
    "bf16": "BF16", "fp8": "FP8", "mxfp4": "MXFP4", "mxfp8": "MXFP8", "int4-g32-sym": "RAWINT4",
    "int4-g128": "GPTQ_INT4",
}  # fmt: skip
"""ktransformers' ``--kt-method`` by the format of the experts (kt-kernel/python/experts.py of 0.7.0). Experts on the
GPU are the checkpoint's own, so a method that converts those on the CPU (AMXINT8, LLAMAFILE) has two formats."""

KT_LEAST = 22 * 2**30
"""Bytes of a card of "24 GB": what ktransformers' documents ask for (doc/en/kt-kernel/AVX2-Tutorial.md and others)."""

KT_EIGHT_BITS = {"FP8", "MXFP4", "MXFP8"}
"""Methods whose kernels on the GPU use 8-bit floats, which cards have from Ada on (issue 1978 of ktransformers)."""

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


def kt_method(geometry: Geometry, profile: HardwareProfile, dtype: str) -> tuple[str, str]:
    """Return ktransformers' method for a model, a card and a dtype; or empty, and why there is none."""
    name = expert_format(geometry, dtype)
    if name in GGUF:
        return "", (
            f"its experts on the GPU are those of a checkpoint in its own format, never {name} of a GGUF file: "
            "plan with --dtype bf16 or fp8"
        )
    method = KT_METHODS.get(name, "")
    if not method:
        return "", f"it has no method for experts in {name}: {', '.join(KT_METHODS.values())}"
    if profile.gpu is None or profile.gpu.memory < KT_LEAST:
        return "", "its documents ask for a GPU of 24 GB and more"
    if method in KT_EIGHT_BITS and not has_eight_bits(profile):
        return "", f"--kt-method {method} needs a card that computes with 8-bit floats: Ada (RTX 40) or later"
    if method == "MXFP4" and "deepseek" not in geometry.name.lower():
        return method, "its loader of mxfp4 reads DeepSeek-V4's files; with another model's it was not seen to run"
    return method, ""


def released(geometry: Geometry, profile: HardwareProfile, dtype: str) -> tuple[str, ...]:
    """Return the released engines that run this model in this dtype on this card with experts beside the GPU."""
    name = expert_format(geometry, dtype)
    found = ["llama.cpp"] if name in IN_GGUF else []
    method, why_not = kt_method(geometry, profile, dtype)
    if method and not why_not:
        found.append("ktransformers")
    if name not in GGUF:
        found.append("vLLM")
    return tuple(found)


def resident(geometry: Geometry, profile: HardwareProfile, dtype: str) -> tuple[str, ...]:
    """Return the released engines that run this model in this dtype on this machine where all of it fits."""
    name, machine = expert_format(geometry, dtype), f"{profile.name} {profile.description}".lower()
    found = ["llama.cpp"] if name in IN_GGUF else []
    if profile.gpu is not None and name not in GGUF and not WITHOUT_CUDA.search(machine):
        found += ["vLLM", "SGLang"]
    if "apple" in machine and (name in IN_MLX or name.endswith("-bias")):
        found.append("MLX")
    return tuple(found)


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
