"""Bytes against what llama.cpp prints when it loads a model: exact to its two decimals."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from lrcsim.models import bits_per_weight, dense_bytes, expert_bytes, load_geometry, output_bytes
from lrcsim.models.quantisation import tensor_bytes
from lrcsim.models.tensors import Tensor

MIB = 2**20


class Printed(NamedTuple):
    """A line ``llama_kv_cache: size = ... MiB (... cells, ... layers ...)``, one per kind of layer."""

    model: str
    dtype: str
    cells: int
    layers: int
    mib: float
    windowed: bool = False


PRINTED = {
    # lines in the tests of a public reader of llama.cpp's logs, caches in q8_0; 1,536 cells: 1,024 and a batch of 512
    "gemma-4-26b, global": Printed("gemma-4-26b-a4b", "q8_0", 262_144, 5, 2720.00),
    "gemma-4-26b, window": Printed("gemma-4-26b-a4b", "q8_0", 1_536, 25, 159.38, windowed=True),
    # what llama.cpp printed for the global layers at 2,048 cells
    "gemma-4-26b, f16": Printed("gemma-4-26b-a4b", "f16", 2_048, 5, 40.00),
    # ikawrakow/ik_llama.cpp issue 822, llama.cpp build 6699; 768 cells are 128 and a batch of 512, to the next 256
    "gpt-oss-20b, global": Printed("gpt-oss-20b", "f16", 131_072, 12, 3072.00),
    "gpt-oss-20b, window": Printed("gpt-oss-20b", "f16", 768, 12, 18.00, windowed=True),
    # a log of LM Studio, 12 August 2025 (llama.cpp with --swa-full: windows keep all cells)
    "gpt-oss-120b": Printed("gpt-oss-120b", "f16", 4_096, 18, 144.00),
    # Qwen3-Coder-30B-A3B, a server's log of September 2026
    "qwen3-30b": Printed("qwen3-30b-a3b", "f16", 32_768, 48, 3072.00),
    # "KV self size", of compressed keys and values: ikawrakow/ik_llama.cpp pull requests 259 (DeepSeek-R1, q8_0, a
    # context of 32,768) and 260 (-mla 2, f16, -c 16384)
    "deepseek-r1, q8_0": Printed("deepseek-r1", "q8_0", 32_768, 61, 1166.62),
    "deepseek-r1, f16": Printed("deepseek-r1", "f16", 16_384, 61, 1098.00),
}


@pytest.mark.parametrize("printed", PRINTED.values(), ids=list(PRINTED))
def test_the_kv_cache_has_the_printed_size(printed: Printed) -> None:
    geometry = load_geometry(printed.model)
    kept = [layer for layer in geometry.kv_layers if (layer in geometry.window_layers) == printed.windowed]
    assert len(kept) == printed.layers
    values = printed.cells * sum(geometry.kv_values_of(layer) for layer in kept)
    assert values * bits_per_weight(printed.dtype) / 8 / MIB == pytest.approx(printed.mib, abs=0.006)


@pytest.mark.parametrize("model", ["gemma-4-26b-a4b", "gpt-oss-20b"])
def test_both_kinds_of_layers_together_as_llamacpp_allocates_them(model: str) -> None:
    full, short = [line for line in PRINTED.values() if line.model == model][:2]
    values = load_geometry(model).kv_values(full.cells, chunk=512, pad=256)
    together = values * bits_per_weight(full.dtype) / 8 / MIB
    assert together == pytest.approx(full.mib + short.mib, abs=0.012)


def test_what_llamacpp_puts_on_the_gpu_and_in_memory_for_gpt_oss() -> None:
    # ikawrakow/ik_llama.cpp issue 822: gpt-oss-20b-mxfp4.gguf (attention and embedding in q8_0) with --n-cpu-moe 99:
    # "CUDA0 model buffer size = 1242.03 MiB": all but the experts, their biases and the embedding
    oss = load_geometry("gpt-oss-20b")
    last_norm = 4 * oss.hidden
    on_the_gpu = dense_bytes(oss, "q8_0").sum() + output_bytes(oss, "q8_0") + last_norm
    # CUDA fills rows of 2,880 up to 512 once in each of 24 x 3 + 1 q8_0 matrices: 192 weights, aligned to 256 bytes
    assert (on_the_gpu + 73 * 256) / MIB == pytest.approx(1242.03, abs=0.005)
    # "file size = 11.27 GiB", the same file; LM Studio: gpt-oss-120b 59.02 GiB, of which the embedding 586.82 MiB
    for name, gib in (("gpt-oss-20b", 11.27), ("gpt-oss-120b", 59.02)):
        model = load_geometry(name)
        embedding = tensor_bytes(model, Tensor("token_embd", -1, model.vocab, model.hidden), "q8_0,token_embd=q8_0")
        assert embedding / MIB == pytest.approx(586.82, abs=0.006)
        experts = model.experts * expert_bytes(model, "q8_0").sum()
        rest = dense_bytes(model, "q8_0").sum() + output_bytes(model, "q8_0") + last_norm
        assert (experts + rest + embedding) / 2**30 == pytest.approx(gib, abs=0.006)


def test_biases_of_experts_by_hand() -> None:
    # gate and up 2,880 each, down 2,880: f32 in a GGUF file, bf16 as released; 160 MB in all of gpt-oss-120b's file
    oss = load_geometry("gpt-oss-120b")
    matrices = 3 * 2880 * 2880 // 32 * 17
    assert set(expert_bytes(oss, "q4_k_m")) == {matrices + 3 * 2880 * 4}
    assert set(expert_bytes(oss)) == {matrices + 3 * 2880 * 2}
    assert set(expert_bytes(oss, biases=False)) == {matrices}
    assert 128 * int(np.sum(expert_bytes(oss, "q8_0") - expert_bytes(oss, "q8_0", biases=False))) == 159_252_480
    # a recipe for a layer leaves them as they are, a name in full does not
    layer_0 = expert_bytes(oss, "q8_0,0=q4_0") - expert_bytes(oss, "q8_0,0=q4_0", biases=False)
    assert set(layer_0) == {3 * 2880 * 4}
    assert set(expert_bytes(oss, "q8_0,bias_exps=f16")) == {matrices + 3 * 2880 * 2}
    # of phi-3.5 the output matrix has biases, of nllb every matrix: 8,192 and 2,048 rows
    phi, nllb = load_geometry("phi-3.5-moe"), load_geometry("nllb-moe-54b")
    assert output_bytes(phi, "bf16") == 2 * 32064 * (4096 + 1)
    assert set(expert_bytes(nllb, "bf16")) == {2 * (2 * 8192 * 2048 + 8192 + 2048)}


def test_gemma_reads_what_its_attention_has() -> None:
    gemma = load_geometry("gemma-4-26b-a4b")
    assert [gemma.attention_params(layer) for layer in (4, 5)] == [
        2816 * (4096 + 2 * 2048) + 4096 * 2816,
        2816 * (8192 + 1024) + 8192 * 2816,
    ]
    local, full = dense_bytes(gemma, "bf16")[[4, 5]]
    assert full - local == 2 * (14_417_920 + 2 * 256)  # norms of queries and keys are twice as wide
    # a Q4_K_M file has 41 MB more than if all layers were alike and had two norms
    alike = replace(gemma, global_attention=None, norms=2)
    assert (dense_bytes(gemma, "q4_k_m") - dense_bytes(alike, "q4_k_m")).sum() / 1e6 == pytest.approx(41, abs=1)
