"""The simulator: schedules, cache pools, exact hit accounting, bounds, hit-rate curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import lrcsim.base.ready  # noqa: F401  # before numba
from lrcsim.simulator.baselines import Bound
from lrcsim.simulator.cache.capacity import PoolSize, resolve_capacity
from lrcsim.simulator.cache.pool import Pool
from lrcsim.simulator.result import Result
from lrcsim.simulator.setup.run import uses_by_key
from lrcsim.simulator.simulate import simulate
from lrcsim.traces import repeats, schedule
from lrcsim.traces.schedule import Block, Schedule

if TYPE_CHECKING:
    from collections.abc import Callable

    from lrcsim.simulator.curves.curve import Curve, hit_rate_curve
    from lrcsim.simulator.metrics.balance_metric import Balance, balance
    from lrcsim.simulator.metrics.sch_metric import Sch, sch
    from lrcsim.simulator.metrics.specialisation import ExpertMeasures, expert_measures
    from lrcsim.simulator.metrics.srp_metric import Srp, srp

__all__ = [
    "Balance",
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
    "balance",
    "expert_measures",
    "hit_rate_curve",
    "resolve_capacity",
    "sch",
    "simulate",
    "srp",
    "uses_by_key",
]

# The modules of srp, sch and balance have longer names than the functions: importing a module puts its name into the
# package.
LAZY = {
    "Balance": "metrics.balance_metric",
    "Curve": "curves.curve",
    "ExpertMeasures": "metrics.specialisation",
    "Sch": "metrics.sch_metric",
    "Srp": "metrics.srp_metric",
    "balance": "metrics.balance_metric",
    "expert_measures": "metrics.specialisation",
    "hit_rate_curve": "curves.curve",
    "sch": "metrics.sch_metric",
    "srp": "metrics.srp_metric",
}


def __getattr__(name: str) -> object:
    """Import what needs numba (half a second) only when it is asked for."""
    if name in LAZY:
        from importlib import import_module

        return getattr(import_module(f"lrcsim.simulator.{LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _byte_kernel() -> Callable[[Any], bool]:
    """Return what `lrcsim.traces` finds repeated experts with."""
    from lrcsim.simulator.compiled.repeated_bytes import any_repeated_byte

    return any_repeated_byte


repeats.get_byte_kernel = _byte_kernel


def _batch_kernel() -> Callable[..., tuple[int, int]]:
    """Return what `lrcsim.traces` forms the batches of steps of several tokens with."""
    from lrcsim.simulator.compiled.last_uses import order_by_last_use

    kernel: Callable[..., tuple[int, int]] = order_by_last_use
    return kernel


schedule.get_batch_kernel = _batch_kernel
