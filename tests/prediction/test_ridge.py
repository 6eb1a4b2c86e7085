"""Ridge in closed form: solved by hand, against the normal equations of all columns together, its ends.

By hand, classes alone: three tokens of class 0 use expert 0, one of class 1 uses expert 1; p = (3/4, 1/4). With ridge 1
    V[0] = 3 (1 - 3/4) / (3 + 1) = 3/16 for expert 0, and -3/16 for expert 1
    V[1] = (0 - 3/4) / (1 + 1) = -3/8 for expert 0, and 3/8 for expert 1
so class 1 scores (3/8, 5/8): its one token outweighs the popularity.

By hand, one feature: x = -1, 1, used = expert 0 where x = 1; p = 1/2, x'x = 2, x'(y - p) = 1, W = 1 / (2 + ridge).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.prediction.ridge import Sums

Floats = npt.NDArray[np.float64]
NONE = np.full(2, -1)


def test_classes_by_hand() -> None:
    used = np.array([[1, 0], [1, 0], [1, 0], [0, 1]], np.float64)
    linear = Sums(np.empty((4, 0)), np.array([0, 0, 0, 1]), used).solve(1.0)
    assert np.allclose(linear.classes, [[3 / 16, -3 / 16], [-3 / 8, 3 / 8]])
    scores = linear.scores(np.empty((4, 0)), np.array([1, 0, -1, 7]))
    assert np.allclose(scores, [[3 / 8, 5 / 8], [15 / 16, 1 / 16], [3 / 4, 1 / 4], [3 / 4, 1 / 4]])


def test_one_feature_by_hand() -> None:
    x = np.array([[-1.0], [1.0]])
    for ridge in (0.5, 2.0):
        linear = Sums(x, NONE, np.array([[0.0], [1.0]])).solve(ridge)
        assert np.allclose(linear.dense, 1 / (2 + ridge))
        assert np.allclose(linear.scores(x, NONE)[:, 0], [0.5 - 1 / (2 + ridge), 0.5 + 1 / (2 + ridge)])


def all_together(dense: Floats, classes: npt.NDArray[np.int64], used: Floats, ridge: float) -> tuple[Floats, Floats]:
    """W and V by the normal equations of the features and a column for each class."""
    number = int(classes.max(initial=-1)) + 1
    columns = np.concatenate([dense, np.equal.outer(classes, np.arange(number))], axis=1)
    left = columns.T @ columns + ridge * np.eye(columns.shape[1])
    found = np.linalg.solve(left, columns.T @ (used - used.mean(axis=0)))
    return found[: dense.shape[1]], found[dense.shape[1] :]


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.integers(1, 30), st.integers(0, 4), st.integers(0, 5), st.floats(0.01, 100))
def test_as_all_columns_together(seed: int, tokens: int, width: int, number: int, ridge: float) -> None:
    rng = np.random.default_rng(seed)
    dense, used = rng.normal(size=(tokens, width)), (rng.random((tokens, 3)) < 0.4).astype(np.float64)
    classes = rng.integers(-1, number, tokens) if number else np.full(tokens, -1)
    linear = Sums(dense, classes, used).solve(ridge)
    expected = all_together(dense, classes, used, ridge)
    assert np.allclose(linear.dense, expected[0], atol=1e-8)
    assert np.allclose(linear.classes, expected[1], atol=1e-8)


def test_a_great_ridge_leaves_popularity() -> None:
    rng = np.random.default_rng(0)
    dense, used = rng.normal(size=(50, 3)), (rng.random((50, 4)) < 0.4).astype(np.float64)
    classes = rng.integers(0, 3, 50)
    scores = Sums(dense, classes, used).solve(1e12).scores(dense, classes)
    assert np.allclose(scores, used.mean(axis=0), atol=1e-6)
