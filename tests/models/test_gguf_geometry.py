"""Geometries from headers of GGUF files: what tensors say, to the byte; and files that say what cannot be."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf_files import Tensors, block, bytes_of, geometry, header_bytes, write
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.models import (
    AttentionShape,
    Geometry,
    dense_bytes,
    embedding_bytes,
    expert_bytes,
    load_geometry,
    output_bytes,
    read_geometry,
    said_dtype,
    storage,
)
from lrcsim.models.gguf_geometry import geometry_from_header
from lrcsim.models.gguf_header import header_in
from lrcsim.models.gguf_names import FILE_TYPES
from lrcsim.models.quantisation import mean_bits

HIDDEN, WIDTH, EXPERTS = 256, 512, 4
KEYS = {"block_count": 3, "expert_used_count": 2, "attention.head_count": 4, "attention.head_count_kv": 2}


def attention(layer: int, **other: Any) -> Tensors:
    """4 heads of 64, of which 2 share keys and values; norms."""
    return block(
        layer, attn_q=((256, 256), "q4_k"), attn_k=((256, 128), "q4_k"), attn_v=((256, 128), "q6_k"),
        attn_output=((256, 256), "q4_k"), attn_norm=((256,), "f32"), ffn_norm=((256,), "f32"), **other,
    )  # fmt: skip


def experts(layer: int, up: str, down: str) -> Tensors:
    return block(
        layer, ffn_gate_inp=((256, 4), "f32"), ffn_gate_exps=((256, 512, 4), up), ffn_up_exps=((256, 512, 4), up),
        ffn_down_exps=((512, 256, 4), down),
    )  # fmt: skip


HEAD: Tensors = {
    "token_embd.weight": ((256, 1000), "q4_k"), "output_norm.weight": ((256,), "f32"),
    "output.weight": ((256, 1000), "q6_k"),
}  # fmt: skip
DENSE = block(0, ffn_gate=((256, 1024), "q4_k"), ffn_up=((256, 1024), "q4_k"), ffn_down=((1024, 256), "q6_k"))
MIXED: Tensors = {
    **HEAD, **attention(0), **DENSE, **attention(1), **experts(1, "q4_k", "q6_k"), **attention(2),
    **experts(2, "iq3_xxs", "q5_k"),
}  # fmt: skip
"""A first layer without experts, then two whose experts are stored unlike."""


def in_all(model: Geometry) -> int:
    """Bytes of a file, as the sum of what is said of its parts."""
    assert model.stored is not None
    parts = model.experts * int(expert_bytes(model).sum()) + int(dense_bytes(model).sum()) + output_bytes(model)
    return parts + (0 if model.tied else embedding_bytes(model)) + model.stored.idle


def test_by_hand() -> None:
    model = geometry(KEYS, MIXED)
    assert (model.layers, model.moe_layers, model.experts, model.top_k) == (3, (1, 2), 4, 2)
    assert (model.hidden, model.expert_width, model.dense_width, model.matrices) == (256, 512, 1024, 3)
    assert (model.heads, model.kv_heads, model.head_dim, model.vocab, model.tied) == (4, 2, 64, 1000, False)
    assert (model.name, model.dtype, model.shared_experts, model.window) == ("x", "gguf", 0, 0)
    # 512 x 256 weights a matrix are 512 blocks of 256: q4_k 144 bytes each, q6_k 210, iq3_xxs 98, q5_k 176
    assert expert_bytes(model).tolist() == [512 * (2 * 144 + 210), 512 * (2 * 98 + 176)]
    # attention: q and output 256 blocks of q4_k each, k 128 of q4_k, v 128 of q6_k; two norms of 256 numbers
    rest = 640 * 144 + 128 * 210 + 2 * 1024
    # the dense block: 2 x 1024 blocks of q4_k and 1024 of q6_k; routers 4 x 256 numbers
    assert dense_bytes(model).tolist() == [rest + 2048 * 144 + 1024 * 210, rest + 4096, rest + 4096]
    assert (output_bytes(model), embedding_bytes(model)) == (1000 * 210 + 1024, 1000 * 144)
    assert in_all(model) == sum(bytes_of(*tensor) for tensor in MIXED.values())
    assert model.stored is not None
    assert model.stored.bytes == in_all(model)
    # numbers: 3 x 131,072 an expert; all tensors; those of two experts of four less
    whole = sum(int(np.prod(shape)) for shape, _ in MIXED.values())
    assert (model.expert_params, model.total_params) == (393_216, whole)
    assert model.active_params == whole - 2 * 2 * 393_216
    assert model.kv_values_per_token == 3 * 2 * (64 + 64)
    assert storage(model) == {
        "attention": "q4_k (9) and q6_k (3), 4.844 bits", "dense blocks": "q4_k (2) and q6_k (1), 5.188 bits",
        "experts": "q4_k (2) and iq3_xxs (2) and q6_k (1) and q5_k (1), 4.531 bits", "output": "q6_k, 6.562 bits",
        "embedding": "q4_k, 4.5 bits",
    }  # fmt: skip
    assert mean_bits(model, "gguf") == 8 * (498 + 372) / (6 * 256)


def test_another_dtype_asks_what_if_of_the_same_tensors() -> None:
    model = geometry(KEYS, MIXED)
    assert expert_bytes(model, "q8_0").tolist() == [3 * 131_072 // 32 * 34] * 2
    assert expert_bytes(model, "gguf,2:ffn_up_exps=q8_0").tolist() == [512 * 498, 512 * (98 + 176) + 131_072 // 32 * 34]
    assert expert_bytes(model, "q8_0,ffn_up_exps=gguf").tolist() == [
        2 * 512 * 272 + 512 * 144,
        2 * 512 * 272 + 512 * 98,
    ]
    assert expert_bytes(model, "q8_0,2=gguf").tolist() == [3 * 131_072 // 32 * 34, 512 * 372]
    # norms and routers stay in f32, elsewhere than in GGUF files in bf16
    assert dense_bytes(model, "q8_0")[1] == 6 * 256 * 128 // 32 * 34 + 2048 + 4096
    assert dense_bytes(model, "fp8")[1] == 6 * 256 * 128 + 2 * 1536
    with pytest.raises(ConfigError, match="dtype gguf is that of a model's own file, and olmoe-1b-7b is not read from"):
        expert_bytes(load_geometry("olmoe-1b-7b"), "gguf")


def test_fused_biased_and_shared_parts_and_a_tied_output_by_hand() -> None:
    more = block(
        1, ffn_gate_inp=((256, 4), "f32"), ffn_gate_up_exps=((256, 1024, 4), "q8_0"),
        ffn_down_exps=((512, 256, 4), "q8_0"),
        ffn_gate_up_exps__bias=((1024, 4), "f32"), ffn_down_exps__bias=((256, 4), "f32"),
        ffn_down_exps__scale=((4,), "f32"), exp_probs_b__bias=((4,), "f32"), ffn_gate_inp_shexp=((256,), "f32"),
        ffn_gate_shexp=((256, 1024), "q8_0"), ffn_up_shexp=((256, 1024), "q8_0"), ffn_down_shexp=((1024, 256), "q8_0"),
        attn_norm=((256,), "f32"), attn_qkv=((256, 512), "q8_0"), attn_qkv__bias=((512,), "f32"),
        attn_output=((256, 256), "q8_0"), attn_sinks=((4,), "f32"),
    )  # fmt: skip
    head = {"token_embd.weight": ((256, 1000), "q8_0"), "rope_freqs.weight": ((32,), "f32")}
    more |= {"blk.0.rope_freqs.weight": ((32,), "f32"), "nextn.pre_projection.weight": ((256, 512), "q8_0")}
    model = geometry(KEYS | {"block_count": 2, "expert_shared_count": 1}, {**head, **attention(0), **DENSE, **more})
    # two matrices of 512 x 256 side by side and one: 34 bytes for 32 weights; 1024 + 256 biases, a scale
    matrices = 3 * 131_072 // 32 * 34
    assert expert_bytes(model).tolist() == [matrices + 4 * 1281]
    assert expert_bytes(model, biases=False).tolist() == [matrices]
    assert (model.matrices, model.expert_params, model.expert_biases) == (3, 393_216, 1281)
    assert (model.shared_experts, model.shared_width, model.shared_gate, model.tied) == (1, 1024, True, True)
    assert model.biases == ("q", "k", "v", "sinks", "router", "ffn")
    assert model.kv_values_per_token == 2 * 256
    # the embedding is read as the output matrix, and is in the file once
    assert (output_bytes(model), embedding_bytes(model)) == (256_000 // 32 * 34 + 128, 256_000 // 32 * 34)
    assert model.stored is not None
    assert (in_all(model), model.stored.idle) == (model.stored.bytes, 131_072 // 32 * 34)
    assert read_geometry(json.loads(json.dumps(model.to_dict()))) == model
    # what is asked for by a name that the file does not have
    names = {"attn_q": "q4_k", "ffn_up_exps": "q8_0", "output": "q8_0", "attn_k_b": "q8_0", "ffn_down": "q6_k"}
    assert {name: model.stored.format_of(name) for name in names} == names
    biased = {**MIXED, "output.bias": ((1000,), "f32")}
    assert output_bytes(geometry(KEYS, biased)) == output_bytes(geometry(KEYS, MIXED)) + 4000
    assert geometry(KEYS, biased).biases == ("output",)


FORMATS = ["f32", "bf16", "q8_0", "q4_k", "q6_k", "iq1_s", "iq2_xxs", "iq4_xs", "mxfp4", "tq1_0", "q2_k"]


@st.composite
def files(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], str]]]:
    layers, hidden, count = draw(st.integers(1, 5)), 256 * draw(st.integers(1, 2)), draw(st.integers(2, 6))
    width, heads = 256 * draw(st.integers(1, 3)), draw(st.sampled_from([2, 4]))
    kind = st.sampled_from(FORMATS)
    ahead = draw(st.integers(0, 1))
    moe = draw(st.sets(st.integers(0, layers - 1), min_size=1))
    fused, gated, tied = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    tensors: dict[str, tuple[tuple[int, ...], str]] = {"token_embd.weight": ((hidden, 300), draw(kind))}
    if not tied:
        tensors["output.weight"] = ((hidden, 300), draw(kind))
    for layer in range(layers + ahead):
        shapes: dict[str, tuple[int, ...]] = {"attn_k": (hidden, 64 * heads), "attn_v": (hidden, 32 * heads)}
        shapes |= {"attn_q": (hidden, 128 * heads), "attn_output": (256 * heads, hidden)}
        if layer in moe or layer == layers:
            shapes |= {"ffn_down_exps": (width, hidden, count), "ffn_gate_inp": (hidden, count)}
            names = ["ffn_gate_up_exps"] if fused else ["ffn_gate_exps", "ffn_up_exps"] if gated else ["ffn_up_exps"]
            shapes |= dict.fromkeys(names, (hidden, width * (2 if fused else 1), count))
        else:
            shapes |= {"ffn_up": (hidden, 512), "ffn_down": (512, hidden)}
        tensors |= block(layer, **{name: (shape, draw(kind)) for name, shape in shapes.items()})
        tensors[f"blk.{layer}.attn_norm.weight"] = ((hidden,), "f32")
    values = {
        "block_count": layers + ahead,
        "nextn_predict_layers": ahead,
        "expert_used_count": draw(st.integers(1, count)),
    }
    return values | {"attention.head_count": 2 * heads, "attention.head_count_kv": heads}, tensors


@given(files())
def test_bytes_are_those_of_the_tensors(file: tuple[dict[str, Any], dict[str, tuple[tuple[int, ...], str]]]) -> None:
    values, tensors = file
    model = geometry(values, tensors)
    layers = values["block_count"] - values["nextn_predict_layers"]
    whole = {name: bytes_of(*tensor) for name, tensor in tensors.items()}
    assert in_all(model) == sum(whole.values())
    assert model.stored is not None
    assert model.stored.idle == sum(size for name, size in whole.items() if name.startswith(f"blk.{layers}."))
    routed = [sum(size for name, size in whole.items() if name.startswith(f"blk.{n}.ffn") and "_exps" in name)
              for n in range(layers)]  # fmt: skip
    assert [model.experts * size for size in expert_bytes(model).tolist()] == [size for size in routed if size]
    rest = [
        sum(size for name, size in whole.items() if name.startswith(f"blk.{n}.")) - routed[n] for n in range(layers)
    ]
    assert dense_bytes(model).tolist() == rest
    assert model.layers == layers
    # keys 64 wide and values 32, by the tensors; the keys say nothing
    assert (model.head_dim, model.value_dim, model.kv_values_per_token) == (
        64, 32, layers * 96 * values["attention.head_count_kv"],
    )  # fmt: skip
    again = read_geometry(json.loads(json.dumps(model.to_dict())))
    assert again == model
    assert again.to_dict() == model.to_dict()


def windows(architecture: str, values: dict[str, Any], layers: int = 8, **more: Any) -> Geometry:
    tensors = {
        **HEAD,
        **{name: one for n in range(layers) for name, one in {**attention(n), **experts(n, "q8_0", "q8_0")}.items()},
    }
    return geometry(
        KEYS | {"block_count": layers, "attention.sliding_window": 128} | values, {**tensors, **more}, architecture
    )


@pytest.mark.parametrize(
    ("architecture", "values", "window", "layers"),
    [
        ("gpt-oss", {}, 128, (0, 2, 4, 6)),
        ("exaone-moe", {}, 128, (0, 1, 2, 4, 5, 6)),
        ("laguna", {}, 128, (1, 2, 3, 5, 6, 7)),
        ("smallthinker", {}, 4096, (1, 2, 3, 5, 6, 7)),
        ("llama4", {}, 8192, (0, 1, 2, 4, 5, 6)),
        ("llama4", {"attention.sliding_window": 0}, 0, ()),
        ("gpt-oss", {"attention.sliding_window_pattern": 4}, 128, (0, 1, 2, 4, 5, 6)),
        ("step35", {"attention.sliding_window_pattern": [True, False] * 4}, 128, (0, 2, 4, 6)),
        ("anything", {"attention.sliding_window_pattern": [0, 1, 1, 0, 0, 0, 0, 1]}, 128, (1, 2, 7)),
        ("anything", {}, 0, ()),  # llama.cpp runs them without, whatever the length
        ("gpt-oss", {"attention.sliding_window": 0}, 0, ()),
    ],
)
def test_windows(architecture: str, values: dict[str, Any], window: int, layers: tuple[int, ...]) -> None:
    found = windows(architecture, values)
    assert (found.window, found.window_layers) == (window, layers)
    assert found.kv_values(1_000_000) == 256 * (1_000_000 * (8 - len(layers)) + window * len(layers))


def test_heads_that_differ_by_layer() -> None:
    """Without a window keys are their own values and 128 wide; then a third kind of layer besides."""
    keys = {"attention.sliding_window_pattern": [True, True, False], "attention.sliding_window": 16}
    keys |= {"attention.head_count_kv": [2, 2, 1]}
    wide = block(2, attn_q=((256, 512), "q8_0"), attn_k=((256, 128), "q8_0"), attn_output=((512, 256), "q8_0"))
    first = {name: one for n in range(2) for name, one in {**attention(n), **experts(n, "q8_0", "q8_0")}.items()}
    model = geometry(KEYS | keys, {**HEAD, **first, **wide, **experts(2, "q8_0", "q8_0")})
    assert model.global_attention == AttentionShape(4, 1, 128, 128, keys_are_values=True)
    assert [model.attention_shape(n).kv_values for n in range(3)] == [256, 256, 256]
    assert (model.heads, model.kv_heads, model.head_dim) == (4, 2, 64)
    third = {**first, **wide, "blk.1.attn_k.weight": ((256, 64), "q8_0"), "blk.1.attn_v.weight": ((256, 32), "q8_0")}
    model = geometry(KEYS | keys, {**HEAD, **third, **experts(2, "q8_0", "q8_0")})
    assert [model.kv_values_of(n) for n in range(3)] == [2 * 128, 2 * (32 + 16), 256]
    assert model.global_attention is None
    assert read_geometry(json.loads(json.dumps(model.to_dict()))) == model


def test_widths_that_keys_alone_say() -> None:
    """Queries, keys and values in one matrix: 2 of 4 heads keep 64 and 32 numbers, with a window 32 and 16."""
    keys = {"attention.key_length": 64, "attention.value_length": 32, "attention.key_length_swa": 32}
    keys |= {"attention.value_length_swa": 16, "attention.sliding_window": 8}
    keys |= {"attention.sliding_window_pattern": [True, False], "block_count": 2}
    tensors = dict(HEAD)
    for layer in range(2):
        inside = block(
            layer, attn_qkv=((256, 512), "q8_0"), attn_output=((512, 256), "q4_k"), ffn_x=((256, 999), "q4_k")
        )
        tensors |= {**inside, **experts(layer, "q8_0", "q8_0")}
    model = geometry(KEYS | keys, tensors)
    assert [model.kv_values_of(layer) for layer in range(2)] == [2 * (32 + 16), 2 * (64 + 32)]
    assert model.stored is not None
    assert [model.stored.format_of(name) for name in ("attn_v", "attn_q_b")] == ["q8_0", "q4_k"]
    with pytest.raises(ConfigError, match=r"blk\.0\.attn_qkv\.weight has 512 rows, too few for its heads"):
        geometry(KEYS | keys | {"attention.key_length_swa": 256}, tensors)


def test_layers_without_keys_and_values() -> None:
    """Mamba, a short convolution, linear attention with tensors of attention's names; and both side by side."""
    linear = block(0, attn_qkv=((256, 512), "q8_0"), attn_gate=((256, 256), "q8_0"), ssm_out=((256, 256), "q8_0"))
    square = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), ((256, 256), "q8_0"))
    kda = block(1, **square, ssm_f_a=((256, 64), "q8_0"), ssm_conv1d_q=((4, 1, 256), "f32"))
    short = block(2, shortconv__in_proj__weight=((256, 768), "q8_0"), shortconv__conv__weight=((3, 256), "f32"))
    both = {**attention(3), **block(3, ssm_out=((256, 256), "q8_0"), ssm_in=((256, 256), "q8_0"))}
    kda["blk.1.ssm_a"] = ((1, 4), "f32")
    every = {**HEAD, **linear, **kda, **short, **both}
    every |= {name: one for n in range(4) for name, one in experts(n, "q8_0", "q8_0").items()}
    model = geometry(KEYS | {"block_count": 4, "attention.head_count_kv": [0, 0, 0, 2]}, every)
    assert (model.attention_layers, model.kv_values_per_token) == ((3,), 256)
    assert in_all(model) == model.stored.bytes  # type: ignore[union-attr]
    # what if: kernels stay as they are, values of linear attention are no values for a recipe
    assert dense_bytes(model, "q4_k_m")[1] == 4 * 256 * 144 + 64 * 144 + 4096 + 4096 + 16
    plain = windows("minimax-01", {})
    assert plain.attention_layers == (7,)
    assert windows("any", {"attention.recurrent_layers": [True] * 7 + [False]}).attention_layers == (7,)
    assert windows("any", {"full_attention_interval": 4}).attention_layers == (3, 7)


def test_latent_attention_by_hand() -> None:
    """Keys and values through 32 numbers and 8 of position; 4 heads of 24 + 8 and values of 16."""
    keys = {"attention.head_count_kv": 1, "attention.key_length": 40, "attention.value_length": 32}
    latent = {"attn_q_a": ((256, 64), "q8_0"), "attn_q_b": ((64, 128), "q8_0"), "attn_kv_a_mqa": ((256, 40), "q8_0")}
    latent |= {"attn_output": ((64, 256), "q8_0")}
    split = {"attn_k_b": ((24, 32, 4), "f32"), "attn_v_b": ((32, 16, 4), "q8_0")}
    moe = experts(0, "q8_0", "q8_0")
    model = geometry(KEYS | keys | {"block_count": 1}, {**HEAD, **block(0, **latent, **split), **moe})
    assert (model.kv_rank, model.rope_dim, model.q_rank, model.heads) == (32, 8, 64, 4)
    assert (model.head_dim, model.value_dim, model.kv_values_per_token) == (24, 16, 40)
    assert dense_bytes(model)[0] == (256 * (64 + 40 + 64) + 64 * 128 + 32 * 64) // 32 * 34 + 4 * (24 * 128 + 1024)
    indexed = block(0, indexer__attn_k__weight=((256, 128), "q8_0"), indexer__proj__weight=((256, 4), "q8_0"))
    with_key = KEYS | keys | {"block_count": 1, "attention.indexer.key_length": 128}
    assert geometry(with_key, {**HEAD, **block(0, **latent, **split), **moe, **indexed}).kv_values_per_token == 168
    # in one part, as files before April 2025 have it: the cache keeps every head's keys and values
    whole = {"attn_kv_b": ((32, 160), "q8_0")}
    old = {"attention.head_count_kv": 4, "attention.key_length": 32, "attention.value_length": 16, "block_count": 1}
    model = geometry(KEYS | old, {**HEAD, **block(0, **latent, **whole), **moe})
    assert (model.mla, model.kv_values_per_token, model.head_dim, model.value_dim) == (False, 4 * 48, 32, 16)


def test_narrow_experts() -> None:
    """Experts of a model that makes the residual stream narrower for them."""
    narrow = block(0, ffn_gate_inp=((256, 4), "f32"), ffn_up_exps=((64, 512, 4), "q8_0"),
                   ffn_down_exps=((512, 64, 4), "q8_0"), ffn_latent_down=((256, 64), "q8_0"),
                   ffn_latent_up=((64, 256), "q8_0"))  # fmt: skip
    model = geometry(KEYS | {"block_count": 1}, {**HEAD, **attention(0), **narrow})
    assert (model.expert_params, model.expert_width, model.matrices) == (2 * 64 * 512, 512, 2)
    assert expert_bytes(model).tolist() == [2 * 64 * 512 // 32 * 34]


def without(*names: str) -> Tensors:
    return {name: one for name, one in MIXED.items() if name not in names}


@pytest.mark.parametrize(
    ("values", "tensors", "said"),
    [
        ({}, {**HEAD, **attention(0), **DENSE, **attention(1), **attention(2)}, "is no Mixture-of-Experts model: no"),
        ({"block_count": 2}, MIXED, "says it has 2 layers, and has the tensor 'blk.2.attn_q.weight'"),
        ({"block_count": 4}, MIXED, "says it has 4 layers, and layer 3 has no tensors"),
        ({"block_count": 2**40}, MIXED, "says it has 1,099,511,627,776 layers, 0 of them for further tokens"),
        ({"nextn_predict_layers": 3}, MIXED, "says it has 3 layers, 3 of them for further tokens"),
        ({"block_count": "three"}, MIXED, "test.block_count is 'three', a whole number is needed"),
        ({"expert_used_count": 5}, MIXED, "routes a token to 5 of 4 experts: it must be 1 to 4"),
        ({"expert_used_count": [1, 1, 2]}, MIXED, "expert_used_count differs by layer"),
        ({"expert_used_count": [1]}, MIXED, "expert_used_count differs by layer"),
        ({"attention.head_count": 2**50}, MIXED, "attention.head_count is 1,125,899,906,842,624: it must be 1 to"),
        ({"attention.head_count_kv": 3}, MIXED, "blk.0.attn_k.weight has 128 rows for 3 heads"),
        ({"attention.head_count_kv": 0}, MIXED, "attention.head_count_kv is 0: it must be 1 to"),
        ({"attention.head_count_kv": [2]}, MIXED, "attention.head_count_kv has 1 entries, and none for layer 1"),
        ({"attention.shared_kv_layers": 1}, MIXED, "layers that use the keys and values of others are not modelled"),
        ({}, without("token_embd.weight"), "has no embedding (token_embd.weight): a whole model is needed"),
        ({}, {**MIXED, "blk.2.ffn_gate_inp.weight": ((256, 5), "f32")}, "its layers have 4, 5 experts: one number"),
        ({}, {**MIXED, "blk.1.ffn_up_exps.weight": ((256, 512), "f32")}, "blk.1.ffn_up_exps.weight has 2 dimensions"),
        ({}, {**MIXED, "blk.1.ffn_down_exps.weight": ((256, 512, 4), "f32")}, "its experts are 256, 512 wide: one"),
        ({}, without("blk.1.ffn_down_exps.weight"), "its experts are 512 wide: one is needed"),
        ({}, {**MIXED, "blk.1.ffn_up_chexps.weight": ((256, 512, 2), "f32")}, "parts that are routed besides"),
        ({}, {**MIXED, "blk.1.attn_kv.weight": ((256, 64), "f32")}, "compressed over tokens (attn_kv) are not"),
        ({}, {**MIXED, "blk.1.attn_v.weight": ((256, 63), "f32")}, "blk.1.attn_v.weight has 63 rows for 2 heads"),
        ({}, {**MIXED, "blk.1.attn_k.weight": ((256, 0), "f32")}, "blk.1.attn_k.weight is 256 x 0, 2 dimensions"),
        (
            {"block_count": 1},
            {**HEAD, **attention(0), **block(0, ffn_up__0__weight=((256, 512), "f32"))},
            "has a tensor for each expert, as files had until April 2024: convert it anew",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_in_one_line(values: dict[str, Any], tensors: Tensors, said: str) -> None:
    with pytest.raises(ConfigError) as refused:
        geometry(KEYS | values, tensors)
    assert said in str(refused.value)
    assert str(refused.value).startswith("x.gguf")
    assert "\n" not in str(refused.value)


def test_a_thousand_mutated_headers_are_read_or_refused_in_one_line() -> None:
    data, weights = header_bytes(KEYS | {"attention.sliding_window": 8, "general.file_type": 15}, MIXED, "gpt-oss")
    random, read, refused = np.random.default_rng(0), 0, list[str]()
    for _ in range(1000):
        mutated = bytearray(data)
        for at in random.integers(8, len(mutated), random.integers(1, 3)):
            mutated[at] = random.choice([0, 1, 2, 5, 255, random.integers(0, 256)])
        header = bytes(mutated[: random.choice([len(data), random.integers(0, len(data))], p=[0.9, 0.1])])
        try:
            model = geometry_from_header(header_in(io.BytesIO(header), Path("x.gguf"), len(data) + weights))
        except ConfigError as error:
            refused.append(str(error))
            continue
        read += 1
        assert in_all(model) == model.stored.bytes  # type: ignore[union-attr]
        with contextlib.suppress(ConfigError):
            dense_bytes(model, "q4_k_m")
        assert min(model.kv_values(1000), model.active_params, *expert_bytes(model)) >= 0
    assert 50 < read < 950
    assert not [line for line in refused if "\n" in line or len(line) > 400]


def test_paths(tmp_path: Path) -> None:
    first = dict(list(MIXED.items())[:9])
    parts = tmp_path / "parts"
    parts.mkdir()
    names = [parts / f"Some-Model-UD-Q4_K_XL-0000{n}-of-00002.gguf" for n in (1, 2)]
    write(names[0], KEYS, first)
    write(names[1], {"split.no": 1}, {name: one for name, one in MIXED.items() if name not in first})
    (parts / "mmproj-F16.gguf").write_bytes(b"GGUF")
    whole = geometry(KEYS, MIXED)
    for spec in (names[0], names[1], parts):
        found = load_geometry(spec)
        assert found.stored is not None
        assert (found.name, found.stored.mix, found.stored.file) == ("Some-Model", "UD-Q4_K_XL", str(names[0]))
        assert said_dtype(found, "gguf") == "in its file (UD-Q4_K_XL)"
        assert in_all(found) == in_all(whole)
        assert expert_bytes(found).tolist() == expert_bytes(whole).tolist()
    fewer = load_geometry(f"{names[0]}:top_k=1")
    assert (fewer.top_k, fewer.stored is not None and fewer.stored.top_k) == (1, 2)
    write(parts / "Other-q8_0.gguf", {}, {})
    with pytest.raises(ConfigError, match=r"has 2 GGUF models: name one of its files: Other-q8_0\.gguf, Some-Model-UD"):
        load_geometry(parts)
    write(names[1], {"split.no": 1}, MIXED)
    with pytest.raises(
        ConfigError, match=r"00002-of-00002\.gguf: has the tensor '.*', as another part of the model has"
    ):
        load_geometry(parts / names[0].name)
    named = write(
        tmp_path / ("sha256-" + "0a" * 32), KEYS | {"general.name": "Some Model", "general.file_type": 15}, MIXED
    )
    found = load_geometry(named)
    assert found.stored is not None
    assert (found.name, found.stored.mix) == ("Some Model", "Q4_K_M")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        load_geometry(tmp_path / "empty")


def test_a_model_of_its_size_on_a_small_disk(tmp_path: Path) -> None:
    """Nothing but the header is read: a file of 60 GB with a hole for weights is as quick."""
    kinds = ["q4_k"] * 40 + ["q6_k"] * 8
    tensors: dict[str, tuple[tuple[int, ...], str]] = {"token_embd.weight": ((2048, 151936), "q4_k")}
    for layer, kind in enumerate(kinds):
        tensors |= block(layer, attn_k=((2048, 512), "q8_0"), attn_v=((2048, 512), "q8_0"),
                         ffn_gate_inp=((2048, 512), "f32"), ffn_up_exps=((2048, 768, 512), kind),
                         ffn_down_exps=((768, 2048, 512), kind))  # fmt: skip
    found = load_geometry(write(tmp_path / "x.gguf", KEYS | {"block_count": 48, "attention.head_count_kv": 4}, tensors))
    one = 2 * 2048 * 768 // 256
    assert expert_bytes(found).tolist() == [one * 144] * 40 + [one * 210] * 8
    assert found.stored is not None
    assert found.stored.bytes < (tmp_path / "x.gguf").stat().st_size < found.stored.bytes + 2**20


def test_names_of_file_types_are_those_of_package_gguf() -> None:
    package = pytest.importorskip("gguf", reason="gguf is not installed")
    theirs = {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in package.LlamaFileType}
    for code, name in FILE_TYPES.items():
        assert theirs[code] == name


def test_what_json_may_not_say() -> None:
    good = geometry(KEYS, MIXED).to_dict()
    stored = good["stored"]
    rows = stored["tensors"]
    for wrong in (
        {"tensors": []}, {"tensors": 3}, {"experts": 0}, {"idle": -1}, {"mix": 4},
        {"tensors": [["a", 1, 256, "q9", ""]]},
        {"tensors": [*rows, ["a", 1, 255, "q4_k", ""]]}, {"tensors": [*rows, ["a", 1, 256, "q4_k", "0-99999999999"]]},
        {"tensors": [*rows, ["a", 1, 256, "q4_k", "x"]]}, {"tensors": [*rows, ["a", -1, 256, "q4_k", "0"]]},
    ):  # fmt: skip
        with pytest.raises(ConfigError, match="the tensors of the model's file are not as lrcsim writes them"):
            read_geometry(good | {"stored": stored | wrong})
    for name, value in (("layers", "3"), ("moe_layers", ["a"]), ("name", 3), ("tied", 1), ("experts", True)):
        with pytest.raises(ConfigError, match=f"model is no geometry: {name} is "):
            read_geometry(good | {name: value})
    with pytest.raises(ConfigError, match="model is no geometry"):
        read_geometry(good | {"global_attention": {"heads": 3}})
