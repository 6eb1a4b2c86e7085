"""Lists of values of one option in one text, ``--policy lru,mine.py:X:a=1,b=2``: one grammar for all who take them."""

from __future__ import annotations

from collections.abc import Sequence

from lrcsim.base.errors import ConfigError
from lrcsim.base.lists import Grammar, join_values, split_values
from lrcsim.simulator.setup.miss_actions import ACTIONS

PLUGINS = Grammar(parameters=True)

GRAMMARS = {
    "policy": PLUGINS,
    "policies": PLUGINS,
    "dram_policy": PLUGINS,
    "prefetch": PLUGINS,
    "route": PLUGINS,
    "miss": Grammar(
        parameters=True,
        words={name: tuple(param.name for param in one.params) for name, one in ACTIONS.items() if one.behind_commas},
    ),
    "dtype": Grammar(exceptions=True),
    "acceptance": Grammar(counts=True),
}
"""By option; the values of the others have no commas of their own."""


def grammar_of(option: str) -> Grammar:
    """Return how lists of values of an option are written."""
    return GRAMMARS.get(option, Grammar())


def split_list(option: str, text: str) -> list[str]:
    """Take a list of values of an option apart, each once.

    Raises:
        ConfigError: there is no value in it.

    >>> split_list("miss", "load,cpu,cpu,admit:2,payback,split,load")
    ['load', 'cpu', 'cpu,admit:2,payback', 'split']
    """
    found = list(dict.fromkeys(split_values(text, grammar_of(option))))
    if not found:
        raise ConfigError(f"--{option.replace('_', '-')} {text!r} is an empty list: give values with commas between")
    return found


def join_list(option: str, values: Sequence[str]) -> str:
    """Write values of an option as one list, which `split_list` takes apart.

    Raises:
        ConfigError: a value cannot stand in a list.
    """
    return join_values(values, grammar_of(option))
