"""Which columns of a table are what: names in use, columns by rank, positions, and what is no trace at all."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lrcsim.errors import ConfigError, TraceError, did_you_mean

__all__ = ["ALIASES", "COUNTS", "EXAMPLE", "Layout", "find_columns", "is_count", "parse_columns"]


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
        *("routed_expert", "active_expert", "activated_expert", "topk_expert"),
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

EXAMPLE = (
    "one row per expert (request,phase,token,layer,rank,expert,weight), per token and layer with a list or a column "
    "per rank (token,layer,expert_0,expert_1), or a row per request with nested lists; see docs/importing.md"
)

NUMBERED = re.compile(r"(?P<stem>[a-z][a-z_]*?)_?(?P<number>\d+)\]?(?P<tail>_[a-z_]+)?")
POSITIONS_BESIDE = frozenset(
    ("position", "pos", "token_idx", "token_index", "token_pos", "token_position", "tok_pos", "seq_pos")
)


@dataclass
class Layout:
    """The columns of a table by what they mean.

    Attributes:
        names: the file's name of each of our columns that stands in one column.
        ranked: for ``expert``, ``weight`` or ``logits``: the file's columns, one per rank (logits: per expert).
        beside: further columns that tell requests apart, together with ``names["request"]``.
        notices: what the user should know of columns that were left out.
    """

    names: dict[str, str]
    ranked: dict[str, list[str]] = field(default_factory=dict)
    beside: list[str] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


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


def find_columns(
    path: Path, present: Sequence[str], mapping: Mapping[str, str], depths: Mapping[str, int] | None = None
) -> Layout:
    """Say which columns of a table are what.

    Args:
        path: the file, for messages.
        present: the file's column names.
        mapping: what the user said, ours = theirs (a name, a range of names ``e0-e7``, or ``none``).
        depths: for columns of nested lists, how deep they are; where the experts' are two deep or more, the layer
            or the token need no column.

    Raises:
        TraceError: a column is missing, stands twice, or is no column of a trace.
    """
    depths = depths or {}
    if not any(depth > 1 for depth in depths.values()):
        _refuse_counts(path, present, mapping)
    layout = Layout({})
    groups = families(present)
    lowered: dict[str, str] = {}
    for name in present:
        lowered.setdefault(plain(name), name)
    said = {ours: theirs for ours, theirs in mapping.items() if theirs.lower() != "none"}
    for ours, theirs in said.items():
        _said(path, layout, ours, theirs, present, groups)
    taken = {*layout.names.values(), *(name for names in layout.ranked.values() for name in names)}
    for ours, known in ALIASES.items():
        if ours in mapping:
            continue
        found = [lowered[name] for name in known if name in lowered and lowered[name] not in taken]
        by_rank = _family(path, ours, groups, found, taken)
        if by_rank:
            layout.ranked[ours] = by_rank
        elif found:
            layout.names[ours] = found[0]
    _prefer_positions(layout, lowered, mapping)
    if layout.names.get("token_id") == "token_ids" and "prompt_token_ids" in present and "token_id" not in mapping:
        del layout.names["token_id"]
        layout.notices.append(
            "token ids left out: beside 'prompt_token_ids', 'token_ids' may be the generated ones alone"
        )
    _join_turns(layout, lowered, mapping)
    for theirs in layout.names.values():
        if present.count(theirs) > 1:
            raise TraceError(f"{path}: has {present.count(theirs)} columns named {theirs!r}; names must differ")
    doubled = sorted({plain(n) for n in present if sum(plain(n) == plain(other) for other in present) > 1})
    if doubled and any(plain(theirs) in doubled for theirs in layout.names.values()):
        raise TraceError(
            f"{path}: has several columns named {doubled[0]!r} (but for case or signs); rename all but one"
        )
    deep = max((depths.get(layout.names.get(ours, ""), 0) for ours in ("expert", "logits")), default=0)
    _complete(path, layout, present, deep)
    layout.notices += _left_out(layout, present)
    return layout


def _said(
    path: Path, layout: Layout, ours: str, theirs: str, present: Sequence[str], groups: Mapping[str, list[str]]
) -> None:
    """Take what the user said of one column."""
    low, dash, high = theirs.rpartition("-")
    if theirs not in present and dash and low in present and high in present:
        first, last = present.index(low), present.index(high)
        if first > last or ours not in STEMS:
            raise TraceError(
                f"{path}: {ours}={theirs} must name the first and the last of the columns by rank, for expert, "
                "weight or logits"
            )
        layout.ranked[ours] = list(present[first : last + 1])
        return
    if theirs not in present:
        raise TraceError(
            f"{path}: has no column {theirs!r}, it has {', '.join(present)[:300]}" + did_you_mean(theirs, present)
        )
    if ours in ("expert", "weight"):
        group = next((names for names in groups.values() if theirs in names), None)
        if group is not None:
            raise TraceError(
                f"{path}: {theirs!r} is one of {len(group)} columns {group[0]} to {group[-1]}, one per rank; say "
                f"{ours}={group[0]}-{group[-1]} to read all of them, or {ours}={theirs}-{theirs} for this one alone"
            )
    layout.names[ours] = theirs


def _family(
    path: Path, ours: str, groups: Mapping[str, list[str]], found: list[str], taken: Collection[str]
) -> list[str]:
    """Find the columns of one kind that come once per rank."""
    if ours not in STEMS:
        return []
    matching = [
        (stem, names)
        for stem, names in groups.items()
        if (
            stem in STEMS[ours]
            or (ours == "expert" and re.fullmatch(r"(top|rank|slot|choice)_expert(_idx|_id)?", stem))
        )
        and not set(names) & set(taken)
    ]
    if not matching:
        return []
    _, names = matching[0]
    numbers = [int(re.search(r"\d+", plain(name))[0]) for name in names]  # type: ignore[index]
    if len(matching) > 1 and ours == "expert":
        raise TraceError(
            f"{path}: both {names[0]}... and {matching[1][1][0]}... may be the experts by rank; say which with "
            f"--columns expert={names[0]}-{names[-1]}"
        )
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))) or numbers[0] > 1:
        raise TraceError(
            f"{path}: the columns {', '.join(names)[:120]} must be numbered from 0 or 1 without a gap; "
            f"say which are meant with --columns {ours}=FIRST-LAST"
        )
    if found and ours == "expert":
        raise TraceError(
            f"{path}: both {found[0]!r} and {names[0]!r} to {names[-1]!r} may be the experts; say which with "
            f"--columns expert={found[0]} or --columns expert={names[0]}-{names[-1]}"
        )
    return names


def _prefer_positions(layout: Layout, lowered: Mapping[str, str], mapping: Mapping[str, str]) -> None:
    """Beside a position, a column ``token`` holds the token itself (its id or text), not its number."""
    theirs = layout.names.get("token")
    beside = next((lowered[name] for name in ALIASES["token"] if name in POSITIONS_BESIDE and name in lowered), None)
    if "token" not in mapping and theirs is not None and plain(theirs) == "token" and beside is not None:
        layout.names["token"] = beside
        layout.notices.append(
            f"tokens are numbered by {beside!r}; {theirs!r} is taken for the token itself and left out "
            f"(the other way round: --columns token={theirs})"
        )


def _join_turns(layout: Layout, lowered: Mapping[str, str], mapping: Mapping[str, str]) -> None:
    """Where conversations have turns, a request is a turn of a conversation."""
    theirs = layout.names.get("request")
    if theirs is None or "request" in mapping:
        return
    others = [lowered[name] for name in ALIASES["request"] if name in lowered and lowered[name] != theirs]
    turns = [name for name in (theirs, *others) if plain(name) in TURNS]
    whole = [name for name in (theirs, *others) if plain(name) not in TURNS]
    if turns and whole:
        layout.names["request"], layout.beside = whole[0], turns[:1]
        layout.notices.append(f"a request is a {turns[0]!r} of a {whole[0]!r}")


def _refuse_counts(path: Path, present: Sequence[str], mapping: Mapping[str, str]) -> None:
    """Refuse tables of how often each expert was used."""
    for ours in ("token", "request", "layer", "rank", "expert"):
        theirs = mapping.get(ours, "")
        if theirs in present and is_count(theirs) and plain(theirs) not in ALIASES[ours]:
            raise TraceError(
                f"{path}: {theirs!r} holds counts, which are no {ours} number: a table of counts is not a trace; "
                "record the routing of every token"
            )
    names = {plain(name) for name in present}
    has_token = "token" in mapping or any(name in names for name in ALIASES["token"])
    counts = [name for name in present if is_count(name) and plain(name) not in sum(ALIASES.values(), ())]
    has_expert = any(name in names for name in ALIASES["expert"]) or "expert" in mapping
    if counts and not has_token and (has_expert or len(names) <= 3):
        raise TraceError(
            f"{path}: holds counts ({counts[0]!r}), not a trace: it says how often each expert was used, not which "
            "token used it when; record the routing of every token"
        )


def _complete(path: Path, layout: Layout, present: Sequence[str], deep: int) -> None:
    """Refuse a table that lacks what a trace needs, naming everything that is missing at once."""
    has = {*layout.names, *layout.ranked}
    missing = [ours for ours in ("token", "layer", "expert") if ours not in has]
    if "expert" in missing and "logits" in has:
        missing.remove("expert")
    if deep > 1 and "expert" not in missing:
        return  # the lists have an axis of layers, of tokens, or both
    if missing == ["token"]:
        return  # tokens may follow from the runs of rows of a layer
    if missing:
        wanted = "; ".join(
            f"no column is named like {ours!r} ({', '.join(ALIASES[ours][:6])}, ...)" for ours in missing
        )
        say = ",".join(f"{ours}=NAME" for ours in missing)
        raise TraceError(
            f"{path}: {wanted}; it has {', '.join(present)[:200]}; say which with --columns {say}; a trace is {EXAMPLE}"
        )


def _left_out(layout: Layout, present: Sequence[str]) -> list[str]:
    """Name columns that look like experts, weights or phases and are not used."""
    used = {*layout.names.values(), *layout.beside, *(name for names in layout.ranked.values() for name in names)}
    looks = []
    for name in present:
        match = NUMBERED.fullmatch(plain(name))
        stem = plain(name) if match is None else match["stem"].strip("_") + (match["tail"] or "")
        for ours in ("request", "expert", "weight", "logits", "phase"):
            if name not in used and (stem in ALIASES[ours] or stem in STEMS.get(ours, ())):
                looks.append(name)
                break
    if not looks:
        return []
    return [f"columns left out: {', '.join(dict.fromkeys(looks))[:200]}; choose others with --columns OURS=NAME"]


def parse_columns(text: str) -> dict[str, str]:
    """Parse ``request=turn,token=step`` into the file's name of each column.

    Besides a name, THEIRS may be a range of columns (``expert=e0-e7``), a position counted from 1 in files without
    names (``layer=2``, ``expert=3-10``), or ``none`` to leave a column out.

    Raises:
        ConfigError: an entry is not of the form ours=theirs, or names an unknown column.
    """
    mapping: dict[str, str] = {}
    for entry in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(\w+)\s*=\s*(.+)", entry)
        if match is None:
            raise ConfigError(f"columns entry {entry!r} must be of the form OURS=THEIRS, for example request=turn")
        if match[1] not in ALIASES:
            raise ConfigError(
                f"column {match[1]!r} is not known, use {', '.join(ALIASES)}{did_you_mean(match[1], ALIASES)}"
            )
        if match[1] in mapping:
            raise ConfigError(f"column {match[1]!r} is given twice in --columns")
        mapping[match[1]] = match[2]
    return mapping
