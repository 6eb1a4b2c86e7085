"""A profile's TOML document: how its keys become fields of `HardwareProfile`, and what is said when one is wrong.

Links stand there as tables of their usual names, ``[nvme]`` and ``[pcie]``; any other path as ``[[links]]``, one for
each link from storage to the device, with its name, and its numbers where no table, component or base has them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.base.units import EXAMPLES, format_quantity, parse_quantity
from lrcsim.hardware.profile import Cpu, Dram, Gpu, HardwareProfile, Key, Kind, Link, keys

LINKS = STORAGE, DEVICE = "nvme", "pcie"
"""The links that have tables and components of their names, from storage to the device."""
CLASSES: dict[str, type[Any]] = {"gpu": Gpu, "cpu": Cpu, "dram": Dram, DEVICE: Link, STORAGE: Link}
LINK = keys(Link)
PARTS = {part: keys(kind) for part, kind in CLASSES.items()}
TOP = keys(HardwareProfile)
NAME = re.compile("[a-z][a-z0-9_-]{0,30}")
RESERVED = {"gpu", "cpu", "dram", "host", "cache", "overhead", "links", *TOP}  # by parts, and by other tracks of a run
NONE = "none"  # takes a part, or one of these numbers of a link, away
MAY_LACK = ("chunk", "pageable")


class Entry(NamedTuple):
    """A value as it was written, and where it is from."""

    value: object
    source: str


Flat = dict[str, Entry]  # by path: "gpu.bandwidth"; and "links", the names that [[links]] gives


def schema(parts: Iterable[str]) -> dict[str, Key]:
    """Return every key of a document with these parts, by path; a part of another name is a link."""
    return TOP | {f"{part}.{name}": key for part in parts for name, key in PARTS.get(part, LINK).items()}


SCHEMA = schema(PARTS)
"""The keys of machines with the usual links."""


def key_of(path: str) -> Key | None:
    """Return what a document may say at a path, None where that is no key; a part of an unknown name is a link."""
    part, _, name = path.rpartition(".")
    return (PARTS.get(part, LINK) if part else TOP).get(name)


def suggest_key(key: str, links: Iterable[str] = ()) -> str:
    """Return what to say after an unknown key: the closest one, or all of its part.

    Args:
        key: its path.
        links: names of links besides the usual ones.
    """
    parts = PARTS | dict.fromkeys(links, LINK)
    part, _, name = key.partition(".")
    if part not in parts:
        return did_you_mean(key, [*schema(parts), *parts]) or f"; there are {', '.join([*TOP, *parts])}"
    hint = did_you_mean(name, parts[part])
    return hint.replace("'", f"'{part}.", 1) or f"; {part} has {', '.join(parts[part])}"


def flatten(table: Mapping[str, Any], where: str) -> Flat:
    """Turn a TOML table into entries by path; a value is plain or ``{ value = ..., source = "..." }``.

    Raises:
        ConfigError: an unknown key, or something that is no value.
    """
    flat: Flat = {}
    for key, value in table.items():
        if key == "links":
            flat |= _path(value, where)
        elif key in PARTS and isinstance(value, Mapping):
            flat |= _part(key, value, where)
        else:
            flat[key] = _entry(key, value, where)
    return flat


def _path(links: object, where: str) -> Flat:
    """Read ``[[links]]``."""
    flat: Flat = {}
    names: list[str] = []
    for link in links if isinstance(links, list) else [None]:
        if not isinstance(link, Mapping) or not isinstance(link.get("name"), str):
            raise ConfigError(
                f"{where}: links: write [[links]] for each link from storage to the device, with its name and numbers"
            )
        name = link["name"]
        if not NAME.fullmatch(name) or name in RESERVED:
            raise ConfigError(f"{where}: links: {name!r} is no name of a link: use small letters, as cxl or nvme2")
        if name in names:
            raise ConfigError(f"{where}: links: {name!r} stands twice: give each link a name of its own")
        names.append(name)
        flat |= _part(name, {key: value for key, value in link.items() if key != "name"}, where)
    return {"links": Entry(tuple(names), "")} | flat


def _part(part: str, table: Mapping[str, Any], where: str) -> Flat:
    return {f"{part}.{name}": _entry(f"{part}.{name}", value, where) for name, value in table.items()}


def _entry(path: str, value: object, where: str) -> Entry:
    part, dot, _ = path.partition(".")
    if key_of(path) is None:
        raise ConfigError(f"{where}: {path} is no key of a profile{suggest_key(path, [part] if dot else [])}")
    if not isinstance(value, Mapping):
        return Entry(value, "")
    if set(value) - {"value", "source"} or "value" not in value:
        raise ConfigError(f'{where}: {path} is a table: write {{ value = ..., source = "..." }} or the plain value')
    if not isinstance(value.get("source", ""), str):
        raise ConfigError(f"{where}: the source of {path} is {value['source']!r}: write text")
    return Entry(value["value"], value.get("source", ""))


def links_of(flat: Flat) -> list[str]:
    """Return the names of the links of a document, from storage to the device.

    Those of ``[[links]]``; a usual link that is given besides goes to the end of the path where it belongs.
    """
    listed: Any = flat["links"].value if "links" in flat else ()
    given = {path.partition(".")[0] for path in flat} & set(LINKS) - set(listed)
    return [*({STORAGE} & given), *listed, *({DEVICE} & given)]


def without(flat: Flat, part: str) -> Flat:
    """Take a part away; a link leaves the path."""
    rest = {path: entry for path, entry in flat.items() if not path.startswith(f"{part}.")}
    if "links" in flat:
        rest["links"] = Entry(tuple(link for link in links_of(flat) if link != part), "")
    return rest


def with_entries(flat: Flat, part: str, entries: Flat) -> Flat:
    """Put a component's entries in the place of a part, which keeps its place on the path of links."""
    path = {"links": flat["links"]} if "links" in flat else {}
    return without(flat, part) | path | entries


def build(name: str, flat: Flat, where: str) -> HardwareProfile:
    """Read and check every entry.

    Raises:
        ConfigError: a number is missing, negative or has the wrong unit, or the parts do not fit together; the
            message starts with ``where`` and names the path.
    """
    links = links_of(flat)
    has_gpu = any(path.startswith("gpu.") for path in flat)
    values: dict[str, Any] = {}
    for path, key in schema([*["gpu"][:has_gpu], "cpu", "dram", *reversed(links)]).items():
        if path not in flat:
            if not key.optional:
                raise ConfigError(f"{where}: {path} is missing: write {path.rpartition('.')[2]} = {_example(key.kind)}")
            continue
        given = flat[path].value
        share = path == "cpu.bandwidth" and isinstance(given, str) and given.strip().endswith("%")
        values[path] = given if share else _read(path, key, given, where)
    if isinstance(values["cpu.bandwidth"], str):
        values["cpu.bandwidth"] = _share(values["cpu.bandwidth"], values["dram.bandwidth"], where)

    def numbers_in(part: str) -> dict[str, Any]:
        return {path.rpartition(".")[2]: value for path, value in values.items() if path.rpartition(".")[0] == part}

    profile = HardwareProfile(
        name=name,
        gpu=Gpu(**numbers_in("gpu")) if has_gpu else None,
        cpu=Cpu(**numbers_in("cpu")),
        dram=Dram(**numbers_in("dram")),
        links=tuple(Link(link, **numbers_in(link)) for link in links),
        sources={path: flat[path].source for path in values if flat[path].source},
        **numbers_in(""),
    )
    _check_parts(profile, where)
    return profile


def numbers(profile: HardwareProfile) -> Iterator[tuple[str, str, str]]:
    """Yield the path of each number that a profile has, the number as it is written, and its source."""
    for path, key in schema(["gpu", "cpu", "dram", *(link.name for link in reversed(profile.links))]).items():
        value = profile.at(path)
        told = bool(value) and "." in path if key.kind == "text" else key.kind != "flag" and value is not None
        if told and not (key.optional and key.kind == "count" and value == 1):
            yield path, written(path, value), profile.sources.get(path, "")


def written(path: str, value: float) -> str:
    """Return a number at a path as a document has it: ``"25.6 GB/s"``."""
    key = key_of(path)
    assert key is not None
    return format_quantity(value, key.kind) if key.kind in EXAMPLES else str(value)


def _check_parts(profile: HardwareProfile, where: str) -> None:
    named = profile.part(DEVICE) is not None
    if profile.gpu is None and named:
        raise ConfigError(f"{where}: pcie is given, but there is no gpu that it could lead to: leave it out")
    if profile.gpu is None and profile.unified:
        raise ConfigError(f"{where}: unified is true, but there is no gpu that could share the DRAM: leave it out")
    if profile.gpu is not None and profile.unified and named:
        raise ConfigError(f"{where}: unified memory has no pcie link: leave out one of the two (pcie = {NONE!r})")
    last = profile.device_link
    if profile.gpu is not None and not profile.unified and (last is None or last.name == STORAGE):
        raise ConfigError(f'{where}: pcie is missing: write pcie = "pcie4-x16", a table, or unified = true')


def _example(kind: Kind) -> str:
    if kind == "count":
        return "4"
    return "true" if kind == "flag" else '"..."' if kind == "text" else f'"{EXAMPLES[kind].split(" or ")[0]}"'


def _share(given: str, of: float, where: str) -> float:
    try:
        percent = float(given.strip().removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 < percent <= 100:
        raise ConfigError(f"{where}: cpu.bandwidth: {given!r} is no share of dram.bandwidth: above 0 %, at most 100 %")
    return of * percent / 100


def _read(path: str, key: Key, given: object, where: str) -> Any:
    if path.rpartition(".")[2] in MAY_LACK and given == NONE:
        return None
    if key.kind == "flag":
        words = {"true": True, "false": False}
        if isinstance(given, bool):
            return given
        if str(given).lower() in words:
            return words[str(given).lower()]
        raise ConfigError(f"{where}: {path}: {given!r} is neither true nor false")
    if key.kind == "text":
        if not isinstance(given, str):
            raise ConfigError(f"{where}: {path}: {given!r} is no text")
        return given
    if key.kind == "count":
        text = str(given).strip()
        if isinstance(given, bool | float) or not re.fullmatch("0*[1-9][0-9]{0,8}", text):
            raise ConfigError(f"{where}: {path}: {given!r} is no whole number of at least 1")
        return int(text)
    try:
        value = parse_quantity(given, key.kind)
    except ConfigError as error:
        raise ConfigError(f"{where}: {path}: {error}") from None
    value = int(value) if key.kind == "bytes" else value
    if value == 0 and key.positive:
        raise ConfigError(f"{where}: {path}: {given!r} must be above 0")
    return value
