"""The same tokens routed by transformers and by llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from lrcsim.recorder.capture import Capture
from lrcsim.recorder.llama_cpp.library import Library
from lrcsim.recorder.llama_cpp.routing import Routing
from lrcsim.recorder.passes import Columns
from lrcsim.traces import LayerTable

STEP = 16


def by_transformers(model: Any, ids: list[int]) -> tuple[Columns, LayerTable]:
    """Return what a model routes, and its layers."""
    capture = Capture(model)
    with capture.on(), torch.inference_mode():
        model(input_ids=torch.tensor([ids]))
    return capture.take()[0].columns, capture.layers()


def by_llama_cpp(library: Library, path: Path, ids: list[int], **given: Any) -> tuple[Columns, Routing]:
    """Return what a file's model routes in steps of `STEP` tokens, scores too, and what watched it."""
    routing = Routing(library, logits=True)
    parts = []
    with library.model(path) as model, model.context(512, 1, step=STEP, watch=routing.callback, **given) as context:
        for low in range(0, len(ids), STEP):
            context.run(ids[low : low + STEP], every=True)
            parts.append(routing.take(len(ids[low : low + STEP])))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, routing
