"""The memory hierarchy in time: an event-driven engine over links, tiers and compute."""

import lrcsim.environment.ready  # noqa: F401  # before numba
from lrcsim.hierarchy.arrivals import arrival_steps
from lrcsim.hierarchy.batching import batched
from lrcsim.hierarchy.costs import Costs, FixedCosts, RooflineCosts, StepSize
from lrcsim.hierarchy.engine import Engine
from lrcsim.hierarchy.log import Log, Span
from lrcsim.hierarchy.prefetch import PREFETCHERS, Prefetcher, make_prefetcher

__all__ = [
    "PREFETCHERS",
    "Costs",
    "Engine",
    "FixedCosts",
    "Log",
    "Prefetcher",
    "RooflineCosts",
    "Span",
    "StepSize",
    "arrival_steps",
    "batched",
    "make_prefetcher",
]
