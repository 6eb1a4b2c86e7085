"""Quantisation configs of toolkits, which name a format for each group of modules.

AutoRound, compressed-tensors (llm-compressor), TensorRT-Model-Optimizer, torchao and Quark.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from lrcsim.models.formats import group_format
from lrcsim.models.modules import Patterns, Unreadable
from lrcsim.models.scheme import Rule, Scheme, Values, checked, per_weight, table_of, unknown


def auto_round(given: Values, _: Mapping[str, Any]) -> Scheme:
    """AutoRound: as GPTQ or AWQ are packed, or as the floating-point types; ``extra_config`` has single modules."""
    kind = given.text("data_type", default="int")
    bits, group = given.bits("bits", default=4), given.group("group_size", default=128)
    default = _auto_round_format(kind, bits, group)
    rules: list[Rule] = list(given.kept())
    for pattern, change in given.part("extra_config").items():
        table = table_of(change)
        name = _auto_round_format(
            table.text("data_type", default=kind), table.bits("bits", default=bits),
            table.group("group_size", default=group),
        )  # fmt: skip
        rules.append((Patterns([pattern]), name))
    if given.flag("quant_lm_head"):
        rules.append((Patterns(["lm_head"]), default))
    chosen = given.names("block_name_to_quantize", "to_quant_block_names")
    if chosen:
        names = [name for each in chosen for name in str(each).split(",")]
        rules.append((Patterns(names), default))
        default = None
    return Scheme("auto-round", default, tuple(rules))


def _auto_round_format(kind: str, bits: int, group: int) -> str | None:
    if bits >= 16:
        return None
    if kind.startswith("mx_fp"):
        return {4: "mxfp4", 8: "mxfp8"}.get(bits) or unknown("data_type", f"{kind} of {bits} bits")
    if kind.startswith("nv_fp"):
        return "nvfp4" if bits == 4 else unknown("data_type", f"{kind} of {bits} bits")
    if kind.startswith("fp8") or (kind.startswith("fp") and bits == 8):
        return "fp8"
    return checked(group_format(bits, group)) if kind.startswith("int") else unknown("data_type", kind)


def compressed_tensors(given: Values, _: Mapping[str, Any]) -> Scheme | None:
    """compressed-tensors: groups of modules with a format each; what no group names is as it was."""
    sparse = given.part("sparsity_config").get("format", "dense")
    if sparse not in ("dense", None):
        raise Unreadable(f"its weights are sparse ({str(sparse)[:40]!r})")
    layout = given.text("format", default="")
    rules: list[Rule] = list(given.kept())
    named: list[Rule] = []
    default: str | None = None
    for group in given.part("config_groups").values():
        table = table_of(group)
        weights = table.part("weights")
        own = table.text("format", default=layout)
        name = None if not weights or own == "dense" else _number_format(Values(weights), own)
        targets = table.names("targets") or ["Linear"]
        modules = [target for target in targets if target not in LINEAR]
        if len(modules) < len(targets):
            default = name
        for target in modules:
            if name is not None and isinstance(target, str) and re.fullmatch(r"[A-Z]\w*", target):
                raise Unreadable(f"it is told for modules of the class {target[:40]!r}, which is not known")
        if modules:
            named.append((Patterns(modules), name))
    return Scheme("compressed-tensors", default, (*rules, *named))


LINEAR = ("Linear", "LinearBase", "FusedMoE", "MoE")
"""Classes by which compressed-tensors means all matrices but output and embedding."""


def _number_format(weights: Values, layout: str) -> str | None:
    """Return the format of ``{num_bits, type, strategy, group_size, symmetric}``.

    pack-quantized stores N bits; int-quantized and naive-quantized store each integer in a byte. A scale has 16 bits,
    in mxfp formats 8; symmetric formats have no zero point.
    """
    if layout in ("marlin-24", "sparse-24-bitmask", "sparse-bitmask"):
        raise Unreadable(f"its weights are sparse ({layout!r})")
    bits = weights.bits("num_bits", default=8)
    kind = weights.text("type", default="int")
    strategy = weights.text("strategy", default="")
    group = weights.group("group_size", default=-1)
    if bits >= 16:
        return None
    if kind == "float":
        if layout.startswith("mxfp") or (bits == 4 and group == 32):
            return {4: "mxfp4", 8: "mxfp8"}.get(bits) or unknown("num_bits", bits)
        if bits == 4:
            return "nvfp4" if group in (16, -1) else unknown("group_size", group)
        if bits != 8:
            unknown("num_bits", bits)
        if group == 32 and "uint8" in weights.text("scale_dtype", default=""):
            return "mxfp8"
        return "fp8" if group < 0 else per_weight(8 + 16 / group)
    if kind != "int":
        unknown("type", kind)
    if strategy in ("channel", "tensor"):
        group = -1
    if layout in ("int-quantized", "naive-quantized"):
        return "int8" if group < 0 else checked(group_format(8, group, "-sym"))
    if bits == 8 and group < 0:
        return "int8"
    return checked(group_format(bits, group, "-sym" if weights.flag("symmetric", True) else ""))


ALGORITHMS = {
    "fp8": "fp8", "fp8-per-channel-per-token": "fp8", "fp8-pb-wo": "fp8", "fp8-pb-real": "fp8", "mxfp8": "mxfp8",
    "nvfp4": "nvfp4", "nvfp4-awq": "nvfp4", "nvfp4-svdquant": "nvfp4", "w4a16-nvfp4": "nvfp4",
    "w4a8-nvfp4-fp8": "nvfp4", "nvfp4-fp8-mha": "nvfp4", "mxfp4": "mxfp4", "w4a8-mxfp4-fp8": "mxfp4",
    "w8a8-sq-per-channel": "int8", "int8-sq": "int8", "int8": "int8", "w8a16": "int8",
}  # fmt: skip
"""Formats of the weights by ModelOptimizer's ``quant_algo``; 4-bit integers have groups besides."""

INT4_ALGORITHMS = {"int4", "int4-awq", "w4a16", "w4a16-awq", "w4a8-awq", "w4a16-gptq"}


def modelopt(given: Values, _: Mapping[str, Any]) -> Scheme | None:
    """TensorRT-Model-Optimizer, in config.json or hf_quant_config.json; what is left out may have wild cards."""
    algorithm = given.values.get("quant_algo")
    group = given.group("group_size", default=128)
    rules: list[Rule] = list(given.kept("exclude_modules"))
    if algorithm is None and given.part("quantization"):  # as hf_quant_config.json has it
        return modelopt(Values(given.part("quantization")), {})
    if algorithm is None and "config_groups" in given.values:
        return compressed_tensors(given, {})
    if algorithm is None:
        return None  # the KV cache alone
    name = given.text("quant_algo").replace("_", "-")
    if name in ("mixed-precision", "mixed"):
        listed = given.part("quantized_layers")
        if not listed:
            raise Unreadable("quant_algo is MIXED_PRECISION and quantized_layers does not say which is which")
        by_format: dict[str | None, list[str]] = {}
        for module, change in listed.items():
            table = table_of(change)
            kind = table.text("quant_algo").replace("_", "-")
            by_format.setdefault(_algorithm(kind, table.group("group_size", default=group)), []).append(module)
        return Scheme("modelopt", None, (*rules, *((Patterns(names), form) for form, names in by_format.items())))
    return Scheme("modelopt", _algorithm(name, group), tuple(rules))


def _algorithm(name: str, group: int) -> str | None:
    if name in INT4_ALGORITHMS:
        return checked(group_format(4, group, "-sym"))
    if name in ("none", "no-quantization"):
        return None
    return ALGORITHMS.get(name) or unknown("quant_algo", name)


def torchao(given: Values, _: Mapping[str, Any]) -> Scheme:
    """torchao: the name of its config class, or the older name of the type, with a group size."""
    kind: Any = given.values.get("quant_type")
    options: Any = given.values.get("quant_type_kwargs") or {}
    if isinstance(kind, Mapping):
        kind = kind.get("default", kind)
    if isinstance(kind, Mapping):
        options, kind = kind.get("_data", kind), kind.get("_type")
    if not isinstance(kind, str) or not isinstance(options, Mapping):
        raise Unreadable("quant_type does not name a type")
    name = kind.lower().replace("_", "").removesuffix("config")
    table = Values(options)
    if name in TORCHAO_INT4:
        group, more = TORCHAO_INT4[name]
        form = checked(group_format(4, table.group("group_size", default=group), more))
    else:
        form = TORCHAO.get(name) or unknown("quant_type", kind)
    everything = given.flag("include_input_output_embeddings")
    outer: tuple[Rule, ...] = ((Patterns(["lm_head", "embed_tokens"]), form),) if everything else ()
    return Scheme("torchao", form, (*given.kept(), *outer))


TORCHAO_INT4 = {"int4weightonly": (128, "-bias"), "int8dynamicactivationint4weight": (32, "-sym")}
"""Groups of torchao's 4-bit types, and what each has."""

TORCHAO = {
    "int8weightonly": "int8", "int8dynamicactivationint8weight": "int8", "float8weightonly": "fp8",
    "float8dynamicactivationfloat8weight": "fp8", "float8staticactivationfloat8weight": "fp8",
    "nvfp4inference": "nvfp4", "nvfp4weightonly": "nvfp4", "nvfp4dynamicactivationnvfp4weight": "nvfp4",
}  # fmt: skip
"""Its other types, as their weights are stored: an activation's comes first in a name. Types that keep small integers
in whole bytes (Intx) or that are sparse are not guessed."""


def quark(given: Values, _: Mapping[str, Any]) -> Scheme | None:
    """Quark: ``global_quant_config`` and ``layer_quant_config`` by pattern, ``exclude``."""
    if given.part("layer_type_quant_config"):
        raise Unreadable("layer_type_quant_config is not read")
    rules = list(given.kept("exclude"))
    for pattern, change in given.part("layer_quant_config").items():
        rules.append((Patterns([pattern]), _quark_format(table_of(change))))
    return Scheme("quark", _quark_format(Values(given.part("global_quant_config"))), tuple(rules))


def _quark_format(table: Values) -> str | None:
    weight: Any = table.values.get("weight")
    if isinstance(weight, list):  # several stages: the first is what is stored
        weight = weight[0] if weight else None
    if weight is None:
        return None
    given = table_of(weight)
    kind, group = given.text("dtype"), given.group("group_size", default=-1)
    if "fp8" in kind:
        return "fp8"
    if "fp4" in kind or kind in ("mx", "mxfp4"):
        return "mxfp4" if group in (32, -1) else "nvfp4" if group == 16 else unknown("group_size", group)
    if "int8" in kind:
        return "int8" if group < 0 else checked(group_format(8, group))
    if "int4" in kind:
        return checked(group_format(4, group))
    return None if kind in ("bfloat16", "float16") else unknown("dtype", kind)
