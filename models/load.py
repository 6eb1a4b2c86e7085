"""Find a model's geometry: built in, by any of its names, from a GGUF file, a ``config.json``, or a TOML."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from functools import cache
from importlib import resources
from os.path import isdir, isfile  # unlike those of Path, they take a name that is too long
from pathlib import Path

from lrcsim.base.errors import ConfigError
from lrcsim.base.notices import tell
from lrcsim.base.text import human_bytes
from lrcsim.models.formats import GGUF, known_name
from lrcsim.models.geometry import Geometry
from lrcsim.models.gguf_geometry import geometry_from_gguf
from lrcsim.models.gguf_names import find_gguf
from lrcsim.models.huggingface import geometry_from_config
from lrcsim.models.mixes import MIXES, UNSLOTH
from lrcsim.models.names import find_named, is_path, no_such_model
from lrcsim.models.table import geometry_from_toml, read_table

DATA = resources.files("lrcsim.models").joinpath("data")


def model_names() -> list[str]:
    """Return the names of the built-in models, in the order of the data file."""
    return list(_models())


def load_geometry(spec: str | Path) -> Geometry:
    """Return the geometry of a model.

    Args:
        spec: a built-in name or what people write for one (`lrcsim.models.names`: the id on a hub, of a quantised
            repository too, the name of a GGUF file that is not there, ollama's); what a name says of the weights, as
            ``-FP8`` or ``-Q4_K_M.gguf``, becomes the geometry's ``dtype``. Or the path of a GGUF file (of a split
            model any of them), of a ``config.json``, of a folder that holds one of these, or of a TOML of one's own
            (`lrcsim.models.table`). ``NAME:top_k=6`` for an engine that routes to another number of experts than the
            model's own.

    Raises:
        ConfigError: no model of that name; or the file cannot be read, lacks something, or is of a model without
            experts.
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
    if (path := _path(text)) is not None:
        return _from_file(path)
    if named := find_named(text, names):
        return _stored_as(_models()[named.model][0], named.dtype, text)
    raise no_such_model(text, names)


def full_name(geometry: Geometry) -> str:
    """Return a model's name, as `load_geometry` takes it: with ``:top_k=6`` where the built-in one has another."""
    own = _models().get(geometry.name)
    return geometry.name if own is None or own[0].top_k == geometry.top_k else f"{geometry.name}:top_k={geometry.top_k}"


def _path(text: str) -> Path | None:
    """Return the path that a text is; None: it can be a name only.

    Raises:
        ConfigError: it can only be a path, and nothing is there.
    """
    path = Path(text)
    if text and (isdir(text) or isfile(text)):
        return path
    if is_path(text) or path.suffix.lower() in (".json", ".toml"):
        raise ConfigError(
            f"there is no file {text!r}: give the path of a GGUF file, a config.json or a TOML, or a model's name alone"
        )
    return None


def _from_file(path: Path) -> Geometry:
    if (gguf := find_gguf(path)) is not None:
        geometry = geometry_from_gguf(gguf)
        if geometry.stored is not None and (missing := geometry.stored.missing):
            tell(
                f"{gguf} has its whole header, but {human_bytes(missing)} of its weights are not there, as of a "
                "download that is not finished: what is said here rests on the header"
            )
        return geometry
    if path.suffix.lower() == ".toml":
        return geometry_from_toml(path, load_geometry)
    return geometry_from_config(path / "config.json" if isdir(path) else path)


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
                found[name] = read_table(name, table, lambda other: found[other][0]), tuple(table.get("aliases", ()))
    return found
