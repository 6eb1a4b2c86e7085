"""`lrcsim sweep` and `lrcsim results` as a user meets them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from lrcsim.traces import RoutingTrace

SPEC = """
[grid]
trace = "round.h5"
policy = ["lru", "belady", "slru"]
cache = [1, 2, 3]
"""


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    trace = RoutingTrace.from_arrays([[[e]] for e in (0, 1, 2, 0, 1, 2)], num_experts=3, expert_bytes=10)
    trace.save(tmp_path / "round.h5")
    (tmp_path / "s.toml").write_text(SPEC)
    return tmp_path / "s.toml"


@pytest.fixture
def table(lrcsim: Callable[..., Any], spec: Path) -> Path:
    assert lrcsim("sweep", spec, "--jobs", 1).code == 0
    return spec.with_suffix(".parquet")


def test_sweep(lrcsim: Callable[..., Any], spec: Path) -> None:
    table = spec.with_suffix(".parquet")
    code, out, err = lrcsim("sweep", spec, "--jobs", 1)
    assert (code, out, err) == (0, f"{table}: 9 rows; lrcsim results {table} shows them\n", "")
    code, out, _ = lrcsim("sweep", spec)
    assert (code, "9 rows, 9 were there already" in out) == (0, True)
    code, out, _ = lrcsim("sweep", spec, "-o", spec.parent / "other.parquet", "--jobs", 1, "--json", "-")
    assert json.loads(out) == {
        "kind": "sweep",
        "version": 1,
        "table": str(spec.parent / "other.parquet"),
        "runs": 9,
        "ran": 9,
        "failed": 0,
    }
    assert table.read_bytes() == (spec.parent / "other.parquet").read_bytes()


def test_a_sweep_says_where_a_rule_gives_up_more_than_a_third(lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    # No expert has less than a twentieth of a token's weight, and none has half of it.
    ids = [[[(token + rank) % 64 for rank in range(8)]] * 8 for token in range(64)]
    weights = [[[0.25, 0.25, *[0.5 / 6] * 6]] * 8] * 64
    RoutingTrace.from_arrays(ids, num_experts=64, weights=weights, model="lrcsim-toy-baseline").save(tmp_path / "t.h5")
    (tmp_path / "s.toml").write_text(
        '[grid]\ntrace = "t.h5"\ncache = 8\nhardware = "rtx-4090"\nmiss = ["load", "skip:0.05", "skip:0.5,keep=0"]\n'
    )
    code, out, _ = lrcsim("sweep", tmp_path / "s.toml", "--jobs", 1)
    note = "Note: 1 of 3 runs leave out or replace more than a third of the router weight"
    assert (code, note in out) == (0, True)
    rows = pq.read_table(tmp_path / "s.parquet").to_pylist()
    assert [row["skipped_weight"] > 1 / 3 for row in rows] == [False, False, True]
    assert [row["low_precision_weight"] for row in rows] == [0.0] * 3


def test_what_is_shown_as_best_says_how_little_of_the_model_it_runs(lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    # A prompt of 64 tokens in which every expert is the first of one token, so that all are loaded, then four tokens
    # that each lose 6 of their 8 experts, half of their weight: more than a third in decode, far less in all.
    prompt = [[[(token + rank) % 64 for rank in range(8)]] * 8 for token in range(64)]
    decoded = [[[(16 * token + rank) % 64 for rank in range(8)]] * 8 for token in (1, 2, 3, 1)]
    weights = [[[0.25, 0.25, *[0.5 / 6] * 6]] * 8] * 68
    RoutingTrace.from_arrays(
        prompt + decoded, num_experts=64, weights=weights, phase=[0] * 64 + [1] * 4, model="lrcsim-toy-baseline"
    ).save(tmp_path / "t.h5")
    (tmp_path / "s.toml").write_text(
        '[grid]\ntrace = "t.h5"\ncache = 8\nhardware = "rtx-4090"\nmiss = ["load", "skip:0.1"]\n'
    )
    code, out, _ = lrcsim("sweep", tmp_path / "s.toml", "--jobs", 1)
    assert (code, "Note: 1 of 2 runs leave out or replace more than a third" in out) == (0, True)
    rows = pq.read_table(tmp_path / "s.parquet").to_pylist()
    assert [row["skipped_weight"] > 1 / 3 for row in rows] == [False, False]
    assert [row["decode_skipped_weight"] > 1 / 3 for row in rows] == [False, True]
    told = "Note: 1 of 1 runs leave out or replace more than a third of the router weight"
    for question in (["--best", "decode_tokens_per_s"], ["--best", "decode_tokens_per_s", "--columns", "miss"]):
        code, out, _ = lrcsim("results", tmp_path / "s.parquet", *question)
        assert (code, told in " ".join(out.split())) == (0, True)
    code, out, _ = lrcsim("results", tmp_path / "s.parquet", "--pareto", "decode_tokens_per_s,gpu_bytes")
    assert (code, told in " ".join(out.split())) == (0, True)
    code, out, _ = lrcsim("results", tmp_path / "s.parquet", "--best", "hit_rate", "--where", "miss = 'load'")
    assert (code, "Note" in out) == (0, False)


def test_dry_run(lrcsim: Callable[..., Any], spec: Path) -> None:
    code, out, err = lrcsim("sweep", spec, "--dry-run", "--jobs", 2)
    assert (code, err) == (0, "")
    assert out.startswith("9 runs\n  3 shared passes give 9 of them, all their cache sizes at once\nabout ")
    assert "with 2 processes (3 tasks measured in" in out
    assert not spec.with_suffix(".parquet").exists()
    data = json.loads(lrcsim("sweep", spec, "--dry-run", "--json", "-").out)
    assert {name: data[name] for name in ("runs", "missing", "passes", "in_passes", "replays", "timed")} == {
        "runs": 9, "missing": 9, "passes": 3, "in_passes": 9, "replays": 0, "timed": 0,
    }  # fmt: skip
    lrcsim("sweep", spec, "--jobs", 1)
    assert "9 are in the table already" in lrcsim("sweep", spec, "--dry-run").out


def test_failing_runs_end_with_an_error(lrcsim: Callable[..., Any], spec: Path) -> None:
    spec.write_text(SPEC.replace('"slru"', '"mrs"'))
    code, out, err = lrcsim("sweep", spec, "--jobs", 1)
    assert (code, "9 rows" in out) == (1, True)
    assert err.startswith("Error: 3 of 9 runs failed (lrcsim results")
    assert err.endswith("the first with: policy mrs needs router weights, and this trace has none recorded\n")
    out = lrcsim("results", spec.with_suffix(".parquet"), "--where", "error is not null", "--json", "-").out
    assert [row["policy"] for row in json.loads(out)] == ["mrs"] * 3


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["none.toml"], 1, "Error: sweep none.toml cannot be read"),
        (["SPEC", "-o", "t.csv"], 1, "Error: a table is a Parquet file: name it t.parquet, given t.csv"),
        (["SPEC", "--jobs", "2", "--workers", "2"], 2, "give one of them"),
    ],
    ids=str,
)
def test_what_is_said_of_wrong_options(
    lrcsim: Callable[..., Any], spec: Path, options: list[str], code: int, said: str
) -> None:
    found = lrcsim("sweep", *[str(spec) if option == "SPEC" else option for option in options])
    assert (found.code, found.out) == (code, "")
    assert said in found.err


def test_results(lrcsim: Callable[..., Any], table: Path) -> None:
    code, out, err = lrcsim("results", table)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].startswith("in all: trace round.h5, model unknown, scope layer, access coresident")
    assert lines[2].split() == ["policy", "cache", "hit_rate", "belady_hit_rate"]
    assert lines[4].split() == ["lru", "2", "0.0", "%", "33.3", "%"]
    assert lrcsim("results", table, "--where", "policy = 'arc'").out == "no run fits\n"
    assert "... and 7 more rows" in lrcsim("results", table, "--limit", 2).out


def test_results_best_pareto_pivot(lrcsim: Callable[..., Any], table: Path) -> None:
    def rows(*options: str) -> Any:
        return json.loads(lrcsim("results", table, *options, "--json", "-").out)

    best = rows("--best", "hit_rate", "--per", "cache")
    assert [(row["policy"], row["cache"]) for row in best] == [("lru", "1"), ("belady", "2"), ("lru", "3")]
    front = rows("--where", "hits > 0", "--pareto", "hit_rate,cache_bytes", "--columns", "policy,cache,hits")
    said = {"kind": "results", "version": 1}
    assert front == [
        said | {"policy": "lru", "cache": "3", "hits": 3}, said | {"policy": "belady", "cache": "2", "hits": 2},
    ]  # fmt: skip
    assert rows("--where", "policy != 'slru'", "--pivot", "policy", "cache", "hits") == [
        said | {"policy": "lru", "1": 0, "2": 0, "3": 3}, said | {"policy": "belady", "1": 0, "2": 2, "3": 3},
    ]  # fmt: skip
    assert lrcsim("results", table, "--pivot", "policy", "cache", "hit_rate").out.splitlines()[2:4] == [
        "lru     0.0 %   0.0 %  50.0 %",
        "belady  0.0 %  33.3 %  50.0 %",
    ]


def test_results_files(lrcsim: Callable[..., Any], table: Path) -> None:
    folder = table.parent
    pivot = ["--pivot", "policy", "cache", "hit_rate", "--csv", folder / "p.csv", "--plot", folder / "p.png"]
    front = ["--pareto", "hit_rate,cache_bytes", "--csv", folder / "f.csv", "--plot", folder / "f.svg"]
    for options in (pivot, front):
        assert lrcsim("results", table, *options).code == 0
    with open(folder / "p.csv", newline="") as file:
        assert list(csv.reader(file))[:2] == [["policy", "1", "2", "3"], ["lru", "0.0", "0.0", "0.5"]]
    with open(folder / "f.csv", newline="") as file:
        assert next(csv.reader(file)) == pq.read_schema(table).names
    assert (folder / "p.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "f.svg").read_text()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--where", "polcy = 'lru'"], 1, "did you mean 'policy'?"),
        (["--columns", "polcy"], 1, "did you mean 'policy'?"),
        (["--per", "policy"], 2, "--per makes the groups of --best"),
        (["--plot", "p.png"], 2, "--plot draws a --pivot or a --pareto front"),
        (["--pareto", "hit_rate,cache_bytes", "--plot", "p.gif"], 1, "pictures are .png, .svg, .pdf"),
        (["--pivot", "cache", "scope", "hit_rate"], 1, "two of them differ in policy: choose with --where"),
    ],
    ids=str,
)
def test_what_is_said_of_wrong_questions(
    lrcsim: Callable[..., Any], table: Path, options: list[str], code: int, said: str
) -> None:
    found = lrcsim("results", table, *options)
    assert (found.code, found.out) == (code, "")
    assert said in " ".join(found.err.split())


def test_no_table(lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    assert (
        "there is no table none.parquet: lrcsim sweep SPEC -o none.parquet makes one"
        in lrcsim("results", "none.parquet").err
    )
    (tmp_path / "x.parquet").write_text("no")
    assert "is no Parquet table" in lrcsim("results", tmp_path / "x.parquet").err
