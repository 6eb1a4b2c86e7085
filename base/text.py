r"""Text for people: numbers with their units; nothing in a file can steer a terminal or a table's markup.

Names of models, layers, domains and policies, keys of headers and messages of errors come out of files. Control
characters (escape sequences among them), marks that turn the reading direction, and halves of characters are shown as
``\x1b``, ``\u202e``; square brackets stay what they are.
"""

from __future__ import annotations

import math
import unicodedata
from typing import Any

HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
"""Categories of characters that are not seen, or steer what is."""

JOINERS = "\u200c\u200d\u00ad"
"""Of these the ones that ordinary words are written with."""

BRACKET, SLASH = "\ue0ff", "\ue0fe"
"""Stand for ``[`` and a backslash out of a file until they are printed; out of a file they are shown escaped."""


def printable(text: str, keep: str = "") -> str:
    """Return a text with everything that is not simply seen written as an escape.

    Args:
        text: any.
        keep: control characters to leave, line ends say.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(character if _seen(character, keep) else escaped(character) for character in text)


def _seen(character: str, keep: str) -> bool:
    return character in keep or character in JOINERS or unicodedata.category(character) not in HIDDEN


def escaped(character: str) -> str:
    """Return an escape for a character, in ASCII."""
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def quoted(value: Any) -> Any:
    """Return JSON values for a display: every text in them as it is, whatever stands in it, on one line."""
    if isinstance(value, str):
        own = value.replace(BRACKET, escaped(BRACKET)).replace(SLASH, escaped(SLASH))
        return printable(own).replace("[", BRACKET).replace("\\", SLASH)
    if isinstance(value, dict):
        return {quoted(key): quoted(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [quoted(one) for one in value]
    return value


def plain(text: str) -> str:
    """Return what is to be printed of a text that `quoted` gave."""
    return text.replace(BRACKET, "[").replace(SLASH, "\\")


def percent(rate: float | None, digits: int = 1) -> str:
    """Write a rate as people read it: ``74.9 %``, or a dash when it is not known."""
    return "–" if rate is None else f"{100 * rate:.{digits}f} %"


def capacity_text(config: dict[str, Any]) -> str:
    """Return what a cache size came to, from the ``config`` of a run."""
    sizes = config["capacity"]
    low, high = min(sizes), max(sizes)
    if config["capacity_unit"] == "bytes":
        if config["scope"] == "model":
            return f"{human_bytes(sizes[0])} in one pool"
        return f"{human_bytes(low)}{'' if low == high else f' to {human_bytes(high)}'} per layer"
    if config["scope"] == "model":
        return f"{sizes[0]:,} experts in one pool"
    return f"{low:,} experts per layer" if low == high else f"{low:,} to {high:,} experts per layer"


def human_bytes(amount: float | None) -> str:
    """Write bytes in binary units: ``155.8 MiB``, or a dash when they are not known."""
    if amount is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:,.0f} B" if unit == "B" else f"{amount:,.1f} {unit}"
        amount /= 1024
    return f"{amount:,.1f} TiB"


def short_dtype(dtype: str) -> str:
    """Write a dtype, with the number of its overrides in their place where they are many."""
    base, *overrides = dtype.split(",")
    return dtype if len(dtype) <= 48 else f"{base} with {len(overrides)} exceptions"


def seconds(amount: float) -> str:
    """Write seconds with a unit that suits them."""
    if amount >= 1:
        return f"{amount:,.2f} s"
    return f"{amount * 1e3:,.2f} ms" if amount >= 1e-3 else f"{amount * 1e6:,.1f} us"


def number(value: float) -> float | None:
    """Return a number for JSON: None for NaN."""
    return None if math.isnan(value) else value


def numbers(array: Any) -> Any:
    """Return nested lists for JSON, with None for NaN."""
    return [numbers(part) for part in array] if getattr(array, "ndim", 0) else number(array.item())


def score(value: float | None) -> str:
    """Write a score between 0 and 1 as people read it: ``0.514``, or a dash when there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.3f}"


def span(interval: tuple[float, float] | None) -> str:
    """Write an interval, which may reach below 0: ``-0.008 to 0.019``, or a dash when there is none."""
    return "–" if interval is None or math.isnan(interval[0]) else f"{interval[0]:.3f} to {interval[1]:.3f}"


def cell_text(column: str, value: Any) -> str:
    """Write a value for people, as `lrcsim compare` does, so that a column lines up.

    Rates and shares of a gap in percent, bytes and seconds with a unit, speeds and milliseconds with two decimals,
    other numbers with four digits.
    """
    if value is None or isinstance(value, str):
        return value or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if column.endswith(("hit_rate", "gap_closed")):
        return percent(value)
    if "bytes" in column:
        return human_bytes(value)
    if column.endswith("_per_s") or "_ms_" in column:
        return f"{value:,.2f}"
    if column.endswith("_s"):
        return seconds(value)
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
