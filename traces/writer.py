"""Write trace files, a run of tokens at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import TraceError
from lrcsim.base.files import Sink, clear_abandoned, partial_of
from lrcsim.traces.check import check_shapes, check_tokens
from lrcsim.traces.columns import is_ids, stored_ids
from lrcsim.traces.hdf5 import DATASETS, FORMAT, VERSIONS
from lrcsim.traces.layers import COLUMNS, LayerTable
from lrcsim.traces.packing import LEVEL, SHUFFLE, ZSTD, filters, pack
from lrcsim.traces.probe import remember

WORTH = 0.5
"""Share of the bytes of expert ids below which "fast" packs them: to unpack them takes as long as all the rest of
reading. Those of 64 experts become 0.73 of it, of 128 0.78, of 32 0.6 (benchmarks/NOTES.md)."""


class TraceWriter:
    """Write a trace, a run of tokens at a time, in bounded memory.

    Use it as a context manager. Data go to a hidden file in the same folder, which takes the final name in one step
    when the block ends well: whatever happens in between, under the final name stands the old file, or none.

    Args:
        path: the final name; an existing file is replaced.
        layers: the MoE layers.
        model: the model's name.
        provenance: origin of the trace (JSON values).
        compression: of version 2 ``"fast"`` (zstd, but for expert ids that do not become half as large; the default
            there) or ``"zstd"``; of both ``"gzip"`` (the default of version 1), ``"lzf"`` or ``"none"``.
        version: of the file format (FORMAT.md), 1 or 2.

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
        compression: str | None = None,
        version: int = VERSIONS[-1],
    ) -> None:
        if version not in VERSIONS:
            raise TraceError(f"format version {version!r} is not known, use one of {', '.join(map(str, VERSIONS))}")
        known = (*("fast", "zstd") * (version > 1), "gzip", "lzf", "none")
        self._compression = compression or known[0]
        if self._compression not in known:
            raise TraceError(f"compression {compression!r} is not known in version {version}, use {', '.join(known)}")
        self._zstd = self._compression in ("fast", "zstd")
        self._version = version
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
                version=version,
                model=_text("model", model),
                provenance=json.dumps(dict(provenance or {})),
                stack_names=json.dumps(list(layers.stack_names)),
            )
            for name in COLUMNS:
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
            if is_ids(name):
                data = stored_ids(data, self._layers, self._version)
            dataset = self._dataset(DATASETS.get(name, f"routing/{name}"), data)
            dataset.resize(self._written + count, axis=0)
            if self._zstd:
                self._pack(dataset, data[:count], WORTH if is_ids(name) and self._compression == "fast" else 1.0)
            else:
                dataset[self._written :] = data[:count]
        try:
            self._sink.check()
        except OSError as error:
            raise TraceError(f"{self._path}: cannot be written ({error.strerror or error})") from None
        self._written += count
        self._pending = [{name: data[count:] for name, data in joined.items()}]
        self._pending_tokens -= count

    def _dataset(self, place: str, data: npt.NDArray[Any]) -> h5py.Dataset:
        """Return the dataset for such data, made when it is first asked for."""
        if place not in self._file:
            told: dict[str, Any] = {} if self._compression == "none" else {"compression": self._compression}
            if self._zstd:
                told = {"compression": ZSTD, "compression_opts": (LEVEL,), "allow_unknown_filter": True}
            elif self._compression == "gzip":
                told["compression_opts"] = 1
            told["shuffle"] = SHUFFLE in filters(data.dtype) if self._zstd else bool(told)
            rest = data.shape[1:]
            chunks = (self.BLOCK, *((1,) if rest else ()), *rest[1:])
            self._file.create_dataset(place, (0, *rest), data.dtype, maxshape=(None, *rest), chunks=chunks, **told)
        return self._file[place]

    def _pack(self, dataset: h5py.Dataset, data: npt.NDArray[Any], worth: float) -> None:
        """Write tokens as chunks packed here: HDF5 has no Zstandard of its own. The last chunk ends in zeros."""
        for low in range(0, len(data), self.BLOCK):
            part = data[low : low + self.BLOCK]
            short = self.BLOCK - len(part)
            for layer in range(data.shape[1]) if data.ndim > 1 else (None,):
                chunk = part if layer is None else part[:, layer]
                if short:
                    chunk = np.pad(chunk, ((0, short), *((0, 0),) * (chunk.ndim - 1)))
                corner = (self._written + low, *(() if layer is None else (layer, 0)))
                packed, mask = pack(chunk, 1.0 if short else worth)
                dataset.id.write_direct_chunk(corner, packed, mask)

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
            self._sink.take_place(self._partial, self._path)
            remember(self._path)
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
