"""The former name of `lrcsim.simulator.time` and `lrcsim.simulator.serving`; what it had is still found here."""

from __future__ import annotations

import warnings
from importlib import import_module

MOVED = {
    "PREFETCHERS": "time",
    "Costs": "setup.costs",
    "Engine": "time.engine",
    "FixedCosts": "setup.costs",
    "Log": "time.spans",
    "Prefetcher": "time",
    "RooflineCosts": "setup.costs",
    "Span": "time.spans",
    "StepSize": "serving.steps",
    "arrival_steps": "serving.arrivals",
    "batched": "serving",
    "make_prefetcher": "time",
}
"""Where each name lives now, within `lrcsim.simulator`."""

__all__ = list(MOVED)  # the names that __getattr__ finds


def __getattr__(name: str) -> object:
    if name not in MOVED:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place = f"lrcsim.simulator.{MOVED[name]}"
    warnings.warn(f"lrcsim.hierarchy.{name} has moved: import it from {place}", DeprecationWarning, stacklevel=2)
    return getattr(import_module(place), name)
