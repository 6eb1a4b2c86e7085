"""The same trace in another version of the format, and what identifies it then."""

import hashlib
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trace_files import assert_same, make_trace, traces

from lrcsim.base.errors import TraceError
from lrcsim.traces import RoutingTrace, check_file
from lrcsim.traces.convert import convert

anywhere = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@given(trace=traces(), versions=st.lists(st.sampled_from([1, 2]), min_size=1, max_size=3))
@anywhere
def test_conversions_change_nothing_but_the_provenance(
    trace: RoutingTrace, versions: list[int], tmp_path: Path
) -> None:
    trace.save(tmp_path / "0.h5", version=1)
    for number, version in enumerate(versions):
        with RoutingTrace.open(tmp_path / f"{number}.h5") as before:
            convert(before, tmp_path / f"{number + 1}.h5", version)
        with h5py.File(tmp_path / f"{number + 1}.h5") as file:
            assert file.attrs["version"] == version
    assert check_file(tmp_path / f"{len(versions)}.h5") == []
    with RoutingTrace.open(tmp_path / f"{len(versions)}.h5") as after:
        assert_same(after, trace)
        assert after.provenance == trace.provenance | {"converted": {"sha256": sha256(tmp_path / "0.h5")}}
        assert after.first_sha256() == sha256(tmp_path / "0.h5") != after.file_sha256()


@pytest.mark.parametrize("name", ["bundled:generated", "bundled:teacher-forced"])
def test_the_traces_that_come_with_lrcsim_are_equal_in_every_column(name: str, tmp_path: Path) -> None:
    with RoutingTrace.open(name) as bundled:
        convert(bundled, tmp_path / "t.h5")
        with RoutingTrace.open(tmp_path / "t.h5") as converted:
            assert_same(converted, bundled)
            assert {name: converted.column(name).dtype for name in converted.columns} == {
                name: bundled.column(name).dtype for name in bundled.columns
            }


def test_real_recordings_are_equal_in_every_column(shared_traces: Path, tmp_path: Path) -> None:
    for path in sorted(shared_traces.parent.glob("family-h200/traces/*.h5")):
        with RoutingTrace.open(path) as recorded:
            convert(recorded, tmp_path / path.name, compression="zstd")
            with RoutingTrace.open(tmp_path / path.name) as converted:
                assert_same(converted, recorded)


def test_what_a_file_says_of_its_origin_is_no_name_unless_it_looks_like_one(tmp_path: Path) -> None:
    make_trace(1).save(tmp_path / "t.h5")
    with RoutingTrace.open(tmp_path / "t.h5") as trace:
        for said in (None, 3, [], {}, {"sha256": 5}, {"sha256": "0" * 63}, {"sha256": "0" * 64 + "\n"}):
            trace.provenance["converted"] = said
            assert trace.first_sha256() == trace.file_sha256()
        trace.provenance["converted"] = {"sha256": "0" * 64}
        assert trace.first_sha256() == "0" * 64


def test_a_part_of_a_converted_trace_is_not_taken_for_the_whole(lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make_trace(1, tokens=40, requests=4).save(tmp_path / "t.h5", version=1)
    assert lrcsim("trace", "convert", tmp_path / "t.h5", "-o", tmp_path / "c.h5").code == 0
    parts = [tmp_path / name for name in ("some.h5", "fit.h5", "test.h5")]
    assert lrcsim("trace", "select", tmp_path / "c.h5", "-o", parts[0], "--layers", "0").code == 0
    assert lrcsim("trace", "split", tmp_path / "c.h5", "--fit", parts[1], "--test", parts[2]).code == 0
    for part in parts:
        with RoutingTrace.open(part) as trace:
            assert trace.first_sha256() == trace.file_sha256()


def test_the_command(lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    make_trace(1).save(tmp_path / "t.h5", version=1)
    done = lrcsim("trace", "convert", tmp_path / "t.h5", "-o", tmp_path / "c.h5", "--json", "-")
    assert (done.code, done.err) == (0, "")
    sizes = [(tmp_path / name).stat().st_size for name in ("t.h5", "c.h5")]
    said = json.loads(done.out)
    assert (said["format_version"], said["bytes_before"], said["bytes"]) == (2, *sizes)
    assert lrcsim("trace", "convert", tmp_path / "c.h5", "-o", tmp_path / "b.h5", "--format-version", "1").code == 0
    with RoutingTrace.open(tmp_path / "b.h5") as back:
        np.testing.assert_array_equal(back.experts, make_trace(1).experts)
    refused = lrcsim("trace", "convert", tmp_path / "t.h5", "-o", tmp_path / "t.h5")
    assert (refused.code, len(refused.err.splitlines())) == (1, 1)
    assert "would write over what is read" in refused.err
    with (
        RoutingTrace.open(tmp_path / "t.h5") as trace,
        pytest.raises(TraceError, match="is the trace itself; name another output"),
    ):
        convert(trace, tmp_path / "t.h5")
    refused = lrcsim("trace", "convert", tmp_path / "t.h5", "-o", tmp_path / "d.h5", "--compression", "zip")
    assert "'zip' is not known in version 2, use fast, zstd, gzip, lzf, none" in refused.err
    refused = lrcsim(
        "trace", "convert", tmp_path / "t.h5", "-o", tmp_path / "d.h5", "--format-version", 1, "--compression", "zstd"
    )
    assert "'zstd' is not known in version 1, use gzip, lzf, none" in refused.err
    assert not (tmp_path / "d.h5").exists()


def test_a_report_takes_a_converted_trace_for_that_of_the_result(lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    trace, other = make_trace(1, tokens=40), make_trace(2, tokens=40)
    trace.save(tmp_path / "t.h5", version=1)
    other.save(tmp_path / "o.h5", version=1)
    assert lrcsim("run", tmp_path / "t.h5", "--json", tmp_path / "r.json").code == 0
    for name in ("t", "o"):
        assert lrcsim("trace", "convert", tmp_path / f"{name}.h5", "-o", tmp_path / f"{name}2.h5").code == 0
    told = ("report", tmp_path / "r.json", "-o", tmp_path / "r.html", "--trace")
    assert "has changed since the run" not in lrcsim(*told, tmp_path / "t2.h5").out
    assert "has changed since the run" in lrcsim(*told, tmp_path / "o2.h5").out


def test_versions_and_compressions_that_are_not_known_are_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="format version 3 is not known, use one of 1, 2"):
        make_trace(1).save(tmp_path / "t.h5", version=3)
    assert list(tmp_path.iterdir()) == []
