"""JSON with tokens and layers as keys, as GPT-OSS-MoE-ExpertFingerprinting writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trace_files import imported

from lrcsim.base.errors import TraceError
from lrcsim.traces.importers import guess_format


def layer(ids: list[int], weights: list[float]) -> dict[str, Any]:
    return {"selected_experts": ids, "selected_probs": weights}


RECORD = {
    "row_index": 3,
    "dataset": "gpqa_diamond",
    "generated_only": ["x", "y"],
    "router_data": [
        {"token_7": {"layer_0": layer([5, 2], [0.6, 0.4]), "layer_10": layer([1, 3], [0.7, 0.3])}},
        {"token_8": {"layer_0": layer([4, 5], [0.5, 0.5]), "layer_10": layer([2, 0], [0.8, 0.2])}},
    ],
}


def of(value: Any, tmp_path: Path, **options: Any) -> Any:
    (tmp_path / "t.json").write_text(json.dumps(value, indent=2))
    return imported(tmp_path / "t.json", tmp_path, **options)


def test_the_case_solved_by_hand(tmp_path: Path) -> None:
    back, report = of(RECORD, tmp_path, num_experts=32, phase="decode")
    with back:
        assert report.format == "by-name"
        assert back.experts.tolist() == [[[5, 2], [1, 3]], [[4, 5], [2, 0]]]
        assert back.layers.block.tolist() == [0, 10]
        assert back.domains == ["gpqa_diamond"]
        np.testing.assert_allclose(back.weights[0], [[0.6, 0.4], [0.7, 0.3]], rtol=1e-6)
        assert back.phase.tolist() == [1, 1]
    (note,) = report.notices
    assert "those before the first" in note


def test_a_folder_of_requests(tmp_path: Path) -> None:
    for number, name in enumerate(("r10.json", "r2.json")):
        (tmp_path / "many").mkdir(exist_ok=True)
        (tmp_path / "many" / name).write_text(json.dumps(RECORD | {"dataset": str(number)}))
    back, _ = imported(tmp_path / "many", tmp_path, num_experts=32)
    with back:
        assert back.domains == ["1", "0"]
        assert back.offsets.tolist() == [0, 2, 4]


@pytest.mark.parametrize(
    "value",
    [
        {"token_0": {"layer_0": [1, 2]}, "token_1": {"layer_0": [3, 0]}},
        [{"token_1": {"model.layers.0.mlp": [3, 0]}}, {"token_0": {"model.layers.0.mlp": [1, 2]}}],
        {"data": {"step 0": {"blk.0": {"topk_ids": [1, 2]}}, "step 1": {"blk.0": {"topk_ids": [3, 0]}}}},
    ],
)
def test_other_shapes_of_it(value: Any, tmp_path: Path) -> None:
    back, report = of(value, tmp_path)
    with back:
        assert report.format == "by-name"
        assert back.experts.tolist() == [[[1, 2]], [[3, 0]]]
        assert back.weights is None


def test_layers_that_a_token_does_not_have_are_not_recorded(tmp_path: Path) -> None:
    back, report = of({"token_0": {"layer_0": [1, 2]}, "token_1": {"layer_0": [3, 0], "layer_1": [1, 0]}}, tmp_path)
    with back:
        assert back.experts.tolist() == [[[1, 2], [-1, -1]], [[3, 0], [1, 0]]]
    assert report.unrecorded == 2


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"token_0": {"layer_0": [1]}, "token_2": {"layer_0": [1]}}, "token 1 is missing"),
        ([{"token_0": {"layer_0": [1]}}, {"token_0": {"layer_0": [1]}}], "comes twice: a file is one request"),
        ({"token_0": {"layer_0": [1], "text": "a"}}, "'text' that names no layer"),
        ({"token_0": {"layer_0": {"count": 4}}}, "without a list of expert ids"),
        ({"token_0": {"layer_0": [1.5]}}, "without a list of expert ids"),
        ({"token_0": {"layer_0": layer([1, 2], [0.5])}}, "2 experts and other weights"),
        ({"token_0": {"layer_0": []}}, "holds no expert at all"),
        ({"token_0": {"layer_0": [2, 2]}}, "twice"),
    ],
)
def test_what_is_wrong(value: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=said):
        of(value, tmp_path)


def test_counts_by_layer_are_not_this(tmp_path: Path) -> None:
    """What stands beside the recordings in that repository: statistics of experts."""
    (tmp_path / "s.json").write_text(
        json.dumps({"think_expert_analytics": {"layer_0": {"31": {"count_frequency": 1}}}})
    )
    assert guess_format(tmp_path / "s.json") != "by-name"
