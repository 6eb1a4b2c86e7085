"""The simulator: schedules, cache pools, exact hit accounting, bounds."""

from lrcsim.simulator.capacity import PoolSize, resolve_capacity
from lrcsim.simulator.pool import Pool
from lrcsim.simulator.result import Bound, Result
from lrcsim.simulator.schedule import Block, Schedule
from lrcsim.simulator.simulate import simulate, uses_by_key

__all__ = ["Block", "Bound", "Pool", "PoolSize", "Result", "Schedule", "resolve_capacity", "simulate", "uses_by_key"]
