"""Files that a run depends on: found in its values, located from any folder, told apart by their contents."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from lrcsim.models.gguf_geometry import geometry_from_gguf
from lrcsim.models.gguf_names import find_gguf
from lrcsim.policies.registry import split_admission


def file_in(value: object, folder: Path) -> tuple[Path, str] | None:
    """Return the file that a value names and the rest of the value; None where it names none.

    ``mine.py:Class:m=3`` names ``mine.py``, as does ``admit2+mine.py:Class``, ``my.toml+pcie3-x8`` names ``my.toml``,
    the folder of a ``config.json`` or of a GGUF file that file. A name without a dot or a slash is never taken for a
    file.
    """
    if not isinstance(value, str):
        return None
    _, value = split_admission(value)
    for end in (len(value), value.find(":"), value.find("+")):
        head = value[:end] if end > 0 else ""
        if not ("." in head or "/" in head):
            continue
        path = folder / head
        if (path / "config.json").is_file():
            path = path / "config.json"
        elif path.is_dir():
            path = find_gguf(path) or path
        if path.is_file():
            return path.resolve(), value[end:]
    return None


def located(value: Any, folder: Path) -> Any:
    """Return a value with the file in it by its full path, so that a worker in another folder finds it."""
    found = file_in(value, folder)
    return value if found is None else f"{split_admission(value)[0]}{found[0]}{found[1]}"


def sum_of_model(path: str) -> str:
    """Return a digest of what a GGUF file says of its model, all parts together; its weights make no difference.

    Raises:
        ConfigError: it cannot be read, or is no Mixture-of-Experts model.
    """
    said = geometry_from_gguf(path).to_dict()
    said["stored"] |= {"file": Path(path).name}
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def trace_path(name: str, folder: Path) -> str:
    """Return what to open for a trace's name: a bundled one as it is, a file by its full path."""
    return name if name.startswith("bundled:") else str((folder / name).resolve())
