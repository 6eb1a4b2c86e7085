"""Import NumPy arrays: .npz with arrays named as in `RoutingTrace.from_arrays` or as other programs do, and .npy.

The experts are [tokens, layers, k]; or [requests, tokens, layers, k]; or one array per request, or one per layer
([tokens, k]); or router logits [tokens, layers, E] with ``--top-k``. A file ``NAME.json`` beside ``NAME.npz`` may hold
the server's ``usage`` (how many prompt tokens, and how many of them cached). Arrays are read a run of tokens at a time.
"""

from __future__ import annotations

import json
import lzma
import re
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lrcsim.errors import ConfigError, TraceError
from lrcsim.traces.check import check_offsets
from lrcsim.traces.importers.archive import open_archive
from lrcsim.traces.importers.columns import ALIASES, families, is_count, plain
from lrcsim.traces.importers.logits import best
from lrcsim.traces.importers.source import (
    NO_PHASES,
    Columns,
    Options,
    Progress,
    Request,
    Source,
    guessed_experts,
    named_after,
)
from lrcsim.traces.importers.values import as_phases
from lrcsim.traces.layers import MAX_EXPERTS, LayerTable
from lrcsim.traces.what_ran import Ran, Sent, Tally, lay_out, phases, settle

__all__ = ["matches", "open_source"]

RUN = 16_384
PER_TOKEN = {
    "experts": "iuf",
    "weights": "f",
    "logits": "f",
    "residency": "iu",
    "phase": "iubU",
    "token_ids": "iu",
    "stack": "iu",
}
"""Per-token arrays and the kinds of their items."""

NAMES = {
    "experts": ("experts", *ALIASES["expert"]),
    "weights": ("weights", *ALIASES["weight"]),
    "logits": ALIASES["logits"],
    "phase": ("phase", "phases", *(name for name in ALIASES["phase"] if name.startswith("is_"))),
    "token_ids": ("token_ids", "input_ids", "token_id"),
}
"""For some arrays the names they go by, in lower case."""

LAYER_KEYS = ("num_experts", "top_k", "expert_bytes", "block", "stack_of_layer", "num_shared")
OTHER_KEYS = ("offsets", "domains", "model", "stack_names", "provenance")
LAYER_STEM = re.compile(r"(.*_)?(layers?|l|blk|blocks?)(_.*)?")
REQUEST_STEMS = ("arr", "request", "req", "sample", "seq", "sequence", "prompt", "routed_experts", "experts", "trace")
DAMAGE = (
    *(OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError, RuntimeError),
    *(lzma.LZMAError, tokenize.TokenError, SyntaxError, TypeError, OverflowError, MemoryError, struct.error),
)
NOT_A_TRACE = "not a trace: it does not say which token used which expert when; record the routing of every token"


def matches(path: Path, head: bytes) -> bool:
    """Tell whether a file is a .npz archive or a .npy array."""
    if path.is_file() and head.startswith(b"\x93NUMPY"):
        return True
    return path.is_file() and head.startswith(b"PK\x03\x04") and not head[30:4096].count(b"/data.pkl")


def open_source(path: Path, options: Options, progress: Progress) -> Source:
    """Read the small arrays of an archive, and the experts once for the largest id where E is not given."""
    contents = _Contents(path)
    small = {name: contents.whole(name) for name in contents.names if name in (*LAYER_KEYS, *OTHER_KEYS)}
    notices: list[str] = []
    arrays = _find(path, contents, options)
    if "phase" in arrays.names and options.phase == "none":
        del arrays.names["phase"]
    elif "phase" in arrays.names and (options.phase or options.prompt_tokens) is not None:
        option = "--phase" if options.phase else "--prompt-tokens"
        raise ConfigError(f"{path}: has phases of its own (array {arrays.names['phase']!r}); leave {option} out")
    ignored = sorted(set(contents.names) - set(arrays.used) - set(small) - {"phase"})
    prompts = _prompts(path, contents, ignored, options)
    if ignored:
        notices.append(f"arrays of no known name were left out: {', '.join(ignored)}")

    tokens, num_layers, k = arrays.tokens, arrays.num_layers, arrays.top_k
    if num_layers > tokens and not options.layer_first:
        notices.append(
            f"read as {tokens:,} tokens of {num_layers:,} layers ([tokens, layers, k]); if the axes are "
            "[layers, tokens, k], give --layer-first"
        )
    experts = options.num_experts if options.num_experts is not None else small.get("num_experts", arrays.num_experts)
    guessed = experts is None
    if experts is None:
        largest = -1
        with contents:
            reader = _Reader(contents, arrays)
            for low in range(0, tokens, RUN):
                largest = max(largest, int(reader.read(["experts"], min(RUN, tokens - low))["experts"].max()))
                progress(low, 2 * tokens)
        if largest < 0:
            raise TraceError(f"{path}: holds no expert at all, every id is -1")
        experts = guessed_experts(largest, notices)
    layers = LayerTable.build(
        num_layers,
        _plain(experts),
        _plain(small.get("top_k", k)),
        expert_bytes=options.expert_bytes if options.expert_bytes is not None else _plain(small.get("expert_bytes")),
        block=small.get("block", arrays.block),
        stack=small.get("stack_of_layer"),
        num_shared=_plain(small.get("num_shared", 0)),
        stack_names=_labels(small["stack_names"]) if "stack_names" in small else ("decoder",),
    )
    if int(layers.top_k.max()) > k:
        raise TraceError(f"{path}: top_k says {layers.top_k.max()}, the array of experts holds {k} per token and layer")
    width = arrays.num_experts
    if width is not None and int(layers.num_experts.max()) != width:
        raise TraceError(
            f"{path}: the logits are of {width} experts, the number of experts is given as {layers.num_experts.max()}"
        )
    offsets = _offsets(path, small, arrays)
    domains = list(_labels(small["domains"])) if "domains" in small else None
    if domains is not None and len(domains) != len(offsets) - 1:
        raise TraceError(f"{path}: has {len(domains)} domains for {len(offsets) - 1} requests")
    if prompts is None and "phase" not in arrays.names and options.phase is None:
        notices.append(NO_PHASES)

    def requests() -> Iterator[Request]:
        tally = Tally()
        with contents:
            reader = _Reader(contents, arrays)
            for request, (low, high) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
                domain = None if domains is None else domains[request]
                if prompts is None:
                    yield domain, _tokens(reader, arrays, high - low, options.phase)
                else:
                    sent = prompts.of(path, request, high - low, len(offsets) - 1)
                    yield domain, _with_prompt(path, reader, arrays, high - low, sent, request, tally)
                progress(tokens + high, 2 * tokens)
        notices.extend(tally.notices())

    provenance = _json(path, str(small["provenance"])) if "provenance" in small else {}
    model = str(small.get("model", named_after(path)))
    return Source(layers, model, requests, provenance, notices, experts_guessed=guessed)


def _plain(value: Any) -> Any:
    """Return a number for an array of no dimensions, and what is none as it is."""
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _labels(array: npt.NDArray[Any]) -> tuple[str, ...]:
    return tuple(str(label) for label in np.atleast_1d(array).ravel())


def _offsets(path: Path, small: dict[str, Any], arrays: _Arrays) -> npt.NDArray[np.int64]:
    offsets = np.asarray(small.get("offsets", arrays.offsets))
    if offsets.dtype.kind not in "iu" or offsets.ndim != 1:
        raise TraceError(f"{path}: offsets must be integers, given {offsets.dtype} {list(offsets.shape)}")
    if offsets.size and int(offsets.max()) > np.iinfo(np.int64).max:
        raise TraceError(f"{path}: offsets holds {offsets.max()}, out of all range")
    offsets = offsets.astype(np.int64)
    for problem in check_offsets(offsets, arrays.tokens):
        raise TraceError(f"{path}: {problem}")
    return offsets


@dataclass
class _Prompts:
    """Lengths of the prompts.

    Attributes:
        first: the same for all requests; None: not said.
        lengths: int [requests], or None.
        usage: of the server, from the file beside.
        keep: whether cached prompt tokens count as run.
    """

    first: int | None = None
    lengths: npt.NDArray[np.int64] | None = None
    usage: dict[str, Any] | None = None
    keep: bool = False

    def of(self, path: Path, request: int, rows: int, requests: int) -> Sent:
        if self.first is not None:
            return Sent(rows, min(self.first, rows))
        if self.lengths is not None:
            if len(self.lengths) not in (1, requests):
                raise TraceError(f"{path}: has {len(self.lengths)} prompt lengths for {requests} requests")
            return Sent(rows, int(self.lengths[request if len(self.lengths) > 1 else 0]))
        usage = self.usage or {}
        details = usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) and not self.keep else None
        return Sent(rows, usage.get("prompt_tokens"), usage.get("completion_tokens"), cached=cached)


def _prompts(path: Path, contents: _Contents, ignored: list[str], options: Options) -> _Prompts | None:
    """Find the lengths of the prompts: as the user says, as an array says, or as the server's usage beside says."""
    keep = options.cached_prefix == "keep"
    if options.prompt_tokens is not None:
        if options.prompt_tokens.isdecimal():
            return _Prompts(first=int(options.prompt_tokens))
        if options.prompt_tokens not in contents.names:
            raise TraceError(
                f"{path}: has no array {options.prompt_tokens!r}, it has {', '.join(contents.names)[:200]}"
            )
    if options.phase is not None:
        return None
    name = options.prompt_tokens or next((n for n in ignored if plain(n) in ALIASES["prompt_tokens"]), None)
    if name is not None:
        if name in ignored:
            ignored.remove(name)
        lengths = np.atleast_1d(contents.whole(name)).ravel()
        if lengths.dtype.kind not in "iu":
            raise TraceError(f"{path}: {name} must be integers, one per request, is {lengths.dtype}")
        return _Prompts(lengths=lengths.astype(np.int64), keep=keep)
    beside = path.with_suffix(".json")
    if beside.is_file() and beside.stat().st_size < 1 << 20:
        try:
            said = json.loads(beside.read_bytes())
        except (ValueError, RecursionError, OSError):
            return None
        usage = said.get("usage") if isinstance(said, dict) else None
        if isinstance(usage, dict) and isinstance(usage.get("prompt_tokens"), int):
            return _Prompts(usage=usage, keep=keep)
    return None


def _json(path: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise TraceError(f"{path}: provenance must be a JSON object")
    return value


@dataclass
class _Arrays:
    """Which arrays hold what.

    Attributes:
        names: for each of our columns the file's array.
        pieces: the arrays that make up the experts: one; or several, with the axis along which they follow.
        axis: ``"token"`` (one per request), ``"layer"`` (one per layer), or None for one array.
        tokens: in all.
        num_layers: L.
        top_k: k.
        offsets: int [requests + 1].
        num_experts: E, where there are logits.
        chosen: k to be taken of the logits; None: the experts are given.
        block: index of each layer, where arrays per layer say it.
        layer_first: whether the axes are [layers, tokens, k].
    """

    names: dict[str, str]
    pieces: list[str]
    axis: str | None
    tokens: int
    num_layers: int
    top_k: int
    offsets: npt.NDArray[np.int64]
    num_experts: int | None = None
    chosen: int | None = None
    block: list[int] | None = None
    layer_first: bool = False

    @property
    def used(self) -> list[str]:
        """Names of all arrays that are read."""
        return [*self.names.values(), *self.pieces]


def _find(path: Path, contents: _Contents, options: Options) -> _Arrays:
    """Find the arrays of a trace by their names and shapes."""
    known = contents.names
    by_plain: dict[str, str] = {}
    for name in known:
        by_plain.setdefault(plain(name), name)
    names: dict[str, str] = {}
    for ours in PER_TOKEN:
        found = next((by_plain[name] for name in NAMES.get(ours, (ours,)) if name in by_plain), None)
        if found is not None:
            names[ours] = found
    names |= {name: name for name in known if re.fullmatch(r"predictions_\d+", name)}
    pieces, axis, block = ([names["experts"]] if "experts" in names else []), None, None
    if not pieces and "logits" not in names:
        pieces, axis, block = _several(contents)
    if not pieces and len(known) == 1 and not is_count(known[0]):
        shape, dtype, _ = contents.header(known[0])
        pieces = [known[0]] if dtype.kind in "iu" and len(shape) > 2 else []
    if not pieces and "logits" not in names:
        if not known:
            raise TraceError(f"{path}: {contents.other()}")
        counts = [name for name in known if is_count(name) or "count" in plain(name)]
        if counts:
            raise TraceError(f"{path}: holds counts (array {counts[0]!r}), {NOT_A_TRACE}")
        raise TraceError(
            f"{path}: has no array 'experts' [tokens, layers, k] (or {', '.join(ALIASES['expert'][4:14])} ...; or "
            f"'router_logits' with --top-k), it has {', '.join(known)[:200]}"
        )
    names.pop("experts", None)
    if not pieces:
        return _of_logits(path, contents, names, options)
    if options.top_k is not None:
        raise ConfigError(f"{path}: has no use for top-k: it holds the experts themselves ({pieces[0]!r})")
    arrays = _shaped(path, contents, names, pieces, axis, block, bool(options.layer_first))
    if "logits" in names:
        arrays.num_experts = contents.header(names["logits"])[0][-1]
    _same_shapes(path, contents, arrays)
    return arrays


def _several(contents: _Contents) -> tuple[list[str], str | None, list[int] | None]:
    """Find arrays that come once per layer or once per request."""
    groups = families(contents.names)
    for stem, members in groups.items():
        headers = [contents.header(name) for name in members]
        integers = all(dtype.kind in "iu" for _, dtype, _ in headers)
        if (
            integers
            and LAYER_STEM.fullmatch(stem)
            and not is_count(stem)
            and all(len(shape) == 2 for shape, _, _ in headers)
        ):
            return members, "layer", [int(re.findall(r"\d+", name)[-1]) for name in members]
        if integers and stem in REQUEST_STEMS and all(len(shape) == 3 for shape, _, _ in headers):
            return members, "token", None
    return [], None, None


def _of_logits(path: Path, contents: _Contents, names: dict[str, str], options: Options) -> _Arrays:
    """Describe a file of router logits."""
    name = names["logits"]
    shape, dtype, _ = contents.header(name)
    if len(shape) != 3 or dtype.kind not in "f" or 0 in shape:
        raise TraceError(f"{path}: {name} must be floats [tokens, layers, experts], is {dtype} {list(shape)}")
    if options.top_k is None:
        raise TraceError(f"{path}: {name} holds router logits of {shape[2]} experts, not experts: give --top-k")
    if options.top_k > shape[2]:
        raise TraceError(f"{path}: {name} holds the logits of {shape[2]} experts, --top-k says {options.top_k}")
    if options.layer_first:
        shape = (shape[1], shape[0], shape[2])
    arrays = _Arrays(
        names, [], None, shape[0], shape[1], options.top_k, np.array([0, shape[0]]), shape[2], options.top_k,
        layer_first=bool(options.layer_first),
    )  # fmt: skip
    for ours in ("weights", "residency"):
        names.pop(ours, None)
    _same_shapes(path, contents, arrays)
    return arrays


def _shaped(
    path: Path, contents: _Contents, names: dict[str, str], pieces: list[str], axis: str | None,
    block: list[int] | None, layer_first: bool,
) -> _Arrays:  # fmt: skip
    """Describe arrays of experts by their shapes."""
    shapes = []
    for name in pieces:
        shape, dtype, _ = contents.header(name)
        dimensions = (2,) if axis == "layer" else (3, 4) if axis is None else (3,)
        if dtype.kind not in "iuf" or len(shape) not in dimensions:
            if len(shape) == 2 and axis is None:
                raise TraceError(
                    f"{path}: {name} must be integers in 3 dimensions [tokens, layers, k], is {dtype} {list(shape)}; "
                    "one expert per token and layer is [tokens, layers, 1], one layer alone [tokens, 1, k]; "
                    f"if these are counts [layers, experts], they are {NOT_A_TRACE}"
                )
            raise TraceError(f"{path}: {name} must be integers in 3 dimensions, is {dtype} {list(shape)}")
        if 0 in shape:
            raise TraceError(f"{path}: {name} has {shape[0]} tokens, shape {list(shape)}: it holds nothing")
        if layer_first and axis is None and len(shape) == 3:
            shape = (shape[1], shape[0], shape[2])
        shapes.append(shape)
    if axis == "layer":
        if len(set(shapes)) > 1:
            raise TraceError(f"{path}: the arrays per layer differ in shape: {sorted(set(shapes))[:2]}")
        tokens, k = shapes[0]
        return _Arrays(names, pieces, axis, tokens, len(pieces), k, np.array([0, tokens]), block=block)
    if axis == "token":
        if len({shape[1:] for shape in shapes}) > 1:
            raise TraceError(f"{path}: the arrays per request differ in layers or k: {sorted({s[1:] for s in shapes})}")
        ends = np.cumsum([0, *(shape[0] for shape in shapes)])
        return _Arrays(names, pieces, axis, int(ends[-1]), shapes[0][1], shapes[0][2], ends)
    shape = shapes[0]
    if len(shape) == 4:
        requests, each = shape[0], shape[1]
        offsets = np.arange(requests + 1) * each
        return _Arrays(names, pieces, None, requests * each, shape[2], shape[3], offsets)
    tokens, num_layers, k = shape
    return _Arrays(names, pieces, None, tokens, num_layers, k, np.array([0, tokens]), layer_first=layer_first)


def _same_shapes(path: Path, contents: _Contents, arrays: _Arrays) -> None:
    """Refuse per-token arrays that do not fit the experts."""
    whole = (arrays.tokens, arrays.num_layers, arrays.top_k)
    for ours, name in arrays.names.items():
        shape, dtype, _ = contents.header(name)
        if arrays.layer_first and len(shape) == 3:
            shape = (shape[1], shape[0], shape[2])
        flat = ours in ("phase", "token_ids", "stack")
        if len(shape) == (2 if flat else 4) and shape[0] * shape[1] == arrays.tokens:
            shape = (arrays.tokens, *shape[2:])  # [requests, tokens, ...]
        wanted = PER_TOKEN.get(ours, "iu")
        if dtype.kind not in wanted or len(shape) != (1 if flat else 3):
            kind = "floats" if wanted == "f" else "integers"
            raise TraceError(
                f"{path}: {name} must be {kind} in {1 if flat else 3} dimensions, is {dtype} {list(shape)}"
            )
        if shape[0] != arrays.tokens or 0 in shape:
            raise TraceError(f"{path}: {name} has {shape[0]} tokens, shape {list(shape)}; experts has {arrays.tokens}")
        must = whole if ours in ("weights", "residency") else whole[:2] if not flat else whole[:1]
        if shape[: len(must)] != must:
            raise TraceError(f"{path}: {name} has shape {list(shape)}, the experts {list(whole)}")


class _Contents:
    """The arrays of a .npz archive, or the one of a .npy file, by name; nothing is read but headers.

    Attributes:
        names: of the arrays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._archive: zipfile.ZipFile | None = None
        self._headers: dict[str, tuple[tuple[int, ...], np.dtype[Any], bool]] = {}
        try:
            with open(path, "rb") as file:
                self._single = file.read(6) == b"\x93NUMPY"
            if self._single:
                self.names = ["experts"]
            else:
                with open_archive(path) as archive:  # looks at every member; the openings below need not again
                    self._sizes = {info.filename: info.file_size for info in archive.infolist()}
                self.names = [name.removesuffix(".npy") for name in self._sizes if name.endswith(".npy")]
        except TraceError:
            raise
        except DAMAGE as error:
            raise TraceError(f"{path}: is no readable NumPy archive ({_said(error)})") from None

    def other(self) -> str:
        """Say what an archive without arrays is."""
        if "xl/workbook.xml" in self._sizes:
            return "is an Excel workbook; save the sheet as CSV"
        return f"is a zip archive without arrays ({', '.join(self._sizes)[:120]}); unpack it, and import what is in it"

    def __enter__(self) -> _Contents:
        try:
            self._archive = None if self._single else zipfile.ZipFile(self.path)
        except DAMAGE as error:
            raise TraceError(f"{self.path}: is no readable NumPy archive ({_said(error)})") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._archive is not None:
            self._archive.close()
            self._archive = None

    def open(self, name: str) -> Any:
        """Open an array's bytes."""
        if self._single:
            return open(self.path, "rb")
        if self._archive is not None:
            return self._archive.open(f"{name}.npy")
        with zipfile.ZipFile(self.path) as archive:
            return archive.open(f"{name}.npy")

    def header(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
        """Return the shape and type of an array, and whether it is stored column after column."""
        if name not in self._headers:
            try:
                with self.open(name) as file:
                    shape, by_column, dtype = _read_header(file)
                    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
                    held = self.path.stat().st_size if self._single else self._sizes[f"{name}.npy"]
                    if size > held or any(length < 0 for length in shape):
                        raise ValueError(f"its header says {list(shape)}, which is more than it holds")
            except DAMAGE as error:
                raise TraceError(f"{self.path}: array {name!r} is damaged ({_said(error)})") from None
            self._headers[name] = shape, dtype, by_column
        return self._headers[name]

    def whole(self, name: str) -> npt.NDArray[Any]:
        """Read an array to its end."""
        self.header(name)
        try:
            with self.open(name) as file:
                array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        except DAMAGE as error:
            raise TraceError(f"{self.path}: array {name!r} is damaged ({_said(error)})") from None
        return array


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    major, _ = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():  # of headers that an old Python wrote
        warnings.simplefilter("ignore")
        shape, by_column, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    return shape, by_column, dtype


def _said(error: BaseException) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


class _Reader:
    """Per-token arrays, read side by side from the first token to the last."""

    def __init__(self, contents: _Contents, arrays: _Arrays) -> None:
        self._path, self._arrays, self._at = contents.path, arrays, 0
        self._streams = {name: _Stream(contents, name, arrays) for name in arrays.used}

    def read(self, columns: Sequence[str], count: int) -> Columns:
        """Read the next tokens of some of our columns (``experts`` and those of `_Arrays.names`)."""
        block: Columns = {}
        for ours in columns:
            if ours == "experts":
                block[ours] = self._experts(count)
            elif ours in self._arrays.names and not (ours == "logits" and "logits" in block):
                stream = self._streams[self._arrays.names[ours]]
                column = ours.replace("_", "/") if ours.startswith("predictions_") else ours
                given = stream.read(count)
                if ours == "phase" and (given.dtype.kind == "U" or plain(self._arrays.names[ours]).startswith("is_")):
                    given = as_phases(self._path, self._arrays.names[ours], pa.array(given), self._at + 1)
                block[column] = _converted(self._path, ours, given, self._at)
        if self._arrays.chosen is not None and "experts" in columns:
            logits = block.setdefault("logits", np.empty(0))
            if logits.size == 0:
                logits = _converted(
                    self._path, "logits", self._streams[self._arrays.names["logits"]].read(count), self._at
                )
                block["logits"] = logits
            _finite(self._path, logits, self._at)
            block["experts"] = best(logits.astype(np.float32), self._arrays.chosen).astype(np.int32)
        self._at += count
        return block

    def _experts(self, count: int) -> npt.NDArray[Any]:
        arrays = self._arrays
        if arrays.chosen is not None:
            return np.empty(0)
        if arrays.axis == "layer":
            pieces = [self._streams[name].read(count) for name in arrays.pieces]
            given = np.stack(pieces, axis=1)
        elif arrays.axis == "token":
            parts, left = [], count
            for name in arrays.pieces:
                stream = self._streams[name]
                if left and stream.left:
                    parts.append(stream.read(min(left, stream.left)))
                    left -= len(parts[-1])
            given = np.concatenate(parts) if len(parts) > 1 else parts[0]
        else:
            given = self._streams[arrays.pieces[0]].read(count)
        return _converted(self._path, "experts", given, self._at)


def _finite(path: Path, logits: npt.NDArray[Any], first: int) -> None:
    good = np.isfinite(logits).all(axis=(1, 2))
    if not good.all():
        raise TraceError(f"{path}: token {first + int(np.argmin(good))}: logits must be finite numbers")


class _Stream:
    """One array, read a run of tokens at a time.

    Attributes:
        left: tokens not read yet.
    """

    def __init__(self, contents: _Contents, name: str, arrays: _Arrays) -> None:
        self._path, self._name = contents.path, name
        shape, dtype, by_column = contents.header(name)
        spread = len(shape) in (2, 4) and arrays.axis != "layer"  # [requests, tokens, ...]
        turned = arrays.layer_first and len(shape) == 3
        self._whole: npt.NDArray[Any] | None = None
        self._rest = shape[2:] if spread else shape[1:]
        self._dtype = dtype
        self.left = shape[0] * shape[1] if spread else shape[0]
        if by_column or turned:  # cannot be read a run of tokens at a time
            whole = contents.whole(name)
            whole = whole.swapaxes(0, 1) if turned else whole
            self._whole = whole.reshape(self.left, *self._rest) if spread else whole
            self.left = len(self._whole)
            return
        try:
            self._file = contents.open(name)
            _read_header(self._file)
        except DAMAGE as error:
            raise TraceError(f"{self._path}: array {name!r} is damaged ({_said(error)})") from None

    def read(self, count: int) -> npt.NDArray[Any]:
        """Return the next tokens."""
        self.left -= count
        if self._whole is not None:
            block, self._whole = self._whole[:count], self._whole[count:]
            return block
        row = int(np.prod(self._rest, dtype=np.int64)) * self._dtype.itemsize
        try:
            data = self._file.read(count * row)
        except DAMAGE as error:
            raise TraceError(f"{self._path}: array {self._name!r} is damaged ({_said(error)})") from None
        if len(data) != count * row:
            raise TraceError(f"{self._path}: array {self._name!r} is truncated")
        if self.left == 0:
            self._file.close()
        return np.frombuffer(data, self._dtype).reshape(count, *self._rest)


def _tokens(reader: _Reader, arrays: _Arrays, count: int, phase: str | None) -> Iterator[Columns]:
    while count:
        run = min(count, RUN)
        block = reader.read(["experts", *arrays.names], run)
        if phase in ("prefill", "decode"):
            block["phase"] = np.full(run, phase == "decode", np.uint8)
        yield block
        count -= run


def _with_prompt(
    path: Path, reader: _Reader, arrays: _Arrays, count: int, sent: Sent, request: int, tally: Tally
) -> Iterator[Columns]:
    """Read a request whose prompt's length is known, and put its rows at their positions."""
    whole = reader.read(["experts", *arrays.names], count)
    try:
        ran = settle(sent)
    except TraceError as error:
        raise TraceError(f"{path}: request {request} {error}") from None
    tally.add(ran)
    laid = _laid(whole, ran)
    for low in range(0, ran.tokens, RUN):
        yield {name: values[low : low + RUN] for name, values in laid.items()}


def _laid(whole: Columns, ran: Ran) -> Columns:
    laid: Columns = {"experts": lay_out(whole["experts"], ran)}
    for name, values in whole.items():
        if name != "experts":
            empty = {"residency": 255, "token_ids": -1}.get(name, -1 if name.startswith("predictions") else 0)
            spread = np.full((ran.tokens, *values.shape[1:]), empty, values.dtype)
            spread[ran.start :] = values
            laid[name] = spread
    phase = phases(ran)
    if phase is not None:
        laid["phase"] = phase
    return laid


def _converted(path: Path, name: str, block: npt.NDArray[Any], first: int) -> npt.NDArray[Any]:
    """Bring a run to the type a trace keeps, refusing numbers that do not fit."""
    if PER_TOKEN.get(name) == "f":
        return block.astype(np.float16 if block.dtype == np.float16 else np.float32)
    dtype: type[np.integer[Any]] = np.uint8 if name in ("phase", "residency", "stack") else np.int32
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    if name == "experts":
        low, high = -1, MAX_EXPERTS - 1
    if block.dtype.kind == "f":
        block = block.astype(np.float64)
        with np.errstate(invalid="ignore"):
            bad = ~((np.floor(block) == block) & (block >= low) & (block <= high))
    elif block.dtype.kind == "b" or (block.min() >= low and block.max() <= high):
        return block.astype(dtype)
    else:
        bad = (block < low) | (block > high)
    if bad.any():
        place = np.unravel_index(int(np.argmax(bad)), bad.shape)
        where = f"token {first + int(place[0])}" + (f", layer {place[1]}" if len(place) > 1 else "")
        wrong = (
            "must be integers" if block.dtype.kind == "f" and not abs(block[place]) > high else "is out of all range"
        )
        raise TraceError(f"{path}: {where}: {name} {wrong}, has {block[place]}, allowed are {low}..{high}")
    return block.astype(dtype)
