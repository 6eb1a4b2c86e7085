"""The rows of one request as arrays [tokens, layers, k], with the phases that its prompt says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.source import Columns
from lrcsim.traces.what_ran import Sent, Tally, laid, settle


@dataclass(frozen=True)
class Prompts:
    """Where the phases of a table without phases come from.

    Attributes:
        first: the first N tokens of each request are prefill; None: not said.
        keep: whether prompt tokens out of a prefix cache count as run.
        negative: whether tokens with negative numbers are prefill.
    """

    first: int | None = None
    keep: bool = False
    negative: bool = False


def whole_request(rows: Columns, blocks: npt.NDArray[np.intp], top_k: int, rank_base: int) -> Columns:
    """Lay the rows of one request out as [tokens, L, k]."""
    token, token_phase = number_tokens(rows)
    tokens, width = len(token_phase), len(blocks)
    cell = token * width + np.searchsorted(blocks, rows["layer"])
    if "rank" in rows:
        rank = rows["rank"] - rank_base
    else:
        order = np.argsort(cell, kind="stable")
        counts = np.bincount(cell, minlength=tokens * width)
        rank = np.empty(len(cell), np.int64)
        rank[order] = np.arange(len(cell)) - np.repeat(np.cumsum(counts) - counts, counts)
        if np.count_nonzero(np.diff(cell)) + 1 != np.count_nonzero(counts):
            _refuse_apart(rows, cell)
    cell = cell * top_k + rank
    shape = (tokens, width, top_k)
    taken = np.zeros(tokens * width * top_k, bool)
    taken[cell] = True
    if np.count_nonzero(taken) != len(cell):
        _, first = np.unique(cell, return_index=True)
        at = int(np.setdiff1d(np.arange(len(cell)), first)[0])
        raise TraceError(
            f"token {rows['token'][at]}, layer {rows['layer'][at]}: rank {rank[at] + rank_base} is given "
            "twice; if several requests are meant, name the column that tells them apart with --columns request=NAME; "
            "if the column of ranks is another machine's rank, leave it out with --columns rank=none"
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
    if "token_id" in rows:
        columns["token_ids"] = _token_ids(rows, token, tokens)
    return columns


def number_tokens(columns: Columns) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
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
            _refuse_two_phases(columns, numbers, token)
            pairs, token = np.unique(phase * len(numbers) + token, return_inverse=True)
            token_phase = (pairs // len(numbers)).astype(np.uint8)
    return token, token_phase


def _refuse_two_phases(columns: Columns, numbers: npt.NDArray[np.int64], token: npt.NDArray[np.int64]) -> None:
    """Refuse a token that is prefill at some layers and decode at others; numbers may start again with decode."""
    width = int(columns["layer"].max()) + 1
    cell = token * width + columns["layer"]
    seen = [np.unique(cell[columns["phase"] == phase]) for phase in (0, 1)]
    common = set((np.intersect1d(seen[0], seen[1]) // width).tolist())
    both = set((seen[0] // width).tolist()) & set((seen[1] // width).tolist())
    if both - common:
        at = min(both - common)
        layers = [int(cells[cells // width == at][0] % width) for cells in seen]
        raise TraceError(
            f"token {numbers[at]} is prefill at layer {layers[0]} and decode at layer {layers[1]}; it can only be one"
        )


def _refuse_apart(rows: Columns, cell: npt.NDArray[np.int64]) -> None:
    """Say which token's experts of a layer do not stand together, though only their order says the rank."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(cell)) + 1])
    _, first = np.unique(cell[starts], return_index=True)
    at = int(starts[np.setdiff1d(np.arange(len(starts)), first)[0]])
    raise TraceError(
        f"token {rows['token'][at]}, layer {rows['layer'][at]}: its rows do not stand together, and no column gives "
        "their rank; name the column that tells requests apart with --columns request=NAME, or the rank with rank=NAME"
    )


def _token_ids(rows: Columns, token: npt.NDArray[np.int64], tokens: int) -> npt.NDArray[np.int32]:
    given = rows["token_id"]
    limit = np.iinfo(np.int32)
    if given.min() < -1 or given.max() > limit.max:
        at = int(np.argmax((given < -1) | (given > limit.max)))
        raise TraceError(f"token {rows['token'][at]}: token_id {given[at]}, allowed -1..{limit.max}")
    ids = np.full(tokens, -1, np.int32)
    known = given >= 0
    ids[token[known]] = given[known]
    if (ids[token[known]] != given[known]).any():
        at = int(np.flatnonzero(known)[np.argmax(ids[token[known]] != given[known])])
        raise TraceError(f"token {rows['token'][at]} has the token ids {given[at]} and {ids[token[at]]}; it has one")
    return ids


def with_prompt(whole: Columns, rows: Columns, prompts: Prompts, tally: Tally, last: int | None) -> Columns:
    """Give a request the phases that its prompt's length says, and take out what did not run."""
    count, first = len(whole["experts"]), int(rows["token"].min())
    if prompts.first is not None:
        whole["phase"] = (np.arange(count) >= prompts.first).astype(np.uint8)
        return whole
    said: dict[str, int | None] = {}
    for name in ("prompt_tokens", "generated_tokens", "cached_tokens"):
        values = np.unique(rows[name]) if name in rows else np.zeros(0, np.int64)
        if len(values) > 1:
            raise TraceError(
                f"a request from token {first} on has {name} {values[0]} and {values[1]}; it can only be one"
            )
        said[name] = int(values[0]) if len(values) and values[0] >= 0 else None
    prompt = said["prompt_tokens"]
    if prompt is None:
        raise TraceError(f"a request from token {first} on has no length of its prompt")
    begins_later = 1 < first < prompt and first != (-1 if last is None else last + 1)
    cached = None if prompts.keep else said["cached_tokens"]
    try:
        ran = settle(Sent(count, prompt, said["generated_tokens"], first if begins_later else None, cached))
    except TraceError as error:
        raise TraceError(f"a request from token {first} on {error}") from None
    tally.add(ran)
    return laid(whole, ran)
