"""Tables of any kind (CSV, TSV, JSON lines, Parquet) as one stream of batches in long form, one row per expert."""

from __future__ import annotations

import csv as text_csv
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet
from pyarrow import json as arrow_json

from lrcsim.errors import TraceError, did_you_mean
from lrcsim.traces.importers.source import open_bytes

__all__ = ["Batch", "Rows"]

Batch = dict[str, Any]
"""Arrow columns of equal length, under our names."""

BLOCK = 8 << 20
"""Bytes parsed at a time."""

TEXT = ("request", "phase", "domain")
LISTS = ("expert", "weight", "residency")
PLURALS = ("experts", "expert_ids", "selected_experts", "topk_ids", "topk_experts")


class Rows:
    """A table, with its columns found by name.

    Args:
        path: the file.
        aliases: for each of our columns, the names it goes by in files.
        mapping: for some of our columns, the file's own name.

    Attributes:
        names: the file's name of each of our columns that it has.
        comments: lines of the comment header, without the leading ``#``.
        wide: whether a row holds a list of experts.
        size: work of one pass over the file, in the unit of the positions that `batches` reports.
    """

    def __init__(self, path: Path, aliases: Mapping[str, Collection[str]], mapping: Mapping[str, str]) -> None:
        self.path = path
        self.comments: list[str] = []
        stream, _, self.size = open_bytes(path)
        with stream:
            head = _read(path, stream, 1 << 20)
        if head.startswith(b"PAR1"):
            self._kind = "parquet"
            with self._parquet() as file:
                schema, self.size = file.schema_arrow, file.metadata.num_rows
            first, present = {field.name: field.type for field in schema}, schema.names
        elif head.lstrip()[:1] == b"{":
            self._kind = "json"
            first, present = self._first_object(head)
        else:
            self._kind = "csv"
            first, present = self._first_line(head)
        self.names = self._find(present, aliases, mapping)
        theirs = self.names.get("expert", "")
        value = first.get(theirs)
        if isinstance(value, str):  # CSV: a cell that is no integer is a list
            self.wide = theirs.lower() in PLURALS or re.fullmatch(r"\s*[+-]?\d+\s*", value) is None
        else:
            self.wide = isinstance(value, list) or (isinstance(value, pa.DataType) and pa.types.is_nested(value))
        if self.wide:
            self.names.pop("rank", None)  # the list's order is the rank

    def _first_line(self, head: bytes) -> tuple[dict[str, Any], list[str]]:
        """Find the comment header, the delimiter and the column names of a CSV file."""
        try:
            lines = head.decode("utf-8-sig", errors="strict" if len(head) < 1 << 20 else "ignore").split("\n")
        except UnicodeDecodeError:
            raise TraceError(f"{self.path}: is neither text, Parquet, gzip nor zstd") from None
        self._skip = 0
        while self._skip < len(lines) and (lines[self._skip].startswith("#") or not lines[self._skip].strip()):
            self.comments.append(lines[self._skip].lstrip("# ").rstrip())
            self._skip += 1
        rows = [line for line in lines[self._skip : self._skip + 100] if line.strip() and not line.startswith("#")]
        if len(rows) < 2:
            raise TraceError(f"{self.path}: has no rows under its column names")
        self._delimiter = max("\t,;", key=rows[0].count)
        try:
            present, first = (
                [cell.strip() for cell in next(text_csv.reader([row], delimiter=self._delimiter))] for row in rows[:2]
            )
        except text_csv.Error as error:
            raise TraceError(f"{self.path}: is no CSV ({error})") from None
        self._header = present
        return dict(zip(present, first, strict=False)), present

    def _first_object(self, head: bytes) -> tuple[dict[str, Any], list[str]]:
        line = head.lstrip().split(b"\n", 1)[0]
        try:
            value = json.loads(line)
        except ValueError as error:
            raise TraceError(f"{self.path}: line 1 is no JSON object ({error})") from None
        return value, list(value)

    def _find(
        self, present: list[str], aliases: Mapping[str, Collection[str]], mapping: Mapping[str, str]
    ) -> dict[str, str]:
        names: dict[str, str] = {}
        lowered = {name.lower(): name for name in reversed(present)}
        for ours, known in aliases.items():
            if ours in mapping:
                if mapping[ours] not in present:
                    raise TraceError(
                        f"{self.path}: has no column {mapping[ours]!r}, it has {', '.join(present)}"
                        + did_you_mean(mapping[ours], present)
                    )
                names[ours] = mapping[ours]
                continue
            found = next((lowered[name] for name in known if name in lowered), None)
            if found is not None and found not in mapping.values():
                names[ours] = found
        for theirs in names.values():
            if present.count(theirs) > 1:
                raise TraceError(f"{self.path}: has {present.count(theirs)} columns named {theirs!r}")
        for needed in ("token", "layer", "expert"):
            if needed not in names:
                raise TraceError(
                    f"{self.path}: no column is named like {needed!r} ({', '.join(aliases[needed])}), "
                    f"it has {', '.join(present)[:200]}; say which with --columns {needed}=NAME"
                )
        return names

    def batches(self, wanted: Collection[str], report: Callable[[int], None]) -> Iterator[Batch]:
        """Yield the rows in order.

        Args:
            wanted: our names of the columns to read; those the file lacks are left out.
            report: called with the position reached, up to ``size``.

        Yields:
            Columns of equal length: ``rank`` is added in wide form; numbers are int64, weights float32.
        """
        names = {ours: theirs for ours, theirs in self.names.items() if ours in wanted}
        read = {"csv": self._csv, "json": self._json, "parquet": self._parquet_batches}[self._kind]
        first_row = 1
        try:
            for batch in read(list(names.values()), report):
                columns = {ours: batch.column(theirs) for ours, theirs in names.items()}
                yield self._long(columns, first_row) if self.wide else self._typed(columns, first_row)
                first_row += batch.num_rows
        except TraceError:
            raise
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise TraceError(f"{self.path}: {_one_line(error)}") from None

    def _csv(self, names: list[str], report: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
        ours = {theirs: name for name, theirs in self.names.items()}
        types: dict[str, Any] = {}
        for theirs in names:
            name = ours[theirs]
            text = name in TEXT or (self.wide and name in LISTS)
            types[theirs] = pa.string() if text else pa.float32() if name == "weight" else pa.int64()
        stream, position, _ = open_bytes(self.path)

        def on_bad_row(row: Any) -> str:
            return "skip" if row.text.startswith("#") else "error"

        with stream:
            reader = csv.open_csv(
                stream,
                csv.ReadOptions(
                    block_size=BLOCK, skip_rows=self._skip + 1, column_names=self._header, use_threads=False
                ),
                csv.ParseOptions(delimiter=self._delimiter, invalid_row_handler=on_bad_row),
                csv.ConvertOptions(column_types=types, include_columns=names),
            )
            for batch in reader:
                yield batch
                report(position())

    def _json(self, names: list[str], report: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
        stream, position, _ = open_bytes(self.path)
        schema, rest = None, b""
        with stream:
            while block := _read(self.path, stream, BLOCK):
                text, newline, tail = (rest + block).rpartition(b"\n")
                rest = tail
                if text.strip():
                    table = self._parse_json(text + newline, schema)
                    schema = schema or pa.schema([table.schema.field(n) for n in names if n in table.schema.names])
                    yield from _present(self.path, table, names)
                report(position())
            if rest.strip():
                yield from _present(self.path, self._parse_json(rest, schema), names)

    def _parse_json(self, text: bytes, schema: pa.Schema | None) -> pa.Table:
        options = arrow_json.ParseOptions(
            explicit_schema=schema, unexpected_field_behavior="ignore" if schema else "infer"
        )
        return arrow_json.read_json(
            pa.BufferReader(text), arrow_json.ReadOptions(use_threads=True, block_size=2 * BLOCK), options
        )

    def _parquet(self) -> parquet.ParquetFile:
        try:
            file = parquet.ParquetFile(self.path)
            file.schema_arrow.names  # noqa: B018 - damaged names fail here, not later
            return file
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise TraceError(f"{self.path}: is a damaged Parquet file ({_one_line(error)})") from None

    def _parquet_batches(self, names: list[str], report: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
        done = 0
        with self._parquet() as file:
            for batch in file.iter_batches(batch_size=262_144, columns=names):
                yield batch
                done += batch.num_rows
                report(done)

    def _typed(self, columns: Batch, first_row: int) -> Batch:
        for name, column in columns.items():
            if column.null_count and name not in ("weight", "residency", "token_id", "domain", "expert_bytes"):
                row = first_row + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
                raise TraceError(f"{self.path}: row {row} (counted from 1 under the column names) has no {name}")
            if name == "request" and not pa.types.is_string(column.type):
                columns[name] = column.cast(pa.int64())
            else:
                kind = pa.string() if name in TEXT else pa.float32() if name == "weight" else pa.int64()
                columns[name] = column.cast(kind)
        return columns

    def _long(self, columns: Batch, first_row: int) -> Batch:
        """Turn one row per token and layer into one row per expert."""
        if isinstance(columns["expert"].type, pa.DataType) and pa.types.is_string(columns["expert"].type):
            for name in LISTS:
                if name in columns:
                    numbers = pc.utf8_trim_whitespace(pc.replace_substring_regex(columns[name], r"[\[\](),;|\s]+", " "))
                    kind = pa.float32() if name == "weight" else pa.int64()
                    columns[name] = pc.split_pattern_regex(numbers, r" +").cast(pa.list_(kind))
        lists = columns["expert"]
        lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
        parents = np.repeat(np.arange(len(lengths)), lengths)
        long: Batch = {}
        for name, column in columns.items():
            if name not in LISTS:
                long[name] = column.take(pa.array(parents))
                continue
            if not pa.types.is_nested(column.type):
                raise TraceError(f"{self.path}: {name} must be a list on each row, as the experts are")
            given = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
            if (given != lengths).any():
                at = int(np.argmax(given != lengths))
                raise TraceError(
                    f"{self.path}: row {first_row + at} lists {lengths[at]} experts and {given[at]} values of {name}"
                )
            long[name] = pc.list_flatten(column)
        starts = np.cumsum(lengths) - lengths
        long["rank"] = pa.array(np.arange(len(parents)) - starts[parents])
        return self._typed(long, first_row)


def _present(path: Path, table: pa.Table, names: list[str]) -> Iterator[pa.RecordBatch]:
    absent = [name for name in names if name not in table.schema.names]
    if absent:
        raise TraceError(f"{path}: some rows have no {absent[0]!r}")
    yield from table.select(names).combine_chunks().to_batches()


def _read(path: Path, stream: Any, count: int) -> bytes:
    try:
        return bytes(stream.read(count))
    except OSError as error:
        raise TraceError(f"{path}: is damaged ({_one_line(error)})") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
