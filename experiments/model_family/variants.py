"""The variants of the family and the scales at which they are trained.

The ten variants are those of the toy study of arXiv 2505.16056 (by the keys of its code), with the two "slim" ones that
it trained and did not plot. A variant keeps the paper's proportions at every scale: experts half as wide as
the hidden size, and dense layers either as large as all 64 experts together or (slim) as the 8 active ones.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from lrcsim.base.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from transformers import Ernie4_5_MoeConfig


@dataclass(frozen=True)
class Variant:
    """One architecture or training objective.

    Attributes:
        name: the paper's key.
        figure_name: what the paper's figures call it.
        experts: routed experts per MoE layer.
        top_k: routed experts per token.
        shared: shared experts, each as wide as a routed one.
        widening: width of an expert, in expert widths of the scale.
        dense: which layers have a dense feed-forward instead of experts.
        dense_widening: width of that feed-forward, in expert widths of the scale.
        balance: weight of the load-balancing loss.
        z_loss: weight of the router's z loss.
    """

    name: str
    figure_name: str
    experts: int = 64
    top_k: int = 8
    shared: int = 0
    widening: int = 1
    dense: Literal["none", "first", "alternate"] = "none"
    dense_widening: int = 64
    balance: float = 1e-2
    z_loss: float = 1e-3


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("baseline", "Baseline"),
        Variant("32expert", "FewerExp", experts=32, top_k=4, widening=2),
        Variant("top16", "ActMore", top_k=16),
        Variant("top2", "ActFewer", top_k=2),
        Variant("share1", "1ShrExp", experts=63, top_k=7, shared=1),
        Variant("share2", "2ShrExp", experts=62, top_k=6, shared=2),
        Variant("skip1", "DenseFst", dense="first"),
        Variant("sparse2", "DenseHlf", dense="alternate"),
        Variant("nolb", "NoLB", balance=0.0),
        Variant("overlb", "OverLB", balance=1e-1),
        Variant("skip1slim", "DenseFst, slim", dense="first", dense_widening=8),
        Variant("sparse2slim", "DenseHlf, slim", dense="alternate", dense_widening=8),
    )
}


BASELINE = "baseline"
"""What the others are compared with."""


@dataclass(frozen=True)
class Scale:
    """Sizes shared by all variants, and the length of training.

    Attributes:
        hidden: hidden size; an expert is half as wide.
        layers: transformer blocks.
        heads: attention heads, with half as many key-value heads.
        vocabulary: tokens of the tokenizer.
        sequence: tokens of a training sequence, and positions of the model.
        per_domain: sequences of each domain in a batch.
        steps: optimiser steps.
        learning_rate: at the top of its schedule.
        dtype: of the forward and backward pass, and of the recording; weights are kept in float32 beside.
    """

    hidden: int
    layers: int
    heads: int
    vocabulary: int
    sequence: int
    per_domain: int
    steps: int
    learning_rate: float
    dtype: Literal["fp32", "bf16"]


SCALES = {
    "test": Scale(16, 2, 2, 512, 32, 1, 4, 2e-3, "fp32"),
    "cpu": Scale(96, 8, 4, 4096, 512, 1, 750, 3e-3, "fp32"),
    "gpu": Scale(256, 8, 8, 4096, 512, 16, 600, 2e-3, "bf16"),
}


def config_of(variant: Variant, scale: Scale) -> Ernie4_5_MoeConfig:
    """Make the configuration of transformers' ERNIE 4.5 MoE: one architecture that has all the variants.

    Its router is that of the paper's toy models (softmax, top-k, the chosen weights made to sum to 1); unlike them it
    does not normalise queries and keys.
    """
    from transformers import Ernie4_5_MoeConfig

    width = scale.hidden // 2
    return Ernie4_5_MoeConfig(
        architectures=["Ernie4_5_MoeForCausalLM"],
        vocab_size=scale.vocabulary,
        hidden_size=scale.hidden,
        intermediate_size=variant.dense_widening * width,
        num_hidden_layers=scale.layers,
        num_attention_heads=scale.heads,
        num_key_value_heads=scale.heads // 2,
        max_position_embeddings=scale.sequence,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=False,
        moe_intermediate_size=variant.widening * width,
        moe_k=variant.top_k,
        moe_num_experts=variant.experts,
        moe_num_shared_experts=variant.shared,
        moe_layer_start_index=1 if variant.dense == "first" else 0,
        moe_layer_interval=2 if variant.dense == "alternate" else 1,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
    )


def resolve(name: str, steps: int | None = None) -> Scale:
    """Look a scale up by its name, with another number of steps if given.

    Raises:
        ConfigError: there is no such scale.
    """
    if name not in SCALES:
        raise ConfigError(f"scale {name!r} is not known, use {', '.join(SCALES)}{did_you_mean(name, SCALES)}")
    return SCALES[name] if steps is None else replace(SCALES[name], steps=steps)
