"""A run as a Chrome trace: every span on its track, to look at in Perfetto (ui.perfetto.dev) or chrome://tracing.

Format: "Trace Event Format" of the Chromium project: an object with ``traceEvents``; complete events (``ph`` X) with
``ts`` and ``dur`` in microseconds, instants (i), names of processes and threads as metadata (M).
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from lrcsim.base.files import replacing
from lrcsim.simulator.time.spans import Log, Span, StepSpan
from lrcsim.traces import PREFILL

if TYPE_CHECKING:
    from lrcsim.simulator import Result

MACHINE, REQUESTS = 1, 2  # process ids
FIRST_TRACKS = ("gpu", "cpu", "host", "cache")  # in this order, then the links


class Written(NamedTuple):
    """What a timeline that was written holds.

    Attributes:
        spans: of resources; forward passes and names come besides.
        passes: forward passes.
        bytes: of the file.
    """

    spans: int
    passes: int
    bytes: int


def write_timeline(path: str | Path, result: Result) -> Written:
    """Write the log of a result as a Chrome trace, one event per line.

    Args:
        path: the file; it appears complete or not at all; ``.gz`` is compressed, which Perfetto reads as it is.
        result: of `simulate` with ``log=True``, or a window of tokens.

    Raises:
        TraceError: the file cannot be written.
    """
    log = None if result.timed is None else result.timed.log
    assert log is not None
    about = {"trace": result.trace.model, **result.config}
    if log.window is not None:
        about["timeline_tokens"] = list(log.window)
    with replacing(path) as partial:
        with _opened(partial, str(path).endswith(".gz")) as out:
            out.write('{"displayTimeUnit": "ms",\n"otherData": ' + json.dumps(about) + ',\n"traceEvents": [\n')
            for number, event in enumerate(timeline_events(log)):
                out.write((",\n" if number else "") + json.dumps(event, separators=(",", ":")))
            out.write("\n]}\n")
        return Written(len(log.spans), len(log.steps), partial.stat().st_size)


def _opened(path: Path, compressed: bool) -> TextIO:
    if compressed:
        return io.TextIOWrapper(gzip.GzipFile(path, "wb", compresslevel=6, mtime=0), encoding="utf-8")
    return path.open("w", encoding="utf-8")


def timeline_events(log: Log) -> Iterator[dict[str, Any]]:
    """Yield the events: names of the tracks, then spans in order of their beginnings.

    Forward passes stand on a track of their own, each with what it spent; in Perfetto their stall is
    ``select sum(extract_arg(arg_set_id, 'args.stall_us')) from slice where category = 'pass'``.
    Spans that overlap on one track (a link with several lanes) are put on tracks of their own, ``pcie 1``, ``pcie 2``.
    """
    yield _name("process_name", MACHINE, 0, "machine")
    yield _name("process_name", REQUESTS, 0, "requests")
    tracks = list(dict.fromkeys(span.track for span in log.spans))
    tracks.sort(key=lambda track: (FIRST_TRACKS.index(track) if track in FIRST_TRACKS else len(FIRST_TRACKS), track))
    thread = 1
    yield _name("thread_name", MACHINE, thread, "forward passes")
    yield {**_name("thread_sort_index", MACHINE, thread, ""), "args": {"sort_index": thread}}
    for step in log.steps:
        spent = {"compute_us": step.compute, "overhead_us": step.overhead, "stall_us": step.stall}
        args = {"batch": len(step.sequences), **{name: 1e6 * seconds for name, seconds in spent.items()}}
        yield _complete(_phase(step), "pass", step.start, step.end, MACHINE, thread, args)
    for track in tracks:
        lanes = list(_lanes(span for span in log.spans if span.track == track))
        for number, spans in enumerate(lanes, 1):
            thread += 1
            yield _name("thread_name", MACHINE, thread, track if len(lanes) == 1 else f"{track} {number}")
            yield {**_name("thread_sort_index", MACHINE, thread, ""), "args": {"sort_index": thread}}
            for span in spans:
                yield _event(span, thread)
    requests = sorted({request for step in log.steps for request in step.sequences})
    for request in requests:
        yield _name("thread_name", REQUESTS, request + 1, f"request {request}")
    for step in log.steps:
        for request in step.sequences:
            yield _complete(
                _phase(step), "step", step.start, step.end, REQUESTS, request + 1, {"batch": len(step.sequences)}
            )


def _lanes(spans: Iterable[Span]) -> Iterator[list[Span]]:
    """Divide spans among as few lanes as possible, so that no two of one lane overlap."""
    lanes: list[list[Span]] = []
    for span in sorted(spans, key=lambda span: (span.start, span.end)):
        for lane in lanes:
            if lane[-1].end <= span.start:
                lane.append(span)
                break
        else:
            lanes.append([span])
    yield from lanes


def _event(span: Span, thread: int) -> dict[str, Any]:
    name = span.what
    if span.expert >= 0:
        name = f"{span.what} L{span.layer} E{span.expert}"
    elif span.layer >= 0:
        name = f"{span.what} L{span.layer}"
    known = {"layer": span.layer, "expert": span.expert}
    args = {key: value for key, value in known.items() if value >= 0}
    if _nanoseconds(span.end) > _nanoseconds(span.start):
        return _complete(name, span.what, span.start, span.end, MACHINE, thread, args)
    return {
        "name": name,
        "cat": span.what,
        "ph": "i",
        "s": "t",
        "ts": _nanoseconds(span.start) / 1000,
        "pid": MACHINE,
        "tid": thread,
        "args": args,
    }


def _complete(
    name: str, category: str, start: float, end: float, process: int, thread: int, args: dict[str, Any]
) -> dict[str, Any]:
    begin = _nanoseconds(start)
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "ts": begin / 1000,
        "dur": (_nanoseconds(end) - begin) / 1000,
        "pid": process,
        "tid": thread,
        "args": args,
    }


def _nanoseconds(seconds: float) -> int:
    """Return whole nanoseconds, what viewers keep: ends so rounded meet the next beginnings, and do not pass them."""
    return round(seconds * 1e9)


def _phase(step: StepSpan) -> str:
    return "prefill" if step.phase == PREFILL else "decode"


def _name(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "ts": 0, "pid": process, "tid": thread, "args": {"name": name}}
