"""The file that SGLang and ktransformers read with ``--init-expert-location``: how often each expert was used.

What ``torch.save({"logical_count": counts}, path)`` writes, counts an int64 tensor [1, all layers, experts], written
without torch: a zip of a pickle and of the tensor's bytes (torch/serialization.py; the pickle names
``torch._utils._rebuild_tensor_v2`` and a storage). ktransformers' fork of SGLang (``kt_ep_wrapper.py``) wants three
dimensions, as many layers as the model has with and without experts, and a name that ends in ``.pt``; any other name it
takes for no file and places experts as if all were used alike. SGLang's own placement reads JSON too.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.base.files import replacing
from lrcsim.models import Geometry, check_trace
from lrcsim.traces import RoutingTrace

AT_ONCE = 16_384
"""Tokens of a trace that are read together."""


def counts_of(trace: RoutingTrace, geometry: Geometry) -> npt.NDArray[np.int64]:
    """Return how often a trace uses each expert, int64 [all layers, experts]; 0 in layers without experts.

    Raises:
        ConfigError: it is no trace of this model.
    """
    check_trace(geometry, trace)
    counts = np.zeros((geometry.layers, geometry.experts), np.int64)
    for low in range(0, trace.num_tokens, AT_ONCE):
        ids = trace.read("experts", low, min(low + AT_ONCE, trace.num_tokens))
        for place, layer in enumerate(geometry.moe_layers):
            used = ids[:, place]
            counts[layer] += np.bincount(used[used >= 0], minlength=geometry.experts)
    return counts


def write_counts(path: str | Path, counts: npt.NDArray[np.int64]) -> None:
    """Write counts, int64 [layers, experts], as those of one recording.

    Raises:
        ConfigError: the name does not end in ``.pt``.
        TraceError: it cannot be written.
    """
    if Path(path).suffix != ".pt":
        raise ConfigError(f"--counts-out {path}: the engine reads counts from a name that ends in .pt only: give one")
    values = np.ascontiguousarray(counts, "<i8")[None]
    folder = Path(path).stem
    with replacing(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(f"{folder}/data.pkl", _pickled(values))
        archive.writestr(f"{folder}/byteorder", "little")
        archive.writestr(f"{folder}/data/0", values.tobytes())
        archive.writestr(f"{folder}/version", "3\n")


def _pickled(values: npt.NDArray[np.int64]) -> bytes:
    """Return the pickle of ``{"logical_count": tensor}``, its numbers in ``data/0``, opcode by opcode (protocol 2)."""
    count, rows, columns = values.shape
    storage = (
        pickle.MARK + _text("storage") + pickle.GLOBAL + b"torch\nLongStorage\n" + _text("0") + _text("cpu")
        + _number(values.size) + pickle.TUPLE + pickle.BINPERSID
    )  # fmt: skip
    shape = pickle.MARK + _number(count) + _number(rows) + _number(columns) + pickle.TUPLE
    strides = pickle.MARK + _number(rows * columns) + _number(columns) + _number(1) + pickle.TUPLE
    hooks = pickle.GLOBAL + b"collections\nOrderedDict\n" + pickle.EMPTY_TUPLE + pickle.REDUCE
    tensor = (
        pickle.GLOBAL + b"torch._utils\n_rebuild_tensor_v2\n" + pickle.MARK + storage + _number(0) + shape + strides
        + pickle.NEWFALSE + hooks + pickle.TUPLE + pickle.REDUCE
    )  # fmt: skip
    return pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + _text("logical_count") + tensor + pickle.SETITEM + pickle.STOP


def _text(value: str) -> bytes:
    return pickle.BINUNICODE + len(value).to_bytes(4, "little") + value.encode()


def _number(value: int) -> bytes:
    return pickle.BININT + value.to_bytes(4, "little", signed=True)
