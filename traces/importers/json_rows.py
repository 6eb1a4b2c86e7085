"""JSON as rows: objects on lines, a list of objects, an object around them, or one bare nested list."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers import lists
from lrcsim.traces.importers.files import open_bytes, read_some
from lrcsim.traces.importers.json_objects import objects
from lrcsim.traces.importers.names import ALIASES, STEMS, families, plain
from lrcsim.traces.importers.table_file import TableFile

BLOCK = 8 << 20
LONGEST_LINE = 1 << 30
RECORD = "record_type"
SHARED = frozenset((*ALIASES["prompt_tokens"], *ALIASES["cached_tokens"], *ALIASES["domain"]))
"""What an object says of all the requests in it."""

EXPERTS = frozenset((*ALIASES["expert"], *ALIASES["logits"]))


class JsonRows(TableFile):
    """The objects of a JSON file as Arrow batches.

    A first object without experts is metadata. Where an object holds its rows in a list of objects (``activations``),
    these are the rows, and each outer object is a request.
    """

    def __init__(self, path: Path, mapping: Mapping[str, str], size: int) -> None:
        super().__init__(path, mapping, size)
        self._schema: pa.Schema | None = None
        self._lines = self._is_lines()
        shown = self._shown()
        self._inner = _rows_inside(shown)
        self.first = shown
        if self._inner is not None:
            self.first = {k: v for k, v in shown.items() if k != self._inner} | shown[self._inner][0]
            outer = {name: value for name, value in shown.items() if isinstance(value, (str, int))}
            self.metadata = self.metadata or outer
        keys = [*shown, *(self.first if self._inner is not None else ())]
        self.names = [name for name in dict.fromkeys(keys) if name != self._inner]
        if self._inner is not None and not any(plain(n) in ALIASES["request"] for n in self.names):
            self.names.append("request")
        if RECORD in self.names and self.metadata and not any(plain(n) in ALIASES["request"] for n in self.names):
            self.names.append("request")
        self.depths = {name: list_depth(value) for name, value in self.first.items() if list_depth(value)}

    def _is_lines(self) -> bool:
        """Tell whether every object stands on a line of its own; look at the first."""
        stream, _, _ = open_bytes(self.path)
        with stream:
            line = b""
            while block := read_some(self.path, stream, BLOCK):
                line = (line + block).removeprefix(b"\xef\xbb\xbf").lstrip()
                if b"\n" in line or len(line) > LONGEST_LINE:
                    break
        self._bare = line.startswith(b"[") and line[1:64].lstrip()[:1] == b"["
        if line.startswith(b"["):
            return False
        try:
            value = json.loads(line.split(b"\n", 1)[0])
        except (ValueError, RecursionError):
            rest = line.split(b"\n", 1)[0].strip()
            if len(rest) > 1 and rest.endswith(b"}"):  # an object on one line, and broken
                raise TraceError("line 1 is no JSON object") from None
            return False
        return isinstance(value, dict) and _inside(value) is None

    def _shown(self) -> dict[str, Any]:
        """Return the first object that is a row or a request; one before it is metadata."""
        seen: list[dict[str, Any]] = []
        for value in self._values():
            if _has_experts(value) or _rows_inside(value) is not None:
                if seen:
                    self.metadata = seen[0]
                self._skip_first = bool(seen)
                return value
            seen.append(value)
            if len(seen) == 2:
                break
        self._skip_first = False
        if not seen:
            raise TraceError("has no rows")
        return seen[0]

    def _values(self) -> Iterator[dict[str, Any]]:
        if self._bare:
            yield from self._bare_lists()
            return
        for number, value in enumerate(objects(self.path, lambda _: None)):
            inside = _inside(value)
            if inside is None:
                yield value
            else:
                outer = {k: v for k, v in value.items() if k != inside and not isinstance(v, dict)}
                shared = {k: v for k, v in outer.items() if plain(k) in SHARED}
                if number == 0:
                    yield {k: v for k, v in outer.items() if not isinstance(v, list)}
                for inner in value[inside]:
                    yield {**shared, **inner} if isinstance(inner, dict) else {}

    def _bare_lists(self) -> Iterator[dict[str, Any]]:
        stream, _, _ = open_bytes(self.path)
        try:
            with stream:
                value = json.loads(bytes(stream.read()))
        except (ValueError, RecursionError, OSError) as error:
            raise TraceError(f"is no JSON ({str(error)[:120]})") from None
        depth = list_depth(value)
        if depth not in (3, 4):
            raise TraceError(
                f"holds lists {depth} deep, allowed are [tokens][layers][k], or a list of these, one per request"
            )
        yield from ({"experts": request} for request in (value if depth == 4 else [value]))

    def batches(self, types: Mapping[str, Any], report: Callable[[int], None], rows: int) -> Iterator[pa.RecordBatch]:
        """Read some keys of all rows, and report the position in the file.

        Raises:
            TraceError: a row has not all keys, or their types differ from row to row.
        """
        names, first_record, without = list(types), 0, 0
        for table in self._tables(names, report):
            table, first_record = self._numbered(table, names, first_record)
            absent = [name for name in names if name not in table.schema.names]
            if table.num_rows == 0:
                continue
            if absent:
                raise TraceError(f"some rows have no {absent[0]!r}")
            for batch in table.select(names).combine_chunks().to_batches():
                empty = functools.reduce(pc.and_, [pc.is_null(column) for column in batch.columns])
                if pc.any(empty).as_py():  # events, sums at the end and the like
                    without += int(pc.sum(empty).as_py())
                    batch = batch.filter(pc.invert(empty))
                yield batch
        if without:
            self.notices.append(f"records without routing were left out: {without:,}")

    def _numbered(self, table: pa.Table, names: Sequence[str], first_record: int) -> tuple[pa.Table, int]:
        """Take rows out of their objects, drop metadata, and number requests where nothing else does."""
        if self._inner is not None:
            index = np.arange(table.num_rows) + first_record
            return self._taken_out(table, names, index), first_record + table.num_rows
        if RECORD in table.schema.names and self.metadata:
            said = pc.equal(table.column(RECORD), str(self.metadata.get(RECORD, "metadata"))).fill_null(False)
            said = said.combine_chunks().cast(pa.int64())
            number = first_record + (pc.cumulative_sum(said).to_numpy() if len(said) else np.zeros(0, np.int64))
            if "request" in names and "request" not in table.schema.names:
                table = table.append_column("request", pa.array(number))
            table = table.filter(pc.equal(said, 0))
            return table, int(number[-1]) if len(number) else first_record
        return table, first_record

    def _taken_out(self, table: pa.Table, names: Sequence[str], index: Any) -> pa.Table:
        inner = table.column(self._inner).combine_chunks()
        lengths = lists.lengths(inner)
        parents = np.repeat(np.arange(len(lengths)), lengths)
        structs = pc.list_flatten(inner)
        fields = {field.name: at for at, field in enumerate(structs.type)} if pa.types.is_struct(structs.type) else {}
        columns = {}
        for name in names:
            if name in fields:
                columns[name] = pc.struct_field(structs, [fields[name]])
            elif name == "request" and "request" not in table.schema.names:
                columns[name] = pa.array(index[parents])
            elif name in table.schema.names:
                column = table.column(name).combine_chunks()
                if pa.types.is_list(column.type):
                    column = self._of_token(column, structs, fields, parents)
                    columns[name] = column
                else:
                    columns[name] = column.take(pa.array(parents))
        return pa.table(columns) if columns else table.slice(0, 0)

    def _of_token(self, column: Any, structs: Any, fields: dict[str, int], parents: Any) -> Any:
        """Give each row the item of its token."""
        theirs = next((name for name in fields if plain(name) in ALIASES["token"]), None)
        if theirs is None:
            raise TraceError("the rows have no number of their token")
        token = pc.struct_field(structs, [fields[theirs]]).cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)
        return lists.of_tokens(column, parents, token)

    def _tables(self, names: Sequence[str], report: Callable[[int], None]) -> Iterator[pa.Table]:
        wanted = [*names, *([self._inner] if self._inner is not None else []), RECORD]
        if not self._lines:
            yield from self._tables_of_objects(wanted, report)
            return
        stream, position, _ = open_bytes(self.path)
        rest = b""
        skip = self._skip_first and RECORD not in self.metadata
        with stream:
            while block := read_some(self.path, stream, BLOCK):
                if skip and b"\n" in rest + block:  # the object before the first row
                    rest, block, skip = b"", (rest + block).lstrip().split(b"\n", 1)[1], False
                text, newline, rest = (rest + block).rpartition(b"\n")
                if text.strip():
                    yield self._parse(text + newline, wanted)
                report(position())
            if rest.strip():
                yield self._parse(rest, wanted)

    def _tables_of_objects(self, wanted: Sequence[str], report: Callable[[int], None]) -> Iterator[pa.Table]:
        held: list[dict[str, Any]] = []
        weight = 0
        for number, value in enumerate(self._values()):
            if number == 0 and self._skip_first:
                continue
            held.append({name: value[name] for name in wanted if name in value})
            weight += 1 + sum(map(_items, held[-1].values()))
            if weight > 1 << 20:
                yield self._from_objects(held, wanted)
                held, weight = [], 0
        if held:
            yield self._from_objects(held, wanted)
        report(self.path.stat().st_size)

    def _parse(self, text: bytes, wanted: Sequence[str]) -> pa.Table:
        """Parse whole lines; where types differ from line to line, one after the other."""
        schema = self._schema
        if schema is not None:
            schema = pa.schema([field for field in schema if field.name in wanted])
        options = arrow_json.ParseOptions(
            explicit_schema=schema, unexpected_field_behavior="ignore" if schema else "infer"
        )
        size = max(2 * BLOCK, len(text) + 1)
        try:
            table = arrow_json.read_json(
                pa.BufferReader(text), arrow_json.ReadOptions(use_threads=True, block_size=size), options
            )
            if schema is None or all(name in schema.names for name in wanted if name in table.schema.names):
                if schema is None and set(self.names) <= {*table.schema.names, "request"}:
                    self._schema = pa.schema([f for f in table.schema if not pa.types.is_null(f.type)])
                return table
        except pa.ArrowInvalid:
            pass
        held = []
        for line in text.split(b"\n"):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                shown = line[:40].decode(errors="replace")
                raise TraceError(f"{shown!r}... is no JSON object ({str(error)[:120]})") from None
            if not isinstance(value, dict):
                raise TraceError(f"{line[:40].decode(errors='replace')!r} is no JSON object")
            held.append({name: value[name] for name in wanted if name in value})
        return self._from_objects(held, wanted)

    def _from_objects(self, held: list[dict[str, Any]], wanted: Sequence[str]) -> pa.Table:
        columns = {}
        for name in wanted:
            given = [value.get(name) for value in held]
            if not any(name in value for value in held):
                continue
            try:
                columns[name] = pa.array(given)
            except (pa.ArrowException, OverflowError, ValueError, TypeError) as error:
                raise TraceError(f"{name!r} has values of several kinds ({str(error)[:120]})") from None
        return pa.table(columns) if columns else pa.table({"": pa.array([None] * len(held))})


def _has_experts(value: dict[str, Any]) -> bool:
    if any(plain(name) in EXPERTS for name in value):
        return True
    return any(stem in STEMS["expert"] or stem in STEMS["logits"] for stem in families(list(value)))


def _rows_inside(value: dict[str, Any]) -> str | None:
    """Find the key that holds rows: a list of flat objects with experts."""
    for name, inner in value.items():
        if isinstance(inner, list) and inner and isinstance(inner[0], dict) and _has_experts(inner[0]):
            return None if any(list_depth(v) > 1 for v in inner[0].values()) else name
    return None


def _inside(value: dict[str, Any]) -> str | None:
    """Find the key that holds requests: a list of objects that hold their rows themselves."""
    if _has_experts(value):
        return None
    for name, inner in value.items():
        if isinstance(inner, list) and inner and isinstance(inner[0], dict):
            deep = any(list_depth(v) > 1 for v in inner[0].values()) and _has_experts(inner[0])
            if deep or _rows_inside(inner[0]) is not None:
                return name
    return None


def list_depth(value: object) -> int:
    """Count how deep lists are nested; 0: no list. The first item that is not empty says it."""
    depth = 0
    while isinstance(value, list):
        depth += 1
        value = next((item for item in value if not isinstance(item, list) or item), None)
    return depth


def _items(value: object) -> int:
    """Count the items of a value roughly, for the size of a batch."""
    if not isinstance(value, list):
        return 1
    return len(value) * _items(value[0]) if value else 1
