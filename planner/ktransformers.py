"""Where ktransformers runs, by its own documents, and the file of counts that its placement by frequency asks for.

doc/en/support/supported-models-and-precision.md, kt-kernel/Native-Precision-Tutorial.md, kt-kernel/AVX2-Tutorial.md and
kt-kernel/consumer-hardware-configs.md of kvcache-ai/ktransformers, read in 2026; none of it was run here.
"""

from __future__ import annotations

import re

from lrcsim.hardware import HardwareProfile
from lrcsim.models import Geometry, dense_bytes, expert_bytes, output_bytes
from lrcsim.models.formats import GGUF
from lrcsim.models.quantisation import is_of_file
from lrcsim.planner.engines import expert_format, has_eight_bits
from lrcsim.runtimes.machine_kinds import device_kind

METHODS = {
    "bf16": ("BF16",), "fp8": ("FP8", "FP8_PERCHANNEL"), "mxfp4": ("MXFP4",), "mxfp8": ("MXFP8",),
    "int4-g32": ("RAWINT4",), "int4-g32-sym": ("RAWINT4",), "int4-g128": ("GPTQ_INT4",),
}  # fmt: skip
"""Its ``--kt-method`` by the format of the experts (kt-kernel/python/experts.py of 0.7.0). Experts on the GPU are the
checkpoint's own, so a method that converts those on the CPU (AMXINT8, LLAMAFILE) has two formats."""

MODELS = {
    "BF16": r"qwen3|glm-?(4\.7(?!-flash)|5)",
    "FP8": r"qwen3|deepseek-?(v3|r1)|minimax-?m2",
    "FP8_PERCHANNEL": r"glm-?(4\.7(?!-flash)|5)",
    "RAWINT4": r"kimi-?k2",
    "GPTQ_INT4": r"qwen3",
    "MXFP4": r"deepseek-?v4",
    "MXFP8": r"minimax-?m3",
}
"""Models, by how their names begin, that its documents have a page or a line for with this method."""

WITH_AVX2 = ("BF16", "FP8", "GPTQ_INT4", "MXFP4")
"""Methods that its documents have for processors without AVX-512."""

LEAST = 22 * 2**30
"""Bytes of a card of "24 GB", which they ask for."""

EIGHT_BITS = ("FP8", "FP8_PERCHANNEL", "MXFP4", "MXFP8")
"""Methods whose kernels on the GPU use 8-bit floats, which cards have from Ada on (issue 1978 of ktransformers)."""


def kt_method(geometry: Geometry, profile: HardwareProfile, dtype: str) -> tuple[str, str]:
    """Return ktransformers' method for a model, a machine and a dtype; or empty, and why its documents have none."""
    name = expert_format(geometry, dtype)
    if name in GGUF or is_of_file(dtype):
        return "", (
            f"its experts on the GPU are those of a checkpoint in its own format, never {name} of a GGUF file: "
            "plan with --dtype bf16 or fp8"
        )
    if name not in METHODS:
        known = dict.fromkeys(method for methods in METHODS.values() for method in methods)
        return "", f"it has no method for experts in {name}: {', '.join(known)}"
    if device_kind(profile) != "cuda" or profile.gpu is None or profile.gpu.memory < LEAST:
        return "", "its documents ask for a GPU of 24 GB and more, NVIDIA's"
    fits = [method for method in METHODS[name] if re.match(MODELS[method], geometry.name.lower())]
    if not fits:
        return "", f"its documents have no line for {geometry.name} with {' or '.join(METHODS[name])}"
    method = fits[0]
    if method in EIGHT_BITS and not has_eight_bits(profile):
        return "", f"--kt-method {method} needs a card that computes with 8-bit floats: Ada (RTX 40) or later"
    isa = profile.cpu.isa
    if isa and isa != "avx512" and (isa != "avx2" or method not in WITH_AVX2):
        return "", f"--kt-method {method} needs a processor with AVX-512, and {profile.name} has {isa}"
    weights = int(expert_bytes(geometry, dtype).sum()) * geometry.experts + int(dense_bytes(geometry, dtype).sum())
    weights += output_bytes(geometry, dtype)
    if profile.dram.memory < weights:
        return "", f"its documents ask for as much main memory as the weights take: {weights / 2**30:.0f} GiB"
    return method, ""
