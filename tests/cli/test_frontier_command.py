"""`lrcsim frontier`: what it prints and writes, and what it refuses."""

from __future__ import annotations

import csv
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "recorder"))

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers warn of their own affairs
HERE = all(importlib.util.find_spec(name) for name in ("torch", "transformers"))
TEXT = "A cache holds what was used; a router may prefer what it holds. " * 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not HERE:
        pytest.skip("torch and transformers are not installed (pip install '.[record]')")
    import tiny

    folder = tmp_path_factory.mktemp("model")
    tiny.save(folder)
    (folder / "text.txt").write_text(TEXT)
    return folder


def test_table_and_files(model: Path, tmp_path: Path, lrcsim: Callable[..., Any]) -> None:
    files = {ending: tmp_path / f"o.{ending}" for ending in ("json", "csv", "svg")}
    done = lrcsim(
        "frontier", model, "--prompts", model / "text.txt", "--sample-tokens", 64, "--cache", 3, "--rules",
        "prior:0.2,1;none", "--hardware", "rtx-4090", "--json", files["json"], "--csv", files["csv"], "--plot",
        files["svg"],
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "prior:0.2" in done.out
    assert "foretells the hits within" in done.out
    found = json.loads(files["json"].read_text())
    assert (found["kind"], found["version"]) == ("frontier", 1)
    assert [row["rule"] for row in found["rows"]] == ["none", "prior:0.2", "prior:1"]
    with files["csv"].open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["hit_rate"]) for row in rows] == [row["hit_rate"] for row in found["rows"]]
    assert float(rows[1]["loss_interval low"]) == found["rows"][1]["loss_interval"][0]
    assert {row["rule"] for row in rows if row["on_front"] == "True"} == set(found["front"])
    assert "loss with the rule" in files["svg"].read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["o.csv", "o.json", "o.svg"]


def test_json_alone(model: Path, tmp_path: Path, lrcsim: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = lrcsim(
        "frontier", model, "--prompts", model / "text.txt", "--sample-tokens", 64, "--limit", 1, "--rules", "skip:0.5",
        "--json", "-",
    )  # fmt: skip
    found = json.loads(done.out)
    assert found["rows"][1]["tokens_per_s"] is None
    assert found["rows"][1]["loss_interval"] is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--rules", "priors:0.1"), "did you mean 'prior'"),
        (("--rules", "none", "--plot", "o.txt"), "pictures are"),
        (("--rules", "none", "--timed-dtype", "q4_k_m"), "about time"),
        (("--rules", "none", "--policy", "belady"), "uses to come"),
        (("--rules", "none", "--csv", "absent/o.csv"), "cannot be written"),
    ],
)
def test_refused_in_one_line(model: Path, refused: Callable[..., None], arguments: tuple[str, ...], said: str) -> None:
    refused(said, "frontier", model, "--prompts", model / "text.txt", *arguments)
