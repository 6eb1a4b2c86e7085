"""The tensors of a GGUF file, from those of a transformers model.

Names are such as package ``gguf`` knows, shapes those of llama.cpp. The experts of a layer are three stacks there:
gate, up and down, [E, rows, columns] each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]

INTERLEAVED = ("mixtral", "granitemoe", "granitemoeshared", "granitemoehybrid")
"""Types whose queries and keys llama.cpp rotates in neighbouring pairs, transformers in halves."""

TRANSPOSED = ("gpt_oss", "llama4_text")
"""Types whose experts stand as [E, columns, rows] in transformers."""

MAMBA2 = ("granitemoehybrid", "nemotron_h")

RENAMED = (
    (r"(\d)\.(?:(?:block_sparse_moe|feed_forward|mixer)\.)?experts\.", r"\1.mlp.experts."),
    (r"block_sparse_moe\.router\.weight", "block_sparse_moe.router.layer.weight"),
    (r"e_score_correction_bias$", "e_score_correction.bias"),
    (r"mlp\.gate\.moe_statics", "mlp.moe_statics"),
    (r"\.mlp\.e_score_correction\.", ".block_sparse_moe.e_score_correction."),
    (r"\.expert_bias$", ".expert_bias.bias"),
    (r"self_attn\.sinks$", "self_attn.sinks.weight"),
    (r"(\d)\.shared_mlp\.", r"\1.mlp.shared_mlp."),
    (r"\.dt_bias$", ".dt_proj.bias"),
    (r"^model\.layers\.(\d+)\.(norm|mixer)\.", r"backbone.layers.\1.\2."),
    (r"^model\.embeddings\.", "backbone.embeddings."),
    (r"\.layer_scalar$", ".layer_scalar.weight"),
)
"""What transformers calls otherwise than the files that package ``gguf`` knows."""


def tensors(model: Any) -> Iterator[tuple[str, Matrix]]:
    """Yield each of a file's tensors under a name that ``gguf.get_tensor_name_map`` knows."""
    config = model.config
    tied = getattr(config, "tie_word_embeddings", False)
    for name, value in model.state_dict().items():
        if tied and name == "lm_head.weight":
            continue
        for found, data in _of(config, name, value.float().numpy()):
            for pattern, ours in RENAMED:
                found = re.sub(pattern, ours, found)
            yield found, np.ascontiguousarray(data, dtype=np.float32)
    if config.model_type == "gemma4_text":
        yield "rope_freqs.weight", _gemma4_frequencies(config)


def _of(config: Any, name: str, data: Matrix) -> Iterator[tuple[str, Matrix]]:
    """Yield what a file has for one of a model's tensors."""
    kind = config.model_type
    if ".experts." in name:
        yield from _experts(config, name, data)
    elif name.endswith("e_score_correction_bias"):
        yield name, data.ravel()
    elif kind in INTERLEAVED and name.endswith(("q_proj.weight", "k_proj.weight")):
        heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
        yield name, data.reshape(heads, 2, -1, data.shape[1]).swapaxes(1, 2).reshape(data.shape)
    elif name.endswith("kv_b_proj.weight"):
        parts = data.reshape(config.num_attention_heads, -1, config.kv_lora_rank)
        yield name.replace("kv_b", "k_b"), parts[:, : config.qk_nope_head_dim].transpose(0, 2, 1)
        yield name.replace("kv_b", "v_b"), parts[:, config.qk_nope_head_dim :]
    elif name.endswith("shared_mlp.input_linear.weight"):  # granite's shared expert
        stem, half = name.removesuffix("input_linear.weight"), len(data) // 2
        yield f"{stem}gate_proj.weight", data[:half]
        yield f"{stem}up_proj.weight", data[half:]
    elif name.endswith("shared_mlp.output_linear.weight"):
        yield name.replace("output_linear", "down_proj"), data
    elif name.endswith((".conv1d.weight", ".conv.conv.weight")):
        yield name, data[:, 0]
    elif name.endswith("in_proj_qkvz.weight"):  # qwen3_next: head after head, each with its q, k, v and z
        heads = data.reshape(config.linear_num_key_heads, -1, data.shape[1])
        key = config.linear_key_head_dim
        value = config.linear_value_head_dim * config.linear_num_value_heads // config.linear_num_key_heads
        parts = np.split(heads, np.cumsum([key, key, value]), axis=1)
        query, key_rows, value_rows, gate = (part.reshape(-1, data.shape[1]) for part in parts)
        yield name.replace("in_proj_qkvz", "in_proj_qkv"), np.concatenate([query, key_rows, value_rows])
        yield name.replace("in_proj_qkvz", "in_proj_z"), gate
    elif kind in ("qwen3_next", "qwen3_5_moe_text") and name.endswith("norm.weight") and "linear_attn.norm" not in name:
        yield name, data + 1
    elif kind in MAMBA2 and name.endswith((".A_log", ".D")):
        yield name, -np.exp(data[:, None]) if name.endswith("A_log") else data[:, None]
    elif kind in MAMBA2 and name.endswith(("mamba.norm.weight", "mixer.norm.weight")):
        groups = config.n_groups if kind == "nemotron_h" else config.mamba_n_groups
        yield name, data.reshape(groups, -1)
    elif name.endswith((".router.scale", ".router.per_expert_scale")):
        block = name.split(".")[2]
        yield f"blk.{block}.{'ffn_gate_inp' if name.endswith('router.scale') else 'ffn_down_exps'}.scale", data
    elif name.endswith(".A_log"):
        yield name, -np.exp(data)
    else:
        yield name, data


def _experts(config: Any, name: str, data: Matrix) -> Iterator[tuple[str, Matrix]]:
    stem, _, what = name.rpartition(".")
    if what in ("w1", "v1", "w2"):  # dbrx: all experts' rows in one matrix
        stack = data.reshape(config.ffn_config.moe_num_experts, -1, config.d_model)
        yield f"{name}.weight", stack.transpose(0, 2, 1) if what == "w2" else stack
    elif what == "gate_up_proj" and config.model_type == "gemma4_text":
        yield f"{name}.weight", data  # llama.cpp takes it as one
    elif what == "gate_up_proj":
        if config.model_type in TRANSPOSED:
            data = data.transpose(0, 2, 1)
        gate, up = _halves(config, data)
        yield f"{stem}.gate_proj.weight", gate
        yield f"{stem}.up_proj.weight", up
    elif what == "up_proj":
        yield f"{name}.weight", data
    elif what == "gate_up_proj_bias":
        gate, up = _halves(config, data)
        yield f"{stem}.gate_proj.bias", gate
        yield f"{stem}.up_proj.bias", up
    elif what == "down_proj":
        yield f"{name}.weight", data.transpose(0, 2, 1) if config.model_type in TRANSPOSED else data
    else:
        assert what == "down_proj_bias", name
        yield f"{stem}.down_proj.bias", data


def _gemma4_frequencies(config: Any) -> Matrix:
    """Divisors of the frequencies in blocks of full attention: what is not rotated there is switched off."""
    half = config.head_dim // 2
    turned = int(half * config.rope_parameters["full_attention"]["partial_rotary_factor"])
    return np.array([1.0] * turned + [1e30] * (half - turned), np.float32)


def _halves(config: Any, data: Matrix) -> tuple[Matrix, Matrix]:
    """Split the gates from the other first matrices of all experts, [E, width, ..] each."""
    if config.model_type == "gpt_oss":
        return data[:, ::2], data[:, 1::2]
    half = data.shape[1] // 2
    return data[:, :half], data[:, half:]
