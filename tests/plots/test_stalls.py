"""When a run stalls, and what is at work meanwhile: hand-solved; then their sums on the bundled trace."""

from __future__ import annotations

from typing import Any

import pytest

from lrcsim.plots.stalls import Stall, stalls
from lrcsim.simulator import simulate
from lrcsim.simulator.time.spans import Log
from lrcsim.traces import RoutingTrace


def test_by_hand() -> None:
    # Two passes, 0-10 and 10-14. The device works at 0-2 (gpu), 2-3 (host), 8-10 and 12-13 (gpu); nvme at 4-6, pcie at
    # 3-4 and 5-8, and on into the second pass at 10-11. So it waits 3-4 for pcie, 4-5 for nvme, 5-6 for both, 6-8 for
    # pcie, 10-11 for pcie, 11-12 and 13-14 while nothing is at work. What the cache does takes no time.
    log = Log(8)
    for start, end, track in (
        (0, 2, "gpu"), (2, 3, "host"), (8, 10, "gpu"), (12, 13, "gpu"), (4, 6, "nvme"), (3, 4, "pcie"), (5, 7, "pcie"),
        (7, 8, "pcie"), (9, 11, "pcie"), (3, 3, "cache"),
    ):  # fmt: skip
        log.note(start, end, track, "load", 1)
    log.step(0, 10, 0, (0,), compute=4, overhead=1)
    log.step(10, 14, 1, (0,), compute=1)
    assert list(stalls(log)) == [
        Stall(3, 4, ("pcie",)),
        Stall(4, 5, ("nvme",)),
        Stall(5, 6, ("nvme", "pcie")),
        Stall(6, 8, ("pcie",)),
        Stall(10, 11, ("pcie",)),
        Stall(11, 12, ()),
        Stall(13, 14, ()),
    ]
    assert sum(stall.end - stall.start for stall in stalls(log)) == sum(step.stall for step in log.steps)


def test_between_passes_nothing_stalls_and_a_stall_ends_with_its_pass() -> None:
    log = Log(8)
    for start, end in ((0, 1), (1, 2), (5, 6)):
        log.step(start, end, 1, (0,))
    assert list(stalls(log)) == [Stall(0, 1, ()), Stall(1, 2, ()), Stall(5, 6, ())]
    assert not list(stalls(Log(8)))


@pytest.mark.parametrize(
    "options",
    [{"miss": "split"}, {"dram": "25%"}, {"prefetch": "temporal"}, {"hardware": "desktop-cpu"}],
    ids=str,
)
def test_together_they_are_what_each_pass_stalls(options: dict[str, Any]) -> None:
    with RoutingTrace.open() as trace:
        few = RoutingTrace.from_arrays(trace.experts[:100], num_experts=64, offsets=[0, 40, 80, 100], model=trace.model)
    given: dict[str, Any] = {"hardware": "rtx-3090", "log": True, "bounds": False, **options}
    result = simulate(few, "lru", "2x", **given)
    assert result.timed is not None
    log = result.timed.log
    assert log is not None
    found = list(stalls(log))
    for step in log.steps:
        inside = sum(stall.end - stall.start for stall in found if step.start <= stall.start < step.end)
        assert inside == pytest.approx(step.stall, abs=1e-12)
