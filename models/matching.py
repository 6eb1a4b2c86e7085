"""The format that a trace's experts were stored in."""

from __future__ import annotations

import re

import numpy as np

from lrcsim.models.geometry import Geometry
from lrcsim.models.mixes import LARGER, UNSLOTH
from lrcsim.models.quantisation import dtype_names, expert_bytes, stored_dtype
from lrcsim.traces import RoutingTrace


def matching_dtype(geometry: Geometry, trace: RoutingTrace) -> str:
    """Return the format in which the model's experts have the sizes that the trace recorded.

    Several may: the experts of gpt-oss are mxfp4 in every GGUF file, whatever the rest is stored in. Then it is the one
    that the trace's model is named after (``gpt-oss-20b-Q4_K_M.gguf``), else the release's. Where none has exactly
    these sizes, it is the one that the model is named after, else the one closest in total bytes, ties to the one
    closest layer by layer, and last to llama.cpp's own file type before a publisher's. An engine may count an expert's
    biases or not. Without sizes it is the release's.

    Args:
        geometry: the model.
        trace: of it, with or without ``expert_bytes``.
    """
    mean = trace.layers.mean_bytes  # of experts that differ the mean
    if mean is None:
        return stored_dtype(geometry)
    known = mean.round().astype(np.int64)
    words = set(re.split(r"[^a-z0-9_]+", (trace.model or "").lower()))

    def rank(name: str) -> tuple[bool, bool, int, int, bool]:
        total, by_layer = min(
            (abs(int((sizes - known).sum())), int(np.abs(sizes - known).sum()))
            for sizes in (expert_bytes(geometry, name), expert_bytes(geometry, name, biases=False))
        )
        return by_layer > 0, name not in words, total, by_layer, name in UNSLOTH or name in LARGER

    return min([geometry.dtype, *dtype_names()], key=rank)
