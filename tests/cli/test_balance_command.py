"""`lrcsim balance` as a user meets it."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_traces import SIGNATURES, save, table

from lrcsim.simulator import balance
from lrcsim.traces import LayerTable, RoutingTrace


@pytest.fixture
def trace_file(tmp_path: Path) -> str:
    return save(tmp_path / "t.h5", domains=["law", "code"] * 3)


def test_table_json_csv_and_plot(lrcsim: Callable[..., Any], trace_file: str, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"s.{kind}" for kind in ("json", "csv", "png")}
    outputs = ["--json", files["json"], "--csv", files["csv"], "--plot", files["png"]]
    done = lrcsim("balance", trace_file, "-m", "4,16", "--bootstrap", "50", "--seed", "3", *outputs)
    assert (done.code, done.err) == (0, "")
    with RoutingTrace.open(trace_file) as trace:
        expected = [balance(trace, m, bootstrap=50, seed=3) for m in (4, 16)]
    rows = table(done.out)
    assert [row[0] for row in rows] == ["4", "16", "all"]
    for row, result in zip(rows, expected, strict=False):
        assert result.interval is not None
        low, high = result.interval
        numbers = (result.local_imbalance, result.above_global, result.local_cv, result.local_cv_random)
        assert [row[1], *row[3:6]] == [f"{value:.3f}" for value in numbers]
        assert row[2] == f"{low:.3f} to {high:.3f}"
        assert row[6] == str(result.windows)
    last = expected[-1]
    assert last.global_interval is not None
    low, high = last.global_interval
    numbers = (last.global_imbalance, last.global_cv, last.global_cv_random)
    assert [rows[2][1], *rows[2][3:]] == [f"{value:.3f}" for value in numbers]
    assert rows[2][2] == f"{low:.3f} to {high:.3f}"
    data = json.loads(files["json"].read_text())
    assert (data["kind"], data["level"], data["bootstrap"], data["confidence"]) == ("balance", "model", 50, 0.95)
    assert data["results"] == [result.to_dict("toy") | {"interval": list(result.interval or ())} for result in expected]
    cells = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert [float(row["local_imbalance"]) for row in cells] == [result.local_imbalance for result in expected]
    assert [float(row["global_cv"]) for row in cells] == [result.global_cv for result in expected]
    assert files["png"].read_bytes().startswith(SIGNATURES["png"])
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("level", ["stack", "layer", "domain"])
@pytest.mark.parametrize("picture", ["png", "svg"])
def test_levels(lrcsim: Callable[..., Any], trace_file: str, tmp_path: Path, level: Any, picture: str) -> None:
    files = {kind: tmp_path / f"s.{kind}" for kind in ("json", "csv", picture)}
    outputs = ["--json", files["json"], "--csv", files["csv"], "--plot", files[picture]]
    done = lrcsim("balance", trace_file, "-m", "4,16", "--by", level, "--bootstrap", 20, *outputs)
    assert (done.code, done.err) == (0, "")
    assert f"toy: imbalance by {level}" in done.out
    with RoutingTrace.open(trace_file) as trace:
        found = [balance(trace, m, level=level, bootstrap=20).groups for m in (4, 16)]
    (four, sixteen) = found
    assert four is not None
    assert sixteen is not None
    shown = done.out.split(f"by {level}")[1]
    cells = [line.split()[1:] for line in shown.splitlines() if re.search(r"\d\.\d{3}", line)]
    columns = (four.local_imbalance, sixteen.local_imbalance, four.global_imbalance)
    assert cells == [[f"{value:.3f}" for value in row] for row in zip(*columns, strict=True)]
    (first, _) = json.loads(files["json"].read_text())["results"]
    assert first["groups"]["local_imbalance"] == four.local_imbalance.tolist()
    rows = [row for row in csv.DictReader(files["csv"].read_text().splitlines()) if row["segment"] == "4"][1:]
    assert [float(row["above_global"]) for row in rows] == four.above_global.tolist()
    assert four.low is not None
    assert [float(row["low"]) for row in rows] == four.low.tolist()
    names = {"stack": ["decoder"], "layer": ["0", "1", "2"], "domain": ["law", "code"]}[level]
    assert [row[level] for row in rows] == names
    assert files[picture].read_bytes().startswith(SIGNATURES[picture])


def test_encoder_and_decoder_are_shown_apart(lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    layers = LayerTable.build(2, 2, 1, stack=[0, 1], stack_names=("encoder", "decoder"))
    ids = np.array([[0, -1], [0, -1], [-1, 1], [1, -1], [-1, 0]])[:, :, None]
    trace = RoutingTrace.from_arrays(ids, num_experts=2, layers=layers, stack=[0, 0, 1, 0, 1], model="t5")
    trace.save(tmp_path / "t.h5")
    done = lrcsim("balance", tmp_path / "t.h5", "-m", 2, "--by", "stack", "--plot", tmp_path / "t.png")
    assert (done.code, done.err) == (0, "")
    # Encoder: 0 0 and 0 1 share 1 and 0, chance 1/2, most 1: 0. Decoder: 1 0 shares nothing: (0 - 1/2) / (1 - 1/2).
    cells = [line.split() for line in done.out.splitlines()[-3:-1]]
    assert cells == [["encoder", "0.000", "–"], ["decoder", "-1.000", "–"]]  # one request: nothing global


def test_several_traces_stand_together(lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    one, two = save(tmp_path / "a.h5", model="one"), save(tmp_path / "b.h5", model="two", seed=1)
    for level in ("model", "layer"):
        plot = tmp_path / f"{level}.pdf"
        done = lrcsim("balance", one, two, "-m", "4", "--by", level, "--bootstrap", 0, "--plot", plot)
        assert (done.code, done.err) == (0, "")
        assert done.out.startswith("one, two: load balance of experts")
        assert [line.split()[:2] for line in done.out.splitlines() if re.match(r"(one|two)\s+(4|all)", line)] == [
            ["one", "4"], ["one", "all"], ["two", "4"], ["two", "all"],
        ]  # fmt: skip
        assert plot.read_bytes().startswith(SIGNATURES["pdf"])


def test_it_fits_80_columns_and_has_the_papers_lengths(
    lrcsim: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = lrcsim("balance", "--bootstrap", "20")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    assert [line.split()[0] for line in lines if re.match(r"(\d+|all) ", line)] == ["4", "16", "64", "256", "all"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "4,x"], "give numbers of tokens with commas between"),
        (["-m", "1"], "segment 1 is not allowed: balance compares tokens of a segment, it takes at least 2"),
        (["-m", "64"], "segment 64 is longer than every request, the longest has 40 tokens"),
        (["--by", "expert"], "level 'expert' is not known, use model, stack, layer, domain"),
        (["--confidence", "100"], "between 0 and 1"),
        (["--plot", "s.jpg"], "name one of these"),
        (["--plot", "absent/s.png"], "cannot be written"),
        (["--csv", "absent/s.csv"], "cannot be written"),
    ],
)
def test_bad_input(refused: Callable[..., None], trace_file: str, arguments: list[str], message: str) -> None:
    refused(message, "balance", trace_file, *arguments)
