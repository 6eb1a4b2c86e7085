"""In which format a quantised checkpoint has which modules, and the values of a config that say so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrcsim.models.formats import find_format
from lrcsim.models.modules import Patterns, Unreadable

Rule = tuple[Patterns, str | None]


@dataclass(frozen=True)
class Scheme:
    """In which format which modules are.

    Attributes:
        method: its name, as the config has it.
        default: format of the matrices of attention, experts and dense blocks; None: as they were.
        rules: modules with a format of their own (None: as they were); the first that matches counts.
        everything: whether output matrix, embedding and routers have the default too.
        experts_only: whether only routed experts have the default.
        divisor: rows whose length is no multiple of this stay as they were.
    """

    method: str
    default: str | None
    rules: tuple[Rule, ...] = ()
    everything: bool = False
    experts_only: bool = False
    divisor: int = 1

    def choose(self, tensor: str, names: tuple[str, ...], length: int) -> str | None:
        """Return the format of a tensor whose modules have these names, None: as it was."""
        for patterns, name in self.rules:
            if patterns.match(names):
                return None if name is None or length % self.divisor else name
        outer = tensor in ("output", "token_embd", "ffn_gate_inp")
        if (outer and not self.everything) or (self.experts_only and not tensor.endswith("_exps")):
            return None
        return None if length % self.divisor else self.default


class Values:
    """A quantisation config's keys, with an error that says which value cannot be."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def number(self, *keys: str, default: int | None = None, least: int = 1, most: int = 65_536) -> int:
        """Return a whole number under the first of the keys that is there."""
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise Unreadable(f"{key} is {str(value)[:40]!r}, which must be a whole number of {least} to {most}")
            return value
        if default is None:
            raise Unreadable(f"{keys[0]} is missing")
        return default

    def group(self, *keys: str, default: int) -> int:
        """Return the size of a group; -1 for a whole row."""
        for key in keys:
            if self.values.get(key) in (-1, 0) and not isinstance(self.values[key], bool):
                return -1
        return self.number(*keys, default=default)

    def bits(self, *keys: str, default: int | None = None) -> int:
        """Return a whole number of bits."""
        return self.number(*keys, default=default, least=1, most=16)

    def text(self, *keys: str, default: str = "") -> str:
        """Return a text in lower case."""
        for key in keys:
            value = self.values.get(key)
            if value is not None:
                if not isinstance(value, str):
                    raise Unreadable(f"{key} is {str(value)[:40]!r}, which must be text")
                return value.lower()
        return default

    def flag(self, key: str, default: bool = False) -> bool:
        """Return a truth value."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise Unreadable(f"{key} is {str(value)[:40]!r}, which must be true or false")
        return value

    def part(self, key: str) -> Mapping[str, Any]:
        """Return a table; empty when there is none."""
        value = self.values.get(key)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise Unreadable(f"{key} is {str(value)[:40]!r}, which must be a table")
        return value

    def names(self, *keys: str) -> list[object]:
        """Return the lists of modules under all of the keys together."""
        found: list[object] = []
        for key in keys:
            value = self.values.get(key)
            if isinstance(value, str):
                value = [value]
            if value is None or value is False:
                continue
            if not isinstance(value, list | tuple):
                raise Unreadable(f"{key} is {str(value)[:40]!r}, which must be a list of modules")
            found += value
        return found

    def kept(self, *keys: str) -> tuple[Rule, ...]:
        """Return the rule for modules that stay as they were."""
        names = self.names("modules_to_not_convert", "ignore", "ignored_layers", *keys)
        return ((Patterns(names), None),) if names else ()


def table_of(value: object) -> Values:
    """Return the values of a part of a config, which must be a table."""
    if not isinstance(value, Mapping):
        raise Unreadable(f"{str(value)[:40]!r} stands where a table should")
    return Values(value)


def real(value: object, key: str) -> float:
    """Return a number of bits, of 0.5 to 16."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.5 <= value <= 16:
        raise Unreadable(f"{key} is {str(value)[:40]!r}, which must be a number of 0.5 to 16")
    return float(value)


def counts(value: object) -> bool:
    """Whether it is a whole number of 1 to 65,536."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65_536


def per_weight(bits: float) -> str:
    """Return the name of the format of so many bits a weight, all included."""
    return f"{round(bits, 4):g}bpw"


def checked(name: str) -> str:
    """Return the name of a format that there is."""
    if find_format(name) is None:
        raise Unreadable(f"{name} is no format of weights")
    return name


def unknown(key: str, value: object) -> Any:
    """Raise for a value that is not known, in place of what it stands for: nothing is returned."""
    raise Unreadable(f"{key} is {str(value)[:40]!r}, which is not known")
