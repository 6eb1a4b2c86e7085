"""The simulator: schedules, cache pools, exact hit accounting, bounds, hit-rate curves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrcsim.simulator.capacity import PoolSize, resolve_capacity
from lrcsim.simulator.pool import Pool
from lrcsim.simulator.result import Bound, Result
from lrcsim.simulator.rules import uses_by_key
from lrcsim.simulator.schedule import Block, Schedule
from lrcsim.simulator.simulate import simulate

if TYPE_CHECKING:
    from lrcsim.simulator.curve import Curve, hit_rate_curve

__all__ = [
    "Block",
    "Bound",
    "Curve",
    "Pool",
    "PoolSize",
    "Result",
    "Schedule",
    "hit_rate_curve",
    "resolve_capacity",
    "simulate",
    "uses_by_key",
]


def __getattr__(name: str) -> object:
    """Import what needs numba (half a second) only when it is asked for."""
    if name in ("Curve", "hit_rate_curve"):
        from lrcsim.simulator import curve

        return getattr(curve, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
