"""Tokens of logs that do not number them: from the order in which an engine computes its layers.

An engine runs its layers one after the other, each over all tokens of a pass: a prompt (or a piece of it), or one
generated token. So a pass ends where the layer falls. llama.cpp computes the last layer of a prompt for its last token
alone, so a layer with fewer rows holds the last tokens of its pass.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.rows import Batch, Rows

IntArray = npt.NDArray[np.int64]
BATCH = 1 << 18


class Held:
    """Rows in memory (Arrow columns of equal length, under our names), read like the `Rows` that they came from."""

    def __init__(self, rows: Rows, columns: Mapping[str, Any]) -> None:
        self.path: Path = rows.path
        self.comments, self.metadata, self.num_experts = rows.comments, rows.metadata, rows.num_experts
        self.names = {**rows.names, **{name: rows.names.get(name, name) for name in columns}}
        self.wide, self.notices = rows.wide, rows.notices
        self._columns = dict(columns)
        self.size = len(self._columns["expert"])

    def batches(self, wanted: Collection[str], report: Callable[[int], None]) -> Iterator[Batch]:
        """Yield the wanted columns, some rows at a time."""
        for low in range(0, self.size, BATCH):
            yield {name: column.slice(low, BATCH) for name, column in self._columns.items() if name in wanted}
            report(min(low + BATCH, self.size))


def by_passes(rows: Rows, top_k: int | None) -> Held:
    """Number the tokens of a log by its passes, and take phases and requests from them.

    Args:
        rows: the log. Where its tokens have numbers, those of a prompt are negative, as llama-moe-trace writes them.
        top_k: experts per token, where each row holds one.

    Raises:
        TraceError: the rows do not make up whole tokens, or say more than passes can.
    """
    said = [name for name in ("request", "phase", "prompt_tokens") if name in rows.names]
    if rows.no_token and said:
        beside = ", ".join(repr(rows.names[name]) for name in said)
        raise TraceError(
            f"no column is named like 'token', beside {beside}; say which column numbers the tokens of a "
            "request with --columns token=NAME"
        )
    pieces: dict[str, list[Any]] = {}
    for batch in rows.batches({"token", "layer", "rank", "expert", "weight", "residency", "token_id"}, lambda _: None):
        for name, column in batch.items():
            pieces.setdefault(name, []).append(column)
    columns = {name: pa.concat_arrays(listed) for name, listed in pieces.items()}
    if "expert" not in columns or len(columns["expert"]) == 0:
        raise TraceError("has no rows")
    layer = columns["layer"].to_numpy()
    position = columns["token"].to_numpy() if "token" in columns else None
    if rows.wide and position is None and len(np.unique(layer)) == np.count_nonzero(columns["rank"].to_numpy() == 0):
        raise TraceError(
            "has one row for each layer and no column of tokens: these look like counts of each expert, "
            "not a trace; record the routing of every token"
        )
    cell = _cells(rows, layer, position, columns, top_k)
    first = np.concatenate([[0], np.flatnonzero(np.diff(cell)) + 1])
    made = _number(layer[first], None if position is None else position[first], rows)
    columns |= {name: pa.array(values[cell]) for name, values in made.items()}
    if "rank" not in columns:
        columns["rank"] = pa.array(np.arange(len(cell)) - first[cell])
    return Held(rows, columns)


def _cells(
    rows: Rows, layer: IntArray, position: IntArray | None, columns: Mapping[str, Any], top_k: int | None
) -> IntArray:
    """Number the (token, layer) cells in the order of the rows."""
    if rows.wide:
        return np.cumsum(columns["rank"].to_numpy() == 0) - 1
    if position is not None:
        change = (np.diff(layer) != 0) | (np.diff(position) != 0)
        return np.concatenate([[0], np.cumsum(change)])
    if top_k is None:
        raise TraceError(
            "no column is named like 'token': one row per expert, and tokens only follow from the runs "
            "of rows of a layer (as llama.cpp's moe-trace writes them): give --top-k, or say which column numbers the "
            "tokens with --columns token=NAME"
        )
    ends = np.concatenate([np.flatnonzero(np.diff(layer)) + 1, [len(layer)]])
    lengths = np.diff(np.concatenate([[0], ends]))
    if (lengths % top_k).any():
        at = int(np.argmax(lengths % top_k != 0))
        raise TraceError(
            f"up to row {ends[at]} (counted from 1 under the column names) layer {layer[ends[at] - 1]} "
            f"has {lengths[at]} rows, no multiple of --top-k {top_k}"
        )
    return np.arange(len(layer)) // top_k


def _number(layer: IntArray, position: IntArray | None, rows: Rows) -> dict[str, npt.NDArray[Any]]:
    """Give each cell its token, phase and request; positions, where there are any, are negative for a prompt."""
    new_run = np.diff(layer) != 0
    ends = np.diff(layer) < 0
    if position is not None:
        ends |= (np.diff(layer) == 0) & (np.diff(position) <= 0)
    of_pass = np.concatenate([[0], np.cumsum(ends)])
    passes = int(of_pass[-1]) + 1
    if position is None:
        starts = np.concatenate([[0], np.flatnonzero(new_run | ends) + 1])
        lengths = np.diff(np.concatenate([starts, [len(layer)]]))
        within = np.arange(len(layer)) - np.repeat(starts, lengths)
        longest = np.zeros(passes, np.int64)
        np.maximum.at(longest, of_pass[starts], lengths)
        index = longest[of_pass] - np.repeat(lengths, lengths) + within
        if len(np.unique(layer)) == 1:
            rows.notices.append("one layer only: nothing tells one pass from the next, so there are no phases")
            return {"token": index}
        prompt = longest > 1
        prompt[0] = True
    else:
        low = int(position.min())
        width = int(position.max()) - low + 1
        numbers, index = np.unique(of_pass * width + (position - low), return_inverse=True)
        firsts = np.searchsorted(numbers, np.arange(passes) * width)
        longest = np.diff(np.concatenate([firsts, [len(numbers)]]))
        index = index - firsts[of_pass]
        lowest = np.full(passes, np.iinfo(np.int64).max)
        np.minimum.at(lowest, of_pass, position)
        prompt = lowest < 0
    starts_request = prompt & ~np.concatenate([[False], prompt[:-1]])
    if position is not None:
        starts_request |= ~prompt & np.concatenate([[False], ~prompt[:-1] & (lowest[1:] <= lowest[:-1])])
    starts_request[0] = True
    request = np.cumsum(starts_request) - 1
    base = np.concatenate([[0], np.cumsum(longest)[:-1]])
    phase = (~prompt).astype(np.int64)[of_pass]
    if position is not None:
        phase = (position >= 0).astype(np.int64)
    how = "negative numbers are the prompt" if position is not None else "a pass of one token is decode"
    requests = int(request[-1]) + 1
    rows.notices.append(
        f"phases and requests are taken from the passes of the log ({how}): {requests:,} request{'s' * (requests > 1)}"
    )
    return {"token": base[of_pass] + index, "phase": phase, "request": request[of_pass]}
