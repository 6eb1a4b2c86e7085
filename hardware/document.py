"""A profile's TOML document: which keys there are, how each is read, and what is said when one is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.base.units import EXAMPLES, Dimension, format_quantity, parse_quantity
from lrcsim.hardware.profile import Cpu, Dram, Gpu, HardwareProfile, Link

__all__ = ["PARTS", "SCHEMA", "Entry", "Flat", "build", "flatten", "numbers", "suggest_key"]

Kind = Dimension | Literal["count", "flag", "text"]
_LINK: dict[str, Kind] = {
    "bandwidth": "bytes/s",
    "latency": "seconds",
    "overhead": "seconds",
    "lanes": "count",
    "chunk": "bytes",
}
PARTS: dict[str, dict[str, Kind]] = {
    "gpu": {"memory": "bytes", "bandwidth": "bytes/s", "compute": "FLOP/s", "overhead": "seconds"},
    "cpu": {"compute": "FLOP/s", "bandwidth": "bytes/s", "overhead": "seconds", "cores": "count"},
    "dram": {"memory": "bytes", "bandwidth": "bytes/s"},
    "pcie": _LINK,
    "nvme": _LINK,
}
TOP: dict[str, Kind] = {
    "description": "text",
    "unified": "flag",
    "kv_shared": "flag",
    "layer_overhead": "seconds",
    "expert_overhead": "seconds",
}
SCHEMA: dict[str, Kind] = TOP | {f"{part}.{key}": kind for part, keys in PARTS.items() for key, kind in keys.items()}
OPTIONAL = {"description", "unified", "kv_shared", "pcie.chunk", "nvme.chunk"}
POSITIVE = {"bandwidth", "compute", "memory", "chunk"}  # the rest may be 0
NONE = "none"  # takes a part or a chunk size away


class Entry(NamedTuple):
    """A value as it was written, and where it is from."""

    value: object
    source: str


Flat = dict[str, Entry]  # by path: "gpu.bandwidth"


def suggest_key(key: str) -> str:
    """Return what to say after an unknown key: the closest one, or all of its part."""
    part, _, name = key.partition(".")
    if part not in PARTS:
        return did_you_mean(key, [*SCHEMA, *PARTS]) or f"; there are {', '.join([*TOP, *PARTS])}"
    hint = did_you_mean(name, PARTS[part])
    return hint.replace("'", f"'{part}.", 1) or f"; {part} has {', '.join(PARTS[part])}"


def flatten(table: Mapping[str, Any], where: str) -> Flat:
    """Turn a TOML table into entries by path; a value is plain or ``{ value = ..., source = "..." }``.

    Raises:
        ConfigError: an unknown key, or something that is no value.
    """
    flat: Flat = {}
    for key, value in table.items():
        if key in PARTS and isinstance(value, Mapping):
            flat |= {f"{key}.{name}": _entry(f"{key}.{name}", entry, where) for name, entry in value.items()}
        else:
            flat[key] = _entry(key, value, where)
    return flat


def _entry(path: str, value: object, where: str) -> Entry:
    if path not in SCHEMA:
        raise ConfigError(f"{where}: {path} is no key of a profile{suggest_key(path)}")
    if not isinstance(value, Mapping):
        return Entry(value, "")
    if set(value) - {"value", "source"} or "value" not in value:
        raise ConfigError(f'{where}: {path} is a table: write {{ value = ..., source = "..." }} or the plain value')
    if not isinstance(value.get("source", ""), str):
        raise ConfigError(f"{where}: the source of {path} is {value['source']!r}: write text")
    return Entry(value["value"], value.get("source", ""))


def build(name: str, flat: Flat, where: str) -> HardwareProfile:
    """Read and check every entry.

    Raises:
        ConfigError: a number is missing, negative or has the wrong unit, or the parts do not fit together; the
            message starts with ``where`` and names the path.
    """
    present = {part for part in PARTS if any(path.startswith(f"{part}.") for path in flat)} | {"cpu", "dram"}
    values: dict[str, Any] = {}
    for path, kind in SCHEMA.items():
        part, _, key = path.rpartition(".")
        if part and part not in present:
            continue
        if path not in flat:
            if path not in OPTIONAL:
                raise ConfigError(f"{where}: {path} is missing: write {key} = {_example(kind)}")
            continue
        given = flat[path].value
        if path == "cpu.bandwidth" and isinstance(given, str) and given.strip().endswith("%"):
            continue  # a share of the DRAM's, below
        values[path] = _read(path, kind, given, where)
    if "cpu.bandwidth" not in values:
        values["cpu.bandwidth"] = _share(flat["cpu.bandwidth"].value, values["dram.bandwidth"], where)

    def part_of(kind: type[Any], part: str) -> Any:
        if part not in present:
            return None
        return kind(**{key: values[f"{part}.{key}"] for key in PARTS[part] if f"{part}.{key}" in values})

    profile = HardwareProfile(
        name=name,
        description=values.get("description", ""),
        gpu=part_of(Gpu, "gpu"),
        cpu=part_of(Cpu, "cpu"),
        dram=part_of(Dram, "dram"),
        pcie=part_of(Link, "pcie"),
        nvme=part_of(Link, "nvme"),
        unified=values.get("unified", False),
        kv_shared=values.get("kv_shared", False),
        layer_overhead=values["layer_overhead"],
        expert_overhead=values["expert_overhead"],
        sources={path: entry.source for path, entry in flat.items() if entry.source},
    )
    _check_parts(profile, where)
    return profile


def numbers(profile: HardwareProfile) -> Iterator[tuple[str, str, str]]:
    """Yield the path of each number that a profile has, the number as it is written, and its source."""
    for path, kind in SCHEMA.items():
        part, _, key = path.rpartition(".")
        owner: Any = getattr(profile, part) if part else profile
        value = None if owner is None else getattr(owner, key)
        if kind == "text" or kind == "flag" or value is None:
            continue
        text = str(value) if kind == "count" else format_quantity(value, kind)
        yield path, text, profile.sources.get(path, "")


def _check_parts(profile: HardwareProfile, where: str) -> None:
    if profile.gpu is None and profile.pcie is not None:
        raise ConfigError(f"{where}: pcie is given, but there is no gpu that it could lead to: leave it out")
    if profile.gpu is None and profile.unified:
        raise ConfigError(f"{where}: unified is true, but there is no gpu that could share the DRAM: leave it out")
    if profile.gpu is not None and profile.unified and profile.pcie is not None:
        raise ConfigError(f"{where}: unified memory has no pcie link: leave out one of the two (pcie = {NONE!r})")
    if profile.gpu is not None and not profile.unified and profile.pcie is None:
        raise ConfigError(f'{where}: pcie is missing: write pcie = "pcie4-x16", a table, or unified = true')


def _example(kind: Kind) -> str:
    if kind == "count":
        return "4"
    return "true" if kind == "flag" else '"..."' if kind == "text" else f'"{EXAMPLES[kind].split(" or ")[0]}"'


def _share(given: object, of: float, where: str) -> float:
    text = str(given).strip().removesuffix("%")
    try:
        percent = float(text)
    except ValueError:
        percent = -1.0
    if not 0 < percent <= 100:
        raise ConfigError(f"{where}: cpu.bandwidth: {given!r} is no share of dram.bandwidth: above 0 %, at most 100 %")
    return of * percent / 100


def _read(path: str, kind: Kind, given: object, where: str) -> Any:
    if path.endswith(".chunk") and given == NONE:
        return None
    if kind == "flag":
        words = {"true": True, "false": False}
        if isinstance(given, bool):
            return given
        if str(given).lower() in words:
            return words[str(given).lower()]
        raise ConfigError(f"{where}: {path}: {given!r} is neither true nor false")
    if kind == "text":
        if not isinstance(given, str):
            raise ConfigError(f"{where}: {path}: {given!r} is no text")
        return given
    if kind == "count":
        text = str(given).strip()
        if isinstance(given, bool | float) or not re.fullmatch("0*[1-9][0-9]{0,8}", text):
            raise ConfigError(f"{where}: {path}: {given!r} is no whole number of at least 1")
        return int(text)
    try:
        value = parse_quantity(given, kind)
    except ConfigError as error:
        raise ConfigError(f"{where}: {path}: {error}") from None
    value = int(value) if kind == "bytes" else value
    if value == 0 and path.rpartition(".")[2] in POSITIVE:
        raise ConfigError(f"{where}: {path}: {given!r} must be above 0")
    return value
