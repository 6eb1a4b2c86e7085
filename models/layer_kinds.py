"""The kind of each layer of a config: full attention, a window, something in its place, by the keys or the family."""

from __future__ import annotations

from collections.abc import Callable

from lrcsim.base.errors import ConfigError
from lrcsim.models.config import Config

WITHOUT_KV = {"linear_attention", "mamba", "conv", "moe", "mlp"}
WINDOWED = {
    "sliding_attention": ("sliding_window", "sliding_window_size", "window_size"),
    "hybrid_sliding": ("sliding_window_size", "sliding_window"),
    "reference_sliding_attention": ("sliding_window",),
    "chunked_attention": ("attention_chunk_size",),
}
"""Kinds of layers that look back a number of tokens, and the keys that say how many."""

FULL = {"full_attention", "attention", "indexed_attention", "hybrid"}
"""Kinds of layers that keep all keys and values; of those with an indexer (DeepSeek Sparse Attention) some are read."""

PATTERN = {"M": "mamba", "E": "moe", "*": "full_attention", "-": "mlp"}
"""Letters of ``hybrid_override_pattern`` (Nemotron-H)."""


Kind = Callable[[int, int], bool]
"""Tells of a layer, and of the number of layers, whether it has full attention."""


def _each(every: int, at: int) -> Kind:
    return lambda layer, _layers: layer % every == at


USUAL: dict[str, tuple[str, Kind]] = {
    "afmoe": ("sliding_attention", _each(4, 3)),
    "beam": ("sliding_attention", lambda layer, layers: layer % 6 == 5 or layer == layers - 1),
    "cohere2_moe": ("sliding_attention", _each(4, 3)),
    "exaone_moe": ("sliding_attention", _each(4, 3)),
    "flint": ("sliding_attention", lambda layer, layers: layer < 2 or layer % 4 == 1 or layer == layers - 1),
    "gemma4_text": ("sliding_attention", lambda layer, layers: layer % 6 == 5 or layer == layers - 1),
    "gpt_oss": ("sliding_attention", _each(2, 1)),
    "granitemoe_swa": ("sliding_attention", _each(4, 0)),
    "kolibri1": ("sliding_attention", _each(5, 4)),
    "llama4": ("chunked_attention", _each(4, 3)),
    "llama4_text": ("chunked_attention", _each(4, 3)),
    "mimo_v2_flash": ("sliding_attention", lambda layer, _layers: layer == 0 or layer % 6 == 5),
    "muse_spark_text": ("sliding_attention", lambda layer, layers: (layers - 1 - layer) % 4 == 0),
    "unlimited_ocr_text": ("reference_sliding_attention", lambda _layer, _layers: False),
}
"""Families whose configs may leave ``layer_types`` out: the other kind, and the layers with full attention, as
transformers 5.24 then takes them (its configuration classes)."""

NEEDED = {
    "granitemoehybrid": ("layer_types",),
    "kimi_linear": ("layer_types", "linear_attn_config"),
    "lara_mini": ("layer_types",),
    "lfm2_moe": ("layer_types",),
    "minimax": ("layer_types", "attn_type_list"),
    "minimax_text_01": ("attn_type_list", "layer_types"),
}
"""Families with layers without a KV cache, and the keys of which one must say which they are."""

DENSE_FIRST = {
    "axk1": 1,
    "beam": 3,
    "ernie4_5_vl_moe_text": 1,
    "glm4_moe_lite": 1,
    "hy_v3": 1,
    "kimi_linear": 1,
    "laguna": 1,
    "mimo_v2_flash": 1,
    "step3p5": 3,
    "unlimited_ocr_text": 1,
}
"""Families whose first layers have no experts where no key says so, as transformers 5.24 takes them."""


def layer_kinds(config: Config, layers: int) -> list[str]:
    """Return the kind of each layer, as ``layer_types`` has them; empty where all are alike.

    Raises:
        ConfigError: a family needs a key that is not there.
    """
    for key in ("layer_types", "layers_block_type"):
        if types := config.per_layer(key, layers):
            return [str(kind) for kind in types]
    pattern = config.values.get("hybrid_override_pattern")
    if isinstance(pattern, str) and len(pattern) == layers:
        return [PATTERN.get(letter, letter) for letter in pattern]
    if windowed := config.per_layer("hybrid_layer_pattern", layers):  # MiMo-V2: 1 is a window
        return ["sliding_attention" if flag == 1 else "full_attention" for flag in windowed]
    family = str(config.values.get("model_type") or "").lower()
    if (keys := NEEDED.get(family)) and not any(config.values.get(key) for key in keys):
        others = f" (or {', '.join(map(repr, keys[1:]))})" if keys[1:] else ""
        raise ConfigError(f"{config.where} lacks the key {keys[0]!r}{others}, which says the kind of each layer")
    if family in USUAL:
        other, full = USUAL[family]
        return ["full_attention" if full(layer, layers) else other for layer in range(layers)]
    return []
