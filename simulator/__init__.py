"""The simulator: schedules, cache pools, exact hit accounting, bounds, hit-rate curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import lrcsim.environment.ready  # noqa: F401  # before numba
from lrcsim.simulator.capacity import PoolSize, resolve_capacity
from lrcsim.simulator.pool import Pool
from lrcsim.simulator.result import Bound, Result
from lrcsim.simulator.rules import uses_by_key
from lrcsim.simulator.simulate import simulate
from lrcsim.traces.schedule import Block, Schedule

if TYPE_CHECKING:
    from lrcsim.simulator.curve import Curve, hit_rate_curve
    from lrcsim.simulator.sch_metric import Sch, sch
    from lrcsim.simulator.specialisation import ExpertMeasures, expert_measures
    from lrcsim.simulator.srp_metric import Srp, srp

__all__ = [
    "Block",
    "Bound",
    "Curve",
    "ExpertMeasures",
    "Pool",
    "PoolSize",
    "Result",
    "Sch",
    "Schedule",
    "Srp",
    "expert_measures",
    "hit_rate_curve",
    "resolve_capacity",
    "sch",
    "simulate",
    "srp",
    "uses_by_key",
]

# The modules of srp and sch have longer names than the functions: importing a module puts its name into the package.
LAZY = {
    "Curve": "curve",
    "ExpertMeasures": "specialisation",
    "Sch": "sch_metric",
    "Srp": "srp_metric",
    "expert_measures": "specialisation",
    "hit_rate_curve": "curve",
    "sch": "sch_metric",
    "srp": "srp_metric",
}


def __getattr__(name: str) -> object:
    """Import what needs numba (half a second) only when it is asked for."""
    if name in LAZY:
        from importlib import import_module

        return getattr(import_module(f"lrcsim.simulator.{LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
