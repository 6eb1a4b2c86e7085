"""A trace as a table: a row for each token, layer and rank, with all that is known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lrcsim.traces.layers import LayerTable


class HasColumns(Protocol):
    """What a table is made of: a `RoutingTrace`."""

    layers: LayerTable
    offsets: npt.NDArray[np.int64]
    domains: list[str] | None

    @property
    def columns(self) -> Mapping[str, Any]:
        """The per-token columns that there are, by name."""

    def read(self, name: str, low: int, high: int) -> npt.NDArray[Any]:
        """Return tokens ``low`` to ``high`` of one of them."""


def activations(trace: HasColumns, low: int, high: int) -> dict[str, npt.NDArray[Any] | Sequence[str]]:
    """Return the columns of the table of tokens ``low`` to ``high``, all of the same length.

    ``request``, ``domain``, ``phase`` (0 prefill, 1 decode), ``token`` (from the beginning of its request),
    ``token_id``, ``layer`` (its number in the model), ``rank``, ``expert`` (-1: not recorded), ``weight`` float32,
    ``residency``; those that the trace has.
    """
    experts = trace.read("experts", low, high)
    within_k = np.broadcast_to(np.arange(experts.shape[2])[None, :] < trace.layers.top_k[:, None], experts.shape)

    def spread(values: npt.NDArray[Any], *axes: int) -> npt.NDArray[Any]:
        return np.broadcast_to(np.expand_dims(values, axes), experts.shape)[within_k]

    token = np.arange(low, high)
    request = np.searchsorted(trace.offsets, token, side="right") - 1
    columns: dict[str, npt.NDArray[Any] | Sequence[str]] = {"request": spread(request, 1, 2)}
    if trace.domains is not None:
        columns["domain"] = spread(np.array(trace.domains, object)[request], 1, 2)
    if "phase" in trace.columns:
        columns["phase"] = spread(trace.read("phase", low, high), 1, 2)
    columns["token"] = spread(token - trace.offsets[request], 1, 2)
    if "token_ids" in trace.columns:
        columns["token_id"] = spread(trace.read("token_ids", low, high), 1, 2)
    columns["layer"] = spread(trace.layers.block, 0, 2)
    columns["rank"] = spread(np.arange(experts.shape[2]), 0, 1)
    columns["expert"] = experts[within_k]
    if "weights" in trace.columns:
        columns["weight"] = trace.read("weights", low, high)[within_k].astype(np.float32)
    if "residency" in trace.columns:
        columns["residency"] = trace.read("residency", low, high)[within_k]
    return columns
