"""Quantisation configs of single methods, which have a few keys of their own: AWQ, GPTQ, fp8, HQQ, MLX ..."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lrcsim.models.formats import group_format
from lrcsim.models.modules import Patterns, Unreadable
from lrcsim.models.scheme import Rule, Scheme, Values, checked, counts, per_weight, real, table_of, unknown


def awq(given: Values, _: Mapping[str, Any]) -> Scheme:
    """AutoAWQ: N bits, per group a 16-bit scale and an N-bit zero point, that is stored without ``zero_point`` too."""
    name = group_format(given.bits("bits", "w_bit", default=4), given.group("group_size", "q_group_size", default=128))
    return Scheme("awq", checked(name), given.kept())


def gptq(given: Values, _: Mapping[str, Any]) -> Scheme:
    """GPTQ: N bits, per group a 16-bit scale and an N-bit zero point, stored where it is symmetric as well.

    The order of columns, 32 bits for each of a matrix's inputs, is not counted.
    """
    bits = given.bits("bits", "w_bit")
    group = given.group("group_size", default=128)
    name = checked(group_format(bits, group)) if bits < 16 else None
    rules = list(given.kept())
    for pattern, change in given.part("dynamic").items():  # GPTQModel: "-:" leaves out, "+:" or nothing changes
        found = Patterns([pattern.removeprefix("+:").removeprefix("-:")], expressions=True)
        rules.append((found, None if pattern.startswith("-:") else _integer_format(table_of(change), bits, group, "")))
    inside = given.values.get("modules_in_block_to_quantize")
    if isinstance(inside, list) and inside:
        flat = [part for each in inside for part in (each if isinstance(each, list) else [each])]
        rules.append((Patterns(flat), name))
        name = None
    if given.flag("lm_head"):
        rules.append((Patterns(["lm_head"]), checked(group_format(bits, group))))
    return Scheme("gptq", name, tuple(rules))


def bitsandbytes(given: Values, _: Mapping[str, Any]) -> Scheme:
    """Bitsandbytes: 8 bits with a scale per row, or nf4 / fp4 with double quantisation or without."""
    kept = given.names("llm_int8_skip_modules", "modules_to_not_convert")
    rules: tuple[Rule, ...] = ((Patterns(kept), None),) if kept else ()
    four = given.flag("load_in_4bit") or given.flag("_load_in_4bit")
    if four:
        kind = given.text("bnb_4bit_quant_type", default="fp4")
        if kind not in ("nf4", "fp4"):
            unknown("bnb_4bit_quant_type", kind)
        return Scheme("bitsandbytes", "nf4-double" if given.flag("bnb_4bit_use_double_quant") else "nf4", rules)
    if given.flag("load_in_8bit") or given.flag("_load_in_8bit"):
        return Scheme("bitsandbytes", "int8", rules)
    raise Unreadable("it has neither load_in_4bit nor load_in_8bit")


def fp8(given: Values, config: Mapping[str, Any]) -> Scheme:
    """8-bit floats with a scale per block, row or tensor; experts of DeepSeek-V4 as mxfp4 (``expert_dtype``)."""
    name = "fp8"
    block = given.values.get("weight_block_size")
    if block is not None:
        if not isinstance(block, list | tuple) or len(block) != 2 or not all(counts(size) for size in block):
            raise Unreadable(f"weight_block_size is {str(block)[:40]!r}, which must be two whole numbers")
        scale = 8 if given.text("scale_fmt", default="float") == "ue8m0" else 32
        more = scale / (block[0] * block[1])
        if more >= 0.02:
            name = "mxfp8" if (scale, list(block)) == (8, [1, 32]) else per_weight(8 + more)
    rules = given.kept()
    experts = given.text("expert_dtype", default=str(config.get("expert_dtype") or "fp8").lower())
    if experts in ("fp4", "mxfp4"):
        rules = (*rules, (Patterns(["experts", "switch_mlp"]), "mxfp4"))
    elif experts not in ("fp8", "float8"):
        unknown("expert_dtype", experts)
    converted = given.names("modules_to_convert")
    return Scheme("fp8", name, (*rules, (Patterns(converted), name)) if converted else rules)


def plain(method: str, name: str, *, experts_only: bool = False) -> Callable[[Values, Mapping[str, Any]], Scheme]:
    """Return the reader of a method that has one format."""

    def read(given: Values, _: Mapping[str, Any]) -> Scheme:
        return Scheme(method, name, given.kept("exclude_modules", "skip_modules"), experts_only=experts_only)

    return read


def hqq(given: Values, _: Mapping[str, Any]) -> Scheme:
    """HQQ: N bits (3 bits are 10 in 32), per group a 16-bit scale and zero point."""
    found = given.part("quant_config")
    kept = given.kept("skip_modules")
    if not found or "weight_quant_params" in found or "nbits" in found:
        table = Values(found.get("weight_quant_params") or found or given.values)
        return Scheme("hqq", _hqq_format(table), kept)
    rules = [(Patterns([name]), _hqq_format(_inner_hqq(table))) for name, table in found.items()]
    return Scheme("hqq", None, (*kept, *rules))


def _inner_hqq(value: object) -> Values:
    table = table_of(value)
    return Values(table.part("weight_quant_params") or table.values)


def _hqq_format(table: Values) -> str:
    bits, group = table.bits("nbits", "bits", default=4), table.group("group_size", default=64)
    if bits == 3 and group > 0:
        return per_weight(3.2 + 32 / group)
    return checked(group_format(bits, group, "-bias"))


def quanto(given: Values, _: Mapping[str, Any]) -> Scheme:
    """quanto: 8 bits with a scale per row; 4 and 2 bits in groups of 128 with a 16-bit scale and shift."""
    kinds = {"int8": "int8", "float8": "fp8", "int4": "int4-g128-bias", "int2": "int2-g128-bias"}
    kind = given.text("weights", default="int8")
    return Scheme("quanto", kinds.get(kind) or unknown("weights", kind), given.kept())


def fp_quant(given: Values, _: Mapping[str, Any]) -> Scheme:
    """FP-Quant: nvfp4 or mxfp4, by the type of the forward pass."""
    kind = given.text("forward_dtype", "dtype", "weight_dtype", default="nvfp4")
    return Scheme("fp_quant", kind if kind in ("nvfp4", "mxfp4") else unknown("forward_dtype", kind), given.kept())


def four_over_six(given: Values, _: Mapping[str, Any]) -> Scheme:
    """Four over six: nvfp4 or mxfp4 with scales chosen in another way."""
    kind = given.text("weight_dtype", "dtype", default="nvfp4")
    if given.part("module_config_overrides"):
        raise Unreadable("module_config_overrides are not read")
    return Scheme("fouroversix", kind if kind in ("nvfp4", "mxfp4") else unknown("dtype", kind), given.kept())


def higgs(given: Values, _: Mapping[str, Any]) -> Scheme:
    """HIGGS: N bits, a 16-bit scale per group."""
    form = group_format(given.bits("bits", default=4), given.group("group_size", default=256), "-sym")
    return Scheme("higgs", checked(form), given.kept())


def sinq(given: Values, _: Mapping[str, Any]) -> Scheme:
    """SINQ: as HQQ, and a second scale for each input of a matrix, which is not counted."""
    form = group_format(given.bits("nbits", "bits", default=4), given.group("group_size", default=64), "-bias")
    return Scheme("sinq", checked(form), given.kept())


def gemma(given: Values, _: Mapping[str, Any]) -> Scheme:
    """Gemma's own: N bits with a scale per row; modules by regular expression."""
    bits = given.bits("num_bits", default=4)
    rules = list(given.kept())
    for pattern, change in given.part("module_quant_configs").items():
        name = checked(group_format(table_of(change).bits("num_bits", default=bits), -1, "-sym"))
        rules.append((Patterns([pattern], expressions=True), name))
    name = checked(group_format(bits, -1, "-sym"))
    if given.flag("quantize_embeddings"):
        rules.append((Patterns(["embed_tokens"]), name))
    return Scheme("gemma", name, tuple(rules))


def exl(given: Values, _: Mapping[str, Any]) -> Scheme:
    """EXL2 and EXL3: a mean number of bits, all included, and another for the output matrix."""
    head: tuple[Rule, ...] = ()
    if given.values.get("head_bits") is not None:
        head = ((Patterns(["lm_head"]), per_weight(real(given.values["head_bits"], "head_bits"))),)
    return Scheme(given.text("quant_method"), per_weight(real(given.values.get("bits"), "bits")), head)


def mlx(given: Values, _: Mapping[str, Any]) -> Scheme:
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


def metal(given: Values, _: Mapping[str, Any]) -> Scheme:
    """Transformers' metal: as MLX's affine, of linear layers alone."""
    return Scheme("metal", _mlx_format(Values({**given.values, "mode": "affine"}), 4, 64)[0], given.kept())


def _mlx_format(given: Values, bits: int, group: int) -> tuple[str, int]:
    mode = given.text("mode", default="affine")
    if mode in ("mxfp4", "mxfp8"):
        return mode, 32
    if mode == "nvfp4":
        return mode, 16
    if mode != "affine":
        unknown("mode", mode)
    size = given.number("group_size", default=group)
    return checked(group_format(given.bits("bits", default=bits), size, "-bias")), size


def w4afp8(given: Values, _: Mapping[str, Any]) -> Scheme:
    """SGLang's w4afp8: experts in 4 bits in groups of 128 with a 16-bit scale, the rest in fp8."""
    name = checked(group_format(4, given.group("group_size", default=128), "-sym"))
    return Scheme("w4afp8", "fp8", (*given.kept(), (Patterns(["experts"]), name)))


def _integer_format(table: Values, bits: int, group: int, kind: str) -> str | None:
    own = table.bits("bits", default=bits)
    return checked(group_format(own, table.group("group_size", default=group), kind)) if own < 16 else None
