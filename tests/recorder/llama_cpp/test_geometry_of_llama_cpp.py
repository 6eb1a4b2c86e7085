"""What a GGUF file's header says is what llama.cpp itself makes of the file: bytes, numbers, KV cache."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from lrcsim.models import dense_bytes, embedding_bytes, expert_bytes, load_geometry, output_bytes
from lrcsim.models.huggingface import geometry_from_dict
from lrcsim.models.of_trace import SHAPE
from lrcsim.recorder.llama_cpp.library import Library

sys.path.insert(0, str(Path(__file__).parents[2] / "models"))
from gguf_files import Tensors, block, write

CELLS, STEP = 1024, 64
KV = re.compile(r"(?:K|V) \(f16\):\s*([0-9.]+) MiB")


def held_against_llama_cpp(library: Library, path: Path) -> None:
    """Bytes and numbers to the last one; the KV cache as far as the library's log says it, to 0.01 MiB a part."""
    found = load_geometry(path)
    assert found.stored is not None
    with library.model(path) as model:
        assert (found.stored.bytes, found.hidden, found.vocab) == (model.size, model.hidden, model.vocab)
        assert found.total_params == model.params or found.stored.idle  # of what does not run numbers are not counted
        library.log.clear()
        params = library.c.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = CELLS, STEP, STEP
        params.swa_full = False  # as llama-server does: layers with a window do not keep all tokens
        library.c.llama_free(library.c.llama_init_from_model(model.pointer, params))
        parts = [float(size) for size in KV.findall("".join(library.log))]
    parts_of_ours = found.experts * int(expert_bytes(found).sum()) + int(dense_bytes(found).sum()) + output_bytes(found)
    assert parts_of_ours + (0 if found.tied else embedding_bytes(found)) + found.stored.idle == found.stored.bytes
    assert parts
    kept = 2 * found.kv_values(CELLS, chunk=STEP, pad=256) / 2**20
    assert sum(parts) == pytest.approx(kept, abs=0.006 * len(parts))


HEAD: Tensors = {"token_embd.weight": ((256, 512), "q4_k"), "output_norm.weight": ((256,), "f32"),
                 "output.weight": ((256, 512), "q6_k")}  # fmt: skip
COMMON = {"context_length": 2048, "embedding_length": 256, "attention.head_count": 4, "attention.head_count_kv": 2,
          "expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": 256, "feed_forward_length": 512,
          "vocab_size": 512, "attention.layer_norm_rms_epsilon": 0.00001,
          "tokenizer.ggml.model": "none"}  # fmt: skip


def attention(layer: int, kind: str = "q4_k", **other: Any) -> Tensors:
    return block(layer, attn_norm=((256,), "f32"), attn_q=((256, 256), kind), attn_k=((256, 128), kind),
                 attn_v=((256, 128), "q6_k"), attn_output=((256, 256), kind), **other)  # fmt: skip


def experts(layer: int, up: str, down: str) -> Tensors:
    return block(layer, ffn_gate_inp=((256, 8), "f32"), ffn_gate_exps=((256, 256, 8), up),
                 ffn_up_exps=((256, 256, 8), up), ffn_down_exps=((256, 256, 8), down))  # fmt: skip


def qwen3moe() -> tuple[dict[str, Any], Tensors]:
    """Experts stored otherwise in each layer, as in the UD files."""
    tensors = dict(HEAD)
    norms = dict.fromkeys(("attn_q_norm", "attn_k_norm"), ((64,), "f32")) | {"ffn_norm": ((256,), "f32")}
    for layer, (up, down) in enumerate([("q4_k", "q6_k"), ("iq2_xxs", "iq4_xs"), ("q8_0", "bf16")]):
        tensors |= {**attention(layer, **norms), **experts(layer, up, down)}
    return {"block_count": 3}, tensors


def gpt_oss() -> tuple[dict[str, Any], Tensors]:
    """A window in every other layer, biases everywhere."""
    tensors = dict(HEAD)
    for layer in range(4):
        tensors |= attention(
            layer, post_attention_norm=((256,), "f32"), attn_sinks=((4,), "f32"), attn_q__bias=((256,), "f32"),
            attn_k__bias=((128,), "f32"), attn_v__bias=((128,), "f32"), attn_output__bias=((256,), "f32"),
            ffn_gate_inp__bias=((8,), "f32"), ffn_gate_exps__bias=((256, 8), "f32"),
            ffn_up_exps__bias=((256, 8), "f32"), ffn_down_exps__bias=((256, 8), "f32"),
        )  # fmt: skip
        tensors |= experts(layer, "mxfp4", "mxfp4")
    return {"block_count": 4, "attention.sliding_window": 128}, tensors


def qwen3next() -> tuple[dict[str, Any], Tensors]:
    """Linear attention in three of four layers, queries with a gate, shared experts."""
    tensors = dict(HEAD)
    linear = {
        "attn_qkv": ((256, 512), "q8_0"), "attn_gate": ((256, 256), "q8_0"), "ssm_conv1d": ((4, 512), "f32"),
        "ssm_dt__bias": ((4,), "f32"), "ssm_ba": ((256, 8), "f32"), "ssm_norm": ((64,), "f32"),
        "ssm_out": ((256, 256), "q8_0"),
    }  # fmt: skip
    full = {
        "attn_q": ((256, 512), "q8_0"), "attn_k": ((256, 128), "q8_0"), "attn_v": ((256, 128), "q8_0"),
        "attn_output": ((256, 256), "q8_0"), "attn_q_norm": ((64,), "f32"), "attn_k_norm": ((64,), "f32"),
    }  # fmt: skip
    for layer in range(4):
        shared = {f"ffn_{name}_shexp": ((256, 256), "q5_k") for name in ("gate", "up", "down")}
        norms = {"attn_norm": ((256,), "f32"), "post_attention_norm": ((256,), "f32")}
        tensors |= block(
            layer, **(full if layer == 3 else linear), **shared, **norms, ffn_gate_inp_shexp=((256,), "f32")
        )
        tensors |= experts(layer, "q5_k", "q6_k")
        if layer < 3:
            tensors[f"blk.{layer}.ssm_a"] = ((4,), "f32")
    keys = {
        "ssm.conv_kernel": 4,
        "ssm.inner_size": 256,
        "ssm.state_size": 64,
        "ssm.time_step_rank": 4,
        "ssm.group_count": 2,
    }
    return keys | {
        "block_count": 4,
        "expert_shared_feed_forward_length": 256,
        "rope.dimension_sections": [8, 8, 8, 0],
    }, tensors


def deepseek2() -> tuple[dict[str, Any], Tensors]:
    """Latent attention, a first layer without experts, shared experts, and a layer that predicts further tokens."""
    tensors = dict(HEAD)
    for layer in range(4):
        tensors |= block(
            layer, attn_norm=((256,), "f32"), ffn_norm=((256,), "f32"), attn_q_a_norm=((64,), "f32"),
            attn_kv_a_norm=((32,), "f32"), attn_q_a=((256, 64), "q8_0"), attn_q_b=((64, 128), "q8_0"),
            attn_kv_a_mqa=((256, 40), "q8_0"),
            attn_k_b=((24, 32, 4), "f16"), attn_v_b=((32, 16, 4), "q8_0"), attn_output=((64, 256), "q8_0"),
        )  # fmt: skip
        if layer == 0:
            tensors |= block(
                0, ffn_gate=((256, 512), "q4_k"), ffn_up=((256, 512), "q4_k"), ffn_down=((512, 256), "q6_k")
            )
        else:
            tensors |= block(layer, **{f"ffn_{name}_shexp": ((256, 256), "q5_k") for name in ("gate", "up", "down")})
            tensors |= experts(layer, "q4_k", "q6_k")
    tensors |= block(3, nextn__eh_proj__weight=((512, 256), "q8_0"), nextn__enorm__weight=((256,), "f32"),
                     nextn__hnorm__weight=((256,), "f32"))  # fmt: skip
    keys = {
        "block_count": 4, "nextn_predict_layers": 1, "leading_dense_block_count": 1, "expert_shared_count": 1,
        "attention.head_count_kv": 1, "attention.kv_lora_rank": 32, "attention.q_lora_rank": 64,
        "attention.key_length": 40, "attention.value_length": 32, "attention.key_length_mla": 32,
        "attention.value_length_mla": 16, "rope.dimension_count": 8,
    }  # fmt: skip
    return keys, tensors


def old_deepseek2() -> tuple[dict[str, Any], Tensors]:
    """Latent attention in one part, as files before April 2025 have it: llama.cpp keeps keys and values widened."""
    keys, tensors = deepseek2()
    found = {name: one for name, one in tensors.items() if "_k_b." not in name and "_v_b." not in name}
    for layer in range(4):
        found |= block(layer, attn_kv_b=((32, 160), "q8_0"))
    old = {name: value for name, value in keys.items() if not name.endswith("_mla")}
    lengths = {"attention.key_length": 32, "attention.value_length": 16, "attention.head_count_kv": 4}
    return old | lengths, found


def lfm2moe() -> tuple[dict[str, Any], Tensors]:
    """Short convolutions in three of four layers, whose heads of keys the file says are none; a dense first layer."""
    tensors = {name: one for name, one in HEAD.items() if name == "token_embd.weight"}
    tensors["token_embd_norm.weight"] = ((256,), "f32")
    for layer in range(4):
        norms = {"attn_norm": ((256,), "f32"), "ffn_norm": ((256,), "f32")}
        if layer == 2:
            own = {name: one for name, one in attention(layer).items() if "attn_norm" not in name}
            tensors |= {**own, **block(layer, attn_q_norm=((64,), "f32"), attn_k_norm=((64,), "f32"))}
        else:
            tensors |= block(layer, shortconv__conv__weight=((3, 256), "f32"),
                             shortconv__in_proj__weight=((256, 768), "q8_0"),
                             shortconv__out_proj__weight=((256, 256), "q8_0"))  # fmt: skip
        if layer == 0:
            tensors |= block(
                0, ffn_gate=((256, 512), "q4_k"), ffn_up=((256, 512), "q4_k"), ffn_down=((512, 256), "q6_k")
            )
        else:
            tensors |= {**experts(layer, "q4_k", "q6_k"), **block(layer, exp_probs_b__bias=((8,), "f32"))}
        tensors |= block(layer, **norms)
    keys = {"block_count": 4, "leading_dense_block_count": 1, "attention.head_count_kv": [0, 0, 2, 0]}
    return keys | {"shortconv.l_cache": 3, "expert_gating_func": 2}, tensors


def gemma4() -> tuple[dict[str, Any], Tensors]:
    """Two kinds of attention, of which one has no matrix of values; a dense block beside experts; a tied output."""
    tensors = {name: one for name, one in HEAD.items() if name != "output.weight"}
    tensors["rope_freqs.weight"] = ((64,), "f32")
    names = ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "pre_ffw_norm_2", "post_ffw_norm_1")
    for layer in range(4):
        full = layer == 3
        wide = 128 if full else 64
        tensors |= block(layer, **dict.fromkeys((*names, "post_ffw_norm_2"), ((256,), "f32")))
        tensors |= block(
            layer, attn_q=((256, 4 * wide), "q4_k"), attn_k=((256, 128), "q4_k"),
            attn_output=((4 * wide, 256), "q4_k"), attn_q_norm=((wide,), "f32"), attn_k_norm=((wide,), "f32"),
            ffn_gate_inp=((256, 8), "f32"), ffn_gate_inp__scale=((256,), "f32"),
            ffn_gate_up_exps=((256, 512, 8), "q4_k"), ffn_down_exps=((256, 256, 8), "q6_k"),
            ffn_down_exps__scale=((8,), "f32"), ffn_gate=((256, 512), "q8_0"), ffn_up=((256, 512), "q8_0"),
            ffn_down=((512, 256), "q8_0"), **({} if full else {"attn_v": ((256, 128), "q6_k")}),
        )  # fmt: skip
    keys = {
        "attention.sliding_window": 128, "attention.sliding_window_pattern": [True, True, True, False],
        "attention.key_length": 128, "attention.value_length": 128, "attention.key_length_swa": 64,
        "attention.value_length_swa": 64, "attention.head_count_kv": [2, 2, 2, 1], "block_count": 4,
        "embedding_length_per_layer_input": 0, "rope.freq_base_swa": 10000.0,
    }  # fmt: skip
    return keys, tensors


FILES = {
    "gemma4": gemma4,
    "deepseek2 of old": old_deepseek2,
    "lfm2moe": lfm2moe,
    "qwen3moe": qwen3moe,
    "gpt-oss": gpt_oss,
    "qwen3next": qwen3next,
    "deepseek2": deepseek2,
}


@pytest.mark.parametrize("architecture", FILES)
def test_files_with_a_hole_for_weights(architecture: str, library: Library, tmp_path: Path) -> None:
    keys, tensors = FILES[architecture]()
    held_against_llama_cpp(library, write(tmp_path / "x.gguf", COMMON | keys, tensors, architecture.split()[0]))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["olmoe", "qwen3_moe", "mixtral", "gpt_oss", "deepseek_v2"])
def test_models_of_transformers(kind: str, library: Library, tmp_path: Path) -> None:
    """The geometry is that of the config, too."""
    pytest.importorskip("torch", reason="torch is not installed (pip install '.[record]')")
    pytest.importorskip("transformers", reason="transformers is not installed (pip install '.[record]')")
    from as_gguf import write_gguf
    from test_llama_cpp_routing import tiny

    model, path = tiny(kind), tmp_path / "x.gguf"
    write_gguf(model, path)
    held_against_llama_cpp(library, path)
    found, said = load_geometry(path), geometry_from_dict(model.config.to_dict())
    for name in (*SHAPE, "shared_width", "heads", "kv_rank", "rope_dim", "q_rank", "tied", "window_layers", "matrices"):
        assert getattr(found, name) == getattr(said, name), name
    assert found.kv_values(10_000) == said.kv_values(10_000)
    norms = sum(one.rows * one.length for one in found.stored.tensors if one.name.endswith("norm"))  # type: ignore[union-attr]
    assert found.total_params - norms == said.total_params
    assert expert_bytes(found).tolist() == expert_bytes(said, "f32").tolist()
    assert found.layer_params(1) == said.layer_params(1)
