"""`lrcsim compare` as a user meets it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrcsim.cli.compare import FEW, _processes
from lrcsim.traces import RoutingTrace


@pytest.fixture
def trace_file(tmp_path: Path) -> str:
    ids = np.random.default_rng(0).random((60, 8, 64)).argsort(axis=2)[:, :, :8]
    path = tmp_path / "t.h5"
    RoutingTrace.from_arrays(ids, num_experts=64, expert_bytes=196608, model="lrcsim-toy-baseline").save(path)
    return str(path)


def test_table_sentence_json_csv_and_plot(lrcsim: Callable[..., Any], trace_file: str, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"c.{kind}" for kind in ("json", "csv", "png")}
    outputs = ["--json", files["json"], "--csv", files["csv"], "--plot", files["png"]]
    asked = ["--policy", "lru,lfu", "--cache", "2x,4x", "--prefetch", "none,popularity", "--hardware", "rtx-3090"]
    done = lrcsim("compare", trace_file, *asked, *outputs)
    assert (done.code, done.err) == (0, "")
    data = json.loads(files["json"].read_text())
    assert (data["kind"], data["by"]) == ("compare", "decode_tokens_per_s")
    assert data["compared"] == ["policy", "cache", "prefetch"]
    assert len(data["rows"]) == 8
    lines = done.out.splitlines()
    assert lines[2].split()[:4] == ["policy", "cache", "prefetch", "tokens/s"]
    for row, line in zip(data["rows"], lines[3:11], strict=True):
        assert line.split()[:4] == [row["policy"], row["cache"], row["prefetch"], f"{row['decode_tokens_per_s']:,.2f}"]
    assert " ".join(done.out.split()).count(" ".join(data["why"][0].split())) == 1
    taken = data["recommended"][0]
    assert data["why"][0].startswith(f"Take {taken['policy']} ")
    assert f"at cache {taken['cache']}: " in data["why"][0]
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert [float(row["hit_rate"]) for row in rows] == [row["hit_rate"] for row in data["rows"]]
    assert files["png"].read_bytes().startswith(b"\x89PNG")


def test_hits_alone_by_default(lrcsim: Callable[..., Any], trace_file: str) -> None:
    done = lrcsim("compare", trace_file, "--cache", "2x", "--json", "-")
    data = json.loads(done.out)
    assert (data["by"], data["compared"]) == ("hit_rate", ["policy"])
    rates = [row["hit_rate"] for row in data["rows"]]
    assert rates == sorted(rates, reverse=True)


def test_a_policy_of_ones_own_and_one_that_cannot_run(
    lrcsim: Callable[..., Any], trace_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("from lrcsim.policies.recency import Lru\n\n\nclass Mine(Lru):\n    name = 'mine'\n")
    done = lrcsim(
        *("compare", "t.h5", "--policy", "lru,mine.py:Mine,belady", "--cache", "2x"),
        *("--prefetch", "popularity", "--hardware", "rtx-3090"),
    )
    assert done.code == 0, done.err
    assert "mine.py:Mine" in done.out
    assert ": 2 of 3 runs, the best first" in done.out
    assert "Note: not run: belady: policy 'belady' knows the next uses" in " ".join(done.out.split())


def test_what_is_about_time_needs_a_machine(lrcsim: Callable[..., Any], trace_file: str) -> None:
    done = lrcsim("compare", trace_file, "--prefetch", "none,popularity")
    assert done.code == 1
    assert "--prefetch is about time: name a machine with it" in done.err


def test_where_nothing_runs_the_first_error_is_told(lrcsim: Callable[..., Any], trace_file: str) -> None:
    done = lrcsim("compare", trace_file, "--cache", "900", "--policy", "random", "--access", "papr")
    assert done.code == 1
    assert "access" in done.err


def test_processes_for_long_work_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bundled trace has 727,744 accesses: 41 runs of it are less than 30 million, 42 more."""
    monkeypatch.setattr("lrcsim.cli.compare.usable_cores", lambda: 7)
    assert _processes("nowhere.h5", FEW) == 1
    assert [_processes(None, tasks) for tasks in (9, 41, 42)] == [1, 1, 7]


def test_any_option_takes_a_list(lrcsim: Callable[..., Any], trace_file: str) -> None:
    """Two machines, two batches, no drafts and two acceptances: twelve runs, and six to take, the best first."""
    asked = ["--policy", "lru", "--cache", "2x", "--hardware", "rtx-3090,rtx-4090"]
    done = lrcsim("compare", trace_file, *asked, "--draft", "0,2", "--acceptance", "0.5;1,0,2", "--json", "-")
    assert (done.code, done.err) == (0, "")
    data = json.loads(done.out)
    assert data["compared"] == ["hardware", "speculative"]
    assert "hardware" not in data["config"]
    runs = [(row["hardware"], row["speculative"]) for row in data["rows"]]
    drafts = [None, "[2, 0.5]", "[2, [1, 0, 2]]"]
    assert sorted(map(str, runs)) == sorted(str((one, draft)) for one in ("rtx-3090", "rtx-4090") for draft in drafts)
    assert [(one["hardware"], one["speculative"]) for one in data["recommended"]] == runs
    best = {"[2, 0.5]": "2 at 0.5", "[2, [1, 0, 2]]": "2 at [1, 0, 2]"}[runs[0][1]]
    assert data["why"][0].startswith(f"Take lru at cache 2x, hardware {runs[0][0]}, draft {best}: ")
    other = next(one for one in data["why"] if "draft none" in one)
    assert other.startswith("At cache 2x, hardware rtx-")


def test_sizes_per_layer_have_semicolons_between(lrcsim: Callable[..., Any], trace_file: str) -> None:
    done = lrcsim("compare", trace_file, "--policy", "lru", "--cache", "8,8,8,8,16,16,16,16;2x", "--json", "-")
    assert sorted(row["cache"] for row in json.loads(done.out)["rows"]) == ["2x", "8,8,8,8,16,16,16,16"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (["--policy", ","], "--policy ',' is an empty list: give values with commas between"),
        (
            ["--batch", "1,two"],
            "--batch 'two' is no whole number: give whole numbers with commas between, as --batch 1,4",
        ),
        (["--acceptance", "0.5"], "--acceptance is that of drafts: say how many with it, as --draft 3"),
        (["--dram", "1GiB,2GiB"], "--dram is about time: name a machine with it"),
    ],
)
def test_lists_that_cannot_be_are_refused(
    refused: Callable[..., None], trace_file: str, asked: list[str], said: str
) -> None:
    refused(said, "compare", trace_file, *asked)
