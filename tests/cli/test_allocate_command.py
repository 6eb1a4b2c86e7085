"""`lrcsim curve --allocate` as a user meets it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace


@pytest.fixture
def trace_file(tmp_path: Path) -> str:
    ids = np.random.default_rng(0).random((60, 3, 8)).argsort(axis=2)[:, :, :2]
    ids[:, 0] %= 3
    ids[:, 0, 1] = 3
    path = tmp_path / "t.h5"
    RoutingTrace.from_arrays(ids, num_experts=8, model="toy").save(path)
    return str(path)


def test_table_and_json(lrcsim: Callable[..., Any], trace_file: str, tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    done = lrcsim("curve", trace_file, "--policy", "lru,belady", "--allocate", "2x", "--json", file)
    assert (done.code, done.err) == (0, "")
    assert "lru with 12 experts for all layers together" in done.out
    for row in ("uniform", "allocated (greedy)", "allocated (exact)", "one shared pool"):
        assert done.out.count(row) == 2
    found = json.loads(file.read_text())["allocation"]
    assert list(found) == ["lru", "belady"]
    lru = found["lru"]
    assert f"as for run --cache: {','.join(map(str, lru['capacities']))}" in done.out
    again = simulate(RoutingTrace.open(trace_file), "lru", lru["capacities"], bounds=False)
    assert lru["exact"]["hit_rate"] == again.hit_rate
    assert lru["uniform"]["capacities"] == [4, 4, 4]


def test_bytes(lrcsim: Callable[..., Any], trace_file: str) -> None:
    options = ["--policy", "lru", "--allocate", "12KiB", "--expert-bytes", "1KiB", "--json", "-"]
    done = lrcsim("curve", trace_file, *options)
    found = json.loads(done.out)["allocation"]["lru"]
    assert (found["budget"], found["unit"]) == (12, "experts")  # of equal size, so bytes are slots


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--allocate", "4GiB"], "give its size with --expert-bytes"),
        (["--allocate", "2,2,2"], "must be one size for all layers together"),
        (["--allocate", "lots"], "is not understood"),
        (["--allocate", "2x", "--policy", "fifo"], "'fifo' has no stack algorithm"),
        (["--allocate", "2x", "--expert-bytes", "0"], "--expert-bytes '0' is not a size"),
    ],
)
def test_bad_input(refused: Callable[..., None], trace_file: str, arguments: list[str], message: str) -> None:
    refused(message, "curve", trace_file, *arguments)
