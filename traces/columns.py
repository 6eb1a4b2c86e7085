"""The per-token columns of a trace: their types in memory, and arrays that users give made into columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import TraceError
from lrcsim.traces.check import COLUMN_KINDS
from lrcsim.traces.layers import LayerTable

STORED: dict[str, type[np.integer[Any]]] = {
    "phase": np.uint8,
    "stack": np.uint8,
    "residency": np.uint8,
    "token_ids": np.int32,
    "predicted_ids": np.int32,
}
"""Types in memory of the columns that a file may hold in any integer type."""


MOST_NARROW = 255
"""Experts of the largest layer up to which version 2 of the format stores an id in a byte; 255 is "not recorded"."""


def is_ids(name: str) -> bool:
    """Tell whether a column holds expert ids."""
    return name == "experts" or name.startswith("predictions/")


def mark_missing(columns: Mapping[str, npt.NDArray[Any]], layers: LayerTable) -> npt.NDArray[np.bool_]:
    """Mark the (token, layer, rank) positions, bool [n, L, K], that should hold an expert id and hold -1."""
    experts = columns["experts"]
    missing = (experts < 0) & (np.arange(experts.shape[2])[None, :] < layers.top_k[:, None])[None]
    if "stack" in columns:
        missing &= (columns["stack"][:, None] == layers.stack[None, :])[:, :, None]
    return missing


def signed_ids(stored: npt.NDArray[np.unsignedinteger[Any]], layers: LayerTable) -> npt.NDArray[Any]:
    """Return expert ids as they are in memory (`id_dtype`) from uint8 or uint16 as in a file, whose largest is -1."""
    if stored.dtype == np.uint8:
        moved = (stored + np.uint8(1)).astype(np.int16)  # 255 becomes 0
        moved -= 1
        return moved
    if id_dtype(layers) == np.int16:
        return stored.view(np.int16)
    wide = stored.astype(np.int32)
    wide[stored == 65_535] = -1
    return wide


def stored_ids(ids: npt.NDArray[Any], layers: LayerTable, version: int) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Return checked expert ids as a version of the file format stores them: -1 becomes the largest of the type."""
    return ids.astype(np.uint8 if version > 1 and int(layers.num_experts.max()) <= MOST_NARROW else np.uint16)


def id_dtype(layers: LayerTable) -> type[np.signedinteger[Any]]:
    """Type of expert ids in memory: int16 unless a layer has more than 32,767 experts."""
    return np.int16 if int(layers.num_experts.max()) <= 32_767 else np.int32


class Column(Protocol):
    """What a trace keeps per token: a numpy array, or something sliced like one (an HDF5 dataset)."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Tokens first."""

    def __getitem__(self, key: slice | tuple[slice, slice], /) -> Any:
        """Return tokens ``key`` as an array."""


def in_memory(
    experts: npt.NDArray[Any],
    layers: LayerTable,
    given: Mapping[str, npt.ArrayLike | None],
    predictions: Mapping[int, npt.ArrayLike],
) -> dict[str, npt.NDArray[Any]]:
    """Make columns of the arrays of `RoutingTrace.from_arrays`, refusing wrong shapes and kinds.

    Expert ids come as int64, so that one that does not fit the stored type is reported by `check_tokens`, not wrapped.

    Args:
        experts: int [tokens, L, k].
        layers: the MoE layers.
        given: the other columns by name, but for predictions; None: not given.
        predictions: for each distance, int [tokens, L, p].

    Raises:
        TraceError: an array has the wrong shape or kind of numbers, or values that do not fit.
    """
    tokens, num_layers, _ = experts.shape
    shapes = {
        "weights": experts.shape,
        "residency": experts.shape,
        "logits": (tokens, num_layers, int(layers.num_experts.max())),
        "router_inputs": (tokens, num_layers, *np.asarray(given.get("router_inputs")).shape[2:3]),
    }
    columns: dict[str, npt.NDArray[Any]] = {"experts": experts.astype(np.int64)}
    for name, value in given.items():
        if value is not None:
            columns[name] = _column(name, value, shapes.get(name, (tokens,)))
    for distance, value in predictions.items():
        array = np.asarray(value)
        if array.ndim != 3 or array.shape[:2] != (tokens, num_layers) or array.dtype.kind not in "iu":
            raise TraceError(
                f"predictions[{distance}] must be integers [{tokens}, {num_layers}, p], "
                f"given {array.dtype} {list(array.shape)}"
            )
        columns[f"predictions/{int(distance)}"] = array.astype(np.int64)
    if "stack" not in columns and len(layers.stack_names) > 1:
        raise TraceError(f"the model has the stacks {', '.join(layers.stack_names)}: say for each token which (stack)")
    return columns


def _column(name: str, value: npt.ArrayLike, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Bring an array to the type of its column in memory: weights and logits keep float16, others become float32."""
    array, kinds = np.asarray(value), COLUMN_KINDS[name]
    if array.shape != shape or array.dtype.kind not in kinds:
        kind = "numbers" if "f" in kinds else "integers"
        raise TraceError(f"{name} must be {kind} {list(shape)}, given {array.dtype} {list(array.shape)}")
    if kinds == "f":
        return array.astype(np.float16 if array.dtype == np.float16 else np.float32)
    limits = np.iinfo(STORED[name])
    if array.dtype.kind != "b" and array.size and (array.min() < limits.min or array.max() > limits.max):
        raise TraceError(f"{name} has values that do not fit {limits.dtype}: {array.min()} to {array.max()}")
    return array.astype(STORED[name])
