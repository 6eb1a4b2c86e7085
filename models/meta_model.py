"""A geometry counted on transformers' own modules, which are built on the meta device: shapes without memory.

For families whose keys lrcsim does not know. Nothing of the model's own code runs, only classes that transformers
ships. Needs torch and transformers, and imports them when it is used.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from lrcsim.base.errors import ConfigError, brief
from lrcsim.models.config import MOST_EXPERTS, MOST_LAYERS, Config
from lrcsim.models.config_attention import TOP_K
from lrcsim.models.config_geometry import ENCODERS, geometry_by_keys
from lrcsim.models.expert_modules import find_experts
from lrcsim.models.geometry import BIASES, Geometry
from lrcsim.traces.choose_layers import ATTENTION

LAYER = re.compile(r"(?:^|\.)(?:layers|blocks?|h)\.(\d+)\.(?:(?:\w+\.)?(\d+)\.)?")
"""A layer's number in a parameter's name; where a layer holds two (LongCat), that of the inner one too."""

KEPT = ("e_score_correction_bias", "expert_bias")
"""Biases of sigmoid routers, which checkpoints hold and transformers keeps as buffers."""

OF_IMAGES = "vision_moe"
"""Experts of ERNIE-4.5-VL that run on images only."""

TOP_K_OF = {"switch_transformers": 1, "nllb-moe": 2}
"""Families whose number of experts per token is in their code, not in the config."""


DENSE_WIDTH = ("ffn_dim", "d_ff")
"""What decoders beside an encoder call ``intermediate_size``."""


class NotBuilt(Exception):  # noqa: N818  (not shown: its text becomes part of a notice)
    """transformers does not know the family, or cannot build it; the text says which."""


@dataclass(frozen=True)
class Counted:
    """Parameters of a text model, norms and scales left out.

    Attributes:
        routed: those of a layer's routed experts, by layer; layers without are missing.
        rest: all others of each layer.
        outside: those in no layer, embedding and output matrix included.
        experts: routed experts of a layer.
        tied: the output matrix is the embedding, or there is none.
        output_biases: biases of the output matrix.
    """

    routed: dict[int, int]
    rest: list[int]
    outside: int
    experts: int
    tied: bool
    output_biases: int


def geometry_by_modules(values: Mapping[str, Any], config: Config, name: str) -> Geometry:
    """Return the geometry of a config: its layers as counted, shapes of attention by its keys.

    Args:
        values: the config, as of ``config.to_dict()``.
        config: its keys, for messages and notices.
        name: the model's.

    Raises:
        NotBuilt: transformers cannot build it.
        ConfigError: a dense model, or a key of a wrong value.
    """
    made, model = _build(values, config)
    text = made.get_text_config(decoder=True)
    try:
        counted = count(model, text)
    except (AttributeError, NotImplementedError, StopIteration, TypeError) as error:
        raise NotBuilt(f"its {type(model).__name__} in transformers is of another build ({brief(error)})") from None
    if not counted.routed:
        raise ConfigError(
            f"{config.where} is no Mixture-of-Experts model: transformers' {type(model).__name__} has no routed experts"
        )
    keys = Config(_keys(text, counted), config.where)
    geometry = geometry_by_keys(keys, text.model_type, name)
    config.notices += keys.notices
    return _with_counts(geometry, counted, config.where)


def _build(values: Mapping[str, Any], config: Config) -> tuple[Any, Any]:
    """Return transformers' config and the model on the meta device: the text model where it has a class of its own."""
    import torch
    import transformers
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    _check_size(config)
    kinds = [kind for kind in (values.get("model_type"), config.values.get("model_type")) if isinstance(kind, str)]
    family = next((kind for kind in kinds if kind in CONFIG_MAPPING), None)
    if family is None:
        raise NotBuilt(f"not to transformers {transformers.__version__} either")
    source = values if family == values.get("model_type") else config.values
    left_out = ("quantization_config", "quantization", "compression_config", "auto_map", "architectures")
    with _quiet():
        try:
            kept = {key: value for key, value in source.items() if key not in left_out and not key.startswith("_")}
            made = CONFIG_MAPPING[family].from_dict(kept)
            if "tie_word_embeddings" in source:  # of the whole: transformers goes by it
                made.get_text_config(decoder=True).tie_word_embeddings = source["tie_word_embeddings"]
            for part, mapping in _classes(made, modeling_auto):
                with torch.device("meta"):
                    return made, getattr(transformers, mapping)(part)
        except Exception as error:  # whatever a stranger's config makes of it
            raise NotBuilt(f"transformers {transformers.__version__} cannot build it ({brief(error)})") from None
    raise NotBuilt(f"transformers {transformers.__version__} has no model class for it")


def _check_size(config: Config) -> None:
    """Refuse a config of more layers or experts than a model may have: each would be built."""
    for key, value in config.values.items():
        if "layers" in key and isinstance(value, int):
            config.checked(key, value, most=MOST_LAYERS)
        elif "experts" in key and isinstance(value, int):
            config.checked(key, value, most=MOST_EXPERTS)


def _classes(made: Any, auto: Any) -> Iterator[tuple[Any, str]]:
    """Yield a config or its text part, and the name of a class for it; classes that give logits come first."""
    text = made.get_text_config(decoder=True)
    whole = ("MULTIMODAL_LM", "IMAGE_TEXT_TO_TEXT", "SEQ_TO_SEQ_CAUSAL_LM")
    tries = [(text, "CAUSAL_LM"), *((made, name) for name in whole)]
    found = [(part, f"MODEL_FOR_{name}_MAPPING_NAMES") for part, name in tries] + [(made, "MODEL_MAPPING_NAMES")]
    for part, mapping in found:
        if name := getattr(auto, mapping, {}).get(part.model_type):
            yield part, name if isinstance(name, str) else name[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what transformers says of a config to itself: what matters is what it builds."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def count(model: Any, text: Any) -> Counted:
    """Count the parameters of a model's text part.

    Parts that see or hear are left out; of an encoder and a decoder the decoder is counted.

    Args:
        model: of transformers, on any device.
        text: its text part's config.
    """
    part, layers, each = _text_part(model, text)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    matrix, bias = getattr(head, "weight", None), getattr(head, "bias", None)
    named = [*part.named_parameters(), ("embed", embedding), ("head", matrix), ("head", bias)]
    named += [(key, tensor) for key, tensor in part.named_buffers() if key.endswith(KEPT)]
    found = {id(tensor): (key, tensor) for key, tensor in reversed(named) if tensor is not None}
    shares, experts = _routed(part)
    routed: Counter[int] = Counter()
    rest: Counter[int] = Counter()
    for key, tensor in found.values():
        if id(tensor) in shares:
            routed[_layer(key, each)] += shares[id(tensor)]
        elif OF_IMAGES not in key and (tensor.ndim > 1 or not re.search("norm|scale", key)):
            rest[_layer(key, each)] += tensor.numel()
    without = head is None and text.model_type in ENCODERS
    tied = without or (bool(text.tie_word_embeddings) if head is None else matrix is embedding)
    if head is None and not tied:  # a text model is built without its output matrix
        rest[-1] += embedding.numel()
    return Counted(
        routed=dict(sorted(routed.items())),
        rest=[rest[layer] for layer in range(layers)],
        outside=rest[-1],
        experts=experts,
        tied=tied,
        output_biases=0 if bias is None else int(bias.numel()),
    )


def _text_part(model: Any, text: Any) -> tuple[Any, int, int]:
    """Return the module that runs on text, without the output matrix, its layers, and how many of them a module has."""
    base = next(m for m in model.modules() if getattr(getattr(m, "config", None), "model_type", "") == text.model_type)
    inner = getattr(base, base.base_model_prefix, base) if base.base_model_prefix else base
    if model.config.is_encoder_decoder:
        inner = model.get_decoder()
    numbers = [match for key, _ in inner.named_parameters() if (match := LAYER.search(key))]
    layers = 1 + max((int(match[1]) for match in numbers), default=-1)
    each = 2 if getattr(text, "num_hidden_layers", layers) == 2 * layers else 1
    return inner, each * layers, each


def _layer(key: str, each: int) -> int:
    """Return the layer that a parameter of the text part belongs to; -1: none.

    Where a layer holds two with an attention ``each`` (LongCat), they count as two, what both share as the first's.
    """
    match = LAYER.search(key)
    if match is None:
        return -1
    return each * int(match[1]) + (int(match[2] or 0) if each > 1 else 0)


def _routed(part: Any) -> tuple[dict[int, int], int]:
    """Return the parameters of routed experts by the id of their tensor, and the experts of a layer.

    Experts of attention (JetMoE) and those for images (ERNIE-4.5-VL) are no routed experts here. Of tensors with more
    entries than experts (LongCat, whose further experts are identities) those of the experts count.
    """
    shares: dict[int, int] = {}
    numbers: set[int] = set()
    for found in find_experts(part):
        if ATTENTION.search(found.name) or OF_IMAGES in found.name:
            continue
        numbers.add(found.num_experts)
        for module in found.modules:
            apart = hasattr(module, "keys")  # a module for each expert; else tensors of all of them, experts first
            for tensor in module.parameters():
                if not apart and tensor.ndim < 2:  # a norm that the experts share
                    continue
                wide = not apart and tensor.ndim == 3 and tensor.shape[0] > found.num_experts
                shares[id(tensor)] = found.num_experts * tensor[0].numel() if wide else tensor.numel()
    if len(numbers) > 1:
        raise NotBuilt(f"its layers have {' and '.join(map(str, sorted(numbers)))} experts")
    return shares, numbers.pop() if numbers else 0


def _keys(text: Any, counted: Counted) -> dict[str, Any]:
    """Return the keys of a text part by the names of most families, with what was counted."""
    layers = len(counted.rest)
    keys: dict[str, Any] = text.to_dict()
    for usual in type(text).attribute_map:
        keys.setdefault(usual, getattr(text, usual, None))
    if width := next((keys[key] for key in DENSE_WIDTH if keys.get(key)), None):
        keys["intermediate_size"] = width
    if not any(isinstance(keys.get(key), int) for key in TOP_K) and text.model_type in TOP_K_OF:
        keys[TOP_K[0]] = TOP_K_OF[text.model_type]
    kinds = ["sparse" if layer in counted.routed else "dense" for layer in range(layers)]
    return keys | {
        "num_hidden_layers": layers,
        "mlp_layer_types": kinds,
        "n_routed_experts": counted.experts,
        "tie_word_embeddings": counted.tied,
    }


def _with_counts(geometry: Geometry, counted: Counted, where: str) -> Geometry:
    """Return the geometry with the parameters that were counted."""
    sizes = {size // counted.experts for size in counted.routed.values()}
    if len(sizes) > 1:
        raise NotBuilt(f"its experts have {min(sizes):,} to {max(sizes):,} parameters")
    biases = {*geometry.biases} - {"output"} | ({"output"} if counted.output_biases else set())
    geometry = _with_experts(replace(geometry, biases=tuple(b for b in BIASES if b in biases)), sizes.pop(), where)
    import transformers

    return replace(
        geometry,
        source=f"{geometry.source}, its layers counted on the modules of transformers {transformers.__version__}",
        counted=(*counted.rest, counted.outside - geometry.embedding_params),
    )


def _with_experts(geometry: Geometry, size: int, where: str) -> Geometry:
    """Return the geometry with experts of so many parameters: by its own width and number of matrices if they fit."""
    hidden = geometry.hidden
    biases = {*geometry.biases}
    for with_biases in (biases - {"ffn"}, biases | {"ffn"}):
        for matrices in (3, 2):
            each, fixed = matrices * hidden, 0
            if "ffn" in with_biases:  # (matrices - 1) width + hidden
                each, fixed = each + matrices - 1, hidden
            if each * geometry.expert_width + fixed == size:
                return replace(geometry, matrices=matrices, biases=tuple(b for b in BIASES if b in with_biases))
    for matrices in (3, 2, 1):
        if size % (matrices * hidden) == 0:
            width = size // (matrices * hidden)
            return replace(
                geometry, matrices=matrices, expert_width=width, biases=tuple(b for b in geometry.biases if b != "ffn")
            )
    raise ConfigError(
        f"{where}: an expert has {size:,} parameters, no whole matrices as long as the hidden size {hidden}"
    )
