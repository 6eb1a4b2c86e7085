"""A link between two tiers: lanes, latency, overhead, chunks, and two priorities with preemption between chunks."""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush

import simpy

from lrcsim.hardware import Link
from lrcsim.simulator.time.bandwidth import Flow, Flows, Share
from lrcsim.simulator.time.spans import Log

DEMAND, PREFETCH = 0, 1
"""Priorities: what a layer waits for goes first."""


def copies_before(copies: int, pieces: int, size: float, chunk: float) -> int:
    """Return how many times the link's overhead is due before the first chunk of a transfer.

    Each chunk is a copy of its own; where the transfer is more copies than it has chunks, the others come first.

    Args:
        copies: that an expert is.
        pieces: transfers that it is; each is an equal share of the copies, at least one.
        size: bytes of the transfer.
        chunk: bytes of a chunk.
    """
    return max(math.ceil(copies / pieces) - max(math.ceil(size / chunk), 1), 0) + 1


class Transfer:
    """One expert on its way.

    Attributes:
        key: layer * stride + expert.
        left: bytes that no chunk has taken up yet; not whole where an expert is moved in parts.
        size: bytes in all.
        priority: `DEMAND` or `PREFETCH`.
        done: called when the last byte has arrived.
        what: for the log.
        pieces: how many transfers the expert is; this is one of them.
        cancelled: the rest is not wanted any more.
        order: place among those of equal priority.
    """

    __slots__ = ("cancelled", "done", "key", "left", "order", "pieces", "priority", "size", "what")

    def __init__(
        self, key: int, size: float, priority: int, done: Callable[[Transfer], None], what: str, pieces: int = 1
    ) -> None:
        self.key = key
        self.left = self.size = size
        self.priority = priority
        self.done = done
        self.what = what
        self.pieces = pieces
        self.cancelled = False
        self.order = 0

    def __lt__(self, other: Transfer) -> bool:
        return (self.priority, self.order) < (other.priority, other.order)


class LinkServer:
    """Serves transfers over a link, the most urgent first, those of equal priority in the order of submission.

    A transfer can start ``latency`` after its submission. It takes a lane; each of its chunks first costs ``overhead``,
    then moves with the share of the bandwidth that the lanes and DRAM leave it. After each chunk a more urgent transfer
    that waits takes the lane, and the rest waits at its old place in the queue. Where an expert is several copies, each
    costs ``overhead``: those that are more than the chunks before the first (`copies_before`).

    Args:
        env: the simulation.
        link: its numbers.
        flows: what it shares DRAM with.
        log: where to note spans, or None.
        copies: that an expert is on this link.

    Attributes:
        bytes: moved or moving so far (see `moved`).
        busy_s: seconds with a lane taken, so far (see `busy`).
    """

    def __init__(
        self, env: simpy.Environment, link: Link, flows: Flows, log: Log | None = None, copies: int = 1
    ) -> None:
        self.env = env
        self.link = link
        self.copies = copies
        self.flows = flows
        self.log = log
        self.bytes = 0.0
        self._share = Share(link.bandwidth, link.lane_bandwidth or math.inf)
        self._taken = 0
        self._under_way: list[Flow] = []
        self._waiting: list[Transfer] = []
        self._submitted = 0
        self._busy = 0.0
        self._busy_since = 0.0

    def submit(self, transfer: Transfer) -> None:
        """Ask for a transfer now."""
        self._submitted += 1
        transfer.order = self._submitted
        if self.link.latency > 0:
            begin = self.env.timeout(self.link.latency)
            begin.callbacks.append(lambda _: self._queue(transfer))
        else:
            self._queue(transfer)

    def promote(self, transfer: Transfer) -> None:
        """Make a prefetch urgent: its layer has come."""
        transfer.priority = DEMAND
        heapify(self._waiting)

    def busy(self) -> float:
        """Seconds with at least one lane taken, until now."""
        return self._busy + (self.env.now - self._busy_since if self._taken else 0.0)

    def moved(self) -> float:
        """Bytes that have moved until now: of chunks under way only what has passed."""
        return self.bytes - sum(map(self.flows.left, self._under_way))

    def _queue(self, transfer: Transfer) -> None:
        heappush(self._waiting, transfer)
        self._dispatch()

    def _dispatch(self) -> None:
        while self._waiting and self._taken < self.link.lanes:
            transfer = heappop(self._waiting)
            if transfer.cancelled:
                continue
            if not self._taken:
                self._busy_since = self.env.now
            self._taken += 1
            self._chunk(transfer)

    def _chunk(self, transfer: Transfer) -> None:
        """Move the next chunk."""
        size = transfer.left if self.link.chunk is None else min(transfer.left, self.link.chunk)
        copies = 1
        if transfer.left == transfer.size:
            copies = copies_before(self.copies, transfer.pieces, transfer.size, self.link.chunk or transfer.size)
        transfer.left -= size
        self.bytes += size
        begin = self.env.now
        flow = Flow(size, self._share, lambda: self._arrived(transfer, flow, begin))
        self._under_way.append(flow)
        self.flows.start(flow, self.link.overhead * copies)

    def _arrived(self, transfer: Transfer, flow: Flow, begin: float) -> None:
        self._under_way.remove(flow)
        if self.log is not None:
            self.log.note(begin, self.env.now, self.link.name, transfer.what, transfer.key)
        over = transfer.left == 0 or transfer.cancelled
        if not over and not (self._waiting and self._waiting[0].priority < transfer.priority):
            self._chunk(transfer)
            return
        self._taken -= 1
        if not self._taken:
            self._busy += self.env.now - self._busy_since
        if not over:
            heappush(self._waiting, transfer)
        self._dispatch()
        if transfer.left == 0:
            transfer.done(transfer)
