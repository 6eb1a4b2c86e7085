"""Bytes of each expert in a trace: what a table takes, and what files keep of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from lrcsim.base.errors import TraceError
from lrcsim.traces import LayerTable, RoutingTrace, check_file

IDS = [[[0, 1], [1, 0]], [[2, 0], [0, 1]]]
"""[tokens][layers][k] of layers of 3 and 2 experts."""

SIZES = [[4, 2, 1], [3, 5, 0]]


def trace(sizes: Any = SIZES) -> RoutingTrace:
    return RoutingTrace.from_arrays(IDS, num_experts=[3, 2], expert_bytes=sizes)


def test_a_table_of_sizes_by_expert() -> None:
    layers = trace([[4, 2, 1], [3, 5, 77]]).layers  # nobody looks at the third of two
    assert layers.sized_by_expert
    assert layers.expert_bytes is not None
    assert layers.expert_bytes.tolist() == SIZES
    tables = (layers.key_bytes, layers.layer_bytes, layers.mean_bytes)
    assert [None if one is None else one.tolist() for one in tables] == [[4, 2, 1, 3, 5, 0], [7, 8], [7 / 3, 4]]
    second = layers.only(1)  # of two experts, so of two sizes
    assert second.expert_bytes is not None
    assert second.expert_bytes.tolist() == [[3, 5]]
    assert layers.at([1, 0]).key_bytes.tolist() == [3, 5, 0, 4, 2, 1]  # type: ignore[union-attr]


def test_sizes_that_do_not_differ_are_by_layer() -> None:
    layers = trace([[4, 4, 4], [3, 3, 1]]).layers
    assert not layers.sized_by_expert
    assert layers.expert_bytes is not None
    assert layers.expert_bytes.tolist() == [4, 3]
    tables = (layers.key_bytes, layers.layer_bytes, layers.mean_bytes)
    assert [None if one is None else one.tolist() for one in tables] == [[4, 4, 4, 3, 3, 0], [12, 6], [4.0, 3.0]]
    only = trace().layers.with_expert_bytes([[1, 2, 2], [5, 5, 0]]).only(1)
    assert only.expert_bytes is not None
    assert only.expert_bytes.tolist() == [5]
    unknown = LayerTable.build(2, 3, 1)
    assert (unknown.key_bytes, unknown.layer_bytes, unknown.mean_bytes, unknown.sized_by_expert) == (None,) * 3 + (
        False,
    )


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ([[4, 2], [3, 5]], r"\[2, 3\] \(one per layer and expert\), given"),
        ([[4, 2, 1]], r"\[2, 3\]"),
        ([[4, 2, 1], [3, 5]], r"\[2, 3\]"),
        ([[[4, 2, 1], [3, 5, 1]]], r"\[2, 3\]"),
        ([[4, 2, 1.5], [3, 5, 1]], r"\[2, 3\]"),
        ([[4, 2, 1], [3, 0, 1]], "for every expert, given 0 for layer 1, expert 1"),
        ([[4, -2, 1], [3, 5, 1]], "given -2 for layer 0, expert 1"),
        ([[4, 2, 1 << 41], [3, 5, 1]], "for layer 0, expert 2"),
        ([4, 2, 1], "expert_bytes must be one integer or a list of 2"),
    ],
)
def test_what_is_refused(sizes: Any, says: str) -> None:
    with pytest.raises(TraceError, match=says):
        trace(sizes)


def test_files_and_back(tmp_path: Path, lrcsim: Any) -> None:
    path = tmp_path / "t.h5"
    trace().save(path)
    assert check_file(path) == []
    with RoutingTrace.open(path) as back:
        assert back.expert_bytes is not None
        assert back.expert_bytes.tolist() == SIZES
    shown = lrcsim("trace", "info", path)
    assert "1 B to 5 B, by expert" in shown.out
    assert "15 B" in shown.out
    assert lrcsim("trace", "export", path, "-o", tmp_path / "t.npz").code == 0
    assert lrcsim("trace", "import", tmp_path / "t.npz", "-o", tmp_path / "u.h5").code == 0
    with RoutingTrace.open(tmp_path / "u.h5") as back:
        assert back.expert_bytes is not None
        assert back.expert_bytes.tolist() == SIZES
    refused = lrcsim("trace", "export", path, "-o", tmp_path / "t.csv")
    assert (refused.code, "experts of a layer differ in bytes, and CSV has one size per layer" in refused.err) == (
        1,
        True,
    )
    assert not (tmp_path / "t.csv").exists()


def test_sizes_say_how_many_experts_an_archive_has(tmp_path: Path, lrcsim: Any) -> None:
    np.savez(tmp_path / "t.npz", experts=np.array([[[0]], [[1]]]), expert_bytes=np.array([[4, 2, 1]]))
    assert lrcsim("trace", "import", tmp_path / "t.npz", "-o", tmp_path / "t.h5").code == 0
    with RoutingTrace.open(tmp_path / "t.h5") as back:
        assert back.num_experts == 3


def test_a_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.h5"
    trace().save(path)
    for data in (
        np.ones((2, 70_000), np.int64),
        np.ones((3, 2), np.int64),
        np.ones((2, 2), np.int64),
        np.ones((2, 1, 3)),
    ):
        with h5py.File(path, "r+") as file:
            del file["layers/expert_bytes"]
            file["layers/expert_bytes"] = data
        with pytest.raises(TraceError, match="expert_bytes"):
            RoutingTrace.open(path)
