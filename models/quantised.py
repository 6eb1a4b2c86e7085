"""What a config's quantisation says of its weights: every method of 2026, or the reason why it cannot be told.

Formats and their arithmetic are in `lrcsim.models.formats`. Read from the sources of transformers 5.24
(``utils/quantization_config.py``, ``quantizers/``), compressed-tensors, AutoAWQ, GPTQModel, AutoRound, bitsandbytes,
TensorRT-Model-Optimizer, MLX-LM, Quark, torchao. A method that stores code books or outliers of a size that the config
does not say (AQLM, VPTQ, QuIP#, SpQR) is not guessed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lrcsim.models.formats import find_format, group_format
from lrcsim.models.modules import Patterns, Unreadable

__all__ = ["METHODS", "Scheme", "read_quantisation"]

Rule = tuple[Patterns, str | None]


@dataclass(frozen=True)
class Scheme:
    """In which format which modules are.

    Attributes:
        method: its name, as the config has it.
        default: format of the matrices of attention, experts and dense blocks; None: as they were.
        rules: modules with a format of their own (None: as they were); the first that matches counts.
        everything: whether output matrix, embedding and routers have the default too.
        experts_only: whether only routed experts have the default.
        divisor: rows whose length is no multiple of this stay as they were.
    """

    method: str
    default: str | None
    rules: tuple[Rule, ...] = ()
    everything: bool = False
    experts_only: bool = False
    divisor: int = 1

    def choose(self, tensor: str, names: tuple[str, ...], length: int) -> str | None:
        """Return the format of a tensor whose modules have these names, None: as it was."""
        for patterns, name in self.rules:
            if patterns.match(names):
                return None if name is None or length % self.divisor else name
        outer = tensor in ("output", "token_embd", "ffn_gate_inp")
        if (outer and not self.everything) or (self.experts_only and not tensor.endswith("_exps")):
            return None
        return None if length % self.divisor else self.default


class Values:
    """A quantisation config's keys, with an error that says which value cannot be."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def number(self, *keys: str, default: int | None = None, least: int = 1, most: int = 65_536) -> int:
        """Return a whole number under the first of the keys that is there."""
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise Unreadable(f"{key} is {str(value)[:40]!r}, which must be a whole number of {least} to {most}")
            return value
        if default is None:
            raise Unreadable(f"{keys[0]} is missing")
        return default

    def group(self, *keys: str, default: int) -> int:
        """Return the size of a group; -1 for a whole row."""
        for key in keys:
            if self.values.get(key) in (-1, 0) and not isinstance(self.values[key], bool):
                return -1
        return self.number(*keys, default=default)

    def bits(self, *keys: str, default: int | None = None) -> int:
        """Return a whole number of bits."""
        return self.number(*keys, default=default, least=1, most=16)

    def text(self, *keys: str, default: str = "") -> str:
        """Return a text in lower case."""
        for key in keys:
            value = self.values.get(key)
            if value is not None:
                if not isinstance(value, str):
                    raise Unreadable(f"{key} is {str(value)[:40]!r}, which must be text")
                return value.lower()
        return default

    def flag(self, key: str, default: bool = False) -> bool:
        """Return a truth value."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise Unreadable(f"{key} is {str(value)[:40]!r}, which must be true or false")
        return value

    def part(self, key: str) -> Mapping[str, Any]:
        """Return a table; empty when there is none."""
        value = self.values.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise Unreadable(f"{key} is {str(value)[:40]!r}, which must be a table")
        return value

    def names(self, *keys: str) -> list[object]:
        """Return the lists of modules under all of the keys together."""
        found: list[object] = []
        for key in keys:
            value = self.values.get(key)
            if isinstance(value, str):
                value = [value]
            if value is None or value is False:
                continue
            if not isinstance(value, list | tuple):
                raise Unreadable(f"{key} is {str(value)[:40]!r}, which must be a list of modules")
            found += value
        return found

    def kept(self, *keys: str) -> tuple[Rule, ...]:
        """Return the rule for modules that stay as they were."""
        names = self.names("modules_to_not_convert", "ignore", "ignored_layers", *keys)
        return ((Patterns(names), None),) if names else ()


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


def _awq(given: Values, _: Mapping[str, Any]) -> Scheme:
    """AutoAWQ: N bits, per group a 16-bit scale and an N-bit zero point, that is stored without ``zero_point`` too."""
    name = group_format(given.bits("bits", "w_bit", default=4), given.group("group_size", "q_group_size", default=128))
    return Scheme("awq", _checked(name), given.kept())


def _gptq(given: Values, _: Mapping[str, Any]) -> Scheme:
    """GPTQ: N bits, per group a 16-bit scale and an N-bit zero point, stored where it is symmetric as well.

    The order of columns, 32 bits for each of a matrix's inputs, is not counted.
    """
    bits = given.bits("bits", "w_bit")
    group = given.group("group_size", default=128)
    name = _checked(group_format(bits, group)) if bits < 16 else None
    rules = list(given.kept())
    for pattern, change in given.part("dynamic").items():  # GPTQModel: "-:" leaves out, "+:" or nothing changes
        found = Patterns([pattern.removeprefix("+:").removeprefix("-:")], expressions=True)
        rules.append((found, None if pattern.startswith("-:") else _integer(_table(change), bits, group, "")))
    inside = given.values.get("modules_in_block_to_quantize")
    if isinstance(inside, list) and inside:
        flat = [part for each in inside for part in (each if isinstance(each, list) else [each])]
        rules.append((Patterns(flat), name))
        name = None
    if given.flag("lm_head"):
        rules.append((Patterns(["lm_head"]), _checked(group_format(bits, group))))
    return Scheme("gptq", name, tuple(rules))


def _auto_round(given: Values, _: Mapping[str, Any]) -> Scheme:
    """AutoRound: as GPTQ or AWQ are packed, or as the floating-point types; ``extra_config`` has single modules."""
    kind = given.text("data_type", default="int")
    bits, group = given.bits("bits", default=4), given.group("group_size", default=128)
    default = _auto_round_format(kind, bits, group)
    rules: list[Rule] = list(given.kept())
    for pattern, change in given.part("extra_config").items():
        table = _table(change)
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
        return {4: "mxfp4", 8: "mxfp8"}.get(bits) or _unknown("data_type", f"{kind} of {bits} bits")
    if kind.startswith("nv_fp"):
        return "nvfp4" if bits == 4 else _unknown("data_type", f"{kind} of {bits} bits")
    if kind.startswith("fp8") or (kind.startswith("fp") and bits == 8):
        return "fp8"
    return _checked(group_format(bits, group)) if kind.startswith("int") else _unknown("data_type", kind)


def _bitsandbytes(given: Values, _: Mapping[str, Any]) -> Scheme:
    """Bitsandbytes: 8 bits with a scale per row, or nf4 / fp4 with double quantisation or without."""
    kept = given.names("llm_int8_skip_modules", "modules_to_not_convert")
    rules: tuple[Rule, ...] = ((Patterns(kept), None),) if kept else ()
    four = given.flag("load_in_4bit") or given.flag("_load_in_4bit")
    if four:
        kind = given.text("bnb_4bit_quant_type", default="fp4")
        if kind not in ("nf4", "fp4"):
            _unknown("bnb_4bit_quant_type", kind)
        return Scheme("bitsandbytes", "nf4-double" if given.flag("bnb_4bit_use_double_quant") else "nf4", rules)
    if given.flag("load_in_8bit") or given.flag("_load_in_8bit"):
        return Scheme("bitsandbytes", "int8", rules)
    raise Unreadable("it has neither load_in_4bit nor load_in_8bit")


def _compressed_tensors(given: Values, _: Mapping[str, Any]) -> Scheme | None:
    """compressed-tensors: groups of modules with a format each; what no group names is as it was."""
    sparse = given.part("sparsity_config").get("format", "dense")
    if sparse not in ("dense", None):
        raise Unreadable(f"its weights are sparse ({str(sparse)[:40]!r})")
    layout = given.text("format", default="")
    rules: list[Rule] = list(given.kept())
    named: list[Rule] = []
    default: str | None = None
    for group in given.part("config_groups").values():
        table = _table(group)
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
            return {4: "mxfp4", 8: "mxfp8"}.get(bits) or _unknown("num_bits", bits)
        if bits == 4:
            return "nvfp4" if group in (16, -1) else _unknown("group_size", group)
        if bits != 8:
            _unknown("num_bits", bits)
        if group == 32 and "uint8" in weights.text("scale_dtype", default=""):
            return "mxfp8"
        return "fp8" if group < 0 else _per_weight(8 + 16 / group)
    if kind != "int":
        _unknown("type", kind)
    if strategy in ("channel", "tensor"):
        group = -1
    if layout in ("int-quantized", "naive-quantized"):
        return "int8" if group < 0 else _checked(group_format(8, group, "-sym"))
    if bits == 8 and group < 0:
        return "int8"
    return _checked(group_format(bits, group, "-sym" if weights.flag("symmetric", True) else ""))


ALGORITHMS = {
    "fp8": "fp8", "fp8-per-channel-per-token": "fp8", "fp8-pb-wo": "fp8", "fp8-pb-real": "fp8", "mxfp8": "mxfp8",
    "nvfp4": "nvfp4", "nvfp4-awq": "nvfp4", "nvfp4-svdquant": "nvfp4", "w4a16-nvfp4": "nvfp4",
    "w4a8-nvfp4-fp8": "nvfp4", "nvfp4-fp8-mha": "nvfp4", "mxfp4": "mxfp4", "w4a8-mxfp4-fp8": "mxfp4",
    "w8a8-sq-per-channel": "int8", "int8-sq": "int8", "int8": "int8", "w8a16": "int8",
}  # fmt: skip
"""Formats of the weights by ModelOptimizer's ``quant_algo``; 4-bit integers have groups besides."""

INT4_ALGORITHMS = {"int4", "int4-awq", "w4a16", "w4a16-awq", "w4a8-awq", "w4a16-gptq"}


def _modelopt(given: Values, _: Mapping[str, Any]) -> Scheme | None:
    """TensorRT-Model-Optimizer, in config.json or hf_quant_config.json; what is left out may have wild cards."""
    algorithm = given.values.get("quant_algo")
    group = given.group("group_size", default=128)
    rules: list[Rule] = list(given.kept("exclude_modules"))
    if algorithm is None and given.part("quantization"):  # as hf_quant_config.json has it
        return _modelopt(Values(given.part("quantization")), {})
    if algorithm is None and "config_groups" in given.values:
        return _compressed_tensors(given, {})
    if algorithm is None:
        return None  # the KV cache alone
    name = given.text("quant_algo").replace("_", "-")
    if name in ("mixed-precision", "mixed"):
        listed = given.part("quantized_layers")
        if not listed:
            raise Unreadable("quant_algo is MIXED_PRECISION and quantized_layers does not say which is which")
        by_format: dict[str | None, list[str]] = {}
        for module, change in listed.items():
            table = _table(change)
            kind = table.text("quant_algo").replace("_", "-")
            by_format.setdefault(_algorithm(kind, table.group("group_size", default=group)), []).append(module)
        return Scheme("modelopt", None, (*rules, *((Patterns(names), form) for form, names in by_format.items())))
    return Scheme("modelopt", _algorithm(name, group), tuple(rules))


def _algorithm(name: str, group: int) -> str | None:
    if name in INT4_ALGORITHMS:
        return _checked(group_format(4, group, "-sym"))
    if name in ("none", "no-quantization"):
        return None
    return ALGORITHMS.get(name) or _unknown("quant_algo", name)


def _fp8(given: Values, config: Mapping[str, Any]) -> Scheme:
    """8-bit floats with a scale per block, row or tensor; experts of DeepSeek-V4 as mxfp4 (``expert_dtype``)."""
    name = "fp8"
    block = given.values.get("weight_block_size")
    if block is not None:
        if not isinstance(block, list | tuple) or len(block) != 2 or not all(_counts(size) for size in block):
            raise Unreadable(f"weight_block_size is {str(block)[:40]!r}, which must be two whole numbers")
        scale = 8 if given.text("scale_fmt", default="float") == "ue8m0" else 32
        more = scale / (block[0] * block[1])
        if more >= 0.02:
            name = "mxfp8" if (scale, list(block)) == (8, [1, 32]) else _per_weight(8 + more)
    rules = given.kept()
    experts = given.text("expert_dtype", default=str(config.get("expert_dtype") or "fp8").lower())
    if experts in ("fp4", "mxfp4"):
        rules = (*rules, (Patterns(["experts", "switch_mlp"]), "mxfp4"))
    elif experts not in ("fp8", "float8"):
        _unknown("expert_dtype", experts)
    converted = given.names("modules_to_convert")
    return Scheme("fp8", name, (*rules, (Patterns(converted), name)) if converted else rules)


def _plain(method: str, name: str, *, experts_only: bool = False) -> Callable[[Values, Mapping[str, Any]], Scheme]:
    """Return the reader of a method that has one format."""

    def read(given: Values, _: Mapping[str, Any]) -> Scheme:
        return Scheme(method, name, given.kept("exclude_modules", "skip_modules"), experts_only=experts_only)

    return read


def _hqq(given: Values, _: Mapping[str, Any]) -> Scheme:
    """HQQ: N bits (3 bits are 10 in 32), per group a 16-bit scale and zero point."""
    found = given.part("quant_config")
    kept = given.kept("skip_modules")
    if not found or "weight_quant_params" in found or "nbits" in found:
        table = Values(found.get("weight_quant_params") or found or given.values)
        return Scheme("hqq", _hqq_format(table), kept)
    rules = [(Patterns([name]), _hqq_format(_inner_hqq(table))) for name, table in found.items()]
    return Scheme("hqq", None, (*kept, *rules))


def _inner_hqq(value: object) -> Values:
    table = _table(value)
    return Values(table.part("weight_quant_params") or table.values)


def _hqq_format(table: Values) -> str:
    bits, group = table.bits("nbits", "bits", default=4), table.group("group_size", default=64)
    if bits == 3 and group > 0:
        return _per_weight(3.2 + 32 / group)
    return _checked(group_format(bits, group, "-bias"))


def _quanto(given: Values, _: Mapping[str, Any]) -> Scheme:
    """quanto: 8 bits with a scale per row; 4 and 2 bits in groups of 128 with a 16-bit scale and shift."""
    kinds = {"int8": "int8", "float8": "fp8", "int4": "int4-g128-bias", "int2": "int2-g128-bias"}
    kind = given.text("weights", default="int8")
    return Scheme("quanto", kinds.get(kind) or _unknown("weights", kind), given.kept())


def _torchao(given: Values, _: Mapping[str, Any]) -> Scheme:
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
        form = _checked(group_format(4, table.group("group_size", default=group), more))
    else:
        form = TORCHAO.get(name) or _unknown("quant_type", kind)
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


def _fp_quant(given: Values, _: Mapping[str, Any]) -> Scheme:
    kind = given.text("forward_dtype", "dtype", "weight_dtype", default="nvfp4")
    return Scheme("fp_quant", kind if kind in ("nvfp4", "mxfp4") else _unknown("forward_dtype", kind), given.kept())


def _four_over_six(given: Values, _: Mapping[str, Any]) -> Scheme:
    kind = given.text("weight_dtype", "dtype", default="nvfp4")
    if given.part("module_config_overrides"):
        raise Unreadable("module_config_overrides are not read")
    return Scheme("fouroversix", kind if kind in ("nvfp4", "mxfp4") else _unknown("dtype", kind), given.kept())


def _higgs(given: Values, _: Mapping[str, Any]) -> Scheme:
    """HIGGS: N bits, a 16-bit scale per group."""
    form = group_format(given.bits("bits", default=4), given.group("group_size", default=256), "-sym")
    return Scheme("higgs", _checked(form), given.kept())


def _sinq(given: Values, _: Mapping[str, Any]) -> Scheme:
    """SINQ: as HQQ, and a second scale for each input of a matrix, which is not counted."""
    form = group_format(given.bits("nbits", "bits", default=4), given.group("group_size", default=64), "-bias")
    return Scheme("sinq", _checked(form), given.kept())


def _gemma(given: Values, _: Mapping[str, Any]) -> Scheme:
    """Gemma's own: N bits with a scale per row; modules by regular expression."""
    bits = given.bits("num_bits", default=4)
    rules = list(given.kept())
    for pattern, change in given.part("module_quant_configs").items():
        name = _checked(group_format(_table(change).bits("num_bits", default=bits), -1, "-sym"))
        rules.append((Patterns([pattern], expressions=True), name))
    name = _checked(group_format(bits, -1, "-sym"))
    if given.flag("quantize_embeddings"):
        rules.append((Patterns(["embed_tokens"]), name))
    return Scheme("gemma", name, tuple(rules))


def _exl(given: Values, _: Mapping[str, Any]) -> Scheme:
    """EXL2 and EXL3: a mean number of bits, all included, and another for the output matrix."""
    head: tuple[Rule, ...] = ()
    if given.values.get("head_bits") is not None:
        head = ((Patterns(["lm_head"]), _per_weight(_real(given.values["head_bits"], "head_bits"))),)
    return Scheme(given.text("quant_method"), _per_weight(_real(given.values.get("bits"), "bits")), head)


def _mlx(given: Values, _: Mapping[str, Any]) -> Scheme:
    """MLX: all matrices, output, embedding and routers too, unless a module has its own entry (false: as it was).

    affine: a 16-bit scale and bias per group; mxfp4, mxfp8, nvfp4: their own. An entry takes nothing from the whole:
    one without ``mode`` is affine in a model of mxfp4.
    """
    default, divisor = _mlx_format(given, 4, 64)
    rules: list[Rule] = []
    for name, value in given.values.items():
        if value is False:
            rules.append((Patterns([name]), None))
        elif isinstance(value, Mapping):
            rules.append((Patterns([name]), _mlx_format(Values(value), 4, 64)[0]))
    return Scheme("mlx", default, tuple(rules), everything=True, divisor=divisor)


def _metal(given: Values, _: Mapping[str, Any]) -> Scheme:
    """Transformers' metal: as MLX's affine, of linear layers alone."""
    return Scheme("metal", _mlx_format(Values({**given.values, "mode": "affine"}), 4, 64)[0], given.kept())


def _mlx_format(given: Values, bits: int, group: int) -> tuple[str, int]:
    mode = given.text("mode", default="affine")
    if mode in ("mxfp4", "mxfp8"):
        return mode, 32
    if mode == "nvfp4":
        return mode, 16
    if mode != "affine":
        _unknown("mode", mode)
    size = given.number("group_size", default=group)
    return _checked(group_format(given.bits("bits", default=bits), size, "-bias")), size


def _quark(given: Values, _: Mapping[str, Any]) -> Scheme | None:
    """Quark: ``global_quant_config`` and ``layer_quant_config`` by pattern, ``exclude``."""
    if given.part("layer_type_quant_config"):
        raise Unreadable("layer_type_quant_config is not read")
    rules = list(given.kept("exclude"))
    for pattern, change in given.part("layer_quant_config").items():
        rules.append((Patterns([pattern]), _quark_format(_table(change))))
    return Scheme("quark", _quark_format(Values(given.part("global_quant_config"))), tuple(rules))


def _quark_format(table: Values) -> str | None:
    weight: Any = table.values.get("weight")
    if isinstance(weight, list):  # several stages: the first is what is stored
        weight = weight[0] if weight else None
    if weight is None:
        return None
    given = _table(weight)
    kind, group = given.text("dtype"), given.group("group_size", default=-1)
    if "fp8" in kind:
        return "fp8"
    if "fp4" in kind or kind in ("mx", "mxfp4"):
        return "mxfp4" if group in (32, -1) else "nvfp4" if group == 16 else _unknown("group_size", group)
    if "int8" in kind:
        return "int8" if group < 0 else _checked(group_format(8, group))
    if "int4" in kind:
        return _checked(group_format(4, group))
    return None if kind in ("bfloat16", "float16") else _unknown("dtype", kind)


def _w4afp8(given: Values, _: Mapping[str, Any]) -> Scheme:
    """SGLang's w4afp8: experts in 4 bits in groups of 128 with a 16-bit scale, the rest in fp8."""
    name = _checked(group_format(4, given.group("group_size", default=128), "-sym"))
    return Scheme("w4afp8", "fp8", (*given.kept(), (Patterns(["experts"]), name)))


def _integer(table: Values, bits: int, group: int, kind: str) -> str | None:
    own = table.bits("bits", default=bits)
    return _checked(group_format(own, table.group("group_size", default=group), kind)) if own < 16 else None


def _table(value: object) -> Values:
    if not isinstance(value, Mapping):
        raise Unreadable(f"{str(value)[:40]!r} stands where a table should")
    return Values(value)


def _real(value: object, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.5 <= value <= 16:
        raise Unreadable(f"{key} is {str(value)[:40]!r}, which must be a number of 0.5 to 16")
    return float(value)


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65_536


def _per_weight(bits: float) -> str:
    return f"{round(bits, 4):g}bpw"


def _checked(name: str) -> str:
    if find_format(name) is None:
        raise Unreadable(f"{name} is no format of weights")
    return name


def _unknown(key: str, value: object) -> Any:
    raise Unreadable(f"{key} is {str(value)[:40]!r}, which is not known")


METHODS: dict[str, Callable[[Values, Mapping[str, Any]], Scheme | None]] = {
    **dict.fromkeys(("awq", "awq-marlin", "auto-awq", "cpu-awq", "moe-wna16"), _awq),
    **dict.fromkeys(("gptq", "gptq-marlin", "gptq-bitblas", "gptqmodel"), _gptq),
    **dict.fromkeys(("auto-round", "intel/auto-round", "autoround", "inc"), _auto_round),
    **dict.fromkeys(("bitsandbytes", "bitsandbytes-4bit", "bitsandbytes-8bit"), _bitsandbytes),
    **dict.fromkeys(("compressed-tensors", "compressed-tensor", "llmcompressor"), _compressed_tensors),
    **dict.fromkeys(("modelopt", "modelopt-fp4", "modelopt-fp8", "modelopt-mixed", "modelopt-mxfp8"), _modelopt),
    "fp8": _fp8,
    **dict.fromkeys(("fbgemm-fp8", "ptpc-fp8", "w8a8-fp8", "deepspeedfp8"), _plain("fp8", "fp8")),
    "mxfp4": _plain("mxfp4", "mxfp4", experts_only=True),
    "mxfp8": _plain("mxfp8", "mxfp8"),
    **dict.fromkeys(("nvfp4", "petit-nvfp4"), _plain("nvfp4", "nvfp4")),
    **dict.fromkeys(("eetq", "w8a8-int8", "tpu-int8"), _plain("int8", "int8")),
    "experts-int8": _plain("experts_int8", "int8", experts_only=True),
    "bitnet": _plain("bitnet", "2bpw"),
    "hqq": _hqq,
    "quanto": _quanto,
    "torchao": _torchao,
    "fp-quant": _fp_quant,
    "fouroversix": _four_over_six,
    "higgs": _higgs,
    "sinq": _sinq,
    "gemma": _gemma,
    **dict.fromkeys(("exl2", "exl3"), _exl),
    "mlx": _mlx,
    "metal": _metal,
    "quark": _quark,
    "w4afp8": _w4afp8,
}
"""How each method is read."""

_BOOKS = "its code books"
SIGNS = {
    "bitsandbytes": ("load_in_4bit", "load_in_8bit"), "compressed-tensors": ("config_groups",),
    "modelopt": ("quant_algo", "quantization"), "awq": ("w_bit", "zero_point", "version"),
    "gptq": ("desc_act", "damp_percent", "true_sequential", "static_groups", "checkpoint_format", "sym"),
}  # fmt: skip
"""Keys by which the method of a config is known that does not name it."""

UNTOLD = {
    "aqlm": _BOOKS, "vptq": _BOOKS, "quip": _BOOKS, "quip#": _BOOKS, "quip-sharp": _BOOKS, "spqr": "its outliers",
    "gguf": "the tensors of its file",
}  # fmt: skip
"""Methods that are known and not read, and what their configs do not say."""
