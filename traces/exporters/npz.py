"""Export to a NumPy archive, with the array names of `RoutingTrace.from_arrays`; the npz importer reads it back."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.traces.importers.source import Progress
from lrcsim.traces.trace import RoutingTrace


def write(trace: RoutingTrace, path: Path, progress: Progress) -> list[str]:
    """Write every column a run of tokens at a time; nothing is left out."""
    layers = trace.layers
    small: dict[str, npt.NDArray[Any]] = {
        "offsets": trace.offsets,
        "num_experts": layers.num_experts,
        "top_k": layers.top_k,
        "block": layers.block,
        "stack_of_layer": layers.stack,
        "num_shared": layers.num_shared,
        "stack_names": np.array(layers.stack_names),
        "model": np.array(trace.model),
        "provenance": np.array(json.dumps(trace.provenance)),
    }
    known = {"expert_bytes": layers.expert_bytes, "dense_bytes": layers.dense_bytes}
    small |= {name: sizes for name, sizes in known.items() if sizes is not None}
    if trace.domains is not None:
        small["domains"] = np.array(trace.domains)
    total = trace.num_tokens * len(trace.columns)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in small.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
        for done, name in enumerate(trace.columns):
            with archive.open(f"{name.replace('/', '_')}.npy", "w", force_zip64=True) as file:
                for low, high in trace.blocks():
                    block = np.ascontiguousarray(trace.read(name, low, high))
                    if low == 0:
                        shape = (trace.num_tokens, *block.shape[1:])
                        descr = np.lib.format.dtype_to_descr(block.dtype)
                        header = {"descr": descr, "fortran_order": False, "shape": shape}
                        np.lib.format.write_array_header_1_0(file, header)
                    file.write(block.tobytes())
                    progress(done * trace.num_tokens + high, total)
    return []
