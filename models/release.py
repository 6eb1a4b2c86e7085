"""The dtype in which a checkpoint stores a model: from its config's quantisation, tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from lrcsim.models.geometry import Geometry
from lrcsim.models.modules import Unreadable, module_names
from lrcsim.models.quantisation import format_of
from lrcsim.models.quantised import read_quantisation
from lrcsim.models.scheme import Scheme
from lrcsim.models.tensors import SMALL, Tensor, tensors

KEYS = ("quantization_config", "quantization", "compression_config")
DTYPES = {
    "bf16": ("bfloat16", "bf16"), "f16": ("float16", "half", "fp16", "f16"), "f32": ("float32", "float", "fp32", "f32"),
    "fp8": ("fp8", "float8", "float8_e4m3fn", "float8_e4m3", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"),
}  # fmt: skip
"""Formats by the names that configs have under ``torch_dtype`` or ``dtype``."""

BESIDE = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""Files beside a config.json in which ModelOptimizer, older GPTQ and older AWQ say how weights are stored."""

PREFIXES_OF_OTHERS = ("ffn_gate", "ffn_up", "ffn_down")
"""Tensors of dense blocks, whose names are the beginning of those of experts and routers."""

LARGEST = 16 * 2**20
"""Bytes of a file beside a config that is read."""


def with_released_dtype(geometry: Geometry, config: Mapping[str, Any], where: str) -> Geometry:
    """Return the geometry with the dtype that the config's quantisation says, or with the reason why it is not known.

    Args:
        geometry: the model, its dtype not yet known.
        config: keys of the config, those of nested parts included.
        where: what to call the config in a message.
    """
    found = next(((key, config[key]) for key in KEYS if config.get(key)), None)
    given = next((key for key in ("torch_dtype", "dtype") if config.get(key)), "dtype")
    key, rest = given, "bf16"
    try:
        rest = _rest(config.get(given))
        if found is None:
            return replace(geometry, dtype=rest)
        key, values = found
        rest = "bf16" if rest == "fp8" else rest  # of what is quantised; the others are not
        if not isinstance(values, Mapping):
            raise Unreadable("it is no table")
        scheme = read_quantisation(values, config)
        if scheme is None:
            return replace(geometry, dtype=rest)
        return replace(
            geometry, dtype=_dtype(geometry, scheme, rest), source=f"{geometry.source}, quantised by {scheme.method}"
        )
    except Unreadable as error:
        message = f"{where}: how its weights are stored cannot be read from {key} ({error}): give --dtype, as int4-g128"
        return replace(geometry, dtype=rest, unread=" ".join(message.split()))


def _rest(name: object) -> str:
    """Return the format of weights that are not quantised; bf16 where the config does not say it."""
    if name is None or name in ("", "auto"):
        return "bf16"
    plain = str(name).lower().removeprefix("torch.")
    found = next((known for known, names in DTYPES.items() if plain in names), None)
    if found is None:
        raise Unreadable(f"{str(name)[:40]!r} is not known")
    return found


def beside(path: Path) -> dict[str, Any]:
    """Return the quantisation that a file beside a config.json has, by the key that it would have in it."""
    for name in BESIDE:
        other = path.with_name(name)
        try:
            if other.is_file() and other.stat().st_size <= LARGEST:
                values = json.loads(other.read_text(encoding="utf-8"))
                return {KEYS[0]: values}
        except (OSError, ValueError, RecursionError):
            return {KEYS[0]: f"{name} cannot be read"}
    return {}


def _dtype(geometry: Geometry, scheme: Scheme, rest: str) -> str:
    """Return the dtype that gives every tensor the format that the scheme has for it."""
    base = scheme.default or rest
    wanted = [(tensor, _wanted(geometry, tensor, scheme, rest)) for tensor in tensors(geometry)]
    parts = [base]
    by_name: dict[str, list[tuple[Tensor, str]]] = {}
    for tensor, name in wanted:
        by_name.setdefault(tensor.name, []).append((tensor, name))
    together = _alike(by_name, "attn")
    if together and any(format_of(geometry, tensor, base) != together for tensor, _ in wanted if _attention(tensor)):
        parts.append(f"attn={together}")
    for name, pairs in by_name.items():
        if together and _attention(pairs[0][0]):
            continue
        odd = [
            (place, tensor.layer, wish)
            for place, (tensor, wish) in enumerate(pairs)
            if format_of(geometry, tensor, base) != wish
        ]
        if name in PREFIXES_OF_OTHERS:  # an override of them would reach other tensors of layers between
            odd = [(layer, layer, wish) for _, layer, wish in odd]
        elif len(odd) == len(pairs) and len({wish for *_, wish in odd}) == 1:
            odd = [(0, -1, odd[0][2])]
        parts += [f"{span}{name}={wish}" for span, wish in _spans(odd)]
    return ",".join(parts)


def _wanted(geometry: Geometry, tensor: Tensor, scheme: Scheme, rest: str) -> str:
    """Return the format of a tensor; of routed experts some are asked for, which must be alike."""
    if tensor.name in SMALL and tensor.name != "ffn_gate_inp":
        return rest
    experts = sorted({0, 1, geometry.experts // 2, geometry.experts - 1}) if tensor.name.endswith("_exps") else [0]
    found = {scheme.choose(tensor.name, module_names(tensor.name, tensor.layer, i), tensor.length) for i in experts}
    if len(found) > 1:
        raise Unreadable(f"experts of layer {tensor.layer} are stored in different formats")
    return found.pop() or rest


def _attention(tensor: Tensor) -> bool:
    return tensor.name.startswith("attn")


def _alike(by_name: dict[str, list[tuple[Tensor, str]]], prefix: str) -> str:
    """Return the one format of all tensors whose names begin so; empty where they differ."""
    found = {wish for name, pairs in by_name.items() if name.startswith(prefix) for _, wish in pairs}
    return found.pop() if len(found) == 1 else ""


def _spans(odd: list[tuple[int, int, str]]) -> Iterator[tuple[str, str]]:
    """Yield runs of layers of one format, as ``"3-5:"``; ``""`` for all of them, or for what is in no layer.

    Args:
        odd: place, layer and format of each; places that follow one another make a run.
    """
    for (wish, _), run in groupby(enumerate(odd), key=lambda item: (item[1][2], item[1][0] - item[0])):
        layers = [layer for _, (_, layer, _) in run]
        if layers[0] < 0:
            yield "", wish
        else:
            yield (f"{layers[0]}-{layers[-1]}:" if len(layers) > 1 else f"{layers[0]}:"), wish
