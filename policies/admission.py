"""Policies that decide which missed experts may displace others: W-TinyLFU, and second-touch admission before any."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container

from lrcsim.policies.base import Param
from lrcsim.policies.kernels import Queue
from lrcsim.policies.ordering import EvictThenInsert, first_or_none, first_unprotected
from lrcsim.policies.queues import Keys, slots_of

MOST_USES = 15
"""Largest count of W-TinyLFU: four bits, as in the authors' Caffeine."""


class WTinyLfu(EvictThenInsert):
    """New experts pass a small LRU window; one that leaves it enters the main cache only if used more than its victim.

    The main cache is an SLRU: experts enter on probation, a hit there promotes into the protected segment. As long as
    the main cache has room, what overflows the window enters. Then the window's least recent expert is held against the
    least recent on probation: the one with fewer uses is evicted, of equals the one from the window. Window and
    segments are shares of the slots, the window at least one; a protected segment may round to none.

    Uses are counted exactly, also of experts that are not in the cache: these are few, so that the authors' sketch
    (whose counts hash collisions may raise) and its doorkeeper would save nothing. Counts end at 15, and are halved,
    rounded down, whenever ``sample`` x slots uses have been counted; so is that number. With batches an eviction is
    such a comparison while the window has experts outside the batch; after them the main cache gives the victims.
    """

    name = "w-tinylfu"
    aliases = ("wtinylfu", "window-tinylfu")
    source = (
        "Einziger, Friedman, Manes, ACM Transactions on Storage 13(4), 2017 (arXiv 1512.00727); counters as Caffeine's"
    )
    kernels = (Queue.W_TINYLFU,)
    params = (
        Param("window", 0.01, "share of the slots in the window", 0, 1),
        Param("share", 0.8, "share of the main cache's slots in the protected segment", 0, 1),
        Param("sample", 10, "uses after which all counts are halved, per slot", minimum=1, maximum=1_000_000),
    )
    window: float
    share: float
    sample: int

    def reset(self) -> None:
        super().reset()
        slots = self.view.slots
        self.window_slots = min(slots, slots_of(self.window, slots))
        self.main_slots = slots - self.window_slots
        self.safe_slots = int(self.main_slots * self.share + 1e-9)
        self.period = self.sample * slots
        self.recent: Keys = OrderedDict()  # the window
        self.probation: Keys = OrderedDict()
        self.safe: Keys = OrderedDict()
        self.uses: dict[int, int] = {}
        self.seen = 0  # uses counted, halved with them

    def kernel_sizes(self) -> dict[str, int]:
        return {"part": self.safe_slots, "ghost": self.window_slots, "threshold": self.period}

    def hit(self, key: int) -> None:
        self._count(key)
        if key in self.recent:
            self.recent.move_to_end(key)
            return
        self.probation.pop(key, None)
        self.safe[key] = None
        self.safe.move_to_end(key)
        while len(self.safe) > self.safe_slots:
            demoted, _ = self.safe.popitem(last=False)
            self.probation[demoted] = None

    def miss(self, key: int) -> None:
        self._count(key)

    def insert(self, key: int) -> None:
        self.recent[key] = None
        while len(self.recent) > self.window_slots and len(self.probation) + len(self.safe) < self.main_slots:
            oldest, _ = self.recent.popitem(last=False)
            self.probation[oldest] = None

    def choose(self, protected: Container[int]) -> int:
        candidate = first_or_none(self.recent, protected)
        victim = first_or_none(self.probation, protected)
        if victim is None:
            victim = first_or_none(self.safe, protected)
        if candidate is None:
            return first_unprotected(self.safe, protected) if victim is None else victim
        if victim is None or self.uses.get(candidate, 0) <= self.uses.get(victim, 0):
            return candidate
        del self.recent[candidate]
        self.probation[candidate] = None
        return victim

    def removed(self, key: int) -> None:
        for queue in (self.recent, self.probation, self.safe):
            queue.pop(key, None)

    def _count(self, key: int) -> None:
        self.uses[key] = min(self.uses.get(key, 0) + 1, MOST_USES)
        self.seen += 1
        if self.seen >= self.period:
            self.seen //= 2
            self.uses = {key: count // 2 for key, count in self.uses.items()}
