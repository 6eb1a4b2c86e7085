"""Import tables: CSV, TSV, JSON or Parquet, one row per expert (long), per token and layer, per token, or per request.

A token is identified by its request, phase and number. Within a request the rows may come in any order, for instance
layer after layer as engines compute a prompt. (Token, layer) pairs without rows are "not recorded". A comment header
(``# key=value ...``) or a first record of metadata may say more: the number of experts, the model, and per layer
(``# layer=3 expert_bytes=...``) the size of its experts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from lrcsim.errors import ConfigError, TraceError
from lrcsim.traces.importers.columns import ALIASES
from lrcsim.traces.importers.passes import Held, by_passes
from lrcsim.traces.importers.regroup import Regrouped
from lrcsim.traces.importers.rows import Batch, Rows
from lrcsim.traces.importers.source import (
    NO_PHASES,
    Columns,
    Options,
    Progress,
    Request,
    Source,
    guessed_experts,
    named_after,
)
from lrcsim.traces.layers import MAX_EXPERTS, LayerTable
from lrcsim.traces.what_ran import Ran, Sent, Tally, lay_out, phases, settle

__all__ = ["ALIASES", "matches", "open_source"]

EXPERTS_KEYS = ("num_experts", "n_expert", "n_experts", "num_local_experts", "n_routed_experts")
MODEL_KEYS = ("model", "model_name", "model_id")
TOP_K_KEYS = ("top_k", "experts_per_token", "num_experts_per_tok", "n_expert_used")
MAX_LAYERS = 65_536
GRID = 200_000
"""Rows up to which a table is looked at for whether it is one row per expert of a layer."""

RUN = 16_384
"""Tokens handed over at a time."""

Table = Rows | Held | Regrouped


class _InterleavedError(Exception):
    """The rows of a request do not stand together."""


@dataclass
class _Scan:
    """What the first pass over a table finds, per block id where it is an array."""

    top_k: npt.NDArray[np.int64]
    largest: int
    rank_base: int
    bytes_low: npt.NDArray[np.int64]
    bytes_high: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Prompts:
    """Where the phases of a table without phases come from.

    Attributes:
        first: the first N tokens of each request are prefill; None: not said.
        keep: whether prompt tokens out of a prefix cache count as run.
        negative: whether tokens with negative numbers are prefill.
    """

    first: int | None = None
    keep: bool = False
    negative: bool = False


def matches(path: Path, head: bytes) -> bool:
    """Tell whether a file looks like a table: Parquet, JSON, or text with lines."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    is_text = b"\0" not in head and (b"\n" in head or b"\r" in head or head.startswith(b"#"))
    return path.is_file() and (head.startswith(b"PAR1") or text[:1] in (b"{", b"[") or is_text)


def open_source(path: Path, options: Options, progress: Progress) -> Source:
    """Read a table once for its layers, top-k and largest id, and return a source that reads it again."""
    mapping = dict(options.columns)
    first = None
    if options.prompt_tokens is not None:
        if options.prompt_tokens.isdecimal():
            first = int(options.prompt_tokens)
        else:
            mapping["prompt_tokens"] = options.prompt_tokens
    rows = Rows(path, mapping, options.top_k)
    _settle_phases(rows, options)
    prompts = _Prompts(first, options.cached_prefix == "keep", rows.negative)
    table: Table = rows
    if rows.no_token or (rows.negative and "request" not in rows.names and first is None):
        table = by_passes(rows, options.top_k)
    elif options.top_k is not None and not rows.holds_logits:
        raise ConfigError(
            f"{path}: has no use for top-k: that is only for router logits, and for logs without token numbers"
        )
    report: Callable[[int], None] = lambda done: progress(done, 2 * table.size)  # noqa: E731
    try:
        scan = _scan(table, report)
    except _InterleavedError:
        regrouped = table = Regrouped(rows)
        return _closing(regrouped, lambda: _source(regrouped, _scan(regrouped, report), options, prompts, progress))
    return _source(table, scan, options, prompts, progress)


def _closing(table: Regrouped, make: Callable[[], Source]) -> Source:
    """Make a source whose temporary files go when it is closed, or cannot be made."""
    try:
        source = make()
    except BaseException:
        table.close()
        raise
    source.close = table.close
    return source


def _source(table: Table, scan: _Scan, options: Options, prompts: _Prompts, progress: Progress) -> Source:
    """Describe the layers of a table that was scanned, and read its requests."""
    path, notices = table.path, table.notices
    blocks = np.flatnonzero(scan.top_k)
    header, per_layer = _header(table.comments)
    header |= {key: str(value) for key, value in table.metadata.items() if isinstance(value, (str, int))}
    if scan.rank_base:
        notices.append(f"ranks count from {scan.rank_base} in the file, taken as 0 for the best")

    experts: int | list[int]
    guessed = False
    if options.num_experts is not None:
        experts = options.num_experts
    elif all("num_experts" in per_layer.get(block, {}) for block in blocks.tolist()):
        experts = [per_layer[block]["num_experts"] for block in blocks.tolist()]
    else:
        said = next((_small(header[key]) for key in EXPERTS_KEYS if _small(header.get(key, ""))), table.num_experts)
        guessed = said is None
        experts = said if said is not None else guessed_experts(scan.largest, notices)
    layers = LayerTable.build(
        len(blocks),
        experts,
        scan.top_k[blocks],
        expert_bytes=_expert_bytes(path, options, scan, blocks, per_layer, notices),
        block=blocks,
    )
    said_k = next((_small(header[key]) for key in TOP_K_KEYS if _small(header.get(key, ""))), None)
    if said_k is not None and said_k != int(layers.top_k.max()):
        notices.append(f"the file says top-{said_k} and lists {layers.top_k.max()} experts per token")
    if prompts.negative and isinstance(table, (Rows, Regrouped)):
        notices.append("tokens with negative numbers are taken as the prompt (prefill), the others as decode")
    has_phases = bool({"phase", "prompt_tokens"} & set(table.names)) or prompts.first is not None or prompts.negative
    if not has_phases and options.phase is None:
        notices.append(NO_PHASES)
    provenance: dict[str, Any] = {"header": header} if header else {}
    model = next((header[key] for key in MODEL_KEYS if header.get(key)), None)

    def requests() -> Iterator[Request]:
        tally, last = Tally(), None
        for domain, columns in _by_request(table, lambda done: progress(table.size + done, 2 * table.size)):
            whole = _whole(path, columns, blocks, int(layers.top_k.max()), scan.rank_base, options.phase)
            if "phase" not in whole and prompts.negative and prompts.first is None and "prompt_tokens" not in columns:
                whole["phase"] = (np.unique(columns["token"]) >= 0).astype(np.uint8)
            elif "phase" not in whole and (prompts.first is not None or "prompt_tokens" in columns):
                whole = _with_prompt(path, whole, columns, prompts, tally, last)
            last = int(columns["token"].max())
            yield domain, _runs_of(whole)
        notices.extend(tally.notices())

    if model and model.startswith("/"):
        model = PurePosixPath(model).name
    return Source(layers, model or named_after(path), requests, provenance, notices, experts_guessed=guessed)


def _settle_phases(rows: Rows, options: Options) -> None:
    """Leave one source of phases: what the user says, else the file's own column, else its prompt lengths."""
    path, names = rows.path, rows.names
    if options.phase is not None and options.prompt_tokens is not None:
        raise ConfigError(f"{path}: --phase and --prompt-tokens exclude each other")
    given = options.phase or options.prompt_tokens
    if "phase" in names and options.phase == "none":
        del names["phase"]
    elif "phase" in names and given is not None:
        option = "--phase" if options.phase else "--prompt-tokens"
        raise ConfigError(f"{path}: has phases of its own (column {names['phase']!r}); leave {option} out")
    if "prompt_tokens" in names and ("phase" in names or options.phase is not None):
        for name in ("prompt_tokens", "generated_tokens", "cached_tokens"):
            names.pop(name, None)
    if options.prompt_tokens is not None and options.prompt_tokens.isdecimal():
        names.pop("prompt_tokens", None)
    if options.phase is not None or options.prompt_tokens is not None:
        rows.negative = False


def _header(comments: list[str]) -> tuple[dict[str, str], dict[int, dict[str, int]]]:
    """Collect ``key=value`` pairs of a comment header: those of the file, and those of lines with ``layer=N``."""
    header: dict[str, str] = {}
    per_layer: dict[int, dict[str, int]] = {}
    for line in comments:
        pairs = {}
        for part in line.split():
            key, equals, value = part.partition("=")
            name = re.split(r"\W", key)[-1]
            if equals and name and value:
                pairs[name] = value
        if pairs.get("layer", "").isdecimal() and _small(pairs["layer"]) is not None:
            numbers = {key: number for key, value in pairs.items() if (number := _small(value)) is not None}
            per_layer.setdefault(numbers["layer"], {}).update(numbers)
        else:
            header.update(pairs)
    return header, per_layer


def _small(text: str) -> int | None:
    """Return a whole number of a header; None where it is none."""
    return int(text) if text.isdecimal() and len(text) <= 18 else None


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


def _scan(rows: Table, report: Callable[[int], None]) -> _Scan:
    top_k = np.zeros(MAX_LAYERS, np.int64)
    low, high = np.full(MAX_LAYERS, np.iinfo(np.int64).max), np.zeros(MAX_LAYERS, np.int64)
    largest, rank_base, row = -1, None, 1
    ranked = rows.wide or "rank" in rows.names
    groups = _Groups()
    pairs: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
    wanted = {"layer", "rank", "expert", "expert_bytes"} | ({"request"} if ranked else set())
    for batch in rows.batches(wanted, report if ranked else lambda _: None):
        layer, expert = batch["layer"].to_numpy(), batch["expert"].to_numpy()
        if len(layer) == 0:
            continue
        if "request" in batch:
            groups.pass_over(batch)
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
        raise TraceError(f"{rows.path}: has no rows")
    if largest < 0:
        raise TraceError(f"{rows.path}: holds no expert at all, every id is -1")
    if row <= GRID and not rows.wide:
        _refuse_grid(rows.path, pairs)
    if rank_base is not None and rank_base > 1:
        raise TraceError(f"{rows.path}: the lowest rank is {rank_base}, ranks must count from 0 or 1")
    if rank_base:
        top_k -= top_k > 0
    if not ranked:
        fewest = np.full(MAX_LAYERS, np.iinfo(np.int64).max)
        for _, columns in _by_request(rows, report):
            token, phase = _tokens(rows.path, columns)
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
    return _Scan(top_k, largest, rank_base or 0, low, high)


def _refuse_grid(path: Path, pairs: list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]) -> None:
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
            f"{path}: every one of {experts} experts stands once in each run of a layer's rows: a table of "
            "counts or the like, not a trace; record the routing of every token"
        )


class _Groups:
    """Whether the rows of each request stand together."""

    def __init__(self) -> None:
        self._seen: set[object] = set()
        self._current: object = None

    def pass_over(self, batch: Batch) -> None:
        for value in _runs(batch, len(batch["expert"]))[0]:
            if self._seen and value == self._current:
                continue
            if value in self._seen:
                raise _InterleavedError
            self._seen.add(value)
            self._current = value


def _within(rows: Table, name: str, values: npt.NDArray[np.int64], low: int, high: int, first_row: int) -> None:
    if values.min() < low or values.max() > high:
        at = int(np.argmax((values < low) | (values > high)))
        by_row = not rows.wide and isinstance(rows, Rows)
        place = f"row {first_row + at} (counted from 1 under the column names): " if by_row else ""
        raise TraceError(f"{rows.path}: {place}{name} {values[at]}, allowed {low}..{high}")


def _by_request(rows: Table, report: Callable[[int], None]) -> Iterator[tuple[str | None, Columns]]:
    """Yield the rows of each request as int64 columns (weights float32), with the request's domain."""
    pending: list[Columns] = []
    domain: str | None = None
    current: object = None
    seen: set[object] = set()
    named = True
    for batch in rows.batches(set(ALIASES) - {"expert_bytes", "logits"}, report):
        columns = _arrays(batch)
        count = len(columns["expert"])
        named = named and "request" in batch
        values, bounds = _runs(batch, count)
        domains = pc.dictionary_encode(batch["domain"]) if "domain" in batch else None
        for value, low, high in zip(values, bounds[:-1], bounds[1:], strict=True):
            if value != current and pending:
                yield domain, _joined(pending)
                pending = []
            if not pending:
                if value in seen:
                    raise _InterleavedError
                seen.add(value)
                current = value
                domain = None if domains is None else batch["domain"][low].as_py()
            if domains is not None:
                _one_domain(
                    rows, batch["domain"].slice(low, high - low), domains.indices.slice(low, high - low), domain
                )
            pending.append({name: column[low:high] for name, column in columns.items()})
    if pending and named:
        yield domain, _joined(pending)
    elif pending:
        for part in _started_again(rows, _joined(pending)):
            yield domain, part


def _one_domain(rows: Table, column: Any, codes: Any, domain: str | None) -> None:
    """Refuse a request with two domains."""
    values = codes.fill_null(-1).to_numpy(zero_copy_only=False)
    if column[0].as_py() != domain or (values != values[0]).any():
        other = next(value for value in column.to_pylist() if value != domain)
        raise TraceError(
            f"{rows.path}: a request is of domain {domain!r} and of {other!r}; each has one; leave the column out with "
            "--columns domain=none"
        )


def _started_again(rows: Table, columns: Columns) -> list[Columns]:
    """Split rows without a column of requests where they start again with the first token and layer.

    Logs are put one after the other; each then has all the layers of the first.
    """
    token, layer = columns["token"], columns["layer"]
    starts = np.concatenate([[True], (np.diff(token) != 0) | (np.diff(layer) != 0)])
    again = starts & (token == token[0]) & (layer == layer[0])
    if "rank" in columns:
        again &= columns["rank"] == columns["rank"][0]
    if "phase" in columns:
        again &= columns["phase"] == columns["phase"][0]
    bounds = [*np.flatnonzero(again).tolist(), len(token)]
    parts = [{name: column[low:high] for name, column in columns.items()} for low, high in pairwise(bounds)]
    layers = set(np.unique(parts[0]["layer"]).tolist())
    whole = all(
        set(np.unique(part["layer"]).tolist()) == layers and len(np.unique(part["token"])) > 1 for part in parts
    )
    if len(parts) == 1 or not whole:
        return [columns]
    said = (
        f"no column tells requests apart; where the first token and layer come again a new one starts: {len(parts):,}"
    )
    if said not in rows.notices:
        rows.notices.append(said)
    return parts


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


def _arrays(batch: Batch) -> Columns:
    columns: Columns = {}
    for name, column in batch.items():
        if name in ("token", "layer", "rank", "expert", "phase"):
            columns[name] = column.to_numpy()
        elif name == "weight":
            columns[name] = column.to_numpy(zero_copy_only=False)
        elif name in ("residency", "token_id", "prompt_tokens", "generated_tokens", "cached_tokens"):
            columns[name] = column.fill_null(255 if name == "residency" else -1).to_numpy(zero_copy_only=False)
    return columns


def _tokens(path: Path, columns: Columns) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
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
            _refuse_two_phases(path, columns, numbers, token)
            pairs, token = np.unique(phase * len(numbers) + token, return_inverse=True)
            token_phase = (pairs // len(numbers)).astype(np.uint8)
    return token, token_phase


def _refuse_two_phases(
    path: Path, columns: Columns, numbers: npt.NDArray[np.int64], token: npt.NDArray[np.int64]
) -> None:
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
            f"{path}: token {numbers[at]} is prefill at layer {layers[0]} and decode at layer {layers[1]}; "
            "it can only be one"
        )


def _whole(
    path: Path, rows: Columns, blocks: npt.NDArray[np.intp], top_k: int, rank_base: int, phase: str | None
) -> Columns:
    """Lay the rows of one request out as [tokens, L, k]."""
    token, token_phase = _tokens(path, rows)
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
            _refuse_apart(path, rows, cell)
    cell = cell * top_k + rank
    shape = (tokens, width, top_k)
    taken = np.zeros(tokens * width * top_k, bool)
    taken[cell] = True
    if np.count_nonzero(taken) != len(cell):
        _, first = np.unique(cell, return_index=True)
        at = int(np.setdiff1d(np.arange(len(cell)), first)[0])
        raise TraceError(
            f"{path}: token {rows['token'][at]}, layer {rows['layer'][at]}: rank {rank[at] + rank_base} is given "
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
    elif phase in ("prefill", "decode"):
        columns["phase"] = np.full(tokens, phase == "decode", np.uint8)
    if "token_id" in rows:
        columns["token_ids"] = _token_ids(path, rows, token, tokens)
    return columns


def _refuse_apart(path: Path, rows: Columns, cell: npt.NDArray[np.int64]) -> None:
    """Say which token's experts of a layer do not stand together, though only their order says the rank."""
    starts = np.concatenate([[0], np.flatnonzero(np.diff(cell)) + 1])
    _, first = np.unique(cell[starts], return_index=True)
    at = int(starts[np.setdiff1d(np.arange(len(starts)), first)[0]])
    raise TraceError(
        f"{path}: token {rows['token'][at]}, layer {rows['layer'][at]}: its rows do not stand together, and no column "
        "gives their rank; name the column that tells requests apart with --columns request=NAME, or the rank with "
        "rank=NAME"
    )


def _token_ids(path: Path, rows: Columns, token: npt.NDArray[np.int64], tokens: int) -> npt.NDArray[np.int32]:
    given = rows["token_id"]
    limit = np.iinfo(np.int32)
    if given.min() < -1 or given.max() > limit.max:
        at = int(np.argmax((given < -1) | (given > limit.max)))
        raise TraceError(f"{path}: token {rows['token'][at]}: token_id {given[at]}, allowed -1..{limit.max}")
    ids = np.full(tokens, -1, np.int32)
    known = given >= 0
    ids[token[known]] = given[known]
    if (ids[token[known]] != given[known]).any():
        at = int(np.flatnonzero(known)[np.argmax(ids[token[known]] != given[known])])
        raise TraceError(
            f"{path}: token {rows['token'][at]} has the token ids {given[at]} and {ids[token[at]]}; it has one"
        )
    return ids


def _with_prompt(
    path: Path, whole: Columns, rows: Columns, prompts: _Prompts, tally: Tally, last: int | None
) -> Columns:
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
                f"{path}: a request from token {first} on has {name} {values[0]} and {values[1]}; it can only be one"
            )
        said[name] = int(values[0]) if len(values) and values[0] >= 0 else None
    prompt = said["prompt_tokens"]
    if prompt is None:
        raise TraceError(f"{path}: a request from token {first} on has no length of its prompt")
    begins_later = 1 < first < prompt and first != (-1 if last is None else last + 1)
    cached = None if prompts.keep else said["cached_tokens"]
    try:
        ran = settle(Sent(count, prompt, said["generated_tokens"], first if begins_later else None, cached))
    except TraceError as error:
        raise TraceError(f"{path}: a request from token {first} on {error}") from None
    tally.add(ran)
    return _laid(whole, ran)


def _laid(whole: Columns, ran: Ran) -> Columns:
    """Put the columns of a request at their positions."""
    laid: Columns = {"experts": lay_out(whole["experts"], ran)}
    for name, values in whole.items():
        if name != "experts":
            empty = {"residency": 255, "token_ids": -1}.get(name, 0)
            spread = np.full((ran.tokens, *values.shape[1:]), empty, values.dtype)
            spread[ran.start :] = values
            laid[name] = spread
    phase = phases(ran)
    if phase is not None:
        laid["phase"] = phase
    return laid


def _runs_of(columns: Columns) -> Iterator[Columns]:
    """Yield a request in runs of tokens."""
    for low in range(0, len(columns["experts"]), RUN):
        yield {name: values[low : low + RUN] for name, values in columns.items()}
