"""Export to CSV, one row per token, layer and rank; the table importer reads it back.

Layers are named by their block. What is not recorded is written as expert -1, so that no position is lost.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers.source import Progress
from lrcsim.traces.trace import RoutingTrace

RUN = 4_096


def write(trace: RoutingTrace, path: Path, progress: Progress) -> list[str]:
    """Write the experts with weights, residency, phase, token ids and domain where the trace has them.

    Raises:
        TraceError: the model has several stacks, whose layers this format could not tell apart, or experts of a layer
            differ in bytes.
    """
    if len(trace.layers.stack_names) > 1:
        raise TraceError(f"a model of several stacks ({', '.join(trace.layers.stack_names)}) does not fit CSV; use npz")
    if trace.layers.sized_by_expert:
        raise TraceError("experts of a layer differ in bytes, and CSV has one size per layer; use npz")
    with _create(path) as file:
        file.write(_header(trace).encode())
        writer: csv.CSVWriter | None = None
        for request in range(trace.num_requests):
            start, stop = int(trace.offsets[request]), int(trace.offsets[request + 1])
            for low in range(start, stop, RUN):
                high = min(low + RUN, stop)
                batch = _rows(trace, request, start, low, high)
                if writer is None:
                    writer = csv.CSVWriter(file, batch.schema, write_options=csv.WriteOptions(quoting_style="needed"))
                writer.write_batch(batch)
                progress(high, trace.num_tokens)
        if writer is not None:
            writer.close()
    left = [
        name
        for name in trace.columns
        if name in ("predicted_ids", "logits", "router_inputs") or name.startswith("predictions/")
    ]
    notices = [f"CSV does not hold {', '.join(left)}, left out"] if left else []
    empty = int((np.diff(trace.offsets) == 0).sum())
    return [*notices, f"{empty} requests without tokens left out"] if empty else notices


def _create(path: Path) -> Any:
    """Open a file to write to, compressed as its ending says."""
    if path.suffix == ".gz":
        return gzip.open(path, "wb", compresslevel=1)
    return pa.CompressedOutputStream(str(path), "zstd") if path.suffix == ".zst" else pa.OSFile(str(path), "wb")


def _header(trace: RoutingTrace) -> str:
    layers = trace.layers
    model = "".join(trace.model.split())
    lines = [f"# lrcsim routing trace, model={model}"]
    for at in range(len(layers)):
        size = "" if layers.expert_bytes is None else f" expert_bytes={layers.expert_bytes[at]}"
        lines.append(f"# layer={layers.block[at]} num_experts={layers.num_experts[at]} top_k={layers.top_k[at]}{size}")
    return "\n".join(lines) + "\n"


def _rows(trace: RoutingTrace, request: int, start: int, low: int, high: int) -> pa.RecordBatch:
    experts = trace.read("experts", low, high)
    within_k = np.broadcast_to(np.arange(experts.shape[2])[None, :] < trace.layers.top_k[:, None], experts.shape)

    def spread(values: npt.NDArray[Any], *axes: int) -> npt.NDArray[Any]:
        return np.broadcast_to(np.expand_dims(values, axes), experts.shape)[within_k]

    token = np.arange(low, high)
    columns: dict[str, Any] = {"request": np.full(int(within_k.sum()), request)}
    if trace.domains is not None:
        columns["domain"] = pa.repeat(trace.domains[request], len(columns["request"]))
    if "phase" in trace.columns:
        columns["phase"] = spread(trace.read("phase", low, high), 1, 2)
    columns["token"] = spread(token - start, 1, 2)
    if "token_ids" in trace.columns:
        columns["token_id"] = spread(trace.read("token_ids", low, high), 1, 2)
    columns["layer"] = spread(trace.layers.block, 0, 2)
    columns["rank"] = spread(np.arange(experts.shape[2]), 0, 1)
    columns["expert"] = experts[within_k]
    if "weights" in trace.columns:
        columns["weight"] = trace.read("weights", low, high)[within_k].astype(np.float32)
    if "residency" in trace.columns:
        columns["residency"] = trace.read("residency", low, high)[within_k]
    return pa.RecordBatch.from_pydict({name: pa.array(values) for name, values in columns.items()})
