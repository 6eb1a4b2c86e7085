"""What a router with a bias and groups compares."""

from __future__ import annotations

import numpy as np

from lrcsim.frontier.router_choice import RouterChoice
from lrcsim.frontier.router_weights import RouterWeights

SIGMOID = RouterWeights("raw", "sigmoid", np.array([1.0]), np.array([np.nan]))


def test_hand_solved() -> None:
    # Logits 0, so values 1/2; with the bias 0.5 0.6 | 0.4 0.9. Sums of the two best of each group: 1.1 and 1.3, so a
    # token may use the second's. Without groups its two best were 3 and 1.
    bias = np.array([0.0, 0.1, -0.1, 0.4])
    logits = np.zeros((1, 4), np.float32)
    scores, allowed = RouterChoice(SIGMOID, bias, 2, 1).compared(logits)
    np.testing.assert_allclose(scores, [[0.5, 0.6, 0.4, 0.9]])
    np.testing.assert_array_equal(allowed, [[False, False, True, True]])
    grouped, ungrouped = RouterChoice(SIGMOID, bias, 2, 1), RouterChoice(SIGMOID, bias)
    assert grouped.explains(logits, np.array([[3, 2]]))
    assert not grouped.explains(logits, np.array([[3, 1]]))
    assert ungrouped.explains(logits, np.array([[3, 1]]))
    assert not ungrouped.explains(logits, np.array([[3, 2]]))


def test_equal_ones_are_told_apart_by_the_choice() -> None:
    choice = RouterChoice(SIGMOID, np.array([0.0, 0.0, -0.1, 0.0]))
    scores, _ = choice.scores(np.zeros((1, 4), np.float32), np.array([[3, 1]]), 0)
    assert set(np.argsort(-scores[0], kind="stable")[:2].tolist()) == {1, 3}
