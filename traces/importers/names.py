"""Names of columns and arrays in use, one list for all formats; and names that say that a table is no trace."""

from __future__ import annotations

import re
from collections.abc import Sequence


def _counted(*stems: str) -> tuple[str, ...]:
    """Return the names of what is counted: ``layer_id``, ``layer_idx`` and so on."""
    return tuple(f"{stem}_{end}" for stem in stems for end in ("id", "idx", "index", "no", "num", "number"))


TURNS = ("turn", *_counted("turn"))

ALIASES: dict[str, tuple[str, ...]] = {
    "request": (
        *("request", *_counted("request"), "req", *_counted("req"), *TURNS, "seq", *_counted("seq")),
        *("sequence", *_counted("sequence"), "sample", *_counted("sample"), "conversation"),
        *(*_counted("conversation"), "conv", *_counted("conv"), "session", *_counted("session")),
        *_counted("chat", "dialog", "dialogue", "prompt"),
        *("trace", *_counted("trace"), "rid"),
        *_counted("doc", "document", "query", "question", "example", "instance"),
    ),
    "phase": (
        *("phase", "stage", "mode", "forward_mode", "forward_phase", "inference_phase", "token_phase", "phase_name"),
        *("is_prefill", "is_prompt", "is_prefill_phase", "is_prefill_token", "is_prompt_token", "prefill"),
        *("is_decode", "is_decoding", "is_decode_phase", "is_generated", "is_generation", "is_gen", "decode"),
    ),
    "token": (
        *("token", "step", "position", "pos", "token_idx", "token_index", "token_pos", "token_position"),
        *("token_no", "token_num", "token_number", "position_id", "position_idx", "position_index", "pos_id"),
        *("pos_idx", "tok", "tok_idx", "tok_pos", "seq_pos", "step_id", "step_idx", "step_index", "timestep"),
    ),
    "layer": (
        *("layer", *_counted("layer"), "layer_name", "block", *_counted("block"), "blk", "il"),
        *("moe_layer", *_counted("moe_layer"), "decoder_layer", *_counted("decoder_layer"), "module_name"),
    ),
    "rank": ("rank", "slot", "expert_rank", "topk_rank", "k_idx", "choice"),
    "expert": (
        *("expert", "expert_id", "expert_idx", "expert_index", "experts", "expert_ids", "expert_indices"),
        *("selected_experts", "selected_expert_ids", "topk_ids", "topk_experts", "topk_id", "topk_idx"),
        *("topk_indices", "topk_index", "top_k_indices", "top_k_ids", "top_k_experts", "top_experts", "topk"),
        *("routed_experts", "routed_expert_ids", "active_experts", "activated_experts", "chosen_experts"),
        *("indices", "expert_choices", "expert_no", "expert_number", "selected_expert", "chosen_expert"),
        *("routed_expert", "active_expert", "activated_expert", "topk_expert", "activated_expert_ids"),
    ),
    "weight": (
        *("weight", "weights", "router_weight", "router_weights", "topk_weights", "topk_weight", "gate", "gates"),
        *("gate_weight", "gate_weights", "prob", "probs", "probability", "probabilities", "score", "scores"),
        *("expert_weight", "expert_weights", "expert_score", "expert_scores", "expert_probs", "topk_scores"),
        *("topk_probs", "top_k_weights", "routing_weight", "routing_weights", "gating_weight", "gating_weights"),
        *("selected_probabilities", "selected_probs", "selected_weights", "gate_score", "gate_scores"),
    ),
    "logits": (
        *("logits", "router_logits", "router_logit", "gate_logits", "gating_logits", "gating_output"),
        *("router_scores", "router_probs", "router_probabilities", "gate_probs", "all_probs", "all_scores"),
    ),
    "residency": ("residency", "resident"),
    "expert_bytes": ("expert_bytes",),
    "domain": ("domain", "dataset", "task", "category", "topic"),
    "token_id": ("token_id", "tok_id", "token_ids", "input_id", "input_ids", "vocab_id"),
    "prompt_tokens": (
        *("prompt_tokens", "prompt_len", "prompt_length", "n_prompt", "num_prompt_tokens", "n_prompt_tokens"),
        *("num_prefill_tokens", "prefill_tokens", "prefill_len", "prefill_length", "input_len", "input_length"),
        *("prompt_lens", "prompt_lengths", "input_lens", "input_lengths", "prompt_token_ids"),
    ),
    "generated_tokens": (
        *("generated_tokens", "completion_tokens", "num_generated_tokens", "n_generated", "output_len"),
        *("output_length", "output_tokens", "num_output_tokens", "generated_len"),
        *("output_token_ids", "generated_token_ids", "completion_token_ids"),
    ),
    "cached_tokens": ("cached_tokens", "num_cached_tokens", "prefix_cached_tokens"),
}
"""For each column the names it goes by, in lower case; ``--columns ours=theirs`` adds to them."""

STEMS: dict[str, tuple[str, ...]] = {
    "expert": (*ALIASES["expert"], "e", "id", "ids", "top", "topk_expert", "top_expert", "selected_expert", "idx"),
    "weight": (*ALIASES["weight"], "w", "p", "topk_prob", "topk_score", "expert_prob", "topk_gate"),
    "logits": (*ALIASES["logits"], "logit"),
}
"""What columns that come once per rank (or, logits, once per expert) are called without their number."""

COUNTS = re.compile(
    r"(.*_)?(count|counts|freq|freqs|frequency|frequencies|hits|histogram|hist|usage|load|loads|total|totals|"
    r"num_tokens|n_tokens|n_hits|num_hits|tokens|selections|activations|times|occurrences|share|fraction|percent)"
)
"""Names of columns that hold how often something happened."""

NUMBERED = re.compile(r"(?P<stem>[a-z][a-z_]*?)_?(?P<number>\d+)\]?(?P<tail>_[a-z_]+)?")


def plain(name: str) -> str:
    """Return a column's name as the aliases have it: ``layer_id`` for ``layerId``, ``Layer ID`` and ``layer.id``."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return re.sub(r"[\s.\-\[\](){}/:?#]+", "_", apart.lower()).strip("_")


def is_count(name: str) -> bool:
    """Tell whether a column's name says that it holds counts, not what happened to one token."""
    return COUNTS.fullmatch(plain(name)) is not None


def families(present: Sequence[str]) -> dict[str, list[str]]:
    """Group columns that differ in a number only, in the order of the number; each has two or more.

    Returns:
        By the name without its number: the columns ``e0, e1`` under ``e``, ``top1_expert, top2_expert`` under
        ``top_expert``.
    """
    found: dict[str, dict[int, str]] = {}
    for name in present:
        match = NUMBERED.fullmatch(plain(name))
        if match is not None:
            found.setdefault(match["stem"].strip("_") + (match["tail"] or ""), {}).setdefault(
                int(match["number"]), name
            )
    return {
        stem: [members[number] for number in sorted(members)] for stem, members in found.items() if len(members) > 1
    }
