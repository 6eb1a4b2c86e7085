"""What a config's quantisation says of bytes: by hand for every method, whole configs, and anything at all."""

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
from lrcsim.models import Geometry, dense_bytes, expert_bytes, load_geometry, output_bytes, storage
from lrcsim.models.huggingface import geometry_from_dict
from lrcsim.models.quantised import METHODS

SHARED = Path(os.environ.get("LRCSIM_SHARED", Path(__file__).parents[3] / "shared"))

# The shape of the configs in shared/field: an expert has gate and up of 128 rows of 256, down of 256 rows of 128:
# 98,304 weights. Attention: q 256 x 256, k and v 128 x 256, output 256 x 256: 196,608 weights.
# Of a layer besides: router 16 x 256 and two norms of 256 and two of 64 (queries and keys), 16 bits each: 9,472 bytes.
SHAPE: dict[str, Any] = {
    "model_type": "qwen3_moe", "num_hidden_layers": 4, "hidden_size": 256, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "num_experts": 16, "num_experts_per_tok": 2, "moe_intermediate_size": 128,
    "intermediate_size": 512, "vocab_size": 1000, "torch_dtype": "bfloat16",
}  # fmt: skip
EXPERT, ATTENTION, SMALL, OUTPUT = 98_304, 196_608, 9_472, 256_000


def released(quantised: object, key: str = "quantization_config", **more: Any) -> Geometry:
    return geometry_from_dict(SHAPE | more | {key: quantised})


# Bits of an expert's weight, and of attention's. 128-wide groups fit both row lengths, so scales come out whole.
METHOD_BITS: list[tuple[str, dict[str, Any], float, float]] = [
    ("awq", {"quant_method": "awq", "bits": 4, "group_size": 128}, 4 + 20 / 128, 4 + 20 / 128),
    ("awq as llm-awq names it", {"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, 4 + 20 / 64, 4 + 20 / 64),
    ("awq without its name", {"bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"},
     4 + 20 / 128, 4 + 20 / 128),
    ("gptq without its name", {"bits": 4, "group_size": 128, "sym": True}, 4 + 20 / 128, 4 + 20 / 128),
    ("awq, attention kept", {"quant_method": "awq", "bits": 4, "group_size": 128,
                             "modules_to_not_convert": ["self_attn", "mlp.gate"]}, 4 + 20 / 128, 16),
    ("gptq", {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}, 4 + 20 / 128, 4 + 20 / 128),
    ("gptq 8 bits", {"quant_method": "gptq", "bits": 8, "group_size": 32, "sym": True}, 8 + 24 / 32, 8 + 24 / 32),
    ("gptq 3 bits", {"quant_method": "gptq", "bits": 3, "group_size": 64}, 3 + 19 / 64, 3 + 19 / 64),
    ("gptq a row", {"quant_method": "gptq", "bits": 2, "group_size": -1}, 2 + 18 / 192, 2 + 18 / 256),
    ("gptq dynamic", {"quant_method": "gptq", "bits": 4, "group_size": 128,
                      "dynamic": {"-:.*self_attn.*": {}, "+:.*experts.*": {"bits": 8, "group_size": 32}}}, 8.75, 16),
    ("gptq of some modules", {"quant_method": "gptq", "bits": 4, "group_size": 128, "modules_in_block_to_quantize":
                              [[f"mlp.experts.{i}.{m}_proj" for i in range(16) for m in ("gate", "up", "down")]]},
     4 + 20 / 128, 16),
    ("auto-round", {"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": True},
     4 + 20 / 128, 4 + 20 / 128),
    ("auto-round of its own modules", {"quant_method": "auto-round", "bits": 2, "group_size": 128, "extra_config":
                                       {f"model.layers.{i}.self_attn.{m}_proj": {"bits": 16} for i in range(4)
                                        for m in "qkvo"}}, 2 + 18 / 128, 16),
    ("auto-round by expressions", {"quant_method": "auto-round", "bits": 4, "group_size": 128, "extra_config": {
        ".*self_attn.*": {"bits": 16, "data_type": "fp"}, ".*experts.*": {"bits": 2}}}, 2 + 18 / 128, 16),
    ("auto-round mxfp4", {"quant_method": "auto-round", "bits": 4, "group_size": 32, "data_type": "mx_fp"}, 4.25, 4.25),
    ("bitsandbytes 4", {"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5, 4.5),
    ("bitsandbytes without its name", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, 4.5, 4.5),
    ("bitsandbytes double", {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
                             "bnb_4bit_use_double_quant": True}, 4 + 65 / 512, 4 + 65 / 512),
    ("bitsandbytes 8", {"quant_method": "bitsandbytes", "load_in_8bit": True,
                        "llm_int8_skip_modules": ["lm_head", "self_attn"]}, 8, 16),
    ("mxfp4 of gpt-oss", {"quant_method": "mxfp4", "modules_to_not_convert":
                          ["model.layers.*.self_attn", "model.layers.*.mlp.router"]}, 4.25, 16),
    ("mxfp8", {"quant_method": "mxfp8"}, 8.25, 8.25),
    ("fp8", {"quant_method": "fp8", "weight_block_size": [128, 128]}, 8, 8),
    ("fp8, a wild card for a module", {"quant_method": "fp8", "modules_to_not_convert": ["model.layers.*.self_attn"]},
     8, 16),
    ("fp8 in small blocks", {"quant_method": "fp8", "weight_block_size": [1, 32], "scale_fmt": "ue8m0"}, 8.25, 8.25),
    ("fp8, fp4 experts", {"quant_method": "fp8", "weight_block_size": [128, 128], "expert_dtype": "fp4"}, 4.25, 8),
    ("fbgemm_fp8", {"quant_method": "fbgemm_fp8", "modules_to_not_convert": ["self_attn"]}, 8, 16),
    ("nvfp4", {"quant_method": "nvfp4"}, 4.5, 4.5),
    ("modelopt nvfp4", {"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16,
                        "ignore": ["lm_head", "model.layers.*.self_attn*"]}, 4.5, 16),
    ("modelopt fp8", {"quant_method": "modelopt", "quant_algo": "FP8"}, 8, 8),
    ("modelopt int4", {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ", "group_size": 128}, 4.125, 4.125),
    ("hf_quant_config.json", {"producer": {"name": "modelopt"}, "quantization": {
        "quant_algo": "NVFP4", "exclude_modules": ["lm_head", "*self_attn*"]}}, 4.5, 16),
    ("modelopt, nested under its name", {"quant_method": "modelopt", "quantization": {
        "quant_algo": "NVFP4", "exclude_modules": ["*self_attn*"]}}, 4.5, 16),
    ("modelopt mixed", {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": {
        **{f"model.layers.{i}.mlp.experts": {"quant_algo": "NVFP4", "group_size": 16} for i in range(4)},
        **{f"model.layers.{i}.self_attn": {"quant_algo": "FP8"} for i in range(4)}}}, 4.5, 8),
    ("modelopt, KV cache alone", {"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}, 16, 16),
    ("compressed-tensors fp8", {"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {
        "g": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}}}, 8, 8),
    ("compressed-tensors int4", {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {
        "g": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "group_size": 32}}},
        "ignore": ["lm_head", "re:.*self_attn.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"]}, 4.5, 16),
    ("compressed-tensors int4, asymmetric", {"quant_method": "compressed-tensors", "format": "pack-quantized",
        "config_groups": {"g": {"targets": ["Linear"], "weights": {
            "num_bits": 4, "type": "int", "group_size": 128, "strategy": "group", "symmetric": False}}}},
     4 + 20 / 128, 4 + 20 / 128),
    ("compressed-tensors int8", {"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": {
        "g": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}}}, 8, 8),
    ("compressed-tensors nvfp4", {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized",
        "config_groups": {"g": {"targets": ["Linear"], "weights": {
            "num_bits": 4, "type": "float", "group_size": 16, "strategy": "tensor_group"}}}}, 4.5, 4.5),
    ("compressed-tensors mxfp4", {"quant_method": "compressed-tensors", "format": "mxfp4-pack-quantized",
        "config_groups": {"g": {"targets": ["Linear"], "weights": {
            "num_bits": 4, "type": "float", "group_size": 32, "strategy": "group"}}}}, 4.25, 4.25),
    ("compressed-tensors, two groups", {"quant_method": "compressed-tensors", "format": "mixed-precision",
        "config_groups": {
            "a": {"format": "pack-quantized", "targets": ["re:.*experts.*"],
                  "weights": {"num_bits": 4, "type": "int", "group_size": 128}},
            "b": {"format": "float-quantized", "targets": ["re:.*self_attn.*"],
                  "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}}}, 4.125, 8),
    ("compressed-tensors, not compressed", {"quant_method": "compressed-tensors", "format": "dense", "config_groups": {
        "g": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}}}}, 16, 16),
    ("hqq", {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}},
             "skip_modules": ["lm_head"]}, 4.5, 4.5),
    ("hqq 3 bits", {"quant_method": "hqq", "quant_config": {"nbits": 3, "group_size": 64}}, 3.7, 3.7),
    ("quanto", {"quant_method": "quanto", "weights": "int4"}, 4.25, 4.25),
    ("torchao", {"quant_method": "torchao", "quant_type": {
        "default": {"_type": "Int4WeightOnlyConfig", "_data": {"group_size": 64}}}}, 4.5, 4.5),
    ("torchao, activations in 8 bits", {"quant_method": "torchao", "quant_type": {
        "default": {"_type": "Int8DynamicActivationInt4WeightConfig", "_data": {"group_size": 32}}}}, 4.5, 4.5),
    ("torchao fp8", {"quant_method": "torchao", "quant_type": {
        "default": {"_type": "Float8DynamicActivationFloat8WeightConfig", "_data": {}}}}, 8, 8),
    ("torchao, older", {"quant_method": "torchao", "quant_type": "int8_weight_only"}, 8, 8),
    ("eetq", {"quant_method": "eetq", "weights": "int8"}, 8, 8),
    ("higgs", {"quant_method": "higgs", "bits": 4, "group_size": 64}, 4.25, 4.25),
    ("fp_quant", {"quant_method": "fp_quant", "forward_dtype": "mxfp4"}, 4.25, 4.25),
    ("fouroversix", {"quant_method": "fouroversix", "dtype": "nvfp4"}, 4.5, 4.5),
    ("sinq", {"quant_method": "sinq", "nbits": 4, "group_size": 64}, 4.5, 4.5),
    ("gemma", {"quant_method": "gemma", "num_bits": 4, "module_quant_configs": {r"experts": {"num_bits": 2}}},
     2 + 16 / 192, 4 + 16 / 256),
    ("bitnet", {"quant_method": "bitnet"}, 2, 2),
    ("exl3", {"quant_method": "exl3", "bits": 4.25, "head_bits": 6}, 4.25, 4.25),
    ("metal", {"quant_method": "metal", "bits": 4, "group_size": 64}, 4.5, 4.5),
    ("quark", {"quant_method": "quark", "exclude": ["lm_head", "*self_attn*"], "global_quant_config": {
        "weight": {"dtype": "fp4", "group_size": 32, "scale_format": "e8m0"}}}, 4.25, 16),
    ("w4afp8", {"quant_method": "w4afp8", "group_size": 128}, 4.125, 8),
]  # fmt: skip


@pytest.mark.parametrize(("quantised", "experts", "attention"), [row[1:] for row in METHOD_BITS],
                         ids=[row[0] for row in METHOD_BITS])  # fmt: skip
def test_bytes_of_every_method_by_hand(quantised: dict[str, Any], experts: float, attention: float) -> None:
    geometry = released(quantised)
    assert expert_bytes(geometry).tolist() == [pytest.approx(EXPERT * experts / 8, abs=16)] * 4  # blocks
    assert dense_bytes(geometry).tolist() == [pytest.approx(ATTENTION * attention / 8 + SMALL, abs=16)] * 4
    assert not geometry.unread
    assert expert_bytes(geometry, "bf16").tolist() == [2 * EXPERT] * 4  # --dtype counts before it


def test_the_output_matrix_is_left_out_unless_it_is_named() -> None:
    assert output_bytes(released({"quant_method": "awq", "bits": 4})) == 2 * OUTPUT
    assert output_bytes(released({"quant_method": "gptq", "bits": 4, "lm_head": True})) == OUTPUT * (4 + 20 / 128) / 8
    assert output_bytes(released({"quant_method": "exl2", "bits": 3.5, "head_bits": 6})) == OUTPUT * 6 / 8


def test_output_and_embedding_where_a_flag_says_so() -> None:
    both = {"quant_method": "torchao", "quant_type": "int8_weight_only", "include_input_output_embeddings": True}
    assert output_bytes(released(both)) == OUTPUT
    lm_head = {"quant_method": "auto-round", "bits": 4, "group_size": 128, "quant_lm_head": True}
    assert output_bytes(released(lm_head)) == OUTPUT * (4 + 20 / 128) / 8


MLX = {"bits": 4, "group_size": 64}


def test_mlx_quantises_all_matrices() -> None:
    # 4 bits, scale and bias of 16 bits per 64: 4.5 bits; the router too, 16 x 256
    geometry = released(MLX, "quantization")
    assert expert_bytes(geometry).tolist() == [EXPERT * 4.5 / 8] * 4
    assert dense_bytes(geometry)[0] == (ATTENTION + 4_096) * 4.5 / 8 + SMALL - 2 * 4_096
    assert output_bytes(geometry) == OUTPUT * 4.5 / 8
    for mode, bits in (("mxfp4", 4.25), ("nvfp4", 4.5), ("mxfp8", 8.25)):
        assert expert_bytes(released(MLX | {"mode": mode}, "quantization"))[0] == EXPERT * bits / 8


def test_mlx_modules_of_their_own() -> None:
    own = {"model.layers.1.mlp.switch_mlp.down_proj": {"bits": 6, "group_size": 64}, "lm_head": False,
           "model.layers.0.self_attn.q_proj": False, "model.layers.2.mlp.gate": {"bits": 8}}  # fmt: skip
    geometry = released(MLX | own, "quantization")
    down = EXPERT // 3
    assert expert_bytes(geometry).tolist() == [
        EXPERT * 4.5 / 8, (2 * down * 4.5 + down * 6.5) / 8, EXPERT * 4.5 / 8, EXPERT * 4.5 / 8
    ]  # fmt: skip
    assert output_bytes(geometry) == 2 * OUTPUT
    dense = dense_bytes(geometry)
    assert dense[0] - dense[3] == 65_536 * (16 - 4.5) / 8
    assert dense[2] - dense[3] == 4_096 * 4 / 8
    # a row that is no multiple of the group stays as it was
    odd = released(MLX, "quantization", moe_intermediate_size=96)
    assert expert_bytes(odd)[0] == 2 * 96 * 256 * 4.5 / 8 + 256 * 96 * 2


def test_an_entry_of_mlx_takes_nothing_from_the_whole() -> None:
    """As mlx-community's gpt-oss: experts in mxfp4, attention in 8 bits of groups of 64 (8.5), without its mode."""
    own = {f"model.layers.{i}.self_attn.{m}_proj": {"group_size": 64, "bits": 8} for i in range(4) for m in "qkvo"}
    geometry = released({"group_size": 32, "bits": 4, "mode": "mxfp4"} | own, "quantization")
    assert expert_bytes(geometry).tolist() == [EXPERT * 4.25 / 8] * 4
    assert dense_bytes(geometry)[0] == ATTENTION * 8.5 / 8 + 4_096 * 4.25 / 8 + SMALL - 2 * 4_096


def test_layers_left_out_by_number() -> None:
    kept = ["model.layers.0.mlp", "model.layers.3.self_attn.o_proj", "lm_head"]
    geometry = released({"quant_method": "fp8", "modules_to_not_convert": kept}, mlp_only_layers=[0])
    dense = 3 * 256 * 512
    assert expert_bytes(geometry).tolist() == [EXPERT] * 3
    assert dense_bytes(geometry).tolist() == [
        ATTENTION + dense * 2 + SMALL - 8_192, ATTENTION + SMALL, ATTENTION + SMALL, ATTENTION + 65_536 + SMALL
    ]  # fmt: skip
    # ten is not one
    many = released({"quant_method": "fp8", "ignored_layers": ["model.layers.1."]}, num_hidden_layers=12)
    assert expert_bytes(many).tolist() == [EXPERT, 2 * EXPERT, *[EXPERT] * 10]


@pytest.mark.parametrize("part", ["text_config", "thinker_config", "llm_config", "language_config"])
def test_nested_parts(part: str) -> None:
    inner = SHAPE | {"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
    outer = {"model_type": "something_vl", part: inner}
    assert expert_bytes(geometry_from_dict(outer))[0] == EXPERT * (4 + 20 / 128) / 8
    two = {"model_type": "omni", "thinker_config": {"model_type": "thinker", "text_config": inner}}
    assert expert_bytes(geometry_from_dict(two))[0] == EXPERT * (4 + 20 / 128) / 8


@pytest.mark.parametrize(
    ("name", "values", "bits"),
    [
        ("hf_quant_config.json", {"quantization": {"quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}}, 4.5),
        ("quantize_config.json", {"bits": 4, "group_size": 128, "desc_act": False}, 4 + 20 / 128),
        ("quant_config.json", {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}, 4 + 20 / 128),
    ],
)
def test_files_beside_a_config(name: str, values: dict[str, Any], bits: float, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SHAPE), encoding="utf-8")
    (tmp_path / name).write_text(json.dumps(values), encoding="utf-8")
    assert expert_bytes(load_geometry(tmp_path))[0] == EXPERT * bits / 8
    (tmp_path / name).write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match="give --dtype"):
        expert_bytes(load_geometry(tmp_path))


REFUSED: list[Any] = [
    {"quant_method": "aqlm", "num_codebooks": 1}, {"quant_method": "vptq"}, {"quant_method": "spqr", "bits": 3},
    {"quant_method": "quip"}, {"quant_method": "gguf"}, {"quant_method": "of_next_year", "bits": 4}, {"x": 1}, "awq",
    ["awq"], {"quant_method": 4}, {"quant_method": "awq", "bits": "four"}, {"quant_method": "awq", "bits": True},
    {"quant_method": "gptq", "bits": 4, "group_size": 0.5}, {"quant_method": "gptq"}, {"quant_method": "bitsandbytes"},
    {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, {"quant_method": "modelopt", "quant_algo": "X"},
    {"quant_method": "fp8", "weight_block_size": [128]}, {"quant_method": "exl2", "bits": float("nan")},
    {"quant_method": "awq", "modules_to_not_convert": [1]}, {"quant_method": "awq", "modules_to_not_convert": "re:("},
    {"quant_method": "compressed-tensors", "format": "marlin-24", "config_groups": {
        "g": {"weights": {"num_bits": 4, "type": "int"}}}},
    {"quant_method": "compressed-tensors", "config_groups": {"g": 4}},
    {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 5, "type": "float"}}}},
    {"quant_method": "torchao", "quant_type": "uint7"},
    # small integers in whole bytes, 4 bits behind fp8 activations, sparse, several types: none is of 8 bits a weight
    *({"quant_method": "torchao", "quant_type": {"default": {"_type": kind, "_data": {}}}} for kind in (
        "Int8DynamicActivationIntxWeightConfig", "Float8DynamicActivationInt4WeightConfig", "ModuleFqnToConfig")),
    {"quant_method": "torchao", "quant_type": "int8_dynamic_activation_int8_semi_sparse_weight"},
    {"quant_method": "compressed-tensors", "config_groups": {
        "g": {"targets": ["Qwen3MoeExperts"], "weights": {"num_bits": 4, "type": "int", "group_size": 128}}}},
    {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp4", "group_size": 32}},
     "layer_type_quant_config": {"nn.Linear": {"weight": {"dtype": "fp8_e4m3"}}}},
    {"bits": 4, "group_size": 128, "linear_class": "of its own"},
    # experts of a layer that differ
    {"quant_method": "gptq", "bits": 4, "dynamic": {r"+:.*experts\.0\..*": {"bits": 8}}},
    {"bits": 4, "group_size": 64, "mode": "new"},
]  # fmt: skip


@pytest.mark.parametrize("quantised", REFUSED, ids=str)
def test_what_cannot_be_told_is_refused_unless_a_dtype_is_given(quantised: object) -> None:
    geometry = released(quantised)
    for ask in (expert_bytes, dense_bytes, output_bytes, storage):
        with pytest.raises(ConfigError) as caught:
            ask(geometry)
        assert "give --dtype" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert expert_bytes(geometry, "fp8").tolist() == [EXPERT] * 4


@pytest.mark.parametrize("empty", [None, {}, []])
def test_nothing_is_not_quantised(empty: object) -> None:
    assert released(empty).dtype == "bf16"


@pytest.mark.parametrize(
    ("name", "size"),
    [("bfloat16", 2), ("torch.bfloat16", 2), ("BF16", 2), ("float16", 2), ("half", 2), ("FLOAT32", 4),
     ("torch.float32", 4), ("fp32", 4), ("float8_e4m3fn", 1), ("torch.float8_e5m2", 1), ("fp8", 1), ("auto", 2),
     (None, 2), ("", 2)],
)  # fmt: skip
@pytest.mark.parametrize("key", ["torch_dtype", "dtype"])
def test_the_dtype_as_configs_write_it(key: str, name: object, size: int) -> None:
    geometry = geometry_from_dict({k: v for k, v in SHAPE.items() if k != "torch_dtype"} | {key: name})
    assert expert_bytes(geometry).tolist() == [EXPERT * size] * 4


@pytest.mark.parametrize("name", ["int4", "float64", 5, ["bfloat16"], {"a": 1}])
def test_a_dtype_that_is_none_is_refused(name: object) -> None:
    with pytest.raises(ConfigError, match=r"torch_dtype \(.* is not known\): give --dtype"):
        expert_bytes(geometry_from_dict(SHAPE | {"torch_dtype": name}))


def test_an_empty_inner_quantisation_hides_none() -> None:
    outer = {"model_type": "vl", "text_config": SHAPE | {"quantization_config": {}},
             "quantization_config": {"quant_method": "fp8"}}  # fmt: skip
    assert expert_bytes(geometry_from_dict(outer)).tolist() == [EXPERT] * 4


def test_every_method_that_transformers_knows_is_read_or_refused() -> None:
    quantization = pytest.importorskip("transformers.utils.quantization_config")
    options = {"load_in_4bit": True, "bits": 4, "nbits": 4, "quant_algo": "FP8", "config_groups": {
        "g": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float"}}}, "quant_config": {"nbits": 4},
        "quant_type": "int8_weight_only", "weights": "int8",
        "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}}}  # fmt: skip
    refused = set()
    for method in quantization.QuantizationMethod:
        geometry = released(options | {"quant_method": method.value})
        if geometry.unread:
            refused.add(method.value)
        else:
            assert expert_bytes(geometry)[0] < 1.2 * EXPERT, method
    assert refused == {"aqlm", "vptq", "gguf", "spqr"}


def test_the_rest_keeps_its_own_dtype() -> None:
    geometry = released({"quant_method": "mxfp4"}, torch_dtype="float32")
    assert expert_bytes(geometry)[0] == EXPERT * 4.25 / 8
    assert dense_bytes(geometry)[0] == 4 * ATTENTION + 2 * SMALL
    assert output_bytes(geometry) == 4 * OUTPUT


def test_storage_says_what_is_where() -> None:
    geometry = released({"quant_method": "awq", "bits": 4, "modules_to_not_convert": ["self_attn"]})
    assert storage(geometry) == {
        "attention": "bf16, 16 bits", "experts": "int4-g128, 4.156 bits", "output": "bf16, 16 bits",
    }  # fmt: skip
    assert geometry.source.endswith("quantised by awq")


@pytest.mark.skipif(not SHARED.exists(), reason="no shared folder")
@pytest.mark.parametrize(
    ("name", "bits"),
    [("awq4", 4 + 20 / 128), ("gptq4", 4 + 20 / 128), ("bnb4", 4.5), ("mlx4", 4.5), ("int4_compressed_tensors", 4.5),
     ("nvfp4_modelopt", 4.5), ("fp8_modelopt", 8), ("fp8_ct", 8), ("fp8", 8)],
)  # fmt: skip
def test_configs_as_people_have_them(name: str, bits: float) -> None:
    geometry = load_geometry(SHARED / f"field/config_{name}.json")
    assert expert_bytes(geometry).tolist() == [EXPERT * bits / 8] * 4


@pytest.mark.parametrize(
    "pattern",
    ["re:(a+)+$", "re:(.*)*x", "re:" + ".*a" * 9, "*a" * 12, "re:" + "a" * 400, "re:(model|m)+x", r"re:(.)\1", "re:("],
)
def test_a_pattern_cannot_take_for_ever(pattern: str) -> None:
    began = time.perf_counter()
    geometry = released({"quant_method": "fp8", "ignore": [pattern, "lm_head"]}, num_hidden_layers=48)
    assert time.perf_counter() - began < 2
    assert "give --dtype" in geometry.unread


def test_thousands_of_names_are_quick() -> None:
    kept = [f"model.layers.{i}.mlp.experts.{e}.{m}_proj" for i in range(47) for e in range(128) for m in ("up", "gate")]
    began = time.perf_counter()
    geometry = released({"quant_method": "fp8", "ignore": kept}, num_hidden_layers=48)
    assert time.perf_counter() - began < 3
    assert expert_bytes(geometry)[[0, 46, 47]].tolist() == [EXPERT * 5 // 3, EXPERT * 5 // 3, EXPERT]


names = st.sampled_from(["lm_head", "self_attn", "mlp.gate", "model.layers.1", "re:.*experts.*", "*", "re:[", "", "."])
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 300), st.floats(), st.text(max_size=3), names),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(names, st.text(max_size=3)), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = ["bits", "w_bit", "nbits", "num_bits", "group_size", "q_group_size", "load_in_4bit", "load_in_8bit", "ignore",
        "modules_to_not_convert", "config_groups", "format", "quant_algo", "quantized_layers", "weights", "mode",
        "dynamic", "extra_config", "weight_block_size", "quant_config", "quant_type", "data_type", "lm_head",
        "head_bits", "global_quant_config", "layer_quant_config", "sparsity_config", "expert_dtype"]  # fmt: skip


@given(
    st.one_of(st.none(), st.sampled_from(sorted(METHODS))), st.dictionaries(st.sampled_from(KEYS), values, max_size=4)
)
def test_any_quantisation_gives_bytes_or_one_clear_line(method: str | None, options: dict[str, Any]) -> None:
    quantised = options if method is None else options | {"quant_method": method}
    geometry = released(quantised)
    if geometry.unread:
        assert "give --dtype" in geometry.unread
        assert "\n" not in geometry.unread
    else:
        sizes = expert_bytes(geometry)
        assert ((sizes >= EXPERT / 16) & (sizes <= 4 * EXPERT)).all()
        assert storage(geometry)
