"""Parameters against transformers' own modules, built without memory: equal to the last one, norms and scales apart."""

from __future__ import annotations

import pytest

from lrcsim.models import load_geometry
from lrcsim.models.config_geometry import FAMILIES
from lrcsim.models.huggingface import geometry_from_dict

transformers = pytest.importorskip("transformers")
torch = pytest.importorskip("torch")

NOT_COUNTED = ("norm", "scale", "relative_attention_bias")
"""Norms (router scales of gemma-4 among them), and positions of the first layer of an encoder or decoder of T5."""

KEPT = ("e_score_correction_bias", "expert_bias")
"""Biases of sigmoid routers, which checkpoints hold and transformers keeps as buffers."""

# The family and the keys in which the published config differs from transformers' defaults.
CONFIGS: dict[str, tuple[str, dict[str, object]]] = {
    "gpt-oss-20b": ("gpt_oss", {"num_hidden_layers": 24, "num_local_experts": 32}),
    "gpt-oss-120b": ("gpt_oss", {}),
    "qwen3-30b-a3b": ("qwen3_moe", {
        "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
    }),
    "qwen3-235b-a22b": ("qwen3_moe", {
        "num_hidden_layers": 94, "hidden_size": 4096, "moe_intermediate_size": 1536, "num_attention_heads": 64,
        "num_key_value_heads": 4, "head_dim": 128,
    }),
    "qwen3-next-80b-a3b": ("qwen3_next", {}),
    "qwen3.5-35b-a3b": ("qwen3_5_moe_text", {}),
    "qwen1.5-moe-a2.7b": ("qwen2_moe", {}),
    "qwen2-57b-a14b": ("qwen2_moe", {
        "num_hidden_layers": 28, "hidden_size": 3584, "moe_intermediate_size": 2560, "num_experts": 64,
        "shared_expert_intermediate_size": 20480, "num_experts_per_tok": 8, "num_attention_heads": 28,
        "num_key_value_heads": 4,
    }),
    "deepseek-v3": ("deepseek_v3", {}),
    "deepseek-v2": ("deepseek_v2", {
        "vocab_size": 102400, "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536,
        "num_hidden_layers": 60, "num_attention_heads": 128, "num_key_value_heads": 128, "n_shared_experts": 2,
        "n_routed_experts": 160, "num_experts_per_tok": 6, "first_k_dense_replace": 1, "kv_lora_rank": 512,
        "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
    }),
    "deepseek-v2-lite": ("deepseek_v2", {
        "vocab_size": 102400, "hidden_size": 2048, "intermediate_size": 10944, "moe_intermediate_size": 1408,
        "num_hidden_layers": 27, "num_attention_heads": 16, "num_key_value_heads": 16, "n_shared_experts": 2,
        "n_routed_experts": 64, "num_experts_per_tok": 6, "first_k_dense_replace": 1, "kv_lora_rank": 512,
        "q_lora_rank": None, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128,
    }),
    "kimi-k2": ("deepseek_v3", {
        "vocab_size": 163840, "n_routed_experts": 384, "num_attention_heads": 64, "num_key_value_heads": 64,
        "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
    }),
    "kimi-linear-48b-a3b": ("kimi_linear", {
        "linear_attn_config": {
            "full_attn_layers": [4, 8, 12, 16, 20, 24, 27], "kda_layers": [i for i in range(1, 27) if i % 4],
            "head_dim": 128, "num_heads": 32, "short_conv_kernel_size": 4,
        },
    }),
    "glm-4.5-air": ("glm4_moe", {"head_dim": 128, "attention_bias": True}),
    "glm-4.5": ("glm4_moe", {
        "num_hidden_layers": 92, "hidden_size": 5120, "intermediate_size": 12288, "moe_intermediate_size": 1536,
        "n_routed_experts": 160, "first_k_dense_replace": 3, "head_dim": 128, "attention_bias": True,
        "use_qk_norm": True,
    }),
    "glm-4.7-flash": ("glm4_moe_lite", {}),
    "llama-4-scout": ("llama4_text", {}),
    "llama-4-maverick": ("llama4_text", {"num_local_experts": 128, "interleave_moe_layer_step": 2}),
    "minimax-m2": ("minimax_m2", {}),
    "minimax-text-01": ("minimax", {
        "num_hidden_layers": 80, "hidden_size": 6144, "intermediate_size": 9216, "num_local_experts": 32,
        "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 200064,
        "layer_types": (["linear_attention"] * 7 + ["full_attention"]) * 10,
    }),
    "mixtral-8x7b": ("mixtral", {}),
    "mixtral-8x22b": ("mixtral", {
        "num_hidden_layers": 56, "hidden_size": 6144, "intermediate_size": 16384, "num_attention_heads": 48,
        "vocab_size": 32768,
    }),
    "gemma-4-26b-a4b": ("gemma4_text", {
        "hidden_size": 2816, "intermediate_size": 2112, "num_hidden_layers": 30, "num_attention_heads": 16,
        "num_key_value_heads": 8, "num_global_key_value_heads": 2, "attention_k_eq_v": True, "enable_moe_block": True,
        "num_experts": 128, "top_k_experts": 8, "moe_intermediate_size": 704, "sliding_window": 1024,
        "hidden_size_per_layer_input": 0,
    }),
    "granite-3.1-3b-a800m": ("granitemoe", {
        "num_hidden_layers": 32, "num_local_experts": 40, "num_experts_per_tok": 8, "hidden_size": 1536,
        "intermediate_size": 512, "num_attention_heads": 24, "num_key_value_heads": 8, "vocab_size": 49155,
        "tie_word_embeddings": True,
    }),
    "granite-3.1-1b-a400m": ("granitemoe", {
        "num_hidden_layers": 24, "num_local_experts": 32, "num_experts_per_tok": 8, "hidden_size": 1024,
        "intermediate_size": 512, "num_attention_heads": 16, "num_key_value_heads": 8, "vocab_size": 49155,
        "tie_word_embeddings": True,
    }),
    "powermoe-3b": ("granitemoe", {
        "num_hidden_layers": 32, "num_local_experts": 40, "num_experts_per_tok": 8, "hidden_size": 1536,
        "intermediate_size": 512, "num_attention_heads": 24, "num_key_value_heads": 8, "vocab_size": 49152,
        "tie_word_embeddings": True,
    }),
    "ernie-4.5-21b-a3b": ("ernie4_5_moe", {}),
    "olmoe-1b-7b": ("olmoe", {"intermediate_size": 1024}),
    "phi-3.5-moe": ("phimoe", {"attention_bias": True, "lm_head_bias": True}),
    "jamba-mini": ("jamba", {}),
    "qwen3-coder-480b-a35b": ("qwen3_moe", {
        "num_hidden_layers": 62, "hidden_size": 6144, "moe_intermediate_size": 2560, "num_experts": 160,
        "num_attention_heads": 96, "num_key_value_heads": 8, "head_dim": 128,
    }),
    "qwen3.5-122b-a10b": ("qwen3_5_moe_text", {
        "num_hidden_layers": 48, "hidden_size": 3072, "moe_intermediate_size": 1024,
        "shared_expert_intermediate_size": 1024, "num_attention_heads": 32, "linear_num_value_heads": 64,
    }),
    "qwen3.5-397b-a17b": ("qwen3_5_moe_text", {
        "num_hidden_layers": 60, "hidden_size": 4096, "moe_intermediate_size": 1024,
        "shared_expert_intermediate_size": 1024, "num_experts": 512, "num_experts_per_tok": 10,
        "num_attention_heads": 32, "linear_num_value_heads": 64,
    }),
    "deepseek-v3.2": ("deepseek_v32", {}),
    "glm-5": ("glm_moe_dsa", {}),
    "trinity-nano": ("afmoe", {
        "num_hidden_layers": 56, "hidden_size": 1024, "intermediate_size": 3072, "moe_intermediate_size": 256,
        "num_dense_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 2, "num_experts": 128,
        "num_experts_per_tok": 8, "num_shared_experts": 1, "sliding_window": 2048,
    }),
    "trinity-mini": ("afmoe", {
        "moe_intermediate_size": 1024, "num_dense_layers": 2, "num_attention_heads": 32, "num_key_value_heads": 4,
        "num_experts": 128, "num_experts_per_tok": 8, "num_shared_experts": 1, "sliding_window": 2048,
    }),
    "granite-4.0-h-small": ("granitemoehybrid", {
        "vocab_size": 100352, "num_hidden_layers": 40, "intermediate_size": 768, "shared_intermediate_size": 1536,
        "num_local_experts": 72, "num_experts_per_tok": 10, "num_key_value_heads": 8, "mamba_d_state": 128,
        "tie_word_embeddings": True,
        "layer_types": ["attention" if i in (5,15,25,35) else "mamba" for i in range(40)],
    }),
    "lfm2-8b-a1b": ("lfm2_moe", {
        "num_hidden_layers": 24,
        "layer_types": ["full_attention" if i in (2,6,10,14,18,21) else "conv" for i in range(24)],
    }),
    "dots.llm1": ("dots1", {
        "hidden_size": 4096, "n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6,
        "first_k_dense_replace": 1,
    }),
    "hunyuan-a13b": ("hunyuan_v1_moe", {
        "vocab_size": 128167, "intermediate_size": 3072, "num_key_value_heads": 8, "num_experts": 64, "moe_topk": 8,
        "head_dim": 128, "num_shared_expert": 1, "tie_word_embeddings": True,
    }),
    "ernie-4.5-300b-a47b": ("ernie4_5_moe", {
        "num_hidden_layers": 54, "hidden_size": 8192, "intermediate_size": 28672, "moe_intermediate_size": 3584,
        "moe_k": 8, "moe_num_shared_experts": 0, "moe_layer_start_index": 3, "moe_layer_end_index": 53,
        "num_attention_heads": 64, "num_key_value_heads": 8, "tie_word_embeddings": False,
    }),
}  # fmt: skip

# Of families whose configs are not compared here: the built-in geometry against the model alone.
ALONE: dict[str, tuple[str, dict[str, object]]] = {
    "hy3": ("hy_v3", {}),
    "solar-open-100b": ("solar_open", {}),
    "k-exaone-236b-a23b": ("exaone_moe", {
        "vocab_size": 153600, "num_hidden_layers": 48, "hidden_size": 6144, "intermediate_size": 18432,
        "moe_intermediate_size": 2048, "num_experts": 128, "num_attention_heads": 64, "num_key_value_heads": 8,
        "head_dim": 128,
    }),
    "minimax-m3": ("minimax_m3_vl_text", {
        "mlp_layer_types": ["dense"]*3+["sparse"]*57,
    }),
}  # fmt: skip


NEARLY = {
    "jetmoe": "a bias of a layer's sum of experts",
    "mimo_v2_flash": "sinks, which only layers with a window have",
}
"""Families that miss parameters, and which; tests/models/test_every_family.py says that they are few."""


def counted(model: torch.nn.Module) -> int:
    """Count what lrcsim counts: parameters without norms and scales, and the biases that are kept as buffers."""
    parameters = sum(p.numel() for name, p in model.named_parameters() if not any(n in name for n in NOT_COUNTED))
    return parameters + sum(b.numel() for name, b in model.named_buffers() if name.endswith(KEPT))


@pytest.mark.parametrize("name", CONFIGS)
def test_a_built_in_model_and_its_config_have_the_parameters_of_transformers_model(name: str) -> None:
    family, keys = CONFIGS[name]
    config = transformers.AutoConfig.for_model(family, **keys)
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    assert load_geometry(name).total_params == counted(model)
    assert geometry_from_dict(config.to_dict()).total_params == counted(model)
    # what is left out is as little as the docstring says
    left_out = sum(p.numel() for key, p in model.named_parameters() if any(n in key for n in NOT_COUNTED))
    assert left_out < 2e-4 * counted(model)


@pytest.mark.parametrize("name", ALONE)
def test_a_built_in_model_has_the_parameters_of_transformers_model(name: str) -> None:
    family, keys = ALONE[name]
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(transformers.AutoConfig.for_model(family, **keys))
    assert load_geometry(name).total_params == counted(model)


def test_what_is_said_to_be_left_out_of_two_models() -> None:
    # MiMo-V2-Flash: a sink for each of 64 heads in 39 layers with windows. Mistral-Small-4 has no model with an output
    # matrix here: 131,072 x 4,096
    for name, family, keys, missing in (
        ("mimo-v2-flash", "mimo_v2_flash", {}, 39 * 64),
        ("mistral-small-4", "mistral4", {}, -131_072 * 4_096),
    ):
        config = transformers.AutoConfig.for_model(family, **keys)
        with torch.device("meta"):
            try:
                model = transformers.AutoModelForCausalLM.from_config(config)
            except ValueError:
                model = transformers.AutoModel.from_config(config)
        assert counted(model) - load_geometry(name).total_params == missing


def test_the_halves_of_encoder_and_decoder() -> None:
    nllb = transformers.AutoConfig.for_model(
        "nllb-moe", vocab_size=256206, d_model=2048, encoder_ffn_dim=8192, decoder_ffn_dim=8192, encoder_layers=24,
        decoder_layers=24,
    )  # fmt: skip
    switch = transformers.AutoConfig.for_model(
        "switch_transformers", d_ff=3072, num_experts=128, num_sparse_encoder_layers=6, num_sparse_decoder_layers=6
    )
    for name, made in (("nllb-moe-54b", nllb), ("switch-base-128", switch)):
        with torch.device("meta"):
            model = transformers.AutoModelForSeq2SeqLM.from_config(made)
        decoder, encoder = load_geometry(name), load_geometry(f"{name}-encoder")
        assert decoder.total_params + encoder.total_params - decoder.embedding_params == counted(model), name


def test_families_whose_defaults_transformers_knows() -> None:
    # no default: no experts, or none that can be built
    compared = 0
    for family in sorted(FAMILIES - NEARLY.keys()):
        try:
            config = transformers.AutoConfig.for_model(family)
            geometry = geometry_from_dict(config.to_dict())
            with torch.device("meta"):
                model = transformers.AutoModelForCausalLM.from_config(config)
        except Exception:  # whatever this version of transformers cannot build
            continue
        assert geometry.total_params == counted(model), family
        compared += 1
    assert compared >= 30
