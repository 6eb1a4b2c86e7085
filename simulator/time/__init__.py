"""The memory hierarchy in time: an event-driven engine over links, tiers and compute, and the same compiled."""

import lrcsim.base.ready  # noqa: F401  # before numba
from lrcsim.simulator.setup.miss_actions import ACTIONS, MissAction, make_action
from lrcsim.simulator.setup.outcomes import Outcome
from lrcsim.simulator.setup.prefetchers import PREFETCHERS, Prefetcher, make_prefetcher

__all__ = ["ACTIONS", "PREFETCHERS", "MissAction", "Outcome", "Prefetcher", "make_action", "make_prefetcher"]
