"""What the caches count, how they lose room, and an expert's way over two links, worked out by hand."""

from __future__ import annotations

import simpy
from helpers import engine, link, trace

from lrcsim.simulator.time.bandwidth import Flows
from lrcsim.simulator.time.fetch import Fetch
from lrcsim.simulator.time.links import PREFETCH, LinkServer


def test_low_precision_copies_count_at_their_own_size() -> None:
    # A prompt loads 0, 100 bytes, and 1 as a copy of a quarter; each decoded token the copy again.
    routing = trace("01", "01", "01", phase=[0, 1, 1], weights=[[[0.75, 0.25]]] * 3)
    made = engine(routing, 4, action="low:0.5,0.25", sizes=[100])
    made.residency.sizes = [100]
    made.run()
    counts = made.residency.finish()
    assert counts.loads is not None
    assert counts.loaded_bytes is not None
    assert counts.loads.tolist() == [2, 2]
    assert counts.loaded_bytes.tolist() == [125, 50]


def test_a_kv_cache_larger_than_the_cache_leaves_nothing_not_less() -> None:
    # Two slots of which five are taken in step 1: none is left, what is used passes through. Then both are back.
    routing = trace("01", "0", "0", "0")
    made = engine(routing, 2, shrink=lambda step, pool: 5 * (step.number == 1))
    pool = made.residency.pools[0]
    capacities: list[tuple[int, int]] = []
    look_up = made.residency.look_up

    def watched(step: object, work: object) -> object:
        capacities.append((pool.capacity, pool.view.slots))
        return look_up(step, work)  # type: ignore[arg-type]

    made.residency.look_up = watched  # type: ignore[method-assign, assignment]
    made.run()
    assert capacities == [(2, 2), (0, 0), (2, 2), (2, 2)]
    counts = made.residency.finish()
    assert counts.misses.sum() == 2 + 1 + 1  # and a hit in the last step
    assert counts.evictions == 2 + 1


def test_first_uses_of_a_cold_cache_are_counted_by_request() -> None:
    # 0 is used by both requests: emptied in between, it is a first use twice; in a warm one once.
    routing = trace("0", "0", "0", offsets=[0, 1, 3])
    for warm, cold in ((True, 1), (False, 2)):
        made = engine(routing, 2, warm=warm)
        made.run()
        assert made.residency.finish().cold_misses == cold


def test_a_prefetch_promoted_on_its_first_leg_is_urgent_on_the_next() -> None:
    # From storage 0-2, promoted at 1. The link is taken until 3 by a prefetch, and another waits all the while: it goes
    # second, 4-5, the one promoted first, 3-4.
    env = simpy.Environment()
    flows = Flows(env, 1e9)
    storage, pcie = LinkServer(env, link(50), flows), LinkServer(env, link(), flows)
    arrived: dict[int, float] = {}

    def done(fetch: Fetch) -> None:
        arrived[fetch.key] = env.now

    promoted = Fetch(0, [storage, pcie], 100, PREFETCH, "prefetch", done)
    Fetch(1, [pcie], 300, PREFETCH, "prefetch", done)
    Fetch(2, [pcie], 100, PREFETCH, "prefetch", done)
    env.timeout(1).callbacks.append(lambda _: promoted.promote())
    env.run()
    assert arrived == {1: 3, 0: 4, 2: 5}
