"""Keys of a config and of its nested parts: which counts."""

from __future__ import annotations

from lrcsim.models.config import Config


def test_the_text_model_counts_before_what_stands_outside() -> None:
    found = Config({"hidden_size": 1, "vocab_size": 2, "text_config": {"hidden_size": 8, "vocab_size": None}}, "x")
    assert (found.values["hidden_size"], found.values["vocab_size"]) == (8, 2)


def test_whether_the_output_is_tied_is_said_by_the_whole() -> None:
    tied = {"tie_word_embeddings": False, "text_config": {"tie_word_embeddings": True}}
    assert Config(tied, "x").values["tie_word_embeddings"] is False
    assert Config({"text_config": {"tie_word_embeddings": True}}, "x").values["tie_word_embeddings"] is True


def test_parts_for_attention_and_experts_fill_in_what_is_missing_but_no_width() -> None:
    # As dbrx: its width is d_model, and a part's hidden_size is another thing.
    parts = {"attn_config": {"kv_n_heads": 8, "clip_qkv": 8}, "ffn_config": {"hidden_size": 99, "moe_top_k": 4}}
    found = Config({"d_model": 16, "clip_qkv": 3, **parts}, "x")
    assert {key: found.values.get(key) for key in ("kv_n_heads", "clip_qkv", "moe_top_k", "hidden_size")} == {
        "kv_n_heads": 8, "clip_qkv": 3, "moe_top_k": 4, "hidden_size": None,
    }  # fmt: skip
