from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.models import AttentionShape, Geometry, load_geometry, model_names
from lrcsim.models.geometry import BIASES

SHARED = Path(os.environ.get("LRCSIM_SHARED", Path(__file__).parents[3] / "shared"))

TINY = Geometry(
    name="tiny",
    source="by hand",
    layers=3,
    moe_layers=(1, 2),
    experts=4,
    top_k=2,
    shared_experts=1,
    hidden=8,
    expert_width=5,
    shared_width=6,
    dense_width=7,
    matrices=3,
    heads=4,
    kv_heads=2,
    head_dim=3,
    vocab=10,
    tied=False,
)


def test_formulas_by_hand() -> None:
    assert TINY.expert_params == 3 * 8 * 5
    assert TINY.shared_params == 3 * 8 * 6
    assert TINY.dense_ffn_params == 3 * 8 * 7
    assert TINY.router_params == 8 * 4
    # q 8 x 12, k and v 8 x 6 each, output 12 x 8
    assert [TINY.attention_params(layer) for layer in range(3)] == [96 + 48 + 48 + 96] * 3
    assert TINY.kv_values_of(1) == 2 * 2 * 3
    assert TINY.kv_values_per_token == 3 * 12
    # 4 heads: a score of 3 multiplications and as many additions, a value of 3 numbers weighted and added
    assert TINY.attention_flops_per_pair(1) == 4 * (6 + 6)
    assert TINY.embedding_params == 2 * 10 * 8
    assert replace(TINY, tied=True).embedding_params == 10 * 8
    # attention 3 x 288; routers and shared experts 2 x (32 + 144); dense block 168; embeddings 160
    assert TINY.dense_params == 864 + 352 + 168 + 160
    assert TINY.total_params == 1544 + 2 * 4 * 120
    assert TINY.active_params == 1544 + 2 * 2 * 120
    assert TINY.dense_layers == (0,)
    assert TINY.kv_layers == (0, 1, 2)


def test_mla_by_hand() -> None:
    mla = replace(TINY, kv_rank=9, rope_dim=2, q_rank=0)
    # q 8 x 4 (3 + 2); down 8 x (9 + 2); up 9 x 4 (3 + 3); output 4 x 3 x 8
    assert mla.attention_params(0) == 160 + 88 + 216 + 96
    assert mla.kv_values_of(0) == 11
    # keys of 9 + 2 and values of 9 in each of 4 heads; widened first, keys of 3 + 2 and values of 3
    assert mla.attention_flops_per_pair(0) == 2 * 4 * (11 + 9)
    assert mla.attention_flops_per_pair(0, absorbed=False) == 2 * 4 * (5 + 3)
    # queries through rank 6: 8 x 6 + 6 x 20; values 4 wide: up 9 x 4 (3 + 4), output 16 x 8
    assert replace(mla, q_rank=6, value_dim=4).attention_params(0) == 48 + 120 + 88 + 252 + 128


def test_mla_of_deepseek_is_what_the_formulas_say() -> None:
    # arXiv 2405.04434, section 2.1.2: per head a key of 512 + 64 and a value of 512
    r1, flash = load_geometry("deepseek-r1"), load_geometry("glm-4.7-flash")
    assert r1.attention_flops_per_pair(0) == 128 * (576 + 512) * 2 == 278_528
    assert r1.attention_flops_per_pair(0, absorbed=False) == 128 * (192 + 128) * 2
    assert flash.attention_flops_per_pair(0) == 20 * (576 + 512) * 2
    assert flash.attention_flops_per_pair(0, absorbed=False) == 20 * (256 + 256) * 2


def test_other_attention_outside_windows_by_hand() -> None:
    shape = AttentionShape(heads=4, kv_heads=1, head_dim=5, value_dim=5, keys_are_values=True)
    mixed = replace(TINY, window=10, window_layers=(0, 2), global_attention=shape)
    # q 8 x 20, k 8 x 5, output 20 x 8; its values are its keys, but both are kept
    assert [mixed.attention_params(layer) for layer in range(3)] == [288, 160 + 40 + 160, 288]
    assert [mixed.kv_values_of(layer) for layer in range(3)] == [12, 10, 12]
    assert [mixed.attention_flops_per_pair(layer) for layer in range(3)] == [48, 80, 48]
    assert mixed.kv_values(100) == 100 * 10 + 2 * 10 * 12
    assert mixed.total_params == TINY.total_params + 72
    assert set(mixed.attention_matrices(1)) == {"attn_q", "attn_k", "attn_output"}


def test_cells_as_they_are_allocated_by_hand() -> None:
    windowed = replace(TINY, window=10, window_layers=(0, 2))
    # 10 + 5 in windows, to the next multiple of 4: 16; 101 tokens: 104
    assert windowed.kv_values(101, chunk=5, pad=4) == (104 + 16 + 16) * 12
    assert windowed.kv_values(7, chunk=5, pad=4) == 3 * 8 * 12


def test_biases_by_hand() -> None:
    # q 12, k and v 6 each, output 8; sinks 4; router 4; an expert 5 + 5 + 8, the dense block 7 + 7 + 8
    every = replace(TINY, biases=BIASES)
    assert every.expert_biases == 18
    assert [every.layer_biases(layer) for layer in range(3)] == [36 + 22, 36 + 4, 36 + 4]
    assert every.total_params == TINY.total_params + 3 * 36 + 22 + 2 * (4 + 4 * 18) + 10
    assert every.active_params == TINY.active_params + 3 * 36 + 22 + 2 * (4 + 2 * 18) + 10
    counted = {"q": 36, "k": 18, "v": 18, "attn_output": 24, "sinks": 12, "router": 8, "ffn": 22 + 8 * 18, "output": 10}
    for name, count in counted.items():
        assert replace(TINY, biases=(name,)).total_params == TINY.total_params + count, name
    # two matrices: 5 + 8, 7 + 8; a layer without attention has none of it
    assert replace(every, matrices=2).expert_biases == 13
    assert replace(every, attention_layers=(1, 2)).layer_biases(0) == 22
    assert replace(TINY, shared_gate=True).total_params == TINY.total_params + 2 * 8


def test_kv_cache_by_hand() -> None:
    assert TINY.kv_values(100) == 3 * 100 * 12
    windowed = replace(TINY, window=10, window_layers=(0, 2))
    assert windowed.kv_values(4) == 3 * 4 * 12
    assert windowed.kv_values(100) == (100 + 10 + 10) * 12
    assert replace(windowed, attention_layers=(0, 2)).kv_values(100) == 20 * 12
    # gpt-oss-20b: 12 layers in full, 12 of 128 tokens, 2 x 8 x 64 values a token
    assert load_geometry("gpt-oss-20b").kv_values(1000) == (12 * 1000 + 12 * 128) * 1024
    assert load_geometry("gemma-4-26b").window_layers[:6] == (0, 1, 2, 3, 4, 6)


def test_layers_without_attention_by_hand() -> None:
    hybrid = replace(TINY, attention_layers=(2,), mixer_params=1000, attention_extra=50, attention_idle=20)
    assert hybrid.total_params == TINY.total_params - 3 * 288 + (288 + 50) + 2 * 1000
    assert hybrid.active_params == TINY.active_params - 3 * 288 + (288 + 50) + 2 * 1000 - 20
    assert hybrid.kv_layers == (2,)


PUBLISHED = {
    # total parameters in 10^9, as their publishers state them, with as many digits as they give
    "gpt-oss-20b": 20.9,
    "gpt-oss-120b": 116.8,
    "qwen3-235b-a22b": 235,
    "qwen3-next-80b-a3b": 80,
    "qwen3.5-35b-a3b": 35,
    "deepseek-v3": 671,
    "deepseek-r1": 671,
    "deepseek-v2": 236,
    "glm-4.5-air": 106,
    "glm-4.5": 355,
    "glm-4.7-flash": 30,
    "llama-4-scout": 109,
    "llama-4-maverick": 400,
    "minimax-m2": 230,
    "minimax-text-01": 456,
    "mixtral-8x22b": 141,
    "gemma-4-26b-a4b": 25.2,
    "granite-3.1-3b-a800m": 3.3,
    "dbrx": 132,
    "qwen3-coder-30b-a3b": 30.5,
    "qwen3-vl-30b-a3b": 30.5,
    "qwen3-vl-235b-a22b": 235,
    "qwen3-coder-480b-a35b": 480,
    "qwen3-coder-next": 80,
    "qwen3.6-35b-a3b": 35,
    "qwen3.5-122b-a10b": 122,
    "qwen3.5-397b-a17b": 397,
    "deepseek-v3.2": 671,
    "minimax-m2.1": 230,
    "minimax-m2.5": 230,
    "minimax-m2.7": 230,
    "minimax-m3": 428,
    "mimo-v2-flash": 309,
    "glm-4.5v": 106,
    "glm-4.7": 355,
    "glm-5": 744,
    "glm-5.1": 744,
    "glm-5.2": 744,
    "mistral-small-4": 119,
    "hy3": 295,
    "solar-open-100b": 102.6,
    "trinity-mini": 26,
    "granite-4.0-h-small": 32,
    "lfm2-8b-a1b": 8.3,
    "dots.llm1": 142,
    "hunyuan-a13b": 80,
    "k-exaone-236b-a23b": 236,
    "ernie-4.5-300b-a47b": 300,
    # counted by the authors of arXiv 2505.16056 from the checkpoints (model/config.jsonl of ljcleo/moe-lrc)
    "powermoe-3b": 3.3,
    "llama-moe-v1-3.5b": 6.74,
    "olmoe-1b-7b": 6.92,
    "llama-moe-v2-3.8b": 8.03,
    "jetmoe-8b": 8.52,
    "openmoe-8b": 11.86,
    "minicpm-moe-8x2b": 13.87,
    "qwen1.5-moe-a2.7b": 14.32,
    "deepseek-v2-lite": 15.71,
    "deepseek-moe-16b": 16.38,
    "xverse-moe-a4.2b": 25.78,
    "qwen3-30b-a3b": 30.53,
    "yuan2-m32": 39.94,
    "phi-3.5-moe": 41.87,
    "grin-moe": 41.87,
    "mixtral-8x7b": 46.7,
    "jamba-mini": 51.57,
    "qwen2-57b-a14b": 57.41,
    # experiments/model_family/runs/baseline.0/training.json
    "lrcsim-toy-baseline": 0.0540,
}
ROUNDED = {
    # stated with fewer digits, or less than they are
    "kimi-k2": 1000,
    "kimi-k2-thinking": 1000,
    "kimi-k2.5": 1000,
    "kimi-k2.6": 1000,
    "kimi-k2.7-code": 1000,
    "trinity-nano": 6,
    "kimi-linear-48b-a3b": 48,
    "granite-3.1-1b-a400m": 1.3,
    "ernie-4.5-21b-a3b": 21,
}
ACTIVE = {
    # 10^9, from the model cards; those that leave the embeddings out are not listed
    "qwen3-235b-a22b": 22,
    "qwen3-30b-a3b": 3.3,
    "mixtral-8x7b": 12.9,
    "mixtral-8x22b": 39,
    "deepseek-v3": 37,
    "kimi-k2": 32,
    "llama-4-scout": 17,
    "llama-4-maverick": 17,
    "phi-3.5-moe": 6.6,
    "olmoe-1b-7b": 1.3,
    "gemma-4-26b-a4b": 3.8,
    "jamba-mini": 12,
    "qwen2-57b-a14b": 14,
    "dbrx": 36,
    "qwen3-coder-480b-a35b": 35,
    "qwen3.5-122b-a10b": 10,
    "qwen3.5-397b-a17b": 17,
    "mistral-small-4": 6.5,
    "hy3": 21,
    "solar-open-100b": 12,
    "granite-4.0-h-small": 9,
    "dots.llm1": 14,
    "hunyuan-a13b": 13,
    "k-exaone-236b-a23b": 23,
    "ernie-4.5-300b-a47b": 47,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_total_parameters_are_the_published_ones(name: str) -> None:
    assert load_geometry(name).total_params / 1e9 == pytest.approx(PUBLISHED[name], rel=0.012)


@pytest.mark.parametrize("name", ROUNDED)
def test_total_parameters_are_near_those_stated_roughly(name: str) -> None:
    assert load_geometry(name).total_params / 1e9 == pytest.approx(ROUNDED[name], rel=0.04)


@pytest.mark.parametrize("name", ACTIVE)
def test_active_parameters_are_the_published_ones(name: str) -> None:
    assert load_geometry(name).active_params / 1e9 == pytest.approx(ACTIVE[name], rel=0.03)


@pytest.mark.parametrize(("name", "total"), [("switch-base-128", 7.42), ("nllb-moe-54b", 54.5)])
def test_encoder_and_decoder_share_the_embedding(name: str, total: float) -> None:
    decoder, encoder = load_geometry(name), load_geometry(f"{name}-encoder")
    both = decoder.total_params + encoder.total_params - decoder.embedding_params
    assert both / 1e9 == pytest.approx(total, rel=0.001)


def test_every_model_is_compared_or_is_half_of_one() -> None:
    halves = {"switch-base-128", "switch-base-128-encoder", "nllb-moe-54b", "nllb-moe-54b-encoder"}
    assert set(model_names()) == set(PUBLISHED) | set(ROUNDED) | halves


def test_names_of_the_hub_and_any_case() -> None:
    assert load_geometry("Qwen/Qwen3-30B-A3B") == load_geometry("QWEN3-30b-a3b") == load_geometry("qwen3")
    assert load_geometry("deepseek-ai/DeepSeek-R1").layers == 61
    aliases = [name for name in model_names() if load_geometry(name).name != name]
    assert not aliases


def test_fewer_experts_per_token_than_the_model_has() -> None:
    assert load_geometry("Qwen/Qwen3-30B-A3B:top_k=6") == replace(load_geometry("qwen3-30b-a3b"), top_k=6)
    with pytest.raises(ConfigError, match="top_k must be 1 to 128"):
        load_geometry("qwen3-30b-a3b:top_k=200")


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("qwen3-30b", "did you mean 'qwen3-30b-a3b'?"),
        ("zzzzz", "lrcsim models lists them"),
        ("nowhere/config.json", "there is no file"),
    ],
)
def test_unknown_models(spec: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_geometry(spec)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not (SHARED / "reference/paper/summary_models.csv").exists(), reason="no shared folder")
def test_the_papers_models_are_there_under_its_keys() -> None:
    with (SHARED / "reference/paper/summary_models.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            key = row["model"] if row["is_decoder"] == "True" else load_geometry(row["model"]).name + "-encoder"
            geometry = load_geometry(key)
            assert (geometry.experts, geometry.top_k) == (int(row["N"]), int(row["k"])), key
            assert len(geometry.moe_layers) == int(row["moe_layers"]), key


@pytest.mark.parametrize("name", model_names())
def test_geometries_are_consistent(name: str) -> None:
    geometry = load_geometry(name)
    assert set(geometry.moe_layers) <= set(range(geometry.layers))
    assert list(geometry.moe_layers) == sorted(set(geometry.moe_layers))
    assert 1 <= geometry.top_k <= geometry.experts
    assert (geometry.dense_width > 0) == (len(geometry.moe_layers) < geometry.layers)
    assert (geometry.shared_experts > 0) == (geometry.shared_width > 0)
    assert (geometry.mixer_params > 0) == (len(geometry.kv_layers) < geometry.layers)
    assert (geometry.window > 0) == (len(geometry.window_layers) > 0)
    assert set(geometry.window_layers) <= set(geometry.kv_layers)
    for shape in map(geometry.attention_shape, geometry.kv_layers):
        assert shape.heads % shape.kv_heads == 0
    assert geometry.biases == tuple(name for name in BIASES if name in geometry.biases)
    assert geometry.source
