"""A config and the index of its checkpoint: what goes together, what is another model's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.models import load_geometry
from lrcsim.models.checkpoint_index import NAME, check_index, read_index, stored_bytes

# By hand: embedding and output 2 x 100 x 8 = 1,600; 2 layers of attention 4 x 8 x 8 = 256 and norms 2 x 8 = 16; layer 0
# a dense block 3 x 8 x 16 = 384; layer 1 a router 8 x 4 = 32 and 4 experts of 3 x 8 x 5 = 120: 3,008 and 32 of norms.
# qwen2_moe has no biases with qkv_bias false and no shared expert at width 0, but its gate of 8.
CONFIG: dict[str, Any] = {
    "model_type": "mixtral", "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 16,
    "moe_intermediate_size": 5, "vocab_size": 100, "tie_word_embeddings": False, "mlp_only_layers": [0],
}  # fmt: skip
PARAMETERS = 3_008
BYTES = 2 * (PARAMETERS + 32)


def names(layers: tuple[int, ...] = (1,), experts: int = 4, more: tuple[str, ...] = ()) -> dict[str, str]:
    found = [f"model.layers.{layer}.mlp.experts.{e}.w1.weight" for layer in layers for e in range(experts)]
    found += ["model.layers.0.mlp.gate_proj.weight", "model.layers.1.mlp.shared_expert.up_proj.weight", *more]
    return dict.fromkeys(found, "model-00001-of-00001.safetensors")


def folder(path: Path, weight_map: object, config: dict[str, Any] = CONFIG, **metadata: object) -> Path:
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (path / NAME).write_text(json.dumps({"metadata": metadata, "weight_map": weight_map}), encoding="utf-8")
    return path


@pytest.mark.parametrize("metadata", [{"total_size": BYTES}, {"total_parameters": PARAMETERS + 32}, {}])
def test_what_goes_together_is_read_without_a_word(
    metadata: dict[str, int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    geometry = load_geometry(folder(tmp_path, names(), **metadata))
    assert geometry.total_params == PARAMETERS
    assert stored_bytes(geometry) == BYTES
    said = capsys.readouterr().err
    assert said == "" or "total_parameters" in metadata  # norms are 1 % of so small a model


def test_a_small_difference_is_said(tmp_path: Path) -> None:
    geometry = load_geometry(folder(tmp_path, names(), total_size=BYTES))
    folder(tmp_path, names(), total_size=BYTES + 100)
    assert f"has {BYTES + 100:,} bytes, +1.64% from the {BYTES:,}" in check_index(geometry, tmp_path / "config.json")


@pytest.mark.parametrize(
    ("weight_map", "size", "says"),
    [
        (names(), round(BYTES * 1.031), "+3.1% from it"),
        (names(), round(BYTES * 0.969), "-3.1% from it"),
        (names(), 2 * BYTES, "fetch both again, or write the model down as TOML"),
        (names(experts=8), BYTES, "8 routed experts by the index, 4 here"),
        (names(experts=3), BYTES, "3 routed experts by the index, 4 here"),
        (names(layers=(0, 1)), BYTES, "layer 0 has routed experts by the index, not by the config"),
        (names(layers=(0,)), BYTES, "layer 0 has routed experts by the index, not by the config"),
        ([], BYTES, "lacks 'weight_map'"),
    ],
)
def test_what_is_another_models(weight_map: object, size: int, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_geometry(folder(tmp_path, weight_map, total_size=size))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[", "[]", "3", '{"weight_map": 3}', "[" * 100_000])
def test_files_that_are_no_index(text: str, tmp_path: Path) -> None:
    folder(tmp_path, {})
    (tmp_path / NAME).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_geometry(tmp_path)
    assert "\n" not in str(caught.value)


def test_layers_of_multi_token_prediction_may_be_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # a third layer like the last, and 2 x 8 x 8 that join two states: 256 + 32 + 480 + 128 = 896; copies of embedding
    # and output matrix: 1,600
    config = CONFIG | {"num_nextn_predict_layers": 1}
    ahead = names(layers=(1, 2))
    for more in (0, 896, 896 + 1_600):
        geometry = load_geometry(folder(tmp_path, ahead, config, total_parameters=PARAMETERS + more))
        assert (geometry.mtp_layers, geometry.mtp_params, geometry.total_params) == (1, 896, PARAMETERS)
    with pytest.raises(ConfigError, match="from it"):
        load_geometry(folder(tmp_path, ahead, config, total_parameters=PARAMETERS + 2_700))
    assert capsys.readouterr().err == ""
    unsaid = names(more=("mtp.layers.0.mlp.experts.0.w1.weight",))
    load_geometry(folder(tmp_path, unsaid, total_parameters=PARAMETERS + 896))


def test_parts_that_see_are_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeing = names(more=("visual.blocks.0.mlp.experts.77.w1.weight", "model.vision_tower.layers.9.w.weight"))
    assert load_geometry(folder(tmp_path, seeing, total_size=2 * BYTES)).total_params == PARAMETERS
    assert "2 tensors of other parts" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="from it"):
        load_geometry(folder(tmp_path, seeing, total_size=BYTES // 2))


def test_names_of_one_tensor_for_all_experts(tmp_path: Path) -> None:
    fused = {"model.layers.1.mlp.experts.gate_up_proj": "a", "model.layers.0.mlp.shared_experts.up_proj.weight": "a"}
    folder(tmp_path, fused, total_size=BYTES)
    index = read_index(tmp_path / NAME)
    assert index is not None
    assert (index.moe_layers, index.experts, index.layers) == ({1}, 0, 2)
    assert load_geometry(tmp_path).experts == 4


# metadata.total_size of these checkpoints' index.json, bytes: typed as they are known, not read from the files; our
# counts were not made from them.
PUBLISHED = {
    "qwen3-30b-a3b": 61_064_245_248,
    "mixtral-8x7b": 93_405_585_408,
    "gpt-oss-20b": 13_761_264_768,
    "gpt-oss-120b": 65_248_815_744,
    "olmoe-1b-7b": 13_838_323_712,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_bytes_of_published_checkpoints(name: str) -> None:
    assert stored_bytes(load_geometry(name)) == pytest.approx(PUBLISHED[name], rel=1e-4)


def test_deepseek_v3_with_its_layer_of_multi_token_prediction(tmp_path: Path) -> None:
    # 11.5 * 10^9 parameters that are its own: README_WEIGHTS.md of deepseek-ai/DeepSeek-V3
    from test_huggingface import DEEPSEEK_V3

    config = DEEPSEEK_V3 | {"num_nextn_predict_layers": 1}
    weight_map = {f"model.layers.{layer}.mlp.experts.255.w1.weight": "a" for layer in range(3, 62)}
    geometry = load_geometry(folder(tmp_path, weight_map, config, total_size=688_586_727_753))
    assert geometry.mtp_params == pytest.approx(11.5e9, rel=0.01)
    assert geometry.total_params == pytest.approx(671e9, rel=0.001)
