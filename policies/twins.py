"""Compiled twins: built-in policies written again as `CompiledScore`, so that `hit_rate_curve` runs them compiled.

The classes of the same name in the other modules are what `simulate` runs; tests hold the two equal, access by access.
"""

# ruff: noqa: ARG004 (the arguments are those of the contract)

from __future__ import annotations

import math

from lrcsim.policies import engines, frequency, future, recency, router
from lrcsim.policies.base import Policy
from lrcsim.policies.compiled import CompiledScore, Expert, Now

__all__ = ["TWINS", "twin_of"]


class Fifo(CompiledScore):
    """Load order."""

    at_use = True

    @staticmethod
    def worth(expert: Expert, now: Now) -> float:
        return expert.load_order


class Mru(CompiledScore):
    """The later the last use, the less worth."""

    at_use = True

    @staticmethod
    def worth(expert: Expert, now: Now) -> float:
        return -expert.use_order


class Lfu(CompiledScore):
    """Uses so far."""

    at_use = True

    @staticmethod
    def worth(expert: Expert, now: Now) -> float:
        return expert.uses


class LfuResident(CompiledScore):
    """Uses since loading."""

    at_use = True

    @staticmethod
    def worth(expert: Expert, now: Now) -> float:
        return expert.uses_resident


class LfuDecay(CompiledScore):
    """The value is the decayed count at the last use."""

    at_use = True
    params = frequency.LfuDecay.params

    @staticmethod
    def update(expert: Expert, now: Now, weight: float, half_life: float) -> float:
        faded: float = 0.5 ** ((now.step - expert.last_step) / half_life)
        return expert.value * faded + 1.0

    @staticmethod
    def worth(expert: Expert, now: Now, half_life: float) -> float:
        return math.log2(expert.value) + expert.last_step / half_life


class LfuAging(CompiledScore):
    """The value is the count at the last use, before the decay that this use may bring about."""

    params = frequency.LfuAging.params

    @staticmethod
    def update(expert: Expert, now: Now, weight: float, interval: int, decay: float) -> float:
        decays = (now.uses - 1) // interval - (expert.use_order - 1) // interval
        return 1.0 + (expert.value * decay ** float(decays) if expert.uses else 0.0)

    @staticmethod
    def worth(expert: Expert, now: Now, interval: int, decay: float) -> float:
        faded: float = decay ** float(now.uses // interval - (expert.use_order - 1) // interval)
        return expert.value * faded


class Lfuda(CompiledScore):
    """The value is the count, halved by every eviction."""

    at_use = True
    params = frequency.Lfuda.params

    @staticmethod
    def update(expert: Expert, now: Now, weight: float, cap: int) -> float:
        return 1.0 + (expert.value // 2 if expert.uses_resident == 0 else expert.value)

    @staticmethod
    def worth(expert: Expert, now: Now, cap: int) -> float:
        return now.age + min(expert.value, cap)


class Lfru(CompiledScore):
    """Uses since loading over steps since the last use."""

    @staticmethod
    def worth(expert: Expert, now: Now) -> float:
        return expert.uses_resident / (now.step - expert.last_step + 1)


class Lcp(CompiledScore):
    """Uses so far, a quarter of them per window since the last; as a logarithm."""

    at_use = True
    params = frequency.Lcp.params

    @staticmethod
    def worth(expert: Expert, now: Now, window: float) -> float:
        return math.log2(expert.uses) + 2 * expert.last_step / window


class LeastStaleFifo(CompiledScore):
    """Load order, those used in this step last."""

    @staticmethod
    def worth(expert: Expert, now: Now) -> float:
        return expert.load_order + (now.loads if expert.last_step == now.step else 0)


class LeastStaleGap(CompiledScore):
    """The value is the smoothed gap m between uses."""

    at_use = True

    @staticmethod
    def update(expert: Expert, now: Now, weight: float) -> float:
        return 0.5 * expert.value + 0.5 * (now.step - expert.last_step) if expert.uses else 0.0

    @staticmethod
    def worth(expert: Expert, now: Now) -> float:
        return expert.value + expert.last_step


class LeastStaleLayer(CompiledScore):
    """Layers already passed first, lowest first."""

    @staticmethod
    def worth(expert: Expert, now: Now) -> float:
        return expert.layer if expert.layer < now.layer else now.num_layers


class Hobbit(CompiledScore):
    """The value is the high-precision uses in the request before the last use; recency counts from 1."""

    wants = frozenset({"weights"})
    params = engines.Hobbit.params

    @staticmethod
    def update(expert: Expert, now: Now, weight: float, w1: float, w2: float, w3: float, w4: float) -> float:
        return expert.value + (expert.weight_ahead <= 0.6) if expert.last_request == now.request else 0.0

    @staticmethod
    def worth(expert: Expert, now: Now, w1: float, w2: float, w3: float, w4: float) -> float:
        distance = (now.layer - expert.layer) % now.num_layers
        near = w4 * (now.num_layers - distance) * (now.step - now.request_step + 1)
        if expert.last_request != now.request:
            return near
        last = expert.last_step - now.request_step + 1
        precise = expert.value + (expert.weight_ahead <= 0.6)
        return (w1 * last + w2 * expert.uses_request + w3 * precise) * now.num_layers + near


class MoeInfinity(CompiledScore):
    """Layer order, share in this request's layer, share of all uses."""

    @staticmethod
    def worth(expert: Expert, now: Now) -> float:
        ahead = expert.layer - now.layer if expert.layer > now.layer else 0
        here = expert.uses_request if expert.last_request == now.request else 0
        request = (here / now.layer_uses if now.layer_uses else 0.0) + 1e-6
        return (1 - ahead / now.num_layers) * request * (expert.uses / now.uses + 1e-6)


class Heat(CompiledScore):
    """Seldom used first."""

    at_use = True
    params = engines.Heat.params

    @staticmethod
    def worth(expert: Expert, now: Now, cold: int) -> float:
        return 0.0 if expert.uses_resident <= cold else 1.0


class Mrs(CompiledScore):
    """The value is the moving score at the last use."""

    needs = frozenset({"weights"})
    params = router.Mrs.params

    @staticmethod
    def update(expert: Expert, now: Now, weight: float, alpha: float) -> float:
        faded: float = (1 - alpha) ** float(now.layer_runs - expert.last_run)
        return expert.value * faded + alpha * weight

    @staticmethod
    def worth(expert: Expert, now: Now, alpha: float) -> float:
        faded: float = (1 - alpha) ** float(now.layer_runs - expert.last_run)
        return expert.value * faded


class ScoreEma(CompiledScore):
    """The value is the moving average."""

    at_use = True
    needs = frozenset({"weights"})
    params = router.ScoreEma.params

    @staticmethod
    def update(expert: Expert, now: Now, weight: float, alpha: float) -> float:
        return (1 - alpha) * expert.value + alpha * weight

    @staticmethod
    def worth(expert: Expert, now: Now, alpha: float) -> float:
        return expert.value


class Belady(CompiledScore):
    """The farther the next use, the less worth."""

    at_use = True
    larger_key_first = True
    needs = frozenset({"future"})

    @staticmethod
    def worth(expert: Expert, now: Now) -> float:
        return -expert.next_use


class BeladyBypass(Belady):
    """And misses may bypass the cache."""

    bypass = True


TWINS: dict[type[Policy], type[CompiledScore]] = {
    recency.Fifo: Fifo,
    recency.Mru: Mru,
    frequency.Lfu: Lfu,
    frequency.LfuResident: LfuResident,
    frequency.LfuDecay: LfuDecay,
    frequency.LfuAging: LfuAging,
    frequency.Lfuda: Lfuda,
    frequency.Lfru: Lfru,
    frequency.Lcp: Lcp,
    engines.LeastStaleFifo: LeastStaleFifo,
    engines.LeastStaleGap: LeastStaleGap,
    engines.LeastStaleLayer: LeastStaleLayer,
    engines.Hobbit: Hobbit,
    engines.MoeInfinity: MoeInfinity,
    engines.Heat: Heat,
    router.Mrs: Mrs,
    router.ScoreEma: ScoreEma,
    future.Belady: Belady,
    future.BeladyBypass: BeladyBypass,
}
"""The compiled twin of each built-in class that has one. Those that are stacks (lfu, belady ...) need it where experts
differ in bytes."""


def twin_of(policy: Policy) -> CompiledScore | None:
    """Return what runs compiled for a policy: itself, its twin with the same parameters, or None."""
    if isinstance(policy, CompiledScore):
        return policy if policy.compilable() else None
    twin = TWINS.get(type(policy))
    return None if twin is None else twin(**{param.name: getattr(policy, param.name) for param in policy.params})
