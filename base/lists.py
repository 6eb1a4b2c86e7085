"""Lists in one text: values with commas between, where a value may have commas of its own.

``lru,s3-fifo:share=0.2,threshold=1,lfu`` are three policies, ``load,cpu,admit:2,payback`` two miss actions: whether
what follows a comma goes on with the value before it, the option's `Grammar` says. With a semicolon in it a text is a
list with semicolons between, and every comma belongs to a value: ``8,8,16;2x``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from lrcsim.base.errors import ConfigError

NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE)
NAMED = re.compile(r"[a-z_]\w*\s*=", re.IGNORECASE)


class Grammar(NamedTuple):
    """Which commas belong to a value; by default none does.

    Attributes:
        parameters: values are plug-ins with parameters behind a colon, ``window:2,12``, ``mine.py:X:a=1,b=2``: there
            numbers and ``a=1`` go on.
        words: what goes on behind a name, alone or with a value: ``{"cpu": ("admit",)}`` for ``cpu,admit:2``.
        exceptions: values are dtypes, ``q4_k,0-3=q8_0``: what has an equals sign goes on.
        counts: whole numbers go on with whole numbers, ``2,0,3``.
    """

    parameters: bool = False
    words: Mapping[str, Sequence[str]] = {}
    exceptions: bool = False
    counts: bool = False

    def goes_on(self, before: str, part: str) -> bool:
        """Return whether what follows a comma goes on with the value before it."""
        if self.parameters and ":" in before and (NUMBER.fullmatch(part) or NAMED.match(part)):
            return True
        if re.split("[:=]", part)[0].strip().lower() in self.words.get(re.split("[,:]", before)[0].strip().lower(), ()):
            return True
        if self.exceptions and "=" in part:
            return True
        return self.counts and part.isdecimal() and before.replace(",", "").isdecimal()


def split_values(text: str, grammar: Grammar) -> list[str]:
    """Take a list apart; blanks around values, and what is empty, are left out.

    >>> split_values("none,window:1,4,prior:0.1", Grammar(parameters=True))
    ['none', 'window:1,4', 'prior:0.1']
    >>> split_values("8,8,16;2x", Grammar())
    ['8,8,16', '2x']
    """
    if ";" in text:
        return [value for part in text.split(";") if (value := part.strip())]
    found: list[str] = []
    for part in filter(None, map(str.strip, text.split(","))):
        if found and grammar.goes_on(found[-1], part):
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def join_values(values: Sequence[str], grammar: Grammar) -> str:
    """Write values as the list that `split_values` takes apart into them: with commas where it can be.

    Raises:
        ConfigError: one is empty, has blanks around it or a semicolon in it, so that no list can hold it.
    """
    wanted = list(values)
    for text in (",".join(wanted), ";".join(wanted), ";".join(wanted) + ";"):
        if split_values(text, grammar) == wanted:
            return text
    raise ConfigError(f"{wanted!r} cannot be one list: values may not be empty, nor have semicolons or blanks around")
