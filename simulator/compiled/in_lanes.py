"""Every capacity of many layers at once: the priority stacks in lanes, run over a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import TraceError
from lrcsim.simulator.compiled import lanes_next_use as by_next_use
from lrcsim.simulator.compiled.lanes import LANES, TILE, rows_for
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule

TOKENS = 65_536
"""Read at a time: 50 MB of ids at 48 layers and top-8."""


class Group:
    """Layers that share the lanes.

    Attributes:
        first: the first layer.
        lanes: how many there are.
        hits: int64 [2, rows], by phase and place, all lanes side by side.
        accesses: int64 [2, LANES], by phase.
    """

    def __init__(self, first: int, lanes: int, num_experts: int) -> None:
        self.first, self.lanes, self.num_experts = first, lanes, num_experts
        self.rows = rows_for(num_experts, TILE) + TILE
        self.hits = np.zeros((2, self.rows * LANES), np.int64)
        self.accesses = np.zeros((2, LANES), np.int64)

    def of_layers(self) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
        """Yield of each layer int64 [2, experts], the hits by phase and place, and int64 [2], the accesses."""
        by_place = self.hits.reshape(2, self.rows, LANES)
        for lane in range(self.lanes):
            yield by_place[:, : self.num_experts, lane], self.accesses[:, lane]


class NextUse(Group):
    """The optimum's rule."""

    def __init__(self, first: int, lanes: int, num_experts: int, cold: bool) -> None:
        super().__init__(first, lanes, num_experts)
        self.cold = cold
        self.size = by_next_use.steps_per_block(num_experts)
        self.bits = max((num_experts - 1).bit_length(), 1)
        self.costs = np.full(self.rows * LANES, by_next_use.NOT_USED)
        self.before = np.zeros((lanes, num_experts), np.uint16)
        self.parts: list[npt.NDArray[np.uint16]] = []
        self.part_ends: list[npt.NDArray[np.bool_]] = []
        self.done = 0

    def look(self, part: Part) -> None:
        """Note the first uses in the blocks of a part of the trace."""
        blocks = -(-len(part.phases) // self.size)
        first = np.empty((blocks, self.lanes, self.num_experts), np.uint16)
        ends = np.zeros(blocks, np.bool_)
        find: Any = by_next_use.find_first_uses  # compiled: type checkers do not know its arguments
        where = part.experts, self.first, self.lanes, part.starts, part.requests
        find(*where, self.cold, self.bits, self.size, first, ends)
        self.parts.append(first)
        self.part_ends.append(ends)

    def rank(self) -> None:
        """Rank the next uses after each block, once all parts were looked at."""
        self.ranks = np.concatenate(self.parts)
        self.parts.clear()
        rank: Any = by_next_use.rank_next_uses
        rank(self.ranks, np.concatenate(self.part_ends), self.ranks)

    def run(self, part: Part) -> None:
        """Advance the stacks over a part of the trace."""
        blocks = -(-len(part.phases) // self.size)
        ranks = self.ranks[self.done : self.done + blocks]
        self.done += blocks
        run: Any = by_next_use.run_next_use
        where = part.experts, self.first, self.lanes, part.complete, part.starts, part.requests, part.phases
        how = self.cold, self.bits, self.size, ranks, self.before
        if not run(*where, *how, self.costs, self.hits, self.accesses):
            raise TraceError("twice")


class Part:
    """Some steps of a trace, as the kernels want them.

    Attributes:
        experts: int [tokens, layers, k].
        complete: whether all are recorded.
        starts: int64 [steps + 1], first tokens, from the part's first.
        requests: int64 [1 + steps], the request of the step before (-1: none), then each step's.
        phases: uint8 [steps].
    """

    def __init__(self, trace: RoutingTrace, run: Any, before: int) -> None:
        self.experts = np.ascontiguousarray(trace.read("experts", int(run.starts[0]), int(run.starts[-1])))
        least, most = (int(self.experts.min()), int(self.experts.max())) if self.experts.size else (0, 0)
        if most >= trace.num_experts or least < -1:
            raise TraceError("range")
        self.complete = least >= 0
        self.starts = run.starts - run.starts[0]
        self.requests = np.concatenate([[before], run.request])
        self.phases = run.phase


def parts_of(trace: RoutingTrace, schedule: Schedule) -> Iterator[Part]:
    before = -1
    for run in schedule.step_runs(TOKENS):
        part = Part(trace, run, before)
        before = int(part.requests[-1])
        yield part


def optimum(trace: RoutingTrace, schedule: Schedule, cold: bool, spread: Callable[..., Any] = map):
    count = -(-trace.num_layers // LANES)
    bounds = np.linspace(0, trace.num_layers, count + 1).astype(int)
    groups = [NextUse(int(a), int(b - a), trace.num_experts, cold) for a, b in zip(bounds[:-1], bounds[1:], strict=True)]
    for part in parts_of(trace, schedule):
        list(spread(lambda group: group.look(part), groups))
    list(spread(lambda group: group.rank(), groups))
    for part in parts_of(trace, schedule):
        list(spread(lambda group: group.run(part), groups))
    return groups
