"""`lrcsim srp` and `lrcsim sch` as a user meets them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_traces import SIGNATURES, save, table

from lrcsim.simulator import sch, srp
from lrcsim.traces import LayerTable, RoutingTrace


@pytest.fixture
def trace_file(tmp_path: Path) -> str:
    return save(
        tmp_path / "t.h5",
        domains=["law", "code"] * 3,
        token_ids=np.random.default_rng(0).integers(0, 5, 240),
    )


def test_srp_table_json_csv_and_plot(lrcsim: Callable[..., Any], trace_file: str, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"s.{kind}" for kind in ("json", "csv", "png")}
    outputs = ["--json", files["json"], "--csv", files["csv"], "--plot", files["png"]]
    done = lrcsim("srp", trace_file, "-m", "4,16", "--bootstrap", "50", "--seed", "3", *outputs)
    assert (done.code, done.err) == (0, "")
    with RoutingTrace.open(trace_file) as trace:
        expected = [srp(trace, m, bootstrap=50, seed=3) for m in (4, 16)]
    rows = table(done.out)
    assert [row[0] for row in rows] == ["4", "16"]
    for row, result in zip(rows, expected, strict=True):
        assert result.interval is not None
        low, high = result.interval
        assert row[1:4] == [f"{result.value:.3f}", f"{low:.3f} to {high:.3f}", "0.400"]
        assert row[4] == f"{result.tau} of {result.segment}"
    data = json.loads(files["json"].read_text())
    assert [row["value"] for row in data["results"]] == [result.value for result in expected]
    assert [tuple(row["interval"]) for row in data["results"]] == [result.interval for result in expected]
    cells = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert [float(row["value"]) for row in cells] == [result.value for result in expected]
    assert files["png"].read_bytes().startswith(SIGNATURES["png"])
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("level", ["stack", "layer", "domain", "expert", "position"])
@pytest.mark.parametrize("picture", ["png", "svg"])
def test_srp_levels(lrcsim: Callable[..., Any], trace_file: str, tmp_path: Path, level: Any, picture: str) -> None:
    files = {kind: tmp_path / f"s.{kind}" for kind in ("json", "csv", picture)}
    outputs = ["--json", files["json"], "--csv", files["csv"], "--plot", files[picture]]
    done = lrcsim("srp", trace_file, "-m", "4,16", "--by", level, "--bootstrap", 20, *outputs)
    assert (done.code, done.err) == (0, "")
    assert f"toy: SRP by {level}" in done.out
    with RoutingTrace.open(trace_file) as trace:
        groups = srp(trace, 4, level=level).groups
    assert groups is not None
    (first, _) = json.loads(files["json"].read_text())["results"]
    assert first["groups"]["value"] == groups.value.tolist()
    rows = [row for row in csv.DictReader(files["csv"].read_text().splitlines()) if row["segment"] == "4"]
    assert [float(row["value"]) for row in rows[1:]] == groups.value.ravel().tolist()
    assert files[picture].read_bytes().startswith(SIGNATURES[picture])


def test_encoder_and_decoder_are_shown_apart(lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    layers = LayerTable.build(2, 2, 1, stack=[0, 1], stack_names=("encoder", "decoder"))
    ids = np.array([[0, -1], [0, -1], [-1, 1], [1, -1], [-1, 0]])[:, :, None]
    trace = RoutingTrace.from_arrays(ids, num_experts=2, layers=layers, stack=[0, 0, 1, 0, 1], model="t5")
    trace.save(tmp_path / "t.h5")
    files = ["--json", tmp_path / "t.json", "--csv", tmp_path / "t.csv", "--plot", tmp_path / "t.png"]
    done = lrcsim("srp", tmp_path / "t.h5", "-m", 2, "--by", "stack", *files)
    assert (done.code, done.err) == (0, "")
    # Encoder: counts 2 0 1 1, keeping what is used: 2 * 4 / (6 + 4). Decoder: 1 1, 2 * 2 / (4 + 2).
    assert [line.split() for line in done.out.splitlines()[-3:-1]] == [["encoder", "0.800"], ["decoder", "0.667"]]
    (result,) = json.loads((tmp_path / "t.json").read_text())["results"]
    assert result["stacks"] == ["encoder", "decoder"]
    assert result["groups"]["value"] == [0.8, 2 / 3]
    rows = list(csv.DictReader((tmp_path / "t.csv").read_text().splitlines()))
    assert [row["stack"] for row in rows] == ["", "encoder", "decoder"]


def test_values_that_do_not_exist_are_null_and_empty(lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    ids = np.zeros((8, 1, 1), np.int64)  # expert 1 is never used
    RoutingTrace.from_arrays(ids, num_experts=2, model="toy").save(tmp_path / "t.h5")
    done = lrcsim("srp", tmp_path / "t.h5", "-m", 2, "--by", "expert", "--json", "-", "--csv", tmp_path / "t.csv")
    (result,) = json.loads(done.out)["results"]
    assert result["groups"]["value"] == [[1.0, None]]
    assert result["interval"] is None
    assert (tmp_path / "t.csv").read_text().splitlines()[3].startswith("toy,2,0,1,,,,0,,0.0,0.0,7")
    done = lrcsim("srp", tmp_path / "t.h5", "-m", 2, "--by", "expert", "--plot", tmp_path / "t.png")
    assert (done.code, done.err) == (0, "")


def test_several_traces_are_told_apart(lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    one, two = save(tmp_path / "a.h5", model="one"), save(tmp_path / "b.h5", model="two", seed=1)
    same = save(tmp_path / "c.h5", model="one", seed=2)
    (tmp_path / "d").mkdir()
    stem = save(tmp_path / "d" / "c.h5", model="one", seed=2)
    for files, labels in (
        ([one, two], ["one", "two"]),
        ([one, same], ["a", "c"]),
        ([same, stem], [same, stem]),
        ([one, one], [f"{one} (1)", f"{one} (2)"]),
    ):
        for command in ("srp", "sch"):
            done = lrcsim(command, *files, "-m", "4", "--json", "-", "--plot", tmp_path / "x.pdf")
            assert (done.code, done.err) == (0, "")
            assert list(dict.fromkeys(row["trace"] for row in json.loads(done.out)["results"])) == labels
    assert (tmp_path / "x.pdf").read_bytes().startswith(SIGNATURES["pdf"])


def test_the_papers_lengths_that_fit_are_the_default(lrcsim: Callable[..., Any], trace_file: str) -> None:
    for command, lengths in (("srp", [4, 16]), ("sch", [4, 16])):
        done = lrcsim(command, trace_file, "--json", "-", "--bootstrap", 0)
        assert list(dict.fromkeys(row["segment"] for row in json.loads(done.out)["results"])) == lengths


def test_specialisation(lrcsim: Callable[..., Any], trace_file: str, tmp_path: Path) -> None:
    done = lrcsim("srp", trace_file, "-m", "4", "--specialisation", "--json", tmp_path / "s.json")
    assert (done.code, done.err) == (0, "")
    assert "toy: experts, m = 4" in done.out
    found = json.loads((tmp_path / "s.json").read_text())["specialisation"]["toy"]
    assert list(found["mean"]) == ["activation", "domain", "vocabulary_in", "vocabulary_out"]
    assert found["missing"] == {
        "vocabulary_predicted": "the trace has no predicted token ids, vocabulary specialisation needs them"
    }
    assert found["mean"]["activation"] == pytest.approx(0.25)
    assert np.shape(found["experts"]["domain"]) == (3, 8)
    bare = save(tmp_path / "bare.h5")
    done = lrcsim("srp", bare, "-m", "4", "--specialisation")
    assert (done.code, done.err) == (0, "")
    assert "the trace has no token ids" in done.out
    assert "does not say which domain" in done.out


def test_sch_table_json_csv_and_plot(lrcsim: Callable[..., Any], trace_file: str, tmp_path: Path) -> None:
    files = {kind: tmp_path / f"s.{kind}" for kind in ("json", "csv", "png")}
    outputs = ["--json", files["json"], "--csv", files["csv"], "--plot", files["png"]]
    done = lrcsim("sch", trace_file, "-m", "4,16", "--cache", "1x,3", "--bootstrap", "30", "--by", "layer", *outputs)
    assert (done.code, done.err) == (0, "")
    with RoutingTrace.open(trace_file) as trace:
        expected = [sch(trace, m, cache, bootstrap=30) for m in (4, 16) for cache in ("1x", "3")]
    rows = table(done.out)[:4]
    assert [row[:3] for row in rows] == [["4", "1x", "2"], ["4", "3", "3"], ["16", "1x", "2"], ["16", "3", "3"]]
    assert [row[3] for row in rows] == [f"{result.value:.3f}" for result in expected]
    data = json.loads(files["json"].read_text())["results"]
    assert [row["value"] for row in data] == [result.value for result in expected]
    assert data[0]["hit_rate"] == expected[0].hit_rate.tolist()
    cells = list(csv.DictReader(files["csv"].read_text().splitlines()))
    said = [(row["definition"], row["scope"], row["segment"], row["cache"]) for row in cells if not row["layer"]]
    assert said == [("static", "layer", str(one.segment), one.cache) for one in expected]
    assert [float(row["slots"]) for row in cells if not row["layer"]] == [one.slots.mean() for one in expected]
    assert [float(row["value"]) for row in cells if not row["layer"]] == [result.value for result in expected]
    assert files["png"].read_bytes().startswith(SIGNATURES["png"])
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("definition", ["static", "lookahead"])
@pytest.mark.parametrize("scope", ["layer", "model"])
def test_sch_definitions_and_scopes(lrcsim: Callable[..., Any], trace_file: str, definition: Any, scope: Any) -> None:
    done = lrcsim("sch", trace_file, "-m", "4", "--definition", definition, "--scope", scope, "--json", "-")
    data = json.loads(done.out)
    assert (data["definition"], data["scope"]) == (definition, scope)
    with RoutingTrace.open(trace_file) as trace:
        expected = [sch(trace, 4, cache, definition=definition, scope=scope).value for cache in ("1x", "2x")]
    assert [row["value"] for row in data["results"]] == expected


def test_sch_says_how_to_ask_for_the_papers_current_figures(lrcsim: Callable[..., Any], trace_file: str) -> None:
    hint = "the paper's current figures (version 2) are --definition lookahead --scope model"
    current = ("--definition", "lookahead", "--scope", "model")
    for options, expected in (((), True), (current[:2], True), (current[2:], True), (current, False)):
        said = " ".join(lrcsim("sch", trace_file, "-m", 4, "--bootstrap", 0, *options).out.split())
        assert (hint in said) == expected, options
    assert "--definition lookahead --scope model" in " ".join(lrcsim("sch", "--help").out.split())


def test_sch_in_bytes(lrcsim: Callable[..., Any], trace_file: str) -> None:
    done = lrcsim("sch", trace_file, "-m", "4", "--cache", "9KiB", "--expert-bytes", "1KiB", "--json", "-")
    assert json.loads(done.out)["results"][0]["slots"] == [3, 3, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["srp", "-m", "4,x"], "give numbers of tokens with commas between"),
        (["srp", "-m", ""], "give numbers of tokens with commas between"),
        (["srp", "-m", "0"], "give numbers of tokens with commas between"),
        (["srp", "-m", "64"], "segment 64 is longer than every request, the longest has 40 tokens"),
        (["srp", "--by", "layers"], "did you mean 'layer'"),
        (["srp", "--confidence", "100"], "between 0 and 1"),
        (["srp", "--plot", "s.jpg"], "name one of these"),
        (["srp", "--plot", "absent/s.png"], "cannot be written"),
        (["srp", "--csv", "absent/s.csv"], "cannot be written"),
        (["sch", "-m", "64"], "segment 64 is longer than every request"),
        (["sch", "--cache", "1x,two"], "cache size 'two' is not understood"),
        (["sch", "--cache", "4GiB"], "give its size with --expert-bytes"),
        (["sch", "--expert-bytes", "much"], "--expert-bytes"),
        (["sch", "--cache", ""], "--cache '' is an empty list: give values with commas between"),
        (["sch", "--definition", "statik"], "did you mean 'static'"),
        (["sch", "--scope", "modle"], "did you mean 'model'"),
        (["sch", "--by", "layers"], "did you mean 'layer'"),
        (["sch", "--by", "layer", "--scope", "model"], "--by layer needs --scope layer"),
        (["sch", "--plot", "s.gif"], "name one of these"),
    ],
)
def test_bad_input(refused: Callable[..., None], trace_file: str, arguments: list[str], message: str) -> None:
    refused(message, arguments[0], trace_file, *arguments[1:])


def test_traces_that_cannot_serve(lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    short = save(tmp_path / "short.h5", tokens=6, offsets=[0, 3, 6])
    done = lrcsim("srp", short)
    assert done.code == 1
    assert "no request has 4 tokens, say how long a segment is: -m 3" in done.err
    done = lrcsim("srp", short, "-m", "2", "--by", "domain")
    assert done.code == 1
    assert "does not say which domain" in done.err
    assert lrcsim("srp", tmp_path / "absent.h5").code == 1
    assert lrcsim("srp", short, "--bootstrap", "-1").code == 2
