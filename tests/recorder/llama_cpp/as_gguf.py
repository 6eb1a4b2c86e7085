"""A transformers model written as a GGUF file in float32, by package ``gguf`` and its table of tensor names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

ARCHITECTURES = {
    "ernie4_5_moe": "ernie4_5-moe",
    "olmoe": "olmoe",
    "qwen3_moe": "qwen3moe",
    "mixtral": "llama",
    "gpt_oss": "gpt-oss",
    "deepseek_v2": "deepseek2",
}
"""llama.cpp's name of each ``model_type`` that is written here."""


def write_gguf(model: Any, path: Path, folder: Path | None = None, template: str = "", end: int | None = None) -> None:
    """Write a model.

    Args:
        model: of one of `ARCHITECTURES`, in float32.
        path: of the file.
        folder: with a tokenizer.json, byte-level BPE as GPT-2's; None: the file has no tokenizer.
        template: of conversations.
        end: token that ends a text.
    """
    import gguf

    config = model.config
    name = ARCHITECTURES[config.model_type]
    architecture = next(kind for kind, text in gguf.MODEL_ARCH_NAMES.items() if text == name)
    writer = gguf.GGUFWriter(path, name)
    _describe(writer, config)
    _add_tokenizer(writer, config, folder, template, end)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for key, data in _tensors(model):
        found = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert found is not None, key
        writer.add_tensor(found, np.ascontiguousarray(data, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _describe(writer: Any, config: Any) -> None:
    writer.add_name("written by a test")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(1 if config.model_type == "deepseek_v2" else config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    kind = config.model_type
    if kind == "ernie4_5_moe":
        writer.add_expert_count(config.moe_num_experts)
        writer.add_expert_used_count(config.moe_k)
        writer.add_expert_feed_forward_length(config.moe_intermediate_size)
        writer.add_interleave_moe_layer_step(config.moe_layer_interval)
        writer.add_leading_dense_block_count(config.moe_layer_start_index)
        writer.add_expert_shared_count(config.moe_num_shared_experts)
        if config.moe_num_shared_experts:
            writer.add_expert_shared_feed_forward_length(config.moe_intermediate_size * config.moe_num_shared_experts)
    else:
        experts = getattr(config, "num_experts", None) or getattr(config, "n_routed_experts", None)
        writer.add_expert_count(experts or config.num_local_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        writer.add_expert_feed_forward_length(getattr(config, "moe_intermediate_size", config.intermediate_size))
    if kind == "deepseek_v2":
        writer.add_leading_dense_block_count(config.first_k_dense_replace)
        writer.add_expert_shared_count(config.n_shared_experts)
        writer.add_expert_weights_scale(config.routed_scaling_factor)
        writer.add_kv_lora_rank(config.kv_lora_rank)
        writer.add_key_length(config.kv_lora_rank + config.qk_rope_head_dim)
        writer.add_value_length(config.kv_lora_rank)
        writer.add_key_length_mla(config.qk_nope_head_dim + config.qk_rope_head_dim)
        writer.add_value_length_mla(config.v_head_dim)
        writer.add_rope_dimension_count(config.qk_rope_head_dim)
        writer.add_q_lora_rank(config.q_lora_rank)
    else:
        writer.add_key_length(head)
        writer.add_value_length(head)
        writer.add_rope_dimension_count(head)
    if kind == "gpt_oss":
        writer.add_sliding_window(config.sliding_window)


def _add_tokenizer(writer: Any, config: Any, folder: Path | None, template: str, end: int | None) -> None:
    if folder is None:
        writer.add_tokenizer_model("none")
        writer.add_vocab_size(config.vocab_size)
        return
    found = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    tokens = sorted(found["vocab"], key=found["vocab"].__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges([" ".join(pair) for pair in found["merges"]])
    writer.add_add_bos_token(False)
    if end is not None:
        writer.add_eos_token_id(end)
    if template:
        writer.add_chat_template(template)


def _tensors(model: Any) -> Any:
    """Yield each of a file's tensors under transformers' name, experts one stack for gate, up and down."""
    config, state = model.config, {name: data.float().numpy() for name, data in model.state_dict().items()}
    for name, data in state.items():
        if name.endswith("experts.gate_up_proj"):
            stem = name.removesuffix("gate_up_proj")
            gate, up = _halves(config, data)
            yield f"{stem}gate_proj.weight", gate
            yield f"{stem}up_proj.weight", up
        elif name.endswith("experts.gate_up_proj_bias"):
            stem = name.removesuffix("gate_up_proj_bias")
            yield f"{stem}gate_proj.bias", data[:, ::2]
            yield f"{stem}up_proj.bias", data[:, 1::2]
        elif name.endswith("experts.down_proj"):
            yield f"{name}.weight", data.transpose(0, 2, 1) if config.model_type == "gpt_oss" else data
        elif name.endswith("experts.down_proj_bias"):
            yield f"{name.removesuffix('_bias')}.bias", data
        elif name.endswith("e_score_correction_bias"):
            stem = name.removesuffix("_bias").replace("mlp.gate.moe_statics", "mlp.moe_statics")
            yield f"{stem}.bias", data.ravel()
        elif name.endswith("self_attn.sinks"):
            yield f"{name}.weight", data
        elif config.model_type == "mixtral" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            yield name, data.reshape(heads, 2, -1, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
        elif name.endswith("kv_b_proj.weight"):
            parts = data.reshape(config.num_attention_heads, -1, config.kv_lora_rank)
            yield name.replace("kv_b", "k_b"), parts[:, : config.qk_nope_head_dim].transpose(0, 2, 1)
            yield name.replace("kv_b", "v_b"), parts[:, config.qk_nope_head_dim :]
        else:
            yield name, data


def _halves(config: Any, data: Any) -> tuple[Any, Any]:
    """Split the gates from the other first matrices of all experts, [E, width, hidden] each."""
    if config.model_type == "gpt_oss":
        return data[..., ::2].transpose(0, 2, 1), data[..., 1::2].transpose(0, 2, 1)
    half = data.shape[1] // 2
    return data[:, :half], data[:, half:]
