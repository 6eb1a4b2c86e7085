"""Policies that know the future: the optimum, and the paper's look-ahead and static references."""

# ruff: noqa: ARG004 (the arguments are those of the contract)

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Container, Sequence
from typing import ClassVar

from lrcsim.policies.base import Param, Policy
from lrcsim.policies.compiled import CompiledScore, Expert, Now
from lrcsim.policies.kernels import Stack
from lrcsim.policies.ordering import FixedContents, RankedKeys


class Belady(CompiledScore):
    """Evict the expert whose next use is farthest: optimal for experts of equal size.

    With co-resident batches time counts in layer-steps and the batch is protected, with sequential access in accesses
    (Belady's MIN). Ties, which the optimum does not care about, go to the larger key, as in the paper's code.
    With experts of unequal bytes, and under ``access="paper"``, it is only a good heuristic.
    """

    name = "belady"
    aliases: ClassVar[tuple[str, ...]] = ("min", "opt")
    needs = frozenset({"future"})
    source = "Belady 1966; Mattson et al. 1970"
    kernels = (Stack.NEXT_USE,)
    at_use = True
    larger_key_first = True

    @staticmethod
    def score(expert: Expert, now: Now) -> float:
        return -expert.next_use


class BeladyBypass(Belady):
    """The optimum when misses may also run from a staging buffer outside the capacity."""

    name = "belady-bypass"
    aliases = ("min-bypass",)
    bypass = True
    source = "Belady 1966, with bypass"
    kernels = (Stack.NEXT_USE_BYPASS,)


class SchLookahead(Policy):
    """Evict the fewest uses in the next m steps (uses already made do not count), ties to the least recent.

    The window of step i is steps i .. i + m - 1. With co-resident batches in scope layer, and under ``access="paper"``,
    m = 1 has the hits of LRU; elsewhere it spares what the rest of the same step uses. No upper bound for other
    policies.
    """

    name = "sch-lookahead"
    aliases: ClassVar[tuple[str, ...]] = ("sch",)
    needs = frozenset({"future"})
    source = "calc_fsf of ljcleo/moe-lrc, the paper's SCH in its later version"
    kernels = (Stack.LOOKAHEAD,)
    params = (Param("m", 16, "steps looked ahead, the current one included", minimum=1),)
    m: int

    def reset(self) -> None:
        self.residents = RankedKeys()
        self.uses: defaultdict[int, int] = defaultdict(int)
        self.last_use: dict[int, int] = {}
        self.seen = 0
        self.end: int | None = None  # first step not yet counted

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        upcoming, step = self.view.upcoming, self.view.step
        assert upcoming is not None
        if self.end is None:
            self.end = step
        limit = min(step + self.m, upcoming.horizon(step))
        while self.end < limit:
            for key in upcoming.uses(self.end):
                self.uses[key] += 1
                if key in self.residents:
                    self.residents.set(key, self.uses[key], self.last_use[key])
            self.end += 1
        for key in batch:
            self.seen += 1
            self.uses[key] -= 1
            self.last_use[key] = self.seen
            self.residents.set(key, self.uses[key], self.seen)

    def victim(self, protected: Container[int]) -> int:
        return self.residents.smallest(protected)

    def evicted(self, key: int) -> None:
        self.residents.discard(key)


class SchStatic(FixedContents):
    """The best fixed contents for every window of m steps, loaded free at its start; misses bypass.

    Windows follow one another from the start of each request (the first step in which anything was recorded); equal
    counts go to the smaller key, and bytes are filled in this order (which is not the best where experts differ in
    size). The loads are reported as preloaded, not as
    misses, so this may beat the optimum of a cache that has to load. A run in time charges them to the links.
    """

    name = "sch-static"
    aliases: ClassVar[tuple[str, ...]] = ("segment-optimal",)
    needs = frozenset({"future"})
    source = "SCH of arXiv 2505.16056 in its first version, with windows that do not overlap"
    kernels = (Stack.STATIC,)
    params = (Param("m", 16, "steps per window", minimum=1),)
    m: int

    def reset(self) -> None:
        super().reset()
        self.window_end = -1

    def ranking(self) -> list[int] | None:
        upcoming, step = self.view.upcoming, self.view.step
        assert upcoming is not None
        if step < self.window_end:
            return None
        self.window_end = min(step + self.m, upcoming.end(step))
        uses = Counter(key for ahead in range(step, self.window_end) for key in upcoming.uses(ahead))
        return sorted(uses, key=lambda key: (-uses[key], key))
