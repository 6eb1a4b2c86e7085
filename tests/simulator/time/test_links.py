"""Links by themselves: who is served when, solved by hand, and against a naive server of one lane."""

from __future__ import annotations

from typing import NamedTuple

import simpy
from helpers import line, link
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.hardware import Link
from lrcsim.simulator.time.bandwidth import Flows
from lrcsim.simulator.time.links import DEMAND, PREFETCH, LinkServer, Transfer
from lrcsim.simulator.time.spans import Log


class Given(NamedTuple):
    """A transfer of an expert, and when it is promoted or cancelled, if ever."""

    at: float
    size: int
    priority: int = DEMAND
    promoted: float | None = None
    cancelled: float | None = None


class Served(NamedTuple):
    chunks: list[str]
    arrived: dict[int, float]
    server: LinkServer


def serve(hardware: Link, *transfers: Given) -> Served:
    env, log = simpy.Environment(), Log(stride=1000)
    server = LinkServer(env, hardware, Flows(env, 1e9), log)
    arrived: dict[int, float] = {}

    def begin(number: int, asked: Given) -> None:
        def done(transfer: Transfer) -> None:
            arrived[transfer.key] = env.now

        def cancel() -> None:
            transfer.cancelled = True

        transfer = Transfer(
            number, asked.size, asked.priority, done, "load" if asked.priority == DEMAND else "prefetch"
        )
        env.timeout(asked.at).callbacks.append(lambda _: server.submit(transfer))
        if asked.promoted is not None:
            env.timeout(asked.promoted).callbacks.append(lambda _: server.promote(transfer))
        if asked.cancelled is not None:
            env.timeout(asked.cancelled).callbacks.append(lambda _: cancel())

    for number, asked in enumerate(transfers):
        begin(number, asked)
    env.run()
    return Served([line(span) for span in log.spans], arrived, server)


def test_in_the_order_of_submission() -> None:
    served = serve(link(), Given(0, 100), Given(0.5, 50), Given(0.25, 100))
    assert served.chunks == ["0-1 pcie load 0.0", "1-2 pcie load 0.2", "2-2.5 pcie load 0.1"]
    assert served.arrived == {0: 1, 2: 2, 1: 2.5}


def test_the_urgent_go_first_but_interrupt_no_chunk() -> None:
    # Three prefetched chunks of 50; the load comes at 0.25 and has to wait for the first alone.
    served = serve(link(chunk=50), Given(0, 150, PREFETCH), Given(0.25, 100))
    assert served.chunks == [
        "0-0.5 pcie prefetch 0.0",
        "0.5-1 pcie load 0.1",
        "1-1.5 pcie load 0.1",
        "1.5-2 pcie prefetch 0.0",
        "2-2.5 pcie prefetch 0.0",
    ]


def test_a_preempted_prefetch_keeps_its_place_before_later_ones() -> None:
    served = serve(link(chunk=50), Given(0, 100, PREFETCH), Given(0, 100, PREFETCH), Given(0.25, 50))
    assert served.arrived == {2: 1, 0: 1.5, 1: 2.5}


def test_equal_priority_does_not_preempt() -> None:
    served = serve(link(chunk=50), Given(0, 100), Given(0.25, 50))
    assert served.arrived == {0: 1, 1: 1.5}


def test_a_promoted_transfer_takes_no_lane_from_its_equals() -> None:
    # The load takes the lane from the prefetch at 0.5. Made as urgent at 0.75, and submitted before it, the prefetch
    # still waits for the load's end: 0.5-1.5, then its other 100 bytes.
    served = serve(link(chunk=50), Given(0, 150, PREFETCH, promoted=0.75), Given(0.25, 100))
    assert served.arrived == {1: 1.5, 0: 2.5}


def test_what_waits_has_the_lane_before_an_arrival_is_told() -> None:
    # When the first has come, at 1, another load is asked for. The prefetch that waits has started by then: 1-2.
    env = simpy.Environment()
    server = LinkServer(env, link(), Flows(env, 1e9))
    arrived: dict[int, float] = {}

    def done(transfer: Transfer) -> None:
        arrived[transfer.key] = env.now
        if transfer.key == 0:
            server.submit(Transfer(2, 100, DEMAND, done, "load"))

    server.submit(Transfer(0, 100, DEMAND, done, "load"))
    server.submit(Transfer(1, 100, PREFETCH, done, "prefetch"))
    env.run()
    assert arrived == {0: 1, 1: 2, 2: 3}


def test_what_is_cancelled_takes_no_lane_from_anything() -> None:
    # The load that would go before the prefetch at 0.5 is cancelled by then; 1, submitted later, waits for its turn.
    served = serve(
        link(chunk=50), Given(0, 100, PREFETCH), Given(0, 50, PREFETCH), Given(0.25, 50, DEMAND, cancelled=0.3)
    )
    assert served.arrived == {0: 1, 1: 1.5}


def test_a_promoted_transfer_keeps_its_place_of_submission() -> None:
    # 1 was submitted before the load 2, and goes before it once it is urgent.
    served = serve(link(), Given(0, 100), Given(0.1, 100, PREFETCH, promoted=0.75), Given(0.5, 100))
    assert served.arrived == {0: 1, 1: 2, 2: 3}


def test_promotion_on_the_way_and_before_it_can_start() -> None:
    # Under way: the load of 0.75 does not preempt it any more. Within its latency: it is urgent when it queues.
    served = serve(link(chunk=50), Given(0, 200, PREFETCH, promoted=0.6), Given(0.75, 50))
    assert served.arrived == {0: 2, 1: 2.5}
    late = link(latency=1)
    assert serve(late, Given(0, 100, PREFETCH), Given(0, 100, PREFETCH, promoted=0.5)).arrived == {0: 2, 1: 3}
    assert serve(late, Given(0, 100), Given(0, 100, PREFETCH), Given(0, 100, PREFETCH, promoted=0.5)).arrived == {
        0: 2,
        2: 3,
        1: 4,
    }


def test_cancelled_while_waiting_in_latency_and_between_chunks() -> None:
    waiting = serve(link(), Given(0, 100), Given(0, 100, PREFETCH, cancelled=0.5), Given(0, 100))
    assert waiting.arrived == {0: 1, 2: 2}
    assert waiting.server.bytes == 200
    assert serve(link(latency=1), Given(0, 100, PREFETCH, cancelled=0.5)).chunks == []
    chunked = serve(link(chunk=50), Given(0, 150, PREFETCH, cancelled=0.75))
    assert chunked.chunks == ["0-0.5 pcie prefetch 0.0", "0.5-1 pcie prefetch 0.0"]
    assert (chunked.arrived, chunked.server.bytes) == ({}, 100)


def test_lanes_share_the_bandwidth_equally() -> None:
    # 0 alone until 0.5 (50 of 100 bytes); then 50 bytes/s each: 0 is there at 1.5; 1 has 50 left, and moves them by 2.
    assert serve(link(lanes=2), Given(0, 100), Given(0.5, 100)).arrived == {0: 1.5, 1: 2}


def test_busy_is_the_time_with_a_lane_taken() -> None:
    # 0-1.5 and 3-4: overhead counts, latency does not.
    server = serve(link(latency=0.5, overhead=0.5, lanes=2), Given(0, 100), Given(3, 50)).server
    assert server.busy() == 1.5 + 1
    # From 0 one lane, from 0.5 both, to 1.5; one to 2: the link was never free.
    assert serve(link(lanes=2), Given(0, 100), Given(0.5, 100)).server.busy() == 2


def test_busy_and_moved_count_what_is_under_way() -> None:
    # 100 bytes at 100 bytes/s from 1 to 2, two chunks of 100 from 3 to 5. In between the lane is free.
    env = simpy.Environment()
    server = LinkServer(env, link(chunk=100), Flows(env, 1e9))
    for number, (at, size) in enumerate(((1, 100), (3, 200))):
        transfer = Transfer(number, size, DEMAND, lambda _: None, "load")
        env.timeout(at).callbacks.append(lambda _, transfer=transfer: server.submit(transfer))
    seen = []
    for now in (0.5, 1.25, 2.5, 3.5, 4.75, 6):
        env.run(until=now)
        seen.append((server.busy(), server.moved()))
    assert seen == [(0, 0), (0.25, 25), (1, 100), (1.5, 150), (2.75, 275), (3, 300)]


@given(
    st.lists(
        st.builds(
            Given,
            at=st.integers(0, 6).map(lambda sevenths: 3 * sevenths / 7),  # never at the very end of a chunk
            size=st.sampled_from([25, 50, 100, 130]),
            priority=st.sampled_from([DEMAND, PREFETCH]),
            promoted=st.none(),
            cancelled=st.none(),
        ),
        min_size=1,
        max_size=7,
        unique_by=lambda asked: asked.at,
    ),
    st.sampled_from([None, 25, 40]),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.0, 0.7]),
)
def test_equals_a_naive_server(transfers: list[Given], chunk: int | None, overhead: float, latency: float) -> None:
    served = serve(link(latency=latency, overhead=overhead, chunk=chunk), *transfers)
    # naive: at every moment the lane is free take the first chunk of the most urgent of those that may start
    order = sorted(range(len(transfers)), key=lambda number: transfers[number].at)
    left = [transfer.size for transfer in transfers]
    now, arrived = 0.0, {}
    while any(left):
        ready = [number for number in order if left[number] and transfers[number].at + latency <= now + 1e-9]
        if not ready:
            now = min(transfers[number].at + latency for number in order if left[number])
            continue
        number = min(ready, key=lambda number: (transfers[number].priority, order.index(number)))
        size = min(left[number], chunk or left[number])
        now += overhead + size / 100
        left[number] -= size
        if not left[number]:
            arrived[number] = now
    assert {number: round(time, 9) for number, time in served.arrived.items()} == {
        number: round(time, 9) for number, time in arrived.items()
    }
