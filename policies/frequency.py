"""Policies that count uses. One use is one layer-step: the tokens of a prompt that share an expert count once."""

# ruff: noqa: ARG004 (the arguments are those of the contract)

from __future__ import annotations

import math

from lrcsim.policies.base import Param
from lrcsim.policies.compiled import CompiledScore, Expert, Now
from lrcsim.policies.kernels import Stack


class Lfu(CompiledScore):
    """Evict the fewest uses since the start; counts are kept after eviction; ties to the least recent."""

    name = "lfu"
    aliases = ("lfu-kept",)
    source = "calc_lfu of ljcleo/moe-lrc (arXiv 2505.16056)"
    kernels = (Stack.LFU,)
    at_use = True

    @staticmethod
    def score(expert: Expert, now: Now) -> float:
        return expert.uses


class LfuResident(CompiledScore):
    """Evict the fewest uses since it was loaded; a count is forgotten at eviction; ties to the least recent."""

    name = "lfu-resident"
    source = "classic in-cache LFU (libCacheSim LFU)"
    at_use = True

    @staticmethod
    def score(expert: Expert, now: Now) -> float:
        return expert.uses_resident


class LfuDecay(CompiledScore):
    """Evict the smallest sum of 0.5 ** (age / half_life) over all uses, age in steps; ties to the least recent."""

    name = "lfu-decay"
    source = "exponentially decayed counts; LRFU (Lee et al., IEEE ToC 2001) with lambda = 1 / half_life"
    params = (Param("half_life", 64.0, "steps after which a use counts half", 1e-3, 1e12),)
    at_use = True

    @staticmethod
    def update(expert: Expert, now: Now, weight: float, half_life: float) -> float:
        """Return the decayed count at this use."""
        faded: float = 0.5 ** ((now.step - expert.last_step) / half_life)
        return expert.value * faded + 1.0

    @staticmethod
    def score(expert: Expert, now: Now, half_life: float) -> float:
        # All counts shrink alike from here on, so the order of log2(count) + step / half_life stays as it is.
        return math.log2(expert.value) + expert.last_step / half_life


class Lrfu(CompiledScore):
    """Evict the smallest sum of 0.5 ** (lambda * age) over all uses, age in uses of the pool; ties to the least recent.

    With lambda 0 it is `lfu`, with lambda 1 `lru`. The authors' time is the number of references, here of all experts
    of the pool (`lfu-decay` is the same sum with ages in steps); in one pool for all layers these come as many times
    faster, so divide lambda by their number. The authors found the best lambda to depend on the trace and name no
    default. Ours is the best of 0.0001, 0.001, 0.01 and 0.1 on three traces (the bundled one, Qwen3-30B-A3B,
    gpt-oss-20b) with 8, 16 and 32 slots per layer, but for one size of one trace. The sum is kept after eviction.
    """

    name = "lrfu"
    source = "Lee, Choi, Kim, Noh, Min, Cho, Kim, IEEE Transactions on Computers 50(12), 2001, equation 1"
    params = (Param("lambda", 0.01, "how fast a use fades: by half every 1 / lambda uses of the pool", 0, 1),)
    at_use = True

    @staticmethod
    def update(expert: Expert, now: Now, weight: float, rate: float) -> float:
        """Return the sum at this use (the paper's C, equation 3)."""
        faded: float = 0.5 ** (rate * (now.uses - expert.use_order))
        return expert.value * faded + 1.0

    @staticmethod
    def score(expert: Expert, now: Now, rate: float) -> float:
        # All sums shrink alike from here on, so the order of log2(sum) + lambda * last use stays as it is.
        return math.log2(expert.value) + rate * expert.use_order


class LfuAging(CompiledScore):
    """Evict the fewest uses, where every ``interval`` accesses all counts are multiplied by ``decay``."""

    name = "lfu-aging"
    source = "moe-policylang, LFU-decay"
    params = (
        Param("interval", 100, "accesses of the pool between two decays", minimum=1),
        Param("decay", 0.5, "factor at each decay", 0, 1),
    )

    @staticmethod
    def update(expert: Expert, now: Now, weight: float, interval: int, decay: float) -> float:
        """Return the count at this use, before the decay that this use may bring about."""
        decays = (now.uses - 1) // interval - (expert.use_order - 1) // interval
        return 1.0 + (expert.value * decay ** float(decays) if expert.uses else 0.0)

    @staticmethod
    def score(expert: Expert, now: Now, interval: int, decay: float) -> float:
        faded: float = decay ** float(now.uses // interval - (expert.use_order - 1) // interval)
        return expert.value * faded


class Lfuda(CompiledScore):
    """Evict the smallest L + min(count, 12); L becomes the victim's key, and the victim's count is halved and kept."""

    name = "lfuda"
    source = "bigrig, the repaired LFUDA; after Arlitt et al. 2000 (dynamic aging)"
    params = (Param("cap", 12, "largest count that matters", minimum=1),)
    at_use = True

    @staticmethod
    def update(expert: Expert, now: Now, weight: float, cap: int) -> float:
        """Return the count, halved by every eviction."""
        return 1.0 + (expert.value // 2 if expert.uses_resident == 0 else expert.value)

    @staticmethod
    def score(expert: Expert, now: Now, cap: int) -> float:
        return now.age + min(expert.value, cap)


class Lfru(CompiledScore):
    """Evict the smallest freq / (now - last + 1): uses since loading over steps since the last use."""

    name = "lfru"
    source = "tinyserve; vLLM expert-cache pull request"

    @staticmethod
    def score(expert: Expert, now: Now) -> float:
        return expert.uses_resident / (now.step - expert.last_step + 1)


class Lcp(CompiledScore):
    """Evict the smallest freq * 0.25 ** (steps since the last use / window); freq counts all uses so far."""

    name = "lcp"
    source = "mlx-flash, least critical priority"
    params = (Param("window", 128.0, "steps without use that divide the worth by four", 1e-3, 1e12),)
    at_use = True

    @staticmethod
    def score(expert: Expert, now: Now, window: float) -> float:
        # log2 of the formula, without the -2 * now / window that all residents share.
        return math.log2(expert.uses) + 2 * expert.last_step / window
