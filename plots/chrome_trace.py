"""A run as a Chrome trace: every span on its track, to look at in Perfetto (ui.perfetto.dev) or chrome://tracing.

Format: "Trace Event Format" of the Chromium project: an object with ``traceEvents``; complete events (``ph`` X) with
``ts`` and ``dur`` in microseconds, instants (i), names of processes and threads as metadata (M).
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from lrcsim.base.files import replacing
from lrcsim.plots.stalls import stalls
from lrcsim.simulator.time.spans import Log, Span, StepSpan
from lrcsim.traces import PREFILL

if TYPE_CHECKING:
    from lrcsim.simulator import Result

MACHINE, REQUESTS = 1, 2  # process ids
PASSES, STALLS, FIRST_REQUEST = 3, 4, 3  # thread ids; one that is its process's id is shown as a main thread
FIRST_TRACKS = ("gpu", "cpu", "host")  # in this order, then the links
LAST_TRACK = "cache"


class Written(NamedTuple):
    """What a timeline that was written holds.

    Attributes:
        spans: of resources; forward passes, their stalls and names come besides.
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
    ``select sum(extract_arg(arg_set_id, 'args.stall_us')) from slice where category = 'pass'``. Below it are the stalls
    themselves, each with what was at work meanwhile: ``stall: pcie``, of category ``stall``.
    Spans that overlap on one track (a link with several lanes) are put on tracks of their own, ``pcie [1]``,
    ``pcie [2]``: Perfetto writes a track's number behind its name. What takes no time and happens at once to experts
    of one layer is one event: Perfetto stacks events of one moment.
    """
    yield from (_name("process_name", MACHINE, 0, "machine"), _order("process_sort_index", MACHINE, 0, MACHINE))
    yield from (_name("process_name", REQUESTS, 0, "requests"), _order("process_sort_index", REQUESTS, 0, REQUESTS))
    yield from _track(MACHINE, PASSES, "forward passes")
    for step in log.steps:
        spent = {"compute_us": step.compute, "overhead_us": step.overhead, "stall_us": step.stall}
        args = {"batch": len(step.sequences), **{name: 1e6 * seconds for name, seconds in spent.items()}}
        yield _complete(_phase(step), "pass", step.start, step.end, MACHINE, PASSES, args)
    yield from _track(MACHINE, STALLS, "stall")
    for stall in stalls(log):
        if _nanoseconds(stall.end) > _nanoseconds(stall.start):
            name = f"stall: {', '.join(stall.meanwhile) or 'nothing at work'}"
            yield _complete(name, "stall", stall.start, stall.end, MACHINE, STALLS, {})
    thread = STALLS
    for track in sorted({span.track for span in log.spans}, key=_place):
        lanes = list(_lanes(span for span in log.spans if span.track == track))
        for number, spans in enumerate(lanes, 1):
            thread += 1
            yield from _track(MACHINE, thread, track if len(lanes) == 1 else f"{track} [{number}]")
            yield from _events(spans, thread)
    requests = sorted({request for step in log.steps for request in step.sequences})
    for request in requests:
        yield from _track(REQUESTS, request + FIRST_REQUEST, f"request [{request}]")
    for step in log.steps:
        for request in step.sequences:
            args, thread = {"batch": len(step.sequences)}, request + FIRST_REQUEST
            yield _complete(_phase(step), "step", step.start, step.end, REQUESTS, thread, args)


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


def _place(track: str) -> tuple[int, str]:
    """Return what tracks are ordered by: where it is computed, links, and the cache, whose moments take much room."""
    return (*FIRST_TRACKS, track).index(track) + (track == LAST_TRACK), track


def _events(spans: Iterable[Span], thread: int) -> Iterator[dict[str, Any]]:
    """Yield the events of one lane; those of one moment, kind and layer that take no time as one."""
    for (start, what, layer, _), alike in groupby(spans, key=_moment):
        first, *others = alike
        if _nanoseconds(first.end) > _nanoseconds(start):
            yield _complete(_called(first), what, start, first.end, MACHINE, thread, _known(first))
            continue
        experts = [span.expert for span in (first, *others)]
        args = {**_known(first), "count": len(experts)}
        if others:
            args["expert"] = " ".join(map(str, experts))
        yield {
            "name": f"{what} {len(experts)} of L{layer}" if others else _called(first),
            "cat": what,
            "ph": "i",
            "s": "t",
            "ts": _nanoseconds(start) / 1000,
            "pid": MACHINE,
            "tid": thread,
            "args": args,
        }


def _moment(span: Span) -> tuple[float, str, int, int]:
    """Return what spans that are shown as one have in common; those that take time stand alone."""
    alone = _nanoseconds(span.end) > _nanoseconds(span.start) or span.expert < 0
    return span.start, span.what, span.layer, span.expert if alone else -2


def _called(span: Span) -> str:
    if span.expert >= 0:
        return f"{span.what} L{span.layer} E{span.expert}"
    return f"{span.what} L{span.layer}" if span.layer >= 0 else span.what


def _known(span: Span) -> dict[str, Any]:
    known = {"layer": span.layer, "expert": span.expert}
    return {key: value for key, value in known.items() if value >= 0}


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


def _order(what: str, process: int, thread: int, place: int) -> dict[str, Any]:
    return {**_name(what, process, thread, ""), "args": {"sort_index": place}}


def _track(process: int, thread: int, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what names a track and puts it in its place."""
    return _name("thread_name", process, thread, name), _order("thread_sort_index", process, thread, thread)
