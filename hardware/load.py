"""Find profiles and components, put them together, apply overrides, and write a profile as TOML."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from importlib import resources
from os.path import isfile  # unlike that of Path, it takes a name that is too long
from pathlib import Path
from typing import Any

from lrcsim.base.documents import parse_toml, read_text, toml_text
from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.hardware.components import find_component, named_parts, need_component
from lrcsim.hardware.document import (
    LINKS,
    NONE,
    PARTS,
    STORAGE,
    Entry,
    Flat,
    build,
    flatten,
    key_of,
    links_of,
    numbers,
    suggest_key,
    with_entries,
    without,
)  # fmt: skip
from lrcsim.hardware.gpus import gpus
from lrcsim.hardware.machines import in_words, machine_of
from lrcsim.hardware.names import meant
from lrcsim.hardware.profile import HardwareProfile
from lrcsim.hardware.this_machine import this_machine

DATA = resources.files("lrcsim.hardware").joinpath("data")
AUTO = "auto"
"""The machine that this runs on."""

SEVERAL = re.compile(r"\s*[2-9]\s?x\s?(.+)", re.IGNORECASE)
"""Several of a part, ``2x3090``."""


def profile_names() -> list[str]:
    """Return the names of the machines that stand for their kinds: for short lists, to try something on each kind."""
    return sorted([*_files(), *(name for name, gpu in gpus().items() if gpu.reference)])


def machine_names() -> list[str]:
    """Return the names that are a whole machine each: every GPU, in the host that it usually has, and those without."""
    return [*gpus(), *_files()]


def _files() -> list[str]:
    """Return the names of the machines with a file of their own."""
    names = (entry.name for entry in DATA.joinpath("profiles").iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def load_profile(spec: str | Path, overrides: Sequence[str] = ()) -> HardwareProfile:
    """Read a hardware profile.

    Args:
        spec: a machine, with components that replace its parts (``"rtx-3060+ryzen-7950x+ddr5-5600-2ch"``). The machine
            is a GPU, which stands in its usual host unless parts of another are named; a processor, without a GPU; one
            of `profile_names`; the path of a TOML file; or ``"auto"``: the one this runs on. GPUs and processors are
            named as people and drivers do: ``"4090"``, ``"NVIDIA GeForce RTX 4090"``, ``"M2 Ultra 192GB"``.
        overrides: single values: ``"pcie.bandwidth=25.6GB/s"``, ``"nvme=nvme-gen5"``, ``"nvme=none"``.

    Raises:
        ConfigError: nothing of that name, or a value that is missing, unknown or wrong; one line.
    """
    name, flat, where = _machine(*_split(str(spec)))
    for override in overrides:
        key, equals, value = (text.strip() for text in override.partition("="))
        if not equals or not value:
            raise ConfigError(f"override {override!r} is not understood: write KEY=VALUE, as pcie.bandwidth=25.6GB/s")
        links = links_of(flat)
        if key in PARTS or key in links:
            flat = without(flat, key) if value == NONE else _with_component(flat, value, f"override {override!r}", key)
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
    """Split ``base+component+component``, unless a file or a part has that very name (Ryzen AI Max+ 395)."""
    if isfile(spec) or ("+" in spec and meant(spec, named_parts())):
        return spec, []
    base, *components = spec.split("+")
    return base.strip(), [component.strip() for component in components]


def _machine(base: str, components: list[str]) -> tuple[str, Flat, str]:
    """Return a machine's name, its entries, and what to call it in errors."""
    document = _document(base)
    if document is None:
        where = f"hardware {'+'.join([base, *components])}"
        first = find_component(base)
        if first is None:
            if (one := SEVERAL.fullmatch(base)) and find_component(one[1]):
                raise ConfigError(
                    f"hardware {base!r}: machines with several are not modelled: write {one[1]!r} for one"
                )
            raise ConfigError(
                f"there is no hardware profile {base!r}: give a built-in name or the path of a TOML file{_hint(base)}"
            )
        parts = [first, *(need_component(name, where) for name in components)]
        return *machine_of(parts, _table("desktop-cpu"), where), where
    name, flat, where = document
    whole = f"hardware {'+'.join([base, *components])}"
    for component in components:
        found = need_component(component, whole)
        flat = _with_component(flat, found.name, whole)
        name += f"+{found.name}"
        if found.part == "gpu":
            flat["description"] = Entry(f"{in_words(gpus()[found.name])}; the rest as {base}", "")
    return name, flat, where


def _hint(base: str) -> str:
    return (
        did_you_mean(base, machine_names()) or f"; there are {', '.join(profile_names())} and others: lrcsim hardware"
    )


def _document(base: str) -> tuple[str, Flat, str] | None:
    """Return the name of a machine that has a file or is this one, its entries with components filled in, its title."""
    where = f"hardware {base}"
    if base.lower() == AUTO:
        return AUTO, this_machine(_table("desktop-cpu")), where
    if base in _files():
        return base, _resolve(_table(base), where), where
    path = Path(base)
    if path.suffix == ".toml" or (base not in machine_names() and isfile(path)):
        text = read_text(path, where, ConfigError)
        return path.stem, _resolve(parse_toml(text, where, ConfigError), where), where
    return None


def _table(name: str) -> dict[str, Any]:
    """Return the file of a built-in machine."""
    return tomllib.loads(DATA.joinpath("profiles", f"{name}.toml").read_text("utf-8"))


def _resolve(table: dict[str, Any], where: str) -> Flat:
    """Fill in the profile that a file is based on, then its components, then its own values."""
    flat: Flat = {}
    table = dict(table)
    if "base" in table:
        base = str(table.pop("base"))
        if base not in machine_names() and find_component(base) is None:
            hint = did_you_mean(base, machine_names())
            raise ConfigError(f"{where}: base: {base!r} is no built-in profile{hint}")
        flat = _machine(base, [])[1]
    for part in PARTS:
        value = table.get(part)
        if isinstance(value, str):
            del table[part]
            flat = without(flat, part) if value == NONE else _with_component(flat, value, f"{where}: {part}", part)
    own = flatten(table, where)
    for link in links_of(flat) if "links" in own else ():  # [[links]] is the whole path
        flat = flat if link in links_of(own) else without(flat, link)
    return flat | own


def _with_component(flat: Flat, name: str, where: str, part: str | None = None) -> Flat:
    """Put a component in the place of a part; a GPU of its own memory brings its link where there is none."""
    found = need_component(name, where, part)
    flat = with_entries(flat, found.part, found.entries)
    gpu = gpus().get(found.name)
    if gpu is not None and "pcie" in gpu.host and not set(links_of(flat)) - {STORAGE}:
        flat |= need_component(gpu.host["pcie"], where).entries
    return flat
