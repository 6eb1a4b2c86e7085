"""Questions to a table of results: rows that fit a condition, the best of each group, a Pareto front, a pivot."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.sweeps.columns import MEASURED, better

IDENTITY = ("run", "trace_sha256", "lrcsim", "files", "options", "error")
"""Columns that are no part of a run's configuration as people name it."""


@dataclass(frozen=True)
class Pivot:
    """One number of each run, by two columns.

    Attributes:
        row: the column down the side.
        column: the column across the top.
        value: the column of the numbers.
        rows: values down the side, in order of appearance.
        columns: values across the top, in order of appearance.
        cells: by row and column, None where there is no run.
    """

    row: str
    column: str
    value: str
    rows: list[Any]
    columns: list[Any]
    cells: list[list[Any]]


def too_lossy(table: pa.Table) -> str | None:
    """Return how many runs left out or replaced more than a third of the router weight, in words; None where none did.

    In all or in one phase, as `lrcsim run` warns of it. Their speed is hardly that of the model, so they should not win
    by it.
    """
    from lrcsim.simulator.setup.outcomes import OTHER_MODEL
    from lrcsim.simulator.time.run_in_time import TOO_MUCH

    parts = [f"{outcome.label}_weight" for outcome in OTHER_MODEL]
    weights = [f"{phase}{part}" for phase in ("", "prefill_", "decode_") for part in parts]
    rows = zip(*(table[name].to_pylist() for name in weights if name in table.column_names), strict=True)
    count = sum(any(weight is not None and weight > TOO_MUCH for weight in row) for row in rows)
    if not count:
        return None
    return (
        f"{count:,} of {len(table):,} runs leave out or replace more than a third of the router weight "
        f"({', '.join(parts)}), in all or in one phase: what they run is hardly the model that was recorded"
    )


def where(table: pa.Table, condition: str) -> pa.Table:
    """Return the rows for which a condition in SQL holds, ``policy = 'lru' and hit_rate > 0.5``.

    The condition is read by SQLite, which Python comes with; names with dots stand in double quotes.

    Raises:
        ConfigError: it is not understood; with what SQLite says.
    """
    database = sqlite3.connect(":memory:")
    quoted = [f'"{name}"' for name in table.column_names]
    database.execute(f"create table runs ({', '.join(['_row integer', *quoted])})")
    places = ", ".join("?" * (len(quoted) + 1))
    rows = zip(range(len(table)), *(column.to_pylist() for column in table.columns), strict=True)
    database.executemany(f"insert into runs values ({places})", rows)
    database.set_authorizer(_read_only)
    try:
        found = [row for (row,) in database.execute(f"select _row from runs where ({condition}) order by _row")]
    except (sqlite3.Error, sqlite3.Warning) as error:
        said = str(error)
        unknown = said.removeprefix("no such column: ") if said.startswith("no such column") else ""
        hint = did_you_mean(unknown, table.column_names) if unknown else ""
        raise ConfigError(
            f"condition {condition!r} is not understood: {said}{hint}; write SQL, as policy = 'lru' and hit_rate > 0.5"
        ) from None
    finally:
        database.close()
    return table.take(pa.array(found, pa.int64()))


def _read_only(action: int, *_: str | None) -> int:
    allowed = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION)
    return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY


def best(table: pa.Table, column: str, per: Sequence[str] = ()) -> pa.Table:
    """Return the best row of each group, in order of the groups' appearance; of equal rows the first.

    Args:
        table: of results; rows without a value there cannot be the best.
        column: what decides, with ``:max`` or ``:min`` where it is not a measured one.
        per: columns whose values make the groups; none: one group.

    Raises:
        ConfigError: there is no such column, or it is not said which way is better.
    """
    name, sign = direction(table, column)
    for group in per:
        check_column(table, group)
    values = _numbers(table, name)
    keys = list(zip(*(table[group].to_pylist() for group in per), strict=True)) if per else [()] * len(table)
    chosen: dict[tuple[Any, ...], int] = {}
    for row, (key, value) in enumerate(zip(keys, values, strict=True)):
        if not np.isnan(value) and (key not in chosen or sign * value > sign * values[chosen[key]]):
            chosen[key] = row
    return table.take(pa.array(list(chosen.values()), pa.int64()))


def pareto(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return the rows that no other row beats: at least as good in every column, and better in one.

    Args:
        table: of results; rows without a value in one of the columns are left out, of equal rows the first stays.
        columns: two or more, with ``:max`` or ``:min`` where they are not measured ones.

    Returns:
        The front, the best in the first column first.

    Raises:
        ConfigError: a column is unknown, or there is only one, or it is not said which way is better.
    """
    if len(columns) < 2:
        raise ConfigError(f"a Pareto front weighs two columns or more, given {', '.join(columns)}")
    directions = [direction(table, column) for column in columns]
    points = np.array([-sign * _numbers(table, name) for name, sign in directions]).T  # less is better
    complete = np.flatnonzero(~np.isnan(points).any(axis=1))
    order = complete[np.lexsort(points[complete][:, ::-1].T)]  # by the first column, then the next ...
    front: list[int] = []
    for row in order:  # what beats a row, or equals it, stands before it
        if not any((points[other] <= points[row]).all() for other in front):
            front.append(int(row))
    return table.take(pa.array(front, pa.int64()))


def pivot(table: pa.Table, row: str, column: str, value: str) -> Pivot:
    """Return one column's values by two others.

    Raises:
        ConfigError: a column is unknown, or several runs fall together; the message says in what they differ.
    """
    for name in (row, column, value):
        check_column(table, name)
    down, across = table[row].to_pylist(), table[column].to_pylist()
    rows, columns = list(dict.fromkeys(down)), list(dict.fromkeys(across))
    cells: dict[tuple[Any, Any], int] = {}
    for number, place in enumerate(zip(down, across, strict=True)):
        if place in cells:
            differ = varying(table.take([cells[place], number])) or ["nothing"]
            raise ConfigError(
                f"several runs have {row} {place[0]!r} and {column} {place[1]!r}; two of them differ in "
                f"{', '.join(differ)}: choose with --where, or take the --best of each --per {row},{column}"
            )
        cells[place] = number
    values = table[value].to_pylist()
    grid = [[values[cells[r, c]] if (r, c) in cells else None for c in columns] for r in rows]
    return Pivot(row, column, value, rows, columns, grid)


def varying(table: pa.Table) -> list[str]:
    """Return the columns of the configuration in which the rows differ.

    What a failed run left open, and never settled, is no difference.
    """
    measured = {column.name for column in MEASURED}
    errors = table["error"].to_pylist() if "error" in table.column_names else [None] * len(table)
    found = []
    for name in table.column_names:
        if name not in measured and name not in IDENTITY:
            values = zip(table[name].to_pylist(), errors, strict=True)
            if len({value for value, error in values if value is not None or error is None}) > 1:
                found.append(name)
    return found


def check_column(table: pa.Table, name: str) -> None:
    """Raise a ConfigError with the closest name if there is no such column."""
    if name not in table.column_names:
        hint = did_you_mean(name, table.column_names) or f"; there are {', '.join(table.column_names)}"
        raise ConfigError(f"the table has no column {name!r}{hint}")


def direction(table: pa.Table, column: str) -> tuple[str, int]:
    """Read ``COLUMN``, ``COLUMN:max`` or ``COLUMN:min``: its name, and 1 where more of it is better, -1 where less.

    Raises:
        ConfigError: there is no such column, or it is not said which way is better.
    """
    name, _, given = column.partition(":")
    check_column(table, name)
    signs = {"more": 1, "max": 1, "less": -1, "min": -1}
    way = given or better(name)
    if way not in signs:
        raise ConfigError(f"is more or less of {name} better? write {name}:max or {name}:min, given {column!r}")
    return name, signs[way]


def _numbers(table: pa.Table, name: str) -> Any:
    """Return a column as float64, NaN where it is null."""
    if not (pa.types.is_integer(table.schema.field(name).type) or pa.types.is_floating(table.schema.field(name).type)):
        raise ConfigError(f"{name} is text, not a number: it cannot be better or worse")
    values = [np.nan if value is None else float(value) for value in table[name].to_pylist()]
    return np.array(values, np.float64)
