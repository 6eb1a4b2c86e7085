"""What the files of tables have in common, whichever way they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa


class TableFile:
    """The file of a table: `CsvText`, `JsonRows` or `ParquetRows`.

    Attributes:
        path: the file.
        names: of its columns.
        depths: how deep the lists of a column are; those without lists may be left out.
        first: the first row, by column, where it was read.
        mapping: what the user said of columns (ours = theirs), in the names of this file.
        comments: lines of a comment header, without the leading ``#``.
        metadata: what a record before the first row says.
        notices: what the user should know.
        size: work of one pass over the file, in the unit of the positions that `batches` reports.
        why_loose: what was wrong with the first cell that is no plain number; from then on cells are read as text.
    """

    def __init__(self, path: Path, mapping: Mapping[str, str], size: int) -> None:
        self.path, self.size = path, size
        self.names: list[str] = []
        self.depths: dict[str, int] = {}
        self.first: dict[str, Any] = {}
        self.mapping = dict(mapping)
        self.comments: list[str] = []
        self.metadata: dict[str, Any] = {}
        self.notices: list[str] = []
        self.why_loose = ""

    def first_cell(self, name: str) -> object:
        """Return the first cell of a column, where that is text; None where there is no such column."""
        return self.first.get(name)

    def batches(self, types: Mapping[str, Any], report: Callable[[int], None], rows: int) -> Iterator[pa.RecordBatch]:
        """Read some columns of all rows.

        Args:
            types: the columns, each with the Arrow type in which text is to be read.
            report: called with the position in the file.
            rows: at a time, where that can be chosen.

        Raises:
            TraceError: a row has not all columns, or their types differ from row to row.
        """
        raise NotImplementedError
