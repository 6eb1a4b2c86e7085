"""Export to CSV, one row per token, layer and rank; the table importer reads it back.

Layers are named by their block. What is not recorded is written as expert -1, so that no position is lost.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

from lrcsim.base.errors import TraceError
from lrcsim.traces.activations import activations
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
                batch = _rows(trace, low, high)
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


def _rows(trace: RoutingTrace, low: int, high: int) -> pa.RecordBatch:
    columns = activations(trace, low, high)
    return pa.RecordBatch.from_pydict({name: pa.array(values) for name, values in columns.items()})
