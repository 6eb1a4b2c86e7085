"""A recording on disk while it grows: parts that are complete traces, joined at the end.

Beside ``OUT.h5`` stands the folder ``.OUT.h5.recording`` with ``settings.json`` and ``part-000000.h5``, ... Every part
is a trace of whole requests that appeared under its name in one step, so after a stop at any point the parts are good,
and what was not yet in one is recorded again.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from lrcsim.errors import ConfigError, TraceError
from lrcsim.recorder.frames import Columns
from lrcsim.recorder.predict import Recall
from lrcsim.traces import LayerTable, RoutingTrace, TraceWriter
from lrcsim.traces.atomic import replacing

__all__ = ["Store"]

PART_SECONDS = 30.0
"""A part is closed when it is this old: what a stop can cost."""


class Store:
    """The parts of one recording.

    Args:
        out: the trace to be written in the end.
        settings: what determines the trace, as JSON values; a recording is only resumed with the same.
        restart: drop what an earlier, unfinished recording left.

    Raises:
        TraceError: the folder cannot be written, or another process is recording there.
        ConfigError: an unfinished recording with other settings is there.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], *, restart: bool = False) -> None:
        self.out = out
        if not out.absolute().parent.is_dir():
            raise TraceError(f"{out}: the folder {out.parent} does not exist")
        if out.is_dir():
            raise TraceError(f"{out}: is a folder, name a file")
        self.folder = out.with_name(f".{out.name}.recording")
        try:
            self.folder.mkdir(exist_ok=True)
            self._lock = _locked(self.folder / "lock")
        except OSError as error:
            raise TraceError(f"{self.folder}: cannot be written ({error.strerror or error})") from None
        wanted = json.loads(json.dumps(settings))
        about = self.folder / "settings.json"
        if restart:
            for path in self.folder.iterdir():
                if path.name != "lock":
                    path.unlink()
        if about.exists():
            kept = json.loads(about.read_text(encoding="utf-8"))
            self._compare(kept["settings"], wanted)
            self.started: str = kept["started"]
        else:
            self.started = datetime.now(UTC).isoformat(timespec="seconds")
            with replacing(about) as partial:
                partial.write_text(json.dumps({"settings": wanted, "started": self.started}), encoding="utf-8")
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

    def _compare(self, kept: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
        changed = [key for key in {**kept, **wanted} if kept.get(key) != wanted.get(key)]
        if changed:
            what = ", ".join(f"{key} {kept.get(key)!r}, now {wanted.get(key)!r}" for key in changed)
            raise ConfigError(
                f"{self.out}: an unfinished recording is there, begun with other settings ({what[:300]}); "
                "finish it with those, or drop it with --restart"
            )

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
        """Join the parts under the final name, drop the folder, and return the recall of recorded predictions.

        Raises:
            TraceError: nothing was recorded, or the file cannot be written.
        """
        self.commit()
        if self.layers is None:
            self.discard()
            raise TraceError(f"{self.out}: not written, there was nothing to record")
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
        self.discard()
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

    def discard(self) -> None:
        """Remove the folder."""
        self._lock.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self.commit()  # whole batches only, so good to resume from whatever went wrong
        finally:
            self._lock.close()
            if self.folder.exists() and not self.parts:
                shutil.rmtree(self.folder, ignore_errors=True)


def _locked(path: Path) -> IO[str]:
    """Open a file that one process at a time can hold; the system lets go of it when the process ends, however.

    Raises:
        TraceError: another process holds it.
    """
    handle = path.open("w")
    try:
        import fcntl
    except ImportError:  # not on this system: two recordings to one file are then the user's care
        return handle
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        handle.close()
        raise TraceError(f"{path.parent}: another process is recording to the same file") from None
    return handle
