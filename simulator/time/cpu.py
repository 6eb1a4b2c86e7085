"""The CPU, which computes experts one after the other and draws their bytes from DRAM."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import simpy

from lrcsim.simulator.setup.costs import Costs
from lrcsim.simulator.time.bandwidth import Flow, Flows, Share
from lrcsim.simulator.time.spans import Log


class CpuQueue:
    """Computes experts in the order in which they are handed over."""

    def __init__(self, env: simpy.Environment, flows: Flows, costs: Costs, stride: int, log: Log | None) -> None:
        self.env = env
        self.flows = flows
        self.costs = costs
        self.stride = stride
        self.log = log
        self._waiting: deque[tuple[int, int, Callable[[float], None]]] = deque()
        self._busy = False

    def compute(self, key: int, tokens: int, done: Callable[[float], None]) -> None:
        """Compute an expert for so many tokens, behind those that wait; tell ``done`` the seconds it took."""
        self._waiting.append((key, tokens, done))
        if not self._busy:
            self._next()

    def _next(self) -> None:
        self._busy = bool(self._waiting)
        if not self._waiting:
            return
        key, tokens, done = self._waiting.popleft()
        overhead, size, rate = self.costs.on_cpu(key // self.stride, tokens, key)
        begin = self.env.now

        def end() -> None:
            if self.log is not None:
                self.log.note(begin, self.env.now, "cpu", "expert", key)
            done(self.env.now - begin)
            self._next()

        self.flows.start(Flow(size, Share(rate), end), overhead)
