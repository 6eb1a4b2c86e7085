"""What goes out as npz or CSV comes in again unchanged."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from trace_files import assert_same, imported, make_trace, traces

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.traces import RoutingTrace
from lrcsim.traces.exporters import export_trace
from lrcsim.traces.importers import Options, import_trace

anywhere = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(trace=traces())
@anywhere
def test_npz_round_trip(trace: RoutingTrace, tmp_path: Path) -> None:
    if (trace.experts < 0).all():
        return
    assert export_trace(trace, tmp_path / "out.npz") == []
    back, report = imported(tmp_path / "out.npz", tmp_path)
    with back:
        assert_same(back, trace)
        assert report.format == "npz"
        assert report.unrecorded == trace.count_unrecorded()
        assert back.provenance["synthetic"] is True


@given(trace=traces(for_csv=True))
@anywhere
def test_csv_round_trip(trace: RoutingTrace, tmp_path: Path) -> None:
    if (trace.experts < 0).all():
        return
    export_trace(trace, tmp_path / "out.csv")
    back, report = imported(tmp_path / "out.csv", tmp_path)
    with back:
        assert_same(back, trace, but=("num_shared",))
        assert report.format == "table"
        assert report.unrecorded == trace.count_unrecorded()


@pytest.mark.parametrize("suffix", [".csv.gz", ".csv.zst"])
def test_compressed_csv_round_trip(suffix: str, tmp_path: Path) -> None:
    trace = make_trace(1, residency=True, token_ids=True)
    export_trace(trace, tmp_path / f"out{suffix}")
    back, _ = imported(tmp_path / f"out{suffix}", tmp_path)
    with back:
        assert_same(back, trace, but=("num_shared",))


def test_csv_says_what_it_leaves_out(tmp_path: Path) -> None:
    notices = export_trace(make_trace(1, logits=True, predictions=True, predicted_ids=True), tmp_path / "out.csv")
    assert notices == ["CSV does not hold predicted_ids, logits, predictions/1, left out"]
    with pytest.raises(TraceError, match="several stacks"):
        export_trace(make_trace(1, stacks=True), tmp_path / "stacks.csv")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.csv"]


def save(path: Path, **arrays: object) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
    return path


def test_npz_needs_experts_only(tmp_path: Path) -> None:
    experts = make_trace(2).experts
    back, report = imported(save(tmp_path / "in.npz", experts=experts), tmp_path, phase="none")
    with back:
        np.testing.assert_array_equal(back.experts, experts)
        assert back.phase is None
        assert back.num_experts == experts.max() + 1
        assert back.model == "in"
    assert ["--num-experts" in notice for notice in report.notices] == [True]


def test_npz_options_say_what_the_file_does_not(tmp_path: Path) -> None:
    source = save(tmp_path / "in.npz", experts=make_trace(2).experts.astype(np.uint8))
    back, report = imported(source, tmp_path, num_experts=64, phase="decode", model="m", expert_bytes=5)
    with back:
        assert back.num_experts == 64
        assert back.phase is not None
        assert back.phase.all()
        assert back.model == "m"
        assert back.expert_bytes is not None
        assert set(back.expert_bytes) == {5}
    assert report.notices == []


def test_npz_in_fortran_order(tmp_path: Path) -> None:
    experts = np.asfortranarray(make_trace(3, tokens=40).experts)
    back, _ = imported(save(tmp_path / "in.npz", experts=experts), tmp_path)
    with back:
        np.testing.assert_array_equal(back.experts, experts)


def test_npz_unknown_arrays_are_named(tmp_path: Path) -> None:
    source = save(tmp_path / "in.npz", experts=make_trace(2).experts, num_experts=8, losses=np.zeros(3))
    _, report = imported(source, tmp_path, phase="none")
    assert report.notices == ["arrays of no known name were left out: losses"]


def test_npz_phase_of_its_own_excludes_the_option(tmp_path: Path) -> None:
    trace = make_trace(2)
    source = save(tmp_path / "in.npz", experts=trace.experts, phase=trace.phase)
    with pytest.raises(ConfigError, match="phases of its own"):
        import_trace(source, tmp_path / "out.h5", options=Options(phase="decode"))
    back, _ = imported(source, tmp_path, phase="none")
    with back:
        assert back.phase is None
