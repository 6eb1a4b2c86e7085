"""Read a Hugging Face ``config.json``: each family's keys, turned into a `Geometry`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrcsim.errors import ConfigError
from lrcsim.models.geometry import Geometry

__all__ = ["from_dict", "geometry_from_config"]


def geometry_from_config(path: Path) -> Geometry:
    """Read the file.

    Raises:
        ConfigError: it cannot be read, lacks a key, or is of a family that is not known.
    """
    where = f"model {path}"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{where} is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise ConfigError(f"{where} is no config.json: it holds no object with keys")
    return from_dict(config, name=path.parent.name or path.stem, where=where)


def from_dict(config: Mapping[str, Any], *, name: str, where: str) -> Geometry:
    raise ConfigError(f"{where}: not yet")
