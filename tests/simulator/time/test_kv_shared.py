"""A cache whose room changes on the way, as the KV cache grows and goes: with every policy there is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from helpers import Run, run, trace
from hypothesis import given, settings
from hypothesis import strategies as st
from machines import geometry, machine

from lrcsim.policies import BUILT_IN, Policy
from lrcsim.simulator import simulate
from lrcsim.simulator.cache.capacity import PoolSize
from lrcsim.simulator.cache.pool import Pool
from lrcsim.simulator.serving.steps import Step
from lrcsim.traces import RoutingTrace

PROFILED = [4, 3, 2, 1, 0, 0]  # uses of experts 0 to 5


def small(tokens: int = 60, **options: Any) -> RoutingTrace:
    """Two layers of 8 experts, top-2, three requests of 20 tokens with prompts of 5, router weights."""
    rng = np.random.default_rng(5)
    return RoutingTrace.from_arrays(
        np.argsort(rng.random((tokens, 2, 8)) * np.arange(1, 9), axis=2)[:, :, :2],
        num_experts=8,
        phase=([0] * 5 + [1] * 15) * (tokens // 20),
        offsets=np.arange(0, tokens + 1, 20),
        weights=np.tile([0.75, 0.25], (tokens, 2, 1)),
        **options,
    )


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("policy", sorted(BUILT_IN))
def test_every_policy_runs_where_the_kv_cache_takes_room(policy: str, scope: str, warm: bool) -> None:
    """Two numbers of 2 bytes per token and layer: 8n bytes for n tokens, 160 at the end of a request.

    An expert has 20 bytes: the pools of 6 (or the one of 12) lose 4 slots each (8) as a request goes on.
    """
    routing = small(expert_bytes=20)
    hits = {}
    for shared in (False, True):
        result = simulate(
            routing,
            policy,
            6 if scope == "layer" else 12,
            scope=scope,  # type: ignore[arg-type]
            warm=warm,
            profile=routing if "profile" in BUILT_IN[policy].needs else None,
            hardware=machine(kv_shared=shared),
            model=geometry(experts=8, top_k=2),
        )
        counts = result.counts
        hits[shared] = int(counts.accesses.sum() - counts.misses.sum())
        assert counts.resident <= (4 if shared else 12)
    assert 0 < hits[True] < hits[False]


@st.composite
def changes(draw: st.DrawFn) -> list[int]:
    return draw(st.lists(st.integers(0, 14), min_size=1, max_size=7))


def resident_of(policy: Policy) -> set[int] | None:
    """Return what a policy believes to be in the pool; None where it cannot be read off."""
    for names in (("passing", "guests", "contents"), ("pinned", "order"), ("order",)):
        if all(hasattr(policy, name) for name in names):
            return {key for name in names for key in getattr(policy, name)}
    return None


@pytest.mark.parametrize("policy", sorted(BUILT_IN))
@settings(max_examples=8)
@given(taken=changes(), scope=st.sampled_from(["layer", "model"]), unequal=st.booleans(), warm=st.booleans())
def test_a_pool_stays_within_its_room(policy: str, taken: list[int], scope: str, unequal: bool, warm: bool) -> None:
    # Room changes from step to step by anything, to nothing and back, in slots or in bytes of layers that differ.
    watched: list[Pool] = []

    def shrink(step: Step, pool: Pool) -> int:
        """Look at the pool as the last step left it."""
        used = sum(pool.view.bytes_of(key) for key in pool.resident) if pool.in_bytes else len(pool.resident)
        assert used == pool.used <= pool.capacity == pool.view.capacity
        assert pool.view.slots == pool.view.slots_in(pool.capacity)
        believed = resident_of(pool.policy)
        assert believed is None or pool.view.slots == 0 or believed == pool.resident
        watched.append(pool)
        return taken[step.number % len(taken)]

    pools: Any = tuple(PoolSize((layer,), 6) for layer in range(2)) if scope == "layer" else 12
    if unequal and scope == "model":
        pools = (PoolSize((0, 1), 14, (2, 3)),)
    counts = np.arange(16) % 7
    found = run(small(40), pools, policy=policy, scope=scope, shrink=shrink, warm=warm, profile=counts, log=False)
    assert watched
    assert 0 <= found.counts.misses.sum() <= found.counts.accesses.sum()


def loads(found: Run) -> list[str]:
    """Return what was loaded on demand; what a policy takes back of its own accord is uploaded behind that."""
    return [event.split("pcie load ")[1] for event in found.events if "pcie load " in event]


def taking(*slots: int) -> Any:
    return lambda step, pool: slots[step.number]


def test_static_gives_up_its_least_used_and_takes_it_back() -> None:
    # The profile's order is 0, 1, 2, 3. Room for 3, 1, 3: {0, 1, 2}, {0}, {0, 1, 2}.
    routing = trace("2", "0", "2", "2", "1")
    found = run(routing, 3, policy="static", profile=PROFILED, shrink=taking(0, 2, 2, 0, 0))
    assert loads(found) == ["0.2"]  # in step 2, and it does not stay
    assert found.counts.preloaded.tolist() == [3 + 2]
    assert found.counts.evictions == 2


def test_repin_gives_up_its_coldest_and_fills_again_at_its_next_pass() -> None:
    # Room for 2, 2, 2, 1, 1, 2: 0 and 1 are in; 1 (heat 1) goes for 0 (heat 2), bypasses once, and is back, uploaded,
    # before the sixth step.
    routing = trace("0", "1", "0", "0", "1", "1", "0")
    found = run(routing, 2, policy="repin:5", shrink=taking(0, 0, 0, 1, 1, 0, 0))
    assert loads(found) == ["0.0", "0.1", "0.1"]
    assert found.counts.preloaded.tolist() == [1]
    assert (found.counts.evictions, found.counts.bypassed) == (1, 1)


def test_statics_guests_leave_first() -> None:
    # The profile knows 0 to 3, and there is room for 6: 4 and 5 stay when they have missed. With room for 5 the last
    # in, 5, has to go, and runs beside; with 6 it is not back by itself, but stays when it has missed once more.
    routing = trace("4", "5", "4", "5", "4", "5", "5")
    found = run(routing, 6, policy="static", profile=PROFILED, shrink=taking(0, 0, 0, 1, 0, 0, 0))
    assert loads(found) == ["0.4", "0.5", "0.5", "0.5"]
    assert found.counts.preloaded.tolist() == [4]


def test_statics_guest_stays_while_there_is_room_for_it() -> None:
    # 4 came in with room for 6, and with room for 5 it is still there.
    found = run(trace("4", "4"), 6, policy="static", profile=PROFILED, shrink=taking(0, 1))
    assert loads(found) == ["0.4"]


def test_statics_own_that_came_back_as_a_guest_is_its_own_again() -> None:
    # Experts of layer 0 have 2 bytes, of layer 1 3; the ranking is 1.0, 0.0, 0.1. Room for 7 bytes holds all, for 6 not
    # 0.1, which misses and runs beside; for 7 it is filled in again and is there once: 0.2 finds no room and goes.
    uses = [2, 1, 0, 0, 3, 0, 0, 0]
    size = (PoolSize((0, 1), 7, (2, 3)),)
    routing = trace("0|0", "1|0", "1|0", "2|0", "2|0", experts=4)
    found = run(routing, size, policy="static", profile=uses, shrink=taking(0, 1, 0, 0, 0))
    assert loads(found) == ["0.1", "0.2", "0.2"]
    assert found.counts.evictions == 1
    policy: Any = found.engine.residency.pools[0].policy
    assert (policy.contents, policy.guests) == ([4, 0, 1], [])


def test_static_that_has_lost_everything_takes_it_back() -> None:
    routing = trace("0", "0", "0")
    found = run(routing, 2, policy="static", profile=PROFILED, shrink=taking(0, 2, 0))
    assert loads(found) == ["0.0"]
    assert found.counts.preloaded.tolist() == [4]


def test_sch_static_keeps_the_most_used_of_its_window() -> None:
    # In the window of five steps 0 is used 3 times, 1 twice (1 stands before 0): room for both, for one, for both.
    routing = trace("1", "0", "1", "0", "0")
    found = run(routing, 2, policy="sch-static:5", shrink=taking(0, 1, 1, 0, 0))
    assert loads(found) == ["0.1"]
    assert found.counts.preloaded.tolist() == [2 + 1]


def test_pinned_lru_keeps_its_share_of_what_is_left() -> None:
    # Half of 4 is pinned: 0 and 1. 4 and 5 fill the rest. With room for 2 one of the pinned goes, 1, and 4, the older
    # of the others; 5 stays. With 4 again 1 is pinned again, beside 5, and there is room for 4.
    routing = trace("4", "5", "5", "0", "1", "4", "5")
    found = run(routing, 4, policy="pinned-lru", profile=PROFILED, shrink=taking(0, 0, 2, 2, 0, 0, 0))
    assert loads(found) == ["0.4", "0.5", "0.4"]
    assert found.counts.preloaded.tolist() == [2 + 1]


def test_what_pinned_lru_no_longer_pins_is_the_oldest_of_the_others() -> None:
    # Half of 6 is pinned: 0, 1, 2; then 4 and 5 come in. With room for 5 two are pinned, and all five stay: 2 is found.
    # 3 puts out the oldest of 4, 5, 2, which is 4.
    routing = trace("4", "5", "2", "3", "5", "2", "4")
    found = run(routing, 6, policy="pinned-lru", profile=PROFILED, shrink=taking(0, 0, 1, 1, 1, 1, 1))
    assert loads(found) == ["0.4", "0.5", "0.3", "0.4"]
    # Unused, it is the first to go.
    found = run(trace("4", "5", "3", "2"), 6, policy="pinned-lru", profile=PROFILED, shrink=taking(0, 0, 1, 1))
    assert loads(found) == ["0.4", "0.5", "0.3", "0.2"]


@pytest.mark.parametrize("policy", ["static", "sch-static:3", "pinned-lru"])
@given(taken=changes())
@settings(max_examples=20)
def test_contents_are_those_of_the_present_room(policy: str, taken: Sequence[int]) -> None:
    # Where the ranking has more experts than there is room, a static pool holds the first of it, whatever came before.
    every = [9, 8, 7, 6, 5, 4, 3, 2] * 2
    ranking: dict[int, list[int]] = {layer: [layer * 8 + expert for expert in range(8)] for layer in range(2)}

    def shrink(step: Step, pool: Pool) -> int:
        if step.number and pool.capacity > 0:
            held = pool.policy
            ranked = ranking[pool.view.layers[0]] if policy == "static" else getattr(held, "ranked")  # noqa: B009
            if policy == "pinned-lru":
                assert list(getattr(held, "pinned")) == ranked[: pool.capacity // 2]  # noqa: B009
            elif len(ranked) >= pool.capacity:
                assert pool.resident == set(ranked[: pool.capacity])
        return taken[step.number % len(taken)]

    run(small(40), 7, policy=policy, shrink=shrink, profile=every, log=False)
