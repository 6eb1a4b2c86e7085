"""The first pass over a table: its layers, their top-k, the largest id; and what is out of range, or no trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.rows import Rows
from lrcsim.traces.importers.table_layout import number_tokens
from lrcsim.traces.importers.table_requests import Table, Together, by_request, runs_of_requests
from lrcsim.traces.layers import MAX_EXPERTS

MAX_LAYERS = 65_536

GRID = 200_000
"""Rows up to which a table is looked at for whether it is one row per expert of a layer."""


@dataclass
class Scan:
    """What the first pass over a table finds, per block id where it is an array."""

    top_k: npt.NDArray[np.int64]
    largest: int
    rank_base: int
    bytes_low: npt.NDArray[np.int64]
    bytes_high: npt.NDArray[np.int64]


def scan_table(rows: Table, report: Callable[[int], None]) -> Scan:
    """Read a table once, and add to its notices.

    Raises:
        TraceError: a number is out of range, or the rows are no trace.
        InterleavedError: the rows of a request do not stand together.
    """
    top_k = np.zeros(MAX_LAYERS, np.int64)
    low, high = np.full(MAX_LAYERS, np.iinfo(np.int64).max), np.zeros(MAX_LAYERS, np.int64)
    largest, rank_base, row = -1, None, 1
    ranked = rows.wide or "rank" in rows.names
    together = Together()
    pairs: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
    wanted = {"layer", "rank", "expert", "expert_bytes"} | ({"request"} if ranked else set())
    for batch in rows.batches(wanted, report if ranked else lambda _: None):
        layer, expert = batch["layer"].to_numpy(), batch["expert"].to_numpy()
        if len(layer) == 0:
            continue
        if "request" in batch:
            for request in runs_of_requests(batch, len(layer))[0]:
                together.begins(request)
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
        if row <= GRID:
            pairs.append((layer, expert))
        row += len(layer)
    if row == 1:
        raise TraceError("has no rows")
    if largest < 0:
        raise TraceError("holds no expert at all, every id is -1")
    if row <= GRID and not rows.wide:
        _refuse_grid(pairs)
    if rank_base is not None and rank_base > 1:
        raise TraceError(f"the lowest rank is {rank_base}, ranks must count from 0 or 1")
    if rank_base:
        top_k -= top_k > 0
    if not ranked:
        fewest = np.full(MAX_LAYERS, np.iinfo(np.int64).max)
        for _, columns in by_request(rows, report):
            token, phase = number_tokens(columns)
            layer = columns["layer"]
            width = int(layer.max()) + 1
            counts = np.bincount(token * width + layer, minlength=len(phase) * width).reshape(-1, width)
            np.maximum(top_k[:width], counts.max(axis=0), out=top_k[:width])
            least = np.where(counts > 0, counts, np.iinfo(np.int64).max).min(axis=0)
            np.minimum(fewest[:width], least, out=fewest[:width])
        uneven = np.flatnonzero((top_k > 0) & (fewest < top_k))
        if len(uneven):
            at = int(uneven[0])
            rows.notices.append(
                f"layer {at}: some tokens have {fewest[at]} experts, others {top_k[at]}, which is taken as top-k; if "
                "these are several requests, name the column that tells them apart with --columns request=NAME"
            )
    return Scan(top_k, largest, rank_base or 0, low, high)


def _refuse_grid(pairs: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]) -> None:
    """Refuse rows that go through all experts of each layer, in any order: such a table is of experts, not tokens."""
    layer, expert = (np.concatenate(column) for column in zip(*pairs, strict=True))
    experts = int(expert.max()) + 1
    runs = len(expert) // experts
    if experts < 8 or len(expert) != runs * experts:
        return
    every = np.arange(experts)
    in_order = (expert == np.tile(every, runs)).all() and runs == len(np.unique(layer))
    expert, layer = expert.reshape(runs, experts), layer.reshape(runs, experts)
    if in_order or (runs > 2 and (np.sort(expert, axis=1) == every).all() and (layer == layer[:, :1]).all()):
        raise TraceError(
            f"every one of {experts} experts stands once in each run of a layer's rows: a table of "
            "counts or the like, not a trace; record the routing of every token"
        )


def _within(rows: Table, name: str, values: npt.NDArray[np.int64], low: int, high: int, first_row: int) -> None:
    if values.min() < low or values.max() > high:
        at = int(np.argmax((values < low) | (values > high)))
        by_row = not rows.wide and isinstance(rows, Rows)
        place = f"row {first_row + at} (counted from 1 under the column names): " if by_row else ""
        raise TraceError(f"{place}{name} {values[at]}, allowed {low}..{high}")
