"""Fluid sharing of links and DRAM: solved by hand, and against the same rules in exact fractions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.simulator.time.bandwidth import Flow, Flows, Share


class Given(NamedTuple):
    start: float
    size: float
    lane: int


def ends(flows: Sequence[Given], lanes: Sequence[float], dram: float) -> list[float]:
    """Run flows over lanes of these bandwidths; return when each ends."""
    env = simpy.Environment()
    shared = Flows(env, dram)
    built = [Share(bandwidth) for bandwidth in lanes]
    ended = [-1.0] * len(flows)

    def begin(number: int, flow: Given) -> None:
        def end() -> None:
            ended[number] = env.now

        env.timeout(flow.start).callbacks.append(lambda _: shared.start(Flow(flow.size, built[flow.lane], end)))

    for number, flow in enumerate(flows):
        begin(number, flow)
    for _ in range(20 * len(flows)):
        if env.peek() == float("inf"):
            return ended
        env.step()
    raise AssertionError("the flows never end")


def exact(flows: Sequence[Given], lanes: Sequence[float], dram: float) -> list[float]:
    """The same in fractions: from one start or end to the next, rates worked out anew each time."""
    left = {number: Fraction(flow.size) for number, flow in enumerate(flows)}
    start = [Fraction(flow.start) for flow in flows]
    ended = [Fraction(-1)] * len(flows)
    now = Fraction(0)
    while left:
        active = [number for number in left if start[number] <= now]
        on_lane = Counter(flows[number].lane for number in active)
        rate = {n: Fraction(lanes[flows[n].lane]) / on_lane[flows[n].lane] for n in active}
        total = sum(rate.values())
        slower = min(Fraction(1), Fraction(dram) / total) if total else Fraction(1)
        rate = {number: value * slower for number, value in rate.items()}
        then = min(
            [start[number] for number in left if start[number] > now] + [now + left[n] / rate[n] for n in active]
        )
        for number in active:
            left[number] -= rate[number] * (then - now)
            if left[number] == 0:
                ended[number] = then
                del left[number]
        now = then
    return [float(time) for time in ended]


def test_one_flow() -> None:
    assert ends([Given(1, 300, 0)], [100], 1e9) == [4]


def test_two_flows_share_a_lane() -> None:
    # 100 bytes/s. From 0 the first alone: 100 bytes by 1. Then 50 each: the second's 100 last until 3. By then the
    # first has moved 100 + 100 of 300, and moves the last 100 alone until 4.
    assert ends([Given(0, 300, 0), Given(1, 100, 0)], [100], 1e9) == [4, 3]


def test_lanes_do_not_disturb_each_other_below_the_bandwidth_of_dram() -> None:
    assert ends([Given(0, 300, 0), Given(0, 300, 1)], [100, 300], 400) == [3, 1]


def test_dram_slows_all_by_the_same_factor() -> None:
    # 100 and 300 bytes/s wanted, 200 there: 50 and 150. The second's 300 last until 2; the first has moved 100 of 300
    # and moves the other 200 alone at its own 100 until 4.
    assert ends([Given(0, 300, 0), Given(0, 300, 1)], [100, 300], 200) == [4, 2]


def test_dram_slower_than_a_single_lane() -> None:
    assert ends([Given(0, 300, 0)], [100], 50) == [6]


def test_ends_that_coincide() -> None:
    # 100 bytes/s for two: 50 each. Both end at 2, in the order in which they started, and a third starts there.
    assert ends([Given(0, 100, 0), Given(0, 100, 0), Given(2, 100, 0)], [100], 1e9) == [2, 2, 3]


def test_nothing_to_move() -> None:
    assert ends([Given(1, 0, 0), Given(1, 100, 0)], [100], 1e9) == [1, 2]


@pytest.mark.parametrize(("rate", "size", "start"), [(7.0, 0.7, 1.7), (25.6e9, 1.0, 0.1), (25.6e9, 1.3, 0.3)])
def test_a_start_at_the_very_moment_of_an_end(rate: float, size: float, start: float) -> None:
    # Rounding leaves the first flow less than nothing to move when the second starts. It must end all the same.
    second = start + size / rate
    first_end, second_end = ends([Given(start, size, 0), Given(second, size, 1)], [rate, rate], 1e18)
    assert first_end == pytest.approx(second, rel=1e-12)
    assert second_end == pytest.approx(second + size / rate, rel=1e-12)


def test_flows_that_end_together_but_for_rounding_have_all_ended_when_the_first_is_told() -> None:
    # At a byte per second the first, 0.3 bytes from 0, and the second, 0.2 bytes from 0.1, end at 0.3. In binary the
    # first has 0.3 - 0.1 = 0.19999999999999998 left when the second starts with 0.2. Were the second still counted, a
    # flow that follows the first on its lane would find DRAM taken.
    assert 0.3 - 0.1 < 0.2
    env = simpy.Environment()
    shared = Flows(env, 1e9)
    active: list[int] = []
    for start, size in ((0, 0.3), (0.1, 0.2)):
        flow = Flow(size, Share(1), lambda: active.append(len(shared.active)))
        env.timeout(start).callbacks.append(lambda _, flow=flow: shared.start(flow))
    env.run()
    assert active == [0, 0]


FLOW = st.builds(
    Given,
    start=st.integers(0, 40).map(lambda ticks: ticks / 10),
    size=st.integers(1, 1000).map(lambda tenths: tenths / 10),
    lane=st.integers(0, 2),
)


@given(
    st.lists(FLOW, min_size=1, max_size=8),
    st.lists(st.sampled_from([10.0, 33.3, 70.0, 100.0]), min_size=3, max_size=3),
    st.sampled_from([20.0, 77.7, 150.0, 1e6]),
)
def test_equals_exact_fractions(flows: list[Given], lanes: list[float], dram: float) -> None:
    assert ends(flows, lanes, dram) == pytest.approx(exact(flows, lanes, dram), rel=1e-11)
