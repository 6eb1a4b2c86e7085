"""A prediction from the rates of formats alone: a token or prompt as the sum of its tensors, each at its format's rate.

The rates are of experts in another model (`formats`), so that for the models compared nothing is fitted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from lrcsim.experiments.validation.llama_cpp.compare import Times
from lrcsim.experiments.validation.llama_cpp.measure import Work
from lrcsim.models import Geometry
from lrcsim.models.formats import FORMATS
from lrcsim.models.quantisation import format_of
from lrcsim.models.tensors import tensors
from lrcsim.simulator.setup.platform import KV_BYTES

PLAIN = "f16"
"""At whose rate keys and values go, and the float32 of norms and routers, which have too few bytes to matter."""


class Rate(NamedTuple):
    """What one core reaches in a format: bytes/s of one token, operations/s of a prompt."""

    decode: float
    prompt: float


class Part(NamedTuple):
    """What a token uses of one kind: format, bytes, weights; whether each token of a prompt does, or its last alone."""

    format: str
    bytes: float
    weights: float
    each: bool


def used(geometry: Geometry, dtype: str) -> Iterator[Part]:
    """Yield the matrices and norms that a token uses: ``top_k`` of each layer's experts, nothing of the embedding.

    Of a prompt's last layer llama.cpp computes router and experts for the tokens whose output is wanted, here one: with
    2, 4 and 12 layers experts in Q4_0 would else reach 117, 78 and 63 GFLOP/s, and so reach 58 in each.
    """
    last = geometry.layers - 1
    for tensor in tensors(geometry):
        if tensor.name == "token_embd":
            continue
        name = format_of(geometry, tensor, dtype)
        times = geometry.top_k if tensor.name.endswith("_exps") else 1
        size = times * FORMATS[name].matrix_bytes(tensor.rows, tensor.length)
        each = tensor.name != "output" and not (tensor.layer == last and tensor.name.startswith("ffn_"))
        yield Part(name, size, times * tensor.rows * tensor.length, each)


def rates_of(rows: Sequence[Mapping[str, Any]], variant: str) -> dict[str, Rate]:
    """Return the medians of what `formats.measure_format` found for one variant, by format."""
    return {
        row["format"]: Rate(row["decode_bytes_per_s"]["median"], row["prompt_operations_per_s"]["median"])
        for row in rows
        if row["variant"] == variant
    }


def by_format(
    geometry: Geometry, dtype: str, work: Work, rates: Mapping[str, Rate], layer_s: float = 0.0
) -> Times | None:
    """Return seconds of the prompt and of a token; None where a format of the model has no rate.

    A token: the bytes of each part at its format's rate, keys and values, and ``layer_s`` for each layer. A prompt: two
    operations a weight and token at its format's rate, four for each pair of tokens and each number of its heads. What
    a layer costs besides is not known for prompts and left out.
    """
    parts = list(used(geometry, dtype))
    if PLAIN not in rates or any(part.format not in rates and part.format != "f32" for part in parts):
        return None
    found = {name: rates.get(name, rates[PLAIN]) for name in {part.format for part in parts}}
    kept = KV_BYTES * geometry.kv_values(1) * (work.prompt + (work.decode + 1) / 2)
    token = kept / rates[PLAIN].decode + geometry.layers * layer_s
    token += sum(part.bytes / found[part.format].decode for part in parts)
    pairs = work.prompt * (work.prompt + 1) / 2 * 4 * geometry.heads * geometry.head_dim * geometry.layers
    weighed = sum(2 * part.weights * (work.prompt if part.each else 1) / found[part.format].prompt for part in parts)
    return Times(weighed + pairs / rates[PLAIN].prompt, token)


def layer_seconds(geometry: Geometry, dtype: str, work: Work, rates: Mapping[str, Rate], rest: float) -> float | None:
    """Return the seconds of a layer that bytes do not explain; None where a format has no rate.

    Args:
        geometry: that `formats.measure_format` measured.
        dtype: of its weights.
        work: of a repetition.
        rates: by format.
        rest: seconds of a token of it without experts.
    """
    known = by_format(replace(geometry, top_k=0), dtype, work, rates)
    return None if known is None else (rest - known.token) / geometry.layers
