"""A table of results on disk: parts while a sweep runs, one Parquet file in the end.

    results.parquet             the table, in the order of the spec; appears when the sweep has ended
    results.parquet.parts/      rows as they finish, each part written whole; gone when the sweep has ended

A process that is killed leaves complete parts behind, and nothing else of meaning. What was done is found by the key of
each run; a run that is there twice is the same twice.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lrcsim.base.errors import ConfigError, brief
from lrcsim.base.files import replacing
from lrcsim.base.locks import lock
from lrcsim.base.reprs import short
from lrcsim.simulator.result import loads_on_demand
from lrcsim.sweeps.columns import Row, schema

WRITING = 0.05
"""Share of the time that may go into writing: a row is written as soon as this allows, often at once."""

PARTS_AT_MOST = 500
"""More parts than this are made into one, so that reading them stays fast."""


NEEDED = ("run", "error", "hit_rate", "decode_hit_rate", "belady_hit_rate", "decode_tokens_per_s", "gpu_bytes")
"""Columns that every table of results has had."""


def read_table(path: str | Path) -> pa.Table:
    """Read a table of results, or of a sweep that still runs or was stopped what is done of it.

    Raises:
        ConfigError: there is none, or the file is no table of results.
    """
    parts = _parts(path)
    files = ([Path(path)] if Path(path).is_file() else []) + parts
    if not files:
        raise ConfigError(f"there is no table {path}: lrcsim sweep SPEC -o {path} makes one")
    tables = []
    for file in files:
        try:
            tables.append(pq.read_table(file, partitioning=None))
        except (OSError, pa.ArrowException, ValueError) as error:
            raise ConfigError(f"{file} is no Parquet table: {brief(error)}") from None
        _check_columns(file, tables[-1])
    try:
        table = pa.concat_tables(tables, promote_options="default")
    except pa.ArrowException as error:
        raise ConfigError(f"{path} and its parts are of different kinds: {brief(error)}") from None
    rows = {key: row for row, key in enumerate(table["run"].to_pylist())}  # the last of each
    return _without_strange_gaps(table.take(pa.array(sorted(rows.values()), pa.int64())))


def _without_strange_gaps(table: pa.Table) -> pa.Table:
    """Return a table without the shares of a gap that older lrcsim wrote where there is none (`loads_on_demand`)."""
    names = ("gap_closed", "prefetch", "hits", "bytes_loaded")
    if not set(names) <= set(table.column_names):
        return table
    told = zip(*(table[name].to_pylist() for name in names), strict=True)
    shares = [share if loads_on_demand(prefetch, hits or 0, loaded) else None for share, prefetch, hits, loaded in told]
    return table.set_column(
        table.schema.get_field_index("gap_closed"), table.schema.field("gap_closed"), pa.array(shares, pa.float64())
    )


def _check_columns(file: Path, table: pa.Table) -> None:
    """Refuse a table that no sweep has written: it lacks columns, or they are of other types."""
    said = table.schema.metadata or {}
    for name, value in schema(()).metadata.items():
        if said.get(name, value) != value:
            raise ConfigError(
                f"{file} is no table of results that this lrcsim reads: its {name.decode()} is "
                f"{short(said[name].decode(errors='replace'))}, not {value.decode()}"
            )
    names = table.column_names
    lacks = [name for name in NEEDED if name not in names]
    if lacks:
        raise ConfigError(f"{file} is no table of results: it has no column {', '.join(map(repr, lacks))}")
    known = {field.name: field.type for field in schema(())}
    for field in table.schema:
        if pa.types.is_null(field.type):
            continue
        mine = _kind(field.type)
        if mine is None or (field.name in known and mine != _kind(known[field.name])):
            raise ConfigError(f"{file} is no table of results: its column {field.name!r} is {field.type}")
    if table["run"].null_count:
        raise ConfigError(f"{file} is no table of results: rows without a value in column 'run'")


def _kind(type_: pa.DataType) -> str | None:
    """Return what kind of value a column has: text, a flag, a number; None for what no table of results has."""
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return "text"
    if pa.types.is_boolean(type_):
        return "flag"
    return "number" if pa.types.is_integer(type_) or pa.types.is_floating(type_) else None


def _parts(path: str | Path) -> list[Path]:
    return sorted(_folder(path).glob("[0-9]*.parquet"))


def _folder(path: str | Path) -> Path:
    return Path(f"{path}.parts")


class TableStore:
    """The table of one sweep.

    Args:
        path: the table's file, ``.parquet``.
        schema: its columns.
    """

    def __init__(self, path: str | Path, schema: pa.Schema) -> None:
        self.path = Path(path)
        self.schema = schema
        self.waiting: list[Row] = []
        self.started = time.monotonic()
        self.spent = 0.0
        self.leftover = False  # on Windows: a folder stays as long as a file in it is open, here the lock

    def done(self, *, failed: bool = True) -> set[str]:
        """Return the keys of the runs in the table and its parts, with or without those that failed."""
        if not self.path.is_file() and not _parts(self.path):
            return set()
        table = read_table(self.path).select(["run", "error"])
        rows = zip(table["run"].to_pylist(), table["error"].to_pylist(), strict=True)
        return {key for key, error in rows if failed or error is None}

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the table: parts are made in this block, what waits is written at its end whatever ends it.

        Raises:
            ConfigError: another process holds it, or the folder cannot be made.
        """
        folder = _folder(self.path)
        try:
            folder.mkdir(exist_ok=True)
            held = os.open(folder / "lock", os.O_CREAT | os.O_RDWR)
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written: {error.strerror}") from None
        try:
            _hold(held, self.path)
            try:
                yield
            finally:
                self.flush()
        finally:
            os.close(held)
        if self.leftover:
            shutil.rmtree(folder, ignore_errors=True)

    def add(self, rows: Sequence[Row]) -> None:
        """Take rows that are finished."""
        self.waiting += rows
        if self.spent <= WRITING * (time.monotonic() - self.started):
            self.flush()

    def flush(self) -> None:
        """Write what waits as a part of its own."""
        if not self.waiting:
            return
        begin = time.monotonic()
        self._write_part(pa.Table.from_pylist(self.waiting, schema=self.schema))
        self.waiting = []
        parts = _parts(self.path)
        if len(parts) > PARTS_AT_MOST:
            self._write_part(pa.concat_tables([pq.read_table(part) for part in parts], promote_options="default"))
            for part in parts:
                part.unlink()
        self.spent += time.monotonic() - begin

    def _write_part(self, table: pa.Table) -> None:
        known = _parts(self.path)
        number = int(known[-1].stem) + 1 if known else 0
        with replacing(_folder(self.path) / f"{number:08d}.parquet") as partial:
            pq.write_table(table, partial)

    def finish(self, keys: Sequence[str]) -> pa.Table:
        """Make the one table of the parts and the table before, with these runs in this order; return it."""
        self.flush()
        table = read_table(self.path)
        row = {key: number for number, key in enumerate(table["run"].to_pylist())}
        table = table.take([row[key] for key in keys])
        columns = [
            table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
            for field in self.schema
        ]
        table = pa.Table.from_arrays(columns, schema=self.schema).combine_chunks()
        with replacing(self.path) as partial:
            pq.write_table(table, partial)
        shutil.rmtree(_folder(self.path), ignore_errors=True)
        self.leftover = _folder(self.path).exists()
        return table


def _hold(descriptor: int, path: Path) -> None:
    """Lock a file for as long as this process lives."""
    try:
        lock(descriptor)
    except OSError:
        raise ConfigError(f"another sweep is writing {path}: wait for it, or name another table with -o") from None
