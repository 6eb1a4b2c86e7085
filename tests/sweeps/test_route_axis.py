"""A sweep over routing rules: a column for each thing they change, and runs without one beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.simulator import simulate
from lrcsim.sweeps import divide, read_spec, run_of, run_sweep
from lrcsim.traces import RoutingTrace

MINE = """
from lrcsim.policies import RoutingRule


class Mine(RoutingRule):
    def choose(self, scores, resident, k):
        return (-scores - 2 * resident).argsort(axis=1)[:, :k]
"""


@pytest.fixture
def with_logits(tmp_path: Path) -> Path:
    logits = np.random.default_rng(0).normal(size=(60, 2, 8)).astype(np.float32)
    experts = np.argsort(-logits, axis=2)[:, :, :2]
    RoutingTrace.from_arrays(experts, num_experts=8, logits=logits, expert_bytes=10).save(tmp_path / "t.h5")
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


def test_rows_have_what_simulate_says(with_logits: Path) -> None:
    rules = ["none", "prior:0.1", "window:1,4", "mine.py:Mine"]
    spec = read_spec({"grid": {"trace": "t.h5", "cache": [4, 6], "route": rules}}, with_logits)
    rows = run_sweep(divide(spec), with_logits / "t.parquet").table.to_pylist()
    trace = RoutingTrace.open(with_logits / "t.h5")
    assert [row["error"] for row in rows] == [None] * 8
    for row in rows:
        rule = f"{with_logits}/{row['route']}" if row["route"].startswith("mine") else row["route"]
        alone = simulate(trace, cache=row["cache"], route=rule)
        assert row["hit_rate"] == alone.hit_rate
        assert row["loads_per_access"] == alone.loads_per_access
        told = {} if alone.routing is None else alone.routing.found.to_dict()
        found = [row[f"route_{name}"] for name in ("agreement", "mass_kept", "kl_nats")]
        assert found == [told.get(name) for name in ("agreement", "mass_kept", "kl_nats")]
    again = run_of(rows[2], trace)
    assert simulate(trace, cache=again.options.cache, route=again.options.route).hit_rate == rows[2]["hit_rate"]


def test_a_wrong_rule_is_refused_before_anything_runs(with_logits: Path) -> None:
    with pytest.raises(ConfigError, match="route: there is no routing rule 'first'"):
        divide(read_spec({"grid": {"trace": "t.h5", "route": ["prior", "first"]}}, with_logits))
