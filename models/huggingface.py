"""Read a Hugging Face ``config.json``: many families, a handful of keys for each thing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.models.geometry import Geometry
from lrcsim.models.release import KEYS, beside, with_released_dtype

_KNOWN = """
afmoe dbrx deepseek deepseek_v2 deepseek_v3 deepseek_v32 dots1 ernie4_5_moe flex_olmo gemma4_text glm4_moe glm4_moe_lite
glm_moe_dsa gpt_oss granitemoe granitemoehybrid granitemoeshared grinmoe hunyuan_v1_moe jamba jetmoe kimi_k2 kimi_linear
lfm2_moe llama4 llama4_text llama_moe minicpm minimax minimax_m2 minimax_text_01 mixtral olmoe phimoe qwen2_moe
qwen3_5_moe qwen3_5_moe_text qwen3_moe qwen3_next qwen3_vl_moe_text xverse
"""
FAMILIES = frozenset(_KNOWN.split())
QK_NORM = {"qwen3_moe", "qwen3_vl_moe_text", "qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text", "gemma4_text", "dots1"}

# The keys under which families keep the same thing, most specific first.
LAYERS = ("num_hidden_layers", "n_layers")
HIDDEN = ("hidden_size", "d_model")
EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
TOP_K = (
    *("num_experts_per_tok", "num_experts_per_token", "num_selects"),
    *("moe_topk", "moe_top_k", "moe_k", "top_k_experts"),
)
HEADS = ("num_attention_heads", "n_heads")
KV_HEADS = ("num_key_value_heads", "kv_n_heads")
WIDTH = ("moe_intermediate_size", "intermediate_size", "ffn_hidden_size")
SHARED_WIDTH = ("shared_expert_intermediate_size", "shared_intermediate_size")
SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
PREDICTING = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules")
WITHOUT_KV = {"linear_attention", "mamba", "conv"}


TEXT_PARTS = ("thinker_config", "llm_config", "language_config", "language_model_config", "text_config")
"""Parts of a config that hold the text model's keys; what they say counts before what stands outside."""

MOST = 10**8
"""The largest number that a config may have; below are those of single things."""

MOST_LAYERS = 2_048
MOST_EXPERTS = 65_536
LARGEST_FILE = 64 * 2**20


class Config:
    """A config's keys, those of nested parts included, with an error that says which key is missing."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self.where = where
        self.values: dict[str, Any] = dict(values)
        for part in TEXT_PARTS:
            self._take(part, whole=True)
        for part in ("attn_config", "ffn_config"):
            self._take(part, whole=False)

    def _take(self, part: str, *, whole: bool) -> None:
        """Take the keys of a part: all, or those that are not there yet and not ``hidden_size``."""
        inner = self.values.get(part)
        if not isinstance(inner, Mapping):
            return
        taken = {key: value for key, value in inner.items() if value is not None and (value or key not in KEYS)}
        if not whole:
            taken = {key: value for key, value in taken.items() if key not in self.values and key != "hidden_size"}
        self.values |= taken

    def number(self, *keys: str, default: int | None = None, least: int = 0, most: int = MOST) -> int:
        """Return the first of the keys that is there, as a whole number of ``least`` to ``most``."""
        for key in keys:
            value = self.values.get(key)
            if isinstance(value, list) and value and len(set(map(str, value))) == 1:
                value = value[0]  # one number per layer, all the same
            if value is None:
                continue
            return self.checked(key, value, least, most)
        if default is None:
            raise ConfigError(f"{self.where} lacks the key {keys[0]!r}{self._others(keys)}")
        return default

    def checked(self, key: str, value: object, least: int = 0, most: int = MOST) -> int:
        """Return a value as a whole number.

        Raises:
            ConfigError: it is none, or out of bounds.
        """
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{self.where}: {key} is {_short(value)}: it must be a whole number of at least {least}")
        if value > most:
            raise ConfigError(f"{self.where}: {key} is {_short(value)}: it must be at most {most:,}")
        return value

    def listed(self, key: str) -> list[Any]:
        """Return the list under a key, empty when there is none."""
        value = self.values.get(key)
        return value if isinstance(value, list) else []

    def per_layer(self, key: str, layers: int) -> list[Any]:
        """Return a list with an entry for each layer, empty when there is none.

        Entries for the layers that predict further tokens (``num_nextn_predict_layers``) may follow.

        Raises:
            ConfigError: its length is another.
        """
        value = self.listed(key)
        if value and len(value) not in (layers, layers + self.number(*PREDICTING, default=0)):
            raise ConfigError(f"{self.where}: {key} has {len(value)} entries for {layers} layers: give one for each")
        return value[:layers]

    def indices(self, key: str, layers: int, first: int = 0) -> tuple[int, ...]:
        """Return a list of layers, counted from ``first``, ascending, once each, without those beyond the last.

        Raises:
            ConfigError: an entry is no whole number.
        """
        found = {self.checked(f"an entry of {key}", value, first) - first for value in self.listed(key)}
        return tuple(sorted(layer for layer in found if layer < layers))

    def flag(self, key: str, default: bool = False) -> bool:
        """Return a truth value."""
        value = self.values.get(key)
        return default if value is None else bool(value)

    def _others(self, keys: tuple[str, ...]) -> str:
        return f" (or {', '.join(map(repr, keys[1:]))})" if keys[1:] else ""


def _short(value: object) -> str:
    """Return a value as it is written, cut where it is long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= 40 else f"{text[:37]}..."


def geometry_from_config(path: Path) -> Geometry:
    """Read a ``config.json``; the model is named after its folder.

    Raises:
        ConfigError: it cannot be read, lacks a key, or is of a family that is not known.
    """
    where = f"model {path}"
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError(f"{where} is no config.json: it has more than {LARGEST_FILE // 2**20} MiB")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{where} is no JSON: {error}") from None
    except RecursionError:
        raise ConfigError(f"{where} is no config.json: it is nested too deep") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is no config.json: it holds no object with keys")
    name = path.stem if path.stem != "config" else path.resolve().parent.name
    if not any(values.get(key) for key in KEYS):
        values |= beside(path)
    return geometry_from_dict(values, name=name, where=where)


def geometry_from_dict(values: Mapping[str, Any], *, name: str = "", where: str = "the config") -> Geometry:
    """Turn a config, as of ``config.to_dict()``, into a geometry.

    Raises:
        ConfigError: a key is missing, of the wrong type, or the family (``model_type``) is not known.
    """
    config = Config(values, where)
    family = str(config.values.get("model_type", "")).lower()
    if family not in FAMILIES:
        given = f"is of the family {family!r}" if family else "lacks the key 'model_type'"
        hint = did_you_mean(family, FAMILIES) if family else ""
        way = "" if hint else "; read it as a family of the same build by another model_type in a copy of the file"
        raise ConfigError(f"{where} {given}, known are {', '.join(sorted(FAMILIES))}{hint}{way}")
    layers = config.number(*LAYERS, least=1, most=MOST_LAYERS)
    hidden, heads = config.number(*HIDDEN, least=1), config.number(*HEADS, least=1)
    experts = config.number(*EXPERTS, most=MOST_EXPERTS)
    moe = _moe_layers(config, family, layers)
    if not moe or not experts:
        raise ConfigError(f"{where} is no Mixture-of-Experts model: no layer has routed experts")
    top_k = config.number(*TOP_K)
    if not 1 <= top_k <= experts:
        raise ConfigError(f"{where} routes a token to {top_k} of {experts} experts: it must be 1 to {experts}")
    width = config.number(*WIDTH, least=1)
    if family == "llama_moe":  # the experts are slices of a dense block
        width //= experts
    shared, shared_width = _shared(config, family, width)
    mla = config.number("kv_lora_rank", default=0)
    head_dim = config.number("head_dim", "kv_channels", "attention_head_dim", default=hidden // max(heads, 1))
    kv_layers = _kv_layers(config, family, layers)
    window, window_layers = _window(config, layers)
    dense = config.number("intermediate_size_mlp", "intermediate_size", "ffn_hidden_size", default=width)
    geometry = Geometry(
        name=name or family,
        source=f"config.json, family {family}",
        layers=layers,
        moe_layers=moe,
        experts=experts,
        top_k=top_k,
        shared_experts=shared,
        hidden=hidden,
        expert_width=width,
        shared_width=shared_width,
        dense_width=dense if len(moe) < layers else 0,
        matrices=3,
        heads=heads,
        kv_heads=config.number(*KV_HEADS, default=heads, least=1),
        head_dim=config.number("qk_nope_head_dim", default=head_dim) if mla else head_dim,
        vocab=config.number("vocab_size", least=1),
        tied=config.flag("tie_word_embeddings", default=family in ("gemma4_text", "jetmoe", "minicpm")),
        kv_rank=mla,
        rope_dim=config.number("qk_rope_head_dim") if mla else 0,
        q_rank=config.number("q_lora_rank", default=0) if mla else 0,
        value_dim=config.number("v_head_dim", default=0) if mla else 0,
        qk_norm=family in QK_NORM or (family == "glm4_moe" and config.flag("use_qk_norm")),
        attention_layers=None if len(kv_layers) == layers else kv_layers,
        window=window,
        window_layers=window_layers,
        attention_extra=_attention_extra(config, family, hidden, heads, head_dim, experts),
        attention_idle=_attention_idle(config, family, hidden, heads, head_dim, experts),
        mixer_params=0 if len(kv_layers) == layers else _mixer(config, family, hidden, heads, head_dim),
    )
    return with_released_dtype(geometry, config.values, where)


def _moe_layers(config: Config, family: str, layers: int) -> tuple[int, ...]:
    """Return the indices of the layers with routed experts; which keys say so depends on the family."""
    everywhere = range(layers)
    if types := config.per_layer("mlp_layer_types", layers):
        return tuple(layer for layer, kind in enumerate(types) if kind == "sparse")
    if config.listed("moe_layers"):
        return config.indices("moe_layers", layers)
    if (mask := config.per_layer("moe_layer_freq", layers)) and len(set(map(str, mask))) > 1:
        return tuple(layer for layer, used in enumerate(mask) if config.checked("an entry of moe_layer_freq", used))
    if "interleave_moe_layer_step" in config.values:
        step = config.number("interleave_moe_layer_step")
        return tuple(everywhere[step - 1 :: step]) if step else ()
    if "expert_layer_period" in config.values:
        return tuple(everywhere[config.number("expert_layer_offset") :: max(config.number("expert_layer_period"), 1)])
    if "moe_layer_start_index" in config.values:
        end = config.number("moe_layer_end_index", default=layers - 1)
        step = max(config.number("moe_layer_interval", default=1), 1)
        first = config.number("moe_layer_start_index")
        return tuple(layer for layer in everywhere if first <= layer <= end and (layer + 1) % step == 0)
    if family == "gemma4_text" and not config.flag("enable_moe_block"):
        return ()
    first = config.number("first_k_dense_replace", "num_dense_layers", default=0)
    step = max(config.number("moe_layer_freq", default=1), 1)
    sparse = max(config.number("decoder_sparse_step", default=1), 1)
    dense = set(config.indices("mlp_only_layers", layers))
    return tuple(
        layer
        for layer in everywhere
        if layer >= first and layer % step == 0 and (layer + 1) % sparse == 0 and layer not in dense
    )


def _shared(config: Config, family: str, width: int) -> tuple[int, int]:
    """Return the number of shared experts and their inner width in total."""
    if family in ("llama4", "llama4_text"):
        return 1, width
    if family == "gemma4_text":  # a dense block beside the experts in every layer
        return 1, config.number("intermediate_size")
    if total := config.number(*SHARED_WIDTH, default=0):
        return 1, total
    shared = config.number(*SHARED, default=0)
    return shared, shared * width


def _kv_layers(config: Config, family: str, layers: int) -> tuple[int, ...]:
    """Return the indices of the layers that keep keys and values."""
    if types := config.per_layer("layer_types", layers):
        return tuple(layer for layer, kind in enumerate(types) if str(kind) not in WITHOUT_KV)
    if "attn_layer_period" in config.values:
        period = max(config.number("attn_layer_period"), 1)
        return tuple(range(config.number("attn_layer_offset"), layers, period))
    if types := config.per_layer("attn_type_list", layers):  # MiniMax-Text-01: 0 lightning attention, 1 softmax
        return tuple(layer for layer, kind in enumerate(types) if kind == 1)
    if family in ("qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text"):
        period = max(config.number("full_attention_interval", default=4), 1)
        return tuple(range(period - 1, layers, period))
    linear = config.values.get("linear_attn_config")
    if isinstance(linear, Mapping) and isinstance(linear.get("full_attn_layers"), list):  # Kimi: counted from 1
        return Config(linear, config.where).indices("full_attn_layers", layers, first=1)
    return tuple(range(layers))


def _window(config: Config, layers: int) -> tuple[int, tuple[int, ...]]:
    """Return how far layers with sliding or chunked attention look back, and which they are."""
    kinds = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}
    types = config.per_layer("layer_types", layers)
    for kind, key in kinds.items():
        short = tuple(layer for layer, other in enumerate(types) if other == kind)
        if short and (window := config.number(key, default=0)):
            return window, short
    return 0, ()


def _attention_extra(config: Config, family: str, hidden: int, heads: int, head_dim: int, experts: int) -> int:
    if family in ("afmoe", "qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text"):
        return hidden * heads * head_dim  # the output gate, a matrix of its own or computed beside the queries
    if family == "jetmoe":  # attention experts: queries and output are routed, those of top-k are in heads
        return _attention_idle(config, family, hidden, heads, head_dim, experts)
    return 0


def _attention_idle(config: Config, family: str, hidden: int, heads: int, head_dim: int, experts: int) -> int:
    if family != "jetmoe":
        return 0
    top_k = config.number(*TOP_K)
    return (experts - top_k) * 2 * hidden * heads * head_dim // max(top_k, 1)


def _mixer(config: Config, family: str, hidden: int, heads: int, head_dim: int) -> int:
    """Return the parameters of what layers without attention have in its place."""
    if "linear_num_value_heads" in config.values:  # gated delta net: q, k, v, z; beta and decay; convolution; output
        keys = config.number("linear_num_key_heads") * config.number("linear_key_head_dim")
        value_heads = config.number("linear_num_value_heads")
        values = value_heads * config.number("linear_value_head_dim")
        kernel = config.number("linear_conv_kernel_dim", default=4)
        return hidden * (2 * keys + 3 * values + 2 * value_heads) + kernel * (2 * keys + values)
    if "mamba_dt_rank" in config.values:  # Mamba: in, convolution, x, dt, A, output
        inner = config.number("mamba_expand") * hidden
        rank = config.number("mamba_dt_rank")
        state = config.number("mamba_d_state")
        return inner * (3 * hidden + config.number("mamba_d_conv") + 2 * rank + 3 * state)
    if "mamba_n_heads" in config.values:  # Mamba 2: in (z, x, B, C, dt), convolution, output
        inner = config.number("mamba_expand") * hidden
        groups = 2 * config.number("mamba_n_groups") * config.number("mamba_d_state")
        in_and_out = hidden * (3 * inner + groups + config.number("mamba_n_heads"))
        return in_and_out + config.number("mamba_d_conv") * (inner + groups)
    given = config.values.get("linear_attn_config")
    linear = Config(given if isinstance(given, Mapping) else {}, config.where)
    count = linear.number("num_heads", default=config.number("linear_num_heads", default=heads))
    width = linear.number("head_dim", default=config.number("linear_head_dim", default=head_dim))
    if family == "kimi_linear":  # KDA: q, k, v, output; decay and gate through the width of a head; beta
        return 4 * hidden * count * width + 2 * (hidden * width + width * count * width) + hidden * count
    if family == "lfm2_moe":  # short convolution: in (3 x hidden), output
        return 4 * hidden * hidden
    return 5 * hidden * heads * head_dim  # lightning attention: q, k, v, output gate, output
