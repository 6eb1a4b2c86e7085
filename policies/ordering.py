"""Three ways to keep residents in order, shared by the policies: ranked keys, scores on demand, and queues."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush, heapreplace
from typing import Any, ClassVar

from lrcsim.base.errors import PolicyError
from lrcsim.base.user_code import checked_number
from lrcsim.policies.base import Policy

Entry = tuple[Any, int, int]
"""Rank, tie and key."""


def first_unprotected(keys: OrderedDict[int, None], protected: Container[int]) -> int:
    """Return the first key that is not protected.

    Raises:
        PolicyError: there is none, so the pool asked for a victim it cannot have.
    """
    for key in keys:
        if key not in protected:
            return key
    raise PolicyError("every resident expert is protected")


def first_or_none(keys: Iterable[int], protected: Container[int]) -> int | None:
    """Return the first key that is not protected, None if there is none."""
    for key in keys:
        if key not in protected:
            return key
    return None


class RankedKeys:
    """Keys by rank, smallest first, when ranks change only by `set`.

    A heap holds one live entry per key, which may be outdated as long as it is no larger than the key's present entry:
    it is brought up to date when it comes to the top. So a rank that rises, as most do with every use, costs no work in
    the heap until the key is up for eviction.
    """

    def __init__(self) -> None:
        self._entry: dict[int, Entry] = {}
        self._queued: dict[int, Entry] = {}  # the live entry of each key in the heap
        self._heap: list[Entry] = []
        self._aside: list[Entry] = []  # entries of protected keys, out of the heap meanwhile
        self._aside_for: Container[int] = ()

    def set(self, key: int, rank: Any, tie: int) -> None:
        """Give ``key`` a rank; equal ranks are ordered by ``tie``, smallest first."""
        entry = self._entry[key] = (rank, tie, key)
        queued = self._queued.get(key)
        if queued is None or entry < queued:
            self._push(key, entry)

    def entries(self) -> tuple[dict[int, Entry], dict[int, Entry], Callable[[int, Entry], None]]:
        """Return what `set` works with, for loops that do without calling it."""
        return self._entry, self._queued, self._push

    def _push(self, key: int, entry: Entry) -> None:
        self._queued[key] = entry
        heappush(self._heap, entry)
        if len(self._heap) > 4 * len(self._entry) + 64:
            self._heap[:] = self._entry.values()
            heapify(self._heap)
            self._queued.update(self._entry)
            self._aside = []

    def rank_of(self, key: int) -> Any:
        """Return the rank of a key."""
        return self._entry[key][0]

    def discard(self, key: int) -> None:
        """Forget a key."""
        del self._entry[key]
        del self._queued[key]

    def __contains__(self, key: int) -> bool:
        return key in self._entry

    def smallest(self, protected: Container[int]) -> int:
        """Return the key of smallest rank outside ``protected``.

        Raises:
            PolicyError: there is none.
        """
        heap, current, queued = self._heap, self._entry, self._queued
        if protected is not self._aside_for:  # protected keys are put aside once per batch, not once per victim
            for entry in self._aside:
                heappush(heap, entry)
            self._aside = []
            self._aside_for = protected
        while heap:
            entry = heap[0]
            key = entry[2]
            if queued.get(key) is not entry:
                heappop(heap)
            elif current[key] is not entry:
                queued[key] = current[key]
                heapreplace(heap, current[key])
            elif key in protected:
                self._aside.append(heappop(heap))
            else:
                return key
        raise PolicyError("every resident expert is protected")


class RankedPolicy(Policy):
    """Base: evict the resident of smallest rank, where an expert's rank changes only when it is used.

    Equal ranks go to the least recent.
    """

    methods = ("rank",)
    called_with: ClassVar[Mapping[str, tuple[str, ...]]] = {"rank": ("key", "place", "missed")}

    def reset(self) -> None:
        self.residents = RankedKeys()
        self.uses_seen = 0

    def rank(self, key: int, place: int, missed: bool) -> Any:
        """Return the rank of an expert being used, smallest to be evicted first.

        Args:
            key: the expert.
            place: its place in the batch, for ``view.weights`` and ``view.next_use``.
            missed: whether it is being loaded now.
        """
        raise NotImplementedError

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        rank, put, seen = self._checked_rank if self._users else self.rank, self.residents.set, self.uses_seen
        loaded = missed if len(missed) < 8 else frozenset(missed)
        for place, key in enumerate(batch):
            put(key, rank(key, place, key in loaded), seen + place)
        self.uses_seen = seen + len(batch)

    def _checked_rank(self, key: int, place: int, missed: bool) -> Any:
        rank = self.rank(key, place, missed)
        for part in rank if isinstance(rank, tuple | list) else (rank,):
            checked_number(part, self, "rank", key)
        return rank

    def victim(self, protected: Container[int]) -> int:
        return self.residents.smallest(protected)

    def evicted(self, key: int) -> None:
        self.residents.discard(key)


class ScorePolicy(Policy):
    """Base for a policy of your own: evict the resident with the smallest ``score``, ties to the least recent.

    Write ``score``; override ``access`` (calling ``super().access``) to keep statistics.
    """

    methods = ("score",)
    called_with: ClassVar[Mapping[str, tuple[str, ...]]] = {"score": ("key",)}

    def reset(self) -> None:
        self.last_use: dict[int, int] = {}
        self._uses_seen = 0
        self._candidates: list[tuple[float, int, int]] = []  # a heap
        self._candidates_for: Container[int] | None = None

    def score(self, *arguments: Any) -> float:
        """``score(self, key)``: return how much the resident ``key`` is worth keeping now, in any unit.

        The smallest is evicted.
        """
        raise NotImplementedError

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        last_use, seen = self.last_use, self._uses_seen
        for place, key in enumerate(batch, seen + 1):
            last_use[key] = place
        self._uses_seen = seen + len(batch)
        self._candidates_for = None

    def victim(self, protected: Container[int]) -> int:
        if self._candidates_for is not protected:  # scores stand still within a layer-step: score once, evict many
            score = self.score
            self._candidates = [(score(key), used, key) for key, used in self.last_use.items() if key not in protected]
            if self._users:
                for value, _, key in self._candidates:
                    if type(value) not in (int, float) or value != value:  # most are: the rest is looked at closely
                        checked_number(value, self, "score", key)
            heapify(self._candidates)
            self._candidates_for = protected
        candidates = self._candidates
        while candidates:
            if candidates[0][2] in self.last_use:
                return candidates[0][2]
            heappop(candidates)
        raise PolicyError("every resident expert is protected")

    def evicted(self, key: int) -> None:
        del self.last_use[key]


class EvictThenInsert(Policy):
    """Base for queue algorithms defined as "evict, then insert": new experts join the queues after the evictions.

    Only when the batch alone exceeds the capacity do they join before, to be ranked among themselves.
    """

    methods = ("hit", "insert", "choose", "removed")
    called_with: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "hit": ("key",),
        "miss": ("key",),
        "insert": ("key",),
        "choose": ("protected",),
        "removed": ("key",),
    }

    def reset(self) -> None:
        self.waiting: list[int] = []

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        self.join()
        loaded = frozenset(missed)
        for key in batch:
            if key in loaded:
                self.miss(key)
            else:
                self.hit(key)
        self.waiting = list(missed)

    def victim(self, protected: Container[int]) -> int:
        if not protected:
            self.join()
        return self.choose(protected)

    def evicted(self, key: int) -> None:
        if key in self.waiting:
            self.waiting.remove(key)
        else:
            self.removed(key)

    def join(self) -> None:
        """Insert the experts loaded since the last call."""
        for key in self.waiting:
            self.insert(key)
        self.waiting = []

    def hit(self, key: int) -> None:
        """Take note of a hit."""
        raise NotImplementedError

    def miss(self, key: int) -> None:
        """Take note of a miss, before the evictions that it causes."""

    def insert(self, key: int) -> None:
        """Put a loaded expert into the queues."""
        raise NotImplementedError

    def choose(self, protected: Container[int]) -> int:
        """Name the victim among the queues."""
        raise NotImplementedError

    def removed(self, key: int) -> None:
        """Take an evicted expert out of the queues."""
        raise NotImplementedError


class FixedContents(Policy):
    """Base: the contents come from a ranking alone; what misses runs beside them and goes at once.

    Slots that the ranking leaves free go to the first misses, the guests, until the ranking changes. Where the pool's
    capacity changes on the way (a growing KV cache), guests leave first, the last one in before the others, then the
    least of the ranking; what comes back is filled again.
    """

    bypass = True
    refills = True

    def reset(self) -> None:
        self.ranked: list[int] = []
        self.contents: list[int] = []  # of the ranking, those in the pool
        self.guests: list[int] = []
        self.passing: list[int] = []  # misses of the current batch
        self.filled_at = -1  # capacity

    def ranking(self) -> list[int] | None:
        """Return what to hold from this step on, most wanted first; None for what was wanted so far."""
        raise NotImplementedError

    def refill(self) -> Collection[int] | None:
        ranked = self.ranking()
        if ranked is None and self.filled_at == self.view.capacity:
            return None
        self.filled_at = self.view.capacity
        guests = [*self.guests, *self.passing] if ranked is None else []
        self.ranked = self.ranked if ranked is None else ranked
        wanted = frozenset(self.ranked)  # one that had to go may have come back as a guest
        guests = [key for key in guests if key not in wanted]
        taken = self.view.take([*self.ranked, *guests], self.view.capacity)
        self.contents = [key for key in taken if key in wanted]
        self.guests = [key for key in taken if key not in wanted]
        self.passing = []
        return taken

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        self.guests += self.passing
        self.passing = list(missed)

    def victim(self, protected: Container[int]) -> int:
        return (self.passing or self.guests or self.contents)[-1]

    def evicted(self, key: int) -> None:
        for keys in (self.passing, self.guests):
            if key in keys:
                keys.remove(key)
                return
        self.contents.remove(key)
        self.filled_at = -1  # it is wanted back
