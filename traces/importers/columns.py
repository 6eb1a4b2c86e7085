"""Which columns of a table are what: by name, by rank, by what the user says; and what is no trace at all."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from lrcsim.base.errors import ConfigError, TraceError, did_you_mean
from lrcsim.traces.importers.names import ALIASES, NUMBERED, STEMS, TURNS, families, is_count, plain

EXAMPLE = (
    "one row per expert (request,phase,token,layer,rank,expert,weight), per token and layer with a list or a column "
    "per rank (token,layer,expert_0,expert_1), or a row per request with nested lists; see docs/importing.md"
)

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


def find_columns(present: Sequence[str], mapping: Mapping[str, str], depths: Mapping[str, int] | None = None) -> Layout:
    """Say which columns of a table are what.

    Args:
        present: the file's column names.
        mapping: what the user said, ours = theirs (a name, a range of names ``e0-e7``, or ``none``).
        depths: for columns of nested lists, how deep they are; where the experts' are two deep or more, the layer
            or the token need no column.

    Raises:
        TraceError: a column is missing, stands twice, or is no column of a trace.
    """
    depths = depths or {}
    if not any(depth > 1 for depth in depths.values()):
        _refuse_counts(present, mapping)
    layout = Layout({})
    groups = families(present)
    lowered: dict[str, str] = {}
    for name in present:
        lowered.setdefault(plain(name), name)
    said = {ours: theirs for ours, theirs in mapping.items() if theirs.lower() != "none"}
    for ours, theirs in said.items():
        _said(layout, ours, theirs, present, groups)
    taken = {*layout.names.values(), *(name for names in layout.ranked.values() for name in names)}
    for ours, known in ALIASES.items():
        if ours in mapping:
            continue
        found = [lowered[name] for name in known if name in lowered and lowered[name] not in taken]
        by_rank = _family(ours, groups, found, taken)
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
            raise TraceError(f"has {present.count(theirs)} columns named {theirs!r}; names must differ")
    doubled = sorted(name for name, times in Counter(map(plain, present)).items() if times > 1)
    if doubled and any(plain(theirs) in doubled for theirs in layout.names.values()):
        raise TraceError(f"has several columns named {doubled[0]!r} (but for case or signs); rename all but one")
    deep = max((depths.get(layout.names.get(ours, ""), 0) for ours in ("expert", "logits")), default=0)
    _complete(layout, present, deep)
    layout.notices += _left_out(layout, present)
    return layout


def _said(layout: Layout, ours: str, theirs: str, present: Sequence[str], groups: Mapping[str, list[str]]) -> None:
    """Take what the user said of one column."""
    low, dash, high = theirs.rpartition("-")
    if theirs not in present and dash and low in present and high in present:
        first, last = present.index(low), present.index(high)
        if first > last or ours not in STEMS:
            raise TraceError(
                f"{ours}={theirs} must name the first and the last of the columns by rank, for expert, weight or logits"
            )
        layout.ranked[ours] = list(present[first : last + 1])
        return
    if theirs not in present:
        raise TraceError(f"has no column {theirs!r}, it has {', '.join(present)[:300]}" + did_you_mean(theirs, present))
    if ours in ("expert", "weight"):
        group = next((names for names in groups.values() if theirs in names), None)
        if group is not None:
            raise TraceError(
                f"{theirs!r} is one of {len(group)} columns {group[0]} to {group[-1]}, one per rank; say "
                f"{ours}={group[0]}-{group[-1]} to read all of them, or {ours}={theirs}-{theirs} for this one alone"
            )
    layout.names[ours] = theirs


def _family(ours: str, groups: Mapping[str, list[str]], found: list[str], taken: Collection[str]) -> list[str]:
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
            f"both {names[0]}... and {matching[1][1][0]}... may be the experts by rank; say which with "
            f"--columns expert={names[0]}-{names[-1]}"
        )
    if numbers != list(range(numbers[0], numbers[0] + len(numbers))) or numbers[0] > 1:
        raise TraceError(
            f"the columns {', '.join(names)[:120]} must be numbered from 0 or 1 without a gap; "
            f"say which are meant with --columns {ours}=FIRST-LAST"
        )
    if found and ours == "expert":
        raise TraceError(
            f"both {found[0]!r} and {names[0]!r} to {names[-1]!r} may be the experts; say which with "
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


def _refuse_counts(present: Sequence[str], mapping: Mapping[str, str]) -> None:
    """Refuse tables of how often each expert was used."""
    for ours in ("token", "request", "layer", "rank", "expert"):
        theirs = mapping.get(ours, "")
        if theirs in present and is_count(theirs) and plain(theirs) not in ALIASES[ours]:
            raise TraceError(
                f"{theirs!r} holds counts, which are no {ours} number: a table of counts is not a trace; "
                "record the routing of every token"
            )
    names = {plain(name) for name in present}
    has_token = "token" in mapping or any(name in names for name in ALIASES["token"])
    counts = [name for name in present if is_count(name) and plain(name) not in sum(ALIASES.values(), ())]
    has_expert = any(name in names for name in ALIASES["expert"]) or "expert" in mapping
    if counts and not has_token and (has_expert or len(names) <= 3):
        raise TraceError(
            f"holds counts ({counts[0]!r}), not a trace: it says how often each expert was used, not which "
            "token used it when; record the routing of every token"
        )


CONFIG = {"model_type", "num_hidden_layers"}
"""Keys that every ``config.json`` of a model in transformers has, and no trace."""


def _complete(layout: Layout, present: Sequence[str], deep: int) -> None:
    """Refuse a table that lacks what a trace needs, naming everything that is missing at once."""
    has = {*layout.names, *layout.ranked}
    missing = [ours for ours in ("token", "layer", "expert") if ours not in has]
    if "expert" in missing and "logits" in has:
        missing.remove("expert")
    if deep > 1 and "expert" not in missing:
        return  # the lists have an axis of layers, of tokens, or both
    if missing == ["token"]:
        return  # tokens may follow from the runs of rows of a layer
    if missing and set(present) >= CONFIG:
        raise TraceError("is a model's config, not a trace: `lrcsim models FILE` shows what it says of the model")
    if missing:
        wanted = "; ".join(
            f"no column is named like {ours!r} ({', '.join(ALIASES[ours][:6])}, ...)" for ours in missing
        )
        say = ",".join(f"{ours}=NAME" for ours in missing)
        raise TraceError(
            f"{wanted}; it has {', '.join(present)[:200]}; say which with --columns {say}; a trace is {EXAMPLE}"
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
