"""Import the recordings of "Local routing consistency" (arXiv 2505.16056): one safetensors file per layer.

Files are named ``MODEL_LAYER.safetensors``; each holds one tensor per dataset, of samples x tokens x

* k expert ids, best first (the paper's ``topk`` folder),
* E ranks, 0 for the least score (``rank``; the experts used are those with rank >= E - k), or
* E router logits (``merged``), of which the k largest are used; between equal ones the lower id.

Every sample is a request of its own with the dataset as its domain. The samples are teacher-forced, so there are no
phases. 8-bit ids and ranks are unsigned, whatever the file says: with more than 128 experts they wrap. Token ids, read
and predicted, come along where the paper's scripts put them (`moe_lrc_tokens`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.common import guessed_experts, needed_top_k
from lrcsim.traces.importers.logits import best as chosen
from lrcsim.traces.importers.moe_lrc_tokens import of_sample, tokens_beside
from lrcsim.traces.importers.safetensors import open_tensors, to_float
from lrcsim.traces.importers.source import Columns, Options, Progress, Request, Source
from lrcsim.traces.layers import MAX_EXPERTS, LayerTable

NAME = re.compile(r"(.+)_(\d+)\.safetensors")


def matches(path: Path, head: bytes) -> bool:
    """Tell whether a path is a safetensors file, a folder of them, or a pattern for them."""
    if path.is_dir():
        return any(path.glob("*.safetensors"))
    return path.suffix == ".safetensors" and (bool(head) or "*" in path.name)


def open_source(path: Path, options: Options, progress: Progress) -> Source:
    """Map the files of all layers, check that they belong together, and return a source over them."""
    model, files = _files(path)
    layers = [(block, open_tensors(file)) for block, file in files]
    datasets = list(layers[0][1])
    if not datasets:
        raise TraceError(f"{files[0][1]}: holds no tensors")
    for (_, file), (_, tensors) in zip(files, layers, strict=True):
        if set(tensors) != set(datasets):
            raise TraceError(f"{file}: has the datasets {sorted(tensors)}, the first layer {sorted(datasets)}")
        for name, (_, array) in tensors.items():
            shape = layers[0][1][name][1].shape
            if array.ndim != 3 or 0 in array.shape:
                raise TraceError(f"{file}: {name!r} must be [samples, tokens, experts], is {list(array.shape)}")
            if array.shape[:2] != shape[:2]:
                raise TraceError(
                    f"{file}: {name!r} has {list(array.shape[:2])} samples and tokens, the first layer "
                    f"{list(shape[:2])}; import encoder and decoder one by one"
                )
    notices: list[str] = []
    kinds = [_kind(file, tensors, options, notices) for (_, file), (_, tensors) in zip(files, layers, strict=True)]
    if all(kind.experts for kind in kinds):
        widths = [int(kind.experts or 0) for kind in kinds]
        experts: int | list[int] = widths
        if options.num_experts is not None and set(widths) != {options.num_experts}:
            raise TraceError(
                f"{path}: holds ranks or logits of {widths[0]} experts, --num-experts says {options.num_experts}"
            )
    elif options.num_experts is not None:
        experts = options.num_experts
    else:
        experts = guessed_experts(max(_largest(tensors) for _, tensors in layers), notices, options.likely)
    total = sum(len(array) for _, array in layers[0][1].values())
    top_k = [kind.top_k for kind in kinds]
    shapes = {name: (int(array.shape[0]), int(array.shape[1])) for name, (_, array) in layers[0][1].items()}
    tokens = tokens_beside(files[0][1].parent, model, shapes, notices)

    def requests() -> Iterator[Request]:
        done = 0
        for dataset in datasets:
            for sample in range(len(layers[0][1][dataset][1])):
                routing = _sample(layers, kinds, dataset, sample, max(top_k))
                yield dataset, iter([routing | of_sample(tokens, dataset, sample)])
                done += 1
                progress(done, total)

    table = LayerTable.build(
        len(layers), experts, top_k, expert_bytes=options.expert_bytes, block=[block for block, _ in layers]
    )
    return Source(table, model, requests, notices=notices)


def _files(path: Path) -> tuple[str, list[tuple[int, Path]]]:
    """Find the model and the files of its layers, in order."""
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
    elif "*" in path.name:
        found = sorted(path.parent.glob(path.name))
    else:
        found = [path]
    if not found:
        raise TraceError(f"{path}: holds no files named MODEL_LAYER.safetensors")
    named: list[tuple[str, int, Path]] = []
    for file in found:
        match = NAME.fullmatch(file.name)
        if match is None:
            raise TraceError(f"{file}: must be named MODEL_LAYER.safetensors, for example olmoe_00.safetensors")
        named.append((match[1], int(match[2]), file))
    models = sorted({model for model, _, _ in named})
    if len(models) > 1:
        raise TraceError(
            f"{path}: holds {len(models)} models ({', '.join(models)[:100]}); "
            f"choose one with a pattern: {(path if path.is_dir() else path.parent) / (models[0] + '_*.safetensors')}"
        )
    return models[0], sorted((layer, file) for _, layer, file in named)


@dataclass(frozen=True)
class _Kind:
    """How one layer's tensors say which experts were used."""

    read: Callable[[str, npt.NDArray[Any]], npt.NDArray[Any]]
    top_k: int
    experts: int | None


def _kind(file: Path, tensors: dict[str, tuple[str, npt.NDArray[Any]]], options: Options, notices: list[str]) -> _Kind:
    top_k = options.top_k
    name, (dtype, array) = next(iter(tensors.items()))
    width = array.shape[2]
    if any(other.shape[2] != width or kind != dtype for kind, other in tensors.values()):
        raise TraceError(f"{file}: its datasets differ in dtype, or in their last dimension")
    is_logits = dtype.startswith(("F", "BF"))
    first = _unsigned(array[0]) if not is_logits else np.empty(0)
    is_rank = not is_logits and width > 1 and bool((np.sort(first, axis=1) == np.arange(width)).all())
    if not is_logits and not is_rank:
        if top_k is not None and top_k != width:
            raise TraceError(f"{file}: {name!r} lists {width} experts per token, --top-k says {top_k}")
        return _Kind(lambda _, values: _ids(file, values), width, None)
    if top_k is None and options.likely is not None and options.likely.num_experts == width:
        top_k = needed_top_k(options.likely, notices)
    if top_k is None:
        raise TraceError(
            f"{file}: {name!r} holds {'logits' if is_logits else 'ranks'} of {width} experts: give --top-k"
        )
    if top_k > width:
        raise TraceError(f"{file}: {name!r} holds {width} experts, --top-k says {top_k}")

    def best(kind: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        scores = to_float(kind, values) if is_logits else _unsigned(values).astype(np.int64)
        if is_logits and not np.isfinite(scores).all():
            raise TraceError(f"{file}: logits must be finite numbers")
        if is_rank:
            good = (np.sort(scores, axis=-1) == np.arange(width)).all(axis=-1)
            if not good.all():
                raise TraceError(
                    f"{file}: {name!r}: the ranks of token {int(np.argmin(good))} of a sample are "
                    f"{scores[int(np.argmin(good))].tolist()[:8]}..., not 0 to {width - 1} once each"
                )
        return chosen(scores, top_k)

    return _Kind(best, top_k, width)


def _unsigned(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    values = np.asarray(values)
    return values.view(np.uint8) if values.dtype == np.int8 else values


def _ids(file: Path, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return ids, refusing those that no trace can hold."""
    ids = _unsigned(values)
    if ids.size and (int(ids.min()) < -1 or int(ids.max()) >= MAX_EXPERTS):
        at = np.unravel_index(int(np.argmax((ids < -1) | (ids >= MAX_EXPERTS))), ids.shape)
        raise TraceError(f"{file}: token {at[0]} of a sample: expert id {ids[at]}, allowed 0..{MAX_EXPERTS - 1} or -1")
    return ids


def _largest(tensors: dict[str, tuple[str, npt.NDArray[Any]]]) -> int:
    return max(int(_unsigned(sample).max()) for _, array in tensors.values() for sample in array)


def _sample(
    layers: list[tuple[int, dict[str, tuple[str, npt.NDArray[Any]]]]],
    kinds: list[_Kind],
    dataset: str,
    sample: int,
    top_k: int,
) -> Columns:
    tokens = layers[0][1][dataset][1].shape[1]
    experts = np.full((tokens, len(layers), top_k), -1, np.int32)
    for at, ((_, tensors), kind) in enumerate(zip(layers, kinds, strict=True)):
        dtype, array = tensors[dataset]
        experts[:, at, : kind.top_k] = kind.read(dtype, array[sample])
    return {"experts": experts}
