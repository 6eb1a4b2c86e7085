"""`lrcsim trace`, as a user runs it."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
from trace_files import assert_same, make_trace

from lrcsim.simulator.metrics.trace_report import report_on
from lrcsim.traces import RoutingTrace
from lrcsim.traces.exporters import FORMATS as EXPORTS
from lrcsim.traces.exporters import export_trace
from lrcsim.traces.importers import FORMATS as IMPORTS


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """What `trace info` runs is compiled before, which it would say on standard error."""
    report_on(make_trace(0, weights=False))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    make_trace(5, tokens=30, residency=True, token_ids=True, ragged=True, missing=0.1).save(tmp_path / "t.h5")
    return tmp_path / "t.h5"


def test_info_for_people(lrcsim, path: Path) -> None:  # type: ignore[no-untyped-def]
    outcome = lrcsim("trace", "info", path)
    assert (outcome.code, outcome.err) == (0, "")
    lines = {line.split("  ")[0].strip(): line for line in outcome.out.splitlines()}
    assert "made-up" in lines["model"]
    assert "30 (" in lines["tokens"]
    assert "3 in 3 domains: a b, c, code, maths" in lines["requests"]
    assert "3 layers x 7 experts, top-2, not the same in all" in lines["shape"]
    assert "hits of the engine's cache" in lines
    assert "seed" in lines


def test_info_of_names_that_look_like_markup(lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    trace = make_trace(5)
    trace.model, trace.provenance = "[/bold]", {"[red]": "[/x]"}
    trace.save(tmp_path / "[bold].h5")
    outcome = lrcsim("trace", "info", tmp_path / "[bold].h5")
    assert (outcome.code, outcome.err) == (0, "")
    assert all(text in outcome.out for text in ("[/bold]", "[red]", "[/x]", "[bold].h5"))


def test_info_as_json(lrcsim, path: Path) -> None:  # type: ignore[no-untyped-def]
    facts = json.loads(lrcsim("trace", "info", path, "--json", "-").out)
    with RoutingTrace.open(path) as trace:
        assert trace.phase is not None
        assert trace.residency is not None
        assert facts["tokens"] == trace.num_tokens
        assert facts["decode_tokens"] == trace.phase.sum() == facts["tokens"] - facts["prefill_tokens"]
        assert facts["unrecorded"] == trace.count_unrecorded() > 0
        known = trace.residency[(trace.phase == 1)][trace.experts[trace.phase == 1] >= 0]
        assert facts["recorded_hit_rate"] == pytest.approx(((known == 1) | (known == 2)).mean())
        assert facts["num_experts"] == trace.layers.num_experts.tolist()
        assert trace.expert_bytes is not None
        assert facts["all_experts_bytes"] == (trace.expert_bytes * trace.layers.num_experts).sum()
    quick = json.loads(lrcsim("trace", "info", path, "--quick", "--json", "-").out)
    assert quick["unrecorded"] is None
    assert quick["tokens"] == facts["tokens"]


def test_info_json_to_a_file_keeps_the_table(lrcsim, path: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    outcome = lrcsim("trace", "info", path, "--json", tmp_path / "info.json")
    assert "made-up" in outcome.out
    assert json.loads((tmp_path / "info.json").read_text())["model"] == "made-up"


def test_info_of_the_routing(lrcsim, path: Path) -> None:  # type: ignore[no-untyped-def]
    outcome = lrcsim("trace", "info", path)
    lines = {line.split("  ")[0].strip(): line.split() for line in outcome.out.splitlines()}
    for name in ("1 request, a token each", "4 tokens in a row", "a request", "the trace", "reuse", "same prompts"):
        assert name in lines
    facts = json.loads(lrcsim("trace", "info", path, "--json", "-").out)
    one = facts["routing"]["batches"][0]
    assert f"{one['mean']:.1f}" in lines["1 request, a token each"]
    assert facts["routing"]["warnings"] == []
    for less in ("--no-routing", "--quick"):
        assert json.loads(lrcsim("trace", "info", path, less, "--json", "-").out)["routing"] is None
        assert "tokens in a row" not in lrcsim("trace", "info", path, less).out
    assert lrcsim("trace", "info", path, "--quick", "--routing").code == 1


def test_info_of_a_large_trace_looks_at_the_routing_when_asked(lrcsim, path: Path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr("lrcsim.cli.trace_routing.MOST_IDS", 10)
    outcome = lrcsim("trace", "info", path)
    assert "--routing does" in outcome.out
    assert "tokens in a row" not in outcome.out
    assert "tokens in a row" in lrcsim("trace", "info", path, "--routing").out


def test_info_warns_of_prompts_that_come_twice(lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    ids = np.random.default_rng(0).random((8, 2, 8)).argsort(axis=2)[:, :, :2]
    twice = RoutingTrace.from_arrays(np.concatenate([ids, ids]), num_experts=8, offsets=[0, 8, 16])
    twice.save(tmp_path / "t.h5")
    assert "Warning: 1 of 2 requests are the same as an earlier one" in lrcsim("trace", "info", tmp_path / "t.h5").out


def test_check_of_a_good_trace(lrcsim, path: Path) -> None:  # type: ignore[no-untyped-def]
    outcome = lrcsim("trace", "check", path)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out == f"{path}: good, 30 tokens in 3 requests\n"
    report = json.loads(lrcsim("trace", "check", path, "--json", "-").out)
    said = {"kind": "trace-check", "version": 1}
    assert report == said | {"trace": str(path), "good": True, "problems": [], "warnings": []}


def test_check_of_a_bad_trace(lrcsim, path: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with RoutingTrace.open(path) as good:
        path = tmp_path / "first_version.h5"
        good.save(path, version=1)
    with h5py.File(path, "r+") as file:
        file["routing/experts"][4, 1, 0] = 500
        file["tokens/phase"][9] = 3
    outcome = lrcsim("trace", "check", path)
    assert outcome.code == 1
    assert len(outcome.err.splitlines()) == 1
    assert "2 kinds of problem" in outcome.err
    assert "token 4, layer 1: expert id 500" in outcome.out
    assert "token 9: phase 3" in outcome.out
    outcome = lrcsim("trace", "check", path, "--json", "-")
    assert outcome.code == 1
    assert [problem["where"] for problem in json.loads(outcome.out)["problems"]] == ["token 4, layer 1", "token 9"]


def test_export_and_import(lrcsim, path: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for name in ("out.npz", "out.csv", "out.csv.gz"):
        outcome = lrcsim("trace", "export", path, "-o", tmp_path / name)
        assert outcome.code == 0, outcome.err
        outcome = lrcsim("trace", "import", tmp_path / name, "-o", tmp_path / "back.h5")
        assert (outcome.code, outcome.err) == (0, "")
        assert "expert positions not recorded (-1)" in outcome.out
        with RoutingTrace.open(path) as trace, RoutingTrace.open(tmp_path / "back.h5") as back:
            assert_same(back, trace, but=("num_shared",))


def test_export_of_accesses(lrcsim, path: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    outcome = lrcsim("trace", "export", path, "-o", tmp_path / "t.oracleGeneral", "--layer", 2, "--prefill", "token")
    assert outcome.code == 0
    report = json.loads(
        lrcsim("trace", "export", path, "-o", tmp_path / "x", "--format", "oracleGeneral", "--json", "-").out
    )
    assert report["format"] == "oracleGeneral"
    assert report["bytes"] == (tmp_path / "x").stat().st_size


def test_import_reports_and_notes(lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "t.csv").write_text("conv,token,layer,expert\n0,0,0,1\n0,1,0,2\n")
    arguments = ("trace", "import", tmp_path / "t.csv", "-o", tmp_path / "t.h5", "--columns", "request=conv")
    outcome = lrcsim(*arguments)
    assert outcome.code == 0
    assert outcome.err.startswith("Note: number of experts not given")
    report = json.loads(lrcsim(*arguments, "--json", "-").out)
    assert (report["format"], report["tokens"], report["requests"]) == ("table", 2, 1)
    outcome = lrcsim(*arguments, "--num-experts", 8, "--model", "tiny", "--phase", "decode", "--expert-bytes", 100)
    assert (outcome.code, outcome.err) == (0, "")
    with RoutingTrace.open(tmp_path / "t.h5") as trace:
        assert (trace.num_experts, trace.model) == (8, "tiny")


def test_import_says_the_shape_and_what_ran(lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    rows = "".join(f"{token},{layer},{token % 4},{4 + layer},5\n" for token in range(3, 8) for layer in range(2))
    (tmp_path / "t.csv").write_text("token,layer,e0,e1,prompt_len\n" + rows)
    arguments = ("trace", "import", tmp_path / "t.csv", "-o", tmp_path / "t.h5", "--num-experts", 64)
    outcome = lrcsim(*arguments)
    assert outcome.code == 0
    assert "8 tokens in 1 request from table: 2 layers x 64 experts, top-2; 2 prefill, 3 decode tokens" in outcome.out
    assert "3 tokens without routing (not run or not recorded, -1)" in outcome.out
    report = json.loads(lrcsim(*arguments, "--json", "-").out)
    assert [report[name] for name in ("layers", "num_experts", "top_k", "prefill", "decode", "not_run")] == [
        2,
        64,
        2,
        2,
        3,
        3,
    ]


def test_a_bad_import_leaves_the_earlier_trace(lrcsim, path: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    before = path.read_bytes()
    (tmp_path / "t.csv").write_text("token,layer,expert\n0,0,1\n1,0,1\n1,0,1\n")
    outcome = lrcsim("trace", "import", tmp_path / "t.csv", "-o", path)
    assert outcome.code == 1
    assert path.read_bytes() == before


def test_help_names_every_format(lrcsim) -> None:  # type: ignore[no-untyped-def]
    for name in IMPORTS:
        assert name in lrcsim("trace", "import", "--help").out
    for name in EXPORTS:
        assert name in lrcsim("trace", "export", "--help").out


def test_one_progress_call_reaches_the_end_of_an_export(tmp_path: Path) -> None:
    for name in ("t.npz", "t.csv", "t.oracleGeneral"):
        calls: list[tuple[int, int]] = []
        export_trace(make_trace(3), tmp_path / name, progress=lambda *call: calls.append(call))  # noqa: B023
        assert calls[-1][0] == calls[-1][1]
        assert all(np.diff([done for done, _ in calls]) >= 0)


def test_info_counts_tokens_without_routing(lrcsim, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    experts = np.array([[[-1, -1]], [[0, -1]], [[1, 0]], [[0, 1]]])
    path = tmp_path / "holes.h5"
    RoutingTrace.from_arrays(experts, num_experts=2, phase=np.array([0, 0, 1, 1], np.uint8)).save(path)
    assert "4 (2 prefill, 2 decode), 1 of them without routing" in lrcsim("trace", "info", path).out
    facts = json.loads(lrcsim("trace", "info", path, "--json", "-").out)
    assert (facts["tokens_without_routing"], facts["unrecorded"]) == (1, 3)
