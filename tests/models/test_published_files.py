"""Bytes of whole GGUF files against those that their publishers list.

A file has a header besides its tensors, with the tokenizer: the same for all files of a model by one publisher. Sizes
are those of the hub's pages as of 2026, found in public repositories that pin files by them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from lrcsim.models import dense_bytes, expert_bytes, load_geometry, output_bytes
from lrcsim.models.quantisation import tensor_bytes
from lrcsim.models.tensors import Tensor

GIB = 2**30


def tensors_of(model: str, dtype: str) -> int:
    """Bytes of all tensors of a file: layers, the last norm, output matrix and embedding (one matrix where tied)."""
    geometry = load_geometry(model)
    layers = geometry.experts * int(expert_bytes(geometry, dtype).sum()) + int(dense_bytes(geometry, dtype).sum())
    embedding = tensor_bytes(geometry, Tensor("token_embd", -1, geometry.vocab, geometry.hidden), dtype)
    return layers + 4 * geometry.hidden + embedding + (0 if geometry.tied else output_bytes(geometry, dtype))


QWEN3 = {
    # unsloth/Qwen3-30B-A3B-GGUF at d5b1d57
    "iq4_nl": 17_310_782_016,
    "q2_k": 11_258_610_240,
    "q3_k_m": 14_711_847_488,
    "q3_k_s": 13_292_468_800,
    "q4_1": 19_192_500_800,
    "q4_k_m": 18_556_686_912,
    "q4_k_s": 17_456_009_792,
    "q5_k_m": 21_725_581_888,
    "q5_k_s": 21_080_511_040,
    "q6_k": 25_092_532_800,
    "q8_0": 32_483_932_736,
}
HEADER = 5_970_496


@pytest.mark.parametrize("dtype", QWEN3)
def test_files_of_one_model_are_exact_to_the_byte(dtype: str) -> None:
    """Eleven file types leave one and the same number over: that of the header."""
    assert QWEN3[dtype] - tensors_of("qwen3-30b-a3b", dtype) == HEADER


def test_where_this_publisher_departs_from_the_usual_recipe() -> None:
    # its IQ4_XS has the embedding in Q4_K: a quarter of a bit more in each of 151,936 x 2,048 weights
    assert 16_378_073_664 - HEADER - tensors_of("qwen3-30b-a3b", "iq4_xs") == 151_936 * 2_048 // 32
    assert tensors_of("qwen3-30b-a3b", "iq4_xs,token_embd=q4_k") + HEADER == 16_378_073_664
    # its Q4_0, made with an importance matrix, has the down projections of the first 6 of 48 layers in Q4_1
    assert tensors_of("qwen3-30b-a3b", "q4_0,0-5:ffn_down_exps=q4_1") + HEADER == 17_379_988_032


@pytest.mark.parametrize(
    ("larger", "usual", "more"),
    [
        # bartowski/Meta-Llama-3.1-8B-Instruct-GGUF at bf5b95e: its files, and those of the usual type beside them
        ("q3_k_xl", "q3_k_l", 4_781_630_880 - 4_321_961_376),
        ("q4_k_l", "q4_k_m", 5_310_637_472 - 4_920_739_232),
        ("q5_k_l", "q5_k_m", 6_057_223_584 - 5_732_992_416),
        ("q6_k_l", "q6_k", 6_850_471_328 - 6_596_011_424),
    ],
)
def test_files_with_a_larger_embedding(larger: str, usual: str, more: int) -> None:
    """That model has no experts; its embedding and its output matrix have 128,256 x 4,096 weights each."""
    geometry = replace(load_geometry("qwen3-30b-a3b"), vocab=128_256, hidden=4_096)
    two = [Tensor(name, -1, geometry.vocab, geometry.hidden) for name in ("output", "token_embd")]
    sizes = [sum(tensor_bytes(geometry, tensor, dtype) for tensor in two) for dtype in (larger, usual)]
    assert sizes[0] - sizes[1] == more
    assert expert_bytes(geometry, larger).tolist() == expert_bytes(geometry, usual).tolist()


# Model, dtype, bytes of the file, and how far the count of tensors is from it in percent: headers are 0.02 to 0.2 % of
# a file; beyond that the publisher chose other formats than llama.cpp does.
OTHERS = [
    ("deepseek-v2-lite", "q4_k_m", 10_364_416_768, -0.04),  # mradermacher/DeepSeek-V2-Lite-Chat-GGUF
    ("glm-4.7-flash", "q4_k_m", 18_132_721_120, -0.12),  # lmstudio-community/GLM-4.7-Flash-GGUF
    ("olmoe-1b-7b", "q4_k_m", 3.92 * GIB, 0.06),  # allenai/OLMoE-1B-7B-0924-Instruct-GGUF
    ("gpt-oss-120b", "q4_k_m", 62_768_723_552, -0.02),  # unsloth/gpt-oss-120b-GGUF
    ("gpt-oss-20b", "mxfp4_moe", 12_109_566_624, -0.11),  # ggml-org/gpt-oss-20b-GGUF
    ("ernie-4.5-21b-a3b", "q4_k_m", 13_331_015_456, -0.66),  # unsloth/ERNIE-4.5-21B-A3B-PT-GGUF
    ("lfm2-8b-a1b", "q4_k_m", 5_044_779_712, -0.05),  # LiquidAI/LFM2-8B-A1B-GGUF
    ("granite-4.0-h-small", "q4_k_m", 19_476_621_984, -0.05),  # ibm-granite/granite-4.0-h-small-GGUF
    ("gemma-4-26b-a4b", "q4_k_m", 17_035_038_112, -1.50),  # bartowski/google_gemma-4-26B-A4B-it-GGUF
    ("qwen3.6-35b-a3b", "q4_k_m", 22_285_080_192, -5.36),  # bartowski/Qwen_Qwen3.6-35B-A3B-GGUF
    # Unsloth's dynamic files, counted as the nearest file type
    ("qwen3-30b-a3b", "ud-q2_k_xl", 11_814_277_696, -4.76),
    ("qwen3-30b-a3b", "ud-q3_k_xl", 13_833_048_640, 6.31),
    ("qwen3-30b-a3b", "ud-q4_k_xl", 17_715_663_424, 4.71),
    ("qwen3-30b-a3b", "ud-q5_k_xl", 21_740_302_912, -0.10),
    ("qwen3-30b-a3b", "ud-q6_k_xl", 26_340_325_952, -4.76),
    ("gemma-4-26b-a4b", "ud-q4_k_xl", 17_010_980_576, -1.36),
    ("qwen3-coder-next", "ud-q4_k_xl", 49_608_478_720, -2.43),
    ("qwen3.6-35b-a3b", "ud-q4_k_xl", 22.4e9, -5.8),
    ("qwen3-235b-a22b", "ud-q4_k_xl", 134e9, 6.1),
    ("deepseek-r1", "ud-q2_k_xl", 212e9, 15.1),
]


@pytest.mark.parametrize(("model", "dtype", "size", "percent"), OTHERS)
def test_files_of_other_models_and_publishers(model: str, dtype: str, size: float, percent: float) -> None:
    assert 100 * (tensors_of(model, dtype) / size - 1) == pytest.approx(percent, abs=0.06)
