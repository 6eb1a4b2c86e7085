"""Policies that order experts by when they were used or loaded."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Container, Sequence
from typing import ClassVar

from lrcsim.policies.base import Param, Policy
from lrcsim.policies.kernels import Queue, Stack
from lrcsim.policies.ordering import EvictThenInsert, first_unprotected


class Lru(Policy):
    """Evict the expert whose last use is oldest."""

    name = "lru"
    source = "classic; in MoE engines since Mixtral offloading (arXiv 2312.17238)"
    kernels: ClassVar[tuple[Queue | Stack, ...]] = (Stack.LRU, Queue.LRU)

    def reset(self) -> None:
        self.order: OrderedDict[int, None] = OrderedDict()

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        order = self.order
        for key in batch:
            order[key] = None
            order.move_to_end(key)

    def victim(self, protected: Container[int]) -> int:
        return first_unprotected(self.order, protected)

    def evicted(self, key: int) -> None:
        del self.order[key]


class Mru(Lru):
    """Evict the expert used last before the current batch."""

    name = "mru"
    source = "classic; good on cyclic scans"
    kernels = (Queue.MRU,)

    def victim(self, protected: Container[int]) -> int:
        return next(key for key in reversed(self.order) if key not in protected)


class Fifo(Lru):
    """Evict the expert loaded first."""

    name = "fifo"
    source = "classic"
    kernels = (Queue.FIFO,)

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        for key in missed:
            self.order[key] = None


class Random(EvictThenInsert):
    """Evict an expert drawn at random; the same seed gives the same run."""

    name = "random"
    source = "classic, the floor for every other policy; draws: L'Ecuyer, CACM 31(6), 1988, figure 3"
    kernels = (Queue.RANDOM,)
    params = (Param("seed", 0, "seed of the draws", minimum=0),)
    seed: int

    def reset(self) -> None:
        super().reset()
        self.keys: list[int] = []
        self.place: dict[int, int] = {}
        if not hasattr(self, "seeds"):  # keep drawing on when the pool is emptied between requests
            start = random.Random(f"{self.seed}/{self.view.layers[0]}")
            self.seeds = start.randrange(1, 2147483563), start.randrange(1, 2147483399)

    def kernel_sizes(self) -> dict[str, int]:
        return {"seed": self.seeds[0], "seed2": self.seeds[1]}

    def draw(self, below: int) -> int:
        """Return a whole number from 0, below a limit: two multiplicative generators and their difference.

        All products stay below 2**63, so that compiled code draws the same.
        """
        one, two = self.seeds
        one, two = one * 40014 % 2147483563, two * 40692 % 2147483399
        self.seeds = one, two
        return (one - two) % 2147483562 * below // 2147483562

    def hit(self, key: int) -> None:
        pass

    def insert(self, key: int) -> None:
        self.place[key] = len(self.keys)
        self.keys.append(key)

    def choose(self, protected: Container[int]) -> int:
        while (key := self.keys[self.draw(len(self.keys))]) in protected:
            pass
        return key

    def removed(self, key: int) -> None:
        last = self.keys.pop()
        place = self.place.pop(key)
        if last != key:
            self.keys[place] = last
            self.place[last] = place


class Clock(EvictThenInsert):
    """FIFO with a second chance: an expert used since the hand last passed is passed over once."""

    name = "clock"
    aliases = ("second-chance",)
    source = "Corbato 1968"
    kernels = (Queue.CLOCK,)

    def reset(self) -> None:
        super().reset()
        self.ring: OrderedDict[int, None] = OrderedDict()
        self.used: set[int] = set()

    def hit(self, key: int) -> None:
        self.used.add(key)

    def insert(self, key: int) -> None:
        self.ring[key] = None

    def choose(self, protected: Container[int]) -> int:
        while True:
            key = next(iter(self.ring))
            if key in protected:
                self.ring.move_to_end(key)
            elif key in self.used:
                self.used.discard(key)
                self.ring.move_to_end(key)
            else:
                return key

    def removed(self, key: int) -> None:
        del self.ring[key]


class Sieve(EvictThenInsert):
    """One queue in load order; a hand sweeps from old to new, spares used experts once, and stays where it evicts."""

    name = "sieve"
    source = "Zhang et al., NSDI 2024"
    kernels = (Queue.SIEVE,)

    def reset(self) -> None:
        super().reset()
        self.queue: list[int] = []  # oldest first
        self.hand = 0
        self.used: set[int] = set()

    def hit(self, key: int) -> None:
        self.used.add(key)

    def insert(self, key: int) -> None:
        self.queue.append(key)

    def choose(self, protected: Container[int]) -> int:
        while True:
            if self.hand >= len(self.queue):
                self.hand = 0
            key = self.queue[self.hand]
            if key not in protected:
                if key not in self.used:
                    return key
                self.used.discard(key)
            self.hand += 1

    def removed(self, key: int) -> None:
        del self.queue[self.hand]  # the hand stays where `choose` found it
        if self.hand >= len(self.queue):  # past the newest: the next sweep starts at the oldest
            self.hand = 0
