"""A timeline in Perfetto's own trace processor: it opens, without a complaint, and says what the run's JSON says."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from perfetto_viewer import Viewer, viewer

from lrcsim.plots.chrome_trace import timeline_events, write_timeline
from lrcsim.simulator import Result, simulate
from lrcsim.simulator.time.spans import Log
from lrcsim.traces import RoutingTrace

OURS = "('pass', 'step', 'stall')"
"""Categories of what is no span of a resource."""

WRONG = "select name, value from stats where severity in ('error', 'data_loss') and value > 0"
SPENT = """select name, count(*), sum(extract_arg(arg_set_id, 'args.compute_us')),
    sum(extract_arg(arg_set_id, 'args.overhead_us')), sum(extract_arg(arg_set_id, 'args.stall_us'))
    from slice where category = 'pass' group by name order by name"""
STALLS = "select name, sum(dur) from slice where category = 'stall' group by name order by name"
SPANS = f"select sum(ifnull(extract_arg(arg_set_id, 'args.count'), 1)) from slice where category not in {OURS}"
TRACKS = """select process.name, thread.name, count(*), sum(slice.dur) from slice
    join thread_track on slice.track_id = thread_track.id join thread using (utid) join process using (upid)
    group by 1, 2 order by pid, tid"""


@pytest.fixture(scope="module")
def perfetto() -> Iterator[Viewer]:
    with viewer() as page:
        yield page


def timed(*, log: bool | tuple[int, int], tokens: int = 200, **options: Any) -> Result:
    """Run the first tokens of the bundled trace, so few that no span is left out."""
    with RoutingTrace.open() as trace:
        few = RoutingTrace.from_arrays(
            trace.experts[:tokens],
            num_experts=trace.num_experts,
            phase=None if trace.phase is None else trace.phase[:tokens],
            expert_bytes=trace.expert_bytes,
            model=trace.model,
        )
    given: dict[str, Any] = {"hardware": "rtx-3090", "log": log, "bounds": False, **options}
    return simulate(few, "lru", "2x", **given)


def log_of(result: Result) -> Log:
    assert result.timed is not None
    assert result.timed.log is not None
    return result.timed.log


def test_perfetto_finds_what_the_run_says(tmp_path: Path, perfetto: Viewer) -> None:
    """The whole run, compressed: what its phases spent, stalls by what is at work, busy time, names."""
    result = timed(log=True, miss="split", dram="25%")
    written = write_timeline(tmp_path / "whole.json.gz", result)
    perfetto.open(tmp_path / "whole.json.gz")
    assert perfetto.query(WRONG) == []
    assert perfetto.query(SPANS) == [[written.spans]]
    said = result.to_dict()
    spent = {name: [count, *(us / 1e6 for us in sums)] for name, count, *sums in perfetto.query(SPENT)}
    parts = ("compute_s", "overhead_s", "stall_s")
    assert spent["decode"][1:] == pytest.approx([said["time"]["decode"][part] for part in parts], rel=1e-9)
    assert [a + b for a, b in zip(spent["prefill"], spent["decode"], strict=True)] == pytest.approx(
        [written.passes, *(said["time"][part] for part in parts)], rel=1e-9
    )
    stalls = dict(perfetto.query(STALLS))
    assert {"stall: cpu", "stall: nvme, pcie", "stall: nvme"} <= set(stalls)
    assert sum(stalls.values()) / 1e9 == pytest.approx(said["time"]["stall_s"], abs=1e-6)
    tracks = {(process, name): (count, dur / 1e9) for process, name, count, dur in perfetto.query(TRACKS)}
    machine = [name for process, name in tracks if process == "machine"]
    assert machine[:5] == ["forward passes", "stall", "gpu", "cpu", "host"]
    assert machine[-2:] == ["pcie", "cache"]
    assert all(name.startswith("nvme") for name in machine[5:-2])
    assert tracks["machine", "pcie"][1] == pytest.approx(said["links"]["pcie"]["busy_s"], abs=1e-6)
    assert [name for process, name in tracks if process == "requests"] == ["request [0]"]
    assert tracks["requests", "request [0]"][1] == pytest.approx(said["time"]["total_s"], abs=1e-6)


def test_perfetto_finds_a_window(tmp_path: Path, perfetto: Viewer) -> None:
    """Of the passes over tokens 100 to 119, what the log has of them."""
    result = timed(log=(100, 120))
    written = write_timeline(tmp_path / "window.json", result)
    perfetto.open(tmp_path / "window.json")
    assert perfetto.query(WRONG) == []
    assert perfetto.query(SPANS) == [[written.spans]]
    stalled = sum(step.stall for step in log_of(result).steps)
    rows = perfetto.query(SPENT)
    assert sum(row[1] for row in rows) == written.passes == len(log_of(result).steps)
    assert sum(row[4] for row in rows) / 1e6 == pytest.approx(stalled, rel=1e-9)
    assert perfetto.query("select sum(dur) / 1e9 from slice where category = 'stall'")[0][0] == pytest.approx(
        stalled, abs=1e-6
    )


def test_what_happens_at_once_is_one_event() -> None:
    """Three evictions of one layer, one of another, a joined transfer, and one that takes time, by hand."""
    log = Log(10)
    for key in (3, 17, 19, 12):
        log.note(1e-6, 1e-6, "cache", "evict", key)
    log.note(2e-6, 2e-6, "cache", "join", 12)
    log.note(1e-6, 3e-6, "pcie", "load", 12)
    events = [event for event in timeline_events(log) if event["ph"] != "M"]
    assert [(event["ph"], event["ts"], event["name"], event["args"]) for event in events] == [
        ("X", 1.0, "load L1 E2", {"layer": 1, "expert": 2}),
        ("i", 1.0, "evict L0 E3", {"layer": 0, "expert": 3, "count": 1}),
        ("i", 1.0, "evict 3 of L1", {"layer": 1, "expert": "7 9 2", "count": 3}),
        ("i", 2.0, "join L1 E2", {"layer": 1, "expert": 2, "count": 1}),
    ]


def test_what_was_written_is_told(tmp_path: Path) -> None:
    result = timed(log=(0, 150))
    plain, packed = tmp_path / "a.json", tmp_path / "a.json.gz"
    first, second = write_timeline(plain, result), write_timeline(packed, result)
    assert first.bytes == plain.stat().st_size > 4 * packed.stat().st_size == 4 * second.bytes
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    events = [event for event in json.loads(plain.read_text("utf-8"))["traceEvents"] if event["ph"] != "M"]
    spans = [event for event in events if event["cat"] not in ("pass", "step", "stall")]
    assert sum(event["args"].get("count", 1) for event in spans) == first.spans
    assert sum(event["cat"] == "pass" for event in events) == first.passes
    assert json.loads(plain.read_text("utf-8"))["otherData"]["timeline_tokens"] == [0, 150]
