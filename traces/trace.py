"""`RoutingTrace`: the one form in which routing enters the simulator, in memory or lazily from a file."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import TraceError, did_you_mean
from lrcsim.base.shown import Shown
from lrcsim.traces.activations import activations
from lrcsim.traces.check import check_offsets, check_shapes, check_tokens
from lrcsim.traces.columns import STORED, Column, id_dtype, in_memory, is_ids, mark_missing, signed_ids
from lrcsim.traces.hdf5 import TraceFile
from lrcsim.traces.layers import LayerTable, Sizes
from lrcsim.traces.probe import BUNDLED_FOLDER, open_file
from lrcsim.traces.writer import TraceWriter

PREFILL = 0
"""Value of ``phase`` for a token of the prompt."""

DECODE = 1
"""Value of ``phase`` for a generated token."""

BUNDLED = {"bundled:generated": "generated.h5", "bundled:teacher-forced": "teacher_forced.h5"}
"""Traces that come with lrcsim, by the name to open them with; the first is the default."""


class Identity:
    """What copies of a trace have in common: the same object says that their columns are the same."""


class RoutingTrace(Shown):
    """Which experts every token used at every MoE layer, request after request.

    Build one with `from_arrays`, `open` or an importer. A trace opened from a file reads nothing but its header until
    it is asked to; `read` and `blocks` stream it in bounded memory, while `experts`, `weights` and the other array
    properties load a whole column and keep it. Whatever comes out of `read` and of these properties has been checked
    (`lrcsim.traces.check.check_tokens`): simulators may index with it. What comes from a file is checked whenever it is
    read; of what lies in memory, checked as a whole when it came there, only the ranges are looked at again.

    Attributes:
        layers: the MoE layers (`LayerTable`).
        columns: the per-token columns that this trace has, by name: ``experts``, and any of ``weights``, ``phase``,
            ``token_ids``, ``predicted_ids``, ``stack``, ``residency``, ``logits``, ``router_inputs``,
            ``predictions/1`` (of experts), ``predictions/2`` ...
        offsets: int64 [requests + 1], request i is tokens ``offsets[i]:offsets[i + 1]``.
        domains: one label per request, or None.
        model: name of the model.
        provenance: what is known of the trace's origin (free keys; see FORMAT.md).
        path: the file it was opened from, or None.

    Raises:
        TraceError: the columns, the table of layers and the offsets do not fit together.
    """

    def __init__(
        self,
        layers: LayerTable,
        columns: Mapping[str, Column],
        offsets: npt.NDArray[np.int64],
        *,
        domains: Sequence[str] | None = None,
        model: str = "unknown",
        provenance: Mapping[str, Any] | None = None,
        path: Path | None = None,
        file: TraceFile | None = None,
    ) -> None:
        for problem in check_shapes({name: column.shape for name, column in columns.items()}, layers, offsets):
            raise TraceError(f"{path}: {problem}" if path else str(problem))
        self.layers = layers
        self.columns = dict(columns)
        self.offsets = offsets
        self.domains = None if domains is None else list(domains)
        self.model = model
        self.provenance: dict[str, Any] = dict(provenance or {})
        self.path = path
        self._file = file
        self._sha256: str | None = None
        self._loaded: dict[str, npt.NDArray[Any]] = {}
        self._checked: set[str] = set()  # columns in memory that were checked as a whole
        self.identity = Identity()

    @classmethod
    def from_arrays(
        cls,
        experts: npt.ArrayLike,
        *,
        num_experts: int | Sequence[int],
        offsets: npt.ArrayLike | None = None,
        phase: npt.ArrayLike | None = None,
        weights: npt.ArrayLike | None = None,
        expert_bytes: Sizes | None = None,
        domains: Sequence[str] | None = None,
        model: str = "unknown",
        top_k: int | Sequence[int] | None = None,
        token_ids: npt.ArrayLike | None = None,
        predicted_ids: npt.ArrayLike | None = None,
        residency: npt.ArrayLike | None = None,
        logits: npt.ArrayLike | None = None,
        router_inputs: npt.ArrayLike | None = None,
        predictions: Mapping[int, npt.ArrayLike] | None = None,
        stack: npt.ArrayLike | None = None,
        layers: LayerTable | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> RoutingTrace:
        """Make a trace of arrays, checking everything that `check` would find.

        Args:
            experts: int [tokens, L, k], ids 0..E-1 in rank order (best router score first); -1 = not recorded.
            num_experts: E, one number or one per MoE layer.
            offsets: int [requests + 1] into tokens; None: one request.
            phase: uint8 [tokens], 0 prefill, 1 decode; None: a plain token stream (teacher-forced).
            weights: float [tokens, L, k], router weights of the experts.
            expert_bytes: bytes of one expert, one number, one per MoE layer, or int [L, E], one per layer and expert.
            domains: one label per request.
            model: the model's name.
            top_k: experts per token where that differs from layer to layer; None: ``experts.shape[2]`` everywhere.
            token_ids: int32 [tokens]; -1 = unknown.
            predicted_ids: int32 [tokens], the token of greatest score in the model's output at each position, whatever
                was sampled or came next; -1 = unknown.
            residency: uint8 [tokens, L, k], what the recording engine's own cache did: 0 miss, 1 hit, 2 prefetched,
                255 unknown.
            logits: float [tokens, L, E], router logits.
            router_inputs: float [tokens, L, H], what each layer's router was given.
            predictions: for each distance d, int [tokens, L, p]: experts predicted for layer l from layer l - d.
            stack: uint8 [tokens], the stack a token runs through, where the model has several (`LayerTable`).
            layers: the whole table of layers, in place of num_experts, top_k and expert_bytes.
            provenance: origin of the trace.

        Raises:
            TraceError: an array has the wrong shape or an impossible value; the message says where.
        """
        ids = np.asarray(experts)
        if ids.ndim != 3 or ids.dtype.kind not in "iu":
            raise TraceError(f"experts must be integers [tokens, layers, k], given {ids.dtype} {list(ids.shape)}")
        tokens, num_layers, k = ids.shape
        if tokens == 0 or k == 0:
            raise TraceError(f"experts holds nothing: its shape is {list(ids.shape)}")
        if layers is None:
            layers = LayerTable.build(num_layers, num_experts, k if top_k is None else top_k, expert_bytes=expert_bytes)
        if len(layers) != num_layers or int(layers.top_k.max()) > k:
            raise TraceError(
                f"the table of layers has {len(layers)} layers of up to top-{layers.top_k.max()}, "
                f"experts has {num_layers} of top-{k}"
            )
        given = {
            "weights": weights,
            "phase": phase,
            "token_ids": token_ids,
            "predicted_ids": predicted_ids,
            "residency": residency,
            "stack": stack,
            "logits": logits,
            "router_inputs": router_inputs,
        }
        columns = in_memory(ids, layers, given, predictions or {})
        bounds = np.array([0, tokens]) if offsets is None else np.asarray(offsets)
        if bounds.dtype.kind not in "iu":
            raise TraceError(f"offsets must be integers, given {bounds.dtype}")
        bounds = bounds.astype(np.int64)
        problems = check_offsets(bounds, tokens) or check_tokens(columns, layers, 0)
        if problems:
            raise TraceError(str(problems[0]))
        if domains is not None and len(domains) != len(bounds) - 1:
            raise TraceError(f"domains must have one label per request ({len(bounds) - 1}), given {len(domains)}")
        stored = id_dtype(layers)
        for name in columns:
            if is_ids(name):
                columns[name] = columns[name].astype(stored)
        labels = None if domains is None else [str(label) for label in domains]
        trace = cls(layers, columns, bounds, domains=labels, model=model, provenance=provenance)
        trace._checked.update(columns)
        return trace

    @classmethod
    def open(cls, path: str | Path | None = None) -> RoutingTrace:
        """Open a trace file without reading its data; without a path, the trace that comes with lrcsim.

        Args:
            path: an lrcsim HDF5 file, or ``bundled:generated`` (the default) or ``bundled:teacher-forced``.

        Raises:
            TraceError: there is no such file, or it is not a trace of a known version.
        """
        name = next(iter(BUNDLED)) if path is None else str(path)
        if name.startswith("bundled:"):
            if name not in BUNDLED:
                raise TraceError(
                    f"no trace {name!r} comes with lrcsim, there are {', '.join(BUNDLED)}" + did_you_mean(name, BUNDLED)
                )
            opened = open_file(BUNDLED_FOLDER / BUNDLED[name])
        elif name in ("bundled", *(one.partition(":")[2] for one in BUNDLED)) and not Path(name).exists():
            raise TraceError(f"{name}: there is no such file; with lrcsim come {', '.join(BUNDLED)}")
        else:
            opened = open_file(Path(name))
        return cls(
            opened.layers,
            opened.columns,
            opened.offsets,
            domains=opened.domains,
            model=opened.model,
            provenance=opened.provenance,
            path=opened.path,
            file=opened,
        )

    def save(self, path: str | Path, *, compression: str | None = None, version: int = 2) -> None:
        """Write the trace as an lrcsim HDF5 file. The file appears under its name only when it is complete.

        Args:
            path: where to; an existing file is replaced.
            compression: of version 2 ``"fast"`` to read (the default) or ``"zstd"``, the smallest, for both of which
                other tools need HDF5's plug-in of Zstandard; of both versions ``"gzip"`` (the default of version 1),
                ``"lzf"`` or ``"none"``, which every HDF5 library reads.
            version: of the file format, 1 or 2 (FORMAT.md).

        Raises:
            TraceError: the file cannot be written.
        """
        told: dict[str, Any] = {"model": self.model, "provenance": self.provenance}
        with TraceWriter(path, self.layers, **told, compression=compression, version=version) as writer:
            for request in range(self.num_requests):
                writer.begin_request(None if self.domains is None else self.domains[request])
                low, high = int(self.offsets[request]), int(self.offsets[request + 1])
                for start in range(low, high, writer.BLOCK):
                    stop = min(start + writer.BLOCK, high)
                    writer.append({name: self.read(name, start, stop) for name in self.columns})

    def read(self, name: str, low: int, high: int, *, layer: int | None = None) -> npt.NDArray[Any]:
        """Read tokens ``low:high`` of one column and check them; expert ids come signed, -1 for not recorded.

        Args:
            name: one of ``columns``.
            low: first token.
            high: token after the last.
            layer: read this MoE layer only, of a column that has layers; that axis stays, with length 1.

        Raises:
            TraceError: the trace has no such column, its file is damaged there, or it holds what is impossible.
        """
        if name not in self.columns:
            raise TraceError(f"this trace has no {name!r}, it has {', '.join(self.columns)}")
        if name in self._loaded:
            data = self._loaded[name][low:high] if layer is None else self._loaded[name][low:high, layer : layer + 1]
        else:
            data = self.read_unchecked(name, low, high, layer)
        self._check(name, data, low, high, layer)
        return data.astype(STORED[name], copy=False) if name in STORED else data

    def read_unchecked(self, name: str, low: int, high: int, layer: int | None = None) -> npt.NDArray[Any]:
        """Read tokens ``low`` to ``high`` of column ``name``, or one ``layer`` of it, unchecked: for `check_file` only.

        Raises:
            TraceError: the file is damaged there.
        """
        part = slice(low, high) if layer is None else (slice(low, high), slice(layer, layer + 1))
        try:
            data = np.asarray(self.columns[name][part])
        except (OSError, RuntimeError, ValueError, MemoryError) as error:
            if isinstance(error, TraceError):
                raise
            raise TraceError(f"{self.path}: {name} cannot be read at tokens {low}..{high - 1}: {error}") from None
        if not data.dtype.isnative:
            data = data.astype(data.dtype.newbyteorder("="))
        return signed_ids(data, self.layers) if is_ids(name) and data.dtype.kind == "u" else data

    def _check(self, name: str, data: npt.NDArray[Any], low: int, high: int, layer: int | None) -> None:
        """Refuse what is impossible in what was read of a column.

        Raises:
            TraceError: it stands in the column; the message says where.
        """
        layers = self.layers if layer is None else self.layers.only(layer)
        columns = {name: data}
        if name == "experts" and len(layers.stack_names) > 1 and "stack" in self.columns:
            columns["stack"] = self.read_unchecked("stack", low, high, None)
        again, in_all = name not in self._checked, math.prod(self.columns["experts"].shape)
        problems = check_tokens(columns, layers, low, layer or 0, repeats=again, ids_in_all=in_all)
        if problems and name in ("weights", "logits"):  # they mean nothing where no expert is recorded
            columns["experts"] = self.read_unchecked("experts", low, high, layer)
            problems = [one for one in check_tokens(columns, layers, low, layer or 0) if "router" in one.what]
        if problems:
            where = "" if self.path is None else f"{self.path}: "
            raise TraceError(f"{where}{problems[0]}; `lrcsim trace check` lists all")

    def column(self, name: str) -> npt.NDArray[Any]:
        """Load one whole column, once, and keep it."""
        if name not in self._loaded:
            self._loaded[name] = self.read(name, 0, self.num_tokens)
            self._checked.add(name)
        return self._loaded[name]

    def blocks(self, tokens: int = 16_384) -> Iterator[tuple[int, int]]:
        """Yield ``(low, high)`` token ranges that cover the trace, for streaming with `read`."""
        for low in range(0, self.num_tokens, tokens):
            yield low, min(low + tokens, self.num_tokens)

    @property
    def experts(self) -> npt.NDArray[np.signedinteger[Any]]:
        """Int16 or int32 [tokens, L, k], ids in rank order, -1 = not recorded (loads the whole column)."""
        return self.column("experts")

    @property
    def weights(self) -> npt.NDArray[np.floating[Any]] | None:
        """Float [tokens, L, k], router weights, or None (loads the whole column)."""
        return self.column("weights") if "weights" in self.columns else None

    @property
    def phase(self) -> npt.NDArray[np.uint8] | None:
        """uint8 [tokens], 0 prefill, 1 decode, or None for a plain token stream (loads the whole column)."""
        return self.column("phase") if "phase" in self.columns else None

    @property
    def token_ids(self) -> npt.NDArray[np.int32] | None:
        """int32 [tokens], or None (loads the whole column)."""
        return self.column("token_ids") if "token_ids" in self.columns else None

    @property
    def predicted_ids(self) -> npt.NDArray[np.int32] | None:
        """int32 [tokens], the token that the model's output at each position favours, or None (loads the column)."""
        return self.column("predicted_ids") if "predicted_ids" in self.columns else None

    @property
    def residency(self) -> npt.NDArray[np.uint8] | None:
        """uint8 [tokens, L, k]: the recording engine's own cache: 0 miss, 1 hit, 2 prefetched, 255 unknown; or None."""
        return self.column("residency") if "residency" in self.columns else None

    @property
    def num_tokens(self) -> int:
        """Tokens in the trace."""
        return self.columns["experts"].shape[0]

    @property
    def num_layers(self) -> int:
        """MoE layers, L."""
        return len(self.layers)

    @property
    def num_experts(self) -> int:
        """Routed experts of a layer, E (of the largest, where layers differ)."""
        return int(self.layers.num_experts.max())

    @property
    def top_k(self) -> int:
        """Experts per token and layer, k (of the largest, where layers differ)."""
        return int(self.layers.top_k.max())

    @property
    def expert_bytes(self) -> npt.NDArray[np.int64] | None:
        """int64 [L], bytes of one expert of each layer, [L, E] where they differ in a layer, None when unknown."""
        return self.layers.expert_bytes

    @property
    def num_requests(self) -> int:
        """Requests in the trace."""
        return len(self.offsets) - 1

    def count_unrecorded(self) -> int:
        """Count (token, layer, rank) positions that the recorder left out (-1); they are in no account.

        Ranks beyond a layer's own top-k, and layers of another stack than the token's, do not count.
        """
        total = 0
        wanted = [name for name in ("experts", "stack") if name in self.columns]
        for low, high in self.blocks():
            total += int(np.count_nonzero(mark_missing({n: self.read(n, low, high) for n in wanted}, self.layers)))
        return total

    def file_sha256(self) -> str:
        """Return the SHA-256 of the file that was opened, whatever stands under its name by now.

        Raises:
            TraceError: the trace is from no open file, or the file has been written to since it was opened.
        """
        if self._sha256 is None:
            if self._file is None:
                raise TraceError("the trace is from no open file, it has no SHA-256")
            self._sha256 = self._file.sha256()
        return self._sha256

    def first_sha256(self) -> str:
        """Return the SHA-256 of the file that this one says it was converted from (`traces/convert`), or its own.

        It is what a file says: who relies on it looks whether the results are the same too.

        Raises:
            TraceError: as of `file_sha256`.
        """
        converted = self.provenance.get("converted")
        said = converted.get("sha256") if isinstance(converted, dict) else None
        return said if isinstance(said, str) and re.fullmatch("[0-9a-f]{64}", said) else self.file_sha256()

    def close(self) -> None:
        """Close the file behind the trace, if any; columns already loaded stay usable."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> RoutingTrace:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    drawn_by = "plots.shown:draw_trace"
    drawn_small_by = "plots.shown:draw_trace_small"

    def to_arrow(self, low: int = 0, high: int | None = None) -> Any:
        """Return a `pyarrow.Table` of tokens ``low`` to ``high``: a row for each token, layer and rank.

        Columns as `lrcsim.traces.activations.activations` says; a million tokens of 48 layers and 8 experts are 384
        million rows.
        """
        import pyarrow as pa

        end = self.num_tokens if high is None else min(high, self.num_tokens)
        blocks = [(at, min(at + 16_384, end)) for at in range(max(low, 0), end, 16_384)] or [(0, 0)]
        return pa.concat_tables([pa.table(activations(self, *block)) for block in blocks])

    def __repr__(self) -> str:
        return (
            f"<RoutingTrace {self.model}: {self.num_tokens:,} tokens, "
            f"{self.num_requests:,} request{'s' * (self.num_requests != 1)}, "
            f"{self.num_layers} MoE layers x {self.num_experts} experts, top-{self.top_k}>"
        )
