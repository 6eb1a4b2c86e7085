"""The rows of a table request by request: by a column, or where rows without one start again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow.compute as pc

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.names import ALIASES
from lrcsim.traces.importers.passes import Held
from lrcsim.traces.importers.regroup import Regrouped
from lrcsim.traces.importers.rows import Batch, Rows
from lrcsim.traces.importers.source import Columns

Table = Rows | Held | Regrouped


class InterleavedError(Exception):
    """The rows of a request do not stand together."""


class Together:
    """Looks whether the rows of each request stand together."""

    def __init__(self) -> None:
        self._seen: set[object] = set()
        self._current: object = None

    def begins(self, request: object) -> bool:
        """Tell whether rows of this request begin another one than those before.

        Raises:
            InterleavedError: there were rows of it, and of others since.
        """
        if self._seen and request == self._current:
            return False
        if request in self._seen:
            raise InterleavedError
        self._seen.add(request)
        self._current = request
        return True


def by_request(rows: Table, report: Callable[[int], None]) -> Iterator[tuple[str | None, Columns]]:
    """Yield the rows of each request as int64 columns (weights float32), with the request's domain."""
    pending: list[Columns] = []
    domain: str | None = None
    together, named = Together(), True
    for batch in rows.batches(set(ALIASES) - {"expert_bytes", "logits"}, report):
        columns = _arrays(batch)
        count = len(columns["expert"])
        named = named and "request" in batch
        values, bounds = runs_of_requests(batch, count)
        domains = pc.dictionary_encode(batch["domain"]) if "domain" in batch else None
        for value, low, high in zip(values, bounds[:-1], bounds[1:], strict=True):
            if together.begins(value):
                if pending:
                    yield domain, _joined(pending)
                pending = []
                domain = None if domains is None else batch["domain"][low].as_py()
            if domains is not None:
                _one_domain(batch["domain"].slice(low, high - low), domains.indices.slice(low, high - low), domain)
            pending.append({name: column[low:high] for name, column in columns.items()})
    if pending and named:
        yield domain, _joined(pending)
    elif pending:
        for part in _started_again(rows, _joined(pending)):
            yield domain, part


def _one_domain(column: Any, codes: Any, domain: str | None) -> None:
    """Refuse a request with two domains."""
    values = codes.fill_null(-1).to_numpy(zero_copy_only=False)
    if column[0].as_py() != domain or (values != values[0]).any():
        other = next(value for value in column.to_pylist() if value != domain)
        raise TraceError(
            f"a request is of domain {domain!r} and of {other!r}; each has one; leave the column out with "
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


def runs_of_requests(batch: Batch, count: int) -> tuple[list[object], list[int]]:
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
