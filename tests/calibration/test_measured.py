"""Metrics files of engines: which column is what, in which unit, and what is said of a wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from lrcsim.base.errors import ConfigError, LrcsimError, TraceError
from lrcsim.calibration.from_run.measured import parse_mapping, read_measured


def write(folder: Path, text: str) -> Path:
    path = folder / "metrics.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("header", "understood"),
    [
        (
            "step,steps,wall_ms,io_ms,compute_ms,read_bytes,cache_hit_pct,stall_ms,mgmt_ms,majflt,cpu_ms",
            "wall = wall_ms in ms; compute = compute_ms in ms; stall = stall_ms in ms; overhead = mgmt_ms in ms; "
            "io = io_ms in ms; bytes = read_bytes in bytes; "
            "faults = majflt; not used: step, steps, cache_hit_pct, cpu_ms",
        ),
        ("token,latency_us", "wall = latency_us in us; not used: token"),
        (
            "token_id,total_s,gpu_s,wait_s",
            "wall = total_s in s; compute = gpu_s in s; stall = wait_s in s; not used: token_id",
        ),
        ("i,time", "wall = time in ms; not used: i"),
        ("step,total_tokens,step_ms", "wall = step_ms in ms; not used: step, total_tokens"),
        ("n,totalMs,io_mib", "wall = totalMs in ms; bytes = io_mib in mib; not used: n"),
        ("n,decode_latency,total_tokens", "wall = decode_latency in ms; not used: n, total_tokens"),
        ("n,tok_per_s", "wall = tok_per_s in tok/s; not used: n"),
        ("n,tokens/s", "wall = tokens/s in tok/s; not used: n"),
        ("n,decode_time_ms,wall_ms", "wall = wall_ms in ms; not used: n, decode_time_ms"),
        (
            "n,latency (ms),h2d_us,loaded_mb",
            "wall = latency (ms) in ms; io = h2d_us in us; bytes = loaded_mb in mb; not used: n",
        ),
        ("wall_ms,majflt,cpu_ms", "wall = wall_ms in ms; faults = majflt; not used: cpu_ms"),
        ("wall_ms,dense_ms,host_wait_ms", "wall = wall_ms in ms; not used: dense_ms, host_wait_ms"),
        ("wall_ms,page_faults", "wall = wall_ms in ms; faults = page_faults"),
    ],
)
def test_names_and_units_are_guessed_and_said(header: str, understood: str, tmp_path: Path) -> None:
    row = ",".join(["5"] * len(header.split(",")))
    assert read_measured(write(tmp_path, f"{header}\n{row}\n{row}\n")).understood() == understood


def test_values_are_in_seconds_and_bytes(tmp_path: Path) -> None:
    run = read_measured(write(tmp_path, "# a comment\nwall_ms;stall_us;read_kib\n\n10;500;2\n20;1500;0\n# summary 3\n"))
    assert run.values["wall"].tolist() == [0.01, 0.02]
    assert run.values["stall"].tolist() == pytest.approx([0.0005, 0.0015])
    assert run.values["bytes"].tolist() == [2048, 0]
    assert run.steps == 2


def test_a_rate_of_tokens_is_turned_into_time(tmp_path: Path) -> None:
    assert read_measured(write(tmp_path, "tps\n4\n10\n")).values["wall"].tolist() == [0.25, 0.1]


def test_a_mapping_overrules_the_guess(tmp_path: Path) -> None:
    path = write(tmp_path, "wall_ms,mine,other\n1,2,3\n2,3,4\n")
    run = read_measured(path, parse_mapping(["wall=mine:s", "stall=other:us"]))
    assert run.values["wall"].tolist() == [2, 3]
    assert run.values["stall"].tolist() == pytest.approx([3e-6, 4e-6])
    assert run.unused == ["wall_ms"]
    assert not run.columns["wall"].guessed


def test_prefill_rows_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, "phase,wall_ms\nprefill,900\ndecode,10\ndecode,11\n")
    run = read_measured(path)
    assert (run.values["wall"].tolist(), run.prefill_rows) == ([0.01, 0.011], 1)


def test_a_time_without_unit_is_taken_as_milliseconds_and_said(tmp_path: Path) -> None:
    run = read_measured(write(tmp_path, "wall\n5\n6\n"))
    assert run.values["wall"].tolist() == [0.005, 0.006]
    assert run.notes == ["wall names no unit: taken as ms (else --column wall=wall:s)"]


CLOCK = "wall_ms\n" + "\n".join(map(str, range(1, 20)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows"),
        ("wall_ms\n", "has no rows"),
        ("a,b\n1,2\n", "no column looks like the time of a token .* there are a, b: name it with --column wall=NAME"),
        ("read_bytes,cache_hit_pct\n1,2\n", "no column looks like the time"),
        ("wall_ms\n1\nnan\n", ":3: 'nan' in column 'wall_ms' is no amount"),
        ("wall_ms\n1\nx\n", ":3: 'x' in column 'wall_ms' is no number"),
        ("wall_ms\n1\n-1\n", ":3: '-1' in column 'wall_ms' is no amount"),
        ("wall_ms\n1\n0\n", "not above 0"),
        ("wall_ms,stall_ms\n1\n", ":2: has 1 values, the header 2"),
        ("wall_ms,wall_ms\n1,2\n", "stands twice"),
        ("phase,wall_ms\n7,2\n", ":2: '7' in column 'phase' is no phase"),
        ("phase,wall_ms\n0,2\n", "no row is decode"),
        ("tps\n0\n", "not above 0"),
        (CLOCK, "is a clock"),
    ],
)
def test_a_wrong_file_gives_one_clear_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=message) as caught:
        read_measured(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="cannot be read"):
        read_measured(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(TraceError, match="no text in UTF-8"):
        read_measured(tmp_path / "binary.csv")


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["wall"], "write ROLE=NAME"),
        (["wal=x"], "did you mean 'wall'"),
        (["wall=x:h"], "'h' is no unit of wall, use s,"),
        (["bytes=x:ms"], "'ms' is no unit of bytes"),
    ],
)
def test_a_wrong_mapping_gives_one_clear_line(pairs: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_mapping(pairs)


def test_a_mapping_to_a_column_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LrcsimError, match="has no column 'wall_s'; did you mean 'wall_ms'"):
        read_measured(write(tmp_path, "wall_ms\n1\n2\n"), parse_mapping(["wall=wall_s"]))
