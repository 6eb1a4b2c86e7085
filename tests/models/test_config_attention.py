"""What configs say of attention that differs by layer, and of biases."""

from __future__ import annotations

from typing import Any

import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.models import AttentionShape, load_geometry
from lrcsim.models.huggingface import geometry_from_dict

# The keys of google/gemma-4-26B-A4B's config.json, text part.
GEMMA: dict[str, Any] = {
    "model_type": "gemma4_text", "num_hidden_layers": 30, "hidden_size": 2816, "intermediate_size": 2112,
    "moe_intermediate_size": 704, "num_experts": 128, "top_k_experts": 8, "enable_moe_block": True,
    "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 256, "global_head_dim": 512,
    "num_global_key_value_heads": 2, "attention_k_eq_v": True, "sliding_window": 1024, "vocab_size": 262144,
    "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) * 5, "tie_word_embeddings": True,
}  # fmt: skip
GLOBAL = AttentionShape(heads=16, kv_heads=2, head_dim=512, value_dim=512, keys_are_values=True)
SMALL: dict[str, Any] = {
    "num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 4, "num_experts": 4, "num_experts_per_tok": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 10,
}  # fmt: skip


def test_the_published_keys_of_gemma_4() -> None:
    geometry = geometry_from_dict(GEMMA)
    assert geometry.global_attention == GLOBAL
    assert geometry.total_params == load_geometry("gemma-4-26b-a4b").total_params
    assert geometry.kv_values(5000) == load_geometry("gemma-4-26b-a4b").kv_values(5000)
    # values of their own, as many heads as the others, or all alike
    assert geometry_from_dict(GEMMA | {"attention_k_eq_v": False}).global_attention == AttentionShape(16, 8, 512, 512)
    alike = {"attention_k_eq_v": False, "global_head_dim": 256}
    assert geometry_from_dict(GEMMA | alike).global_attention is None


def test_the_keys_that_transformers_writes() -> None:
    by_layer = {f"{layer:02}": {"head_dim": 512, "num_key_value_heads": 2} for layer in range(5, 30, 6)}
    written = {key: value for key, value in GEMMA.items() if "global" not in key} | {"per_layer_config": by_layer}
    assert geometry_from_dict(written) == geometry_from_dict(GEMMA)
    # other families may say it so too
    typed = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16, "head_dim": 2}
    shape = geometry_from_dict(
        SMALL | typed | {"model_type": "afmoe", "per_layer_config": {"1": {"num_attention_heads": 6}}}
    ).global_attention
    assert shape == AttentionShape(heads=6, kv_heads=2, head_dim=2, value_dim=2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"per_layer_config": {"5": {"head_dim": 4}}}, "gives layers without a window different attention"),
        ({"num_kv_shared_layers": 10}, "lrcsim does not model layers that use the keys and values of others"),
        ({"num_global_key_value_heads": 0}, "num_key_value_heads is 0"),
    ],
)
def test_what_is_not_modelled_is_refused(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        geometry_from_dict(GEMMA | change)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


CONV = {"layer_types": ["conv", "full_attention"]}


@pytest.mark.parametrize(
    ("family", "keys", "biases"),
    [
        ("gpt_oss", {}, ("q", "k", "v", "attn_output", "sinks", "router", "ffn")),
        ("gpt_oss", {"attention_bias": False}, ("sinks", "router", "ffn")),
        ("qwen2_moe", {}, ("q", "k", "v")),
        ("qwen2_moe", {"qkv_bias": False}, ()),
        ("qwen3_moe", {}, ()),
        ("qwen3_moe", {"attention_bias": True}, ("q", "k", "v", "attn_output")),
        ("glm4_moe", {"attention_bias": True}, ("q", "k", "v", "router")),
        ("phimoe", {"attention_bias": True, "lm_head_bias": True}, ("q", "k", "v", "attn_output", "output")),
        ("ernie4_5_moe", {"use_bias": True}, ("q", "k", "v", "attn_output", "router", "ffn", "output")),
        ("lfm2_moe", CONV, ("router",)),
        ("lfm2_moe", CONV | {"use_expert_bias": False}, ()),
        ("mixtral", {}, ()),
    ],
)
def test_which_families_have_biases(family: str, keys: dict[str, Any], biases: tuple[str, ...]) -> None:
    assert geometry_from_dict(SMALL | {"model_type": family} | keys).biases == biases
