"""Import NumPy archives: arrays named as in `RoutingTrace.from_arrays`, read a run of tokens at a time."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.errors import ConfigError, TraceError
from lrcsim.traces.check import check_offsets
from lrcsim.traces.importers.archive import open_archive
from lrcsim.traces.importers.source import Columns, Options, Progress, Request, Source, guessed_experts, named_after
from lrcsim.traces.layers import LayerTable

__all__ = ["matches", "open_source"]

RUN = 16_384
PER_TOKEN = {
    "experts": "iu",
    "weights": "f",
    "logits": "f",
    "residency": "iu",
    "phase": "iub",
    "token_ids": "iu",
    "stack": "iu",
}
"""Per-token arrays and the kinds of their items."""

LAYER_KEYS = ("num_experts", "top_k", "expert_bytes", "block", "stack_of_layer", "num_shared")
OTHER_KEYS = ("offsets", "domains", "model", "stack_names", "provenance")
DAMAGE = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError)


def matches(path: Path, head: bytes) -> bool:
    """Tell whether a file is a zip archive, as .npz files are."""
    return path.is_file() and head.startswith(b"PK\x03\x04")


def open_source(path: Path, options: Options, progress: Progress) -> Source:
    """Read the small arrays of an archive, and the experts once for the largest id where E is not given."""
    try:
        with open_archive(path) as archive:
            names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
            small = {name: _whole(archive, name) for name in names if name in (*LAYER_KEYS, *OTHER_KEYS)}
    except TraceError:
        raise
    except DAMAGE as error:
        raise TraceError(f"{path}: is no readable NumPy archive ({error})") from None
    columns = [name for name in names if name in PER_TOKEN or re.fullmatch(r"predictions_\d+", name)]
    if "experts" not in columns:
        raise TraceError(f"{path}: has no array 'experts' [tokens, layers, k], it has {', '.join(names)[:200]}")
    if "phase" in columns and options.phase == "none":
        columns.remove("phase")
    elif "phase" in columns and options.phase is not None:
        raise ConfigError(f"{path}: has phases of its own (array 'phase'); leave --phase out")
    notices: list[str] = []
    ignored = sorted(set(names) - set(columns) - set(small) - {"phase"})
    if ignored:
        notices.append(f"arrays of no known name were left out: {', '.join(ignored)}")

    with _Arrays(path, columns) as arrays:
        tokens, num_layers, k = arrays.shape("experts")
        experts = options.num_experts if options.num_experts is not None else small.get("num_experts")
        if experts is None:
            largest = -1
            for low, block in arrays.runs(["experts"]):
                largest = max(largest, int(block["experts"].max()))
                progress(low, 2 * tokens)
            if largest < 0:
                raise TraceError(f"{path}: holds no expert at all, every id is -1")
            experts = guessed_experts(largest, notices)
    layers = LayerTable.build(
        num_layers,
        experts,
        small.get("top_k", k),
        expert_bytes=options.expert_bytes if options.expert_bytes is not None else small.get("expert_bytes"),
        block=small.get("block"),
        stack=small.get("stack_of_layer"),
        num_shared=small.get("num_shared", 0),
        stack_names=tuple(str(name) for name in small["stack_names"]) if "stack_names" in small else ("decoder",),
    )
    offsets = np.asarray(small.get("offsets", [0, tokens]))
    if offsets.dtype.kind not in "iu":
        raise TraceError(f"{path}: offsets must be integers, given {offsets.dtype}")
    offsets = offsets.astype(np.int64)
    for problem in check_offsets(offsets, tokens):
        raise TraceError(f"{path}: {problem}")
    domains = [str(label) for label in small["domains"].ravel()] if "domains" in small else None
    if domains is not None and len(domains) != len(offsets) - 1:
        raise TraceError(f"{path}: has {len(domains)} domains for {len(offsets) - 1} requests")

    def requests() -> Iterator[Request]:
        with _Arrays(path, columns) as arrays:
            for request, (low, high) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
                yield None if domains is None else domains[request], _tokens(arrays, columns, high - low, options.phase)
                progress(tokens + high, 2 * tokens)

    provenance = _json(path, str(small["provenance"])) if "provenance" in small else {}
    return Source(layers, str(small.get("model", named_after(path))), requests, provenance, notices)


def _json(path: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise TraceError(f"{path}: provenance must be a JSON object")
    return value


def _tokens(arrays: _Arrays, columns: list[str], count: int, phase: str | None) -> Iterator[Columns]:
    while count:
        run = min(count, RUN)
        block = arrays.read(columns, run)
        if phase in ("prefill", "decode"):
            block["phase"] = np.full(run, phase == "decode", np.uint8)
        yield block
        count -= run


def _whole(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    with archive.open(f"{name}.npy") as file:
        array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array


class _Arrays:
    """The per-token arrays of an archive, read side by side from the first token to the last."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self._path = path
        self._archive = open_archive(path)
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._readers: dict[str, Any] = {}
        try:
            for name in names:
                self._open(name)
        except BaseException:
            self.__exit__()
            raise

    def _open(self, name: str) -> None:
        try:
            file = self._archive.open(f"{name}.npy")
            self._readers[name] = (file, np.dtype(np.uint8), 1)  # closed at the end, whatever comes
            major, _ = np.lib.format.read_magic(file)
            read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
            shape, by_column, dtype = read_header(file)
        except DAMAGE as error:
            raise TraceError(f"{self._path}: array {name!r} is damaged ({error})") from None
        wanted = PER_TOKEN.get(name, "iu")
        rank = 1 if name in ("phase", "token_ids", "stack") else 3
        if dtype.kind not in wanted or len(shape) != rank:
            kind = "floats" if wanted == "f" else "integers"
            raise TraceError(f"{self._path}: {name} must be {kind} in {rank} dimensions, is {dtype} {list(shape)}")
        self._shapes[name] = shape
        tokens = self._shapes["experts"][0] if "experts" in self._shapes else shape[0]
        if shape[0] != tokens or 0 in shape:
            raise TraceError(f"{self._path}: {name} has {shape[0]} tokens, shape {list(shape)}; experts has {tokens}")
        if by_column:  # stored column after column: cannot be read a run of tokens at a time
            file.close()
            whole = _whole(self._archive, name)
            self._readers[name] = (whole, dtype, 0)
        else:
            self._readers[name] = (file, dtype, int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def runs(self, names: list[str]) -> Iterator[tuple[int, Columns]]:
        tokens = self._shapes["experts"][0]
        for low in range(0, tokens, RUN):
            yield low, self.read(names, min(RUN, tokens - low))

    def read(self, names: list[str], count: int) -> Columns:
        return {_column(name): self._read(name, count) for name in names}

    def _read(self, name: str, count: int) -> npt.NDArray[Any]:
        source, dtype, row = self._readers[name]
        if row == 0:
            block, rest = source[:count], source[count:]
            self._readers[name] = (rest, dtype, 0)
        else:
            try:
                data = source.read(count * row)
            except DAMAGE as error:
                raise TraceError(f"{self._path}: array {name!r} is damaged ({error})") from None
            if len(data) != count * row:
                raise TraceError(f"{self._path}: array {name!r} is truncated")
            block = np.frombuffer(data, dtype).reshape(count, *self._shapes[name][1:])
        return _converted(self._path, name, block)

    def __enter__(self) -> _Arrays:
        return self

    def __exit__(self, *_: object) -> None:
        for source, _dtype, row in self._readers.values():
            if row:
                source.close()
        self._archive.close()


def _column(name: str) -> str:
    return name.replace("_", "/") if name.startswith("predictions_") else name


def _converted(path: Path, name: str, block: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Bring a run to the type a trace keeps, refusing numbers that do not fit."""
    if PER_TOKEN.get(name) == "f":
        return block.astype(np.float16 if block.dtype == np.float16 else np.float32)
    dtype: type[np.integer[Any]] = np.uint8 if name in ("phase", "residency", "stack") else np.int32
    if block.dtype.kind != "b":
        low, high = int(block.min()), int(block.max())
        if low < np.iinfo(dtype).min or high > np.iinfo(dtype).max:
            raise TraceError(f"{path}: {name} has values from {low} to {high}, out of all range")
    return block.astype(dtype)
