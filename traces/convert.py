"""A trace in another version of the file format."""

from __future__ import annotations

from pathlib import Path

from lrcsim.base.errors import TraceError
from lrcsim.traces.hdf5 import VERSIONS
from lrcsim.traces.importers.source import Progress
from lrcsim.traces.trace import RoutingTrace
from lrcsim.traces.writer import TraceWriter


def convert(
    trace: RoutingTrace,
    out_path: str | Path,
    version: int = VERSIONS[-1],
    compression: str | None = None,
    progress: Progress = lambda _done, _total: None,
) -> None:
    """Write the same trace in a version of the file format, in bounded memory: layers, columns, requests and labels.

    The provenance gets ``converted``, the SHA-256 of the trace's file (of the first one, where a conversion is
    converted): what was computed from that file was computed from this routing too.

    Args:
        trace: opened from a file.
        out_path: the trace to write; an existing file is replaced, when the new one is complete.
        version: of the file format, 1 or 2.
        compression: as of `TraceWriter`; None: that version's own.
        progress: called now and then with the tokens done and the total.

    Raises:
        TraceError: the trace is damaged, or the file cannot be written.
    """
    out_path = Path(out_path)
    if trace.path is not None and out_path.exists() and out_path.samefile(trace.path):
        raise TraceError(f"{out_path}: is the trace itself; name another output")
    about = {**trace.provenance, "converted": {"sha256": trace.first_sha256()}}
    with TraceWriter(
        out_path, trace.layers, model=trace.model, provenance=about, compression=compression, version=version
    ) as writer:
        for request in range(trace.num_requests):
            writer.begin_request(None if trace.domains is None else trace.domains[request])
            stop = int(trace.offsets[request + 1])
            for low in range(int(trace.offsets[request]), stop, TraceWriter.BLOCK):
                high = min(low + TraceWriter.BLOCK, stop)
                writer.append({name: trace.read(name, low, high) for name in trace.columns})
                progress(high, trace.num_tokens)
