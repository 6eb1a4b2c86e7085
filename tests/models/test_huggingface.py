from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.models import Geometry, load_geometry
from lrcsim.models.config_geometry import FAMILIES
from lrcsim.models.huggingface import geometry_from_dict

# The keys as the model cards' config.json have them.
QWEN3: dict[str, Any] = {
    "model_type": "qwen3_moe",
    "torch_dtype": "bfloat16",
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": False,
}
DEEPSEEK_V3: dict[str, Any] = {
    "model_type": "deepseek_v3",
    "num_hidden_layers": 61,
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 3,
    "moe_layer_freq": 1,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 129280,
    "tie_word_embeddings": False,
    "quantization_config": {"quant_method": "fp8"},
}
JAMBA: dict[str, Any] = {
    "model_type": "jamba",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "expert_layer_period": 2,
    "expert_layer_offset": 1,
    "attn_layer_period": 8,
    "attn_layer_offset": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "mamba_d_state": 16,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_dt_rank": 256,
    "vocab_size": 65536,
    "tie_word_embeddings": False,
}
QWEN3_NEXT: dict[str, Any] = QWEN3 | {
    "model_type": "qwen3_next",
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "moe_intermediate_size": 512,
    "shared_expert_intermediate_size": 512,
    "num_attention_heads": 16,
    "num_key_value_heads": 2,
    "head_dim": 256,
    "full_attention_interval": 4,
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
}
MAVERICK: dict[str, Any] = {
    "model_type": "llama4",
    "text_config": {
        "model_type": "llama4_text",
        "num_hidden_layers": 48,
        "hidden_size": 5120,
        "intermediate_size": 8192,
        "intermediate_size_mlp": 16384,
        "num_local_experts": 128,
        "num_experts_per_tok": 1,
        "interleave_moe_layer_step": 2,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 202048,
        "layer_types": ["chunked_attention", "chunked_attention", "chunked_attention", "full_attention"] * 12,
        "attention_chunk_size": 8192,
        "tie_word_embeddings": False,
    },
}
MINIMAX: dict[str, Any] = {
    "model_type": "minimax_text_01",
    "num_hidden_layers": 80,
    "hidden_size": 6144,
    "intermediate_size": 9216,
    "num_local_experts": 32,
    "num_experts_per_tok": 2,
    "attn_type_list": [0, 0, 0, 0, 0, 0, 0, 1] * 10,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 200064,
}
DBRX: dict[str, Any] = {
    "model_type": "dbrx",
    "d_model": 6144,
    "n_heads": 48,
    "n_layers": 40,
    "vocab_size": 100352,
    "attn_config": {"kv_n_heads": 8},
    "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
}
GPT_OSS: dict[str, Any] = {
    "model_type": "gpt_oss",
    "num_hidden_layers": 24,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 201088,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "sliding_window": 128,
    "quantization_config": {"quant_method": "mxfp4"},
}
LLAMA_MOE: dict[str, Any] = {
    "model_type": "llama_moe",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_experts": 16,
    "num_selects": 4,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32000,
}
JETMOE: dict[str, Any] = {
    "model_type": "jetmoe",
    "num_hidden_layers": 24,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
    "num_attention_heads": 32,
    "num_key_value_heads": 16,
    "kv_channels": 128,
    "vocab_size": 32000,
}
ERNIE: dict[str, Any] = {
    "model_type": "ernie4_5_moe",
    "num_hidden_layers": 28,
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "moe_num_experts": 64,
    "moe_k": 6,
    "moe_num_shared_experts": 2,
    "moe_layer_start_index": 1,
    "moe_layer_interval": 1,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "vocab_size": 103424,
    "tie_word_embeddings": True,
}
KIMI_LINEAR: dict[str, Any] = {
    "model_type": "kimi_linear",
    "num_hidden_layers": 27,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "moe_intermediate_size": 1024,
    "num_experts": 256,
    "num_experts_per_token": 8,
    "num_shared_experts": 1,
    "first_k_dense_replace": 1,
    "num_attention_heads": 32,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "linear_attn_config": {"full_attn_layers": [4, 8, 12, 16, 20, 24, 27], "head_dim": 128, "num_heads": 32},
    "vocab_size": 163840,
}
SAME = [
    ("qwen3-30b-a3b", QWEN3),
    ("deepseek-v3", DEEPSEEK_V3),
    ("jamba-mini", JAMBA),
    ("qwen3-next-80b-a3b", QWEN3_NEXT),
    ("llama-4-maverick", MAVERICK),
    ("minimax-text-01", MINIMAX),
    ("dbrx", DBRX),
    ("gpt-oss-20b", GPT_OSS),
    ("llama-moe-v1-3.5b", LLAMA_MOE),
    ("jetmoe-8b", JETMOE),
    ("ernie-4.5-21b-a3b", ERNIE),
    ("kimi-linear-48b-a3b", KIMI_LINEAR),
]


def bare(geometry: Geometry) -> Geometry:
    """Return what should not depend on where the numbers come from."""
    value_dim = 0 if geometry.value_dim == geometry.head_dim else geometry.value_dim
    return replace(geometry, name="", source="", value_dim=value_dim)


@pytest.mark.parametrize(("name", "config"), SAME, ids=[name for name, _ in SAME])
def test_a_config_gives_the_built_in_geometry(name: str, config: dict[str, Any]) -> None:
    assert bare(geometry_from_dict(config)) == bare(load_geometry(name))


def test_a_file_or_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "My-Qwen"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(QWEN3), encoding="utf-8")
    by_file, by_folder = load_geometry(folder / "config.json"), load_geometry(str(folder))
    assert by_file == by_folder
    assert by_file.name == "My-Qwen"
    assert load_geometry(f"{folder}:top_k=6").top_k == 6


def test_dense_layers_by_the_qwen_keys() -> None:
    geometry = geometry_from_dict(QWEN3 | {"decoder_sparse_step": 2, "mlp_only_layers": [1, 3]})
    assert geometry.moe_layers == tuple(range(5, 48, 2))
    assert geometry.dense_width == 6144


SHAPE = ["num_hidden_layers", "hidden_size", "num_attention_heads", "vocab_size"]


@pytest.mark.parametrize("key", [*SHAPE, "num_experts", "num_experts_per_tok"])
def test_a_missing_key_is_named(key: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({k: v for k, v in QWEN3.items() if k != key}), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_geometry(path)
    assert f"'{key}'" in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_experts": 0}, "is no Mixture-of-Experts model"),
        ({"mlp_only_layers": list(range(48))}, "is no Mixture-of-Experts model"),
        ({"num_experts": 4}, "routes a token to 8 of 4 experts"),
        ({"num_experts": "many"}, "num_experts is 'many': it must be a whole number"),
        ({"hidden_size": -1}, "hidden_size is -1"),
        ({"hidden_size": True}, "hidden_size is True"),
    ],
)
def test_configs_that_are_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        geometry_from_dict(QWEN3 | change)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", "3", ""])
def test_files_that_are_no_config(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="is no"):
        load_geometry(path)


ALL_KEYS = sorted({key for _, config in SAME for key in config} - {"model_type"})


@given(
    st.sampled_from(sorted(FAMILIES)),
    st.dictionaries(
        st.sampled_from(ALL_KEYS),
        st.one_of(st.integers(-1, 9), st.none(), st.text(max_size=2), st.lists(st.integers(0, 3), max_size=3)),
    ),
)
def test_any_config_is_a_geometry_or_one_clear_line(family: str, values: dict[str, Any]) -> None:
    try:
        geometry = geometry_from_dict(QWEN3 | values | {"model_type": family})
    except ConfigError as error:
        assert "the config" in str(error)  # noqa: PT017
    else:
        assert geometry.total_params >= geometry.active_params


def test_configs_that_transformers_makes() -> None:
    transformers = pytest.importorskip("transformers")
    made = 0
    # their defaults have no experts, no top-k, or no kinds of layers
    without = {"gemma4_text", "dots1", "deepseek_v2", "deepseek_ocr2_text", "lfm2_moe"}
    for family in sorted(FAMILIES - without):
        try:
            config = transformers.AutoConfig.for_model(family).to_dict()
        except (ValueError, KeyError, ImportError):
            continue
        assert geometry_from_dict(config).total_params > 1e9, family
        made += 1
    assert made > 10
