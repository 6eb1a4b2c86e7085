"""The format that a trace's experts were stored in."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from lrcsim.models.geometry import Geometry
from lrcsim.models.quantisation import dtype_names, expert_bytes, stored_dtype
from lrcsim.traces import RoutingTrace


def matching_dtype(geometry: Geometry, trace: RoutingTrace) -> str:
    """Return the format in which the model's experts have the sizes that the trace recorded.

    The one closest in total bytes, ties to the one closest layer by layer; without sizes as the model was released.
    """
    known = trace.expert_bytes
    if known is None:
        return stored_dtype(geometry)
    known = np.asarray(known, np.int64)
    distance: Mapping[str, tuple[int, int]] = {
        name: (abs(int((sizes - known).sum())), int(np.abs(sizes - known).sum()))
        for name in [geometry.dtype, *dtype_names()]
        for sizes in [expert_bytes(geometry, name)]
    }
    return min(distance, key=lambda name: distance[name])
