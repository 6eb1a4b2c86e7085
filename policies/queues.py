"""Policies with several queues: SLRU, S3-FIFO, ARC, 2Q."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Sequence

from lrcsim.policies.base import Param
from lrcsim.policies.kernels import Queue
from lrcsim.policies.ordering import EvictThenInsert, first_unprotected

Keys = OrderedDict[int, None]  # oldest first


def slots_of(share: float, slots: int) -> int:
    """Return a share of the slots, rounded down; at least one, for a queue of none would let nothing in."""
    return max(1, int(slots * share + 1e-9))


def _has_unprotected(queue: Keys, protected: Container[int]) -> bool:
    return any(key not in protected for key in queue)


class Slru(EvictThenInsert):
    """Two LRU segments: loaded experts are on probation, a hit promotes into the protected segment."""

    name = "slru"
    source = "Karedla, Love, Wherry 1994"
    kernels = (Queue.SLRU,)
    params = (Param("share", 0.8, "share of the slots in the protected segment", 0, 1),)
    share: float

    def reset(self) -> None:
        super().reset()
        self.probation: Keys = OrderedDict()
        self.safe: Keys = OrderedDict()
        self.safe_slots = int(self.view.slots * self.share)

    def kernel_sizes(self) -> dict[str, int]:
        return {"part": self.safe_slots}

    def hit(self, key: int) -> None:
        if key in self.safe:
            self.safe.move_to_end(key)
            return
        del self.probation[key]
        self.safe[key] = None
        while len(self.safe) > self.safe_slots:
            demoted, _ = self.safe.popitem(last=False)
            self.probation[demoted] = None

    def insert(self, key: int) -> None:
        self.probation[key] = None

    def choose(self, protected: Container[int]) -> int:
        queue = self.probation if _has_unprotected(self.probation, protected) else self.safe
        return first_unprotected(queue, protected)

    def removed(self, key: int) -> None:
        del (self.probation if key in self.probation else self.safe)[key]


class S3Fifo(EvictThenInsert):
    """Three FIFO queues: a small one filters experts used once, the main one gives second chances, a ghost remembers.

    While the cache fills up, experts that find the small queue full join the main one (the authors' present code; their
    paper puts them into the small queue). The small queue has at least one slot: rounding its share down to none would
    admit nothing.
    """

    name = "s3-fifo"
    aliases = ("s3fifo",)
    source = "Yang et al., SOSP 2023, as in libCacheSim 0.3.5"
    kernels = (Queue.S3_FIFO,)
    params = (
        Param("share", 0.1, "share of the slots in the small queue", 0, 1),
        Param("threshold", 2, "uses in the small queue that earn a place in the main one", minimum=1),
    )
    share: float
    threshold: int

    def reset(self) -> None:
        super().reset()
        slots = self.view.slots
        self.small_slots = slots_of(self.share, slots)
        self.main_slots = slots - self.small_slots
        self.ghost_slots = int(slots * 0.9 + 1e-9)
        self.small: Keys = OrderedDict()
        self.main: Keys = OrderedDict()
        self.ghost: Keys = OrderedDict()
        self.uses: dict[int, int] = {}
        self.remembered: set[int] = set()
        self.filling = True  # until the first eviction

    def kernel_sizes(self) -> dict[str, int]:
        return {"part": self.small_slots, "ghost": self.ghost_slots, "threshold": self.threshold}

    def hit(self, key: int) -> None:
        self.uses[key] += 1

    def miss(self, key: int) -> None:
        if key in self.ghost:
            del self.ghost[key]
            self.remembered.add(key)

    def insert(self, key: int) -> None:
        to_main = key in self.remembered or (self.filling and len(self.small) >= self.small_slots)
        (self.main if to_main else self.small)[key] = None
        self.remembered.discard(key)
        self.uses[key] = 0

    def choose(self, protected: Container[int]) -> int:
        free_small = _has_unprotected(self.small, protected)
        if free_small and (len(self.main) <= self.main_slots or not _has_unprotected(self.main, protected)):
            victim = self._from_small(protected)
            if victim is not None:
                return victim
        return self._from_main(protected)

    def _from_small(self, protected: Container[int]) -> int | None:
        small = self.small
        while (key := next((key for key in small if key not in protected), None)) is not None:
            if self.uses[key] < self.threshold:
                break
            del small[key]
            self.main[key] = None
            self.uses[key] = 0
        return key

    def _from_main(self, protected: Container[int]) -> int:
        while True:
            key = first_unprotected(self.main, protected)
            if self.uses[key] < 1:
                return key
            self.uses[key] = min(self.uses[key], 3) - 1
            self.main.move_to_end(key)

    def removed(self, key: int) -> None:
        self.filling = False
        del self.uses[key]
        if key in self.main:
            del self.main[key]
            return
        del self.small[key]
        if self.ghost_slots:
            if len(self.ghost) >= self.ghost_slots:
                self.ghost.popitem(last=False)
            self.ghost[key] = None


class Arc(EvictThenInsert):
    """Two LRU lists, used once (t1) and more often (t2), whose sizes adapt by two ghost lists (b1, b2).

    With batches, all ghost hits of a layer-step adapt the target and leave their ghost list at the lookup, and the i-th
    eviction is charged to the i-th miss. Where every expert of the list to evict from belongs to the batch, the other
    list gives the victim. A ghost list that outgrows the capacity drops its oldest entry.
    """

    name = "arc"
    source = "Megiddo and Modha, FAST 2003, figure 4"
    kernels = (Queue.ARC,)

    def reset(self) -> None:
        super().reset()
        self.size = self.view.slots
        self.target = 0.0  # of t1
        self.t1: Keys = OrderedDict()
        self.t2: Keys = OrderedDict()
        self.b1: Keys = OrderedDict()
        self.b2: Keys = OrderedDict()
        self.to_t2: set[int] = set()
        self.causes: list[str] = []
        self.keep_ghost = True

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        self.causes = []
        super().access(batch, missed)

    def hit(self, key: int) -> None:
        self.t1.pop(key, None)
        self.t2[key] = None
        self.t2.move_to_end(key)

    def miss(self, key: int) -> None:
        if key in self.b1:
            self.target = min(self.target + max(len(self.b2) / len(self.b1), 1), self.size)
            del self.b1[key]
            self.to_t2.add(key)
            self.causes.append("b1")
        elif key in self.b2:
            self.target = max(self.target - max(len(self.b1) / len(self.b2), 1), 0)
            del self.b2[key]
            self.to_t2.add(key)
            self.causes.append("b2")
        else:
            self.causes.append("new")

    def insert(self, key: int) -> None:
        (self.t2 if key in self.to_t2 else self.t1)[key] = None
        self.to_t2.discard(key)

    def choose(self, protected: Container[int]) -> int:
        cause = self.causes.pop(0) if self.causes else "new"
        self.keep_ghost = True
        if cause == "new":
            if len(self.t1) + len(self.b1) >= self.size:
                if self.b1:
                    self.b1.popitem(last=False)
                elif _has_unprotected(self.t1, protected):
                    self.keep_ghost = False
                    return first_unprotected(self.t1, protected)
            elif len(self.t1) + len(self.t2) + len(self.b1) + len(self.b2) >= 2 * self.size and self.b2:
                self.b2.popitem(last=False)
        from_t1 = len(self.t1) > self.target or (len(self.t1) == self.target and cause == "b2")
        if not _has_unprotected(self.t1 if from_t1 else self.t2, protected):
            from_t1 = not from_t1
        return first_unprotected(self.t1 if from_t1 else self.t2, protected)

    def removed(self, key: int) -> None:
        if key in self.t1:
            del self.t1[key]
            if self.keep_ghost:
                self.b1[key] = None
        else:
            del self.t2[key]
            self.b2[key] = None
        for ghost in (self.b1, self.b2):  # only several evictions in one layer-step can overfill a ghost list
            if len(ghost) > self.size:
                ghost.popitem(last=False)


class TwoQ(EvictThenInsert):
    """A FIFO queue for experts used once (A1in), an LRU queue for those that return (Am), and a ghost queue (A1out).

    The full version. An expert joins A1in, and a hit there changes nothing. If A1in has more than Kin experts its
    oldest is evicted and remembered in A1out, which holds Kout; else the least recent of Am is, and forgotten. An
    expert remembered in A1out joins Am. A small cache has no room for shares: Kin and Kout are at least one. Where
    every expert of the queue to evict from belongs to the batch, or there is none, the other queue gives the victim. An
    expert that returns leaves A1out at the lookup, before the evictions that it causes.
    """

    name = "2q"
    aliases = ("twoq",)
    source = "Johnson and Shasha, VLDB 1994, full version; Kin and Kout as they advise"
    kernels = (Queue.TWO_Q,)
    params = (
        Param("share", 0.25, "Kin, most experts in A1in before they are evicted first, as a share of the slots", 0, 1),
        Param("ghost", 0.5, "Kout, most experts remembered in A1out, as a multiple of the slots", 0, 1e6),
    )
    share: float
    ghost: float

    def reset(self) -> None:
        super().reset()
        self.first_slots = slots_of(self.share, self.view.slots)
        self.ghost_slots = slots_of(self.ghost, self.view.slots)
        self.first: Keys = OrderedDict()
        self.main: Keys = OrderedDict()
        self.ghosts: Keys = OrderedDict()
        self.remembered: set[int] = set()

    def kernel_sizes(self) -> dict[str, int]:
        return {"part": self.first_slots, "ghost": self.ghost_slots}

    def hit(self, key: int) -> None:
        if key in self.main:
            self.main.move_to_end(key)

    def miss(self, key: int) -> None:
        if key in self.ghosts:
            del self.ghosts[key]
            self.remembered.add(key)

    def insert(self, key: int) -> None:
        (self.main if key in self.remembered else self.first)[key] = None
        self.remembered.discard(key)

    def choose(self, protected: Container[int]) -> int:
        from_first = len(self.first) > self.first_slots
        if not _has_unprotected(self.first if from_first else self.main, protected):
            from_first = not from_first
        return first_unprotected(self.first if from_first else self.main, protected)

    def removed(self, key: int) -> None:
        if key in self.main:
            del self.main[key]
            return
        del self.first[key]
        self.ghosts[key] = None
        if len(self.ghosts) > self.ghost_slots:
            self.ghosts.popitem(last=False)
