"""Export to oracleGeneral, the binary of libCacheSim, to run general cache simulators on the very same accesses.

A record is 24 bytes, little-endian, unpadded: uint32 time (here the step), uint64 object (layer * E + expert), uint32
size (bytes of the expert, 1 where unknown), int64 number of the record where the object is used next (counted from 1,
-1 for never).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.traces.importers.source import Progress
from lrcsim.traces.schedule import Schedule
from lrcsim.traces.trace import RoutingTrace

RECORD = np.dtype([("time", "<u4"), ("object", "<u8"), ("size", "<u4"), ("next", "<i8")])


def write(
    trace: RoutingTrace, path: Path, progress: Progress, *, prefill: str = "step", layer: int | None = None
) -> list[str]:
    """Write one record per access, in the order in which the schedule looks experts up.

    Args:
        trace: the trace.
        path: the file to write.
        progress: called with the tokens done and all tokens.
        prefill: how prompt tokens make steps.
        layer: the one MoE layer to write; None: all.

    Raises:
        ConfigError: there is no such layer.
        TraceError: an expert is too large for the format, or there is nothing to write.
    """
    if layer is not None and not 0 <= layer < trace.num_layers:
        raise ConfigError(f"layer {layer} does not exist, this trace has 0..{trace.num_layers - 1}")
    known = trace.layers.key_bytes
    sizes = np.ones(trace.num_layers * trace.num_experts, np.int64) if known is None else known
    if sizes.max() > 0xFFFF_FFFF:
        raise TraceError(f"an expert of {sizes.max()} bytes does not fit oracleGeneral's 32 bits")
    schedule = Schedule(trace, prefill)
    with open(path, "wb") as file:
        for block in schedule.blocks():
            lengths = np.diff(block.starts)
            records = np.empty(len(block.keys), RECORD)
            records["time"] = np.repeat(block.step, lengths)
            records["object"] = block.keys
            records["size"] = sizes[block.keys]
            records["next"] = -1
            if layer is not None:
                records = records[np.repeat(block.layer, lengths) == layer]
            file.write(records.tobytes())
            progress(block.end_token, trace.num_tokens)
        written = file.tell() // RECORD.itemsize
    if written == 0:
        raise TraceError("there are no accesses to write")
    _fill_next(np.memmap(path, RECORD, "r+", shape=(written,)), trace.num_layers * schedule.stride)
    return [] if trace.expert_bytes is not None else ["bytes per expert are unknown, every object has size 1"]


def _fill_next(records: npt.NDArray[np.void], objects: int, block: int = 1 << 20) -> None:
    """Fill in the next use, from the last block of records to the first."""
    upcoming = np.full(objects, -1, np.int64)
    for low in reversed(range(0, len(records), block)):
        keys = records["object"][low : low + block].astype(np.int64)
        order = np.argsort(keys, kind="stable")
        ordered = keys[order]
        following = upcoming[ordered]
        same = ordered[1:] == ordered[:-1]
        following[:-1][same] = low + order[1:][same] + 1
        use = np.empty(len(keys), np.int64)
        use[order] = following
        records["next"][low : low + block] = use
        first = np.concatenate([[True], ~same])
        upcoming[ordered[first]] = low + order[first] + 1
