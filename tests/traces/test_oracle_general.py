"""libCacheSim's oracleGeneral: the right accesses, in order, with the right next uses, readable by libCacheSim."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trace_files import make_trace, traces

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.traces import RoutingTrace
from lrcsim.traces.exporters import Options, export_trace
from lrcsim.traces.exporters.oracle_general import RECORD, _fill_next

anywhere = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def next_uses(objects: list[int]) -> list[int]:
    """By definition: the number of the next record of the same object, counted from 1, or -1."""
    return [
        next((j + 1 for j in range(i + 1, len(objects)) if objects[j] == objects[i]), -1) for i in range(len(objects))
    ]


@given(trace=traces(), prefill=st.sampled_from(["step", "chunk:2", "token"]))
@anywhere
def test_accesses_and_next_uses(trace: RoutingTrace, prefill: str, tmp_path: Path) -> None:
    if (trace.experts < 0).all():
        return
    export_trace(trace, tmp_path / "t.oracleGeneral", options=Options(prefill=prefill))
    records = np.fromfile(tmp_path / "t.oracleGeneral", RECORD)
    objects = records["object"].tolist()
    assert records["next"].tolist() == next_uses(objects)
    assert (np.diff(records["time"].astype(int)) >= 0).all()
    pairs = {(layer, int(e)) for layer in range(trace.num_layers) for e in trace.experts[:, layer].ravel() if e >= 0}
    assert {divmod(key, trace.num_experts) for key in objects} == pairs
    sizes = [1] * trace.num_layers if trace.expert_bytes is None else trace.expert_bytes.tolist()
    assert records["size"].tolist() == [sizes[key // trace.num_experts] for key in objects]


@given(objects=st.lists(st.integers(0, 6), min_size=1, max_size=60), block=st.integers(1, 9))
@settings(deadline=None)
def test_next_uses_across_blocks(objects: list[int], block: int) -> None:
    records = np.zeros(len(objects), RECORD)
    records["object"] = objects
    _fill_next(records, 7, block)
    assert records["next"].tolist() == next_uses(objects)


def test_decode_tokens_in_rank_order_and_layers_apart(tmp_path: Path) -> None:
    trace = RoutingTrace.from_arrays([[[3, 1], [0, 2]], [[1, 3], [2, 1]]], num_experts=4, expert_bytes=[10, 20])
    assert export_trace(trace, tmp_path / "all.oracleGeneral") == []
    records = np.fromfile(tmp_path / "all.oracleGeneral", RECORD)
    assert records["object"].tolist() == [3, 1, 4, 6, 1, 3, 6, 5]
    assert records["time"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert records["next"].tolist() == [6, 5, -1, 7, -1, -1, -1, -1]
    export_trace(trace, tmp_path / "one.oracleGeneral", options=Options(layer=1))
    records = np.fromfile(tmp_path / "one.oracleGeneral", RECORD)
    assert records["object"].tolist() == [4, 6, 6, 5]
    assert records["next"].tolist() == [-1, 3, -1, -1]


def test_refusals(tmp_path: Path) -> None:
    trace = RoutingTrace.from_arrays([[[1]]], num_experts=4, expert_bytes=1 << 32)
    with pytest.raises(TraceError, match="32 bits"):
        export_trace(trace, tmp_path / "t.oracleGeneral")
    with pytest.raises(ConfigError, match=r"layer 1 does not exist, this trace has 0\.\.0"):
        export_trace(trace, tmp_path / "t.oracleGeneral", options=Options(layer=1))
    with pytest.raises(TraceError, match="no accesses"):
        export_trace(RoutingTrace.from_arrays([[[-1]]], num_experts=4), tmp_path / "t.oracleGeneral")
    assert list(tmp_path.iterdir()) == []


def test_libcachesim_reads_it(tmp_path: Path) -> None:
    libcachesim = pytest.importorskip("libcachesim")
    trace = make_trace(11, tokens=200, layers=4, experts=16, top_k=4, phase=False, expert_bytes=False)
    export_trace(trace, tmp_path / "t.oracleGeneral.bin")
    records = np.fromfile(tmp_path / "t.oracleGeneral.bin", RECORD)
    reader = libcachesim.TraceReader(
        str(tmp_path / "t.oracleGeneral.bin"), trace_type=libcachesim.TraceType.ORACLE_GENERAL_TRACE
    )
    given = [(request.obj_id, request.obj_size, request.next_access_vtime) for request in reader]
    assert [entry[0] for entry in given] == records["object"].tolist()
    assert [entry[1] for entry in given] == records["size"].tolist()
    wanted = records["next"].tolist()
    assert all(
        got == want or (want == -1 and got > len(records)) for (*_, got), want in zip(given, wanted, strict=True)
    )
