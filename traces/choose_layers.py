"""Which MoE layers are meant: ``0-11``, ``0,2,4``, a pattern of module names, or a kind of layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from lrcsim.base.errors import ConfigError, did_you_mean

ATTENTION = re.compile(r"attn|attention", re.IGNORECASE)
"""What the module names of experts inside attention have in one of their parts."""

KINDS = ("all", "ffn", "attention")
"""Words that ``--layers`` takes: every layer, experts of feed-forward networks, experts inside attention."""

SHOWN = 3
"""Module names that a message has."""


def choose_layers(wanted: str, count: int, names: Sequence[str] | None) -> list[int]:
    """Return the MoE layers that a text means, in their own order, each once.

    Args:
        wanted: parts with commas between, all of which are taken: a number or a range of numbers (``0-11``), counted
            from 0 over the MoE layers; a pattern of module names with ``*`` (``*.mlp.*``); or one of `KINDS`.
        count: L, MoE layers there are.
        names: the module behind each layer, or None when they are not known.

    Raises:
        ConfigError: a part means no layer, or names are needed and not known.
    """
    chosen: set[int] = set()
    for part in wanted.split(","):
        found = _meant(part.strip(), count, names)
        if not found:
            raise ConfigError(f"--layers {part.strip()!r}: none of the {count} MoE layers is meant{_there(names)}")
        chosen.update(found)
    return sorted(chosen)


def _meant(part: str, count: int, names: Sequence[str] | None) -> list[int]:
    numbers = re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part)
    if numbers:
        low, high = int(numbers[1]), int(numbers[2] or numbers[1])
        if low > high or high >= count:
            raise ConfigError(
                f"--layers {part!r}: the MoE layers are 0-{count - 1}, counted from 0, the lower one first"
            )
        return list(range(low, high + 1))
    if part == "all":
        return list(range(count))
    if part not in KINDS and "*" not in part and "." not in part:
        raise ConfigError(
            f"--layers {part!r} is not known, use numbers (0-11 or 0,2,4), a pattern of module names ('*.mlp.*'), "
            f"or {', '.join(KINDS)}{did_you_mean(part, KINDS)}"
        )
    if names is None:
        raise ConfigError(f"--layers {part!r}: the trace does not name the modules of its layers; give numbers (0-11)")
    if part in KINDS:
        return [at for at, name in enumerate(names) if bool(ATTENTION.search(name)) == (part == "attention")]
    return [at for at, name in enumerate(names) if fnmatchcase(name, part)]


def _there(names: Sequence[str] | None) -> str:
    if not names:
        return ""
    more = ", ..." if len(names) > SHOWN else ""
    return f"; they are {', '.join(names[:SHOWN])}{more}"
