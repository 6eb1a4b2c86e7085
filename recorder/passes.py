"""What forward passes gave, as plain arrays: which rows belong to which request, ranks, the table of layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Columns = dict[str, npt.NDArray[Any]]


@dataclass
class Frames:
    """What one stack of a model ran since the last `Capture.take`.

    Attributes:
        rows: rows of each forward pass, batch x positions, in order.
        columns: ``experts`` int32 [sum of rows, L, K] (-1: none ran), ``weights`` float32 [.., L, K], and where asked
            for ``logits`` float16 [.., L, E], ``router_inputs`` float16 [.., L, H] and ``predictions/d`` int32
            [.., L, K]; L are the layers of this stack.
            Of a model that predicts tokens also ``predicted_ids`` int32 [..] (-1: no output was computed).
    """

    rows: list[int]
    columns: Columns

    def of(self, row: int, batch: int) -> npt.NDArray[np.int64]:
        """Return the indices into the columns of one row of the batch, position after position."""
        parts, start = [], 0
        for count in self.rows:
            width = count // batch
            parts.append(start + row * width + np.arange(width))
            start += count
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def stacked(layers: list[Columns]) -> Columns:
    """Join the columns of each layer, [rows, width], to [rows, L, K]; layers of a smaller width are filled up.

    Ids are filled with -1, weights with 0.
    """
    joined: Columns = {}
    for name in layers[0]:
        parts = [layer[name] for layer in layers]
        width = max(part.shape[1] for part in parts)
        fill = -1 if name == "experts" or name.startswith("predictions/") else 0
        filled = [
            part if part.shape[1] == width else np.pad(part, ((0, 0), (0, width - part.shape[1])), constant_values=fill)
            for part in parts
        ]
        joined[name] = np.stack(filled, axis=1)
    return joined


def sorted_by_weight(ids: npt.NDArray[np.int32], weights: npt.NDArray[np.float32]) -> None:
    """Put ids and weights [.., K] in rank order, in place: falling weight, ids of -1 (weight set to 0) last.

    An id that stands twice in a token's top-k (a hash router may do that) is kept once.
    """
    ordered = np.sort(ids, axis=-1)
    twice = ((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)).any(axis=-1)
    for place in zip(*np.nonzero(twice), strict=True):
        seen: set[int] = set()
        for rank, expert in enumerate(ids[place]):
            if int(expert) in seen:
                ids[(*place, rank)] = -1
            seen.add(int(expert))
    weights[ids < 0] = 0
    key = np.where(ids < 0, -np.inf, weights)
    wrong = (key[..., 1:] > key[..., :-1]).any(axis=-1)
    if wrong.any():
        order = np.argsort(-key[wrong], axis=-1, kind="stable")
        ids[wrong] = np.take_along_axis(ids[wrong], order, axis=-1)
        weights[wrong] = np.take_along_axis(weights[wrong], order, axis=-1)
