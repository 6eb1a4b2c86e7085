"""Tables of any kind (CSV, TSV, JSON, Parquet) as one stream of batches in long form, one row per expert."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers import lists, values
from lrcsim.traces.importers.columns import find_columns
from lrcsim.traces.importers.csv_text import CsvText
from lrcsim.traces.importers.files import one_line, open_bytes, read_some
from lrcsim.traces.importers.json_rows import JsonRows
from lrcsim.traces.importers.logits import best_of_logits
from lrcsim.traces.importers.names import plain
from lrcsim.traces.importers.parquet_rows import ParquetRows
from lrcsim.traces.importers.table_file import TableFile

Batch = dict[str, Any]
"""Arrow columns of equal length, under our names."""

OPTIONAL = (
    *("weight", "residency", "token_id", "domain", "expert_bytes"),
    *("prompt_tokens", "generated_tokens", "cached_tokens"),
)
"""Columns whose cells may be empty."""

BY_RANK = ("expert", "weight", "residency", "logits")
"""Columns that may hold a list on each row."""


class Rows:
    """A table, with its columns found by name.

    Args:
        path: the file.
        mapping: for some of our columns, the file's own name.
        top_k: experts per token, where rows hold router logits.

    Attributes:
        names: the file's name of each of our columns that it has.
        comments: lines of the comment header, without the leading ``#``.
        metadata: what a record before the first row says (JSON lines).
        wide: whether a row holds several experts.
        negative: whether tokens of the prompt have negative numbers (in the first rows).
        size: work of one pass over the file, in the unit of the positions that `batches` reports.
        holds_logits: whether rows hold router logits in place of experts.
        num_experts: experts of a layer, where router logits say so.
        notices: what the user should know of how the columns were read.
    """

    def __init__(self, path: Path, mapping: Mapping[str, str], top_k: int | None = None) -> None:
        self.path = path
        self.num_experts: int | None = None
        self._top_k = top_k
        self._prefixes: set[str] = set()
        self._file = file = _open(path, mapping)
        self.comments, self.metadata, self.size = file.comments, file.metadata, file.size
        self._layout = find_columns(file.names, file.mapping, file.depths)
        self.names, self.notices = self._layout.names, self._layout.notices
        file.notices = self.notices
        self._shape()
        self.negative = "phase" not in self.names and self._sample_is_negative()

    def _shape(self) -> None:
        """Find out how many experts, layers and tokens a row holds."""
        layout = self._layout
        self.holds_logits = "expert" not in layout.names and "expert" not in layout.ranked
        if not self.holds_logits:
            layout.names.pop("logits", None)
            layout.ranked.pop("logits", None)
        experts, weights = layout.ranked.get("expert", []), layout.ranked.get("weight", [])
        if experts and weights and len(experts) != len(weights):
            del layout.ranked["weight"]
            self.notices.append(
                f"weights left out: there are {len(weights)} columns of them, and {len(experts)} of experts"
            )
        source = "logits" if self.holds_logits else "expert"
        if self.holds_logits and self._top_k is None:
            raise TraceError("holds router logits, not experts: give --top-k")
        theirs = self.names.get(source, "")
        cell = self._file.first_cell(theirs)
        self._depth = self._file.depths.get(theirs, 0)
        if isinstance(cell, str) and source not in layout.ranked:
            self._depth = max(int(plain(theirs) in lists.PLURALS or lists.is_list(cell)), lists.brackets(cell))
        if source in layout.ranked:
            self._depth = 1
        self.wide = self._depth > 0
        if self.holds_logits and not self.wide:
            raise TraceError(f"{theirs!r} must be a list of the logits of all experts")
        if self.wide:
            self.names.pop("rank", None)  # the list's order is the rank
        axes = [axis for axis in ("token", "layer") if axis not in self.names][: max(0, self._depth - 1)]
        if self._depth > 3 or len(axes) < self._depth - 1:
            raise TraceError(
                f"{theirs!r} holds lists {self._depth} deep, allowed are [k] per token and layer, "
                "[layers][k] per token or [tokens][layers][k] per request; leave a column out with --columns layer=none"
            )
        if self._depth == 2 and axes == ["token"] and "layer" not in self.names:
            axes = ["layer"]  # a row per token
        if self._depth == 2 and "token" not in self.names and "layer" not in self.names:
            axes = ["layer"]
        self._axes = axes
        self.no_token = "token" not in self.names and "token" not in axes and self._depth < 2
        """Whether tokens follow only from the runs of rows of a layer."""

    def _sample_is_negative(self) -> bool:
        """Look at the first rows for negative token numbers."""
        if "token" not in self.names:
            return False
        theirs = self.names["token"]
        if isinstance(self._file, CsvText):
            at = self._file.names.index(theirs)
            return any(len(row) > at and re.fullmatch(r"-\d+(\.0*)?", row[at]) for row in self._file.sample)
        try:
            batch = next(self._batches({"token": theirs}, lambda _: None), None)
            column = None if batch is None else values.integers("token", batch.column(theirs), 1)
        except (TraceError, pa.ArrowException):
            return False  # what is wrong is said when all columns are read
        return column is not None and bool((column.drop_null().to_numpy() < 0).any())

    def _batches(self, names: Mapping[str, str], report: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
        """Read the file's own columns, of text those as numbers that hold plain ones."""
        beside = self._layout.beside if "request" in names else []
        types: dict[str, Any] = dict.fromkeys(beside, pa.string())
        for ours, theirs in names.items():
            number = pa.float32() if ours in ("weight", "logits") else pa.int64()
            if ours in self._layout.ranked:
                types |= dict.fromkeys(self._layout.ranked[ours], number)
            else:
                text = ours in ("request", "phase", "domain") or (self.wide and ours in BY_RANK)
                types[theirs] = pa.string() if text else number
        return self._file.batches(types, report, 262_144 if self._depth < 2 else 256)

    def batches(self, wanted: Collection[str], report: Callable[[int], None]) -> Iterator[Batch]:
        """Yield the rows in order.

        Args:
            wanted: our names of the columns to read; those the file lacks are left out.
            report: called with the position reached, up to ``size``.

        Yields:
            Columns of equal length: ``rank`` is added where a row holds several experts, ``token``, ``layer`` and
            ``request`` where they follow from the lists' depth; numbers are int64, weights float32.
        """
        wanted = {*wanted, "logits"} if self.holds_logits and "expert" in wanted else set(wanted)
        ours = [*self.names, *self._layout.ranked]
        names = {name: self.names.get(name, "") for name in ours if name in wanted}
        plainly = {name: theirs for name, theirs in names.items() if name not in self._layout.ranked}
        first_row = 1
        try:
            for batch in self._batches(names, report):
                columns: Batch = {name: values.decoded(batch.column(theirs)) for name, theirs in plainly.items()}
                for name, listed in self._layout.ranked.items():
                    if name in names:
                        columns[name] = self._side_by_side(name, [batch.column(theirs) for theirs in listed], first_row)
                for name in ("prompt_tokens", "generated_tokens"):  # a list of the tokens says how many they are
                    if name in columns and pa.types.is_list(columns[name].type):
                        columns[name] = pc.list_value_length(columns[name])
                if "request" in columns and self._layout.beside:
                    columns["request"] = _joined([columns["request"], *map(batch.column, self._layout.beside)])
                if "part" in batch.schema.names:  # several files, one after the other
                    columns["request"] = _parts(columns.get("request"), batch.column("part"))
                yield self._long(columns, first_row) if self.wide else self._typed(columns, first_row)
                first_row += batch.num_rows
        except TraceError as error:
            why = self._file.why_loose
            raise TraceError(f"{error} ({why})" if why else str(error)) from None
        except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
            raise TraceError(f"{one_line(error)[:300]}") from None

    def _side_by_side(self, name: str, columns: list[Any], first_row: int) -> Any:
        """Put one column per rank together as lists."""
        width = len(columns)
        if name in ("weight", "logits"):
            listed = [values.numbers(name, column, first_row) for column in columns]
            kind: Any = pa.float32()
            filled = [column.fill_null(np.nan).to_numpy(zero_copy_only=False) for column in listed]
        else:
            listed = [values.integers(name, column, first_row) for column in columns]
            kind = pa.int64()
            filled = [column.fill_null(-1).to_numpy(zero_copy_only=False) for column in listed]
        flat = pa.array(np.stack(filled, axis=1).ravel(), kind)
        return pa.ListArray.from_arrays(pa.array(np.arange(len(columns[0]) + 1, dtype=np.int32) * width), flat)

    def _typed(self, columns: Batch, first_row: int, parents: npt.NDArray[np.int64] | None = None) -> Batch:
        typed: Batch = {}
        for name, column in columns.items():
            if name == "request":
                typed[name] = column = values.as_request(column)
            elif name == "phase":
                self._complete(name, column, first_row, parents)
                typed[name] = pa.array(values.as_phases(self.names["phase"], column, first_row))
                continue
            elif name == "domain":
                typed[name] = column = values.as_text(column)
            elif name == "weight":
                typed[name] = column = values.numbers(name, column, first_row)
            else:
                if name == "layer":
                    self._one_naming(column)
                typed[name] = column = values.integers(name, column, first_row, parents)
            self._complete(name, column, first_row, parents)
        return typed

    def _one_naming(self, column: Any) -> None:
        """Refuse layers of two stacks under one number, as ``encoder.layers.0`` and ``decoder.layers.0``."""
        self._prefixes |= values.layer_prefixes(column)
        if len(self._prefixes) > 1:
            one, other = sorted(self._prefixes)[:2]
            raise TraceError(
                f"layers are named {one[:40] + 'N'!r} and {other[:40] + 'N'!r}, so that a number is not "
                "one layer; number the layers throughout"
            )

    def _complete(self, name: str, column: Any, first_row: int, parents: npt.NDArray[np.int64] | None) -> None:
        if column.null_count and name not in OPTIONAL:
            at = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            row = first_row + (at if parents is None else int(parents[at]))
            raise TraceError(f"{values.place(row)} has no {name}")

    def _long(self, columns: Batch, first_row: int) -> Batch:
        """Turn rows with several experts into one row per expert."""
        source = "logits" if self.holds_logits else "expert"
        listed = {name: self._lists(name, columns.pop(name), first_row) for name in BY_RANK if name in columns}
        parents = np.arange(len(listed[source]))
        axes: dict[str, npt.NDArray[np.int64]] = {}
        for axis in self._axes if self._depth > 1 else []:
            lengths = lists.lengths(listed[source])
            index = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
            for name, column in listed.items():
                self._same_lengths(name, lists.lengths(column), lengths, first_row, parents)
                listed[name] = values.decoded(pc.list_flatten(column))
            parents = np.repeat(parents, lengths)
            axes = {known: np.repeat(at, lengths) for known, at in axes.items()} | {axis: index}
        if self.holds_logits:
            logits = listed.pop("logits")
            experts, self.num_experts = best_of_logits(
                logits, int(self._top_k or 0), self.num_experts, first_row, parents
            )
            listed["expert"] = experts
            listed.pop("weight", None)
        lengths = lists.lengths(listed["expert"])
        cells = np.repeat(np.arange(len(lengths)), np.maximum(lengths, 1))
        rows = parents[cells]
        long: Batch = {}
        for name, column in columns.items():
            if pa.types.is_list(column.type):  # one item per token of a request
                if "token" not in axes:
                    raise TraceError(f"{name} holds lists, but the rows are no whole requests")
                long[name] = lists.of_tokens(column, rows, axes["token"][cells])
            else:
                long[name] = column.take(pa.array(rows))
        for axis, index in axes.items():
            long[axis] = pa.array(index[cells])
        if "token" not in long and "token" not in self.names and self._depth > 1:
            long["token"] = pa.array(first_row - 1 + rows)  # a row per token
        if "request" not in long and "token" in axes and "layer" in axes:
            long["request"] = pa.array(first_row - 1 + rows)  # a row per request
        empty = (lengths == 0)[cells]
        for name, column in listed.items():
            self._same_lengths(name, lists.lengths(column), lengths, first_row, parents)
            flat = pc.list_flatten(column)
            if not empty.any():
                long[name] = flat
                continue
            source_at = np.cumsum(~empty) - 1  # a cell without experts still is a token
            spread = flat.take(pa.array(np.where(empty, 0, source_at), mask=empty))
            long[name] = (
                pc.coalesce(spread, pa.scalar("-1" if pa.types.is_string(flat.type) else -1, flat.type))
                if (name == "expert")
                else spread
            )
        starts = np.cumsum(np.maximum(lengths, 1)) - np.maximum(lengths, 1)
        long["rank"] = pa.array(np.arange(len(cells)) - starts[cells])
        return self._typed(long, first_row, rows)

    def _lists(self, name: str, column: Any, first_row: int) -> Any:
        if self._depth > 1 and pa.types.is_string(column.type):
            return lists.nested_text(name, column, first_row)
        return lists.as_lists(name, column)

    def _same_lengths(
        self,
        name: str,
        given: npt.NDArray[np.int64],
        wanted: npt.NDArray[np.int64],
        first_row: int,
        parents: npt.NDArray[np.int64],
    ) -> None:
        if len(given) != len(wanted) or (given != wanted).any():
            differ = given[: len(wanted)] != wanted[: len(given)]
            at = int(np.argmax(differ)) if differ.any() else 0
            raise TraceError(
                f"row {first_row + int(parents[at])} lists {wanted[at]} experts and {given[at]} values of {name}"
            )


def _open(path: Path, mapping: Mapping[str, str]) -> TableFile:
    stream, _, size = open_bytes(path)
    with stream:
        head = read_some(path, stream, 1 << 20)
    if head.startswith(b"PAR1"):
        return ParquetRows(path, mapping)
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"["):
        return JsonRows(path, mapping, size)
    return CsvText(path, mapping, size, head)


def _joined(columns: list[Any]) -> Any:
    return pc.binary_join_element_wise(*[values.as_text(column) for column in columns], "/")


def _parts(request: Any, part: Any) -> Any:
    """Tell the requests of one catenated file from those of the next."""
    if request is None:
        return part
    again = pc.binary_join_element_wise(values.as_text(request), part.cast(pa.string()), "#")
    return pc.if_else(pc.equal(part, 0), values.as_text(request), again)
