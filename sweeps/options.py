"""What a sweep can vary: the trace, every option of a run (`Options`), single values of a hardware profile."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.hardware.document import PARTS, SCHEMA, key_of, suggest_key
from lrcsim.simulator.setup.options import Declared, Kind, declared
from lrcsim.traces.trace import BUNDLED


@cache
def options() -> dict[str, Declared]:
    """Return what a run in a sweep can be told, by name, in the order of the table's columns."""
    trace = Declared("trace", next(iter(BUNDLED)), "The trace.", "TRACE", "cache", None, "", "text", several=False)
    known = {name: option for name, option in declared().items() if name != "overrides"}  # values of a profile are keys
    return {"trace": trace} | known


def hardware_key(name: str) -> bool:
    """Whether a name is a single value of a hardware profile (``pcie.bandwidth``) or a part of one (``nvme``).

    A value of a link of any name may be one: whether the machine has that link, its profile says.
    """
    return name not in options() and (name in PARTS or key_of(name) is not None)


def unknown_key(name: str, where: str) -> ConfigError:
    """Return the error for a name that is neither an option nor a value of a profile, with the closest that is."""
    if name.partition(".")[0] in PARTS and "." in name:
        return ConfigError(f"{where}: {name} is no key of a hardware profile{suggest_key(name)}")
    close = did_you_mean(name, [*options(), *SCHEMA, *PARTS])
    known = close or f"; there are {', '.join(options())}, and values of a hardware profile such as pcie.bandwidth"
    return ConfigError(f"{where}: {name!r} is nothing that a sweep can set{known}")


def read_value(name: str, value: object, where: str) -> Any:
    """Return a value from a spec as `simulate` takes it, None where it is to be left out.

    Raises:
        ConfigError: it is of another type than the option.
    """
    if value == "default" or (name == "hardware" and value == "none"):
        return None
    kind: Kind = "text" if hardware_key(name) else options()[name].kind
    plain = not isinstance(value, bool)
    if kind == "flag" and not isinstance(value, bool):
        raise ConfigError(f"{where}: {name} is true or false, given {value!r}")
    if kind == "count" and not (isinstance(value, int) and plain):
        raise ConfigError(f"{where}: {name} is a whole number, given {value!r}")
    if kind == "count" and not -(2**63) <= int(value) < 2**63:  # type: ignore[call-overload]  # an int
        raise ConfigError(f"{where}: {name} is a whole number of 64 bits, given one that is larger")
    if kind == "number":
        if not (isinstance(value, int | float) and plain):
            raise ConfigError(f"{where}: {name} is a number, given {value!r}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ConfigError(f"{where}: {name} is a finite number, given {number}")
        return number
    if kind == "text":
        if isinstance(value, Mapping) or not isinstance(value, str | int | float | list | bool):
            raise ConfigError(f"{where}: {name} is text, given {value!r}")
        if isinstance(value, list) and (hardware_key(name) or not (options()[name].several or name == "cache")):
            raise ConfigError(f"{where}: {name} is one value, given a list: only under [grid] are lists several runs")
        if isinstance(value, list) and not all(isinstance(one, str | int | float) for one in _flat(name, value)):
            raise ConfigError(f"{where}: {name} is a list of numbers, given {value!r}")
        if "\0" in str(value):
            raise ConfigError(f"{where}: {name} has a character in it that no name has, given {value!r}")
        if name == "cache" and isinstance(value, list):
            return ",".join(str(entry) for entry in value)
        return value if isinstance(value, str | list) else as_text(value)
    return value


def _flat(name: str, value: list[Any]) -> list[Any]:
    """Return the entries of a list; the counts in ``speculative = [3, [2, 0, 3]]`` are entries too."""
    if name == "speculative" and len(value) == 2 and isinstance(value[1], list):
        return [value[0], *value[1]]
    return value


def as_text(value: Any) -> str:
    """Write a value as it stands in a column of text."""
    if isinstance(value, str):
        return value
    return json.dumps(value)
