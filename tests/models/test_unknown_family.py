"""Families that lrcsim has no keys for: counted on transformers' modules, else read leniently, with a notice."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from lrcsim.base import notices
from lrcsim.base.errors import ConfigError
from lrcsim.models import dense_bytes, expert_bytes, load_geometry, output_bytes
from lrcsim.models import huggingface as reader
from lrcsim.models.geometry import Geometry
from lrcsim.models.huggingface import geometry_from_dict
from lrcsim.models.tensors import dense_tensors

SHARED = Path(os.environ.get("LRCSIM_SHARED", Path(__file__).parents[3] / "shared"))

# By hand: embedding and output 2 x 100 x 8 = 1,600; 2 layers of attention 4 x 8 x 8 = 256, router 8 x 4 = 32 and 4
# experts of 3 x 8 x 5 = 120.
SMALL: dict[str, Any] = {
    "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 4,
    "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 5, "vocab_size": 100,
    "tie_word_embeddings": False,
}  # fmt: skip
TOTAL = 1_600 + 2 * (256 + 32 + 480)
modules = pytest.mark.skipif(
    not (find_spec("torch") and find_spec("transformers")), reason="torch and transformers are not installed"
)


@pytest.fixture(autouse=True)
def told_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "_told", set())


@pytest.fixture
def without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "find_spec", lambda _name: None)


@pytest.mark.parametrize("family", ["brand_new_moe", "", None, 3])
def test_read_leniently_with_a_notice(family: object, capsys: pytest.CaptureFixture[str]) -> None:
    geometry = geometry_from_dict(SMALL | {"model_type": family}, name="new")
    assert (geometry.total_params, geometry.experts, geometry.moe_layers) == (TOTAL, 4, (0, 1))
    said = capsys.readouterr().err
    assert said.startswith("Note: the config: ")
    assert "read by the keys of most families" in said
    assert said.count("\n") == 1
    geometry_from_dict(SMALL | {"model_type": family}, name="new")
    assert capsys.readouterr().err == "", "the same notice once"


def test_the_closest_family_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    geometry_from_dict(SMALL | {"model_type": "qwen3moe"})
    assert "did you mean 'qwen3_moe'?" in capsys.readouterr().err


def test_without_transformers_a_family_of_it_is_read_leniently(
    without_transformers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = ["compressed_sparse_attention", "full_attention"]
    geometry = geometry_from_dict(SMALL | {"model_type": "deepseek_v4", "layer_types": kinds})
    assert geometry.total_params == TOTAL
    said = capsys.readouterr().err
    assert "the family 'deepseek_v4' is not known: read by the keys" in said
    assert "'compressed_sparse_attention' are taken for full attention: the KV cache may be smaller" in said
    assert "transformers.models" not in sys.modules or find_spec("transformers")


@pytest.mark.parametrize("family", ["llama", "mystery", "qwen3_moe"])
def test_dense_models_are_refused(family: str) -> None:
    dense = {key: value for key, value in SMALL.items() if "expert" not in key and "moe" not in key}
    with pytest.raises(ConfigError, match="is no Mixture-of-Experts model") as caught:
        geometry_from_dict(dense | {"model_type": family, "intermediate_size": 16})
    assert "\n" not in str(caught.value)


@modules
def test_dense_by_its_modules() -> None:
    with pytest.raises(ConfigError, match="transformers' LlamaForCausalLM has no routed experts"):
        geometry_from_dict(SMALL | {"model_type": "llama", "intermediate_size": 16})


@modules
def test_a_config_that_transformers_cannot_build_is_read_leniently(capsys: pytest.CaptureFixture[str]) -> None:
    geometry = geometry_from_dict(SMALL | {"model_type": "zaya", "rms_norm_eps": "none", "num_attention_heads": 2})
    assert geometry.experts == 4
    assert "cannot build it" in capsys.readouterr().err


@modules
@pytest.mark.parametrize("key", ["num_hidden_layers", "num_experts"])
def test_sizes_without_end_are_refused_before_anything_is_built(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is 1000000000: it must be at most"):
        geometry_from_dict(SMALL | {"model_type": "zaya", key: 10**9})


@modules
def test_counted_by_layer(capsys: pytest.CaptureFixture[str]) -> None:
    # zaya by hand, a layer: attention 8 x 8 for queries, 8 x 8 for output, 8 x 8 for keys, 8 x 4 twice for values (now
    # and before) = 256; the rest are convolutions and the router of three layers, counted
    keys = SMALL | {"model_type": "zaya", "num_experts_per_tok": 1, "router_hidden_size": 6, "rope_parameters": None}
    geometry = geometry_from_dict(keys)
    assert capsys.readouterr().err == ""
    # outside the layers a bias of the first states; all of it by torch, but for norms and scales
    assert (len(geometry.counted), geometry.counted[-1]) == (3, 8)
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**keys))
    kept = [(key, tensor.numel()) for key, tensor in model.named_parameters() if "scale" not in key]
    assert geometry.total_params == sum(size for key, size in kept if "norm" not in key) + sum(
        tensor.numel() for key, tensor in model.named_buffers() if key.endswith("e_score_correction_bias")
    )
    assert "counted on the modules of transformers" in geometry.source
    check_bytes(geometry)


def check_bytes(geometry: Geometry) -> None:
    """Every counted parameter is in some tensor, rounded up to whole rows."""
    for layer in range(geometry.layers):
        assert all(t.rows > 0 for t in dense_tensors(geometry, layer))
        held = sum(t.rows * t.length for t in dense_tensors(geometry, layer) if t.name != "norm")
        assert 0 <= held - geometry.layer_params(layer) - geometry.layer_biases(layer) < geometry.hidden
    assert dense_bytes(geometry).min() > 0
    assert expert_bytes(geometry).min() > 0
    assert output_bytes(geometry) > 0


@modules
@pytest.mark.parametrize("family", ["dots3_note_text", "deepseek_v4", "longcat_flash", "nemotron_h", "muse_spark_text"])
def test_bytes_follow_what_was_counted(family: str) -> None:
    from transformers import AutoConfig

    check_bytes(geometry_from_dict(AutoConfig.for_model(family).to_dict()))


@modules
@pytest.mark.parametrize(("name", "family", "keys"), [
    ("nllb-moe-54b", "nllb-moe", {
        "vocab_size": 256206, "d_model": 2048, "encoder_ffn_dim": 8192, "decoder_ffn_dim": 8192, "encoder_layers": 24,
        "decoder_layers": 24,
    }),
    ("switch-base-128", "switch_transformers", {
        "d_ff": 3072, "num_experts": 128, "num_sparse_encoder_layers": 6, "num_sparse_decoder_layers": 6,
    }),
])  # fmt: skip
def test_of_an_encoder_and_a_decoder_the_decoder(name: str, family: str, keys: dict[str, int]) -> None:
    from transformers import AutoConfig

    geometry, built_in = geometry_from_dict(AutoConfig.for_model(family, **keys).to_dict()), load_geometry(name)
    for key in ("layers", "moe_layers", "experts", "top_k", "hidden", "expert_width", "matrices", "tied", "vocab"):
        assert getattr(geometry, key) == getattr(built_in, key), key
    assert geometry.expert_params + geometry.expert_biases == built_in.expert_params + built_in.expert_biases
    assert geometry.total_params == pytest.approx(built_in.total_params, rel=1e-4)
    assert geometry.kv_values_per_token == built_in.kv_values_per_token


def test_the_fixture_of_an_unknown_family(lrcsim: Callable[..., Any], without_transformers: None) -> None:
    path = SHARED / "field/config_unknown_family.json"
    if not path.exists():
        pytest.skip("shared fixtures are not here")
    done = lrcsim("models", path, "--json", "-")
    values = json.loads(done.out)
    assert (done.code, values["num_experts"], values["top_k"], values["moe_layers"]) == (0, 16, 2, [1, 2, 3, 4, 5])


# Keys as these models' config.json are known to have them (typed, not read from there), and the totals of their cards,
# 10^9 parameters, which the keys were not made from.
PUBLISHED: list[tuple[dict[str, Any], float, float]] = [
    ({  # nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B
        "model_type": "nemotron_h", "hidden_size": 2688, "num_hidden_layers": 52, "vocab_size": 131072,
        "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME", "num_attention_heads": 32,
        "num_key_value_heads": 2, "head_dim": 128, "mamba_num_heads": 64, "mamba_head_dim": 64, "n_groups": 8,
        "ssm_state_size": 128, "conv_kernel": 4, "intermediate_size": 1856, "moe_intermediate_size": 1856,
        "moe_shared_expert_intermediate_size": 3712, "n_routed_experts": 128, "n_shared_experts": 1,
        "num_experts_per_tok": 6, "tie_word_embeddings": False,
    }, 31.6, 3.6),
    ({  # XiaomiMiMo/MiMo-V2-Flash
        "model_type": "mimo_v2_flash", "hidden_size": 4096, "num_hidden_layers": 48, "vocab_size": 152576,
        "hybrid_layer_pattern": [0, 1, 1, 1, 1] + [0, 1, 1, 1, 1, 1] * 7 + [0], "moe_layer_freq": [0] + [1] * 47,
        "num_attention_heads": 64, "num_key_value_heads": 4, "head_dim": 192, "v_head_dim": 128, "swa_head_dim": 192,
        "swa_num_attention_heads": 64, "swa_num_key_value_heads": 8, "swa_v_head_dim": 128, "sliding_window_size": 128,
        "intermediate_size": 16384, "moe_intermediate_size": 2048, "n_routed_experts": 256, "num_experts_per_tok": 8,
        "tie_word_embeddings": False,
    }, 309, 15),
    ({  # stepfun-ai/Step-3.5-Flash
        "model_type": "step3p5", "hidden_size": 4096, "num_hidden_layers": 45, "vocab_size": 128896,
        "num_attention_heads": 64, "num_attention_groups": 8, "head_dim": 128, "sliding_window": 512,
        "attention_other_setting": {"num_attention_heads": 96, "num_attention_groups": 8, "head_dim": 128},
        "layer_types": ["full_attention", *["sliding_attention"] * 3] * 12, "num_nextn_predict_layers": 3,
        "moe_layers_enum": ",".join(map(str, range(3, 45))), "intermediate_size": 11264, "moe_num_experts": 288,
        "moe_top_k": 8, "moe_intermediate_size": 1280, "share_expert_dim": 1280, "tie_word_embeddings": False,
    }, 196, 11),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "total", "active"), PUBLISHED, ids=[keys["model_type"] for keys, *_ in PUBLISHED])
def test_published_totals(keys: dict[str, Any], total: float, active: float) -> None:
    geometry = geometry_from_dict(keys)
    assert geometry.total_params == pytest.approx(total * 1e9, rel=0.005)
    # publishers count the embedding matrices or not
    least, most = (geometry.active_params - geometry.embedding_params) / 1e9, geometry.active_params / 1e9
    assert 0.99 * least < active < 1.02 * most


def test_windows_of_their_own_heads() -> None:
    mimo = geometry_from_dict(PUBLISHED[1][0])
    assert (mimo.window, len(mimo.window_layers), mimo.kv_heads, mimo.value_dim) == (128, 39, 8, 128)
    assert mimo.global_attention is not None
    # 9 layers of 4 heads and 39 of 8, keys of 192 and values of 128
    assert mimo.kv_values_per_token == (9 * 4 + 39 * 8) * 320
    step = geometry_from_dict(PUBLISHED[2][0])
    assert (step.heads, len(step.window_layers), step.mtp_layers) == (96, 33, 3)
    assert step.global_attention is not None
    assert step.global_attention.heads == 64
