"""Find profiles and components, put them together, apply overrides, and write a profile as TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import cache
from importlib import resources
from os.path import isfile  # unlike that of Path, it takes a name that is too long
from pathlib import Path
from typing import Any

from lrcsim.base.documents import parse_toml, read_text, toml_text
from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.hardware.document import (
    LINKS,
    NONE,
    PARTS,
    Entry,
    Flat,
    build,
    flatten,
    key_of,
    links_of,
    numbers,
    suggest_key,
)  # fmt: skip
from lrcsim.hardware.profile import HardwareProfile

DATA = resources.files("lrcsim.hardware").joinpath("data")


def profile_names() -> list[str]:
    """Return the names of the built-in profiles."""
    return sorted(
        entry.name.removesuffix(".toml")
        for entry in DATA.joinpath("profiles").iterdir()
        if entry.name.endswith(".toml")
    )


def component_names(part: str | None = None) -> list[str]:
    """Return the names of the components, of all parts or of one: ``"cpu"``, ``"dram"``, ``"pcie"``, ``"nvme"``."""
    return [name for name, (of, _) in _components().items() if part in (None, of)]


def load_profile(spec: str | Path, overrides: Sequence[str] = ()) -> HardwareProfile:
    """Read a hardware profile.

    Args:
        spec: the name of a built-in profile, the path of a TOML file, or either with components that replace its
            parts: ``"rtx-4090+pcie3-x8+ddr4-3200-2ch"``.
        overrides: single values: ``"pcie.bandwidth=25.6GB/s"``, ``"nvme=nvme-gen5"``, ``"nvme=none"``.

    Raises:
        ConfigError: nothing of that name, or a value that is missing, unknown or wrong; one line.
    """
    base, components = _split(str(spec))
    name, flat, where = _document(base)
    for component in components:
        flat = _with_component(flat, component, where)
        name += f"+{component}"
    for override in overrides:
        key, equals, value = (text.strip() for text in override.partition("="))
        if not equals or not value:
            raise ConfigError(f"override {override!r} is not understood: write KEY=VALUE, as pcie.bandwidth=25.6GB/s")
        links = links_of(flat)
        if key in PARTS or key in links:
            flat = _without(flat, key) if value == NONE else _with_component(flat, value, f"override {override!r}", key)
        elif key.rpartition(".")[0] in ("", *PARTS, *links) and key_of(key) is not None:
            flat = flat | {key: Entry(value, "set by the user")}
        else:
            raise ConfigError(f"override {override!r}: {key} is no key of a profile{suggest_key(key, links)}")
        where = f"hardware {spec} with {', '.join(overrides)}"
    return build(name, flat, where)


def to_toml(profile: HardwareProfile) -> str:
    """Write a profile as the TOML that `load_profile` reads back to the same numbers, with their sources."""
    lines = [f"description = {toml_text(profile.description)}", f"unified = {str(profile.unified).lower()}"]
    lines += [f"kv_shared = {str(profile.kv_shared).lower()}"]
    tables: dict[str, list[str]] = {"": lines}
    for path, text, source in numbers(profile):
        part, _, key = path.rpartition(".")
        value = text if text.isdecimal() else toml_text(text)
        line = f"{key} = {{ value = {value}, source = {toml_text(source)} }}" if source else f"{key} = {value}"
        tables.setdefault(part, ["", f"[{part}]"]).append(line)
    path_names = [link.name for link in profile.links]
    if path_names != [name for name in LINKS if name in path_names]:
        for name in path_names:  # from storage to the device, behind the other parts
            tables[name] = ["", "[[links]]", f"name = {toml_text(name)}", *tables.pop(name)[2:]]
    return "\n".join(line for table in tables.values() for line in table) + "\n"


def read_toml(name: str, text: str) -> HardwareProfile:
    """Read a profile that `to_toml` wrote.

    Args:
        name: the profile's.
        text: the TOML.

    Raises:
        ConfigError: it is none.
    """
    where = f"hardware {name}"
    return build(name, _resolve(parse_toml(text, where, ConfigError), where), where)


def _split(spec: str) -> tuple[str, list[str]]:
    """Split ``base+component+component``, unless a file has that very name."""
    if isfile(spec):
        return spec, []
    base, *components = spec.split("+")
    return base.strip(), [component.strip() for component in components]


def _document(base: str) -> tuple[str, Flat, str]:
    """Return a profile's name, its entries with components filled in, and what to call it in errors."""
    if base in profile_names():
        where = f"hardware {base}"
        return base, _resolve(tomllib.loads(DATA.joinpath("profiles", f"{base}.toml").read_text("utf-8")), where), where
    path = Path(base)
    if path.suffix == ".toml" or isfile(path):
        where = f"hardware {base}"
        text = read_text(path, where, ConfigError)
        return path.stem, _resolve(parse_toml(text, where, ConfigError), where), where
    hint = did_you_mean(base, profile_names())
    known = hint or f"; there are {', '.join(profile_names())}"
    raise ConfigError(f"there is no hardware profile {base!r}: give a built-in name or the path of a TOML file{known}")


def _resolve(table: dict[str, Any], where: str) -> Flat:
    """Fill in the profile that a file is based on, then its components, then its own values."""
    flat: Flat = {}
    table = dict(table)
    if "base" in table:
        base = table.pop("base")
        if base not in profile_names():
            hint = did_you_mean(str(base), profile_names())
            raise ConfigError(f"{where}: base: {base!r} is no built-in profile{hint}")
        flat = _document(base)[1]
    for part in PARTS:
        value = table.get(part)
        if isinstance(value, str):
            del table[part]
            flat = _without(flat, part) if value == NONE else _with_component(flat, value, f"{where}: {part}", part)
    own = flatten(table, where)
    for link in links_of(flat) if "links" in own else ():  # [[links]] is the whole path
        flat = flat if link in links_of(own) else _without(flat, link)
    return flat | own


def _with_component(flat: Flat, name: str, where: str, part: str | None = None) -> Flat:
    components = _components()
    if name not in components or part not in (None, components[name][0]):
        allowed = component_names(part)
        hint = did_you_mean(name, allowed) or f"; there are {', '.join(allowed) or 'none'}"
        raise ConfigError(f"{where}: {name!r} is no component{f' for {part}' if part else ''}{hint}")
    owner, entries = components[name]
    path = {"links": flat["links"]} if "links" in flat else {}
    return _without(flat, owner) | path | entries


def _without(flat: Flat, part: str) -> Flat:
    """Take a part away; a link leaves the path."""
    rest = {path: entry for path, entry in flat.items() if not path.startswith(f"{part}.")}
    if "links" in flat:
        rest["links"] = Entry(tuple(link for link in links_of(flat) if link != part), "")
    return rest


@cache
def _components() -> dict[str, tuple[str, Flat]]:
    """Return every component: its part, and its entries by path."""
    found: dict[str, tuple[str, Flat]] = {}
    for part in PARTS:
        entry = DATA.joinpath("components", f"{part}.toml")
        if entry.is_file():
            for name, table in tomllib.loads(entry.read_text("utf-8")).items():
                found[name] = part, flatten({part: table}, f"component {name}")
    return found
