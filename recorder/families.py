"""Model families that need more than the general rule of `sites`: adapters, corrections, and what is refused.

Each entry says what is special in one line; docs/recorder.md lists them for users.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lrcsim.base.errors import ConfigError

REFUSED = {
    "diffusion_gemma": "it fills a canvas by diffusion; its passes are neither prefill nor decode of a token stream",
    "diffusion_gemma_text": "it is a part of diffusion_gemma, which does not run a token stream",
    "dots3_note_vision_encoder": "it reads images, not tokens",
    "qwen3_omni_moe_talker_text": "it speaks: it runs on another model's states, not on text",
    "vitpose": "it reads images, and the data set chooses its expert, not a router",
    "vitpose_backbone": "it reads images, and the data set chooses its expert, not a router",
}
"""Model types that cannot be recorded, and why; the same list stands in docs/recorder.md."""

ALONE = {
    "doge": "its router mixes the tokens of a batch",
    "nllb-moe": "its experts have a capacity that the whole batch shares",
    "deepseek_v4": "padding changes its compressed attention",
}
"""Model types whose routing depends on what else is in the batch: they are recorded one request at a time."""

NOTICES = {
    "nllb-moe": "transformers 5.23 and 5.24 run only experts 0 and 1 of this model, whatever the router says (its "
    "experts module takes a mask for ids); while it is recorded it is given the ids, so that the chosen experts run",
    "doge": "a full pass and token-by-token generation route differently in this model, by its own construction",
    "llama4_text": "transformers computes every expert on every token, all but the chosen ones on zeros; recorded are "
    "the chosen ones",
}
"""What a user should know of a recording of these model types."""

TEXT_PART = {"llama4": "language_model", "qwen3_omni_moe": "thinker"}
"""Model types of which only this part is run: the whole cannot run on text alone (Llama 4 in transformers 5.24 fails
without an image), or is several models."""

SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts", "num_shared_expert")
SHARED_WIDTH = ("shared_expert_intermediate_size", "shared_intermediate_size", "share_expert_dim")


@dataclass(frozen=True)
class Adapter:
    """How to read a block whose experts module is not given ids and weights (one of `expert_modules.BLOCKS`).

    Attributes:
        router: gives the module whose output is read.
        read: for a block, gives the function from that output to ids and weights, [tokens, k].
        logits: turns the router's output into scores [tokens, E].
    """

    router: Callable[[Any], Any]
    read: Callable[[Any], Callable[[Any], tuple[Any, Any]]]
    logits: Callable[[Any], Any]


def _llama4(block: Any) -> Callable[[Any], tuple[Any, Any]]:
    def read(output: Any) -> tuple[Any, Any]:
        scores, _ = output  # [tokens, E], 0 for all but the top-k
        best = scores.topk(block.top_k, dim=-1)
        return best.indices, best.values

    return read


def _jetmoe(block: Any) -> Callable[[Any], tuple[Any, Any]]:
    def read(output: Any) -> tuple[Any, Any]:
        order, _, gates, sizes, _ = output  # positions in [tokens * k], by expert; their gates; tokens per expert
        k = block.router.top_k
        counts = order.new_tensor(sizes)
        experts = order.new_empty(order.shape)
        experts[order] = counts.new_tensor(range(len(sizes))).repeat_interleave(counts)
        weights = gates.new_empty(gates.shape)
        weights[order] = gates
        return experts.view(-1, k), weights.view(-1, k)

    return read


def _switch(_block: Any) -> Callable[[Any], tuple[Any, Any]]:
    def read(output: Any) -> tuple[Any, Any]:
        mask, weights, _ = output  # one-hot [batch, tokens, E], all 0 where the expert's capacity was exceeded
        ran, expert = mask.reshape(-1, mask.shape[-1]).max(dim=-1, keepdim=True)
        return expert.masked_fill(ran == 0, -1), weights.reshape(-1, 1)

    return read


def _nllb(_block: Any) -> Callable[[Any], tuple[Any, Any]]:
    def read(output: Any) -> tuple[Any, Any]:
        _, combine, _ = output  # [tokens, E]: weights of the top-2, 0 elsewhere and where capacity was exceeded
        best = combine.topk(2, dim=-1)
        return best.indices.masked_fill(best.values == 0, -1), best.values

    return read


def _doge(block: Any) -> Callable[[Any], tuple[Any, Any]]:
    """Product keys: an expert is a pair of keys, its score the sum of theirs (as DogeCDMoE.forward computes them)."""

    def read(output: Any) -> tuple[Any, Any]:
        scores = _doge_scores(output)
        best = scores.topk(block.top_k, dim=-1)
        weights = best.values.softmax(dim=-1)
        if block.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return best.indices, weights

    return read


def _doge_scores(output: Any) -> Any:
    """Scores [tokens, keys * keys] of all pairs, from the block's output (hidden states, [2, tokens, keys])."""
    first, second = output[1]
    return (first[:, :, None] + second[:, None, :]).flatten(1)


def _flat(scores: Any) -> Any:
    return scores.reshape(-1, scores.shape[-1])


def _router(block: Any) -> Any:
    return block.router


ADAPTERS = {
    "Llama4TextMoe": Adapter(_router, _llama4, lambda output: _flat(output[1])),
    "JetMoeMoE": Adapter(_router, _jetmoe, lambda output: _flat(output[4])),
    "JetMoeMoA": Adapter(_router, _jetmoe, lambda output: _flat(output[4])),
    "SwitchTransformersSparseMLP": Adapter(_router, _switch, lambda out: _flat(out[2])),
    "NllbMoeSparseMLP": Adapter(_router, _nllb, lambda output: _flat(output[2])),
    "DogeCDMoE": Adapter(lambda block: block, _doge, _doge_scores),
}
"""By the class name of the block."""


@contextmanager
def mended(model: Any) -> Iterator[None]:
    """Give NLLB-MoE's experts modules the ids and weights, [tokens, 2], that they read but are not given.

    transformers 5.23 and 5.24 hand them the mask of the first choice and the weights of both, [tokens, E] each, and the
    mask's zeros and ones are read as ids. Where the second argument is not as wide as E nothing is changed.
    """

    def ids_for_mask(experts: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        hidden, mask, combine = args
        if mask.shape[-1] != experts.num_experts:
            return None
        best = combine.topk(2, dim=-1)
        return hidden, best.indices, best.values

    modules = [module for module in model.modules() if type(module).__name__ == "NllbMoeExperts"]
    handles = [module.register_forward_pre_hook(ids_for_mask) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def corrected(experts: Any) -> Callable[[Any, Any], Any] | None:
    """Return a function (ids, weights) -> ids that marks choices which no expert computes with -1, if there are any.

    Zaya's extra class "skip" arrives as id 0 with weight 0; LongCat's ids from ``num_routed_experts`` on are identities
    without weights.
    """
    name = type(experts).__name__
    if name == "ZayaExperts":
        return lambda ids, weights: ids.masked_fill(weights == 0, -1)
    if name == "LongcatFlashExperts":
        routed = int(experts.num_routed_experts)
        return lambda ids, _weights: ids.masked_fill(ids >= routed, -1)
    return None


def first_logits(num_experts: int) -> Callable[[Any], Any]:
    """Return the function that takes the scores [tokens, E] from a router's output: its first wide tensor.

    Routers score classes beyond E where a class has no weights (Zaya, LongCat); those are left out.
    """

    def logits(output: Any) -> Any:
        for part in output if isinstance(output, tuple) else (output,):
            if part.is_floating_point() and part.shape[-1] >= num_experts:
                return _flat(part)[:, :num_experts]
        raise ConfigError("--logits: the model's router does not give the scores of all experts, leave the option out")

    return logits


def shared(config: Any) -> int:
    """Return the number of shared experts of a MoE layer that the config tells of."""
    text = config.get_text_config()
    for key in SHARED:
        value = getattr(text, key, None)
        if isinstance(value, list) and value:
            value = value[0]
        if isinstance(value, int):
            return value
    return int(any(getattr(text, key, None) for key in SHARED_WIDTH) or text.model_type == "llama4_text")


def text_part(model: Any) -> Any:
    """Return the part of a model that runs on text, mostly all of it, with the whole's settings of generation."""
    name = TEXT_PART.get(model.config.model_type)
    part = model if name is None else getattr(model, name, model)
    if part is not model:
        part.generation_config = model.generation_config
    return part


def refuse(config: Any) -> None:
    """Raise for a model that is known not to be recordable.

    Raises:
        ConfigError: with the reason.
    """
    for kind in (config.model_type, getattr(config.get_text_config(), "model_type", None)):
        if kind in REFUSED:
            raise ConfigError(f"models of type {kind!r} cannot be recorded: {REFUSED[kind]}")
