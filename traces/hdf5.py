"""Trace files: HDF5, version 1. FORMAT.md beside this file says how another tool reads or writes them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from lrcsim.base.documents import check_regular, parse_json, unreadable
from lrcsim.base.errors import TraceError
from lrcsim.base.files import Sink, clear_abandoned, partial_of
from lrcsim.traces.check import COLUMN_KINDS, check_shapes, check_tokens
from lrcsim.traces.foreign import count_in, dataset_in, group_in, text_attribute
from lrcsim.traces.layers import MAX_KEYS, LayerTable
from lrcsim.traces.probe import probe
from lrcsim.traces.trace import RoutingTrace

__all__ = ["FORMAT", "VERSION", "TraceWriter", "open_trace", "read_header"]

FORMAT = "lrcsim-trace"
VERSION = 1

DATASETS = {
    "experts": "routing/experts",
    "weights": "routing/weights",
    "logits": "routing/logits",
    "residency": "routing/residency",
    "phase": "tokens/phase",
    "token_ids": "tokens/id",
    "stack": "tokens/stack",
}
"""Where each per-token column stands in the file; predictions at distance d stand at routing/predictions/d."""


LONGEST_NAME = 65_536
"""Characters of a domain's name: what an attribute of HDF5 holds, as which the model's name is kept."""

BUNDLED_FOLDER = Path(__file__).parent / "data"
_known: set[tuple[int, ...]] = set()
"""Files that this process wrote, or has looked at in a child: their identity and state (`_state`)."""


def open_trace(path: Path) -> RoutingTrace:
    """Open a trace file and read its header only; one of unknown origin in a child process first (`probe`).

    Raises:
        TraceError: the file is absent, not HDF5, truncated, not a trace, of an unknown version, or inconsistent.
    """
    try:
        state = _state(path)
        if path.parent != BUNDLED_FOLDER and state not in _known:
            check_regular(path)
            probe(path)
            _known.add(state)
    except (OSError, ValueError) as error:
        raise error if isinstance(error, TraceError) else unreadable(path, error) from None
    trace = read_header(path)
    if _state(path) != state:
        trace.close()
        raise TraceError(f"{path}: was replaced or written to while it was opened")
    return trace


def _state(path: Path) -> tuple[int, ...]:
    about = path.stat()
    return (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns)


def sha256_of_open(file: h5py.File, opened_as: tuple[int, int] | None) -> str:
    """Return the SHA-256 of an open file's bytes: of those that were opened, if another file has taken its name since.

    Args:
        file: the file.
        opened_as: its size and time of change (ns) when it was opened.

    Raises:
        TraceError: it has been written to since it was opened.
    """
    descriptor, at = file.id.get_vfd_handle(), 0
    digest = hashlib.sha256()
    while block := os.pread(descriptor, 1 << 20, at):
        digest.update(block)
        at += len(block)
    about = os.fstat(descriptor)
    if (about.st_size, about.st_mtime_ns) != opened_as:
        raise TraceError(f"{file.filename}: was written to while it was used")
    return digest.hexdigest()


def read_header(path: Path) -> RoutingTrace:
    """Open a trace file and read its header, without a look at it beforehand.

    Raises:
        TraceError: as `open_trace`.
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
        trace = _read_header(path, file)
        about = os.fstat(file.id.get_vfd_handle())
        trace._opened_as = about.st_size, about.st_mtime_ns
        return trace
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


def _read_header(path: Path, file: h5py.File) -> RoutingTrace:
    if text_attribute(file, "format", None) != FORMAT:
        raise TraceError(f"{path}: is HDF5 but no lrcsim trace (its attribute 'format' is not {FORMAT!r})")
    version = int(file.attrs["version"])
    if version != VERSION:
        raise TraceError(f"{path}: has format version {version}, this lrcsim reads version {VERSION}; update lrcsim")
    layers = _layers(path, file)
    columns = {name: data for name, place in DATASETS.items() if (data := dataset_in(file, place)) is not None}
    predictions = group_in(file, "routing/predictions")
    for distance in predictions or ():
        if not (distance.isascii() and distance.isdecimal() and 0 < int(distance) <= MAX_KEYS):
            raise TraceError(f"{path}: routing/predictions/{distance[:40]} must be named by a distance: 1, 2, ...")
        columns[f"predictions/{distance}"] = _needed(file, f"routing/predictions/{distance}")
    if "experts" not in columns:
        raise TraceError(f"{path}: has no dataset {DATASETS['experts']}")
    for name, data in columns.items():
        kinds = COLUMN_KINDS[name.partition("/")[0]].replace("b", "")
        if data.dtype.kind not in kinds:
            raise TraceError(f"{path}: {data.name} is {data.dtype}, must be {'floats' if kinds == 'f' else 'integers'}")
        if name.partition("/")[0] in ("experts", "predictions") and data.dtype.newbyteorder("=") != np.uint16:
            raise TraceError(f"{path}: {data.name} is {data.dtype}, must be uint16")
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
    return RoutingTrace(
        layers,
        columns,
        offsets,
        domains=_domains(path, file, len(offsets) - 1),
        model=text_attribute(file, "model", None) or "unknown",
        provenance=provenance,
        path=path,
        file=file,
    )


def _layers(path: Path, file: h5py.File) -> LayerTable:
    if group_in(file, "layers") is None:
        raise TraceError(f"{path}: has no group 'layers'")
    count = count_in(_needed(file, "layers/num_experts"), "layers/num_experts", MAX_KEYS)
    given: dict[str, Any] = {}
    for name in ("num_experts", "top_k", "expert_bytes", "block", "stack", "num_shared"):
        column = dataset_in(file, f"layers/{name}")
        if column is not None:
            if column.shape != (count,):
                raise TraceError(f"{path}: layers/{name} must be a list of {count}, has shape {list(column.shape)}")
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
    if longest > LONGEST_NAME:
        raise TraceError(f"requests/domain_names has a name of {longest:,} characters, allowed are {LONGEST_NAME:,}")
    values = index[:]
    bad = np.flatnonzero((values < 0) | (values >= len(names)))
    if len(bad):
        raise TraceError(f"requests/domain has {values[bad[0]]} for request {bad[0]}, allowed 0..{len(names) - 1}")
    return [names[value] for value in values.tolist()]


def _needed(file: h5py.File, place: str) -> h5py.Dataset:
    found = dataset_in(file, place)
    if found is None:
        raise TraceError(f"has no dataset {place}")
    return found


class TraceWriter:
    """Write a trace, a run of tokens at a time, in bounded memory.

    Use it as a context manager. Data go to a hidden file in the same folder, which takes the final name in one step
    when the block ends well: whatever happens in between, under the final name stands the old file, or none.

    Args:
        path: the final name; an existing file is replaced.
        layers: the MoE layers.
        model: the model's name.
        provenance: origin of the trace (JSON values).
        compression: ``"gzip"``, ``"lzf"`` or ``"none"``.

    Raises:
        TraceError: tokens that `lrcsim trace check` would complain of, or a folder that cannot be written.
    """

    BLOCK = 16_384
    """Tokens per HDF5 chunk, and per write."""

    def __init__(
        self,
        path: str | Path,
        layers: LayerTable,
        *,
        model: str = "unknown",
        provenance: Mapping[str, Any] | None = None,
        compression: str = "gzip",
    ) -> None:
        filters: dict[str, dict[str, Any]] = {
            "gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
            "lzf": {"compression": "lzf", "shuffle": True},
            "none": {},
        }
        if compression not in filters:
            raise TraceError(f"compression {compression!r} is not known, use one of {', '.join(filters)}")
        self._filter = filters[compression]
        self._path = Path(path)
        self._partial = partial_of(self._path)
        self._layers = layers
        self._offsets: list[int] = []
        self._domains: list[str | None] = []
        self._pending: list[dict[str, npt.NDArray[Any]]] = []
        self._pending_tokens = 0
        self._tokens = 0
        self._written = 0
        self._names: list[str] = []
        try:
            clear_abandoned(self._path)
            self._sink = Sink(self._partial)
        except (OSError, ValueError) as error:
            raise TraceError(f"{path}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
        try:
            self._file = h5py.File(self._sink, "w")
        except BaseException:
            self._sink.close()
            self._partial.unlink(missing_ok=True)
            raise
        try:
            self._file.attrs.update(
                format=FORMAT,
                version=VERSION,
                model=_text("model", model),
                provenance=json.dumps(dict(provenance or {})),
                stack_names=json.dumps(list(layers.stack_names)),
            )
            for name in ("num_experts", "top_k", "expert_bytes", "block", "stack", "num_shared"):
                if getattr(layers, name) is not None:
                    self._file[f"layers/{name}"] = getattr(layers, name)
        except BaseException:
            self.abandon()
            raise

    @property
    def tokens(self) -> int:
        """Tokens given so far."""
        return self._tokens

    def set_provenance(self, provenance: Mapping[str, Any]) -> None:
        """Replace the provenance, when some of it is known only at the end."""
        self._file.attrs["provenance"] = json.dumps(dict(provenance))

    def begin_request(self, domain: str | None = None) -> None:
        """Start the next request; tokens appended from now on are its."""
        self._offsets.append(self._tokens)
        self._domains.append(None if domain is None else _text("domain", domain))

    def append(self, columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Add tokens to the current request.

        Args:
            columns: per-token arrays of equal length as in `RoutingTrace.from_arrays`, ids signed with -1 for not
                recorded; the same names in every call.

        Raises:
            TraceError: a column is missing or new, or holds what `check_file` would complain of.
        """
        if not self._offsets:
            self.begin_request()
        if not self._names:
            self._names = list(columns)
        elif set(columns) != set(self._names):
            raise TraceError(f"request {len(self._offsets) - 1} has {sorted(columns)}, others {sorted(self._names)}")
        count = len(columns["experts"])
        if count == 0:
            return
        shapes = {name: data.shape for name, data in columns.items()}
        problems = check_shapes(shapes, self._layers, np.array([0, count]))
        problems = problems or check_tokens(columns, self._layers, self._tokens)
        if problems:
            raise TraceError(str(problems[0]))
        self._pending.append(dict(columns))
        self._pending_tokens += count
        self._tokens += count
        if self._pending_tokens >= self.BLOCK:
            self._flush(self._pending_tokens - self._pending_tokens % self.BLOCK)

    def _flush(self, count: int) -> None:
        """Write the first ``count`` waiting tokens, keep the rest: whole chunks are compressed once."""
        joined = {name: np.concatenate([part[name] for part in self._pending]) for name in self._names}
        for name, data in joined.items():
            if name == "experts" or name.startswith("predictions/"):
                data = data.astype(np.uint16)  # -1 becomes 65535
            place = DATASETS.get(name, f"routing/{name}")
            if place not in self._file:
                chunks = (self.BLOCK, *((1,) if data.ndim > 1 else ()), *data.shape[2:])
                self._file.create_dataset(
                    place,
                    (0, *data.shape[1:]),
                    data.dtype,
                    maxshape=(None, *data.shape[1:]),
                    chunks=chunks,
                    **self._filter,
                )
            dataset = self._file[place]
            dataset.resize(self._written + count, axis=0)
            dataset[self._written :] = data[:count]
        try:
            self._sink.check()
        except OSError as error:
            raise TraceError(f"{self._path}: cannot be written ({error.strerror or error})") from None
        self._written += count
        self._pending = [{name: data[count:] for name, data in joined.items()}]
        self._pending_tokens -= count

    def close(self) -> None:
        """Finish the file and give it its final name.

        Raises:
            TraceError: nothing was appended.
        """
        try:
            if self._tokens == 0:
                raise TraceError(f"{self._path}: not written, there are no tokens in it")
            if self._pending_tokens:
                self._flush(self._pending_tokens)
            self._file["requests/offsets"] = np.array([*self._offsets, self._tokens], dtype=np.int64)
            if any(domain is not None for domain in self._domains):
                labels = [domain or "" for domain in self._domains]
                names = sorted(set(labels))
                self._file["requests/domain_names"] = np.array(names, dtype=h5py.string_dtype())
                self._file["requests/domain"] = np.array([names.index(label) for label in labels], dtype=np.int32)
            self._file.close()
            self._sink.sync()
            os.replace(self._partial, self._path)
            self._sink.close()
            _known.add(_state(self._path))
        except OSError as error:
            self.abandon()
            raise TraceError(f"{self._path}: cannot be written ({error.strerror or error})") from None
        except BaseException:
            self.abandon()
            raise

    def abandon(self) -> None:
        """Drop what was written; the final name is left as it was."""
        try:
            with suppress(OSError, RuntimeError, ValueError):  # what cannot be flushed is dropped anyway
                self._file.close()
        finally:
            self._sink.close()
            self._partial.unlink(missing_ok=True)

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


def _text(name: str, value: str) -> str:
    """Return a string that HDF5 can hold.

    Raises:
        TraceError: it is none, or holds what no text file can.
    """
    if not isinstance(value, str) or "\0" in value or value.encode(errors="ignore").decode() != value:
        raise TraceError(f"{name} {value!r} cannot be stored as text")
    return value
