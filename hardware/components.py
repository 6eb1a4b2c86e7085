"""All components: those of the data files, GPUs, processors, and those whose names say all (`rules`)."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib import resources
from typing import NamedTuple

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.hardware.cpus import processors
from lrcsim.hardware.document import DEVICE, PARTS, STORAGE, Flat, flatten
from lrcsim.hardware.gpus import gpus
from lrcsim.hardware.names import close, meant
from lrcsim.hardware.rules import COMMON_MEMORY, PCIE_NAMES, link_by_rule, memory_by_rule

SIZE_OF_MEMORY = re.compile(r"(ddr[45])?[ -]*([1-9][0-9]{0,3}) ?gi?b[ -]*(ddr[45])?(?: ram)?", re.IGNORECASE)
COMMON_RATES = {"ddr4": 3200, "ddr5": 5600}
"""MT/s of an example."""


class Component(NamedTuple):
    """A part of a machine.

    Attributes:
        name: as it stands in lists.
        part: ``"gpu"``, ``"cpu"``, ``"dram"``, ``"pcie"`` or ``"nvme"``.
        entries: its numbers, by path.
    """

    name: str
    part: str
    entries: Flat


def component_names(part: str | None = None) -> list[str]:
    """Return the names of the components, of all parts or of one.

    Parts are ``"gpu"``, ``"cpu"``, ``"dram"``, ``"pcie"``, ``"nvme"``. Of main memory the common ones are given: any
    other type, rate and number of channels makes a name too.
    """
    listed = {
        "gpu": list(gpus()),
        "cpu": list(processors()),
        "dram": list(COMMON_MEMORY),
        DEVICE: [*PCIE_NAMES, *_files()[DEVICE]],
        STORAGE: list(_files()[STORAGE]),
    }
    return [name for of in PARTS if part in (None, of) for name in listed[of]]


def find_component(given: str, part: str | None = None) -> Component | None:
    """Return the component that a name means, as people and drivers write it (`names`).

    Args:
        given: the name.
        part: the part that it is to be; None: any.

    Returns:
        None: there is none of that name.

    Raises:
        ConfigError: it may mean several.
    """
    plain = "-".join(given.lower().replace("_", " ").split())
    for name in (given, plain):
        if (found := _exact(name)) is not None:
            return found if part in (None, found.part) else None
    names = named_parts(part)
    candidates = meant(given, names)
    if len(candidates) == 1:
        return _exact(candidates[0])
    candidates = candidates or ([] if given.isdecimal() and len(given) < 2 else close(given, names))
    candidates = [name for name in candidates if name not in gpus() or gpus()[name].base == name] or candidates
    if candidates:
        raise ConfigError(f"{given!r} may mean several: write {_either(candidates)}")
    return None


def named_parts(part: str | None = None) -> dict[str, tuple[str, ...]]:
    """Return the other names of every GPU and processor, by its own; of one ``part`` where it is given."""
    found: dict[str, tuple[str, ...]] = {}
    if part in (None, "gpu"):
        found |= {name: gpu.others for name, gpu in gpus().items()}
    if part in (None, "cpu"):
        found |= {name: cpu.others for name, cpu in processors().items()}
    return found


def need_component(given: str, where: str, part: str | None = None) -> Component:
    """Return the component that a name means, or refuse it.

    Args:
        given: the name.
        where: what messages begin with.
        part: the part that it is to be; None: any.

    Raises:
        ConfigError: there is none of that name for the part, or several.
    """
    if size := SIZE_OF_MEMORY.fullmatch(given.strip()):
        kind, gib = (size[1] or size[3] or "ddr5").lower(), size[2]
        rate = COMMON_RATES[kind]
        raise ConfigError(
            f"{where}: {given!r} does not say how fast main memory is: write its rate and channels, as "
            f"{kind}-{rate}-2ch-{gib}gb, or give --ram {gib}GiB"
        )
    try:
        found = find_component(given, part)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    if found is None:
        allowed = component_names(part)
        hint = did_you_mean(given, allowed) or f"; there are {_listed(allowed)}"
        raise ConfigError(f"{where}: {given!r} is no component{f' for {part}' if part else ''}{hint}")
    return found


def _listed(names: list[str]) -> str:
    """Return names for a message: all where they are few."""
    if len(names) > 30:
        return f"{', '.join(names[:3])} ... (lrcsim hardware lists all)"
    return ", ".join(names) or "none"


def _either(names: list[str]) -> str:
    return " or ".join(names) if len(names) < 9 else f"{' or '.join(names[:8])} ..."


def _exact(name: str) -> Component | None:
    if name in gpus():
        return Component(name, "gpu", gpus()[name].entries)
    if name in processors():
        return Component(name, "cpu", processors()[name].entries)
    if (memory := memory_by_rule(name)) is not None:
        return Component(name, "dram", memory)
    if (link := link_by_rule(name)) is not None:
        return Component(name, DEVICE, link)
    for part, found in _files().items():
        if name in found:
            return Component(name, part, found[name])
    return None


@cache
def _files() -> dict[str, dict[str, Flat]]:
    """Return the links of the data files, by part and name."""
    data = resources.files("lrcsim.hardware").joinpath("data", "components")
    return {
        part: {
            name: flatten({part: table}, f"component {name}")
            for name, table in tomllib.loads(data.joinpath(f"{part}.toml").read_text("utf-8")).items()
        }
        for part in (DEVICE, STORAGE)
    }
