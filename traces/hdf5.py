"""Read trace files: HDF5, versions 1 and 2. FORMAT.md beside this file says how another tool reads or writes them."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from lrcsim.base.documents import check_regular, parse_json
from lrcsim.base.errors import TraceError
from lrcsim.traces.check import COLUMN_KINDS, check_shapes
from lrcsim.traces.chunks import column_of
from lrcsim.traces.columns import MOST_NARROW, Column, is_ids, signed_ids
from lrcsim.traces.foreign import count_in, dataset_in, group_in, text_attribute
from lrcsim.traces.layers import COLUMNS, MAX_EXPERTS, MAX_KEYS, LayerTable

FORMAT = "lrcsim-trace"
VERSIONS = (1, 2)
"""What is read; the last is written unless another is asked for."""

DATASETS = {
    "experts": "routing/experts",
    "weights": "routing/weights",
    "logits": "routing/logits",
    "router_inputs": "routing/inputs",
    "residency": "routing/residency",
    "phase": "tokens/phase",
    "token_ids": "tokens/id",
    "predicted_ids": "tokens/predicted_id",
    "stack": "tokens/stack",
}
"""Where each per-token column stands in the file; predictions at distance d stand at routing/predictions/d."""

LONGEST_LABEL = 65_536
"""Characters of a domain's name: what an attribute of HDF5 holds, as which the model's name is kept."""


@dataclass
class TraceFile:
    """An open trace file: what its header says, and the datasets to read columns from.

    Attributes:
        path: under which it was opened.
        file: the HDF5 file.
        layers: the MoE layers.
        columns: what reads the per-token datasets, by our names.
        offsets: int64 [requests + 1].
        domains: one label per request, or None.
        model: name of the model.
        provenance: what is known of the trace's origin.
    """

    path: Path
    file: h5py.File
    layers: LayerTable
    columns: dict[str, Column]
    offsets: npt.NDArray[np.int64]
    domains: list[str] | None
    model: str
    provenance: dict[str, Any]

    def __post_init__(self) -> None:
        self._state = self._size_and_time()

    def _size_and_time(self) -> tuple[int, int]:
        opened = self.file.id.get_vfd_handle() if hasattr(os, "pread") else self.file.filename
        about = os.stat(opened)
        return about.st_size, about.st_mtime_ns

    def sha256(self) -> str:
        """Return the SHA-256 of the bytes that were opened, if another file has taken the name since.

        Windows has no ``pread``; there no other file can take the name of one that is open, so it is opened again.

        Raises:
            TraceError: the file has been written to since it was opened.
        """
        digest = hashlib.sha256()
        if hasattr(os, "pread"):
            descriptor, at = self.file.id.get_vfd_handle(), 0
            while block := os.pread(descriptor, 1 << 20, at):
                digest.update(block)
                at += len(block)
        else:
            with open(self.file.filename, "rb") as again:
                digest = hashlib.file_digest(again, "sha256")
        if self._size_and_time() != self._state:
            raise TraceError(f"{self.file.filename}: was written to while it was used")
        return digest.hexdigest()

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def read_header(path: Path) -> TraceFile:
    """Open a trace file and read its header only, without a look at it beforehand (`lrcsim.traces.probe`).

    Raises:
        TraceError: the file is absent, not HDF5, truncated, not a trace, of an unknown version, or inconsistent.
    """
    check_regular(path)
    try:
        if not h5py.is_hdf5(path):
            raise TraceError(f"{path}: is not an HDF5 file; other formats come in with: lrcsim trace import")
        file = h5py.File(path, "r")
    except OSError as error:
        reason = "is truncated" if "truncated" in str(error) else "cannot be read"
        raise TraceError(f"{path}: {reason} ({error})") from None
    try:
        return _read_header(path, file)
    except TraceError as error:
        file.close()
        if str(error).startswith(f"{path}: "):
            raise
        raise TraceError(f"{path}: is damaged or not written as FORMAT.md says: {error}") from None
    except DAMAGE as error:
        file.close()
        said = " ".join(str(error).split())[:200]
        raise TraceError(f"{path}: is damaged or not written as FORMAT.md says ({said})") from None
    except BaseException:
        file.close()
        raise


DAMAGE = (
    *(KeyError, OSError, ValueError, TypeError, RuntimeError, AttributeError, IndexError),
    *(RecursionError, MemoryError, OverflowError),
)


def _read_header(path: Path, file: h5py.File) -> TraceFile:
    if text_attribute(file, "format", None) != FORMAT:
        raise TraceError(f"{path}: is HDF5 but no lrcsim trace (its attribute 'format' is not {FORMAT!r})")
    version = int(file.attrs["version"])
    if version not in VERSIONS:
        known = " and ".join(map(str, VERSIONS))
        raise TraceError(f"{path}: has format version {version}, this lrcsim reads versions {known}; update lrcsim")
    layers = _layers(path, file)
    columns = _columns(path, file, version, layers)
    if "experts" not in columns:
        raise TraceError(f"{path}: has no dataset {DATASETS['experts']}")
    shape = columns["experts"].shape
    if len(shape) != 3 or shape[0] < 1:
        raise TraceError(f"{path}: {DATASETS['experts']} has shape {shape}, must be [tokens, layers, k]")
    stored = _needed(file, "requests/offsets")
    if stored.dtype.kind not in "iu":
        raise TraceError(f"{path}: requests/offsets is {stored.dtype}, must be integers")
    offsets = np.asarray(stored[:]).astype(np.int64)
    for problem in check_shapes({name: data.shape for name, data in columns.items()}, layers, offsets):
        raise TraceError(f"{path}: {replace(problem, where=DATASETS.get(problem.where, problem.where))}")
    provenance = parse_json(text_attribute(file, "provenance", None) or "{}", "the attribute 'provenance'")
    if not isinstance(provenance, dict):
        raise TraceError(f"{path}: the attribute 'provenance' must be a JSON object")
    domains = _domains(path, file, len(offsets) - 1)
    model = text_attribute(file, "model", None) or "unknown"
    read: dict[str, Column] = {
        name: column_of(data, partial(signed_ids, layers=layers) if is_ids(name) else None)
        for name, data in columns.items()
    }
    return TraceFile(path, file, layers, read, offsets, domains, model, provenance)


def _columns(path: Path, file: h5py.File, version: int, layers: LayerTable) -> dict[str, h5py.Dataset]:
    """Return the per-token datasets by our names, once their types are known to be right."""
    zstd = version > 1
    columns = {
        name: data for name, place in DATASETS.items() if (data := dataset_in(file, place, zstd=zstd)) is not None
    }
    for distance in group_in(file, "routing/predictions") or ():
        if not (distance.isascii() and distance.isdecimal() and 0 < int(distance) <= MAX_KEYS):
            raise TraceError(f"{path}: routing/predictions/{distance[:40]} must be named by a distance: 1, 2, ...")
        columns[f"predictions/{distance}"] = _needed(file, f"routing/predictions/{distance}", zstd=zstd)
    narrow = version > 1 and int(layers.num_experts.max()) <= MOST_NARROW
    for name, data in columns.items():
        kinds = COLUMN_KINDS[name.partition("/")[0]].replace("b", "")
        if data.dtype.kind not in kinds:
            raise TraceError(f"{path}: {data.name} is {data.dtype}, must be {'floats' if kinds == 'f' else 'integers'}")
        if is_ids(name) and data.dtype.newbyteorder("=") not in (np.uint16, *(np.uint8,) * narrow):
            raise TraceError(f"{path}: {data.name} is {data.dtype}, must be uint16{' or uint8' * narrow}")
    return columns


def _layers(path: Path, file: h5py.File) -> LayerTable:
    if group_in(file, "layers") is None:
        raise TraceError(f"{path}: has no group 'layers'")
    count = count_in(_needed(file, "layers/num_experts"), "layers/num_experts", MAX_KEYS)
    given: dict[str, Any] = {}
    for name in COLUMNS:
        column = dataset_in(file, f"layers/{name}")
        if column is not None:
            by_expert = name == "expert_bytes" and len(column.shape) == 2 and column.shape[0] == count
            if column.shape != (count,) and not by_expert:
                raise TraceError(f"{path}: layers/{name} must be a list of {count}, has shape {list(column.shape)}")
            if by_expert and column.shape[1] > MAX_EXPERTS:
                raise TraceError(f"{path}: layers/{name} is of {column.shape[1]} experts, allowed are {MAX_EXPERTS}")
            given[name] = column[:]
    names = parse_json(text_attribute(file, "stack_names", None) or '["decoder"]', "the attribute 'stack_names'")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise TraceError(f"{path}: the attribute 'stack_names' must be a JSON list of names")
    if "top_k" not in given:
        raise TraceError("has no dataset layers/top_k")
    return LayerTable.build(count, **given, stack_names=tuple(names))


def _domains(path: Path, file: h5py.File, requests: int) -> list[str] | None:
    index = dataset_in(file, "requests/domain")
    if index is None:
        return None
    if index.shape != (requests,) or index.dtype.kind not in "iu":
        raise TraceError(
            f"{path}: requests/domain has {index.size} entries of {index.dtype}, must be {requests} integers, "
            "one per request"
        )
    stored = _needed(file, "requests/domain_names")
    if h5py.check_string_dtype(stored.dtype) is None:
        raise TraceError(f"{path}: requests/domain_names is {stored.dtype}, must be text")
    count_in(stored, "requests/domain_names", max(requests, 65_536))
    names = [str(name) for name in stored.asstr()[:]]
    longest = max(map(len, names), default=0)
    if longest > LONGEST_LABEL:
        raise TraceError(f"requests/domain_names has a name of {longest:,} characters, allowed are {LONGEST_LABEL:,}")
    values = index[:]
    bad = np.flatnonzero((values < 0) | (values >= len(names)))
    if len(bad):
        raise TraceError(f"requests/domain has {values[bad[0]]} for request {bad[0]}, allowed 0..{len(names) - 1}")
    return [names[value] for value in values.tolist()]


def _needed(file: h5py.File, place: str, *, zstd: bool = False) -> h5py.Dataset:
    found = dataset_in(file, place, zstd=zstd)
    if found is None:
        raise TraceError(f"has no dataset {place}")
    return found
