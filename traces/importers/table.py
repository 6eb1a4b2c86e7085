"""Import tables: CSV, TSV, JSON lines or Parquet, one row per expert (long) or one list of experts per row (wide).

A token is identified by its request, phase and number. The rows of a request stand together; within it they may come
in any order, for instance layer after layer as engines compute a prompt. (Token, layer) pairs without rows are "not
recorded". A comment header (``# key=value ...``) may say more: the number of experts, the model, and per layer
(``# layer=3 expert_bytes=...``) the size of its experts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lrcsim.errors import ConfigError, TraceError
from lrcsim.traces.importers.rows import Batch, Rows
from lrcsim.traces.importers.source import Columns, Options, Progress, Request, Source, guessed_experts, named_after
from lrcsim.traces.layers import MAX_EXPERTS, LayerTable

__all__ = ["ALIASES", "matches", "open_source"]

ALIASES = {
    "request": ("request", "request_id", "req", "req_id", "turn", "seq", "seq_id", "sequence", "sample", "sample_id"),
    "phase": ("phase",),
    "token": ("token", "step", "position", "pos", "token_idx", "token_index", "token_pos"),
    "layer": ("layer", "layer_id", "layer_idx", "block"),
    "rank": ("rank", "slot"),
    "expert": ("expert", "expert_id", "experts", "expert_ids", "selected_experts", "topk_ids", "topk_experts"),
    "weight": ("weight", "weights", "router_weight", "topk_weights", "gate", "prob", "score"),
    "residency": ("residency", "resident"),
    "expert_bytes": ("expert_bytes",),
    "domain": ("domain", "dataset", "task", "category"),
    "token_id": ("token_id", "tok_id"),
}
"""For each column the names it goes by, in lower case; ``--columns ours=theirs`` adds to them."""

PHASES = ["0", "prefill", "1", "decode"]
EXPERTS_KEYS = ("num_experts", "n_expert", "n_experts", "num_local_experts")
MAX_LAYERS = 65_536
RUN = 16_384
"""Tokens handed over at a time."""


@dataclass
class _Scan:
    """What the first pass over a table finds, per block id where it is an array."""

    top_k: npt.NDArray[np.int64]
    largest: int
    rank_base: int
    bytes_low: npt.NDArray[np.int64]
    bytes_high: npt.NDArray[np.int64]


def matches(path: Path, head: bytes) -> bool:
    """Tell whether a file looks like a table: Parquet, JSON objects on lines, or text with a line of column names."""
    text = head.lstrip()
    return path.is_file() and (head.startswith(b"PAR1") or text[:1] == b"{" or (b"\0" not in head and b"\n" in head))


def open_source(path: Path, options: Options, progress: Progress) -> Source:
    """Read a table once for its layers, top-k and largest id, and return a source that reads it again."""
    rows = Rows(path, ALIASES, options.columns)
    if "phase" in rows.names and options.phase == "none":
        del rows.names["phase"]
    elif "phase" in rows.names and options.phase is not None:
        raise ConfigError(f"{path}: has phases of its own (column {rows.names['phase']!r}); leave --phase out")
    notices: list[str] = []
    scan = _scan(rows, lambda done: progress(done, 2 * rows.size))
    blocks = np.flatnonzero(scan.top_k)
    header, per_layer = _header(rows.comments)
    if scan.rank_base:
        notices.append(f"ranks count from {scan.rank_base} in the file, taken as 0 for the best")

    experts: int | list[int]
    if options.num_experts is not None:
        experts = options.num_experts
    elif all("num_experts" in per_layer.get(block, {}) for block in blocks.tolist()):
        experts = [per_layer[block]["num_experts"] for block in blocks.tolist()]
    else:
        said = next((int(header[key]) for key in EXPERTS_KEYS if header.get(key, "").isdecimal()), None)
        experts = said if said is not None else guessed_experts(scan.largest, notices)
    layers = LayerTable.build(
        len(blocks),
        experts,
        scan.top_k[blocks],
        expert_bytes=_expert_bytes(path, options, scan, blocks, per_layer, notices),
        block=blocks,
    )
    provenance: dict[str, Any] = {"header": header} if header else {}
    model = header.get("model") or header.get("model_name")

    def requests() -> Iterator[Request]:
        for domain, columns in _by_request(rows, lambda done: progress(rows.size + done, 2 * rows.size)):
            yield domain, _cells(path, columns, blocks, int(layers.top_k.max()), scan.rank_base, options.phase)

    if model and model.startswith("/"):
        model = PurePosixPath(model).name
    return Source(layers, model or named_after(path), requests, provenance, notices)


def _header(comments: list[str]) -> tuple[dict[str, str], dict[int, dict[str, int]]]:
    """Collect ``key=value`` pairs of a comment header: those of the file, and those of lines with ``layer=N``."""
    header: dict[str, str] = {}
    per_layer: dict[int, dict[str, int]] = {}
    for line in comments:
        pairs = dict(re.findall(r"(\w+)=(\S+)", line))
        if pairs.get("layer", "").isdecimal():
            numbers = {key: int(value) for key, value in pairs.items() if value.isdecimal()}
            per_layer.setdefault(numbers["layer"], {}).update(numbers)
        else:
            header.update(pairs)
    return header, per_layer


def _expert_bytes(
    path: Path,
    options: Options,
    scan: _Scan,
    blocks: npt.NDArray[np.intp],
    per_layer: dict[int, dict[str, int]],
    notices: list[str],
) -> npt.NDArray[np.int64] | int | None:
    """Find the bytes of one expert: as the user says, as the header says, or as the rows say."""
    if options.expert_bytes is not None:
        return options.expert_bytes
    sizes = np.array([per_layer.get(block, {}).get("expert_bytes", 0) for block in blocks.tolist()], np.int64)
    if not sizes.all():
        low, high = scan.bytes_low[blocks], scan.bytes_high[blocks]
        differ = np.flatnonzero((sizes == 0) & (high > 0) & (low != high))
        if len(differ):
            at = differ[0]
            raise TraceError(
                f"{path}: layer {blocks[at]} has experts of {low[at]} and of {high[at]} bytes; "
                "one size per layer is allowed, give it with --expert-bytes"
            )
        sizes = np.where(sizes > 0, sizes, high)
    if sizes.all():
        return sizes
    if sizes.any():
        notices.append(f"expert bytes left out: they are given for {np.count_nonzero(sizes)} of {len(sizes)} layers")
    return None


def _scan(rows: Rows, report: Callable[[int], None]) -> _Scan:
    top_k = np.zeros(MAX_LAYERS, np.int64)
    low, high = np.full(MAX_LAYERS, np.iinfo(np.int64).max), np.zeros(MAX_LAYERS, np.int64)
    largest, rank_base, row = -1, None, 1
    ranked = rows.wide or "rank" in rows.names
    for batch in rows.batches({"layer", "rank", "expert", "expert_bytes"}, report if ranked else lambda _: None):
        layer, expert = batch["layer"].to_numpy(), batch["expert"].to_numpy()
        if len(layer) == 0:
            continue
        _within(rows, "layer", layer, 0, MAX_LAYERS - 1, row)
        _within(rows, "expert", expert, -1, MAX_EXPERTS - 1, row)
        largest = max(largest, int(expert.max()))
        if "rank" in batch:
            rank = batch["rank"].to_numpy()
            _within(rows, "rank", rank, 0, MAX_EXPERTS, row)
            rank_base = int(rank.min()) if rank_base is None else min(rank_base, int(rank.min()))
            np.maximum.at(top_k, layer, rank + 1)
        if "expert_bytes" in batch:
            size = batch["expert_bytes"].fill_null(0).to_numpy(zero_copy_only=False)
            _within(rows, "expert_bytes", size, 0, np.iinfo(np.int64).max, row)
            np.maximum.at(high, layer, size)
            np.minimum.at(low, layer[size > 0], size[size > 0])
        row += len(layer)
    if row == 1:
        raise TraceError(f"{rows.path}: has no rows")
    if largest < 0:
        raise TraceError(f"{rows.path}: holds no expert at all, every id is -1")
    if rank_base is not None and rank_base > 1:
        raise TraceError(f"{rows.path}: the lowest rank is {rank_base}, ranks must count from 0 or 1")
    if rank_base:
        top_k -= top_k > 0
    if not ranked:
        for _, columns in _by_request(rows, report):
            token, phase = _tokens(columns)
            layer = columns["layer"]
            width = int(layer.max()) + 1
            counts = np.bincount(token * width + layer, minlength=len(phase) * width).reshape(-1, width)
            np.maximum(top_k[:width], counts.max(axis=0), out=top_k[:width])
    return _Scan(top_k, largest, rank_base or 0, low, high)


def _within(rows: Rows, name: str, values: npt.NDArray[np.int64], low: int, high: int, first_row: int) -> None:
    if values.min() < low or values.max() > high:
        at = int(np.argmax((values < low) | (values > high)))
        place = "" if rows.wide else f"row {first_row + at} (counted from 1 under the column names): "
        raise TraceError(f"{rows.path}: {place}{name} {values[at]}, allowed {low}..{high}")


def _by_request(rows: Rows, report: Callable[[int], None]) -> Iterator[tuple[str | None, Columns]]:
    """Yield the rows of each request as int64 columns (weights float32), with the request's domain."""
    pending: list[Columns] = []
    domain: str | None = None
    current: object = None
    seen: set[object] = set()
    for batch in rows.batches(set(ALIASES) - {"expert_bytes"}, report):
        columns = _arrays(rows, batch)
        count = len(columns["expert"])
        values, bounds = _runs(batch, count)
        for value, low, high in zip(values, bounds[:-1], bounds[1:], strict=True):
            if value != current and pending:
                yield domain, _joined(pending)
                pending = []
            if not pending:
                if value in seen:
                    raise TraceError(
                        f"{rows.path}: the rows of request {value!r} do not stand together; sort the file by "
                        f"{rows.names['request']!r}, or name the right column with --columns request=NAME"
                    )
                seen.add(value)
                current = value
                domain = batch["domain"][low].as_py() if "domain" in batch else None
            pending.append({name: column[low:high] for name, column in columns.items()})
    if pending:
        yield domain, _joined(pending)


def _joined(pieces: list[Columns]) -> Columns:
    return pieces[0] if len(pieces) == 1 else {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}


def _runs(batch: Batch, count: int) -> tuple[list[object], list[int]]:
    """Split a batch where the request changes: the request of each run, and the bounds of the runs."""
    if count == 0:
        return [], [0]
    if "request" not in batch:
        return [0], [0, count]
    encoded = pc.dictionary_encode(batch["request"])
    codes = encoded.indices.to_numpy()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(codes)) + 1])
    names = encoded.dictionary.to_pylist()
    return [names[code] for code in codes[starts]], [*starts.tolist(), count]


def _arrays(rows: Rows, batch: Batch) -> Columns:
    columns: Columns = {}
    for name, column in batch.items():
        if name in ("token", "layer", "rank", "expert"):
            columns[name] = column.to_numpy()
        elif name == "weight":
            columns[name] = column.to_numpy(zero_copy_only=False)
        elif name in ("residency", "token_id"):
            columns[name] = column.fill_null(255 if name == "residency" else -1).to_numpy(zero_copy_only=False)
        elif name == "phase":
            code = pc.index_in(pc.utf8_lower(column), value_set=pa.array(PHASES))
            if code.null_count:
                given = column.filter(code.is_null())[0].as_py()
                raise TraceError(f"{rows.path}: phase {given!r}, allowed 0 or prefill, 1 or decode")
            columns[name] = code.to_numpy() // 2
    return columns


def _tokens(columns: Columns) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Number a request's tokens from 0 in order: by number, or by phase first where both phases use a number.

    Returns:
        int64 [rows], the token of each row; uint8 [tokens], the phase of each token (0 without a phase column).
    """
    numbers, token = np.unique(columns["token"], return_inverse=True)
    token_phase = np.zeros(len(numbers), np.uint8)
    if "phase" in columns:
        phase = columns["phase"]
        token_phase[token] = phase
        if (token_phase[token] != phase).any():
            pairs, token = np.unique(phase * len(numbers) + token, return_inverse=True)
            token_phase = (pairs // len(numbers)).astype(np.uint8)
    return token, token_phase


def _cells(
    path: Path, rows: Columns, blocks: npt.NDArray[np.intp], top_k: int, rank_base: int, phase: str | None
) -> Iterator[Columns]:
    """Lay the rows of one request out as [tokens, L, k] and yield them in runs of tokens."""
    token, token_phase = _tokens(rows)
    tokens, width = len(token_phase), len(blocks)
    cell = token * width + np.searchsorted(blocks, rows["layer"])
    if "rank" in rows:
        rank = rows["rank"] - rank_base
    else:
        order = np.argsort(cell, kind="stable")
        counts = np.bincount(cell, minlength=tokens * width)
        rank = np.empty(len(cell), np.int64)
        rank[order] = np.arange(len(cell)) - np.repeat(np.cumsum(counts) - counts, counts)
    cell = cell * top_k + rank
    shape = (tokens, width, top_k)
    taken = np.zeros(tokens * width * top_k, bool)
    taken[cell] = True
    if np.count_nonzero(taken) != len(cell):
        _, first = np.unique(cell, return_index=True)
        at = int(np.setdiff1d(np.arange(len(cell)), first)[0])
        raise TraceError(
            f"{path}: token {rows['token'][at]}, layer {rows['layer'][at]}: rank {rank[at] + rank_base} is given twice"
        )

    def spread(values: npt.NDArray[Any], empty: int, dtype: type[np.generic]) -> npt.NDArray[Any]:
        flat = np.full(len(taken), empty, dtype)
        flat[cell] = values
        return flat.reshape(shape)

    columns: Columns = {"experts": spread(rows["expert"], -1, np.int32)}
    if "weight" in rows:
        columns["weights"] = spread(rows["weight"], 0, np.float32)
    if "residency" in rows:
        columns["residency"] = spread(
            np.where(np.isin(rows["residency"], (0, 1, 2, 255)), rows["residency"], 254), 255, np.uint8
        )
    if "phase" in rows:
        columns["phase"] = token_phase
    elif phase in ("prefill", "decode"):
        columns["phase"] = np.full(tokens, phase == "decode", np.uint8)
    if "token_id" in rows:
        ids = np.full(tokens, -1, np.int32)
        ids[token] = rows["token_id"]
        columns["token_ids"] = ids
    for low in range(0, tokens, RUN):
        yield {name: values[low : low + RUN] for name, values in columns.items()}
