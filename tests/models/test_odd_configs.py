"""Configs that are wrong, huge or odd: one clear line each, quickly; and parts that other families have."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.models import load_geometry
from lrcsim.models.huggingface import geometry_from_dict

SHARED = Path(os.environ.get("LRCSIM_SHARED", Path(__file__).parents[3] / "shared"))

SMALL: dict[str, Any] = {
    "model_type": "mixtral", "num_hidden_layers": 4, "hidden_size": 64, "num_local_experts": 8,
    "num_experts_per_tok": 2, "intermediate_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4,
    "vocab_size": 1000,
}  # fmt: skip
WRONG: list[Any] = [-1, 0, "4", True, 4.0, float("nan"), float("inf"), 10**9, 10**30, [4, 5], {"a": 1}]


@pytest.mark.parametrize("value", WRONG, ids=str)
@pytest.mark.parametrize("key", [key for key in SMALL if key != "model_type"])
def test_wrong_numbers(key: str, value: object) -> None:
    began = time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        geometry_from_dict(SMALL | {key: value})
    assert time.perf_counter() - began < 0.5
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_layers_without_end_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for layers in ("2049", "1000000000", "1" + "0" * 400, "1" + "0" * 6_000):
        path.write_text(json.dumps(SMALL).replace('"num_hidden_layers": 4', f'"num_hidden_layers": {layers}'))
        with pytest.raises(ConfigError) as caught:
            load_geometry(path)
        assert len(str(caught.value)) < 400 + len(str(path))
    shared = SHARED / "field/reliability/huge_layers_config.json"
    if shared.exists():
        with pytest.raises(ConfigError, match="num_hidden_layers is 1000000000: it must be at most 2,048"):
            load_geometry(shared)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "NaN", '{"model_type": NaN}', "\x00"])
def test_files_that_are_no_config(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_geometry(path)
    assert "\n" not in str(caught.value)


QWEN = {"model_type": "qwen3_moe", "num_experts": 8, "moe_intermediate_size": 32}


@pytest.mark.parametrize("key", ["layer_types", "mlp_layer_types", "moe_layer_freq", "attn_type_list"])
def test_lists_of_another_length_than_the_layers(key: str) -> None:
    entries = {"layer_types": "full_attention", "mlp_layer_types": "sparse"}
    kind: Any = entries.get(key, 1)
    other: Any = {"layer_types": "sliding_attention", "mlp_layer_types": "dense"}.get(key, 0)
    for length in (3, 5):
        with pytest.raises(ConfigError, match=f"{key} has {length} entries for 4 layers"):
            geometry_from_dict(SMALL | QWEN | {key: [kind, other, *[kind] * (length - 2)]})
    # an entry for a layer that predicts the token after the next may follow
    more = {key: [kind, other, kind, kind, kind], "num_nextn_predict_layers": 1}
    assert geometry_from_dict(SMALL | QWEN | more).layers == 4


def test_moe_layers_by_a_mask() -> None:
    assert geometry_from_dict(SMALL | QWEN | {"moe_layer_freq": [0, 1, 0, 1]}).moe_layers == (1, 3)


@pytest.mark.parametrize("key", ["moe_layers", "mlp_only_layers"])
@pytest.mark.parametrize("listed", [[-1], ["1"], [True], [1.5], [None], [[1]]], ids=str)
def test_layers_by_number(listed: list[object], key: str) -> None:
    with pytest.raises(ConfigError, match=f"an entry of {key} is"):
        geometry_from_dict(SMALL | {key: listed})


def test_moe_layers_once_each_and_none_beyond_the_last() -> None:
    assert geometry_from_dict(SMALL | {"moe_layers": [3, 1, 1, 9]}).moe_layers == (1, 3)


def test_afmoe_has_a_gate_beside_attention() -> None:
    # transformers counts 6,984,496: what is counted here, and 4,864 of norms
    config = {
        "model_type": "afmoe", "num_hidden_layers": 4, "num_dense_layers": 1, "hidden_size": 256,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64, "num_experts": 16,
        "num_experts_per_tok": 2, "num_shared_experts": 1, "moe_intermediate_size": 128, "intermediate_size": 512,
        "vocab_size": 1000, "tie_word_embeddings": False,
    }  # fmt: skip
    geometry = geometry_from_dict(config)
    assert geometry.total_params == 6_717_440 + 4 * 65_536 + 3 * 16 == 6_984_496 - 4_864
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    with torch.device("meta"):
        model = transformers.AfmoeForCausalLM(transformers.AfmoeConfig(**config))
    counted = {name: p.numel() for name, p in model.named_parameters() if "norm" not in name}
    assert sum(counted.values()) == geometry.total_params


odd = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3), st.integers(10**6, 10**12)),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=3), inner, max_size=2)),
    max_leaves=5,
)
KEYS = [*SMALL, "layer_types", "mlp_layer_types", "moe_layers", "moe_layer_freq", "first_k_dense_replace", "head_dim",
        "linear_attn_config", "text_config", "attn_config", "kv_lora_rank", "sliding_window", "n_shared_experts",
        "decoder_sparse_step", "mlp_only_layers", "num_nextn_predict_layers", "torch_dtype"]  # fmt: skip


@given(st.sampled_from(["mixtral", "qwen3_moe", "kimi_linear", "minimax"]), st.dictionaries(
    st.sampled_from(KEYS), odd, min_size=1, max_size=3
))  # fmt: skip
def test_any_value_gives_a_geometry_or_one_line(family: str, changes: dict[str, Any]) -> None:
    try:
        geometry = geometry_from_dict(SMALL | QWEN | {"model_type": family} | changes)
    except ConfigError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert geometry.total_params > 0
        assert set(geometry.moe_layers) <= set(range(geometry.layers))
        assert set(geometry.kv_layers) <= set(range(geometry.layers))
