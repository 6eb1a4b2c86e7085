"""lrcsim: how often the expert that is needed is resident, how fast the model runs, how far that is from the best.

    import lrcsim
    trace = lrcsim.RoutingTrace.open("mine.h5")
    lrcsim.simulate(trace, "lru", "2x", hardware="rtx-4090")

These names are imported when they are first asked for: importing lrcsim itself imports nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lrcsim.planner.named import plan
    from lrcsim.simulator import hit_rate_curve, sch, srp
    from lrcsim.simulator.simulate import simulate
    from lrcsim.traces import RoutingTrace

    __version__: str

__all__ = ["RoutingTrace", "__version__", "hit_rate_curve", "plan", "sch", "simulate", "srp"]

_PLACES = {
    "RoutingTrace": "traces",
    "hit_rate_curve": "simulator",
    "plan": "planner.named",
    "sch": "simulator",
    "simulate": "simulator",
    "srp": "simulator",
}


def __getattr__(name: str) -> object:
    """Import a name from where it stands; what was asked for once is a plain attribute from then on."""
    found: object
    if name == "__version__":
        from importlib.metadata import version

        found = version("lrcsim")
    elif name in _PLACES:
        from importlib import import_module

        found = getattr(import_module(f"lrcsim.{_PLACES[name]}"), name)
    else:
        raise AttributeError(f"module 'lrcsim' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the names on offer, so that completion shows them before they are imported."""
    return sorted({*globals(), *__all__})
