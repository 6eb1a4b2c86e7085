"""A machine made of components: a GPU in the host that it usually has, or no GPU; named parts in place of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.hardware.components import Component, need_component
from lrcsim.hardware.cpus import processors
from lrcsim.hardware.document import PARTS, Entry, Flat, flatten, with_entries
from lrcsim.hardware.gpus import GIB, HOST, GpuComponent, gpus


def machine_of(parts: Sequence[Component], without_gpu: Mapping[str, Any], where: str) -> tuple[str, Flat]:
    """Return the name and the entries of a machine.

    Args:
        parts: its components, in any order; what they leave open is the usual host's, main memory the processor's.
        without_gpu: the document of the machine whose parts hold where no GPU is named: names of components, and
            numbers outside of parts.
        where: what messages begin with.

    Raises:
        ConfigError: it has two parts of a kind.
    """
    named = {one.part: one for one in parts}
    if len(named) < len(parts):
        twice = next(part for part in named if sum(one.part == part for one in parts) > 1)
        both = " and ".join(one.name for one in parts if one.part == twice)
        raise ConfigError(f"{where}: {both} are two for {twice}: name one (machines with several are not modelled)")
    gpu = gpus()[named["gpu"].name] if "gpu" in named else None
    usual = gpu.host if gpu else {part: name for part, name in without_gpu.items() if part in PARTS}
    if "cpu" in named and (memory := processors()[named["cpu"].name].dram):
        usual = usual | {"dram": memory}
    assumed = {part: usual[part] for part in PARTS if part in usual and part not in named}
    rest = {key: value for key, value in without_gpu.items() if key not in PARTS}
    flat: Flat = dict(HOST) if gpu else flatten(rest, where)
    made = [
        named[part] if part in named else need_component(assumed[part], where, part)
        for part in PARTS
        if part in named or part in assumed
    ]  # the GPU first: it may bring others, named ones replace them
    for one in made:
        flat = with_entries(flat, one.part, one.entries)
    host = ", ".join(assumed.values())
    text = in_words(gpu) if gpu else "machine without a GPU"
    flat["description"] = Entry(text + (f"; assumed: {host}" if host else ""), "")
    return "+".join(one.name for one in parts), flat


def in_words(gpu: GpuComponent) -> str:
    """Return a GPU for people: with its memory, and the sizes that a name without one does not mean."""
    size = f"{gpu.memory / GIB:g}"
    others = [f"{one}gb" for one in gpu.sizes if f"{one:g}" != size]
    text = f"{gpu.title}, {size} GB{' shared with the processor' if gpu.unified else ''}"
    return text + (f" (or {gpu.base}-{', -'.join(others)})" if others and gpu.name == gpu.base else "")
