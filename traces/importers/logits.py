"""From the router's logits of all experts to the k it chose."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers import values


def best(scores: npt.NDArray[Any], top_k: int) -> npt.NDArray[np.int64]:
    """Return int64 [..., k], the ids of the largest of scores [..., E], best first; between equal ones the lower id."""
    return np.argsort(-scores, axis=-1, kind="stable")[..., :top_k]


def best_of_logits(
    column: Any, top_k: int, width: int | None, first_row: int, parents: npt.NDArray[np.int64]
) -> tuple[Any, int]:
    """Turn lists of the logits of all experts into lists of the experts chosen.

    Args:
        column: Arrow lists of E numbers (or text).
        top_k: k.
        width: E, of the rows before; None at the first.
        first_row: number of the first row, for messages.
        parents: int [lists], the row of each list, counted from 0.

    Returns:
        Arrow lists of k ids, and E.

    Raises:
        TraceError: the lists differ in length, are shorter than k, or hold what is no finite number.
    """
    lengths = np.asarray(pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False))
    if width is None:
        width = int(lengths.max(initial=0))
    if top_k > width:
        raise TraceError(f"holds the logits of {width} experts, --top-k says {top_k}")
    if (lengths != width).any():
        at = int(np.argmax(lengths != width))
        raise TraceError(
            f"{values.place(first_row + int(parents[at]))}: logits of {lengths[at]} experts, others have {width}"
        )
    flat = values.numbers("logits", pc.list_flatten(column), first_row).fill_null(np.nan)
    scores = flat.to_numpy(zero_copy_only=False).reshape(-1, width)
    good = np.isfinite(scores).all(axis=1)
    if not good.all():
        at = int(parents[int(np.argmin(good))])
        raise TraceError(f"{values.place(first_row + at)}: logits must be finite numbers")
    chosen = best(scores, top_k)
    offsets = pa.array(np.arange(len(chosen) + 1, dtype=np.int32) * top_k)
    return pa.ListArray.from_arrays(offsets, pa.array(chosen.ravel())), width
