"""Find a model's geometry: built in, by any of its names, or from a Hugging Face ``config.json``."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from functools import cache
from importlib import resources
from os.path import isdir, isfile  # unlike those of Path, they take a name that is too long
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.models.attention import AttentionShape
from lrcsim.models.formats import GGUF, known_name
from lrcsim.models.geometry import Geometry
from lrcsim.models.huggingface import geometry_from_config
from lrcsim.models.mixes import MIXES, UNSLOTH
from lrcsim.models.names import find_named, is_path, no_such_model

DATA = resources.files("lrcsim.models").joinpath("data")
LEFT_OUT = {"shared_experts": 0, "shared_width": 0, "dense_width": 0, "matrices": 3, "tied": False}


def model_names() -> list[str]:
    """Return the names of the built-in models, in the order of the data file."""
    return list(_models())


def load_geometry(spec: str | Path) -> Geometry:
    """Return the geometry of a model.

    Args:
        spec: a built-in name or what people write for one (`lrcsim.models.names`: the id on a hub, of a quantised
            repository too, the name of a GGUF file, ollama's), or the path of a ``config.json`` or of the folder that
            holds it. What a name says of the weights, as ``-FP8`` or ``-Q4_K_M.gguf``, becomes the geometry's
            ``dtype``. ``NAME:top_k=6`` for an engine that routes to another number of experts than the model's own.

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
    if text and isdir(path):
        path = path / "config.json"
    if path.suffix == ".json" or isfile(path):
        return geometry_from_config(path)
    if is_path(text):
        raise ConfigError(f"there is no file {text!r}: give the path of a config.json, or a model's name alone")
    if named := find_named(text, names):
        return _stored_as(_models()[named.model][0], named.dtype, text)
    raise no_such_model(text, names)


def _stored_as(geometry: Geometry, dtype: str, given: str) -> Geometry:
    """Return a model with the dtype that its name says its weights have.

    Raises:
        ConfigError: there is no such dtype.
    """
    if not dtype or dtype == geometry.dtype:
        return geometry
    try:
        dtype = known_name(dtype, frozenset(MIXES))
    except ConfigError as error:
        raise ConfigError(f"model {given!r} is read as {geometry.name}: {error}") from None
    if geometry.dtype == "mxfp4" and (dtype in MIXES or dtype in GGUF):  # GGUF files keep the released experts
        dtype += ",ffn_gate_exps=mxfp4,ffn_up_exps=mxfp4,ffn_down_exps=mxfp4"
    as_what = f", counted as {UNSLOTH[dtype]}" if dtype in UNSLOTH else ""
    return replace(geometry, dtype=dtype, source=f"{geometry.source}; {dtype} as the name {given!r} says{as_what}")


@cache
def _models() -> dict[str, tuple[Geometry, tuple[str, ...]]]:
    """Return every built-in model with its aliases."""
    found: dict[str, tuple[Geometry, tuple[str, ...]]] = {}
    for entry in sorted(DATA.iterdir(), key=lambda entry: entry.name):
        if entry.name.endswith(".toml"):
            for name, table in tomllib.loads(entry.read_text("utf-8")).items():
                found[name] = _geometry(name, table, found), tuple(table.get("aliases", ()))
    return found


def _geometry(name: str, table: dict[str, Any], known: dict[str, tuple[Geometry, tuple[str, ...]]]) -> Geometry:
    """Build a geometry from its table; ``like`` takes all that is not said from another model of the same file."""
    values = {key: value for key, value in table.items() if key not in ("aliases", "like")}
    if "like" in table:
        return replace(known[table["like"]][0], name=name, **values)
    layers: int = values["layers"]
    for key in ("moe_layers", "attention_layers", "window_layers"):
        which = values.get(key)
        if isinstance(which, dict):
            values[key] = _layers(which, layers)
        elif which is not None:
            values[key] = tuple(which)
    values["biases"] = tuple(values.get("biases", ()))
    if shape := values.get("global_attention"):
        values["global_attention"] = AttentionShape(**shape)
    return Geometry(name=name, **(LEFT_OUT | {"moe_layers": tuple(range(layers))} | values))


def _layers(which: dict[str, int], layers: int) -> tuple[int, ...]:
    """Return the layers ``from`` one on, ``every`` so many; or all but these where ``except_every`` is given."""
    every = which.get("except_every", which.get("every", 1))
    chosen = range(which["from"], layers, every)
    if "except_every" in which:
        return tuple(layer for layer in range(layers) if layer not in chosen)
    return tuple(chosen)
