"""Counts of uses as SGLang and ktransformers read them, by their readers' own rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from planned import geometry, local_trace

from lrcsim.base.errors import ConfigError
from lrcsim.planner.counts_file import counts_of, write_counts
from lrcsim.traces import RoutingTrace
from lrcsim.traces.importers.torch_file import load


def test_counts_by_hand() -> None:
    # layer 0 has no experts; of layers 1 to 3 two tokens used these, and one use was not recorded
    ids = np.array([[[0, 1], [2, 3], [7, 6]], [[0, 2], [3, 2], [7, -1]]])
    found = counts_of(RoutingTrace.from_arrays(ids, num_experts=8), geometry())
    assert found.tolist() == [
        [0] * 8, [2, 1, 1, 0, 0, 0, 0, 0], [0, 0, 2, 2, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 1, 2],
    ]  # fmt: skip


def test_another_models_trace_is_refused() -> None:
    with pytest.raises(ConfigError):
        counts_of(local_trace(3, 16, 2), geometry())


def test_read_without_torch(tmp_path: Path) -> None:
    counts = counts_of(local_trace(), geometry())
    write_counts(tmp_path / "COUNTS.pt", counts)
    found = load(tmp_path / "COUNTS.pt")
    assert list(found) == ["logical_count"]
    assert np.array_equal(found["logical_count"], counts[None])
    assert [file.name for file in tmp_path.iterdir()] == ["COUNTS.pt"]


def test_read_as_the_engine_does(tmp_path: Path) -> None:
    """`torch.load(weights_only=True)`, the key, three dimensions, summed over the first, all layers of the model."""
    torch = pytest.importorskip("torch")
    counts = counts_of(local_trace(), geometry())
    write_counts(tmp_path / "COUNTS.pt", counts)
    read = torch.load(tmp_path / "COUNTS.pt", map_location="cpu", weights_only=True)["logical_count"]
    assert read.dim() == 3
    assert tuple(read.shape[1:]) == (geometry().layers, geometry().experts)
    assert np.array_equal(read.sum(dim=0).numpy(), counts)
    # and what torch writes is the same to our reader
    torch.save({"logical_count": torch.from_numpy(counts[None])}, tmp_path / "theirs.pt")
    assert np.array_equal(load(tmp_path / "theirs.pt")["logical_count"], load(tmp_path / "COUNTS.pt")["logical_count"])


def test_a_name_that_the_engine_would_pass_over(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a name that ends in \.pt only"):
        write_counts(tmp_path / "counts.json", np.zeros((1, 1), np.int64))
    assert not list(tmp_path.iterdir())
