"""Find a model's geometry: built in, by any of its names, or from a Hugging Face ``config.json``."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from functools import cache
from importlib import resources
from os.path import isdir, isfile  # unlike those of Path, they take a name that is too long
from pathlib import Path

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.models.geometry import Geometry
from lrcsim.models.huggingface import geometry_from_config
from lrcsim.models.table import geometry_from_toml, read_table

DATA = resources.files("lrcsim.models").joinpath("data")


def model_names() -> list[str]:
    """Return the names of the built-in models, in the order of the data file."""
    return list(_models())


def load_geometry(spec: str | Path) -> Geometry:
    """Return the geometry of a model.

    Args:
        spec: a built-in name or one of its aliases, such as the id on the Hugging Face hub (case does not matter), or
            the path of a ``config.json``, of the folder that holds it, or of a TOML of one's own
            (`lrcsim.models.table`). ``NAME:top_k=6`` for an engine that routes to another number of experts than the
            model's own.

    Raises:
        ConfigError: no model of that name, or a config that lacks a key or is of a family that is not known.
    """
    text = str(spec)
    if match := re.fullmatch(r"(.+):top_k=([0-9]+)", text):
        geometry = load_geometry(match[1])
        if not 1 <= int(match[2]) <= geometry.experts:
            raise ConfigError(f"model {text!r}: top_k must be 1 to {geometry.experts}, the experts of {geometry.name}")
        return replace(geometry, top_k=int(match[2]))
    names = {alias.lower(): name for name, (_, aliases) in _models().items() for alias in (name, *aliases)}
    if text.lower() in names:
        return _models()[names[text.lower()]][0]
    path = Path(text)
    if isdir(path):
        path = path / "config.json"
    if path.suffix == ".toml":
        return geometry_from_toml(path, load_geometry)
    if path.suffix == ".json" or isfile(path):
        return geometry_from_config(path)
    hint = did_you_mean(text, names) or "; lrcsim models lists them"
    raise ConfigError(f"there is no model {text!r}: give a built-in name or the path of a config.json or a TOML{hint}")


@cache
def _models() -> dict[str, tuple[Geometry, tuple[str, ...]]]:
    """Return every built-in model with its aliases."""
    found: dict[str, tuple[Geometry, tuple[str, ...]]] = {}
    for entry in sorted(DATA.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml"):
            for name, table in tomllib.loads(entry.read_text("utf-8")).items():
                found[name] = read_table(name, table, lambda other: found[other][0]), tuple(table.get("aliases", ()))
    return found
