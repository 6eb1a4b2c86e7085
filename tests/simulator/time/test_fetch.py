"""An expert's way over one link after the other, worked out by hand."""

from __future__ import annotations

import simpy
from helpers import link

from lrcsim.simulator.time.bandwidth import Flows
from lrcsim.simulator.time.fetch import Fetch
from lrcsim.simulator.time.links import PREFETCH, LinkServer


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


def test_a_prefetch_promoted_while_it_waits_goes_before_the_others() -> None:
    # The link is taken until 1. Of the two that wait the second is promoted at 0.5: it goes 1-2, the other 2-3.
    env = simpy.Environment()
    pcie = LinkServer(env, link(), Flows(env, 1e9))
    arrived: dict[int, float] = {}

    def done(fetch: Fetch) -> None:
        arrived[fetch.key] = env.now

    *_, last = [Fetch(key, [pcie], 100, PREFETCH, "prefetch", done) for key in range(3)]
    env.timeout(0.5).callbacks.append(lambda _: last.promote())
    env.run()
    assert arrived == {0: 1, 2: 2, 1: 3}


def test_a_fetch_cancelled_on_its_last_chunk_goes_no_further() -> None:
    # From storage 0-2. Cancelled at 1 its bytes still come to DRAM, but the second link is never asked, nobody told.
    env = simpy.Environment()
    flows = Flows(env, 1e9)
    storage, pcie = LinkServer(env, link(50), flows), LinkServer(env, link(), flows)
    told: list[int] = []
    fetch = Fetch(0, [storage, pcie], 100, PREFETCH, "prefetch", lambda fetch: told.append(fetch.key))
    alone = Fetch(1, [pcie], 100, PREFETCH, "prefetch", lambda fetch: told.append(fetch.key))
    for one, moment in ((fetch, 1), (alone, 0.5)):
        env.timeout(moment).callbacks.append(lambda _, one=one: one.cancel())
    env.run()
    assert (storage.bytes, pcie.bytes, told) == (100, 100, [])
