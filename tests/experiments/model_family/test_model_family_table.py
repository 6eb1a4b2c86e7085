"""Measures and verdicts of the model family's table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.experiments.model_family import measure as measuring
from lrcsim.experiments.model_family.measure import difference, measure
from lrcsim.experiments.model_family.table import floor, markdown, read_rows, verdict, write_table
from lrcsim.experiments.model_family.variants import SCALES, VARIANTS
from lrcsim.experiments.paper.inputs import requests_of
from lrcsim.simulator import simulate, srp
from lrcsim.traces import RoutingTrace

TINY = SCALES["test"]


def trace_of(seed: int, variant: str = "baseline", requests: int = 4) -> RoutingTrace:
    """Make requests of 32 tokens that keep to half of the experts, one half in each of two domains."""
    random = np.random.default_rng(seed)
    halves = [4 * (request % 2) for request in range(requests) for _ in range(32)]
    rows = [[random.permutation(4)[:2] + half for _ in range(2)] for half in halves]
    return RoutingTrace.from_arrays(
        np.array(rows),
        num_experts=8,
        offsets=np.arange(requests + 1) * 32,
        token_ids=random.integers(0, 3, 32 * requests),
        domains=["a", "b"] * (requests // 2),
        provenance={
            "training": {
                "variant": {"name": variant},
                "seed": seed,
                "scale": {"dtype": "fp32", "steps": 4},
                "device": "cpu",
                "training_tokens": 1000,
                "parameters": 2000,
                "validation_loss": {"a": 2.0, "b": 3.0},
            }
        },
    )


def test_a_resample_by_hand() -> None:
    trace = RoutingTrace.from_arrays(
        np.array([[[0]], [[1]], [[2]]]), num_experts=3, offsets=[0, 2, 3], token_ids=[7, 8, 9], domains=["x", "y"]
    )
    drawn = requests_of(trace, [0, 1, 1], ["experts", "token_ids"])
    assert drawn.experts[:, 0, 0].tolist() == [0, 1, 2, 2]
    assert drawn.offsets.tolist() == [0, 2, 3, 4]
    assert drawn.token_ids is not None
    assert drawn.token_ids.tolist() == [7, 8, 9, 9]
    assert drawn.domains == ["x", "y", "y"]


def test_values_are_those_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "DRAWS", 20)
    trace = trace_of(0)
    found = measure(trace)
    assert found.value["srp"] == srp(trace, 16).value
    for name, policy in (("lru", "lru"), ("optimum", "belady")):
        assert found.value[name] == pytest.approx(simulate(trace, policy, "2x", warm=False).hit_rate)
    assert found.value["lru_paper"] == pytest.approx(
        simulate(trace, "lru", "2x", scope="model", access="paper").hit_rate
    )
    low, high = found.interval("srp") or (0, 0)
    assert low < high
    assert difference(found, found, "srp") == (0, 0, 0)  # paired: the same resamples on both sides


def test_floor_by_hand() -> None:
    assert floor("baseline") == pytest.approx(2 / 9)  # r = 1/8: (1/4) / (9/8)
    assert floor("share1") == pytest.approx(1 / 5)  # r = 1/9: (2/9) / (10/9)


@pytest.mark.parametrize(
    ("found", "noise", "says"),
    [
        ((-0.05, -0.06, -0.04), 0.01, "seen"),
        ((0.05, 0.04, 0.06), 0.01, "the opposite is seen"),
        ((-0.05, -0.11, 0.01), 0.01, "undecided: the interval holds 0"),
        ((-0.05, -0.06, -0.04), 0.025, "undecided: no more than twice what two seeds differ by"),
        ((-0.05, -0.06, -0.04), None, "seen (in one seed each)"),
    ],
)
def test_verdicts(found: tuple[float, float, float], noise: float | None, says: str) -> None:
    assert verdict(found, -1, noise) == says


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "DRAWS", 20)
    with pytest.raises(ConfigError, match=r"no baseline\.teacher_forced\.h5"):
        read_rows(tmp_path)
    trace_of(0).save(tmp_path / "baseline.teacher_forced.h5")
    trace_of(1).save(tmp_path / "baseline.seed1.teacher_forced.h5")
    trace_of(0, "share1").save(tmp_path / "share1.teacher_forced.h5")
    write_table(tmp_path, tmp_path)
    rows = read_rows(tmp_path)
    assert [row.label for row in rows] == ["baseline", "baseline, seed 1", "share1"]
    text = markdown(rows)
    assert text == (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| share1 | 2.500 |" in text
    # The same ids under another name: no difference at all, which is not a finding.
    assert "SRP(16) +0.000 [+0.000, +0.000]: undecided: the interval holds 0" in text
    assert "Not trained this time: " + ", ".join(n for n in VARIANTS if n not in ("baseline", "share1")) in text
