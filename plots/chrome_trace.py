"""A run as a Chrome trace: every span on its track, to look at in Perfetto (ui.perfetto.dev) or chrome://tracing.

Format: "Trace Event Format" of the Chromium project: an object with ``traceEvents``; complete events (``ph`` X) with
``ts`` and ``dur`` in microseconds, instants (i), names of processes and threads as metadata (M).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lrcsim.base.files import replacing
from lrcsim.simulator.time.spans import Log, Span
from lrcsim.traces import PREFILL

if TYPE_CHECKING:
    from lrcsim.simulator import Result

MACHINE, REQUESTS = 1, 2  # process ids
FIRST_TRACKS = ("gpu", "cpu", "host", "cache")  # in this order, then the links


def write_timeline(path: str | Path, result: Result) -> None:
    """Write the log of a result as a Chrome trace, one event per line.

    Args:
        path: the file; it appears complete or not at all.
        result: of `simulate` with ``log=True``.

    Raises:
        TraceError: the file cannot be written.
    """
    log = None if result.timed is None else result.timed.log
    assert log is not None
    about = {"trace": result.trace.model, **result.config}
    with replacing(path) as partial, partial.open("w", encoding="utf-8") as out:
        out.write('{"displayTimeUnit": "ms",\n"otherData": ' + json.dumps(about) + ',\n"traceEvents": [\n')
        for number, event in enumerate(timeline_events(log)):
            out.write((",\n" if number else "") + json.dumps(event))
        out.write("\n]}\n")


def timeline_events(log: Log) -> Iterator[dict[str, Any]]:
    """Yield the events: names of the tracks, then spans in order of their beginnings.

    Spans that overlap on one track (a link with several lanes) are put on tracks of their own, ``pcie 1``, ``pcie 2``.
    """
    yield _name("process_name", MACHINE, 0, "machine")
    yield _name("process_name", REQUESTS, 0, "requests")
    tracks = list(dict.fromkeys(span.track for span in log.spans))
    tracks.sort(key=lambda track: (FIRST_TRACKS.index(track) if track in FIRST_TRACKS else len(FIRST_TRACKS), track))
    thread = 0
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
        what = "prefill" if step.phase == PREFILL else "decode"
        for request in step.sequences:
            yield _complete(what, "step", step.start, step.end, REQUESTS, request + 1, {"batch": len(step.sequences)})


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
    if span.end > span.start:
        return _complete(name, span.what, span.start, span.end, MACHINE, thread, args)
    return {
        "name": name,
        "cat": span.what,
        "ph": "i",
        "s": "t",
        "ts": span.start * 1e6,
        "pid": MACHINE,
        "tid": thread,
        "args": args,
    }


def _complete(
    name: str, category: str, start: float, end: float, process: int, thread: int, args: dict[str, Any]
) -> dict[str, Any]:
    return {
        "name": name,
        "cat": category,
        "ph": "X",
        "ts": start * 1e6,
        "dur": (end - start) * 1e6,
        "pid": process,
        "tid": thread,
        "args": args,
    }


def _name(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"name": what, "ph": "M", "ts": 0, "pid": process, "tid": thread, "args": {"name": name}}
