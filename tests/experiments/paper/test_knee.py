"""Knees by hand, against definitions in plain Python, and prices against brute force.

The case: 40 points of hit rate for each 1x up to 2x, 5 points for each after. In steps of 1/4x from 1/4x to 4x, all
experts 8x:
    chord        the line to (4, 0.9) has 0.225 per 1x: 0.35 above it at 2x, less before and after       -> 2
    chord to all the line to (8, 1): 0.8 - 0.25 = 0.55 at 2x                                             -> 2
    balance      h^2 / rho is 0.16 rho up to 2x (0.32), then falls: (0.85)^2 / 3 = 0.241                  -> 2
    bend         1x before 2x brings 0.40, 1x after it 0.05: no other size has a fall of 0.35             -> 2
    half         from rho in [1, 2] the next 1x brings 0.75 - 0.35 rho: below 0.2 from 1.572              -> 1.75
    below 20     the same                                                                                 -> 1.75
    below 10     below 0.1 from 1.858                                                                     -> 2
    prices       the only corner within 1.5x to 2.5x is 2x: best from 0.05 to 0.40 per 1x
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.experiments.paper.knee import ABOUT_TWICE, CRITERIA, chord_height, prices_of
from lrcsim.experiments.paper.published import GRID

Floats = npt.NDArray[np.float64]
FIND = {criterion.name: criterion.find for criterion in CRITERIA}


def bent(corner: float, before: float, after: float, sizes: Floats = GRID) -> Floats:
    return np.minimum(before * sizes, before * corner + after * (sizes - corner))


def knees(rates: Floats, everything: float = 8.0) -> dict[str, float]:
    return {name: float(find(GRID, rates[None], everything)[0]) for name, find in FIND.items()}


def test_a_knee_at_two_by_construction() -> None:
    expected = {"chord": 2.0, "chord to all": 2.0, "balance": 2.0, "bend": 2.0}
    assert knees(bent(2, 0.4, 0.05)) == expected | {"half": 1.75, "below 20": 1.75, "below 10": 2.0}


def test_a_knee_at_one_by_construction() -> None:
    # From rho in [0, 1] the next 1x brings 0.80 - 0.78 rho: below 0.4 from 0.513, below 0.2 from 0.770, 0.1 from 0.898.
    same = dict.fromkeys(("chord", "chord to all", "balance", "bend", "below 20", "below 10"), 1.0)
    assert knees(bent(1, 0.8, 0.02)) == same | {"half": 0.75}


def test_a_straight_line_has_no_knee() -> None:
    found = knees(GRID / 8)
    assert all(math.isinf(found[name]) for name in ("chord", "chord to all", "balance", "half", "below 10"))
    assert found["below 20"] == 0.25  # 12.5 points everywhere
    assert chord_height(GRID, GRID / 8) == pytest.approx(0, abs=1e-12)
    assert chord_height(GRID, bent(2, 0.4, 0.05)) == pytest.approx(0.35)


def test_several_curves_are_rows() -> None:
    rows = np.stack([bent(2, 0.4, 0.05), bent(1, 0.8, 0.02)])
    assert FIND["chord"](GRID, rows, 8.0).tolist() == [2.0, 1.0]


def test_finer_steps_give_the_same_knee() -> None:
    fine = np.arange(1, 65) / 16
    for name in ("chord", "chord to all", "balance", "bend"):
        assert FIND[name](fine, bent(2, 0.4, 0.05, fine)[None], 8.0)[0] == 2.0
    assert FIND["half"](fine, bent(2, 0.4, 0.05, fine)[None], 8.0)[0] == 1.625  # the first sixteenth after 1.572


@st.composite
def curves(draw: st.DrawFn) -> Floats:
    """Hit rates that never fall, of any shape."""
    gains = draw(st.lists(st.integers(0, 100), min_size=16, max_size=16).filter(any))
    return np.cumsum(gains) / (sum(gains) + draw(st.integers(0, 200)))


@given(rates=curves())
def test_criteria_equal_their_definitions(rates: Floats) -> None:
    h = dict(zip(GRID.tolist(), rates.tolist(), strict=True)) | {0.0: 0.0}
    sizes = GRID.tolist()
    last = sizes[-1]

    def highest(score: dict[float, float], *, positive: bool = True) -> float:
        best = max(score.values())
        size = min(s for s, value in score.items() if value >= best - 1e-12)
        return math.inf if size == last or (positive and best <= 1e-12) else size

    def first(true: list[float]) -> float:
        return min(true, default=math.inf)

    gain = {s: h[s + 1] - h[s] for s in sizes if s + 1 <= last}
    found = knees(rates)
    assert found["chord"] == highest({s: h[s] - h[last] * s / last for s in sizes})
    assert found["chord to all"] == highest({s: h[s] - s / 8 for s in sizes})
    assert found["balance"] == highest({s: h[s] ** 2 / s for s in sizes})
    assert found["half"] == first([s for s in gain if gain[s] < h[1.0] / 2])
    assert found["below 20"] == first([s for s in gain if gain[s] < 0.2])
    assert found["below 10"] == first([s for s in gain if gain[s] < 0.1])
    falls = {s: (h[s] - h[s - 1]) - (h[s + 1] - h[s]) for s in sizes if 1 <= s <= last - 1}
    assert falls[found["bend"]] == pytest.approx(max(falls.values()))


def test_prices_by_hand() -> None:
    assert prices_of(GRID, bent(2, 0.4, 0.05), *ABOUT_TWICE) == pytest.approx((0.05, 0.4))
    assert prices_of(GRID, bent(1, 0.8, 0.02), *ABOUT_TWICE) is None  # 1x or 4x is best, at every price
    assert prices_of(GRID, bent(1, 0.8, 0.02), 0.75, 1.25) == pytest.approx((0.02, 0.8))


def best_size(sizes: Floats, rates: Floats, price: float) -> float:
    """Size, the smallest, of the largest h(rho) - price * rho; 0 where no cache is worth its price."""
    net = np.append(0, rates) - price * np.append(0, sizes)
    return float(np.append(0, sizes)[int(np.argmax(net))])


@given(rates=curves(), price=st.floats(0.001, 1))
def test_prices_equal_brute_force(rates: Floats, price: float) -> None:
    best = best_size(GRID, rates, price)
    net = rates - price * GRID
    if np.sum(np.append(0, net) > max(0.0, float(net.max())) - 1e-6) > 1:
        return  # two sizes as good as each other
    ends = prices_of(GRID, rates, *ABOUT_TWICE)
    inside = ABOUT_TWICE[0] <= best <= ABOUT_TWICE[1]
    assert inside == (ends is not None and ends[0] <= price <= ends[1])
