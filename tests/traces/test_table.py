"""Tables in every shape they come in."""

import gzip
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from trace_files import imported, make_trace

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.traces import RoutingTrace
from lrcsim.traces.exporters import export_trace
from lrcsim.traces.importers import Options, import_trace

Rows = list[dict[str, object]]


def long_rows(trace: RoutingTrace, *, layer_major: bool = False) -> Rows:
    """One row per expert; ``layer_major``: a prompt's rows stand layer after layer, as engines compute them."""
    rows: Rows = []
    assert trace.phase is not None
    assert trace.weights is not None
    for request in range(trace.num_requests):
        low, high = int(trace.offsets[request]), int(trace.offsets[request + 1])
        cells = [(token, layer) for token in range(low, high) for layer in range(trace.num_layers)]
        if layer_major:
            cells.sort(key=lambda cell: (trace.phase[cell[0]], cell[0] if trace.phase[cell[0]] else cell[1], cell[0]))
        for token, layer in cells:
            for rank, expert in enumerate(trace.experts[token, layer]):
                rows.append(
                    {
                        "request": request,
                        "phase": int(trace.phase[token]),
                        "token": token - low,
                        "layer": int(trace.layers.block[layer]),
                        "rank": rank,
                        "expert": int(expert),
                        "weight": float(trace.weights[token, layer, rank]),
                    }
                )
    return rows


def wide_rows(trace: RoutingTrace) -> Rows:
    grouped: dict[tuple[object, ...], dict[str, object]] = {}
    for row in long_rows(trace):
        key = (row["request"], row["phase"], row["token"], row["layer"])
        entry = grouped.setdefault(
            key, {name: row[name] for name in ("request", "phase", "token", "layer")} | {"experts": [], "weights": []}
        )
        entry["experts"].append(row["expert"])  # type: ignore[attr-defined]
        entry["weights"].append(row["weight"])  # type: ignore[attr-defined]
    return list(grouped.values())


def as_text(rows: Rows, delimiter: str = ",", header: str = "") -> str:
    lines = [delimiter.join(rows[0])]
    lines += [
        delimiter.join(f'"{v}"' if isinstance(v, str) and delimiter in v else str(v) for v in r.values()) for r in rows
    ]
    return header + "\n".join(lines) + "\n"


def write(path: Path, rows: Rows) -> Path:
    """Write rows as the ending of the name says."""
    kind = path.name.split(".")[1]
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=7)
        return path
    text = (
        "".join(json.dumps(row) + "\n" for row in rows)
        if kind == "jsonl"
        else as_text(rows, "\t" if kind == "tsv" else ",")
    )
    pack = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}.get(path.suffix, bytes)
    path.write_bytes(pack(text.encode()))
    return path


def assert_holds(back: RoutingTrace, trace: RoutingTrace) -> None:
    np.testing.assert_array_equal(back.experts, trace.experts)
    np.testing.assert_array_equal(back.offsets, trace.offsets)
    np.testing.assert_array_equal(back.layers.block, trace.layers.block)
    np.testing.assert_array_equal(back.phase, trace.phase)
    np.testing.assert_allclose(back.weights, trace.weights, rtol=1e-6)


@pytest.mark.parametrize("form", [long_rows, wide_rows])
@pytest.mark.parametrize(
    "name", ["t.csv", "t.tsv", "t.jsonl", "t.parquet", "t.csv.gz", "t.csv.zst", "t.tsv.gz", "t.jsonl.gz", "t.jsonl.zst"]
)
def test_every_container(form, name: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    trace = make_trace(5, tokens=20)
    rows = form(trace)
    if form is wide_rows and name.split(".")[1] in ("csv", "tsv"):
        rows = [r | {"experts": str(r["experts"]), "weights": str(r["weights"])} for r in rows]
    back, report = imported(write(tmp_path / name, rows), tmp_path)
    with back:
        assert_holds(back, trace)
    assert report.format == "table"
    assert report.requests == trace.num_requests


@pytest.mark.parametrize("show", ["{0} {1}", "{0};{1}", "[{0}, {1}]", "[{0} {1}]", "({0},{1})", "{0}|{1}"])
def test_lists_in_csv(show: str, tmp_path: Path) -> None:
    trace = make_trace(5)
    rows = [
        r | {"experts": show.format(*r["experts"]), "weights": show.format(*r["weights"])}  # type: ignore[misc]
        for r in wide_rows(trace)
    ]
    back, _ = imported(write(tmp_path / "t.csv", rows), tmp_path)
    with back:
        assert_holds(back, trace)


@given(seed=st.integers(0, 10**6), drop_rank=st.booleans(), layer_major=st.booleans(), blocks=st.booleans())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_row_orders(seed: int, drop_rank: bool, layer_major: bool, blocks: bool, tmp_path: Path) -> None:
    trace = make_trace(seed, tokens=15, ragged=blocks, top_k=2)
    rows = [row for row in long_rows(trace, layer_major=layer_major) if row["expert"] != -1]
    if drop_rank:
        rows = [{name: value for name, value in row.items() if name != "rank"} for row in rows]
    back, _ = imported(write(tmp_path / "t.csv", rows), tmp_path)
    with back:
        np.testing.assert_array_equal(back.experts, trace.experts)
        np.testing.assert_array_equal(back.layers.block, trace.layers.block)
        np.testing.assert_array_equal(back.layers.top_k, trace.layers.top_k)
        np.testing.assert_array_equal(back.phase, trace.phase)


def test_token_numbers_that_start_again_with_decode(tmp_path: Path) -> None:
    text = "request,phase,token,layer,expert\n" + "".join(
        f"r,{phase},{token},0,{expert}\n"
        for phase, token, expert in [("prefill", 0, 3), ("prefill", 1, 1), ("decode", 0, 2), ("decode", 1, 0)]
    )
    (tmp_path / "t.csv").write_text(text)
    back, _ = imported(tmp_path / "t.csv", tmp_path)
    with back:
        assert back.experts.ravel().tolist() == [3, 1, 2, 0]
        assert back.phase is not None
        assert back.phase.tolist() == [0, 0, 1, 1]


def test_prompts_between_generated_tokens_stay_in_order(tmp_path: Path) -> None:
    rows = [(0, 0), (0, 1), (1, 2), (0, 3), (1, 4)]
    text = "phase,token,layer,expert\n" + "".join(f"{phase},{token},0,{token}\n" for phase, token in rows)
    (tmp_path / "t.csv").write_text(text)
    back, _ = imported(tmp_path / "t.csv", tmp_path)
    with back:
        assert back.experts.ravel().tolist() == [0, 1, 2, 3, 4]
        assert back.phase is not None
        assert back.phase.tolist() == [0, 0, 1, 0, 1]


def test_column_mapping(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("conv;n;moe;which\na;0;4;1\na;0;6;0\nb;0;4;0\nb;0;6;1\n")
    mapping = {"request": "conv", "token": "n", "layer": "moe", "expert": "which"}
    back, _ = imported(tmp_path / "t.csv", tmp_path, columns=mapping)
    with back:
        assert back.num_requests == 2
        assert back.layers.block.tolist() == [4, 6]
        assert back.experts.ravel().tolist() == [1, 0, 0, 1]


def test_comment_header_gives_experts_model_and_bytes(tmp_path: Path) -> None:
    header = "# trace v1\n# model=/models/some-moe.gguf n_expert=16\n"
    header += "# layer=2 expert_bytes=100\n# layer=5 expert_bytes=300\n"
    (tmp_path / "t.csv").write_text(header + "token,layer,expert\n0,2,1\n0,5,3\n")
    back, report = imported(tmp_path / "t.csv", tmp_path, phase="none")
    with back:
        assert back.model == "some-moe.gguf"
        assert back.num_experts == 16
        assert back.expert_bytes is not None
        assert back.expert_bytes.tolist() == [100, 300]
    assert report.notices == []


def test_comment_header_gives_what_every_token_uses(tmp_path: Path) -> None:
    header = "# layer=2 expert_bytes=100 dense_bytes=7\n# layer=5 expert_bytes=300 dense_bytes=9\n"
    rows = "token,layer,expert\n0,2,1\n0,5,3\n"
    (tmp_path / "t.csv").write_text(header + rows)
    back, _ = imported(tmp_path / "t.csv", tmp_path, phase="none")
    with back:
        assert back.layers.dense_bytes is not None
        assert back.layers.dense_bytes.tolist() == [7, 9]
        assert back.layers.only(1).dense_bytes is not None
        assert back.layers.only(1).dense_bytes.tolist() == [9]  # type: ignore[union-attr]
        assert back.layers.with_expert_bytes(5).dense_bytes.tolist() == [7, 9]  # type: ignore[union-attr]
        export_trace(back, tmp_path / "out.npz")
    again, _ = imported(tmp_path / "out.npz", tmp_path)
    with again:
        assert again.layers.dense_bytes.tolist() == [7, 9]  # type: ignore[union-attr]
    # 0 is what an engine writes of a layer that it does not know
    (tmp_path / "some.csv").write_text(header.replace("dense_bytes=9", "dense_bytes=0") + rows)
    back, report = imported(tmp_path / "some.csv", tmp_path, phase="none")
    with back:
        assert back.layers.dense_bytes is None
    assert "dense bytes left out: they are given for 1 of 2 layers" in report.notices


@pytest.mark.parametrize(
    "text",
    [
        "token,layer,expert\n0,0,1\n# second token\n1,0,0\n",
        "token,layer,expert\n# first token\n0,0,1\n1,0,0\n",
        '\ufeff# header\r\n\r\ntoken, layer ,"expert"\r\n0,0,1\r\n1,0,0\r\n',
    ],
)
def test_comments_and_blanks(text: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(text.encode())
    back, _ = imported(tmp_path / "t.csv", tmp_path)
    with back:
        assert back.num_tokens == 2


def test_expert_bytes_and_residency_of_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "token,layer,slot,expert,residency,expert_bytes\n0,0,0,1,0,64\n0,1,0,0,0,32\n1,0,0,1,1,0\n1,1,0,2,2,0\n"
    )
    back, _ = imported(tmp_path / "t.csv", tmp_path)
    with back:
        assert back.expert_bytes is not None
        assert back.expert_bytes.tolist() == [64, 32]
        assert back.residency is not None
        assert back.residency.ravel().tolist() == [0, 0, 1, 2]


def test_ranks_from_one(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("token,layer,rank,expert\n0,0,2,1\n0,0,1,0\n")
    back, report = imported(tmp_path / "t.csv", tmp_path)
    with back:
        assert back.experts.tolist() == [[[0, 1]]]
    assert any("ranks count from 1" in notice for notice in report.notices)


def test_layers_missing_for_a_token_are_not_recorded(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("token,layer,expert\n0,0,1\n0,0,2\n1,0,1\n1,0,0\n1,1,3\n1,1,2\n")
    back, report = imported(tmp_path / "t.csv", tmp_path)
    with back:
        assert back.experts.tolist() == [[[1, 2], [-1, -1]], [[1, 0], [3, 2]]]
    assert report.unrecorded == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("token,layer,rank,expert\n0,0,0,1\n0,0,0,2\n", "rank 0 is given twice"),
        ("token,layer,expert\n0,0,1\n0,,1\n", "row 2 .* has no layer"),
        ("token,layer,expert\n0,0,1\n0,zero,1\n", "invalid value 'zero'"),
        ("token,layer,expert\n0,0,1\n0,0\n", "Expected 3 columns"),
        ("token,layer,expert\n0,0,99999\n", "expert 99999, allowed"),
        ("token,layer,expert\n0,-3,9\n", "layer -3, allowed"),
        ("token,layer,rank,expert\n0,0,4,9\n", "ranks must count from 0 or 1"),
        ("token,layer,expert\n0,0,-1\n", "every id is -1"),
        ("phase,token,layer,expert\nwarmup,0,0,1\n", "phase 'warmup'"),
        ("token,expert\n0,1\n", "no column is named like 'layer'"),
        ("token,layer,expert\n", "no rows"),
        ("token,layer,expert,expert_bytes\n0,0,1,5\n1,0,1,6\n", "experts of 5 and of 6 bytes"),
        ("token,layer,experts,weights\n0,0,1 2,0.5\n", "lists 2 experts and 1 values of weight"),
        ("token,layer,expert,weight\n0,0,1,nan\n", "router weight nan"),
        ("token,layer,expert,residency\n0,0,1,7\n", "residency"),
        ("token,layer,expert\n0,0,1\n0,0,1\n", "stands twice"),
        ("token,layer,expert,expert\n0,0,1,2\n", "2 columns named 'expert'"),
        ("# comment\ntoken,layer,expert\n0,0,1\n0,0,1.5\n", "Row #4"),
    ],
)
def test_bad_tables(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(TraceError, match=message):
        import_trace(tmp_path / "t.csv", tmp_path / "out.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_phase_of_its_own_excludes_the_option(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("phase,token,layer,expert\n0,0,0,1\n")
    with pytest.raises(ConfigError, match="phases of its own"):
        import_trace(tmp_path / "t.csv", tmp_path / "out.h5", options=Options(phase="decode"))


def test_truncated_gzip_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(as_text(long_rows(make_trace(3, tokens=400))).encode())
    (tmp_path / "t.csv.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TraceError):
        import_trace(tmp_path / "t.csv.gz", tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_progress_reaches_the_total(tmp_path: Path) -> None:
    source = write(tmp_path / "t.csv", long_rows(make_trace(3, tokens=50)))
    calls: list[tuple[int, int]] = []
    import_trace(source, tmp_path / "out.h5", progress=lambda done, total: calls.append((done, total)))
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]


def test_memory_is_bounded_by_a_request(tmp_path: Path) -> None:
    rows = [
        {k: v for k, v in row.items() if k != "request"} for row in long_rows(make_trace(3, tokens=500, requests=1))
    ]
    body = as_text(rows).split("\n", 1)[1]

    def peak(requests: int) -> int:
        with open(tmp_path / "t.csv", "w") as file:
            file.write("request," + ",".join(rows[0]) + "\n")
            for request in range(requests):
                file.writelines(f"{request},{line}\n" for line in body.splitlines())
        tracemalloc.start()
        try:
            import_trace(tmp_path / "t.csv", tmp_path / "out.h5")
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(1)  # imports
    assert peak(120) < 1.5 * peak(40)
