"""Policies that count uses. One use is one layer-step: the tokens of a prompt that share an expert count once."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

from lrcsim.policies.base import Param
from lrcsim.policies.ordering import RankedPolicy, ScorePolicy

__all__ = ["Lcp", "Lfru", "Lfu", "LfuAging", "LfuDecay", "LfuResident", "Lfuda"]


class Lfu(RankedPolicy):
    """Evict the fewest uses since the start; counts are kept after eviction; ties to the least recent."""

    name = "lfu"
    aliases = ("lfu-kept",)
    source = "calc_lfu of ljcleo/moe-lrc (arXiv 2505.16056)"

    def reset(self) -> None:
        super().reset()
        self.uses: defaultdict[int, int] = defaultdict(int)

    def rank(self, key: int, place: int, missed: bool) -> int:
        self.uses[key] += 1
        return self.uses[key]


class LfuResident(Lfu):
    """Evict the fewest uses since it was loaded; a count is forgotten at eviction; ties to the least recent."""

    name = "lfu-resident"
    source = "classic in-cache LFU (libCacheSim LFU)"

    def rank(self, key: int, place: int, missed: bool) -> int:
        self.uses[key] = 1 if missed else self.uses[key] + 1
        return self.uses[key]


class LfuDecay(RankedPolicy):
    """Evict the smallest sum of 0.5 ** (age / half_life) over all uses, age in steps; ties to the least recent."""

    name = "lfu-decay"
    source = "exponentially decayed counts; LRFU (Lee et al., IEEE ToC 2001) with lambda = 1 / half_life"
    params = (Param("half_life", 64.0, "steps after which a use counts half", 1e-3, 1e12),)
    half_life: float

    def reset(self) -> None:
        super().reset()
        self.uses: dict[int, tuple[float, int]] = {}  # decayed count at the last use, its step

    def rank(self, key: int, place: int, missed: bool) -> float:
        count, step = self.uses.get(key, (0.0, 0))
        now = self.view.step
        count = count * 0.5 ** ((now - step) / self.half_life) + 1.0
        self.uses[key] = count, now
        # All counts shrink alike from here on, so the order of log2(count) + step / half_life stays as it is.
        return math.log2(count) + now / self.half_life


class LfuAging(ScorePolicy):
    """Evict the fewest uses, where every ``interval`` accesses all counts are multiplied by ``decay``."""

    name = "lfu-aging"
    source = "moe-policylang, LFU-decay"
    params = (
        Param("interval", 100, "accesses of the pool between two decays", minimum=1),
        Param("decay", 0.5, "factor at each decay", 0, 1),
    )
    interval: int
    decay: float

    def reset(self) -> None:
        super().reset()
        self.uses: dict[int, tuple[float, int]] = {}  # count at the last use, decays before it
        self.accesses = self.decays = 0

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        super().access(batch, missed)
        for key in batch:
            self.uses[key] = self._count(key) + 1.0, self.decays
            self.accesses += 1
            self.decays = self.accesses // self.interval

    def _count(self, key: int) -> float:
        count, decays = self.uses.get(key, (0.0, 0))
        return count * self.decay ** (self.decays - decays)

    def score(self, key: int) -> float:
        return self._count(key)


class Lfuda(RankedPolicy):
    """Evict the smallest L + min(count, 12); L becomes the victim's key, and the victim's count is halved and kept."""

    name = "lfuda"
    source = "bigrig, the repaired LFUDA; after Arlitt et al. 2000 (dynamic aging)"
    params = (Param("cap", 12, "largest count that matters", minimum=1),)
    cap: int

    def reset(self) -> None:
        super().reset()
        self.age = 0
        self.uses: defaultdict[int, int] = defaultdict(int)
        self.key_of: dict[int, int] = {}

    def rank(self, key: int, place: int, missed: bool) -> int:
        self.uses[key] += 1
        self.key_of[key] = self.age + min(self.uses[key], self.cap)
        return self.key_of[key]

    def evicted(self, key: int) -> None:
        super().evicted(key)
        self.age = self.key_of.pop(key)
        self.uses[key] //= 2


class Lfru(ScorePolicy):
    """Evict the smallest freq / (now - last + 1): uses since loading over steps since the last use."""

    name = "lfru"
    source = "tinyserve; vLLM expert-cache pull request"

    def reset(self) -> None:
        super().reset()
        self.uses: dict[int, int] = {}
        self.last_step: dict[int, int] = {}

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        super().access(batch, missed)
        loaded = frozenset(missed)
        for key in batch:
            self.uses[key] = 1 if key in loaded else self.uses[key] + 1
            self.last_step[key] = self.view.step

    def score(self, key: int) -> float:
        return self.uses[key] / (self.view.step - self.last_step[key] + 1)


class Lcp(RankedPolicy):
    """Evict the smallest freq * 0.25 ** (steps since the last use / window); freq counts all uses so far."""

    name = "lcp"
    source = "mlx-flash, least critical priority"
    params = (Param("window", 128.0, "steps without use that divide the worth by four", 1e-3, 1e12),)
    window: float

    def reset(self) -> None:
        super().reset()
        self.uses: defaultdict[int, int] = defaultdict(int)

    def rank(self, key: int, place: int, missed: bool) -> float:
        self.uses[key] += 1
        # log2 of the formula, without the -2 * now / window that all residents share.
        return math.log2(self.uses[key]) + 2 * self.view.step / self.window
