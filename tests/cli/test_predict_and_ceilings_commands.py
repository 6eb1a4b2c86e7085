"""`lrcsim predict` and `lrcsim ceilings` as a user meets them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrcsim.prediction.predict import predict
from lrcsim.traces import RoutingTrace, check_file

TOY = "lrcsim-toy-baseline"


@pytest.fixture
def trace_file(tmp_path: Path) -> str:
    rng = np.random.default_rng(0)
    hidden = rng.integers(0, 6, 80)
    ids = (rng.normal(size=(6, 8, 64))[hidden] + 0.3 * rng.normal(size=(80, 8, 64))).argsort(axis=2)[:, :, :8]
    trace = RoutingTrace.from_arrays(
        ids, num_experts=64, offsets=range(0, 81, 10), token_ids=hidden, model=TOY, expert_bytes=196_608,
        phase=np.tile([0, 0, *[1] * 8], 8), predictions={1: ids},
    )  # fmt: skip
    trace.save(tmp_path / "t.h5")
    return str(tmp_path / "t.h5")


def test_predict_says_what_it_found(lrcsim: Callable[..., Any], trace_file: str, tmp_path: Path) -> None:
    outputs = ["--json", tmp_path / "p.json", "--csv", tmp_path / "p.csv", "-o", tmp_path / "held.h5"]
    done = lrcsim("predict", trace_file, "--seed", "3", "--top", "12", "--hardware", "rtx-3090", *outputs)
    assert (done.code, done.err) == (0, "")
    with RoutingTrace.open(trace_file) as trace:
        found = predict(trace, ["token", "experts"], top=12, seed=3)
        rows = found.rows(1000, 0.95, 3)
    told = json.loads((tmp_path / "p.json").read_text())
    assert (told["kind"], told["from"], told["ahead"]) == ("predict", ["token", "experts"], 1)
    assert told["held_out"] == {
        "by": "request", "fit_tokens": 60, "test_requests": 2, "test_tokens": 20, "counted_tokens": 16,
    }  # fmt: skip
    assert [{k: v for k, v in row.items() if k != "layer_recall"} for row in told["predictors"]] == rows
    assert [row["fetched"] for row in told["predictors"] if row["predictor"] == "learned"] == [8, 12]
    assert told["lead"]["hardware"] == "rtx-3090"
    assert told["lead"]["experts"] == pytest.approx(told["lead"]["seconds"] / told["lead"]["expert_s"])
    with (tmp_path / "p.csv").open(newline="") as file:
        assert [row["predictor"] for row in csv.DictReader(file)] == [row["predictor"] for row in rows]
    for row in rows:
        assert any(
            line.startswith(row["predictor"]) and f"{100 * row['recall']:.1f} %" in line
            for line in done.out.splitlines()
        )
    assert "fitted on 60 tokens, tested on 16 of 2 requests never seen" in done.out
    assert all(len(line.rstrip()) <= 80 for line in done.out.splitlines()[:13])
    assert check_file(tmp_path / "held.h5") == []
    with RoutingTrace.open(tmp_path / "held.h5") as held:
        assert held.num_requests == 2
        assert (held.column("predictions/1") == found.ids).all()
        assert held.provenance["part"]["requests"] == found.parts.requests.tolist()
        assert held.provenance["predictor"] == {"from": ["token", "experts"], "ahead": 1, "seed": 3, "hold_out": 0.25}
    replayed = lrcsim("run", tmp_path / "held.h5", "--hardware", "rtx-3090", "--prefetch", "next-gate", "--json", "-")
    assert json.loads(replayed.out)["prefetch"]["issued_bytes"] > 0


def test_a_lead_is_the_compute_of_the_layers_between(lrcsim: Callable[..., Any], trace_file: str) -> None:
    one, two = (
        json.loads(lrcsim("predict", trace_file, "--ahead", ahead, "--hardware", "rtx-3090", "--json", "-").out)["lead"]
        for ahead in (1, 2)
    )
    assert two["seconds"] == pytest.approx(2 * one["seconds"])
    run = json.loads(lrcsim("run", trace_file, "--hardware", "rtx-3090", "--json", "-").out)["time"]["all_resident"]
    # of other requests than those held out, which are as long: a token takes a little longer late in a request
    assert one["seconds"] * 8 == pytest.approx(1 / run["decode_tokens_per_s"], rel=1e-3)
    assert one["expert_s"] == pytest.approx(196_608 / 25.6e9, rel=0.1)


def test_one_request_says_that_it_is_divided_in_time(lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    ids = np.random.default_rng(0).random((40, 3, 8)).argsort(axis=2)[:, :, :2]
    RoutingTrace.from_arrays(ids, num_experts=8).save(tmp_path / "one.h5")
    done = lrcsim("predict", tmp_path / "one.h5")
    assert done.code == 0
    assert "learned from experts" in done.out
    assert "fitted on 30 tokens, tested on the last 10: one prompt, divided in time" in done.out


def test_ceilings_fit_a_terminal(lrcsim: Callable[..., Any], trace_file: str, tmp_path: Path) -> None:
    outputs = ["--json", tmp_path / "c.json", "--csv", tmp_path / "c.csv"]
    done = lrcsim("ceilings", trace_file, "--hardware", "rtx-3090", "--cache", "2x", *outputs)
    assert (done.code, done.err) == (0, "")
    told = json.loads((tmp_path / "c.json").read_text())
    names = [row["name"] for row in told["rows"]]
    assert names[0] == "no prefetching"
    assert names[-1] == "all hits"
    assert {"recorded predictions", "learned predictor", "perfect, 4 ahead", "optimum, bypass"} < set(names)
    assert told["held_out"]["test_requests"] == 2
    lines = done.out.splitlines()
    assert max(map(len, (line.rstrip() for line in lines))) <= 80
    for row in told["rows"]:
        (line,) = [line for line in lines if line.startswith(row["name"] + "*" * row["proven"] + " ")]
        assert f"{row['tokens_per_s']:,.1f}" in line
        assert row["bounds"] in line
    with (tmp_path / "c.csv").open(newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == names


def test_ceilings_without_learning_run_the_whole_trace(lrcsim: Callable[..., Any], trace_file: str) -> None:
    told = json.loads(lrcsim("ceilings", trace_file, "--from", "none", "--hardware", "rtx-3090", "--json", "-").out)
    assert (told["from"], told["held_out"]) == (None, None)
    assert "learned predictor" not in [row["name"] for row in told["rows"]]
    run = json.loads(lrcsim("run", trace_file, "--hardware", "rtx-3090", "--json", "-").out)
    assert told["rows"][0]["tokens_per_s"] == run["time"]["decode_tokens_per_s"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("ceilings", "t.h5"), "ceilings is about time: name a machine with it"),
        (
            ("ceilings", "t.h5", "--hardware", "rtx-3090", "--policy", "belady"),
            "use prefetch 'none'",
        ),
        (("predict", "t.h5", "--from", "logits"), "--from logits needs logits, which this trace does not have"),
        (("predict", "t.h5", "--hold-out", "2"), "hold-out 2 is not allowed"),
        (("predict", "t.h5", "--model", TOY), "--model is about time"),
    ],
)
def test_what_is_wrong_is_one_line(
    refused: Callable[..., None], trace_file: str, line: tuple[str, ...], message: str
) -> None:
    refused(message, *line)  # in the folder of its t.h5
