"""Read the ``config.json`` of a Hugging Face folder: by its keys, or counted on transformers' modules."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError
from lrcsim.base.notices import tell
from lrcsim.models.checkpoint_index import check_index
from lrcsim.models.config import Config
from lrcsim.models.config_geometry import FAMILIES, geometry_by_keys
from lrcsim.models.geometry import Geometry
from lrcsim.models.release import KEYS, beside, with_released_dtype

LARGEST_FILE = 64 * 2**20


def geometry_from_config(path: Path) -> Geometry:
    """Read a ``config.json``; the model is named after its folder.

    A ``model.safetensors.index.json`` beside it is held against what was read (`check_index`).

    Raises:
        ConfigError: it cannot be read, lacks a key, or does not go with the index.
    """
    where = f"model {path}"
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ConfigError(f"{where} is no config.json: it has more than {LARGEST_FILE // 2**20} MiB")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{where} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{where} is no JSON: {error}") from None
    except RecursionError:
        raise ConfigError(f"{where} is no config.json: it is nested too deep") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{where} is no config.json: it holds no object with keys")
    name = path.stem if path.stem != "config" else path.resolve().parent.name
    if not any(values.get(key) for key in KEYS):
        values |= beside(path)
    geometry = geometry_from_dict(values, name=name, where=where)
    if notice := check_index(geometry, path):
        tell(f"{where}: {notice}")
    return geometry


def geometry_from_dict(values: Mapping[str, Any], *, name: str = "", where: str = "the config") -> Geometry:
    """Turn a config, as of ``config.to_dict()``, into a geometry.

    A family (``model_type``) of `FAMILIES` is read by its keys. Of another the layers are counted on transformers'
    modules where it is installed and knows the family (`lrcsim.models.meta_model`), else it is read by the keys of most
    families, and a notice on standard error says so.

    Raises:
        ConfigError: a key is missing or of the wrong type, or it is no Mixture-of-Experts model.
    """
    config = Config(values, where)
    family = str(config.values.get("model_type") or "").lower()
    if family in FAMILIES:
        geometry = geometry_by_keys(config, family, name)
    else:
        geometry = _of_unknown_family(values, config, family, name)
    for notice in config.notices:
        tell(f"{where}: {notice}")
    return with_released_dtype(geometry, config.values, where)


def _of_unknown_family(values: Mapping[str, Any], config: Config, family: str, name: str) -> Geometry:
    given = f"the family {family[:40]!r} is not known" if family else "it has no model_type"
    written = {known.replace("_", ""): known for known in FAMILIES}
    if close := written.get(re.sub("[-_. ]", "", family)):
        given += f" (did you mean {close!r}?)"
    if family and find_spec("transformers") and find_spec("torch"):
        from lrcsim.models.meta_model import NotBuilt, geometry_by_modules

        try:
            return geometry_by_modules(values, config, name)
        except NotBuilt as error:
            given += f", and {error}"
    config.notices.append(
        f"{given}: read by the keys of most families, attention as usual; parameters of another build are missing"
    )
    return geometry_by_keys(config, family, name)
