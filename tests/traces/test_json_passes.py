"""A JSON list of forward passes with layers as keys, as the traces of arXiv 2510.05497 are written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trace_files import imported

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers import guess_format

PASSES = [
    {"0": None, "1": [[5, 2], [1, 3]], "10": [[0, 1], [2, 3]]},
    {"0": None, "1": [[4, 5]], "10": [[7, 6]]},
    {"0": None, "1": [[0, 5]], "10": [[3, 6]]},
]


def of(value: Any, tmp_path: Path, **options: Any) -> Any:
    (tmp_path / "t.json").write_text(json.dumps(value))
    return imported(tmp_path / "t.json", tmp_path, **options)


def test_the_case_solved_by_hand(tmp_path: Path) -> None:
    back, report = of(PASSES, tmp_path, num_experts=8)
    with back:
        assert (report.format, report.notices) == ("passes", [])
        assert back.experts.tolist() == [[[5, 2], [0, 1]], [[1, 3], [2, 3]], [[4, 5], [7, 6]], [[0, 5], [3, 6]]]
        assert back.layers.block.tolist() == [1, 10]
        assert back.phase.tolist() == [0, 0, 1, 1]


def test_the_first_pass_is_the_prompt_and_so_are_several_tokens(tmp_path: Path) -> None:
    short = [{"1": [[5, 2]]}, {"1": [[1, 2]]}, {"1": [[1, 2], [3, 4]]}]
    back, _ = of(short, tmp_path)
    with back:
        assert back.phase.tolist() == [0, 1, 0, 0]
    back, _ = of(short, tmp_path, phase="none")
    with back:
        assert back.phase is None


def test_a_folder_of_requests(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for name in ("q2.json", "q10.json"):
        (tmp_path / "many" / name).write_text(json.dumps(PASSES[: 2 + (name == "q2.json")]))
    back, report = imported(tmp_path / "many", tmp_path, num_experts=8)
    with back:
        assert (report.format, back.offsets.tolist()) == ("folder", [0, 4, 7])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([{"0": None}], "holds no layer with experts"),
        ([*PASSES, {"1": [[4, 5]]}], "pass 3 has not the same tokens in every layer"),
        ([{"1": [[1, 2]], "2": [[1, 2], [3, 4]]}], "pass 0 has not the same tokens"),
        ([{"1": [[1, 2]]}, {"1": [[1]]}], "different numbers of experts per token"),
        ([{"1": [[1, 2], [3]]}], "pass 0, layer 1 is no list of rows"),
        ([{"1": [[1, 2]]}, {"1": []}], "pass 1, layer 1 is no list of rows"),
        ([{"1": [[1, "2"]]}], "pass 0, layer 1 has what is no expert id"),
        ([{"1": [[1, 2]]}, 3], "pass 1 is no object of layers by number"),
        ([{"1": [[1, 2]], "x": [[1, 2]]}], "pass 0 is no object of layers by number"),
        ([{"1": [[2, 2]]}], "twice"),
    ],
)
def test_what_is_wrong(value: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=said):
        of(value, tmp_path)


def test_a_bare_nested_list_is_not_this(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps([[[5, 2], [1, 3]]]))
    assert guess_format(tmp_path / "t.json") == "table"
