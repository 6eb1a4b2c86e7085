"""Compiled twins: built-in policies written again as `CompiledScore`, so that `hit_rate_curve` runs them compiled.

The classes of the same name in the other modules are what `simulate` runs; tests hold the two equal, access by access.
"""

# ruff: noqa: ARG004 (the arguments are those of the contract)

from __future__ import annotations

import math

from lrcsim.policies import engines, frequency, recency, router
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


class Heat(CompiledScore):
    """Seldom used first."""

    at_use = True
    params = engines.Heat.params

    @staticmethod
    def worth(expert: Expert, now: Now, cold: int) -> float:
        return 0.0 if expert.uses_resident <= cold else 1.0


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


TWINS: dict[type[Policy], type[CompiledScore]] = {
    recency.Fifo: Fifo,
    recency.Mru: Mru,
    frequency.LfuResident: LfuResident,
    frequency.LfuDecay: LfuDecay,
    frequency.Lfru: Lfru,
    frequency.Lcp: Lcp,
    engines.LeastStaleFifo: LeastStaleFifo,
    engines.LeastStaleGap: LeastStaleGap,
    engines.LeastStaleLayer: LeastStaleLayer,
    engines.Heat: Heat,
    router.ScoreEma: ScoreEma,
}
"""The compiled twin of each built-in class that has one."""


def twin_of(policy: Policy) -> CompiledScore | None:
    """Return what runs compiled for a policy: itself, its twin with the same parameters, or None."""
    if isinstance(policy, CompiledScore):
        return policy if policy.compilable() else None
    twin = TWINS.get(type(policy))
    return None if twin is None else twin(**{param.name: getattr(policy, param.name) for param in policy.params})
