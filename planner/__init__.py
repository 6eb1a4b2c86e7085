"""From one machine and one model to a plan: does it fit, how to split memory, how fast, what would help."""

from __future__ import annotations

from lrcsim.planner.memory import Memory, memory_of
from lrcsim.planner.plan import Plan, make_plan
from lrcsim.planner.traces import Shape, shape_distance

__all__ = ["Memory", "Plan", "Shape", "make_plan", "memory_of", "shape_distance"]
