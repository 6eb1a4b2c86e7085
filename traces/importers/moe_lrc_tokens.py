"""Token ids beside the paper's recordings: what was read (``data/merged``) and what was predicted (``output/pred``).

The paper's scripts write routing to ``output/topk``, ``rank`` and ``merged``, the model's most likely token at every
position to ``output/pred/MODEL.safetensors`` (10_calculate.py), and read the texts from
``data/merged/MODEL.safetensors``: a tensor per dataset, samples x tokens.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.safetensors import open_tensors
from lrcsim.traces.importers.source import Columns

PLACES = {"token_ids": ("..", "data", "merged"), "predicted_ids": ("pred",)}
"""Folders of the files, from the folder that holds the folder of the routing."""

SEVERAL_STACKS = ("switch", "nllb")
"""The paper's encoder-decoder models, by its names: their files do not say which stack a position belongs to."""

Tokens = dict[str, dict[str, npt.NDArray[np.integer]]]
"""By our column and the dataset: ids [samples, tokens]."""


def tokens_beside(folder: Path, model: str, shapes: dict[str, tuple[int, int]], notices: list[str]) -> Tokens:
    """Find the token ids that belong to a folder of routing, and say what was found, or why it is left out.

    Args:
        folder: of the routing files.
        model: the name that they begin with.
        shapes: of each dataset, samples and tokens.
        notices: told of every file that is there.

    Raises:
        TraceError: a file is there, and damaged.
    """
    found: Tokens = {}
    for column, steps in PLACES.items():
        path = folder.absolute().parent.joinpath(*steps, f"{model}.safetensors").resolve()
        if not path.is_file():
            continue
        shown = f"{'/'.join(part for part in steps if part != '..')}/{path.name}"
        if model in SEVERAL_STACKS:
            notices.append(f"{shown} left out: {model} has an encoder and a decoder, it does not say which is meant")
            continue
        tensors = open_tensors(path)
        wrong = [name for name, shape in shapes.items() if name not in tensors or tensors[name][1].shape != shape]
        if wrong:
            notices.append(f"{shown} left out: it has not the samples and tokens of the routing ({wrong[0]!r})")
            continue
        for name in shapes:
            if tensors[name][0].startswith(("F", "BF")):
                raise TraceError(f"{path}: {name!r} must be integers, is {tensors[name][0]}")
        found[column] = {name: tensors[name][1] for name in shapes}
        notices.append(f"{column.replace('_', ' ')} taken from {shown}")
    return found


def of_sample(tokens: Tokens, dataset: str, sample: int) -> Columns:
    """Return the columns of one sample, int64 [tokens] each; `check_tokens` looks at their values."""
    return {column: np.asarray(datasets[dataset][sample]).astype(np.int64) for column, datasets in tokens.items()}
