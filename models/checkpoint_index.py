"""Hold a geometry against the index of its checkpoint: names of tensors, and their bytes or parameters in all."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.models.geometry import Geometry
from lrcsim.models.quantisation import dense_bytes, expert_bytes, output_bytes, tensor_bytes
from lrcsim.models.tensors import Tensor

NAME = "model.safetensors.index.json"
LARGEST = 256 * 2**20
"""Bytes of an index that is read; DeepSeek-V3's has 9 MB."""

TOLERANCE = 0.03
"""Share by which a checkpoint may be larger or smaller than what was read: scales of quantised weights, padding."""

OTHERS = re.compile(
    r"(^|\.)(visual|vision\w*|audio\w*|image\w*|video\w*|mm_\w+|multi_modal\w*|multimodal\w*|vit|vpm|resampler\w*"
    r"|aligner|mlp1|patch_\w+|speech\w*|talker|code2wav|token2wav)\."
)
"""Parts of names that say that a tensor is of a part that sees, hears or speaks."""

LAYER = re.compile(r"(?:^|\.)(?:layers|blocks?|h)\.(\d+)\.")
ROUTED = re.compile(r"(?<!shared_)experts?\.(?:(?:expert_)?(\d+)\.|[a-z])")
"""A routed expert's tensor, with its number where each has its own."""

AHEAD = re.compile(r"(^|\.)(mtp|nextn|eh_proj)\w*\.")
"""Parts of names that say that a tensor predicts further tokens."""


@dataclass(frozen=True)
class Index:
    """What an index says of a checkpoint.

    Attributes:
        parameters: in all; 0: it does not say.
        size: bytes in all; 0: it does not say.
        moe_layers: layers with routed experts by their numbers, those that predict further tokens included.
        experts: routed experts of a layer; 0: the names do not tell, for they are in one tensor.
        layers: one more than the last layer's number; 0: no tensor is in one.
        ahead: whether tensors by their names predict further tokens.
        others: tensors of parts that see, hear or speak, or encode for a decoder.
    """

    parameters: int
    size: int
    moe_layers: frozenset[int]
    experts: int
    layers: int
    ahead: bool
    others: int


def read_index(path: Path) -> Index | None:
    """Read an index; None: there is none.

    Raises:
        ConfigError: it is no index.
    """
    try:
        if not path.is_file():
            return None
        if path.stat().st_size > LARGEST:
            raise ConfigError(f"{path} is no index of a checkpoint: it has more than {LARGEST >> 20} MiB")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{path} is no JSON: delete it, or fetch it again") from None
    names = values.get("weight_map") if isinstance(values, dict) else None
    if not isinstance(names, dict):
        raise ConfigError(f"{path} is no index of a checkpoint: it lacks 'weight_map'; delete it, or fetch it again")
    return _of_names(names, values.get("metadata"))


def _of_names(names: dict[str, Any], metadata: object) -> Index:
    said = metadata if isinstance(metadata, dict) else {}
    moe: set[int] = set()
    layers, experts, others, ahead = 0, 0, 0, False
    for name in names:
        if OTHERS.search(name) or name.startswith(("encoder.", "model.encoder.")):
            others += 1
            continue
        ahead = ahead or bool(AHEAD.search(name))
        layer = LAYER.search(name)
        if layer is None or name.startswith("mtp"):
            continue
        layers = max(layers, int(layer[1]) + 1)
        if routed := ROUTED.search(name, layer.end()):
            moe.add(int(layer[1]))
            experts = max(experts, int(routed[1]) + 1 if routed[1] else 0)
    return Index(
        parameters=_number(said.get("total_parameters")),
        size=_number(said.get("total_size")),
        moe_layers=frozenset(moe),
        experts=experts,
        layers=layers,
        ahead=ahead,
        others=others,
    )


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e18:
        return 0
    return int(value)


def check_index(geometry: Geometry, config: Path) -> str:
    """Hold a geometry against the index beside its config, if there is one.

    Returns:
        A notice: what the index has besides, or by how much it differs; empty: nothing is to be said.

    Raises:
        ConfigError: it is another model's: other layers have experts, another number of them, or its total is off by
            more than `TOLERANCE`.
    """
    path = config.with_name(NAME)
    index = read_index(path)
    if index is None:
        return ""
    where = f"model {config} does not go with {NAME} beside it"
    fix = "fetch both again, or write the model down as TOML (docs/own-model.md)"
    within = {layer for layer in index.moe_layers if layer < geometry.layers}
    moe = set(geometry.moe_layers)
    if geometry.moe_layers == tuple(range(0, geometry.layers, 2)) and within == {layer // 2 for layer in moe}:
        within = moe  # LongCat numbers its layers by two
    if within and within != moe:
        odd = min(within ^ moe)
        side = ("the index", "the config") if odd in within else ("the config", "the index")
        raise ConfigError(f"{where}: layer {odd} has routed experts by {side[0]}, not by {side[1]}; {fix}")
    # ERNIE-4.5-VL has further experts, for images
    if index.experts and (index.experts < geometry.experts or (index.experts > geometry.experts and not index.others)):
        raise ConfigError(f"{where}: {index.experts} routed experts by the index, {geometry.experts} here; {fix}")
    return _total(geometry, index, where, fix)


def _total(geometry: Geometry, index: Index, where: str, fix: str) -> str:
    """Compare totals; a checkpoint may hold layers that predict further tokens, and parts that see or hear, besides."""
    if index.parameters:
        unit, found, least = "parameters", index.parameters, geometry.total_params
    elif index.size and not geometry.unread:
        unit, found, least = "bytes", index.size, stored_bytes(geometry)
    else:
        return ""
    ahead = max(geometry.mtp_layers, index.layers - geometry.layers, int(index.ahead))
    most = least
    if ahead:  # with copies of embedding and output matrix
        each = geometry.mtp_params // max(geometry.mtp_layers, 1) or 0
        each = each or geometry.total_params // geometry.layers
        most += round((each * ahead + geometry.embedding_params) * least / geometry.total_params)
    if found < least * (1 - TOLERANCE) or (found > most * (1 + TOLERANCE) and not index.others):
        away = found / least - 1
        raise ConfigError(
            f"{where}: the index has {found:,} {unit}, the model as read {least:,} ({away:+.1%} from it); {fix}"
        )
    if index.others:
        return f"{NAME} has {index.others:,} tensors of other parts (they see, hear or encode), which are left out"
    if ahead or abs(found / least - 1) < 0.001:
        return ""
    return f"{NAME} has {found:,} {unit}, {found / least - 1:+.2%} from the {least:,} counted here"


def stored_bytes(geometry: Geometry) -> int:
    """Return the bytes of a checkpoint in the dtype of the release: all matrices, norms, scales, embedding once."""
    embedding = tensor_bytes(geometry, Tensor("token_embd", -1, geometry.vocab, geometry.hidden), geometry.dtype)
    output = 0 if geometry.tied else output_bytes(geometry)
    experts = geometry.experts * int(expert_bytes(geometry).sum())
    return int(dense_bytes(geometry).sum()) + experts + embedding + output
