"""Import folders of one table per layer, ``layer_02.parquet``: a row per token with its experts (FLAME-MoE-Traces).

Columns are found as in other tables (``indices`` and ``scores``, ``topk_ids`` and ``topk_weights`` ...). Row i of every
file is token i; a column of requests is not expected, so all tokens are one request. The files are read side by side.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers import values
from lrcsim.traces.importers.common import NO_PHASES, RUN, guessed_experts
from lrcsim.traces.importers.files import named_while
from lrcsim.traces.importers.names import ALIASES, plain
from lrcsim.traces.importers.parquet_rows import ParquetRows
from lrcsim.traces.importers.source import Columns, Options, Progress, Request, Source
from lrcsim.traces.layers import MAX_EXPERTS, LayerTable

NAME = re.compile(r"(?:.*?[_.-])?(?:layer|blk|block|l)[_.-]?(\d+)\.parquet", re.IGNORECASE)


def matches(path: Path, _head: bytes) -> bool:
    """Tell whether a folder holds one Parquet file per layer."""
    return path.is_dir() and bool(files_of(path))


def files_of(path: Path) -> list[tuple[int, Path]]:
    """Return a folder's files by layer; nothing where other Parquet files stand between them."""
    found = [(NAME.fullmatch(file.name), file) for file in path.glob("*.parquet") if not file.name.startswith(".")]
    if not found or any(match is None for match, _ in found):
        return []
    return sorted((int(match[1]), file) for match, file in found if match is not None)


def open_source(path: Path, options: Options, progress: Progress) -> Source:
    """Check that the files belong together, read the experts once where E is not given, and return a source."""
    files = files_of(path)
    if not files:
        raise TraceError(f"{path}: holds no files named layer_NN.parquet")
    for (low, _), (high, file) in pairwise(files):
        if low == high:
            raise TraceError(f"{file}: layer {low} has two files")
    opened = [_Layer(file) for _, file in files]
    tokens = opened[0].rows
    for layer in opened:
        if layer.rows != tokens:
            raise TraceError(f"{layer.path}: has {layer.rows:,} rows, {opened[0].path.name} has {tokens:,}")
    weighted = all(layer.weight is not None for layer in opened)
    notices = [] if options.phase is not None or options.prompt_tokens is not None else [NO_PHASES]
    notices.append("all rows are one request: the files do not tell requests apart")
    top_k = [layer.width() for layer in opened]
    experts = options.num_experts
    if experts is None:
        largest = max(layer.largest() for layer in opened)
        if largest < 0:
            raise TraceError(f"{path}: holds no expert at all, every id is -1")
        experts = guessed_experts(largest, notices, options.likely)
    layers = LayerTable.build(
        len(files), experts, top_k, expert_bytes=options.expert_bytes, block=[block for block, _ in files]
    )
    prompt, column = options.prompt()
    if column is not None:
        raise TraceError("files per layer have no column of prompt lengths: give --prompt-tokens N")

    def runs() -> Iterator[Columns]:
        readers = [layer.runs(weighted) for layer in opened]
        done = 0
        for pieces in zip(*readers, strict=True):
            count = len(pieces[0][0])
            columns: Columns = {"experts": np.full((count, len(files), max(top_k)), -1, np.int32)}
            if weighted:
                columns["weights"] = np.zeros(columns["experts"].shape, np.float32)
            for at, (ids, weights) in enumerate(pieces):
                columns["experts"][:, at, : top_k[at]] = ids
                if weights is not None and weighted:
                    columns["weights"][:, at, : top_k[at]] = weights
            if prompt is not None:
                columns["phase"] = (np.arange(done, done + count) >= prompt).astype(np.uint8)
            yield columns
            done += count
            progress(done, tokens)

    def requests() -> Iterator[Request]:
        yield None, runs()

    return Source(layers, path.resolve().name, requests, {}, notices, experts_guessed=options.num_experts is None)


class _Layer:
    """One layer's file.

    Attributes:
        path: the file.
        rows: its rows.
        expert: the column of experts.
        weight: the column of weights, or None.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = ParquetRows(path, {})
        self.rows = self._file.size
        named = {plain(name): name for name in reversed(self._file.names)}
        expert = next((named[name] for name in ALIASES["expert"] if name in named), None)
        if expert is None:
            raise TraceError(
                f"{path}: has no column of experts ({', '.join(ALIASES['expert'][4:10])}, indices ...), it has "
                f"{', '.join(named.values())[:200]}"
            )
        self.expert = expert
        self.weight = next((named[name] for name in ALIASES["weight"] if name in named), None)

    def width(self) -> int:
        """Return k: the length of the first row's list."""
        return int(next(self.runs(False))[0].shape[1])

    def largest(self) -> int:
        """Return the largest id."""
        return max(int(ids.max()) for ids, _ in self.runs(False))

    def runs(self, weighted: bool) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any] | None]]:
        """Yield ids int64 [n, k] and weights float32 [n, k], a run of tokens at a time."""
        return named_while(self.path, self._runs(weighted))

    def _runs(self, weighted: bool) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any] | None]]:
        columns = [self.expert, *([self.weight] if weighted and self.weight is not None else [])]
        row, k = 1, None
        for batch in self._file.batches(dict.fromkeys(columns), lambda _: None, RUN):
            ids = self._square(batch.column(self.expert), "expert", row, k)
            k = ids.shape[1]
            if int(ids.min()) < -1 or int(ids.max()) >= MAX_EXPERTS:
                at = int(np.argmax(((ids < -1) | (ids >= MAX_EXPERTS)).any(axis=1)))
                raise TraceError(f"row {row + at}: expert id out of all range in {ids[at].tolist()}")
            yield ids, self._square(batch.column(columns[1]), "weight", row, k) if len(columns) > 1 else None
            row += batch.num_rows

    def _square(self, column: Any, name: str, row: int, k: int | None) -> npt.NDArray[Any]:
        column = values.decoded(column)
        if not pa.types.is_list(column.type):
            column = pa.ListArray.from_arrays(pa.array(np.arange(len(column) + 1, dtype=np.int32)), column)
        lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False)
        k = int(lengths[0]) if k is None else k
        if k == 0 or (lengths != k).any():
            at = int(np.argmax(lengths != k))
            raise TraceError(f"row {row + at} lists {lengths[at]} values of {name}, others {k}")
        flat = pc.list_flatten(column)
        if name == "weight":
            listed = values.numbers(name, flat, row).fill_null(0)
        else:
            parents = np.repeat(np.arange(len(lengths)), lengths)
            listed = values.integers(name, flat, row, parents).fill_null(-1)
        return np.asarray(listed.to_numpy(zero_copy_only=False)).reshape(-1, k)
