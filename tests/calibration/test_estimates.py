"""What times by size say, on cases by hand, and for whatever times."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.calibration.of_machine.estimates import byte_share, fastest, is_bound_by_bytes, overheads
from lrcsim.calibration.of_machine.numbers import rate_of
from lrcsim.calibration.of_machine.timing import Timing

SECONDS = st.lists(st.floats(1e-7, 10.0), min_size=1, max_size=5).map(tuple)
TIMINGS = st.lists(st.builds(Timing, st.integers(1, 1 << 40), SECONDS), min_size=1, max_size=7)


def affine(overhead: float, bandwidth: float, *sizes: int) -> list[Timing]:
    return [Timing(size, (overhead + size / bandwidth,)) for size in sizes]


def test_by_hand() -> None:
    # 10 us and 1 GB/s: 1 KB takes 11 us, 1 MB 1.01 ms, 4 MB 4.01 ms. The fastest runs at 4 / 4.01 GB/s; at that rate
    # 1 KB is 1.0025 us of bytes. Between the last two time grows by 4.01 / 1.01 where size does by 4.
    times = affine(10e-6, 1e9, 1000, 1_000_000, 4_000_000)
    assert fastest(times).rate == pytest.approx(4 / 4.01 * 1e9)
    assert overheads(times, fastest(times).rate) == [pytest.approx(11e-6 - 1.0025e-6)]
    assert byte_share(times) == pytest.approx(0.9946, abs=1e-4)
    assert is_bound_by_bytes(times)


def test_one_size_or_none_tells_nothing_of_bandwidth() -> None:
    assert byte_share([]) == 0
    assert byte_share(affine(0, 1e9, 1000)) == 0
    assert byte_share(affine(0, 1e9, 1000, 1999)) == 0  # less than twice apart
    assert byte_share(affine(0, 1e9, 1000, 2000)) == pytest.approx(1)


def test_where_bytes_are_never_most_the_smallest_size_tells_the_rest() -> None:
    # 1 us, and 1 MB in 1 ms: overhead is a thousandth of it.
    times = affine(1e-6, 1e9, 1_000_000, 4_000_000)
    found = overheads(times, 1e9)
    assert found == [pytest.approx(1e-6)]


@given(st.floats(0, 1e-3), st.floats(1e6, 1e13), st.lists(st.integers(1, 1 << 36), min_size=2, max_size=6, unique=True))
def test_the_share_of_bytes_is_never_overstated(overhead: float, bandwidth: float, sizes: list[int]) -> None:
    times = affine(overhead, bandwidth, *sizes)
    largest = max(sizes)
    share = (largest / bandwidth) / (overhead + largest / bandwidth)
    assert byte_share(times) <= share + 1e-6
    if is_bound_by_bytes(times):  # so the fastest of them falls short by a fifth at most
        assert 0.79 * bandwidth <= fastest(times).rate <= bandwidth * (1 + 1e-9)


@given(TIMINGS, st.sampled_from([1, 2]))
def test_no_rate_is_above_the_fastest_measured_nor_below_it_by_more_than_rounding(
    times: list[Timing], moved: int
) -> None:
    best = moved * max(timing.size / timing.median for timing in times)
    assert best * (1 - 1.1e-3) <= rate_of(fastest(times), moved) <= best


@given(TIMINGS)
def test_no_overhead_is_negative_or_above_what_was_measured(times: list[Timing]) -> None:
    found = overheads(times, fastest(times).rate)
    assert found
    assert found == sorted(found)
    assert all(0 <= seconds <= max(timing.median for timing in times) for seconds in found)
