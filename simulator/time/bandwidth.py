"""Bytes on the move: transfers on links and experts computed by the CPU, sharing links and DRAM as fluids.

Every flow has a nominal rate: on a link an equal share of the link's bandwidth, at most what a lane carries; for the
CPU what it can draw. All of them go through DRAM. Where together they ask for more than it gives, each is slowed by the
same factor. Rates change only when a flow starts or ends, so between such moments everything is linear and the next end
is known exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import simpy

TOGETHER = 1e-12
"""Flows whose ends differ by less than this share of the remaining time end at the same moment."""


class Share:
    """What limits a group of flows: a link's bandwidth in bytes/s, shared equally by those active now.

    Args:
        bandwidth: of all of them.
        each: the most that one of them has; a lane's own limit.
    """

    def __init__(self, bandwidth: float, each: float = math.inf) -> None:
        self.bandwidth = bandwidth
        self.each = each
        self.active = 0


class Flow:
    """So many bytes to move.

    Attributes:
        left: bytes still to move.
        share: what it draws from, its link or what the CPU can draw.
        done: called when the last byte has moved.
        rate: bytes/s at the moment.
    """

    __slots__ = ("done", "left", "rate", "share")

    def __init__(self, left: float, share: Share, done: Callable[[], None]) -> None:
        self.left = left
        self.share = share
        self.done = done
        self.rate = 0.0


class Flows:
    """All flows of a machine.

    Args:
        env: the simulation.
        dram_bandwidth: bytes/s that all flows share.
    """

    def __init__(self, env: simpy.Environment, dram_bandwidth: float) -> None:
        self.env = env
        self.dram_bandwidth = dram_bandwidth
        self.active: list[Flow] = []
        self._since = 0.0  # when `left` of all flows was last brought up to date
        self._version = 0  # of the rates; a wake-up set under other rates is void

    def start(self, flow: Flow, overhead: float = 0.0) -> None:
        """Let a flow begin now, or ``overhead`` seconds from now."""
        if overhead > 0:
            self.env.timeout(overhead).callbacks.append(lambda _: self.start(flow))
            return
        self._settle()
        self.active.append(flow)
        flow.share.active += 1
        self._share()

    def left(self, flow: Flow) -> float:
        """Return the bytes that a flow has still to move now."""
        return max(flow.left - flow.rate * (self.env.now - self._since), 0.0)

    def _settle(self) -> None:
        passed = self.env.now - self._since
        if passed > 0:
            for flow in self.active:
                flow.left -= flow.rate * passed
        self._since = self.env.now

    def _share(self) -> None:
        """Set all rates, and wake up at the next end."""
        self._version += 1
        if not self.active:
            return
        wanted = 0.0
        for flow in self.active:
            flow.rate = min(flow.share.bandwidth / flow.share.active, flow.share.each)
            wanted += flow.rate
        if wanted > self.dram_bandwidth:
            slower = self.dram_bandwidth / wanted
            for flow in self.active:
                flow.rate *= slower
        # Rounding may leave a flow that ends just now less than nothing to move: without the 0 it would never end.
        first = max(min(flow.left / flow.rate for flow in self.active), 0.0)
        version = self._version
        wake = self.env.timeout(first)
        wake.callbacks.append(lambda _: self._end(version, first))

    def _end(self, version: int, passed: float) -> None:
        if version != self._version:
            return
        ended = [flow for flow in self.active if flow.left / flow.rate <= passed * (1 + TOGETHER)]
        self._settle()
        for flow in ended:
            self.active.remove(flow)
            flow.share.active -= 1
        self._share()
        for flow in ended:
            flow.done()
