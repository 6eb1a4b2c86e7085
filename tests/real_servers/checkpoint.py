"""The model that real servers run in the tests: a tiny random ERNIE 4.5 MoE whose first layer is dense."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from transformers import Ernie4_5_MoeConfig, Ernie4_5_MoeForCausalLM

sys.path.append(str(Path(__file__).parents[1] / "recorder"))

import tiny

LAYERS, EXPERTS, TOP_K = 4, 16, 4
NAME = "tiny-ernie"
LONGEST = 512

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def save_checkpoint(folder: Path, experts: int = EXPERTS) -> None:
    """Save the model in float32, the same at each call, and a tokenizer with a chat template.

    The router's correction bias is 0: vLLM 0.32 leaves it out on a CPU where scores are a softmax without groups
    (``vllm/model_executor/layers/fused_moe/router/cpu_router.py``), and so runs other experts than transformers.

    Args:
        folder: is made if it is not there.
        experts: per layer; above 256 their ids need more than a byte.
    """
    config = Ernie4_5_MoeConfig(
        vocab_size=258, hidden_size=64, intermediate_size=64, num_hidden_layers=LAYERS, num_attention_heads=2,
        num_key_value_heads=1, head_dim=32, max_position_embeddings=LONGEST, moe_intermediate_size=16,
        moe_num_experts=experts, moe_k=TOP_K, moe_num_shared_experts=1, moe_layer_start_index=1,
        moe_layer_end_index=LAYERS - 1, moe_layer_interval=1, pad_token_id=256, bos_token_id=None, eos_token_id=257,
        tie_word_embeddings=False,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    model = Ernie4_5_MoeForCausalLM(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(std=parameter.shape[-1] ** -0.5, generator=generator)
            if "correction_bias" in name:
                parameter.zero_()
        model.lm_head.weight[256:] = 0  # hardly ever sampled
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tiny.save_tokenizer(folder, TEMPLATE)
