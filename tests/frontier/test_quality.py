"""Loss, its interval and the tokens that change."""

from __future__ import annotations

import numpy as np
import pytest

from lrcsim.frontier.closed_loop import Ran
from lrcsim.frontier.quality import quality


def ran(nats: list[float], predicted: list[int], best: list[int]) -> Ran:
    return Ran({"predicted_ids": np.array(best, np.int32)}, [], np.array(nats), np.array(predicted))


def test_hand_solved() -> None:
    # 6 predicted tokens; the rule adds 1 nat to the first request and takes 0.4 off the second: 0.6 / 6 = 0.1 more.
    plain, other = ran([4, 8], [2, 4], [1, 2, 3, 4, 5, 6, 7, 8]), ran([5, 7.6], [2, 4], [1, 2, 3, 4, 5, 6, 7, 9])
    found = quality(other, plain)
    assert found.loss == pytest.approx(12.6 / 6)
    assert found.difference == pytest.approx(0.1)
    assert found.changed == 1 / 8
    # A resample has the first twice (2 / 4), each once (0.1) or the second twice (-0.8 / 8): ends, reflected at 0.1.
    assert found.interval == pytest.approx((0.2 - 0.5, 0.2 + 0.1))


def test_paired() -> None:
    """Texts that differ by whole nats, a rule that costs each the same: the interval has no width."""
    plain = ran([10.0, 50.0, 90.0], [10, 10, 10], [0] * 33)
    found = quality(ran([11.0, 51.0, 91.0], [10, 10, 10], [0] * 33), plain)
    assert found.interval == pytest.approx((0.1, 0.1))


def test_one_request_has_no_interval() -> None:
    assert quality(ran([2.0], [1], [0, 0]), ran([1.0], [1], [0, 0])).interval is None
