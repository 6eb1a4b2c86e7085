"""`lrcsim trace import --model`: what a known model says of a file that does not say it itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lrcsim.traces import RoutingTrace

ROWS = "token,layer,experts\n0,0,3 100\n0,1,7 90\n1,0,4 5\n1,1,0 1\n"
"""Two tokens, two layers, two experts each; the largest id is 100."""


@pytest.mark.parametrize(
    ("given", "experts", "said"),
    [
        ((), 101, "number of experts not given, taken as the largest id + 1 = 101"),
        (("--model", "Qwen/Qwen3-30B-A3B"), 128, "number of experts not given, taken as the 128 of qwen3-30b-a3b"),
        (("--model", "my own"), 101, "taken as the largest id + 1 = 101"),
        (("--model", "mixtral-8x7b"), 101, "mixtral-8x7b has 8 experts, and id 100 is in the file: not of that model"),
        (("--model", "qwen3-30b-a3b", "--num-experts", "256"), 256, ""),
    ],
)
def test_experts_of_a_known_model(
    lrcsim: Callable[..., Any], tmp_path: Path, given: tuple[str, ...], experts: int, said: str
) -> None:
    (tmp_path / "r.csv").write_text(ROWS)
    out = tmp_path / "t.h5"
    result = lrcsim(
        "trace", "import", str(tmp_path / "r.csv"), "-o", str(out), "--phase", "none", *given, "--json", "-"
    )
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert report["num_experts"] == experts
    assert any(said in notice for notice in report["notices"]) if said else report["notices"] == []
    with RoutingTrace.open(out) as trace:
        assert (trace.num_experts, trace.top_k) == (experts, 2)
        assert trace.model == (given[1] if given else "r")


def test_what_the_file_says_comes_before_the_model(lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text(f"# num_experts=112\n{ROWS}")
    given = ("-o", str(tmp_path / "t.h5"), "--model", "qwen3-30b-a3b", "--json", "-")
    assert json.loads(lrcsim("trace", "import", str(tmp_path / "r.csv"), *given).out)["num_experts"] == 112


def test_experts_per_token_of_a_known_model(lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    """Lines of ids do not say where a token ends: 16 are two tokens of the 8 of Qwen3."""
    folder = tmp_path / "lines"
    folder.mkdir()
    ids = "\t".join(map(str, range(16)))
    weights = "\t".join(["0.125"] * 16)
    for layer in (1, 2):
        (folder / f"expert_weights_{layer}.txt").write_text(f"{ids}\t\t{weights}\n")
    given = ("trace", "import", str(folder), "-o", str(tmp_path / "t.h5"), "--json", "-")
    assert "give --top-k" in lrcsim(*given).err
    result = lrcsim(*given, "--model", "qwen3-30b-a3b")
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert (report["tokens"], report["top_k"], report["num_experts"]) == (2, 8, 128)
    assert any(n.startswith("experts per token not given, taken as the 8 of qwen3-30b-a3b") for n in report["notices"])


def test_a_folder_of_files_says_it_once(lrcsim: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for name in ("a.csv", "b.csv"):
        (folder / name).write_text(ROWS)
    given = ("trace", "import", str(folder), "-o", str(tmp_path / "t.h5"), "--model", "qwen3-30b-a3b", "--json", "-")
    result = lrcsim(*given)
    assert result.code == 0, result.err
    report = json.loads(result.out)
    assert (report["num_experts"], report["requests"]) == (128, 2)
    assert sum(notice.startswith("number of experts") for notice in report["notices"]) == 1
