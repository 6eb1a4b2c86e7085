"""Policies that decide which missed experts may displace others: W-TinyLFU, and second-touch admission before any."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Sequence

from lrcsim.base.errors import PolicyError
from lrcsim.policies.base import Param, Policy
from lrcsim.policies.guard import guarded
from lrcsim.policies.kernels import Queue
from lrcsim.policies.ordering import EvictThenInsert, first_or_none, first_unprotected
from lrcsim.policies.queues import Keys, slots_of
from lrcsim.policies.recency import Lru

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


class Admit2(Policy):
    """Second-touch admission before any policy (``admit2+POLICY``): an expert's first use may displace nobody.

    A missed expert is admitted, as without this class, if it was used in the last ``window`` uses of the pool (0: since
    the pool was empty), by a hit or by a miss, loaded or not. Another one takes a free slot if there is one, after
    those of its batch that are admitted; else it runs from a staging buffer outside the capacity: a miss and a load,
    which is not kept (reported as bypassed), and of which the policy behind does not hear.

    Engines count touches from the start. Once most experts have been used, that lets nearly everything in: on long
    traces give a window of a few times the slots. A policy that knows the future, or that fills the cache itself, needs
    no such guess and is refused.
    """

    name = "admit2"
    bypass = True
    source = "expert caches of MoE engines that upload on the second use; RocksDB's ghost cache (pull request 5534)"
    params = (Param("window", 0, "uses of the pool looked back on, 0 for all", minimum=0),)
    window: int

    def __init__(self, inner: Policy | None = None, **params: object) -> None:
        """Put the admission before a policy.

        Args:
            inner: the policy, ``lru`` if left out; an object of its own, as every pool's policy is.
            params: ``window``.

        Raises:
            PolicyError: the policy is none to go with it, or the window is not allowed.
        """
        super().__init__(**params)
        self.inner = Lru() if inner is None else inner
        self.name = f"{type(self).name}+{self.inner.name}"  # type: ignore[misc]  # of this object
        self.needs, self.wants = self.inner.needs, self.inner.wants  # type: ignore[misc]
        if "future" in self.inner.needs:
            raise PolicyError(
                f"{self.name}: {self.inner.name} knows what comes and needs no guess from the past: leave out admit2, "
                "or take belady-bypass, the optimum where misses may bypass the cache"
            )
        if self.inner.refills or isinstance(self.inner, Admit2):
            does = "fills the cache itself" if self.inner.refills else "admits on the second touch already"
            raise PolicyError(f"{self.name}: {self.inner.name} {does}: leave out admit2")

    def label(self) -> str:
        return f"{type(self).name}:window={self.window}+{self.inner.label()}"

    def reset(self) -> None:
        self.inner.view = self.view
        self.behind = guarded(self.inner)
        self.behind.reset()
        self.seen = 0  # uses of the pool
        self.last_use: dict[int, int] = {}  # of every expert, the number of its last use
        self.resident: dict[int, int] = {}  # those that the policy behind knows of, with their slots (or bytes)
        self.used = 0
        self.passing: list[int] = []  # of the current batch, those not admitted
        self.batch: frozenset[int] = frozenset()  # the others
        self.others = 0  # residents outside the batch
        self.capacity_then = self.view.capacity

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        self.passing = self._not_admitted(batch, frozenset(missed))
        if self.passing:
            self._hear_without(batch, missed)
        else:
            self._hear(batch, missed)
        self.capacity_then = self.view.capacity

    def elsewhere(self, keys: Sequence[int]) -> None:
        self.behind.elsewhere(keys)

    def victim(self, protected: Container[int]) -> int:
        if self.passing and self.passing[-1] not in protected:
            return self.passing[-1]
        if self.passing:
            self._admit_ahead()
        if protected or self.behind.bypass or not self.others or self.view.capacity != self.capacity_then:
            return self.behind.victim(protected)
        return self.behind.victim(self.batch)

    def evicted(self, key: int) -> None:
        if key in self.passing:
            self.passing.remove(key)
            return
        self.behind.evicted(key)
        self.used -= self.resident.pop(key)
        self.others -= key not in self.batch

    def _admit_ahead(self) -> None:
        """Admit an expert that is brought ahead of its use, as whoever asked for it wants it kept (`Pool.prefetch`)."""
        view, ahead = self.view, self.passing
        weights, self.passing = view.weights, []
        view.weights = (0.0,) if weights or "weights" in self.needs else ()
        self._hear(ahead, ahead)
        view.weights = weights

    def _not_admitted(self, batch: Sequence[int], missed: frozenset[int]) -> list[int]:
        """Count the uses of a batch; return which of its misses are neither admitted nor find a free slot."""
        view, taken, first = self.view, self.used, []
        for key in batch:
            self.seen += 1
            if key in missed:
                before = self.last_use.get(key)
                if before is None or (self.window and self.seen - before > self.window):
                    first.append(key)
                else:
                    taken += view.bytes_of(key)
            self.last_use[key] = self.seen
        passing = []
        for key in first:
            if (inside := taken + view.bytes_of(key)) > view.capacity:
                passing.append(key)
            else:
                taken = inside
        return passing

    def _hear(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        """Tell the policy behind of a batch."""
        self.behind.access(batch, missed)
        self.batch = frozenset(batch)
        self.others = len(self.resident) - (len(batch) - len(missed))
        for key in missed:
            self.resident[key] = self.view.bytes_of(key)
            self.used += self.resident[key]

    def _hear_without(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        """Tell the policy behind of a batch without those not admitted, and show it the weights of the others."""
        view, passing = self.view, frozenset(self.passing)
        kept = [place for place, key in enumerate(batch) if key not in passing]
        if not kept:
            self.batch, self.others = frozenset(), len(self.resident)
            return
        weights, of_layer = view.weights, view.layer_weights
        if weights:
            view.weights = [weights[place] for place in kept]
            view.layer_weights = of_layer or weights
        self._hear([batch[place] for place in kept], [key for key in missed if key not in passing])
        view.weights, view.layer_weights = weights, of_layer
