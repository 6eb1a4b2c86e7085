"""A geometry out of the JSON values that another run wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lrcsim.base.errors import ConfigError, brief
from lrcsim.models.attention import AttentionShape
from lrcsim.models.geometry import Geometry
from lrcsim.models.stored import read_stored


def read_geometry(values: Mapping[str, Any]) -> Geometry:
    """Read what `Geometry.to_dict` wrote; keys that it knows not are an error.

    Raises:
        ConfigError: it is not that.
    """
    known: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in values.items()}
    try:
        if isinstance(shape := known.get("global_attention"), Mapping):
            known["global_attention"] = AttentionShape(**shape)
        if shapes := known.get("attention_shapes"):
            known["attention_shapes"] = tuple(AttentionShape(**one) for one in shapes)
        if isinstance(stored := known.get("stored"), Mapping):
            known["stored"] = read_stored(stored)
        geometry = Geometry(**known)
    except TypeError as error:
        raise ConfigError(f"model is no geometry: {brief(error)}") from None
    wrong = next((one.name for one in fields(geometry) if not _is(getattr(geometry, one.name), str(one.type))), None)
    if wrong is not None:
        raise ConfigError(f"model is no geometry: {wrong} is {str(getattr(geometry, wrong))[:40]!r}")
    return geometry


def _is(value: object, kind: str) -> bool:
    """Return whether a value is of a field's kind, as its annotation has it."""
    if kind.startswith("tuple[int"):
        return value is None or (isinstance(value, tuple) and all(type(one) is int for one in value))
    plain: dict[str, type] = {"int": int, "str": str, "bool": bool}
    return type(value) is plain[kind] if kind in plain else True
