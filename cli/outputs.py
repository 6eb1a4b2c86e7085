"""What is checked of the files that a command is to write, before the work is done: they can be, and harm nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError

OUTPUTS = {
    "json_path": "--json",
    "csv_path": "--csv",
    "plot": "--plot",
    "plot_path": "--plot",
    "timeline": "--timeline",
    "toml_path": "--toml",
    "output": "-o",
    "counts_out": "--counts-out",
    "fit": "--fit",
    "test": "--test",
}
"""Parameters of commands that name a file to write, and the option that they are given with."""


def check_outputs(given: Mapping[str, Any]) -> None:
    """Check every output of a command line.

    Raises:
        ConfigError: one cannot be written, or is also written or read by another option; the message says which.
    """
    known: dict[Path, str] = {}
    read = dict(_inputs(given))
    for parameter, option in OUTPUTS.items():
        path = given.get(parameter)
        if not isinstance(path, str) or (path == "-" and parameter == "json_path"):
            continue
        _check_target(option, path)
        real = Path(path).resolve()
        if real in known:
            raise ConfigError(f"{option} and {known[real]} both write {path}: give two names")
        if real in read:
            raise ConfigError(f"{option} {path} would write over what is read: give another name")
        known[real] = option


def _check_target(option: str, path: str) -> None:
    """Refuse a file that could not be written."""
    target = Path(path)
    if path == "-":
        raise ConfigError(f"{option} -: only --json writes to standard output, give the name of a file")
    if not target.name or "\0" in path:
        raise ConfigError(f"{option} {path!r} is no file's name: cannot be written, give one, as result.json")
    if target.is_dir():
        raise ConfigError(f"{option} {path} is a folder: cannot be written, give a file in it")
    if not target.parent.is_dir():
        raise ConfigError(f"{option} {path}: cannot be written, there is no folder {target.parent}")
    if target.exists() and not target.is_file() and option != "--json":
        raise ConfigError(f"{option} {path}: cannot be written, it is a device or a pipe; give a file")
    if not target.exists() and not os.access(target.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"{option} {path}: cannot be written, the folder is closed to you")


def _inputs(given: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Yield the files that other parameters name."""
    for parameter, value in given.items():
        if parameter in OUTPUTS:
            continue
        for text in value if isinstance(value, tuple | list) else (value,):
            for name in (text, text.partition(".py:")[0] + ".py") if isinstance(text, str) else ():
                try:
                    if name and Path(name).is_file():
                        yield Path(name).resolve(), name
                except (OSError, ValueError):
                    continue
