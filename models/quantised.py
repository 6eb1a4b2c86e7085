"""What a config's quantisation says of its weights: every method of 2026, or the reason why it cannot be told.

Formats and their arithmetic are in `lrcsim.models.formats`. Read from the sources of transformers 5.24
(``utils/quantization_config.py``, ``quantizers/``), compressed-tensors, AutoAWQ, GPTQModel, AutoRound, bitsandbytes,
TensorRT-Model-Optimizer, MLX-LM, Quark, torchao. A method that stores code books or outliers of a size that the config
does not say (AQLM, VPTQ, QuIP#, SpQR) is not guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lrcsim.models.methods import (
    awq,
    bitsandbytes,
    exl,
    four_over_six,
    fp8,
    fp_quant,
    gemma,
    gptq,
    higgs,
    hqq,
    metal,
    mlx,
    plain,
    quanto,
    sinq,
    w4afp8,
)
from lrcsim.models.modules import Unreadable
from lrcsim.models.scheme import Scheme, Values
from lrcsim.models.toolkits import auto_round, compressed_tensors, modelopt, quark, torchao


def read_quantisation(values: Mapping[str, Any], config: Mapping[str, Any]) -> Scheme | None:
    """Read a quantisation config.

    Args:
        values: what stands under ``quantization_config``, ``quantization`` or ``compression_config``.
        config: the config around it.

    Returns:
        The scheme; None where nothing is quantised.

    Raises:
        Unreadable: the method is not known, or says too little; the text has no full stop.
    """
    given = Values(values)
    method = given.text("quant_method", "quantization_method").replace("_", "-") or _unnamed(values)
    for known, read in METHODS.items():
        if method == known:
            return read(given, config)
    if method in UNTOLD:
        raise Unreadable(f"the config of {method} does not say how large {UNTOLD[method]} are")
    raise Unreadable(f"the method {method[:40]!r} is not known")


def _unnamed(values: Mapping[str, Any]) -> str:
    """Return the method of a config that names none, by keys that no other has."""
    for method, keys in SIGNS.items():
        if any(values.get(key) is not None for key in keys):
            return method
    others = (value for key, value in values.items() if key not in ("bits", "group_size", "mode"))
    if ("bits" in values or "mode" in values) and all(isinstance(value, bool | Mapping) for value in others):
        return "mlx"
    raise Unreadable("it names no method")


METHODS: dict[str, Callable[[Values, Mapping[str, Any]], Scheme | None]] = {
    **dict.fromkeys(("awq", "awq-marlin", "auto-awq", "cpu-awq", "moe-wna16"), awq),
    **dict.fromkeys(("gptq", "gptq-marlin", "gptq-bitblas", "gptqmodel"), gptq),
    **dict.fromkeys(("auto-round", "intel/auto-round", "autoround", "inc"), auto_round),
    **dict.fromkeys(("bitsandbytes", "bitsandbytes-4bit", "bitsandbytes-8bit"), bitsandbytes),
    **dict.fromkeys(("compressed-tensors", "compressed-tensor", "llmcompressor"), compressed_tensors),
    **dict.fromkeys(("modelopt", "modelopt-fp4", "modelopt-fp8", "modelopt-mixed", "modelopt-mxfp8"), modelopt),
    "fp8": fp8,
    **dict.fromkeys(("fbgemm-fp8", "ptpc-fp8", "w8a8-fp8", "deepspeedfp8"), plain("fp8", "fp8")),
    "mxfp4": plain("mxfp4", "mxfp4", experts_only=True),
    "mxfp8": plain("mxfp8", "mxfp8"),
    **dict.fromkeys(("nvfp4", "petit-nvfp4"), plain("nvfp4", "nvfp4")),
    **dict.fromkeys(("eetq", "w8a8-int8", "tpu-int8"), plain("int8", "int8")),
    "experts-int8": plain("experts_int8", "int8", experts_only=True),
    "bitnet": plain("bitnet", "2bpw"),
    "hqq": hqq,
    "quanto": quanto,
    "torchao": torchao,
    "fp-quant": fp_quant,
    "fouroversix": four_over_six,
    "higgs": higgs,
    "sinq": sinq,
    "gemma": gemma,
    **dict.fromkeys(("exl2", "exl3"), exl),
    "mlx": mlx,
    "metal": metal,
    "quark": quark,
    "w4afp8": w4afp8,
}
"""How each method is read."""

SIGNS = {
    "bitsandbytes": ("load_in_4bit", "load_in_8bit"), "compressed-tensors": ("config_groups",),
    "modelopt": ("quant_algo", "quantization"), "awq": ("w_bit", "zero_point", "version"),
    "gptq": ("desc_act", "damp_percent", "true_sequential", "static_groups", "checkpoint_format", "sym"),
}  # fmt: skip
"""Keys by which the method of a config is known that does not name it."""

_BOOKS = "its code books"

UNTOLD = {
    "aqlm": _BOOKS, "vptq": _BOOKS, "quip": _BOOKS, "quip#": _BOOKS, "quip-sharp": _BOOKS, "spqr": "its outliers",
    "gguf": "the tensors of its file",
}  # fmt: skip
"""Methods that are known and not read, and what their configs do not say."""
