"""A pool by itself: what a prefetch may put out and what the policy hears of it, and a capacity that changes."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import ClassVar

import pytest

from lrcsim.policies import View, make_policy
from lrcsim.policies.admission import Admit2
from lrcsim.policies.base import Policy
from lrcsim.policies.recency import Fifo, Lru
from lrcsim.simulator.cache.capacity import PoolSize
from lrcsim.simulator.cache.pool import Pool

STRIDE = 10


def pool(capacity: int, policy: str | Policy = "fifo", size: tuple[int, ...] | None = None) -> Pool:
    """Make a pool of layer 0, or of as many layers as there are sizes in bytes; experts have keys 0 to 9, 10 to 19."""
    layers = tuple(range(len(size or (0,))))
    view = View(capacity, STRIDE, layers, len(layers), 2, None if size is None else dict(enumerate(size)))
    made = make_policy(policy) if isinstance(policy, str) else policy
    return Pool(PoolSize(layers, capacity, size), made, view)


def filled(capacity: int, *keys: int, policy: str | Policy = "fifo", size: tuple[int, ...] | None = None) -> Pool:
    """Make a pool that has used these experts, one after the other."""
    made = pool(capacity, policy, size)
    for key in keys:
        made.coresident([key])
    return made


class Witness(Lru):
    """LRU that writes down the router weights it saw, batch after batch."""

    needs = frozenset({"weights"})
    seen: ClassVar[list[tuple[tuple[int, ...], tuple[float, ...]]]] = []

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        self.seen.append((tuple(batch), tuple(self.view.weights)))
        super().access(batch, missed)


def test_a_prefetch_puts_out_nothing_protected() -> None:
    # Loaded in the order 0, 1, 2. With 0 protected the oldest of the others goes, which is 1.
    made = filled(3, 0, 1, 2)
    assert made.prefetch(3, {0})
    assert (made.resident, made.used, made.evictions) == ({0, 2, 3}, 3, 1)
    # Protected experts that are not there take no room: 0 goes, 2 and 3 stay, and 5 was never in.
    assert made.prefetch(4, {2, 3, 5})
    assert made.resident == {2, 3, 4}


def test_a_prefetch_that_would_need_a_protected_place_changes_nothing() -> None:
    Witness.seen.clear()
    made = filled(2, 0, 1, policy=Witness())
    before = list(Witness.seen)
    assert not made.prefetch(3, {0, 1})
    assert (made.resident, made.used, made.evictions) == ({0, 1}, 2, 0)
    assert Witness.seen == before  # nor does the policy hear of it
    assert made.prefetch(3, {1})  # one place is free of protection: 0 goes
    assert made.resident == {1, 3}


def test_a_prefetch_in_bytes() -> None:
    # Experts of layer 0 have 3 bytes, of layer 1 two; 8 bytes hold 0, 1 and 10. 2 needs 3 bytes: beside 0 and 10,
    # which are protected and take 5, it fits to the byte, and 1 goes. Beside 0, 2 and 10 there is no room for 11.
    made = filled(8, 0, 1, 10, size=(3, 2))
    assert made.used == 8
    assert made.prefetch(2, {0, 10})
    assert (made.resident, made.used, made.evictions) == ({0, 2, 10}, 8, 1)
    assert not made.prefetch(11, {0, 2, 10})
    # 11 needs 2 bytes; 0, the oldest, leaves 3.
    assert made.prefetch(11, {10})
    assert (made.resident, made.used, made.evictions) == ({2, 10, 11}, 7, 2)


def test_a_prefetch_into_room_that_is_free_puts_out_nothing() -> None:
    made = filled(3, 0, 1)
    assert made.prefetch(2, {0, 1})
    assert (made.resident, made.evictions) == ({0, 1, 2}, 0)


def test_a_prefetched_expert_enters_without_router_weight_and_leaves_the_batch_its_own() -> None:
    Witness.seen.clear()
    made = pool(4, Witness())
    made.view.weights = [0.75, 0.25]
    made.coresident([0, 1])
    made.prefetch(2, {0, 1})
    assert Witness.seen == [((0, 1), (0.75, 0.25)), ((2,), (0.0,))]
    assert made.view.weights == [0.75, 0.25]


def test_a_policy_that_ranks_by_weight_puts_out_what_was_prefetched_first() -> None:
    # score-ema: 0 has 0.3 x 0.5, 1 has 0.3 x 0.4, the prefetched 2 has 0. One place too few: 2 goes.
    made = pool(3, "score-ema")
    for key, weight in ((0, 0.5), (1, 0.4)):
        made.view.weights = [weight]
        made.coresident([key])
    assert made.prefetch(2, set())
    made.view.weights = [0.5]
    assert made.coresident([3]) == [3]
    assert made.resident == {0, 1, 3}


def test_a_prefetched_expert_does_not_make_room_for_itself() -> None:
    # The prefetched 2 is worth least of all, and stays: 1 goes.
    made = pool(2, "score-ema")
    made.view.weights = [0.5, 0.4]
    made.coresident([0, 1])
    assert made.prefetch(2, set())
    assert made.resident == {0, 2}


def test_a_capacity_that_changes_is_the_policys_too() -> None:
    made = filled(4, 0, 1, 2, 3)
    made.resize(2)  # the oldest two go
    assert (made.resident, made.evictions) == ({2, 3}, 2)
    assert (made.capacity, made.view.capacity, made.view.slots) == (2, 2, 2)
    made.resize(3)
    assert (made.resident, made.evictions) == ({2, 3}, 2)
    assert (made.capacity, made.view.capacity, made.view.slots) == (3, 3, 3)
    made.resize(0)
    assert (made.resident, made.evictions, made.view.slots) == (set(), 4, 0)
    # Nothing fits: what is loaded passes through, and counts as evicted.
    assert made.coresident([5]) == [5]
    assert (made.resident, made.evictions) == (set(), 5)


def test_a_capacity_in_bytes_that_changes() -> None:
    # 0 and 1 of 3 bytes, 10 of 2. Down to 7 bytes the oldest goes, which is 0, and 5 are used. About 7 x 2 / 5 fit.
    made = filled(8, 0, 1, 10, size=(3, 2))
    made.resize(7)
    assert (made.resident, made.used, made.evictions) == ({1, 10}, 5, 1)
    assert (made.capacity, made.view.capacity, made.view.slots) == (7, 7, 2)
    made.resize(1)  # less than any expert has
    assert (made.resident, made.used, made.view.slots) == (set(), 0, 0)


def test_what_is_evicted_is_written_down_in_order() -> None:
    made = pool(2)
    made.evicted_log = []
    for key in (0, 1, 2):
        made.coresident([key])
    assert made.prefetch(3, set())
    made.resize(1)
    assert made.evicted_log == [0, 1, 2]
    made.empty()  # this is no eviction
    assert (made.evicted_log, made.evictions, made.resident, made.used) == ([0, 1, 2], 3, set(), 0)


def test_misses_that_are_not_admitted_stay_out_and_unheard() -> None:
    # 0 is there; of the misses 1, 2, 3 only 2 is loaded. The policy hears of 0 and 2, with their weights.
    Witness.seen.clear()
    made = pool(4, Witness())
    made.view.weights = [0.5]
    made.coresident([0])
    made.view.weights, made.view.next_use = [0.1, 0.2, 0.3, 0.4], [5, 6, 7, 8]
    asked: list[list[int]] = []

    def admit(missed: list[int]) -> list[int]:
        asked.append(list(missed))
        return [2]

    assert made.coresident([1, 0, 2, 3], admit) == [1, 2, 3]
    assert asked == [[1, 2, 3]]
    assert made.resident == {0, 2}
    assert Witness.seen[-1] == ((0, 2), (0.2, 0.3))
    assert list(made.view.next_use) == [6, 7]
    made.view.weights, made.view.next_use = [0.5], []
    assert made.coresident([0], admit) == []
    assert asked == [[1, 2, 3]]  # nothing missed, nobody asked


class Timetable(Lru):
    """LRU that is given whole contents to load before a step."""

    refills = True
    wanted: ClassVar[tuple[int, ...]] = ()

    def refill(self) -> tuple[int, ...]:
        return self.wanted


def test_a_refill_counts_what_it_brings_by_the_layer_of_each() -> None:
    # Layer 0 has experts 0 to 9, layer 1 those from 10. 0 and 10 are there; of 0, 1, 11, 12 only the last three come.
    made = filled(4, 0, 10, policy=Timetable(), size=(1, 1))
    made.view.layer = 0
    Timetable.wanted = (0, 1, 11, 12)
    made.refilled_log, made.evicted_log = [], []
    made.refill()
    assert (made.preloaded, made.resident, made.used) == ({0: 1, 1: 2}, {0, 1, 11, 12}, 4)
    assert (made.refilled_log, made.evicted_log) == ([1, 11, 12], [10])
    made.refill()  # all are there
    assert (made.preloaded, made.evictions) == ({0: 1, 1: 2}, 0)


class Listener(Lru):
    """LRU that writes down what it hears of."""

    heard: ClassVar[list[tuple[int, ...]]] = []

    def elsewhere(self, keys: Sequence[int]) -> None:
        self.heard.append(tuple(keys))


@pytest.mark.parametrize("admission", [False, True])
def test_a_policy_hears_of_what_is_not_loaded(admission: bool) -> None:
    Listener.heard.clear()
    made = pool(4, Admit2(Listener()) if admission else Listener())
    assert made.coresident([0, 1, 2, 3], lambda missed: missed[1:3]) == [0, 1, 2, 3]
    assert (made.resident, Listener.heard) == ({1, 2}, [(0, 3)])
    made.coresident([1, 2, 4], lambda missed: missed)
    assert Listener.heard == [(0, 3)]  # all were loaded


def test_a_batch_larger_than_the_pool_first_puts_out_the_others() -> None:
    # Two slots with 5 and 6, and a batch of three: 5 and 6 go, then the oldest of the batch.
    made = filled(2, 5, 6)
    made.evicted_log = []
    assert made.coresident([0, 1, 2]) == [0, 1, 2]
    assert (made.evicted_log, made.resident, made.evictions) == ([5, 6, 0], {1, 2}, 3)


class Columns(Lru):
    """LRU that needs everything, and writes down what the view has of each expert."""

    needs = frozenset({"weights", "future"})
    seen: ClassVar[list[tuple[tuple[int, ...], list[float], list[float], list[int]]]] = []

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        view = self.view
        self.seen.append((tuple(batch), list(view.weights), list(view.layer_weights), list(view.next_use)))
        super().access(batch, missed)


def test_one_after_the_other_each_comes_with_its_own_columns_and_the_weights_of_all() -> None:
    Columns.seen.clear()
    made = pool(2, Columns())
    made.view.weights, made.view.next_use = [0.5, 0.25, 0.25], [7, 8, 9]
    assert made.sequential([3, 4, 3]) == [3, 4]
    whole = [0.5, 0.25, 0.25]
    assert Columns.seen == [((3,), [0.5], whole, [7]), ((4,), [0.25], whole, [8]), ((3,), [0.25], whole, [9])]


class Passing(Fifo):
    """FIFO that lets the newest go first, if need be past the cache; writes down what it is told has left."""

    bypass = True
    left: ClassVar[list[int]] = []

    def victim(self, protected: Container[int]) -> int:
        return next(reversed(self.order))

    def evicted(self, key: int) -> None:
        self.left.append(key)
        super().evicted(key)


def test_what_never_got_in_is_no_eviction() -> None:
    # Two slots with 0 and 1. Of the batch 2 and 3 the newest go: both were only now loaded. The policy hears of each.
    Passing.left.clear()
    made = filled(2, 0, 1, policy=Passing())
    assert made.coresident([2, 3]) == [2, 3]
    assert (made.bypassed, made.evictions, made.resident, Passing.left) == (2, 0, {0, 1}, [3, 2])
    made.resize(1)  # 1 was in the pool, so it is evicted
    assert (made.bypassed, made.evictions, made.resident, Passing.left) == (2, 1, {0}, [3, 2, 1])


def test_the_papers_rule_gives_first_uses_away_as_far_as_they_fit() -> None:
    # Two slots, LRU. 0 and 1 are the first two distinct ones: hits, though nothing was there. 2 is the third: it misses
    # and puts 0 out, which then misses as one that was seen and is not there. 5 bytes hold two of 2 bytes each.
    for made in (pool(2, "lru"), pool(5, "lru", size=(2,))):
        assert [made.paper(batch) for batch in ([0, 1], [1], [2], [0], [2])] == [[], [], [2], [0], []]
        assert made.resident == {0, 2}


def test_one_after_the_other_never_puts_out_what_has_just_come() -> None:
    # LFU, two slots: 0 and 1 were used twice when 2 comes, used once. It stays, and 0, the older of the two, goes.
    made = pool(2, "lfu")
    assert made.sequential([0, 1, 0, 1, 2]) == [0, 1, 2]
    assert (made.resident, made.evictions) == ({1, 2}, 1)


def test_a_pool_without_a_slot_lets_every_expert_pass() -> None:
    made = pool(0)
    assert made.sequential([0, 1, 0]) == [0, 1, 0]
    assert (made.resident, made.evictions, made.bypassed) == (set(), 3, 0)
