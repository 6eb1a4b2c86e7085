"""The keys of a Hugging Face config as a geometry: a handful of names for each thing, by which most families go."""

from __future__ import annotations

from dataclasses import replace

from lrcsim.base.errors import ConfigError
from lrcsim.models.attention import AttentionShape
from lrcsim.models.config import MOST, MOST_EXPERTS, MOST_LAYERS, PREDICTING, Config
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
    note_attention,
    window,
    windowed_attention,
)
from lrcsim.models.geometry import Geometry
from lrcsim.models.layer_kinds import DENSE_FIRST, layer_kinds

_KNOWN = """
afmoe aria_text axk1 beam cohere2_moe dbrx deepseek deepseek_ocr2_text deepseek_v2 deepseek_v3 deepseek_v32 dots1
ernie4_5_moe ernie4_5_moe_vl ernie4_5_vl_moe_text exaone_moe flex_olmo flint gemma4_text glm4_moe glm4_moe_lite
glm4v_moe_text glm_moe_dsa gpt_oss granitemoe granitemoe_swa granitemoehybrid granitemoeshared grinmoe hunyuan_v1_moe
hy_v3 jamba jetmoe kimi_k2 kimi_linear kolibri1 laguna lara_mini lfm2_moe llama4 llama4_text llama_moe
mellum mimo_v2_flash minicpm minimax minimax_m2 minimax_m3_vl_text minimax_text_01 mistral4 mistral_large4_text
mixtral muse_spark_text nemotron_h olmoe openai_privacy_filter phimoe qwen2_moe qwen3_5_moe qwen3_5_moe_text qwen3_moe
qwen3_next qwen3_omni_moe_text qwen3_vl_moe_text sarvam_mla sarvam_moe solar_open step3p5 unlimited_ocr_text xverse
"""
FAMILIES = frozenset(_KNOWN.split())
"""Values of ``model_type`` (of a config's text part) whose geometry follows from their keys."""

QK_NORM = {
    *("dots1", "exaone_moe", "flint", "gemma4_text", "hy_v3", "laguna", "lara_mini", "mellum", "qwen3_5_moe"),
    *("qwen3_5_moe_text", "qwen3_moe", "qwen3_next", "qwen3_omni_moe_text", "qwen3_vl_moe_text", "sarvam_moe"),
}
SHARED_GATE = {"qwen2_moe", "qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text"}
TWO_MATRICES = {"nemotron_h"}
"""Families whose experts have no gate."""

VISION_EXPERTS = {"ernie4_5_moe_vl", "ernie4_5_vl_moe_text"}
"""Families that have experts for images besides; they are not counted."""

ENCODERS = {"openai_privacy_filter"}
"""Families without an output matrix: they label tokens."""

# The keys under which families keep the same thing, most specific first.
LAYERS = ("num_hidden_layers", "n_layers", "num_layers")
HIDDEN = ("hidden_size", "d_model")
EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
WIDTH = ("moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size", "ffn_hidden_size")
SHARED_WIDTH = (
    *("shared_expert_intermediate_size", "shared_intermediate_size", "moe_shared_expert_intermediate_size"),
    "share_expert_dim",
)
SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
NARROW = ("moe_hidden_size", "moe_latent_size")
"""Keys that say that experts work on a narrower state than the layers'."""

DENSE_KINDS = {"dense", "mlp"}
"""What ``mlp_layer_types`` calls a layer without experts."""


def geometry_by_keys(config: Config, family: str, name: str) -> Geometry:
    """Return the geometry that a config's keys say, its dtype not yet known.

    Args:
        config: the keys.
        family: ``model_type``, in lower case; one that is not of `FAMILIES` is taken for the most usual build.
        name: the model's; empty: the family.

    Raises:
        ConfigError: a key is missing or of the wrong type, or no layer has routed experts.
    """
    if not _says_experts(config):
        raise ConfigError(f"{config.where} is no Mixture-of-Experts model: no key of it tells of experts")
    layers = _layers(config)
    hidden, heads = config.number(*HIDDEN, least=1), config.number(*HEADS, least=1)
    experts = _count_of_text(config, family, EXPERTS, most=MOST_EXPERTS)
    moe = _moe_layers(config, family, layers)
    if not moe or not experts:
        raise ConfigError(f"{config.where} is no Mixture-of-Experts model: no layer has routed experts")
    top_k = config.number(*TOP_K)
    if not 1 <= top_k <= experts:
        raise ConfigError(f"{config.where} routes a token to {top_k} of {experts} experts: it must be 1 to {experts}")
    width = _width(config, family, hidden, experts)
    shared, shared_width = _shared(config, family, width)
    mla = config.number("kv_lora_rank", default=0)
    head_dim = config.number("head_dim", "kv_channels", "attention_head_dim", default=hidden // max(heads, 1))
    attended = kv_layers(config, family, layers)
    reach, short = window(config, layers)
    kv_heads = config.number(*KV_HEADS, default=heads, least=1)
    full = [layer for layer in attended if layer not in short]
    own = AttentionShape(heads, kv_heads, head_dim, config.number("v_head_dim", default=head_dim))
    local = windowed_attention(config, family, own) if short and not mla else own
    elsewhere = None if mla else global_attention(config, family, local, own, full)
    dense_width = config.number("intermediate_size_mlp", "intermediate_size", "ffn_hidden_size", default=width)
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
        dense_width=dense_width if len(moe) < layers and family != "nemotron_h" else 0,
        matrices=2 if family in TWO_MATRICES else 3,
        heads=local.heads,
        kv_heads=local.kv_heads,
        head_dim=config.number("qk_nope_head_dim", default=head_dim) if mla else local.head_dim,
        vocab=config.number("vocab_size", least=1),
        tied=family in ENCODERS
        or config.flag("tie_word_embeddings", default=family in ("gemma4_text", "jetmoe", "minicpm")),
        kv_rank=mla,
        rope_dim=config.number("qk_rope_head_dim") if mla else 0,
        q_rank=config.number("q_lora_rank", default=0) if mla else 0,
        value_dim=own.value_dim if mla or local.value_dim != local.head_dim else 0,
        norms=8 if family == "gemma4_text" else 2,  # before and after attention, block and experts; of the router
        qk_norm=family in QK_NORM or (family == "glm4_moe" and config.flag("use_qk_norm")),
        global_attention=elsewhere,
        biases=biases(config, family),
        shared_gate=family in SHARED_GATE,
        attention_layers=None if len(attended) == layers else attended,
        window=reach,
        window_layers=short,
        attention_extra=attention_extra(config, family, hidden, heads, head_dim, experts),
        attention_idle=attention_idle(config, family, hidden, heads, head_dim, experts),
        mixer_params=0 if len(attended) == layers else mixer(config, family, hidden, heads, head_dim),
        mtp_layers=config.number(*PREDICTING, default=0),
    )
    note_attention(config, geometry)
    return with_other_layers(config, family, geometry)


def with_other_layers(config: Config, family: str, geometry: Geometry) -> Geometry:
    """Return the geometry with the layers counted that the formulas do not know: narrow experts, one block a layer."""
    hidden = geometry.hidden
    narrow = 2 * hidden * config.number(*NARROW, default=0)  # to the experts and back
    more = dict.fromkeys(geometry.moe_layers, narrow) if narrow else {}
    if family == "nemotron_h":  # a layer is a mixer or attention or a block
        kinds = layer_kinds(config, geometry.layers)
        if not kinds:
            raise ConfigError(f"{config.where} lacks the key 'layers_block_type' (or 'hybrid_override_pattern')")
        dense, mamba = geometry.matrices * hidden * config.number("intermediate_size", default=0), geometry.mixer_params
        inside = {"mlp": dense, "mamba": mamba, "linear_attention": mamba}
        more = {layer: more.get(layer, 0) + inside.get(kind, 0) for layer, kind in enumerate(kinds)}
        geometry = replace(geometry, mixer_params=0)
    if not more:
        return geometry
    usual = [geometry.layer_params(layer) + geometry.layer_biases(layer) for layer in range(geometry.layers)]
    return replace(geometry, counted=(*(count + more.get(layer, 0) for layer, count in enumerate(usual)), 0))


def _says_experts(config: Config) -> bool:
    """Tell whether any key is of experts; a dense model's config has none, or says that there are none."""
    return any(value for key, value in config.values.items() if "expert" in key or "moe" in key)


def _count_of_text(config: Config, family: str, keys: tuple[str, ...], most: int = MOST) -> int:
    """Return a number; where there is one for text and one for images (ERNIE-4.5-VL), that for text."""
    for key in keys:
        value = config.values.get(key)
        if isinstance(value, list) and len(value) == 2 and family in VISION_EXPERTS:
            return config.checked(key, value[0], 1, most)
    return config.number(*keys, most=most)


def _width(config: Config, family: str, hidden: int, experts: int) -> int:
    """Return the inner width of a routed expert.

    Of experts that work on a narrower state it is the width at which matrices as long as ``hidden`` have as many
    parameters.
    """
    width = _count_of_text(config, family, WIDTH)
    if family == "llama_moe":  # the experts are slices of a dense block
        width //= experts
    narrow = config.number(*NARROW, default=0)
    if width * narrow % hidden:
        raise ConfigError(f"{config.where}: experts of {narrow} x {width} are no share of the hidden size {hidden}")
    if width < 1:
        raise ConfigError(f"{config.where}: {WIDTH[0]} must be at least 1")
    return width * narrow // hidden if narrow else width


def _layers(config: Config) -> int:
    """Return the number of layers; Nemotron-H has a list or a text with an entry for each, which counts before."""
    for key in ("layers_block_type", "hybrid_override_pattern"):
        if (kinds := config.values.get(key)) and isinstance(kinds, list | str):
            return config.checked(f"the length of {key}", len(kinds), 1, MOST_LAYERS)
    return config.number(*LAYERS, least=1, most=MOST_LAYERS)


def _moe_layers(config: Config, family: str, layers: int) -> tuple[int, ...]:
    """Return the indices of the layers with routed experts; which keys say so depends on the family."""
    everywhere = range(layers)
    if types := config.per_layer("mlp_layer_types", layers):
        return tuple(layer for layer, kind in enumerate(types) if str(kind) not in DENSE_KINDS)
    if "moe" in (kinds := layer_kinds(config, layers)):
        return tuple(layer for layer, kind in enumerate(kinds) if kind == "moe")
    if isinstance(listed := config.values.get("moe_layers_enum"), str):  # Step-3.5: "3,4,5"
        found = {int(part) for part in listed.split(",") if part.strip().isdecimal()}
        return tuple(layer for layer in everywhere if layer in found)
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
    first = config.number("first_k_dense_replace", "num_dense_layers", default=DENSE_FIRST.get(family, 0))
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
    if family == "hunyuan_v1_moe":  # transformers 5.24 builds one as wide as this, whatever their number
        return 1, config.number("intermediate_size")
    if total := config.number(*SHARED_WIDTH, default=0):
        return 1, total
    shared = config.number(*SHARED, default=0)
    return shared, shared * width
