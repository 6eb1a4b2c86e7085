"""Tables whose requests are interleaved: their rows put together, on disk where there are many."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lrcsim.traces.importers.names import ALIASES
from lrcsim.traces.importers.rows import Batch, Rows

IN_MEMORY = 2_000_000
"""Rows held in memory at a time (a single request may be longer); more are sorted into temporary files."""

FILES = 256
"""Temporary files at most."""


class Regrouped:
    """The rows of a table, request after request, in the order in which the requests first appear."""

    def __init__(self, rows: Rows) -> None:
        self.path: Path = rows.path
        self.names, self.wide, self.notices = rows.names, rows.wide, rows.notices
        self.comments, self.metadata = rows.comments, rows.metadata
        codes = _count(rows)
        self.size = sum(count for _, count in codes.values())
        self.num_experts = rows.num_experts
        self.notices.append(f"the rows of {len(codes):,} requests are interleaved; they were put together")
        limit = max(IN_MEMORY, -(-self.size // FILES))
        bucket, held, number = {}, 0, 0
        for value, (_, count) in codes.items():
            if held and held + count > limit:
                number, held = number + 1, 0
            bucket[value] = number
            held += count
        self._folder = tempfile.TemporaryDirectory(prefix="lrcsim-import-")
        try:
            self._split(rows, {value: code for value, (code, _) in codes.items()}, bucket, number + 1)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Remove the temporary files."""
        self._folder.cleanup()

    def _split(self, rows: Rows, codes: dict[object, int], bucket: dict[object, int], files: int) -> None:
        """Write each bucket of requests to a file of its own, its rows in the file's order."""
        self._files = [Path(self._folder.name) / f"{number}.arrow" for number in range(files)]
        writers: dict[int, Any] = {}
        try:
            for batch in rows.batches(set(ALIASES), lambda _: None):
                code, place = _lookup(batch["request"], codes), _lookup(batch["request"], bucket)
                table = pa.record_batch({**batch, " code": pa.array(code)})
                for number in np.unique(place).tolist():
                    part = table.filter(pa.array(place == number)) if files > 1 else table
                    if number not in writers:
                        writers[number] = pa.ipc.new_file(str(self._files[number]), part.schema)
                    writers[number].write_batch(part)
        finally:
            for writer in writers.values():
                writer.close()

    def batches(self, wanted: Collection[str], report: Callable[[int], None]) -> Iterator[Batch]:
        """Yield the wanted columns, bucket after bucket."""
        done = 0
        for file in self._files:
            with pa.memory_map(str(file)) as mapped:
                table = pa.ipc.open_file(mapped).read_all()
                order = np.argsort(table.column(" code").to_numpy(), kind="stable")
                columns = [name for name in table.column_names if name in wanted]
                taken = table.select(columns).take(pa.array(order)).combine_chunks()
            done += table.num_rows
            for batch in taken.to_batches(max_chunksize=1 << 18):
                yield {name: batch.column(name) for name in columns}
            report(done)


def _count(rows: Rows) -> dict[object, tuple[int, int]]:
    """Return each request's number in the order of their first rows, and its number of rows."""
    found: dict[object, tuple[int, int]] = {}
    for batch in rows.batches({"request", "expert"} if rows.wide else {"request"}, lambda _: None):
        for entry in pc.value_counts(batch["request"]).to_pylist():
            code, count = found.get(entry["values"], (len(found), 0))
            found[entry["values"]] = code, count + entry["counts"]
    return found


def _lookup(column: Any, known: dict[object, int]) -> Any:
    """Return the number of each row's request."""
    encoded = pc.dictionary_encode(column)
    numbers = np.array([known[value] for value in encoded.dictionary.to_pylist()], np.int64)
    return numbers[encoded.indices.to_numpy()]
