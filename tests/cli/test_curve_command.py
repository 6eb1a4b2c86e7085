"""`lrcsim curve` as a user meets it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrcsim.traces import RoutingTrace


@pytest.fixture
def trace_file(tmp_path: Path) -> str:
    ids = np.random.default_rng(0).random((60, 3, 8)).argsort(axis=2)[:, :, :2]
    path = tmp_path / "t.h5"
    RoutingTrace.from_arrays(ids, num_experts=8, model="toy").save(path)
    return str(path)


def test_table_json_csv_and_plot(lrcsim: Callable[..., Any], trace_file: str, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"c.{kind}" for kind in ("json", "csv", "png")}
    outputs = ["--json", files["json"], "--csv", files["csv"], "--plot", files["png"]]
    done = lrcsim("curve", trace_file, "--policy", "lru,belady,fifo", *outputs)
    assert (done.code, done.err) == (0, "")
    assert [line.split()[0] for line in done.out.splitlines()[2:]] == ["policy", "lru", "belady", "fifo"]
    data = json.loads(files["json"].read_text())
    assert data["capacities"] == list(range(1, 9))
    assert data["relative"][1] == 1.0
    assert list(data["hit_rate"]) == ["lru", "belady", "fifo"]
    assert data["hit_rate"]["fifo"][4] is None  # replayed at some capacities only, 5 is none of them
    assert data["hit_rate"]["fifo"][7] == data["hit_rate"]["lru"][7]
    rows = list(csv.reader(files["csv"].read_text().splitlines()))
    assert rows[0] == ["trace", "capacity", "relative", "lru", "belady", "fifo"]
    assert float(rows[2][3]) == data["hit_rate"]["lru"][1]
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 4


def test_json_alone(lrcsim: Callable[..., Any], trace_file: str) -> None:
    done = lrcsim("curve", trace_file, "--json", "-")
    data = json.loads(done.out)
    assert set(data) >= {"capacities", "relative", "hit_rate"}
    assert data["engine"] == {"lru": "stack", "lfu": "stack", "belady": "stack"}
    assert all(knee in data["capacities"] for knee in data["knee"].values())


def test_several_traces_overlay(lrcsim: Callable[..., Any], trace_file: str, tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    RoutingTrace.from_arrays([[[0, 1]], [[1, 2]]], num_experts=4, model="other").save(other)
    outputs = ["--json", tmp_path / "c.json", "--csv", tmp_path / "c.csv", "--plot", tmp_path / "c.svg"]
    done = lrcsim("curve", trace_file, other, "--policy", "lru", *outputs)
    assert done.code == 0
    assert done.out.index("toy, scope") < done.out.index("other, scope")
    assert [one["trace"] for one in json.loads((tmp_path / "c.json").read_text())["traces"]] == ["toy", "other"]
    assert {row.split(",")[0] for row in (tmp_path / "c.csv").read_text().splitlines()} == {"trace", "toy", "other"}
    assert "<svg" in (tmp_path / "c.svg").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--policy", "lru,lfuu"], "did you mean 'lfu'"),
        (["--policy", ""], "--policy '' is an empty list: give values with commas between"),
        (["--scope", "modle"], "did you mean 'model'"),
        (["--access", "pape"], "did you mean 'paper'"),
        (["--plot", "c.jpg"], "name one of these"),
        (["--plot", "absent/c.png"], "cannot be written"),
        (["--csv", "absent/c.csv"], "cannot be written"),
    ],
)
def test_bad_input(refused: Callable[..., None], trace_file: str, arguments: list[str], message: str) -> None:
    refused(message, "curve", trace_file, *arguments)


def test_sizes_relative_to_the_active_experts(lrcsim: Callable[..., Any], trace_file: str) -> None:
    # two of eight experts are active: 1x is 2, 2x is 4, 75 % is 6
    relative = json.loads(lrcsim("curve", trace_file, "--cache", "1x,2x,75%", "--json", "-").out)
    absolute = json.loads(lrcsim("curve", trace_file, "--cache", "2,4,6", "--json", "-").out)
    assert relative["capacities"] == [2, 4, 6]
    assert relative["hit_rate"] == absolute["hit_rate"]


def test_a_relative_size_that_differs_by_layer_is_refused(lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    ids = np.random.default_rng(0).random((20, 2, 4)).argsort(axis=2)[:, :, :2]
    RoutingTrace.from_arrays(ids, num_experts=[4, 8]).save(tmp_path / "m.h5")
    done = lrcsim("curve", tmp_path / "m.h5", "--cache", "50%")
    assert done.code == 1
    assert "comes to 2 to 4 experts, by layer" in done.err
