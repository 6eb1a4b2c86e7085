"""Policies that look at the time between the uses of an expert, not only at the last one: LRU-2, LIRS."""

# ruff: noqa: ARG004 (the arguments are those of the contract)

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container

from lrcsim.policies.base import Param
from lrcsim.policies.compiled import CompiledScore, Expert, Now
from lrcsim.policies.kernels import Queue
from lrcsim.policies.ordering import EvictThenInsert, first_or_none, first_unprotected
from lrcsim.policies.queues import Keys, slots_of


class Lru2(CompiledScore):
    """Evict the expert whose last use but one is oldest; those used once go first, least recent first.

    LRU-K with K = 2. Time is the number of uses of the pool. No two uses count as one (Correlated Reference Period 0),
    so two tokens in a row are two uses. The times of an expert's last two uses are kept after eviction, without end
    (an infinite Retained Information Period): experts are few. Among those used once the authors leave the choice open
    and name LRU.
    """

    name = "lru-2"
    aliases = ("lru2",)
    source = "O'Neil, O'Neil, Weikum, SIGMOD 1993, LRU-K with K = 2"
    at_use = True

    @staticmethod
    def update(expert: Expert, now: Now, weight: float) -> float:
        """Return the time of the use before this one, 0 if there was none."""
        return float(expert.use_order)

    @staticmethod
    def score(expert: Expert, now: Now) -> float:
        return expert.value


class Lirs(EvictThenInsert):
    """Keep experts whose last two uses were close together (LIR); a few slots pass the others (HIR) on.

    The stack holds experts by last use: LIR, resident HIR and, remembered, evicted HIR, down to the least recent LIR; a
    queue holds the resident HIR, and its oldest is evicted. An HIR that is used while it is in the stack becomes LIR,
    and the least recent LIR becomes HIR. Until the first eviction new experts are LIR, as long as there is room.

    The slots for HIR are a share, at least one. At most as many evicted experts are remembered as there are slots; of
    more the one evicted first is forgotten (the authors bound the stack, and leave open how). With batches, where the
    queue has none to give, the least recent LIR outside the batch is evicted; new experts take their place in the stack
    when they join, after the hits of their batch.
    """

    name = "lirs"
    source = "Jiang and Zhang, SIGMETRICS 2002, section 3; 1 % of the slots for HIR as in its experiments"
    kernels = (Queue.LIRS,)
    params = (Param("share", 0.01, "share of the slots for experts without a short distance between uses (HIR)", 0, 1),)
    share: float

    def reset(self) -> None:
        super().reset()
        slots = self.view.slots
        self.lir_slots = slots - min(slots, slots_of(self.share, slots))
        self.ghost_slots = slots
        self.stack: Keys = OrderedDict()
        self.lir: Keys = OrderedDict()  # by last use, so that the first is the bottom of the stack
        self.queue: Keys = OrderedDict()  # resident HIR
        self.ghosts: Keys = OrderedDict()  # evicted HIR in the stack, by eviction
        self.returning: set[int] = set()
        self.filling = True  # until the first eviction

    def kernel_sizes(self) -> dict[str, int]:
        return {"part": self.lir_slots, "ghost": self.ghost_slots}

    def hit(self, key: int) -> None:
        if key in self.lir:
            self.lir.move_to_end(key)
            self._push(key)
        elif key in self.stack:
            del self.queue[key]
            self._promote(key)
        else:
            self.queue.move_to_end(key)
            self._push(key)

    def miss(self, key: int) -> None:
        if key in self.ghosts:
            del self.ghosts[key]
            del self.stack[key]
            self.returning.add(key)

    def insert(self, key: int) -> None:
        if key in self.returning:
            self.returning.remove(key)
            self._promote(key)
            return
        (self.lir if self.filling and len(self.lir) < self.lir_slots else self.queue)[key] = None
        self._push(key)

    def choose(self, protected: Container[int]) -> int:
        key = first_or_none(self.queue, protected)
        return first_unprotected(self.lir, protected) if key is None else key

    def removed(self, key: int) -> None:
        self.filling = False
        if key in self.queue:
            del self.queue[key]
        else:
            del self.lir[key]
            self._prune()
        if key in self.stack:
            self.ghosts[key] = None
            if len(self.ghosts) > self.ghost_slots:
                forgotten, _ = self.ghosts.popitem(last=False)
                del self.stack[forgotten]

    def _push(self, key: int) -> None:
        """Put an expert on top of the stack."""
        self.stack[key] = None
        self.stack.move_to_end(key)
        self._prune()

    def _promote(self, key: int) -> None:
        """Make an expert LIR, and the least recent of too many HIR."""
        self.lir[key] = None
        self._push(key)
        while len(self.lir) > self.lir_slots:
            demoted, _ = self.lir.popitem(last=False)
            self.queue[demoted] = None
            self._prune()

    def _prune(self) -> None:
        """Take from the bottom of the stack what is not LIR; evicted experts among them are forgotten."""
        while self.stack and (bottom := next(iter(self.stack))) not in self.lir:
            del self.stack[bottom]
            self.ghosts.pop(bottom, None)
