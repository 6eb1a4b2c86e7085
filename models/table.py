"""A model as a table of TOML: the keys of `Geometry`, in the data files here and in files of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, asdict, fields, replace
from pathlib import Path
from typing import Any

from lrcsim.base.documents import check_regular, parse_toml, read_text, toml_text
from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.models.attention import AttentionShape
from lrcsim.models.config import MOST, MOST_EXPERTS, MOST_LAYERS
from lrcsim.models.geometry import BIASES, Geometry
from lrcsim.models.quantisation import parse_dtype

LEFT_OUT = {"shared_experts": 0, "shared_width": 0, "dense_width": 0, "matrices": 3, "tied": False}
"""What a key is that must be given elsewhere and is left out here; ``moe_layers`` are all layers."""

LAYER_KEYS = ("moe_layers", "attention_layers", "window_layers")
"""Keys whose value is a list of layers, or a table: ``{ from = 3 }``, with ``every = 2`` or ``except_every = 2``."""

TYPES = {field.name: str(field.type) for field in fields(Geometry)}
NEEDED = [field.name for field in fields(Geometry) if field.default is MISSING and field.name not in ("name", "source")]
KINDS = ("int", "bool", "str", "tuple[int, ...]", "tuple[int, ...] | None", "tuple[str, ...]", "AttentionShape | None")
NOT_GIVEN = {"counted", "unread"} | {key for key, kind in TYPES.items() if kind not in KINDS}
"""Fields that only readers of files fill."""

MOST_OF = {"layers": MOST_LAYERS, "experts": MOST_EXPERTS}


def geometry_from_toml(path: Path, known: Callable[[str], Geometry]) -> Geometry:
    """Read a model of one's own: keys at the top of the file, or one table with the model's name.

    Args:
        path: the file; without a table the model is named after it.
        known: gives the model that ``like`` names.

    Raises:
        ConfigError: it cannot be read, has an unknown key, lacks one, or a value is not allowed.
    """
    where = f"model {path}"
    check_regular(path, ConfigError)
    document = parse_toml(read_text(path, where, ConfigError), where, ConfigError)
    tables = {name: table for name, table in document.items() if isinstance(table, Mapping) and name not in TYPES}
    if tables and len(tables) == len(document):
        if len(tables) > 1:
            raise ConfigError(f"{where} has {len(tables)} models, {', '.join(tables)}: leave one in each file")
        name, table = next(iter(tables.items()))
    else:
        name, table = str(document.get("name", path.stem)), {key: v for key, v in document.items() if key != "name"}
    _check_keys(table, where)
    found = read_table(name, {"source": str(path)} | dict(table), known)
    _check(found, where)
    return found


def read_table(name: str, table: Mapping[str, Any], known: Callable[[str], Geometry]) -> Geometry:
    """Build a geometry from its table; ``like`` takes all that is not said from another model.

    Args:
        name: the model's.
        table: its keys.
        known: gives the model that ``like`` names.
    """
    values = {key: value for key, value in table.items() if key not in ("aliases", "like")}
    like = known(table["like"]) if "like" in table else None
    layers: int = values.get("layers", like.layers if like else 0)
    for key in LAYER_KEYS:
        which = values.get(key)
        if isinstance(which, Mapping):
            values[key] = _layers(which, layers)
        elif which is not None:
            values[key] = tuple(which)
    if "biases" in values:
        values["biases"] = tuple(values["biases"])
    if shape := values.get("global_attention"):
        values["global_attention"] = AttentionShape(**shape)
    if like is None:
        return Geometry(name=name, **(LEFT_OUT | {"moe_layers": tuple(range(layers))} | values))
    if layers != like.layers:
        values = _other_layers(like, layers) | values
    return replace(like, name=name, **values)


def _layers(which: Mapping[str, int], layers: int) -> tuple[int, ...]:
    """Return the layers ``from`` one on, ``every`` so many; or all but these where ``except_every`` is given."""
    every = which.get("except_every", which.get("every", 1))
    chosen = range(which["from"], layers, every)
    if "except_every" in which:
        return tuple(layer for layer in range(layers) if layer not in chosen)
    return tuple(chosen)


def _other_layers(like: Geometry, layers: int) -> dict[str, Any]:
    """Return the lists of layers of a model that is like another but for their number, where it follows.

    Raises:
        ConfigError: it does not.
    """
    found: dict[str, Any] = {}
    for key in LAYER_KEYS:
        listed = getattr(like, key)
        if not listed:
            continue
        missing = set(range(like.layers)) - set(listed)
        if missing != set(range(len(missing))) or (key != "moe_layers" and missing):
            raise ConfigError(f"model {like.name} has {like.layers} layers: with {layers} give {key} too")
        found[key] = tuple(range(len(missing), layers))
    if like.counted:
        raise ConfigError(f"model {like.name} was counted in {like.layers} layers: it cannot be given {layers}")
    return found


def _check_keys(table: Mapping[str, Any], where: str) -> None:
    """Refuse keys that are not known, that are missing, and values of a wrong kind."""
    allowed = [*(key for key in TYPES if key not in NOT_GIVEN and key != "name"), "like", "aliases"]
    for key, value in table.items():
        if key not in allowed:
            raise ConfigError(f"{where}: the key {key!r} is not known{did_you_mean(key, allowed)}")
        problem = _problem(key, value)
        if problem:
            raise ConfigError(f"{where}: {key} {problem}")
    missing = [key for key in NEEDED if key not in table and key not in LEFT_OUT and key != "moe_layers"]
    if missing and "like" not in table:
        way = 'give it, or like = "qwen3-30b-a3b" (a model of lrcsim models) for all that is left out'
        raise ConfigError(f"{where} lacks the key {', '.join(map(repr, missing))}: {way}")


def _problem(key: str, value: object) -> str:
    """Return what is wrong with the kind of a value, as the end of a sentence; empty: nothing."""
    if key in LAYER_KEYS and isinstance(value, Mapping):
        names = ("from", "every", "except_every")
        if "from" in value and all(name in names and _count(value[name], name != "from") for name in value):
            return ""
        return "must be a list of layers or { from = 3 }, with every = 2 or except_every = 2 where it is not each"
    kind = TYPES.get(key, "str")
    if key == "aliases" or kind.startswith("tuple[str"):
        wrong = not isinstance(value, list) or not all(isinstance(entry, str) for entry in value)
        return "must be a list of texts" if wrong else ""
    if kind.startswith("tuple[int"):
        wrong = not isinstance(value, list) or not all(_count(entry) for entry in value)
        return "must be a list of whole numbers" if wrong else ""
    if kind == "bool":
        return "" if isinstance(value, bool) else "must be true or false"
    if kind == "int":
        most = MOST_OF.get(key, MOST * 1000)
        return "" if _count(value) and int(str(value)) <= most else f"must be a whole number of 0 to {most:,}"
    if kind.startswith("AttentionShape"):
        shape = {field.name for field in fields(AttentionShape)}
        good = isinstance(value, Mapping) and shape - {"keys_are_values"} <= set(value) <= shape
        return "" if good else "must be a table with heads, kv_heads, head_dim and value_dim"
    return "" if isinstance(value, str) else "must be a text"


def _count(value: object, positive: bool = False) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= int(positive)


def _check(geometry: Geometry, where: str) -> None:
    """Refuse a geometry that no model has."""
    for key in ("layers", "experts", "top_k", "hidden", "expert_width", "heads", "kv_heads", "head_dim", "vocab"):
        if getattr(geometry, key) < 1:
            raise ConfigError(f"{where}: {key} must be at least 1")
    if not geometry.moe_layers:
        raise ConfigError(f"{where} is no Mixture-of-Experts model: moe_layers is empty")
    if geometry.top_k > geometry.experts:
        raise ConfigError(f"{where}: top_k is {geometry.top_k}, must be 1 to {geometry.experts}, the experts")
    if geometry.matrices not in (2, 3, 4):
        raise ConfigError(f"{where}: matrices is {geometry.matrices}, must be 3 (gated experts), 2 or 4")
    for key in LAYER_KEYS:
        listed = getattr(geometry, key) or ()
        if list(listed) != sorted(set(listed)) or any(layer >= geometry.layers for layer in listed):
            raise ConfigError(f"{where}: {key} must be ascending, once each, below {geometry.layers}, the layers")
    parse_dtype(geometry.dtype)
    if odd := [name for name in geometry.biases if name not in BIASES]:
        raise ConfigError(f"{where}: biases has {odd[0]!r}, known are {', '.join(BIASES)}")
    if len(geometry.moe_layers) < geometry.layers and not (geometry.dense_width or geometry.mixer_params):
        raise ConfigError(f"{where}: dense_width is missing, the inner width of the layers without experts")


def toml_of(geometry: Geometry) -> str:
    """Return a model as TOML, to start a file of one's own from; `geometry_from_toml` reads the same model from it.

    Raises:
        ConfigError: it was counted on modules or read from a file, so that no keys say it.
    """
    defaults = {field.name: field.default for field in fields(Geometry)}
    if odd := [key for key in sorted(NOT_GIVEN) if getattr(geometry, key) != defaults[key]]:
        raise ConfigError(f"model {geometry.name} cannot be written as TOML: no key of it says {odd[0]}")
    lines = [f"name = {toml_text(geometry.name)}"]
    for key, value in asdict(geometry).items():
        if key in {"name", *NOT_GIVEN} or value is None or value == defaults[key]:
            continue
        if key in LEFT_OUT and value == LEFT_OUT[key]:
            continue
        if key == "moe_layers" and len(value) == geometry.layers:
            continue
        lines.append(f"{key} = {_toml(_span(value, geometry.layers) if key in LAYER_KEYS else value)}")
    return "\n".join(lines) + "\n"


def _span(listed: tuple[int, ...], layers: int) -> Any:
    """Return a list of layers as ``{ from = 3, every = 2 }`` where it is one."""
    every = listed[1] - listed[0] if len(listed) > 1 else layers
    if listed != tuple(range(listed[0], layers, every)):
        return listed
    return {"from": listed[0]} if every == 1 else {"from": listed[0], "every": every}


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    return toml_text(value) if isinstance(value, str) else str(value)
