"""What `lrcsim compare` recommends, in sentences."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from lrcsim.base.text import human_bytes, percent, seconds

if TYPE_CHECKING:
    from lrcsim.sweeps.compare import Comparison


MENTIONED = 2
"""Runs named one by one, of those that are not recommended or failed for one reason."""


HEADINGS = {"speculative": "draft"}
"""What options are called in the table and in sentences, where that is not their name."""


def choice_text(name: str, value: Any) -> str:
    """Write what a run was told of an option: ``none`` for nothing, ``3 at 0.7`` for drafts and their acceptance."""
    if value is None:
        return "none"
    if name == "speculative":
        count, accepted = json.loads(value)
        return f"{count} at {accepted}".replace(" ", " ")
    return f"{value}"


def named_run(row: dict[str, Any], names: list[str]) -> str:
    """Name a run by its choices, ``lfu with prefetch next-gate and miss split``; none and load go without saying."""
    from lrcsim.sweeps.compare import PLAIN

    said = [name for name in names if name not in ("policy", "cache") and row[name] not in (None, PLAIN.get(name))]
    return str(row["policy"]) + (f" with {' and '.join(told(row, name) for name in said)}" if said else "")


def told(row: dict[str, Any], name: str) -> str:
    """Name what a run was told of an option, ``batch 4``."""
    return f"{HEADINGS.get(name, name.replace('_', ' '))} {choice_text(name, row[name])}"


def _few(names: list[str]) -> str:
    """List some names, and how many more there are."""
    more = len(names) - MENTIONED
    return ", ".join(names[:MENTIONED]) + (f" and {more:,} more" if more > 0 else "")


def _amount(row: dict[str, Any], by: str) -> str:
    if by == "hit_rate":
        return f"{percent(row[by])} hits"
    return f"{row[by]:,.2f} tokens/s" if by == "decode_tokens_per_s" else seconds(row[by])


def recommendation(found: Comparison, varying: list[str]) -> list[str]:
    """Return the sentences that say what to take, first of the best cache size, and why.

    Args:
        found: the runs.
        varying: the choices of which there are several.
    """
    from lrcsim.sweeps.compare import CHOICES, CLOSE, PLAIN

    by, names = found.by, [name for name in varying if name in PLAIN]
    where = [name for name in varying if name not in CHOICES]
    if not found.recommended:
        first = found.rows[0]
        return [
            f"Nothing here can be had: {named_run(first, names)} and all others know the future or change the model."
        ]
    lines = []
    for number, one in enumerate(found.recommended):
        best, plain = one.best, one.plain
        size = ", ".join(told(best, name) for name in ("cache", *where)) + "," * bool(where and number)
        head = f"Take {named_run(best, names)} at {size}" if number == 0 else f"At {size} {named_run(best, names)}"
        text = f"{head}: {_amount(best, by)}"
        if plain is not None:
            text += _more(best, plain, by, names)
        text += _of_optimum(best)
        others = [named_run(row, names) for row in one.close if row is not plain]
        if others:
            text += f"; within {100 * CLOSE:.0f} % of it: {', '.join(others)}"
        lines.append(f"{text}.")
        reasons: dict[str, list[str]] = {}
        for place, why in one.barred.items():
            reasons.setdefault(why, []).append(
                f"{named_run(found.rows[place], names)} ({_amount(found.rows[place], by)})"
            )
        lines += [f"  Better, but no advice, as it {why}: {_few(rows)}." for why, rows in reasons.items()]
    return lines


def _of_optimum(best: dict[str, Any]) -> str:
    """Say how far a run is from the optimum."""
    text = ""
    if best["gap_closed"] is not None and best["policy"] != "lru":
        verb = "closes" if best["gap_closed"] >= 0 else "falls below LRU by"
        text = f"; it {verb} {percent(abs(best['gap_closed']))} of the gap in hits between LRU and the optimum"
    if best["of_optimum"] is not None:
        text += f"; that is {percent(best['of_optimum'])} of the optimal policy's speed with perfect prefetch"
    return text


def _more(best: dict[str, Any], plain: dict[str, Any], by: str, names: list[str]) -> str:
    """Say how much better a run is than the plain one, and what it loads less."""
    against = f"against {_amount(plain, by)} of {named_run(plain, names)}"
    if by != "hit_rate" and plain[by]:
        ratio = best[by] / plain[by] if by == "decode_tokens_per_s" else plain[by] / best[by]
        against = f"{100 * (ratio - 1):.1f} % faster than {named_run(plain, names)} ({_amount(plain, by)})"
    name = "decode_bytes_per_token" if best["decode_bytes_per_token"] is not None else "bytes_loaded"
    if None in (best[name], plain[name]) or best[name] == plain[name]:
        return f", {against}"
    of = " for each token" if name == "decode_bytes_per_token" else ""
    why = "as it waits for" if best[name] < plain[name] else "though it loads"
    behind = best.get("admitted_issued_bytes")
    besides = f"; {human_bytes(behind)} in all are uploaded meanwhile" if behind else ""
    return f", {against}, {why} {human_bytes(best[name])}{of} instead of {human_bytes(plain[name])}{besides}"


def failures(found: Comparison, varying: list[str]) -> dict[str, str]:
    """Return the runs that failed, by what was wrong."""
    named: dict[str, list[str]] = {}
    for row in found.failed:
        size = f" at cache {row['cache']}" if "cache" in varying else ""
        named.setdefault(row["error"], []).append(named_run(row, varying) + size)
    return {error: _few(rows) for error, rows in named.items()}
