from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.models import (
    AttentionShape,
    Geometry,
    bits_per_weight,
    dense_bytes,
    dtype_names,
    expert_bytes,
    load_geometry,
    model_names,
    output_bytes,
)
from lrcsim.models.mixes import LARGER, UNSLOTH, use_more_bits
from lrcsim.models.quantisation import format_of
from lrcsim.models.tensors import Tensor

SHARED = Path(os.environ.get("LRCSIM_SHARED", Path(__file__).parents[3] / "shared"))
RECORDED = SHARED / "traces/qwen3-30b-a3b.route.csv"

TINY = Geometry(
    name="tiny",
    source="by hand",
    layers=3,
    moe_layers=(1, 2),
    experts=4,
    top_k=2,
    shared_experts=0,
    hidden=512,
    expert_width=256,
    shared_width=0,
    dense_width=1024,
    matrices=3,
    heads=4,
    kv_heads=1,
    head_dim=128,
    vocab=1000,
    tied=False,
)


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        *[("f32", 32), ("bf16", 16), ("f16", 16), ("fp8", 8), ("int8", 8), ("int4", 4.15625), ("int4-g32", 4.625)],
        *[("q8_0", 8.5), ("q6_k", 6.5625), ("q5_k", 5.5), ("q4_k", 4.5), ("q3_k", 3.4375), ("q2_k", 2.625)],
        *[("q4_0", 4.5), ("q4_1", 5), ("q5_0", 5.5), ("q5_1", 6), ("mxfp4", 4.25), ("nvfp4", 4.5)],
        *[("iq4_nl", 4.5), ("iq4_xs", 4.25), ("iq3_s", 3.4375), ("iq3_xxs", 3.0625), ("iq2_s", 2.5625)],
        *[("iq2_xs", 2.3125), ("iq2_xxs", 2.0625), ("iq1_m", 1.75), ("iq1_s", 1.5625), ("q4_k_m", 4.5)],
        *[("Q4_K_M", 4.5), ("bfloat16", 16)],
    ],
)
def test_bits_per_weight(dtype: str, bits: float) -> None:
    assert bits_per_weight(dtype) == bits


def test_which_layers_get_more_bits_by_hand() -> None:
    # 16 layers: the first 2 (16 // 8), the last 2 (from 14), and from 2 on every third: 4, 7, 10, 13
    assert [layer for layer in range(16) if use_more_bits(layer, 16)] == [0, 1, 4, 7, 10, 13, 14, 15]


def test_bytes_by_hand() -> None:
    # an expert: gate and up 256 x 512, down 512 x 256: 393,216 weights
    assert expert_bytes(TINY, "bf16").tolist() == [786_432] * 2
    assert expert_bytes(TINY, "q8_0").tolist() == [393_216 // 32 * 34] * 2
    assert expert_bytes(TINY, "mxfp4").tolist() == [393_216 // 32 * 17] * 2
    # attention: q 512 x 512, k and v 128 x 512 each, output 512 x 512: 655,360 weights; two norms of 512
    # layer 0: dense block 3 x 512 x 1024; others: router 4 x 512
    assert dense_bytes(TINY, "bf16").tolist() == [2 * (655_360 + 1024 + n) for n in (1_572_864, 2048, 2048)]
    # 8 bits for the matrices; router and norms stay in bf16
    assert dense_bytes(TINY, "fp8").tolist() == [655_360 + 2048 + 1_572_864] + [655_360 + 2048 + 4096] * 2
    # a GGUF keeps router and norms in f32
    assert dense_bytes(TINY, "q8_0")[1] == 655_360 // 32 * 34 + 4096 + 8192
    # mxfp4 is for routed experts
    assert dense_bytes(TINY, "mxfp4").tolist() == dense_bytes(TINY, "bf16").tolist()
    assert output_bytes(TINY, "bf16") == 2 * 512_000
    assert output_bytes(TINY, "fp8") == 2 * 512_000
    assert output_bytes(TINY, "q4_k_m") == 512_000 // 256 * 210


def test_mixes_by_hand() -> None:
    # 3 layers: 3 // 8 = 0, so the last eighth starts at 21 // 8 = 2, and (layer - 0) % 3 == 2 is layer 2 too
    gate_up, down = 2 * 131_072 // 256, 131_072 // 256
    assert expert_bytes(TINY, "q4_k_m").tolist() == [gate_up * 144 + down * 144, gate_up * 144 + down * 210]
    assert expert_bytes(TINY, "q5_k_m").tolist() == [gate_up * 176 + down * 176, gate_up * 176 + down * 210]
    assert expert_bytes(TINY, "q3_k_m").tolist() == [gate_up * 110 + down * 144] * 2
    assert expert_bytes(TINY, "q2_k").tolist() == [gate_up * 84 + down * 110] * 2
    # attention in q2_k: q and k q2_k, v q4_k (4 heads share a key), output q3_k; router and norms f32
    q, v = 262_144 // 256, 65_536 // 256
    assert dense_bytes(TINY, "q2_k")[1] == q * 84 + v * 84 + v * 144 + q * 110 + 4 * 2048 + 4096
    # v gets more bits by its place among the layers that have attention: layer 2 of (0, 2) is the second of two
    hybrid = replace(TINY, attention_layers=(0, 2), mixer_params=512)
    assert dense_bytes(hybrid, "q4_k_m")[2] == q * 144 + v * 144 + v * 210 + q * 144 + 4 * 2048 + 4096


def test_bytes_of_layers_that_differ_by_hand() -> None:
    # without a window q and output 512 wide, k 256, no matrix of values; norms of queries and keys 256 wide, not 128
    shape = AttentionShape(heads=2, kv_heads=1, head_dim=256, value_dim=256, keys_are_values=True)
    mixed = replace(TINY, window=8, window_layers=(0, 2), global_attention=shape, qk_norm=True)
    q, k = 262_144 // 256 * 144, 131_072 // 256 * 144
    norms, router = 4 * (1024 + 2 * 256), 4 * 2048
    assert dense_bytes(mixed, "q4_k_m")[1] == 2 * q + k + norms + router
    # layers 1 and 2 are the first and second with values: of two layers the second gets more bits
    later = replace(mixed, window_layers=(1, 2))
    assert [format_of(later, Tensor("attn_v", layer, 128, 512), "q4_k_m") for layer in (1, 2)] == ["q4_k", "q6_k"]
    # a gate of shared experts and biases stay in f32 in a GGUF file, in 16 bits elsewhere
    gated = replace(TINY, shared_experts=1, shared_width=256)
    more = dense_bytes(replace(gated, shared_gate=True, biases=("q",)), "q8_0") - dense_bytes(gated, "q8_0")
    assert more.tolist() == [4 * 512, 4 * (512 + 512), 4 * (512 + 512)]
    more = dense_bytes(replace(gated, shared_gate=True, biases=("q",)), "fp8") - dense_bytes(gated, "fp8")
    assert more.tolist() == [2 * 512, 2 * (512 + 512), 2 * (512 + 512)]


def test_rows_that_are_no_multiple_of_256_fall_back() -> None:
    # down has rows of 96: q4_k becomes q5_0 (22 bytes per 32), q6_k becomes q8_0 (34)
    narrow = replace(TINY, expert_width=96)
    gate_up, down = 2 * 96 * 512 // 256 * 144, 512 * 96 // 32
    assert expert_bytes(narrow, "q4_k_m").tolist() == [gate_up + down * 22, gate_up + down * 34]
    # rows of 40 are no multiple of 32 either: f16
    assert expert_bytes(replace(TINY, expert_width=40), "q4_k_m")[0] == 2 * 40 * 512 // 256 * 144 + 512 * 40 * 2


def test_eight_experts_keep_small_attention_tensors_in_q8_0() -> None:
    eight = replace(TINY, experts=8)
    q, v = 262_144 // 256, 65_536 // 32
    assert dense_bytes(eight, "q4_k_m")[1] == q * 144 + v * 34 + v * 34 + q * 176 + 8 * 2048 + 4096


def test_overrides_by_layer_and_tensor() -> None:
    plain, q8 = expert_bytes(TINY, "q4_k_m"), expert_bytes(TINY, "q8_0")
    assert expert_bytes(TINY, "q4_k_m,2=q8_0").tolist() == [plain[0], q8[1]]
    assert expert_bytes(TINY, "q4_k_m,0-1=q8_0").tolist() == [q8[0], plain[1]]
    assert expert_bytes(TINY, "q4_k_m, ffn_=q8_0").tolist() == q8.tolist()
    gate_up, down = 2 * 131_072 // 256, 131_072 // 256
    mixed = "q4_k_m,ffn_down_exps=q6_k,2:ffn_down_exps=q5_k"
    assert expert_bytes(TINY, mixed).tolist() == [gate_up * 144 + down * 210, gate_up * 144 + down * 176]
    assert dense_bytes(TINY, "bf16,ffn_down_exps=q6_k").tolist() == dense_bytes(TINY, "bf16").tolist()
    assert output_bytes(TINY, "q4_k_m,output=q8_0") == 512_000 // 32 * 34


@pytest.mark.parametrize(
    ("dtype", "says"),
    [
        ("q4_k_n", "did you mean 'q4_k_m'?"),
        ("q4_ks", "did you mean 'q4_k_s'?"),
        ("ud-iq1_m", "only ud-q2_k_xl, ud-q3_k_xl"),
        ("float", "did you mean 'float"),
        ("zzz", "there are bf16"),
        ("q4_k_m,q8_0", "dtype override 'q8_0' is not understood: write LAYERS=DTYPE"),
        ("q4_k_m,=q8_0", "is not understood"),
        ("q4_k_m,3-=q8_0", "is not understood"),
        ("q4_k_m,0-3=q9", "there is no dtype 'q9'"),
    ],
)
def test_unknown_dtypes(dtype: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        expert_bytes(TINY, dtype)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="q48_km,=-:0ffn", max_size=16))
def test_any_text_is_a_dtype_or_one_clear_line(dtype: str) -> None:
    try:
        assert (expert_bytes(TINY, dtype) > 0).all()
    except ConfigError as error:
        assert "dtype" in str(error)  # noqa: PT017


EXPERTS: dict[str, tuple[list[str], list[str]]] = {
    # of a file type that mixes formats: what experts' other matrices may have, and their down projections
    "q5_k_m": (["q5_k"], ["q5_k", "q6_k"]),
    "q5_k_s": (["q5_k"], ["q5_k"]),
    "q4_k_m": (["q4_k"], ["q4_k", "q6_k"]),
    "q4_k_s": (["q4_k"], ["q4_k", "q5_k"]),
    "q3_k_l": (["q3_k"], ["q5_k"]),
    "q3_k_m": (["q3_k"], ["q4_k", "q5_k"]),
    "q3_k_s": (["q3_k"], ["q3_k"]),
    "q2_k": (["q2_k"], ["q3_k"]),
    "q2_k_s": (["q2_k"], ["q2_k", "q4_k"]),
    "iq3_m": (["iq3_s"], ["iq3_s", "q4_k"]),
    "iq3_xs": (["iq3_s", "iq3_xxs"], ["iq3_s"]),
    "iq2_m": (["iq2_s"], ["iq2_s", "iq3_s"]),
    "iq2_s": (["iq2_xs"], ["iq2_xs", "iq3_s"]),
    "iq2_xs": (["iq2_xs"], ["iq2_xs", "q2_k"]),
    "iq2_xxs": (["iq2_xxs"], ["iq2_xxs", "q2_k"]),
    "iq1_m": (["iq1_m"], ["iq1_m", "q2_k"]),
    "iq1_s": (["iq1_s"], ["iq1_s", "q2_k"]),
    "mxfp4_moe": (["mxfp4"], ["mxfp4"]),
}


@pytest.mark.parametrize("dtype", dtype_names())
def test_every_dtype_for_every_model(dtype: str) -> None:
    for name in model_names():
        geometry = load_geometry(name)
        experts, dense = expert_bytes(geometry, dtype, biases=False), dense_bytes(geometry, dtype)
        assert experts.dtype == dense.dtype == np.int64
        assert experts.shape == (len(geometry.moe_layers),)
        assert dense.shape == (geometry.layers,)
        if geometry.dtype == "mxfp4" and "q" in dtype.lower():
            assert experts.tolist() == expert_bytes(geometry, biases=False).tolist()
            continue
        bits = experts * 8 / geometry.expert_params
        usual = (UNSLOTH | LARGER).get(dtype, dtype)
        ups, downs = EXPERTS.get(usual, ([usual], [usual]))
        least = min(map(bits_per_weight, ups))
        assert (bits >= least).all()
        if geometry.hidden % 256 == geometry.expert_width % 256 == 0:  # else rows fall back to other formats
            rest = geometry.matrices - 1
            possible = [rest * bits_per_weight(up) + bits_per_weight(down) for up in ups for down in downs]
            assert all(np.isclose(one, np.array(possible) / geometry.matrices).any() for one in set(bits))


def test_bf16_is_two_bytes_per_parameter() -> None:
    for name in model_names():
        geometry = load_geometry(name)
        norms = dense_bytes(geometry, "bf16").sum() + expert_bytes(geometry, "bf16").sum() * geometry.experts
        idle = geometry.attention_idle * len(geometry.kv_layers)
        counted = 2 * (geometry.total_params - geometry.embedding_params - idle)
        assert counted <= norms <= 1.002 * counted


def test_sizes_that_an_engine_recorded_for_all_experts() -> None:
    # route-trace session of July 2026 of Helldez/BigMoeOnEdge, in MiB: the whole bank of experts of two GGUF files
    gemma, oss = load_geometry("gemma-4-26b-a4b"), load_geometry("gpt-oss-120b")
    assert round(128 * expert_bytes(gemma, "q4_k_m").sum() / 2**20) == 14_429
    # that file kept mxfp4, and the engine counts the matrices it moves: biases stay in memory
    assert round(128 * expert_bytes(oss, "q4_k_m", biases=False).sum() / 2**20) == 58_092
    assert expert_bytes(oss, "q4_k_m", biases=False).tolist() == expert_bytes(oss, biases=False).tolist()


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded trace is not here")
def test_qwen3_in_q4_k_m_has_the_recorded_bytes_in_every_layer() -> None:
    with RECORDED.open(encoding="utf-8") as file:
        header = [line for line in (next(file) for _ in range(60)) if line.startswith("# layer=")]
    recorded = np.array([re.findall(r"=(\d+)", line) for line in header], dtype=np.int64)
    geometry = load_geometry("qwen3-30b-a3b")
    assert recorded[:, 0].tolist() == list(range(48))
    assert expert_bytes(geometry, "q4_k_m").tolist() == recorded[:, 1].tolist()
    assert dense_bytes(geometry, "q4_k_m").tolist() == recorded[:, 2].tolist()  # exact too: attention, norms, router
