"""A recording on disk while it grows: parts that are complete traces, joined at the end.

In the folder of the `Workspace` stand ``part-000000.h5``, ``part-000001.h5``, ... Every part is a trace of whole
requests that appeared under its name in one step, so after a stop at any point the parts are good, and what was not yet
in one is recorded again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from lrcsim.base.errors import TraceError
from lrcsim.recorder.passes import Columns
from lrcsim.recorder.predict import Recall
from lrcsim.recorder.workspace import Workspace
from lrcsim.traces import LayerTable, RoutingTrace, TraceWriter

PART_SECONDS = 30.0
"""A part is closed when it is this old: what a stop can cost."""


class Store:
    """The parts of one recording.

    Args:
        workspace: where they are kept; parts of an earlier run are taken over.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.out, self.folder = workspace.out, workspace.folder
        for left in self.folder.glob(".part-*"):  # half a part, from a stop in the middle
            left.unlink()
        self.parts = sorted(self.folder.glob("part-*.h5"))
        self.requests = self.tokens = 0
        self.layers: LayerTable | None = None
        self.layer_names: list[str] = []
        self.digest = ""
        for part in self.parts:
            with RoutingTrace.open(part) as trace:
                self.requests += trace.num_requests
                self.tokens += trace.num_tokens
                self.layers, self.layer_names = trace.layers, trace.provenance["layers"]
                self.digest = trace.provenance["digest"]
        self.resumed = self.requests
        self._writer: TraceWriter | None = None
        self._opened = 0.0
        self._about_part: dict[str, Any] = {}

    def add(
        self, requests: list[tuple[str | None, Columns]], layers: LayerTable, layer_names: list[str], digest: str
    ) -> None:
        """Append requests that belong together (a batch): in the end all of them are kept, or none.

        Args:
            requests: label and columns of each.
            layers: the model's MoE layers.
            layer_names: the module behind each.
            digest: stands for all requests up to these, to tell on resuming whether the prompts are still the same.

        Raises:
            TraceError: the routing is impossible, or the disk is full.
        """
        if self._writer is None:
            self.layers, self.layer_names = layers, layer_names
            self._about_part = {"layers": layer_names}
            self._writer = TraceWriter(
                self.folder / f"part-{len(self.parts):06d}.h5", layers, provenance=self._about_part
            )
            self._opened = time.monotonic()
        for domain, columns in requests:
            self._writer.begin_request(domain)
            for low in range(0, len(columns["experts"]), TraceWriter.BLOCK):
                self._writer.append({name: data[low : low + TraceWriter.BLOCK] for name, data in columns.items()})
                self.tokens += len(columns["experts"][low : low + TraceWriter.BLOCK])
        self.requests += len(requests)
        self.digest = digest
        if time.monotonic() - self._opened >= PART_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Close the current part: what it holds is safe from now on."""
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        writer.set_provenance({**self._about_part, "digest": self.digest})
        writer.close()
        self.parts.append(self.folder / f"part-{len(self.parts):06d}.h5")

    def finish(
        self, model: str, provenance: Mapping[str, Any], progress: Callable[[int, int], None] | None = None
    ) -> Recall:
        """Join the parts under the final name, and return the recall of recorded predictions.

        Raises:
            TraceError: nothing was recorded, or the file cannot be written.
        """
        self.commit()
        if self.layers is None:
            raise TraceError(f"{self.out}: not written, there was nothing to record")
        for left in self.out.parent.glob(f".{self.out.name}.*.tmp"):  # of a run that was killed here
            left.unlink()
        recall, done = Recall(), 0
        with TraceWriter(self.out, self.layers, model=model, provenance=provenance) as writer:
            for part in self.parts:
                with RoutingTrace.open(part) as trace:
                    for request in range(trace.num_requests):
                        writer.begin_request(None if trace.domains is None else trace.domains[request] or None)
                        stop = int(trace.offsets[request + 1])
                        for low in range(int(trace.offsets[request]), stop, TraceWriter.BLOCK):
                            high = min(low + TraceWriter.BLOCK, stop)
                            columns = {name: trace.read(name, low, high) for name in trace.columns}
                            writer.append(columns)
                            recall.add(columns)
                            done += high - low
                    if progress is not None:
                        progress(done, self.tokens)
        return recall

    def logits_kind(self) -> str | None:
        """Tell what the routers' scores are, from the first ones: ``raw`` or ``probabilities`` (rows of sum 1)."""
        self.commit()
        for part in self.parts:
            with RoutingTrace.open(part) as trace:
                if "logits" not in trace.columns:
                    return None
                first = trace.read("logits", 0, min(trace.num_tokens, 256)).astype("float32")
                rows = first[trace.read("experts", 0, len(first)).max(axis=2) >= 0]
                probable = (rows >= 0).all() and (abs(rows.sum(axis=1) - 1) < 0.02).all()
                return "probabilities" if probable else "raw"
        return None

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.commit()  # whole batches only, so good to resume from whatever went wrong
