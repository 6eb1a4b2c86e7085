"""Read a Hugging Face ``config.json``: many families, a handful of keys for each thing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.models.attention import AttentionShape
from lrcsim.models.config import MOST_EXPERTS, MOST_LAYERS, Config
from lrcsim.models.config_attention import (
    HEADS,
    KV_HEADS,
    TOP_K,
    attention_extra,
    attention_idle,
    biases,
    global_attention,
    kv_layers,
    mixer,
    window,
)
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
SHARED_GATE = {"qwen2_moe", "qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text"}

# The keys under which families keep the same thing, most specific first.
LAYERS = ("num_hidden_layers", "n_layers")
HIDDEN = ("hidden_size", "d_model")
EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
WIDTH = ("moe_intermediate_size", "intermediate_size", "ffn_hidden_size")
SHARED_WIDTH = ("shared_expert_intermediate_size", "shared_intermediate_size")
SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")


LARGEST_FILE = 64 * 2**20


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
    attended = kv_layers(config, family, layers)
    reach, short = window(config, layers)
    kv_heads = config.number(*KV_HEADS, default=heads, least=1)
    full = [layer for layer in attended if layer not in short]
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
        kv_heads=kv_heads,
        head_dim=config.number("qk_nope_head_dim", default=head_dim) if mla else head_dim,
        vocab=config.number("vocab_size", least=1),
        tied=config.flag("tie_word_embeddings", default=family in ("gemma4_text", "jetmoe", "minicpm")),
        kv_rank=mla,
        rope_dim=config.number("qk_rope_head_dim") if mla else 0,
        q_rank=config.number("q_lora_rank", default=0) if mla else 0,
        value_dim=config.number("v_head_dim", default=0) if mla else 0,
        norms=8 if family == "gemma4_text" else 2,  # before and after attention, block and experts; of the router
        qk_norm=family in QK_NORM or (family == "glm4_moe" and config.flag("use_qk_norm")),
        global_attention=None
        if mla
        else global_attention(config, family, AttentionShape(heads, kv_heads, head_dim, head_dim), full),
        biases=biases(config, family),
        shared_gate=family in SHARED_GATE,
        attention_layers=None if len(attended) == layers else attended,
        window=reach,
        window_layers=short,
        attention_extra=attention_extra(config, family, hidden, heads, head_dim, experts),
        attention_idle=attention_idle(config, family, hidden, heads, head_dim, experts),
        mixer_params=0 if len(attended) == layers else mixer(config, family, hidden, heads, head_dim),
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
