"""Parquet as rows: names and depths of the columns, and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import parquet

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers import values
from lrcsim.traces.importers.files import damaged
from lrcsim.traces.importers.table_file import TableFile


class ParquetRows(TableFile):
    """A Parquet file."""

    def __init__(self, path: Path, mapping: Mapping[str, str]) -> None:
        super().__init__(path, mapping, 0)
        with self._open() as file:
            self._schema, self.size = file.schema_arrow, file.metadata.num_rows
        self.names = self._schema.names
        self.depths = {field.name: _depth(field.type) for field in self._schema}
        if self.size == 0:
            raise TraceError(f"{path}: has no rows")

    def first_cell(self, name: str) -> str | None:
        """Return the first cell of a column of text; None: it is no text, or there is no such column."""
        if name not in self.names:
            return None
        kind = self._schema.field(name).type
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or "string_view" in str(kind)):
            return None
        for batch in self.batches({name: None}, lambda _: None, 1_024):
            cells = values.decoded(batch.column(0)).drop_null()
            if len(cells):
                return str(cells[0].as_py())
        return ""

    def batches(self, types: Mapping[str, Any], report: Callable[[int], None], rows: int) -> Iterator[pa.RecordBatch]:
        """Read some columns, so many rows at a time."""
        done = 0
        with self._damaged(), self._open() as file:
            for batch in file.iter_batches(batch_size=rows, columns=list(types)):
                yield batch
                done += batch.num_rows
                report(done)

    def _open(self) -> parquet.ParquetFile:
        with self._damaged():
            file = parquet.ParquetFile(self.path)
            file.schema_arrow.names  # noqa: B018 - damaged names fail here, not later
            return file

    def _damaged(self) -> AbstractContextManager[None]:
        return damaged(f"{self.path}: is a damaged Parquet file")


def _depth(kind: pa.DataType) -> int:
    """Count how deep the lists of a type are; 0: no list."""
    depth = 0
    while values.is_listed(kind):
        kind, depth = kind.value_type, depth + 1
    return depth
