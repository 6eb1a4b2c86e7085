"""Policies that hold the experts that a profiling run used most."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from lrcsim.policies.base import Param, View
from lrcsim.policies.ordering import FixedContents
from lrcsim.policies.recency import Lru

__all__ = ["PinnedLru", "Static", "by_popularity"]


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

    def reset(self) -> None:
        super().reset()
        self.filled = False

    def refill(self) -> Collection[int] | None:
        if self.filled:
            return None
        self.filled = True
        return self.view.take(by_popularity(self.view), self.view.capacity)


class PinnedLru(Lru):
    """A share of the slots holds the profile's most used experts for good, the rest is LRU; overflow bypasses."""

    name = "pinned-lru"
    needs = frozenset({"profile"})
    bypass = True
    refills = True
    source = "pinned share of several engines; with share=0 it is `lru`, with share=1 `static` if the profile fills it"
    params = (Param("share", 0.5, "share of the slots that is pinned", 0, 1),)
    share: float

    def reset(self) -> None:
        super().reset()
        self.pinned: frozenset[int] = frozenset()
        self.filled = False

    def refill(self) -> Collection[int] | None:
        if self.filled:
            return None
        self.filled = True
        room = int(self.share * self.view.capacity + 1e-9)
        self.pinned = frozenset(self.view.take(by_popularity(self.view), room))
        return self.pinned

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        super().access([key for key in batch if key not in self.pinned], missed)
