"""The Pareto front, its knee, and the knee in words."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lrcsim.frontier import knee, pareto

# Loss and speed of five rules:
#   none (0, 10), a (1, 30), b (2, 20), c (4, 32), d (10, 33).  b is beaten by a: more loss, less speed.
#   The line from (0, 10) to (10, 33): a lies at (0.1, 20/23 = 0.87), 0.77 above it; c at (0.4, 22/23 = 0.96), 0.56.
COST = [0.0, 1.0, 2.0, 4.0, 10.0]
WORTH = [10.0, 30.0, 20.0, 32.0, 33.0]


def test_hand_solved() -> None:
    front = pareto(COST, WORTH)
    assert front == [0, 1, 3, 4]
    assert knee(COST, WORTH, front) == 1


def test_no_knee() -> None:
    assert knee([0, 1], [1, 2], [0, 1]) is None  # of two points
    assert knee([0, 1, 2], [0, 1, 2], [0, 1, 2]) is None  # on a line
    assert knee([0, 1, 2], [0, 0.5, 2], [0, 1, 2]) is None  # below it
    assert pareto([1, 1], [1, 1]) == [0]


@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=1, max_size=12))
def test_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    found = pareto([x for x, _ in points], [y for _, y in points])

    def beaten(at: int) -> bool:
        x, y = points[at]
        return any(
            a <= x and b >= y and ((a, b) != (x, y) or other < at) for other, (a, b) in enumerate(points) if other != at
        )

    assert sorted(found) == [at for at in range(len(points)) if not beaten(at)]
    assert [points[at] for at in found] == sorted(points[at] for at in found)
