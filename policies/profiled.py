"""Policies that hold the experts that a profiling run used most."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Container, Sequence

from lrcsim.policies.base import Param, View
from lrcsim.policies.kernels import Queue
from lrcsim.policies.ordering import FixedContents
from lrcsim.policies.recency import Lru


def by_popularity(view: View) -> list[int]:
    """Return the pool's experts that the profile used at all, most used first, ties to the smaller key."""
    counts, stride = view.profile, view.stride
    keys = [key for layer in view.layers for key in range(layer * stride, (layer + 1) * stride) if counts[key]]
    return sorted(keys, key=lambda key: (-counts[key], key))


class Static(FixedContents):
    """The most used experts of the profile, loaded once before the first step and never evicted; misses bypass.

    Slots that the profile leaves free go to the first misses, for good.
    """

    name = "static"
    aliases = ("popularity",)
    needs = frozenset({"profile"})
    source = "Fiddler (arXiv 2402.07033); ktransformers"
    kernels = (Queue.STATIC,)

    def reset(self) -> None:
        super().reset()
        self.filled = False

    def ranking(self) -> list[int] | None:
        if self.filled:
            return None
        self.filled = True
        return by_popularity(self.view)


class PinnedLru(Lru):
    """A share of the slots holds the profile's most used experts for good, the rest is LRU; overflow bypasses.

    Where the pool's capacity changes on the way (a growing KV cache) the share is that of the present capacity.
    """

    name = "pinned-lru"
    needs = frozenset({"profile"})
    bypass = True
    refills = True
    source = "pinned share of several engines; with share=0 it is `lru`, with share=1 `static` if the profile fills it"
    kernels = (Queue.LRU,)
    params = (Param("share", 0.5, "share of the slots that is pinned", 0, 1),)
    share: float

    def reset(self) -> None:
        super().reset()
        self.ranked: list[int] = []
        self.pinned: dict[int, None] = {}  # most used first
        self.filled_at = -1  # capacity

    def refill(self) -> Collection[int] | None:
        view = self.view
        if self.filled_at == view.capacity:
            return None
        self.ranked = self.ranked or by_popularity(view)
        self.filled_at = view.capacity
        last_first = [*reversed(self.order), *self.pinned]  # those no longer pinned are the oldest of the others
        self.pinned = dict.fromkeys(view.take(self.ranked, self._room()))
        others = [key for key in last_first if key not in self.pinned]
        contents = view.take([*self.pinned, *others], view.capacity)
        inside = frozenset(contents)
        self.order = OrderedDict.fromkeys(key for key in reversed(others) if key in inside)
        return contents

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        super().access([key for key in batch if key not in self.pinned], missed)

    def victim(self, protected: Container[int]) -> int:
        if self.pinned and (not self.order or self._pinned_too_much()):  # the pool has become smaller
            return next(reversed(self.pinned))
        return super().victim(protected)

    def evicted(self, key: int) -> None:
        if key in self.order:
            super().evicted(key)
        else:
            del self.pinned[key]
            self.filled_at = -1  # it is wanted back

    def _room(self) -> int:
        """What the pinned experts may take of the pool as it is now."""
        return int(self.share * self.view.capacity + 1e-9)

    def _pinned_too_much(self) -> bool:
        if self.view.capacity == self.filled_at:
            return False
        return sum(map(self.view.bytes_of, self.pinned)) > self._room()
