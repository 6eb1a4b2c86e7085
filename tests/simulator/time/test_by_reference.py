"""Named tuples by reference: what compiled functions read and write through them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.simulator.compiled.uncounted import loop_njit
from lrcsim.simulator.time.by_reference import by_reference


class Inner(NamedTuple):
    """Part of another."""

    scale: float
    odd: bool


class Whole(NamedTuple):
    """Arrays of one and two dimensions, records, numbers, another tuple."""

    inner: Inner
    number: int
    sums: npt.NDArray[np.float64]
    table: npt.NDArray[np.int32]
    clock: npt.NDArray[Any]


@loop_njit
def _advance(whole, other, row):  # type: ignore[no-untyped-def]
    clock = whole.clock[0]
    for value in whole.table[row]:
        whole.sums[row] += value * whole.inner.scale
        clock.now += whole.number
    if other is None and whole.inner.odd:
        clock.turn += len(whole.table)
    return clock.now


@loop_njit
def _run(whole, other):  # type: ignore[no-untyped-def]
    lent = by_reference(whole)
    missing = by_reference(other)
    _advance(lent, missing, 0)
    return _advance(lent, missing, 1)


def test_hand_solved() -> None:
    # Row 0: (1 + 2 + 3) * 0.5 = 3, row 1: (4 + 5 + 6) * 0.5 = 7.5; six values, 10 s each; two rows, twice.
    clock = np.zeros(1, [("now", "f8"), ("turn", "i8")]).view(np.recarray)
    table = np.arange(1, 7, dtype=np.int32).reshape(2, 3)
    whole = Whole(Inner(0.5, True), 10, np.zeros(2), table, clock)
    run: Any = _run
    assert run(whole, None) == 60
    assert (whole.sums.tolist(), clock[0].now, clock[0].turn) == ([3, 7.5], 60, 4)
    assert run(whole, whole) == 120
    assert (whole.sums.tolist(), clock[0].turn) == ([6, 15], 4)


def test_arrays_are_let_go() -> None:
    """Nobody counts references inside, and nobody loses one outside."""
    import sys

    sums = np.zeros(2)
    clock = np.zeros(1, [("now", "f8"), ("turn", "i8")]).view(np.recarray)
    whole = Whole(Inner(1.0, False), 1, sums, np.ones((2, 3), np.int32), clock)
    run: Any = _run
    run(whole, None)
    before = sys.getrefcount(sums)
    for _ in range(10):
        run(whole, None)
    assert sys.getrefcount(sums) == before
