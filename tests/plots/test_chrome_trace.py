"""A timeline in Perfetto's own trace processor: it opens, without a complaint, and says the run's stall time."""

from __future__ import annotations

import gzip
import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lrcsim.plots.chrome_trace import write_timeline
from lrcsim.simulator import Result, simulate
from lrcsim.traces import RoutingTrace

STALL = "select sum(extract_arg(arg_set_id, 'args.stall_us')) as us from slice where category = 'pass'"


@pytest.fixture(scope="module")
def result() -> Result:
    with RoutingTrace.open() as trace:
        return simulate(trace, "lru", "2x", hardware="rtx-3090", log=(0, 300), bounds=False)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a file in trace_processor_shell: the one on the path, or the one that the package loads from the net."""
    pytest.importorskip("perfetto.trace_processor", exc_type=ImportError)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from perfetto.trace_processor import TraceProcessor, TraceProcessorConfig

        shell = shutil.which("trace_processor_shell")
        try:
            processor = TraceProcessor(trace=str(path), config=TraceProcessorConfig(bin_path=shell))
        except Exception as error:
            if shell is not None:
                raise
            pytest.skip(f"trace_processor_shell is not to be had: {type(error).__name__}")
    try:
        yield processor
    finally:
        processor.close()


@pytest.mark.parametrize("ending", ["json", "json.gz"])
def test_perfetto_finds_the_stall_time(tmp_path: Path, result: Result, ending: str) -> None:
    path = tmp_path / f"run.{ending}"
    written = write_timeline(path, result)
    assert result.timed is not None
    assert result.timed.log is not None
    stalled = sum(step.stall for step in result.timed.log.steps)
    with opened(path) as processor:
        (row,) = processor.query(STALL)
        assert row.us / 1e6 == pytest.approx(stalled, rel=1e-9)
        (row,) = processor.query("select count(*) as n from slice where category not in ('pass', 'step')")
        assert row.n == written.spans
        (row,) = processor.query("select sum(value) as n from stats where severity in ('error', 'data_loss')")
        assert row.n == 0


def test_what_was_written_is_told(tmp_path: Path, result: Result) -> None:
    plain, packed = tmp_path / "a.json", tmp_path / "a.json.gz"
    first, second = write_timeline(plain, result), write_timeline(packed, result)
    assert first.bytes == plain.stat().st_size > 4 * packed.stat().st_size == 4 * second.bytes
    assert gzip.decompress(packed.read_bytes()) == plain.read_bytes()
    events = json.loads(plain.read_text())["traceEvents"]
    assert sum(event["ph"] != "M" and event["cat"] not in ("pass", "step") for event in events) == first.spans
    assert sum(event["ph"] != "M" and event["cat"] == "pass" for event in events) == first.passes
    assert json.loads(plain.read_text())["otherData"]["timeline_tokens"] == [0, 300]
