"""A sweep's specification: from TOML to a list of runs.

[defaults]      values for all runs
[grid]          every key has a list of values; all combinations are run (also [[grid]], several of them)
[[runs]]        one run each
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrcsim.base.documents import parse_toml, read_text
from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.hardware.document import PARTS
from lrcsim.sweeps.options import hardware_key, options, read_value, unknown_key

TABLES = ("defaults", "grid", "runs")

Values = dict[str, Any]
"""What a run is told: options of `simulate` and values of the hardware profile by name; defaults are left out."""


@dataclass(frozen=True)
class Spec:
    """What to run.

    Attributes:
        runs: the values of each run, in the order of the table's rows.
        folder: where relative paths in it start.
        source: what to call it in errors.
    """

    runs: list[Values]
    folder: Path
    source: str = "spec"

    @property
    def hardware_keys(self) -> list[str]:
        """Return the hardware values that are set anywhere, in order of appearance."""
        return list(dict.fromkeys(name for run in self.runs for name in run if hardware_key(name)))


def read_spec(source: str | Path | Mapping[str, Any], folder: str | Path | None = None) -> Spec:
    """Read a specification.

    Args:
        source: the path of a TOML file, or what such a file holds as a mapping.
        folder: where relative paths of traces, policies, profiles start; None: the file's folder, or the current one.

    Raises:
        ConfigError: it cannot be read, holds an unknown key or a value of the wrong type, or nothing to run.
    """
    if isinstance(source, Mapping):
        name, table, base = "spec", dict(source), Path.cwd()
    else:
        table = parse_toml(read_text(Path(source), f"sweep {source}", ConfigError), f"sweep {source}", ConfigError)
        name, base = Path(source).name, Path(source).resolve().parent
    for key in table:
        if key not in TABLES:
            where = did_you_mean(key, TABLES) or (
                "; write it under [grid] or [defaults]" if key in options() else f"; there are {', '.join(TABLES)}"
            )
            raise ConfigError(f"{name}: there is no table {key!r}{where}")
    defaults = _one(_table(table.get("defaults", {}), f"{name}: [defaults]"), f"{name}: [defaults]")
    runs = [
        {key: value for key, value in (defaults | values).items() if value is not None} for values in _all(table, name)
    ]
    if not runs:
        raise ConfigError(f"{name}: there is nothing to run: give a [grid] or [[runs]] (docs/sweeps.md)")
    kept = [{key: value for key, value in run.items() if not _is_default(key, value)} for run in runs]
    return Spec(kept, Path(folder) if folder is not None else base, name)


def _all(table: Mapping[str, Any], name: str) -> Iterator[Values]:
    grids = table.get("grid", [])
    for number, grid in enumerate(grids if isinstance(grids, list) else [grids], start=1):
        where = f"{name}: [[grid]] {number}" if isinstance(grids, list) else f"{name}: [grid]"
        axes = []
        for key, values in _flat(_table(grid, where), where):
            if values == []:
                raise ConfigError(f"{where}: {key} has no values: give at least one, or leave it out")
            given = values if isinstance(values, list) else [values]
            axes.append([(key, read_value(key, value, where)) for value in given])
        for combination in itertools.product(*axes):
            yield dict(combination)
    runs = table.get("runs", [])
    if not isinstance(runs, list):
        raise ConfigError(f"{name}: runs is a list of tables: write each run under [[runs]]")
    for number, run in enumerate(runs, start=1):
        where = f"{name}: [[runs]] {number}"
        yield _one(_table(run, where), where)


def _one(table: Mapping[str, Any], where: str) -> Values:
    return {key: read_value(key, value, where) for key, value in _flat(table, where)}


def _table(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: is a table of KEY = VALUE, given {value!r}")
    return value


def _flat(table: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any]]:
    """Yield keys and values; ``pcie.bandwidth = ...`` without quotes is a table in a table to TOML."""
    for key, value in table.items():
        if isinstance(value, Mapping) and (key in PARTS or any(hardware_key(f"{key}.{name}") for name in value)):
            yield from _flat({f"{key}.{name}": inner for name, inner in value.items()}, where)
        elif key in options() or hardware_key(key):
            yield key, value
        else:
            raise unknown_key(key, where)


def _is_default(key: str, value: Any) -> bool:
    option = options().get(key)
    return option is not None and type(value) is type(option.default) and value == option.default
