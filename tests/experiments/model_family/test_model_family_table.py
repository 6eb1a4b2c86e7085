"""Measures and verdicts of the model family's table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrcsim.base.errors import ConfigError
from lrcsim.experiments.model_family import kept
from lrcsim.experiments.model_family import measure as measuring
from lrcsim.experiments.model_family.findings import STATED, findings, verdict
from lrcsim.experiments.model_family.kept import measured
from lrcsim.experiments.model_family.measure import MEASURES, MeasuredVariant, difference, measure
from lrcsim.experiments.model_family.rows import ABOVE_FLOOR, VariantRow, base_of, read_rows, seed_differences
from lrcsim.experiments.model_family.table import markdown, write_table
from lrcsim.experiments.model_family.variants import SCALES, VARIANTS
from lrcsim.experiments.paper.inputs import requests_of
from lrcsim.simulator import simulate, srp
from lrcsim.traces import RoutingTrace

TINY = SCALES["test"]


def trace_of(seed: int, variant: str = "baseline", requests: int = 4, tokens: int = 1000) -> RoutingTrace:
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
                "training_tokens": tokens,
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


def row_of(variant: str, seed: int, srp_value: float) -> VariantRow:
    """Make a model of three equal measures, whose three resamples gave 0.01 less, the same and 0.01 more."""
    drawn = {name: srp_value + np.array([-0.01, 0.0, 0.01]) for name in STATED}
    found = MeasuredVariant(dict.fromkeys(STATED, srp_value), drawn, {}, {}, 2.0, [3, 5])
    return VariantRow(variant, seed, {}, found)


def test_the_floor_s_part_by_hand() -> None:
    base, shared = row_of("baseline", 0, 0.47), row_of("share1", 0, 0.45)
    assert base.floor == pytest.approx(2 / 9)  # r = 8/64 = 1/8: (1/4) / (9/8)
    assert shared.floor == pytest.approx(1 / 5)  # r = 7/63 = 1/9: (2/9) / (10/9)
    assert base.value(ABOVE_FLOOR) == pytest.approx(0.47 - 2 / 9)
    # -0.02 in all; the floor falls by 2/9 - 1/5 = 1/45: above it, routing is more consistent by 1/45 - 0.02
    assert shared.less(base, "srp") == pytest.approx((-0.02, -0.02, -0.02))  # paired: both have the same resamples
    assert shared.less(base, ABOVE_FLOOR) == pytest.approx((1 / 45 - 0.02,) * 3)


def test_what_is_compared_with_what() -> None:
    values = {("baseline", 0): 0.47, ("baseline", 1): 0.46, ("share1", 0): 0.45, ("share1", 1): 0.456, ("nolb", 2): 0.7}
    rows = [row_of(variant, seed, value) for (variant, seed), value in values.items()]
    bases = {row.label: base_of(row, rows).label for row in rows}
    assert bases == {
        "baseline": "baseline",
        "baseline, seed 1": "baseline",
        "share1": "baseline",
        "share1, seed 1": "baseline, seed 1",
        "nolb, seed 2": "baseline",  # no baseline of seed 2
    }
    found = seed_differences(rows, ("srp",))
    assert found == {
        "baseline, seed 1": {"srp": pytest.approx(-0.01)},
        "share1, seed 1": {"srp": pytest.approx(0.006)},
    }


def test_the_greatest_difference_of_any_pair_of_seeds_decides() -> None:
    # Seeds differ by 0.002 and 0.008, so that more than 0.016 counts: share1's -0.015 does not, share2's -0.017 does.
    values = {("baseline", 0): 0.470, ("baseline", 1): 0.472, ("share1", 0): 0.455, ("share2", 0): 0.453}
    rows = [row_of(variant, seed, value) for (variant, seed), value in values.items()]
    rows.insert(3, row_of("share1", 1, 0.463))
    told = findings(rows)
    assert any("greatest of these (0.008, 0.008, 0.008). 2 pairs" in line for line in told)
    lines = [line.strip() for line in told if line.strip().startswith("* SRP(16)")]
    assert lines == [
        "* SRP(16) -0.015 [-0.015, -0.015]: undecided: no more than twice what two seeds differ by",
        "* SRP(16) -0.009 [-0.009, -0.009]: undecided: no more than twice what two seeds differ by",  # of seeds 1
        "* SRP(16) -0.017 [-0.017, -0.017]: seen",
    ]
    assert not any("dense" in line.lower() for line in told)  # no such models, nothing said


def test_large_dense_layers_are_held_against_slim_ones_of_the_same_seed() -> None:
    rows = [row_of("baseline", 0, 0.47), row_of("skip1", 0, 0.45), row_of("skip1slim", 0, 0.46)]
    rows.append(row_of("skip1slim", 1, 0.40))
    told = "\n".join(findings(rows))
    assert "skip1 less skip1slim (not in the paper):\n    * SRP(16) -0.010" in told
    assert "skip1 less skip1slim, seed 1" not in told


def test_busy_experts_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    # Layer 0: experts 0, 0, 0, 1, 2: the busiest gets 3/5, two get 4/5. Layer 1: always expert 3.
    trace = RoutingTrace.from_arrays(
        np.array([[[0], [3]], [[0], [3]], [[0], [3]], [[1], [3]], [[2], [3]]]), num_experts=4
    )
    monkeypatch.setattr(measuring, "BUSY", 0.6)
    assert measuring.busy_experts(trace) == [1, 1]
    monkeypatch.setattr(measuring, "BUSY", 0.7)
    assert measuring.busy_experts(trace) == [2, 1]


# --- kept measures ------------------------------------------------------------------------------------------------


def test_a_trace_is_measured_again_when_it_or_the_settings_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "DRAWS", 5)
    measurings = []

    def counted(trace: RoutingTrace, progress: Any = None) -> MeasuredVariant:
        measurings.append(trace.file_sha256())
        return measure(trace, progress)

    monkeypatch.setattr(kept, "measure", counted)

    def again() -> MeasuredVariant:
        with RoutingTrace.open(tmp_path / "a.h5") as trace:
            return measured(trace, tmp_path / "kept" / "a.json")

    trace_of(0).save(tmp_path / "a.h5")
    first, second = again(), again()
    assert len(measurings) == 1
    assert second.value == first.value
    assert (second.knee, second.busy, second.curve) == (first.knee, first.busy, first.curve)
    assert second.correlation == first.correlation
    for name, drawn in first.drawn.items():
        np.testing.assert_array_equal(second.drawn[name], drawn)  # bit by bit, NaN where it was NaN
    trace_of(1).save(tmp_path / "a.h5")
    assert again().value != first.value
    assert len(measurings) == 2
    monkeypatch.setattr(measuring, "DRAWS", 6)
    assert len(again().drawn["srp"]) == 6
    assert len(measurings) == 3


def test_a_stopped_run_loses_one_trace_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "DRAWS", 5)
    trace_of(0).save(tmp_path / "baseline.teacher_forced.h5")
    trace_of(0, "share1").save(tmp_path / "share1.teacher_forced.h5")

    def stop(done: int, total: int) -> None:
        if done > total // 2:  # in the second trace
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_rows(tmp_path, tmp_path / "kept", stop)
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["baseline.json"]
    told: list[int] = []
    read_rows(tmp_path, tmp_path / "kept", lambda done, total: told.append(done))
    assert min(told) > len(MEASURES)  # the first trace was not measured again


# --- findings and tables ------------------------------------------------------------------------------------------


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


def test_a_question_without_a_sign_gets_no_opposite() -> None:
    assert verdict((0.05, 0.04, 0.06), 0, 0.01) == verdict((-0.05, -0.06, -0.04), 0, 0.01) == "differs"


def test_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "DRAWS", 20)
    with pytest.raises(ConfigError, match=r"no baseline\.teacher_forced\.h5"):
        read_rows(tmp_path, tmp_path / "kept")
    trace_of(0).save(tmp_path / "baseline.teacher_forced.h5")
    trace_of(1).save(tmp_path / "baseline.seed1.teacher_forced.h5")
    trace_of(0, "share1").save(tmp_path / "share1.teacher_forced.h5")
    write_table(tmp_path, tmp_path, tmp_path / "kept")
    rows = read_rows(tmp_path, tmp_path / "kept")
    assert [row.label for row in rows] == ["baseline", "baseline, seed 1", "share1"]
    text = markdown(rows)
    assert text == (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| share1 | 2.500 |" in text
    # The same ids under another name: no difference at all, which is not a finding.
    assert "SRP(16) +0.000 [+0.000, +0.000]: undecided: the interval holds 0" in text
    # All that differs is what keeping every expert would give: the floor falls by 1/45.
    assert "of SRP's difference -0.022 is the floor's, +0.022 [+0.022, +0.022] is above it" in text
    assert "0.0 million tokens each, 4 steps" in text  # as the provenance has it
    assert "Not trained this time: " + ", ".join(n for n in VARIANTS if n not in ("baseline", "share1")) in text


def test_models_of_different_trainings_are_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "DRAWS", 5)
    trace_of(0).save(tmp_path / "baseline.teacher_forced.h5")
    trace_of(0, "share1", tokens=2000).save(tmp_path / "share1.teacher_forced.h5")
    with pytest.raises(ConfigError, match="share1 and baseline differ in the training's training_tokens"):
        read_rows(tmp_path, tmp_path / "kept")


@pytest.mark.parametrize("name", ["baseline", "share1", "sparse2.seed1"])
def test_the_shipped_table_is_of_the_shipped_traces(name: str) -> None:
    folder = Path(__file__).resolve().parents[3] / "experiments/model_family"
    rows = {
        (row["variant"], row["seed"]): row for row in json.loads((folder / "results.json").read_text(encoding="utf-8"))
    }
    with RoutingTrace.open(folder / f"traces/{name}.teacher_forced.h5") as trace:
        training, found = trace.provenance["training"], srp(trace, 16).value
        row = rows[training["variant"]["name"], training["seed"]]
        assert row["measures"]["srp"]["value"] == pytest.approx(found, abs=1e-12)
        assert row["busy_experts"] == measuring.busy_experts(trace)
    assert row["training"] == training
    assert len(rows) == 15
