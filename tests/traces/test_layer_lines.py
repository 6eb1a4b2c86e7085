"""Folders of one text file per layer, a line per request, as deepseek-ai/ESFT writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from trace_files import imported

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers import guess_format


def written(folder: Path, layers: dict[int, list[str]]) -> Path:
    folder.mkdir(exist_ok=True)
    for layer, lines in layers.items():
        (folder / f"expert_weights_{layer}.txt").write_text("".join(f"{line}\n" for line in lines))
    (folder / "summary.json").write_text("{}")
    return folder


GOOD = {
    1: ["3\t5\t0\t2\t\t0.1\t0.4\t0.3\t0.2", "1\t0\t\t0.5\t0.25"],
    10: ["0\t1\t2\t3\t\t0.2\t0.2\t0.1\t0.3", "7\t6\t\t0.1\t0.6"],
    2: ["4\t5\t6\t7\t\t0.9\t0.1\t0.1\t0.9", "1\t2\t\t1e-1\t0.2"],
}


def test_the_case_solved_by_hand(tmp_path: Path) -> None:
    """Two tokens, then one; layers 1, 2, 10; the experts of a token by weight, equal ones as they stand."""
    folder = written(tmp_path / "law", GOOD)
    assert guess_format(folder) == "lines"
    back, report = imported(folder, tmp_path, top_k=2)
    with back:
        assert (report.format, back.offsets.tolist(), back.num_experts, back.model) == ("lines", [0, 2, 3], 8, "law")
        assert back.layers.block.tolist() == [1, 2, 10]
        assert back.experts.tolist() == [
            [[5, 3], [4, 5], [0, 1]],
            [[0, 2], [7, 6], [3, 2]],
            [[1, 0], [2, 1], [6, 7]],
        ]
        assert back.weights is not None
        np.testing.assert_allclose(back.weights[1], [[0.3, 0.2], [0.9, 0.1], [0.3, 0.1]], rtol=1e-6)
    assert any("number of experts not given" in notice for notice in report.notices)
    assert any("nothing tells prefill from decode" in notice for notice in report.notices)


def test_what_the_user_says(tmp_path: Path) -> None:
    back, report = imported(written(tmp_path / "x", GOOD), tmp_path, top_k=2, num_experts=64, phase="prefill")
    with back:
        assert back.num_experts == 64
        assert back.phase is not None
        assert not back.phase.any()
    assert report.notices == []


@pytest.mark.parametrize(
    ("layers", "top_k", "said"),
    [
        (GOOD, None, "give --top-k"),
        (GOOD, 3, "which is not a multiple of top-k 3"),
        (GOOD | {2: GOOD[2][:1]}, 2, "expert_weights_2.txt: has 1 lines, other layers have more"),
        (GOOD | {2: ["1\t2\t\t0.1\t0.2", "1\t2\t\t0.1\t0.2"]}, 2, "expert_weights_2.txt: line 1 has 1 tokens"),
        (GOOD | {2: ["4\t5\t6\t7\t\t1\t1\t1", "1\t2\t\t0.1\t0.2"]}, 2, "line 1 has 4 ids and 3 weights"),
        (GOOD | {2: ["4\t5\t6\tx\t\t1\t1\t1\t1", "1\t2\t\t0.1\t0.2"]}, 2, "line 1 is not ids, two tabs, weights"),
        (GOOD | {2: ["4\t5\t6\t99999999\t\t1\t1\t1\t1", "1\t2\t\t1\t1"]}, 2, "out of all range"),
        (GOOD | {2: ["4\t4\t6\t7\t\t1\t1\t1\t1", "1\t2\t\t0.1\t0.2"]}, 2, "twice"),
    ],
)
def test_what_is_wrong(layers: dict[int, list[str]], top_k: int | None, said: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=said):
        imported(written(tmp_path / "x", layers), tmp_path, top_k=top_k)


def test_other_folders_of_text_are_not_this(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("a_1.txt", "a_2.txt"):
        (other / name).write_text("token,layer,expert\n0,0,1\n0,1,2\n")
    assert guess_format(other) == "folder"
    (other / "notes.txt").write_text("1\t2\t\t0.5\t0.5\n")
    assert guess_format(other) == "folder"


def test_a_layer_twice(tmp_path: Path) -> None:
    folder = written(tmp_path / "x", GOOD)
    (folder / "other_1.txt").write_text("1\t0\t\t0.5\t0.25\n")
    with pytest.raises(TraceError, match="layer 1 has two files"):
        imported(folder, tmp_path, top_k=2)
