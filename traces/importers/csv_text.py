"""CSV and its kin: comment header, delimiter, column names or none, and cells that are not quite numbers."""

from __future__ import annotations

import csv as text_csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers import lists
from lrcsim.traces.importers.files import open_bytes
from lrcsim.traces.importers.table_file import TableFile

BLOCK = 8 << 20
NUMBER = re.compile(r"\s*[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?\s*")
TENSORS = re.compile(r"(^ggml_debug:|^common_debug_cb_eval:|\bffn_moe_topk-\d+ = \()", re.MULTILINE)
"""Lines of llama-eval-callback (ggml-org/llama.cpp, `common_debug_print_tensor`): at most six numbers of a row are
printed, and six rows."""
SAMPLE = 200
"""Rows looked at to tell the columns."""


class CsvText(TableFile):
    """A text table.

    Attributes:
        sample: the cells of the first rows.
        headerless: whether the file has no column names; they are ``1, 2, ...`` then.
    """

    def __init__(self, path: Path, mapping: Mapping[str, str], size: int, head: bytes) -> None:
        super().__init__(path, mapping, size)
        try:
            text = head.decode("utf-8-sig", errors="strict" if len(head) < 1 << 20 else "ignore")
        except UnicodeDecodeError as error:
            raise TraceError(
                f"is neither UTF-8 text (byte {error.start:,} is none), Parquet, gzip nor zstd; save it as UTF-8"
            ) from None
        if TENSORS.search(text):
            raise TraceError(
                "is a log of llama-eval-callback, which prints the first and the last three numbers of a row, so "
                "experts are missing; record the model itself: lrcsim record MODEL.gguf --prompts FILE -o OUT.h5, or "
                "import what a fork's moe-trace wrote (docs/from-llamacpp.md)"
            )
        lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._skip = 0
        while self._skip < len(lines) and (lines[self._skip].startswith("#") or not lines[self._skip].strip()):
            self.comments.append(lines[self._skip].lstrip("# ").rstrip())
            self._skip += 1
        rows = [line for line in lines[self._skip : self._skip + SAMPLE] if line.strip() and not line.startswith("#")]
        if not rows:
            raise TraceError("has no rows")
        self._squeeze = False
        self._delimiter = self._find_delimiter(rows)
        cells = [self._cells(row) for row in rows]
        positional = [theirs for theirs in mapping.values() if re.fullmatch(r"\d+(-\d+)?", theirs)]
        numeric = [NUMBER.fullmatch(cell) is not None for cell in cells[0]]
        by_position = bool(positional) and len(positional) == sum(v.lower() != "none" for v in mapping.values())
        self.headerless = all(numeric) or (by_position and any(numeric))
        if self.headerless:
            self.names = [str(at + 1) for at in range(len(cells[0]))]
            self.first = dict(zip(self.names, cells[0], strict=True))
            self.mapping = dict(mapping) if mapping else self._recognised(cells)
        else:
            if len(rows) < 2:
                raise TraceError("has no rows under its column names")
            self.names = cells[0]
            self.first = dict(zip(self.names, cells[1], strict=False))
            del cells[0]
            self.mapping = {ours: self._named(theirs) for ours, theirs in mapping.items()}
        self.sample = cells
        self.depths = {name: depth for name, cell in self.first.items() if (depth := lists.brackets(cell)) > 1}
        if self.headerless and not self.mapping:
            raise TraceError(
                f"has no column names, so no column is named like 'token', 'layer' or 'expert'; say which of "
                f"its {len(self.names)} columns is which by position, for example --columns "
                + ("token=1,layer=2,expert=3" if len(self.names) < 4 else f"token=1,layer=2,expert=3-{len(self.names)}")
            )

    def _find_delimiter(self, rows: Sequence[str]) -> str:
        delimiter = max("\t,;|", key=rows[0].count)
        if rows[0].count(delimiter):
            return delimiter
        if len(rows[0].split()) > 1:
            self._squeeze = any(re.search(r"^\s|\s\s|\t|\s$", row) for row in rows)
            return " "
        return ","

    def _cells(self, row: str) -> list[str]:
        if self._squeeze:
            row = " ".join(row.split())
        try:
            return [cell.strip() for cell in next(text_csv.reader([row], delimiter=self._delimiter))]
        except (text_csv.Error, StopIteration) as error:
            raise TraceError(f"is no CSV ({error})") from None

    def _named(self, theirs: str) -> str:
        """Turn a position into the name that stands there."""
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", theirs)
        if theirs in self.names or match is None:
            return theirs
        ends = [int(end) for end in match.groups() if end is not None]
        if not all(1 <= end <= len(self.names) for end in ends):
            return theirs
        return "-".join(self.names[end - 1] for end in ends)

    def _recognised(self, cells: Sequence[Sequence[str]]) -> dict[str, str]:
        """Recognise rows of ``pos,layer,id0,id1...`` with negative positions for the prompt."""
        try:
            rows = [[int(cell) for cell in row] for row in cells]
        except ValueError:
            return {}
        width = len(rows[0])
        if width < 3 or any(len(row) != width for row in rows):
            return {}
        steps = pairwise(rows)
        prompt = rows[0][0] < 0 and all(row[1] >= 0 and min(row[2:]) >= 0 for row in rows)
        if prompt and all(a[:2] != b[:2] for a, b in steps) and all(len(set(r[2:])) == width - 2 for r in rows):
            return {"token": "1", "layer": "2", "expert": f"3-{width}"}
        return {}

    def batches(self, types: Mapping[str, Any], report: Callable[[int], None], rows: int) -> Iterator[pa.RecordBatch]:
        """Read columns, as numbers where all cells are, else as text.

        Yields:
            Batches of the columns; a column ``part`` is added where the line of names comes again, which starts a
            new file: 0 for the first, then 1, 2 ...
        """
        done = 0
        if not self.why_loose:
            try:
                for batch in self._open(types, report):
                    yield batch
                    done += batch.num_rows
                return
            except pa.ArrowInvalid as error:
                if "conversion error" not in str(error):
                    raise
                self.why_loose = " ".join(str(error).split())[:200]
        part = 0
        texts = dict.fromkeys(types, pa.string())
        skipped = 0
        for batch in self._open(texts, report):
            again = self._is_header(batch)
            parts = None
            if again is not None:
                parts = part + pc.cumulative_sum(again.cast(pa.int64())).to_numpy()
                part = int(parts[-1]) if len(parts) else part
            else:
                parts = pa.array([part] * batch.num_rows, pa.int64()).to_numpy()
            batch = pa.RecordBatch.from_arrays([*batch.columns, pa.array(parts)], [*batch.schema.names, "part"])
            if again is not None:
                batch = batch.filter(pc.invert(again))
            drop = min(done - skipped, batch.num_rows)
            skipped += drop
            if batch.num_rows > drop:
                yield batch.slice(drop)

    def _is_header(self, batch: pa.RecordBatch) -> Any:
        """Mark the rows that repeat the column names; None: there are none."""
        if self.headerless or batch.num_rows == 0:
            return None
        marks = None
        for name in batch.schema.names:
            same = pc.equal(pc.utf8_trim_whitespace(batch.column(name)), name).fill_null(False)
            marks = same if marks is None else pc.and_(marks, same)
        return marks if marks is not None and pc.any(marks).as_py() else None

    def _open(self, types: Mapping[str, Any], report: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
        stream, position, _ = open_bytes(self.path)

        def on_bad_row(row: Any) -> str:
            return "skip" if row.text.startswith("#") else "error"

        with stream:
            reader = csv.open_csv(
                _Squeezed(stream) if self._squeeze else stream,
                csv.ReadOptions(
                    block_size=BLOCK,
                    skip_rows=self._skip + (not self.headerless),
                    column_names=self.names,
                    use_threads=False,
                ),
                csv.ParseOptions(delimiter=self._delimiter, invalid_row_handler=on_bad_row),
                csv.ConvertOptions(column_types=dict(types), include_columns=list(types)),
            )
            for batch in reader:
                yield batch
                report(position())


class _Squeezed(io.RawIOBase):
    """Text whose columns stand under each other, with one space where there are several."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._rest = b""

    def readable(self) -> bool:
        """Say that it can be read."""
        return True

    def read(self, size: int = -1) -> bytes:
        """Return whole lines, about ``size`` bytes of the file."""
        while True:
            block = bytes(self._stream.read(size if size > 0 else BLOCK))
            text, end, rest = (self._rest + block).rpartition(b"\n")
            if not block:
                text, end, rest = self._rest, b"", b""
            self._rest = rest
            lines = re.sub(rb"(?m)^ +| +$", b"", re.sub(rb"[ \t]+", b" ", text.replace(b"\r", b"")))
            if lines or not block:
                return lines + end
