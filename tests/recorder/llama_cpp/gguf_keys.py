"""What a GGUF file says of a model, from the model's transformers config: keys of llama.cpp and their values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

ARCHITECTURES = {
    "afmoe": "afmoe",
    "dbrx": "dbrx",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "dots1": "dots1",
    "ernie4_5_moe": "ernie4_5-moe",
    "exaone_moe": "exaone-moe",
    "gemma4_text": "gemma4",
    "glm4_moe": "glm4moe",
    "glm4_moe_lite": "deepseek2",
    "gpt_oss": "gpt-oss",
    "granitemoe": "granitemoe",
    "granitemoehybrid": "granitehybrid",
    "granitemoeshared": "granitemoe",
    "hunyuan_v1_moe": "hunyuan-moe",
    "jamba": "jamba",
    "lfm2_moe": "lfm2moe",
    "llama4_text": "llama4",
    "minimax_m2": "minimax-m2",
    "mimo_v2_flash": "mimo2",
    "mixtral": "llama",
    "nemotron_h": "nemotron_h_moe",
    "olmoe": "olmoe",
    "phimoe": "phimoe",
    "qwen2_moe": "qwen2moe",
    "qwen3_5_moe_text": "qwen35moe",
    "qwen3_moe": "qwen3moe",
    "qwen3_next": "qwen3next",
}
"""llama.cpp's name of each ``model_type`` that is written here."""

SIGMOID = 2
"""llama.cpp's number of routers that take the sigmoid of each score."""

NAMES: dict[str, tuple[str, ...]] = {
    "context_length": ("max_position_embeddings", "max_seq_len"),
    "embedding_length": ("hidden_size",),
    "block_count": ("num_hidden_layers",),
    "feed_forward_length": ("intermediate_size_mlp", "intermediate_size"),
    "attention.head_count": ("num_attention_heads",),
    "attention.head_count_kv": ("num_key_value_heads",),
    "attention.layer_norm_rms_epsilon": ("rms_norm_eps", "norm_eps", "layer_norm_epsilon"),
    "expert_count": ("moe_num_experts", "num_experts", "n_routed_experts", "num_local_experts"),
    "expert_used_count": ("moe_k", "num_experts_per_tok", "moe_topk", "top_k_experts"),
    "expert_feed_forward_length": ("moe_intermediate_size", "intermediate_size"),
    "expert_shared_count": ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"),
    "expert_weights_scale": ("routed_scaling_factor", "route_scale"),
    "leading_dense_block_count": ("first_k_dense_replace", "num_dense_layers", "moe_layer_start_index"),
}
"""Keys, and the names that configs have for them: the first that a config has counts."""

GROUPS = {"expert_group_count": "n_group", "expert_group_used_count": "topk_group"}


def _mla(config: Any) -> dict[str, Any]:
    """Multi-head latent attention, as llama.cpp computes it: with one head of keys, the compressed one."""
    return {
        "attention.head_count_kv": 1,
        "attention.kv_lora_rank": config.kv_lora_rank,
        "attention.q_lora_rank": config.q_lora_rank,
        "attention.key_length": config.kv_lora_rank + config.qk_rope_head_dim,
        "attention.value_length": config.kv_lora_rank,
        "attention.key_length_mla": config.qk_nope_head_dim + config.qk_rope_head_dim,
        "attention.value_length_mla": config.v_head_dim,
        "rope.dimension_count": config.qk_rope_head_dim,
    }


def _sigmoid(config: Any) -> dict[str, Any]:
    """A router that takes the sigmoid of each score."""
    norm = getattr(config, "norm_topk_prob", True)
    groups = {key: getattr(config, name, None) for key, name in GROUPS.items()}
    return {"expert_gating_func": SIGMOID, "expert_weights_norm": norm} | {
        key: value for key, value in groups.items() if value is not None
    }


def _granite(config: Any) -> dict[str, Any]:
    return {
        "logit_scale": float(config.logits_scaling),
        "residual_scale": float(config.residual_multiplier),
        "embedding_scale": float(config.embedding_multiplier),
        "attention.scale": float(config.attention_multiplier),
        "expert_shared_feed_forward_length": getattr(config, "shared_intermediate_size", 0),
    }


def _heads_where(config: Any, kind: str) -> list[int]:
    """Heads of keys and values of each block: 0 where it has no attention."""
    return [config.num_key_value_heads if found == kind else 0 for found in config.layer_types]


def _jamba(config: Any) -> dict[str, Any]:
    attention = range(config.attn_layer_offset, config.num_hidden_layers, config.attn_layer_period)
    return {
        "attention.head_count_kv": [
            config.num_key_value_heads * (block in attention) for block in range(config.num_hidden_layers)
        ],
        "ssm.conv_kernel": config.mamba_d_conv,
        "ssm.inner_size": config.mamba_expand * config.hidden_size,
        "ssm.state_size": config.mamba_d_state,
        "ssm.time_step_rank": config.mamba_dt_rank,
    }


def _granite_hybrid(config: Any) -> dict[str, Any]:
    return _granite(config) | {
        "rope.scaling.finetuned": config.position_embedding_type == "rope",  # llama.cpp's switch for any rotation
        "attention.head_count_kv": _heads_where(config, "full_attention"),
        "ssm.conv_kernel": config.mamba_d_conv,
        "ssm.inner_size": config.mamba_n_heads * config.mamba_d_head,
        "ssm.state_size": config.mamba_d_state,
        "ssm.time_step_rank": config.mamba_n_heads,
        "ssm.group_count": config.mamba_n_groups,
    }


def _nemotron(config: Any) -> dict[str, Any]:
    kinds = config.layers_block_type
    return _sigmoid(config) | {
        "block_count": len(kinds),
        "feed_forward_length": [config.moe_intermediate_size * (kind == "moe") for kind in kinds],
        "attention.head_count_kv": [config.num_key_value_heads * (kind == "full_attention") for kind in kinds],
        "attention.layer_norm_epsilon": config.layer_norm_epsilon,
        "expert_shared_feed_forward_length": config.moe_shared_expert_intermediate_size,
        "ssm.conv_kernel": config.conv_kernel,
        "ssm.inner_size": config.mamba_num_heads * config.mamba_head_dim,
        "ssm.state_size": config.ssm_state_size,
        "ssm.time_step_rank": config.mamba_num_heads,
        "ssm.group_count": config.n_groups,
    }


def _gemma4(config: Any) -> dict[str, Any]:
    ropes = config.rope_parameters
    return {
        "embedding_length_per_layer_input": config.hidden_size_per_layer_input,
        "attention.shared_kv_layers": config.num_kv_shared_layers,
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": [kind == "sliding_attention" for kind in config.layer_types],
        "attention.key_length_swa": config.head_dim,
        "attention.value_length_swa": config.head_dim,
        "rope.dimension_count_swa": config.head_dim,
        "rope.freq_base": float(ropes["full_attention"]["rope_theta"]),
        "rope.freq_base_swa": float(ropes["sliding_attention"]["rope_theta"]),
    }


def _mimo(config: Any) -> dict[str, Any]:
    ropes, slides = config.rope_parameters, [kind == "sliding_attention" for kind in config.layer_types]
    return _sigmoid(config) | {
        "attention.head_count_kv": [config.num_key_value_heads * (1 + slide) for slide in slides],
        "attention.value_length": config.v_head_dim,
        "attention.value_scale": config.attention_value_scale,
        "attention.sliding_window": config.sliding_window,
        "attention.sliding_window_pattern": slides,
        "rope.dimension_count": int(config.head_dim * ropes["full_attention"]["partial_rotary_factor"]),
        "rope.freq_base": float(ropes["full_attention"]["rope_theta"]),
        "rope.freq_base_swa": float(ropes["sliding_attention"]["rope_theta"]),
    }


def _dbrx(config: Any) -> dict[str, Any]:
    experts, attention = config.ffn_config, config.attn_config
    return {
        "embedding_length": config.d_model,
        "feed_forward_length": experts.ffn_hidden_size,
        "attention.head_count": config.n_heads,
        "attention.head_count_kv": attention.kv_n_heads,
        "attention.clamp_kqv": float(attention.clip_qkv),
        "attention.layer_norm_epsilon": 1e-5,
        "expert_count": experts.moe_num_experts,
        "expert_used_count": experts.moe_top_k,
    }


def _delta_net(config: Any) -> dict[str, Any]:
    """Gated DeltaNet in the layers without attention, with llama.cpp's names of state space models."""
    return {
        "ssm.conv_kernel": config.linear_conv_kernel_dim,
        "ssm.state_size": config.linear_key_head_dim,
        "ssm.group_count": config.linear_num_key_heads,
        "ssm.time_step_rank": config.linear_num_value_heads,
        "ssm.inner_size": config.linear_value_head_dim * config.linear_num_value_heads,
        "attention.recurrent_layers": [kind == "linear_attention" for kind in config.layer_types],
        "expert_shared_feed_forward_length": config.shared_expert_intermediate_size,
    }


def _shared_width(config: Any) -> dict[str, Any]:
    return {"expert_shared_feed_forward_length": config.moe_intermediate_size * config.num_shared_experts}


def _ernie(config: Any) -> dict[str, Any]:
    width = config.moe_intermediate_size * config.moe_num_shared_experts
    return {"interleave_moe_layer_step": config.moe_layer_interval} | (
        {"expert_shared_feed_forward_length": width} if width else {}
    )


OWN: dict[str, Callable[[Any], dict[str, Any]]] = {
    "afmoe": lambda config: _sigmoid(config) | {"attention.sliding_window": config.sliding_window},
    "dbrx": _dbrx,
    "deepseek_v2": _mla,
    "deepseek_v3": lambda config: _mla(config) | _sigmoid(config),
    "dots1": _sigmoid,
    "ernie4_5_moe": _ernie,
    "exaone_moe": lambda config: _sigmoid(config) | _shared_width(config) | {
        "attention.sliding_window": config.sliding_window
    },
    "gemma4_text": _gemma4,
    "glm4_moe": _sigmoid,
    "glm4_moe_lite": lambda config: _mla(config) | _sigmoid(config) | {
        "leading_dense_block_count": config.mlp_layer_types.index("sparse")
    },
    "gpt_oss": lambda config: {"attention.sliding_window": config.sliding_window},
    "granitemoe": _granite,
    "granitemoehybrid": _granite_hybrid,
    "granitemoeshared": _granite,
    "hunyuan_v1_moe": lambda config: {"expert_shared_feed_forward_length": config.intermediate_size},
    "jamba": _jamba,
    "lfm2_moe": lambda config: _sigmoid(config) | {
        "attention.head_count_kv": _heads_where(config, "full_attention"), "shortconv.l_cache": config.conv_L_cache
    },
    "llama4_text": lambda config: {
        "interleave_moe_layer_step": config.interleave_moe_layer_step,
        "expert_feed_forward_length": config.intermediate_size,
    },
    "mimo_v2_flash": _mimo,
    "minimax_m2": _sigmoid,
    "nemotron_h": _nemotron,
    "qwen3_5_moe_text": lambda config: _delta_net(config) | {"rope.dimension_sections": [1, 0, 0, 0]},
    "qwen3_next": _delta_net,
    "qwen2_moe": lambda config: {"expert_shared_feed_forward_length": config.shared_expert_intermediate_size},
}  # fmt: skip
"""What some model types say besides, or otherwise."""


def keys_of(config: Any) -> dict[str, Any]:
    """Return the keys of a model, without the architecture's name before them, and their values."""
    found: dict[str, Any] = {}
    for key, names in NAMES.items():
        values = [getattr(config, name) for name in names if getattr(config, name, None) is not None]
        if values:
            found[key] = values[0]
    if hasattr(config, "num_attention_heads"):
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        found |= {"attention.key_length": head, "attention.value_length": head, "rope.dimension_count": head}
        part = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor")
        if part is not None:
            found["rope.dimension_count"] = int(head * part)
    rope = getattr(config, "rope_parameters", None)
    if rope and "rope_theta" in rope:
        found["rope.freq_base"] = float(rope["rope_theta"])
    return found | OWN.get(config.model_type, lambda _: {})(config)


def write_keys(writer: Any, architecture: str, keys: Mapping[str, Any]) -> None:
    """Write keys, each in GGUF's kind of number for it."""
    for key, value in keys.items():
        name = f"{architecture}.{key}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        else:
            writer.add_array(name, value)
