"""What a Hugging Face config says of attention and of what stands in its place, family by family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.models.attention import AttentionShape
from lrcsim.models.config import Config
from lrcsim.models.geometry import BIASES, Geometry
from lrcsim.models.layer_kinds import FULL, WINDOWED, WITHOUT_KV, layer_kinds

TOP_K = (
    *("num_experts_per_tok", "num_experts_per_token", "num_selects"),
    *("moe_topk", "moe_top_k", "moe_k", "top_k_experts"),
)
HEADS = ("num_attention_heads", "n_heads")
KV_HEADS = ("num_key_value_heads", "kv_n_heads", "num_attention_groups")
OUTPUT_GATE = {"afmoe", "beam", "muse_spark_text", "qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text"}
"""Families whose attention has a gate as large as its queries: a matrix of its own, or computed beside them."""

HEAD_GATE = {"laguna", "step3p5"}
"""Families whose attention has a gate of one number per head."""

_SIGMOID = """
afmoe axk1 beam deepseek_v3 deepseek_v32 dots1 ernie4_5_moe exaone_moe glm4_moe glm4_moe_lite glm4v_moe_text
glm_moe_dsa hy_v3 kimi_k2 kimi_linear kolibri1 laguna mimo_v2_flash minimax_m2 minimax_m3_vl_text nemotron_h
sarvam_mla sarvam_moe solar_open step3p5
"""
ROUTER_BIAS = frozenset(_SIGMOID.split())
"""Families whose sigmoid router adds a number to each expert's score where it chooses (arXiv 2412.19437, 2.1.2)."""


def kv_layers(config: Config, family: str, layers: int) -> tuple[int, ...]:
    """Return the indices of the layers that keep keys and values."""
    if types := layer_kinds(config, layers):
        return tuple(layer for layer, kind in enumerate(types) if kind not in WITHOUT_KV)
    if "attn_layer_period" in config.values:
        period = max(config.number("attn_layer_period"), 1)
        return tuple(range(config.number("attn_layer_offset"), layers, period))
    if flags := config.per_layer("attn_type_list", layers):  # MiniMax-Text-01: 0 lightning attention, 1 softmax
        return tuple(layer for layer, flag in enumerate(flags) if flag == 1)
    if family in ("qwen3_next", "qwen3_5_moe", "qwen3_5_moe_text"):
        period = max(config.number("full_attention_interval", default=4), 1)
        return tuple(range(period - 1, layers, period))
    linear = config.values.get("linear_attn_config")
    if isinstance(linear, Mapping) and isinstance(linear.get("full_attn_layers"), list):  # Kimi: counted from 1
        return Config(linear, config.where).indices("full_attn_layers", layers, first=1)
    return tuple(range(layers))


def window(config: Config, layers: int) -> tuple[int, tuple[int, ...]]:
    """Return how far layers with sliding or chunked attention look back, and which they are."""
    types = layer_kinds(config, layers)
    for kind, keys in WINDOWED.items():
        short = tuple(layer for layer, other in enumerate(types) if other == kind)
        if short and (window := config.number(*keys, default=0)):
            return window, short
    return 0, ()


def windowed_attention(config: Config, family: str, own: AttentionShape) -> AttentionShape:
    """Return what attention is in the layers with a window, where other keys say it than in the rest (``own``)."""
    given = config.values.get("attention_other_setting")  # Step-3.5
    other = Config(given if isinstance(given, Mapping) else {}, config.where)
    twice = 2 if family == "mimo_v2_flash" else 1  # transformers' MiMoV2Flash; the hub's config has the key
    head_dim = config.number("swa_head_dim", default=own.head_dim, least=1)
    values = own.value_dim if own.value_dim != own.head_dim else head_dim
    return AttentionShape(
        heads=config.number(
            "swa_num_attention_heads",
            "num_sliding_attention_heads",
            default=other.number(*HEADS, default=own.heads, least=1),
            least=1,
        ),
        kv_heads=config.number(
            "swa_num_key_value_heads", default=other.number(*KV_HEADS, default=twice * own.kv_heads, least=1), least=1
        ),
        head_dim=head_dim,
        value_dim=config.number("swa_v_head_dim", default=values, least=1),
    )


def global_attention(
    config: Config, family: str, local: AttentionShape, own: AttentionShape, full: Sequence[int]
) -> AttentionShape | None:
    """Return what attention is in the layers without a window, ``full``; None: what it is in the others, ``local``.

    It is ``own``, what the config's plain keys say, but for what stands elsewhere.

    Published configs of gemma-4 have keys for it; transformers 5.24 writes ``per_layer_config``, by layer.

    Raises:
        ConfigError: these layers differ from each other, or some use the keys and values of others.
    """
    if config.number("num_kv_shared_layers", default=0):
        raise ConfigError(
            f"{config.where}: num_kv_shared_layers is not 0: lrcsim does not model layers that use the keys and values "
            "of others; set it to 0 in a copy of the file, and all layers keep their own"
        )
    keys: dict[str, Any] = {}
    if family == "gemma4_text":
        keys = {"head_dim": config.number("global_head_dim", default=512)}
        if config.flag("attention_k_eq_v") and "num_global_key_value_heads" in config.values:
            keys["num_key_value_heads"] = config.values["num_global_key_value_heads"]
    given = config.values.get("per_layer_config")
    if isinstance(given, Mapping):
        by_layer = {int(layer): keys for layer, keys in given.items() if str(layer).isdecimal()}
        every = [by_layer.get(layer) for layer in full]
        if any(other != every[0] for other in every):
            raise ConfigError(f"{config.where}: per_layer_config gives layers without a window different attention")
        if every and isinstance(every[0], Mapping):
            keys |= every[0]
    there = Config(keys, config.where)
    head_dim = there.number("head_dim", default=own.head_dim, least=1)
    shape = AttentionShape(
        heads=there.number(*HEADS, default=own.heads, least=1),
        kv_heads=there.number(*KV_HEADS, default=own.kv_heads, least=1),
        head_dim=head_dim,
        value_dim=there.number("v_head_dim", default=head_dim if "head_dim" in keys else own.value_dim, least=1),
        keys_are_values=family == "gemma4_text" and config.flag("attention_k_eq_v"),
    )
    return None if shape == local else shape


def note_attention(config: Config, geometry: Geometry) -> None:
    """Note in ``config.notices`` what of attention is taken for the standard that is not: its cache may be smaller."""
    known = FULL | WITHOUT_KV | WINDOWED.keys()
    if odd := sorted(set(layer_kinds(config, geometry.layers)) - known):
        config.notices.append(
            f"layers of the kind {' and '.join(map(repr, odd))} are taken for full attention: the KV cache may be "
            "smaller than said"
        )
    given = config.values.get("per_layer_config")
    if geometry.mla and isinstance(given, Mapping) and given:
        config.notices.append(
            "per_layer_config is not read with MLA: attention and KV cache are those of the plain keys"
        )


def biases(config: Config, family: str) -> tuple[str, ...]:
    """Return what has biases, in words of `lrcsim.models.geometry.BIASES`; which keys say so depends on the family.

    With MLA ``attention_bias`` is not read: no released model of these families sets it.
    """
    found: set[str] = set()
    everywhere = config.flag("use_bias") and family == "ernie4_5_moe"
    if family == "qwen2_moe" and config.flag("qkv_bias", default=True):
        found |= {"q", "k", "v"}
    with_mla = config.number("kv_lora_rank", default=0) > 0
    if everywhere or (
        config.flag("attention_bias", default=family in ("gpt_oss", "openai_privacy_filter")) and not with_mla
    ):
        found |= {"q", "k", "v"} if family in ("glm4_moe", "glm4v_moe_text") else {"q", "k", "v", "attn_output"}
    if family in ("flint", "granitemoe_swa"):
        found.add("sinks")
    if family in ("gpt_oss", "openai_privacy_filter"):
        found |= {"sinks", "router", "ffn"}
    if family in ROUTER_BIAS or (family == "lfm2_moe" and config.flag("use_expert_bias", default=True)):
        found.add("router")
    if everywhere or config.flag("lm_head_bias"):
        found |= {"output"} | ({"ffn"} if everywhere else set())
    return tuple(name for name in BIASES if name in found)


def attention_extra(config: Config, family: str, hidden: int, heads: int, head_dim: int, experts: int) -> int:
    """Return the parameters of a layer's attention besides queries, keys, values and output."""
    if family in OUTPUT_GATE:
        return hidden * heads * head_dim + (heads if family == "beam" else 0)  # its gate has a bias
    if family in HEAD_GATE:
        return hidden * heads
    if family == "jetmoe":  # attention experts: queries and output are routed, those of top-k are in heads
        router = hidden * experts + hidden  # and a bias
        return attention_idle(config, family, hidden, heads, head_dim, experts) + router
    if (
        "index_n_heads" in config.values and family != "minimax_m3_vl_text"
    ):  # DeepSeek Sparse Attention's indexer: queries, a key, weights of its heads
        count, width = config.number("index_n_heads", default=0), config.number("index_head_dim", default=0)
        return (config.number("q_lora_rank", default=0) or hidden) * count * width + hidden * (width + count)
    return 0


def attention_idle(config: Config, family: str, hidden: int, heads: int, head_dim: int, experts: int) -> int:
    """Return those of them that a token does not use."""
    if family != "jetmoe":
        return 0
    top_k = config.number(*TOP_K)
    return (experts - top_k) * 2 * hidden * heads * head_dim // max(top_k, 1)


def mixer(config: Config, family: str, hidden: int, heads: int, head_dim: int) -> int:
    """Return the parameters of what layers without attention have in its place."""
    if (
        "linear_num_value_heads" in config.values
    ):  # gated delta net: q, k, v, z; beta and decay (twice); convolution; output
        keys = config.number("linear_num_key_heads") * config.number("linear_key_head_dim")
        value_heads = config.number("linear_num_value_heads")
        values = value_heads * config.number("linear_value_head_dim")
        kernel = config.number("linear_conv_kernel_dim", default=4)
        return hidden * (2 * keys + 3 * values + 2 * value_heads) + 2 * value_heads + kernel * (2 * keys + values)
    if "mamba_dt_rank" in config.values:  # Mamba: in, convolution, x, dt, A, D, output
        inner = config.number("mamba_expand") * hidden
        rank = config.number("mamba_dt_rank")
        state = config.number("mamba_d_state")
        biases = 1 + config.flag("mamba_conv_bias", default=True)  # of dt, of the convolution
        return inner * (3 * hidden + config.number("mamba_d_conv") + 2 * rank + 3 * state + 1 + biases)
    if count := config.number("mamba_n_heads", "mamba_num_heads", default=0):  # Mamba 2 (Granite, Nemotron-H):
        # in (z, x, B, C, dt), convolution, output; dt, A, D
        width = config.number("mamba_head_dim", default=0)
        inner = width * count or config.number("mamba_expand") * hidden
        groups = 2 * config.number("mamba_n_groups", "n_groups") * config.number("mamba_d_state", "ssm_state_size")
        taps = config.number("mamba_d_conv", "conv_kernel")
        taps += config.flag("mamba_conv_bias", default=config.flag("use_conv_bias", default=True))
        return hidden * (3 * inner + groups + count) + taps * (inner + groups) + 3 * count
    given = config.values.get("linear_attn_config")
    linear = Config(given if isinstance(given, Mapping) else {}, config.where)
    count = linear.number("num_heads", default=config.number("linear_num_heads", default=heads))
    width = linear.number("head_dim", default=config.number("linear_head_dim", default=head_dim))
    if family == "kimi_linear":  # KDA: q, k, v, output; decay and gate through the width of a head; beta; convolutions
        inner, taps = count * width, linear.number("short_conv_kernel_size", default=4)
        low_rank = 2 * (hidden * width + width * inner)
        return 4 * hidden * inner + low_rank + hidden * count + 3 * taps * inner + inner + count  # decay: dt, A
    if family == "lfm2_moe":  # short convolution: in (3 x hidden), output
        return 4 * hidden * hidden + config.number("conv_L_cache", default=3) * hidden
    return 5 * hidden * heads * head_dim  # lightning attention: q, k, v, output gate, output
