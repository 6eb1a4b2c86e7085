"""Tiny random models of every MoE architecture that transformers has, built from its own default config.

`tiny_model(model_type)` shrinks the sizes under whatever names the config has them; `SPECIAL` holds what some need
besides. Weights are drawn anew so that routing is lively: initial values make routers nearly indifferent.
"""

from __future__ import annotations

import re
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from lrcsim.recorder import families

EXPERTS, TOP_K, VOCABULARY = 8, 2, 64

LARGEST = 8_000_000
"""Parameters that a tiny model has at most."""

EXPERT_KEYS = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")

SIZES: dict[str, Any] = {
    **dict.fromkeys(EXPERT_KEYS, EXPERTS),
    **dict.fromkeys(
        ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_top_k", "moe_k", "top_k_experts"), TOP_K
    ),
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "d_model": 32,
    "intermediate_size": 32,
    "moe_intermediate_size": 16,
    "ffn_hidden_size": 16,
    "expert_ffn_hidden_size": 16,
    "d_ff": 32,
    "num_hidden_layers": 3,
    "num_layers": 3,
    "n_layers": 3,
    "num_attention_heads": 4,
    "num_heads": 4,
    "n_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "kv_channels": 8,
    "max_position_embeddings": 128,
    "first_k_dense_replace": 1,
    "n_group": 2,
    "num_expert_group": 2,
    "topk_group": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

TOWER: dict[str, Any] = {
    **dict.fromkeys(("depth", "num_hidden_layers", "n_layers", "encoder_layers"), 1),
    **dict.fromkeys(("num_heads", "num_attention_heads", "num_key_value_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("hidden_size", "intermediate_size", "d_model", "encoder_ffn_dim", "mlp_dim"), 32),
    **dict.fromkeys(("out_hidden_size", "output_dim", "text_hidden_size", "adapter_out_dim", "vision_output_dim"), 32),
    **dict.fromkeys(("projection_hidden_dim", "projection_intermediate_size", "downsample_hidden_size"), 32),
    "head_dim": 8,
    "max_position_embeddings": 128,
    "position_embedding_size": 64,
    "image_size": 28,
    "projector_input_dim": 32,
    "projector_output_dim": 32,
    "vocab_size": VOCABULARY,
}
"""Sizes of the parts that see or hear; none of them runs on text."""

ATTENTION = {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
LINEAR = {
    "linear_num_heads": 4, "linear_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
    "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 16}
NEMOTRON = {
    "layers_block_type": ["linear_attention", "moe", "full_attention", "moe"], "mamba_num_heads": 8,
    "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 2, "chunk_size": 16,
    "moe_shared_expert_intermediate_size": 16,
}  # fmt: skip
INKLING = {
    "swa_head_dim": 8, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4, "d_rel": 4, "rel_extent": 8,
    "unpadded_vocab_size": VOCABULARY,
}  # fmt: skip
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
SPARSE = {"mlp_layer_types": ["dense", "sparse", "sparse"]}
MTP = {"num_nextn_predict_layers": 0}

SPECIAL: dict[str, dict[str, Any]] = {
    "beam": {"mlp_layer_types": ["dense", "sparse", "sparse"]},
    "bailing_hybrid": {**ATTENTION, **LINEAR, **MTP, "first_k_dense_replace": 1},
    "deepseek_v3": MTP,
    "deepseek_ocr2_text": {
        "mlp_layer_types": ["dense", "sparse", "sparse"], "num_experts_per_tok": TOP_K, "n_group": 1, "topk_group": 1,
    },
    "dots1": {"n_routed_experts": EXPERTS, "n_shared_experts": 1, "num_experts_per_tok": TOP_K},
    "dots3_note_text": {"per_layer_config": {}, "head_dim": 16, **SPARSE},
    "dots3_note_vision_encoder": {"per_layer_config": {}, "adapter_in_dim": 32},
    "ernie4_5_vl_moe_text": {
        "moe_intermediate_size": [16, 16],
        "rope_parameters": {**ROPE, "mrope_section": [1, 1, 2]},
    },
    "glm4v_moe_text": {"rope_parameters": {**ROPE, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 0]}},
    "glm5_next_text": {**ATTENTION, **LINEAR, **SPARSE, "qk_rope_head_dim": 0, "head_dim": 0},
    "hy_v4_vl_text": {**SPARSE, "rope_parameters": {**ROPE, "mrope_section": [2, 1, 1]}},
    "doge": {"is_moe": True, "num_experts": 64},
    "flint": {"mlp_only_layers": [0], "shared_expert_intermediate_size": 16},
    "gemma4_text": {
        "enable_moe_block": True, "num_experts": EXPERTS, "top_k_experts": TOP_K, "moe_intermediate_size": 16,
        "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": VOCABULARY, "per_layer_config": {},
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    },
    "diffusion_gemma_text": {
        "num_experts": EXPERTS, "top_k_experts": TOP_K, "moe_intermediate_size": 16, "per_layer_config": {},
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    },
    "granitemoehybrid": {**MAMBA, **ATTENTION, "shared_intermediate_size": 16},
    "granitemoeshared": {"shared_intermediate_size": 16},
    "inkling_text": {key: value for key, value in INKLING.items() if key != "unpadded_vocab_size"},
    "inkling2_text": INKLING,
    "inkling2_loop_text": {
        **INKLING, "num_hidden_layers": 4, "loop_layer_index_start": 1, "loop_layer_index_end": 3, "loop_num_passes": 2,
        "loop_gate_rank": 4, "n_layers_per_attn_res_block": 1,
    },
    "jamba": {"attn_layer_offset": 1, "attn_layer_period": 2, "use_mamba_kernels": False, "mamba_dt_rank": 4},
    "kimi_linear": {**ATTENTION, **LINEAR, "mlp_layer_types": ["dense", "sparse", "sparse"]},
    "lara_mini": {**ATTENTION, **LINEAR},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv"], "num_dense_layers": 1},
    "longcat_flash": {"zero_expert_num": 4, "num_layers": 2},
    "mimo_v2_flash": {"num_key_value_heads": 2},
    "mistral4": {"head_dim": 16},
    "muse_spark_text": {"moe_hidden_size": 16, **SPARSE},
    "muse_spark_audio": {"num_hidden_layers": 4, "hidden_sizes": [8, 8, 8, 8], "depths": [1, 1, 1, 1]},
    "nemotron_h": NEMOTRON,
    "qwen3_omni_moe_thinker": {"vision_start_token_id": 60, "vision_end_token_id": 61, "audio_start_token_id": 62},
    "step3p5": {**SPARSE, "sliding_window": 16},
    "muse_spark": {"projector_hidden_size": 32, "out_hidden_size": 32},
    "nemotron_h_omni": {"projector_hidden_size": 32, "vision_hidden_size": 32},
    "dots3_note_audio_encoder": {"adapter_input_size": 32},
    "radio": {"video_temporal_patch_size": 2},
    "nllb-moe": {
        "encoder_layers": 2, "decoder_layers": 2, "encoder_sparse_step": 2, "decoder_sparse_step": 2,
        "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
        "expert_capacity": 3, "moe_token_dropout": 0.0,
    },
    "qwen2_moe": {"shared_expert_intermediate_size": 16},
    "qwen3_5_moe_text": {**ATTENTION, **LINEAR, "shared_expert_intermediate_size": 16},
    "qwen3_next": {**ATTENTION, **LINEAR, "shared_expert_intermediate_size": 16},
    "qwen4_exp_text": {
        **ATTENTION, **LINEAR, "shared_expert_intermediate_size": 16, "hc_lowrank": 8, "ngram_vocab_size_base": 64,
        "ple_embed_dim": 16, "heads_per_ngram": 2, "split_ngram_parts": 1,
        "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "switch_transformers": {
        "num_layers": 4, "num_decoder_layers": 4, "num_sparse_encoder_layers": 2, "num_sparse_decoder_layers": 2,
        "d_kv": 8, "expert_capacity": 3, "dense_act_fn": "gelu",
    },
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}  # fmt: skip
"""What some model types need besides; a nested dict goes into that part of the config."""

PARTS = ("text_config", "ffn_config", "attn_config", "thinker_config", "talker_config")


def tiny_config(model_type: str) -> Any:
    """Return the config of a model type with all sizes small."""
    return _shrunk(CONFIG_MAPPING[model_type], model_type, SIZES)


def _shrunk(cls: Any, model_type: str, sizes: dict[str, Any]) -> Any:
    default = cls()
    known = {*default.to_dict(), *type(default).attribute_map}
    values = {key: value for key, value in sizes.items() if key in known}
    for theirs, ours in type(default).attribute_map.items():  # one name is enough
        if theirs in values and ours in values:
            del values[theirs]
    for part in default.sub_configs:
        inner = getattr(default, part, None)
        if inner is not None and hasattr(inner, "to_dict"):
            values[part] = _shrunk(type(inner), inner.model_type, SIZES if part in PARTS else TOWER)
    values.update(SPECIAL.get(model_type, {}))
    if cls.__name__ == "DbrxConfig":  # takes its parts as dicts only
        values |= {part: values[part].to_dict() for part in ("attn_config", "ffn_config")}
        values["attn_config"] |= {"rope_theta": ROPE["rope_theta"], "clip_qkv": 8.0}
    return cls(**values)


def model_class(config: Any) -> Any:
    """Return the class to record with: one that generates if there is one."""
    whole = ["MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES", "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES"]
    text = ["MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES"]
    order = whole + text if hasattr(config, "text_config") else text + whole
    for name in (*order, "MODEL_MAPPING_NAMES"):
        found = getattr(modeling_auto, name).get(config.model_type)
        if found is not None:
            return getattr(transformers, found if isinstance(found, str) else found[0])
    raise LookupError(f"no model class for {config.model_type}")


def tiny_model(model_type: str) -> Any:
    """Build a tiny random model, in evaluation mode, with a lively router."""
    config = tiny_config(model_type)
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in model_class(config)(config).parameters())
    if size > LARGEST:
        raise LookupError(f"{model_type} would have {size:,} parameters")
    torch.manual_seed(0)
    model = families.text_part(model_class(config)(config).eval())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and parameter.is_floating_point():
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
                if re.search(r"(router|gate|classifier)\b.*weight$", name) and "gate_" not in name:
                    parameter.mul_(3)
        for name, buffer in model.named_buffers():
            if re.search("bias", name) and buffer.is_floating_point():
                buffer.uniform_(-0.3, 0.3)
            if name.endswith("tid2eid"):
                rows = [torch.randperm(EXPERTS)[: buffer.shape[1]] for _ in range(buffer.shape[0])]
                buffer.copy_(torch.stack(rows))
    return model


def save(folder: Any, chat_template: str | None = None) -> None:
    """Save a tiny OLMoE and the tokenizer of `save_tokenizer`."""
    from transformers import OlmoeConfig, OlmoeForCausalLM

    config = OlmoeConfig(
        vocab_size=258, hidden_size=32, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=2, num_experts=EXPERTS, num_experts_per_tok=TOP_K, max_position_embeddings=640,
        pad_token_id=256, bos_token_id=None, eos_token_id=257,
    )  # fmt: skip
    torch.manual_seed(0)
    model = OlmoeForCausalLM(config)
    with torch.no_grad():
        model.lm_head.weight[256:] = 0  # hardly ever sampled
    model.save_pretrained(folder)
    save_tokenizer(folder, chat_template)


def save_tokenizer(folder: Any, chat_template: str | None = None) -> None:
    """Save a tokenizer whose tokens are the bytes of the text, 256 padding, 257 the end of a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = [
        chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))
    ]  # that byte-level BPE writes
    others = [code for code in range(256) if chr(code) not in letters]
    written = {ord(letter): letter for letter in letters} | {code: chr(256 + at) for at, code in enumerate(others)}
    vocabulary = {letter: code for code, letter in written.items()} | {"<pad>": 256, "<end>": 257}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
