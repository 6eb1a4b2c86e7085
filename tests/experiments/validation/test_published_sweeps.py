"""The arithmetic under the table of published sweeps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lrcsim.experiments.validation.published_sweeps.data import MIXTRAL, SINGLE, SWEEPS
from lrcsim.experiments.validation.published_sweeps.explain import (
    explain,
    no_miss,
    rerun_by_misses,
    saved_per_access,
    weights,
)
from lrcsim.hardware import load_profile
from lrcsim.models import load_geometry


def test_the_chance_of_misses_by_hand() -> None:
    # two experts, hit rate 0.9: none misses .81, one .18, both .01
    np.testing.assert_allclose(weights(2, [0.9, 1.0]), [[0.81, 0.18, 0.01], [1, 0, 0]])


def test_step_m_misses_m_experts_in_every_layer() -> None:
    rerun = rerun_by_misses(load_geometry("mixtral-8x7b"), "q4_k")
    assert rerun.misses.tolist() == [0, 32, 64]
    walls = rerun.times(load_profile("rtx-4090")).wall
    assert walls[0] < walls[1] < walls[2]


def test_a_sweep_that_the_model_makes_is_explained() -> None:
    sweep = SWEEPS[1]
    geometry = load_geometry(sweep.model)
    profile = load_profile(sweep.base, ["layer_overhead=900us", "nvme.bandwidth=4GB/s"])
    walls = rerun_by_misses(geometry, sweep.dtype).times(profile, overlap=False).wall
    made = replace(sweep, tokens_per_s=tuple(1 / (weights(geometry.top_k, sweep.hit_rate) @ walls)))
    found = explain(made)
    assert not found.overlap
    assert found.fit.profile.layer_overhead == pytest.approx(900e-6, rel=1e-3)
    np.testing.assert_allclose(found.predicted, found.measured, rtol=1e-3)
    assert found.per_miss.max() / found.per_miss.min() < 1.2  # several misses of a layer share the latency


def test_one_published_sweep_follows_from_two_numbers_and_the_other_does_not() -> None:
    ours, apple = (explain(sweep) for sweep in SWEEPS)
    assert np.abs(apple.predicted / apple.measured - 1).max() < 0.05
    assert 0.05 < np.abs(ours.predicted / ours.measured - 1).max() < 0.12
    first, second, third = 1e3 * ours.marginal  # ms per miss: falls, then rises
    assert second < first < third
    # worked out from the table: (1/10.5 - 1/21.0) s over 384 (0.741 - 0.366) misses, and so on
    np.testing.assert_allclose([first, second, third], [0.3307, 0.2524, 0.5178], atol=1e-4)


def test_what_single_numbers_give() -> None:
    wall, misses, size = no_miss(SINGLE)
    assert misses == pytest.approx(94 * 8 * 0.027)
    assert wall < 1 / SINGLE.tokens_per_s[0]
    assert size == pytest.approx(10.6e6, rel=0.01)
    assert saved_per_access(MIXTRAL[0], 64) == pytest.approx((1 / 2.27 - 1 / 2.92) / 64)
