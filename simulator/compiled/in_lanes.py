"""Every capacity of many layers at once: the priority stacks in lanes, run over a trace."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise, repeat
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.progress import Progress
from lrcsim.simulator.compiled import lanes_next_use, lanes_uses
from lrcsim.simulator.compiled.counts import signatures
from lrcsim.simulator.compiled.lanes import LANES, TILE, rows_for
from lrcsim.simulator.compiled.stack_decode import LFU, LOOKAHEAD, NEXT_USE
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule, StepRun

TOKENS = 16_384
"""Read at a time, two parts in memory: 13 MB of ids each at 48 layers and top-8. Four times as many are no faster."""
LEAST_LAYERS = 6
"""With fewer, the kernels of one layer are as fast."""
FROM_ACCESSES = 1 << 24
"""Accesses of a trace from which on compiling this, once, is worth its time: 4 to 8 s, for some 15 ns of each."""
SMALL_STEPS = {LFU: 12, LOOKAHEAD: 1 << 40}
"""Most tokens of a step, of those with several, that takes longer in lanes than in each layer by itself."""
SINGLES = 5
"""Steps of one token that make up for one of those."""
LEAST_STEPS = 32
"""In a block of steps, else telling costs anew for each takes too long."""
MOST_BITS = 11
"""Of the number of a last use: what is noted of a block stays near the processor."""
MEMORY = 600_000_000
"""Bytes that the optimum's ranks may take: 2 per expert, layer and block of steps."""


@dataclass(frozen=True)
class Form:
    """How costs by uses are laid out.

    Attributes:
        kind: the type of a cost.
        bits: of the number of the last use.
        idle: the uses part of a cost without uses.
    """

    kind: type
    bits: int
    idle: int


def form_of(num_experts: int, k: int, most_uses: int, window: int) -> Form | None:
    """Return the layout of the costs of LFU (window 0) or sch-lookahead, None if they do not fit.

    Args:
        num_experts: of a layer.
        k: experts per token.
        most_uses: that an expert can have.
        window: steps looked ahead, the current one included.
    """
    for kind in (np.uint16, np.uint32):
        uses = min(most_uses, window) if window else most_uses
        for bits in range(MOST_BITS, 0, -1):
            numbers = (1 << bits) - 1
            steps = (numbers - num_experts) // k
            if numbers >= 2 * num_experts and steps >= LEAST_STEPS and (uses + 2) << bits <= np.iinfo(kind).max:
                return Form(kind, bits, uses + 1)
    return None


class Part:
    """Some steps of a trace, as the kernels want them.

    Attributes:
        experts: int [tokens, layers, k], with those of steps that come into sight.
        possible: whether all are experts of the model.
        starts: int64 [steps + 1 at least], first tokens, from the part's first.
        requests: int64 [1 + steps], the request of the step before (-1: none), then each step's.
        phases: uint8 [steps].
        sights: int64 [2, steps], the first step that comes into sight before each, and the one after the last.
    """

    def __init__(
        self,
        experts: npt.NDArray[Any],
        num_experts: int,
        run: StepRun,
        requests: npt.NDArray[np.int64],
        sights: npt.NDArray[np.int64] | None = None,
    ) -> None:
        steps = len(requests) - 1
        self.experts = np.ascontiguousarray(experts)
        least, most = (int(experts.min()), int(experts.max())) if experts.size else (0, 0)
        self.possible = least >= -1 and most < num_experts
        self.starts, self.requests, self.phases = run.starts - run.starts[0], requests, run.phase[:steps]
        self.sights = np.zeros((2, steps), np.int64) if sights is None else sights


def parts_of(trace: RoutingTrace, schedule: Schedule) -> Iterator[Part]:
    """Yield a trace in parts of about `TOKENS` tokens."""
    before = -1
    for run in schedule.step_runs(TOKENS):
        experts = trace.read("experts", int(run.starts[0]), int(run.starts[-1]))
        yield Part(experts, trace.num_experts, run, np.append(before, run.request))
        before = int(run.request[-1])


def parts_ahead(trace: RoutingTrace, schedule: Schedule, window: int, cold: bool) -> Iterator[Part]:
    """Yield a trace in parts of about `TOKENS` tokens or ``window`` steps, each with the steps that are seen from it.

    Args:
        trace: the trace.
        schedule: its steps.
        window: steps looked ahead, the current one included.
        cold: whether those of later requests are out of sight.
    """
    run = schedule.all_steps()
    steps = len(run.request)
    seen = np.minimum(np.arange(steps) + window, steps)  # the step after the last in sight
    if cold:
        seen = np.minimum(seen, np.searchsorted(run.request, run.request, side="right"))
    known = np.append(0, seen[:-1])
    low, tokens = 0, max(TOKENS, window)
    while low < steps:
        high = max(int(np.searchsorted(run.starts, run.starts[low] + tokens, side="right")) - 1, low + 1)
        high = min(high, steps)
        last = int(seen[high - 1])
        part = StepRun(low, run.starts[low : last + 1], run.request[low:last], run.phase[low:last])
        experts = trace.read("experts", int(run.starts[low]), int(run.starts[last]))
        before = run.request[low - 1] if low else -1
        sights = np.array([known[low:high], seen[low:high]]) - low
        yield Part(experts, trace.num_experts, part, np.append(before, run.request[low:high]), sights)
        low = high


class Group:
    """Layers that share the lanes.

    Attributes:
        first: the first layer.
        lanes: how many there are.
        hits: int64 [2, rows], by phase and place, all lanes side by side.
        accesses: int64 [2, LANES], by phase.
    """

    def __init__(self, first: int, lanes: int, num_experts: int, cold: bool) -> None:
        self.first, self.lanes, self.num_experts, self.cold = first, lanes, num_experts, cold
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
        super().__init__(first, lanes, num_experts, cold)
        self.size = lanes_next_use.steps_per_block(num_experts)
        self.bits = max((num_experts - 1).bit_length(), 1)
        self.costs = np.full(self.rows * LANES, lanes_next_use.NOT_USED)
        self.before = np.zeros((lanes, num_experts), np.uint16)
        self.parts: list[npt.NDArray[np.uint16]] = []
        self.done = 0

    def look(self, part: Part) -> None:
        """Note the first uses in the blocks of a part of the trace."""
        blocks = -(-len(part.phases) // self.size)
        first = np.empty((blocks, self.lanes, self.num_experts), np.uint16)
        find: Any = lanes_next_use.find_first_uses  # compiled: type checkers do not know its arguments
        find(part.experts, self.first, self.lanes, part.starts, self.bits, self.size, first)
        self.parts.append(first)

    def rank(self) -> None:
        """Rank the next uses after each block, once all parts were looked at."""
        self.ranks = np.concatenate(self.parts)
        self.parts.clear()
        rank: Any = lanes_next_use.rank_next_uses
        rank(self.ranks, self.ranks)

    def run(self, part: Part) -> bool:
        """Advance the stacks over a part of the trace; return whether no token has an expert twice."""
        blocks = -(-len(part.phases) // self.size)
        ranks = self.ranks[self.done : self.done + blocks]
        self.done += blocks
        run: Any = lanes_next_use.run_next_use
        where = part.experts, self.first, self.lanes, part.starts, part.requests, part.phases
        how = self.cold, self.bits, self.size, ranks, self.before
        return bool(run(*where, *how, self.costs, self.hits, self.accesses))


class Uses(Group):
    """LFU, and with a window sch-lookahead."""

    def __init__(self, first: int, lanes: int, num_experts: int, cold: bool, window: int, form: Form) -> None:
        super().__init__(first, lanes, num_experts, cold)
        self.lookahead, self.bits = window > 0, form.bits
        self.idle = form.idle
        self.costs: npt.NDArray[Any] = np.full(self.rows * LANES, -1, np.int64).astype(form.kind)
        numbers = (1 << self.bits) - 1 - np.arange(num_experts)
        self.cost_of = np.tile((self.idle << self.bits) + numbers, (lanes, 1))
        self.key_of = np.zeros((lanes, 1 << self.bits), np.uint16)

    def run(self, part: Part) -> bool:
        """Advance the stacks over a part of the trace; return whether no token has an expert twice."""
        resets = self.cold & (part.requests[1:] != part.requests[:-1])
        run: Any = lanes_uses.run_uses
        where = part.experts, self.first, self.lanes, part.starts, resets, part.sights, part.phases
        state = self.cost_of, self.key_of, self.costs
        return bool(run(self.lookahead, *where, self.idle, self.bits, *state, self.hits, self.accesses))


Hits = list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]
"""Of each layer int64 [2, experts], by phase the hits at each place, and int64 [2], the accesses."""


def suits(trace: RoutingTrace, rule: int, window: int) -> bool:
    """Return whether the layers can be run in lanes, each a pool of its own, access by access the same."""
    if rule not in (LFU, LOOKAHEAD, NEXT_USE) or trace.num_layers < LEAST_LAYERS:
        return False
    alike = len(trace.layers.stack_names) == 1 and int(trace.layers.top_k.min()) == trace.top_k
    if not alike or trace.num_experts > lanes_next_use.MOST_EXPERTS or trace.top_k > trace.num_experts:
        return False
    if rule != NEXT_USE:
        return form_of(trace.num_experts, trace.top_k, trace.num_tokens, window) is not None
    blocks = trace.num_tokens // lanes_next_use.steps_per_block(trace.num_experts) + 1
    return 2 * blocks * trace.num_layers * trace.num_experts <= MEMORY


def pays(trace: RoutingTrace, schedule: Schedule, rule: int, window: int) -> bool:
    """Return whether a trace that `suits` takes less time in lanes: by its steps, and by what would be compiled first.

    Args:
        trace: the routing trace.
        schedule: its steps.
        rule: as in `stack_any.run_stack`.
        window: steps looked ahead (``LOOKAHEAD``), else 0.
    """
    if math.prod(trace.columns["experts"].shape) < FROM_ACCESSES and not _is_compiled(trace, rule, window):
        return False
    if rule not in SMALL_STEPS or not {"phase", "step"} & set(trace.columns):  # then every step is one token
        return True
    small = singles = 0
    for run in schedule.step_runs(TOKENS):
        tokens = np.diff(run.starts)
        singles += int(np.count_nonzero(tokens == 1))
        small += int(np.count_nonzero((tokens > 1) & (tokens <= SMALL_STEPS[rule])))
    return SINGLES * small <= singles


def _is_compiled(trace: RoutingTrace, rule: int, window: int) -> bool:
    """Return whether the kernel of a rule was compiled before, in this process or on this machine."""
    if rule == NEXT_USE:
        return bool(signatures(lanes_next_use.run_next_use))
    form = form_of(trace.num_experts, trace.top_k, trace.num_tokens, window)
    assert form is not None
    wanted = {np.dtype(form.kind).name, "any"}  # the type of the costs, by which it was compiled
    for types in signatures(lanes_uses.run_uses):
        kind = types[lanes_uses.COSTS]
        if str(getattr(kind, "dtype", kind)) in wanted:
            return True
    return False


def hits_in_lanes(
    trace: RoutingTrace,
    schedule: Schedule,
    rule: int,
    window: int,
    cold: bool,
    spread: Callable[..., Iterable[Any]] = map,
    progress: Progress | None = None,
) -> Hits | None:
    """Count the hits of each layer under co-resident access, at every capacity.

    Args:
        trace: the routing trace, that `suits`.
        schedule: its steps.
        rule: as in `stack_any.run_stack`.
        window: steps looked ahead (``LOOKAHEAD``), else 0.
        cold: whether the pools are emptied when the request changes.
        spread: how to call a function for each group of layers: `map`, or that of threads.
        progress: told how far it is, in tokens.

    Returns:
        The hits; None where an expert is impossible or twice in a token.
    """
    bounds = np.linspace(0, trace.num_layers, -(-trace.num_layers // LANES) + 1).astype(int).tolist()
    shares = [(first, last - first, trace.num_experts, cold) for first, last in pairwise(bounds)]
    groups: list[NextUse] | list[Uses]
    done = 0
    if rule == NEXT_USE:
        groups = [NextUse(*share) for share in shares]
        for part in parts_of(trace, schedule):
            if not part.possible:
                return None
            list(spread(NextUse.look, groups, repeat(part)))
        list(spread(NextUse.rank, groups))
    else:
        form = form_of(trace.num_experts, trace.top_k, trace.num_tokens, window)
        assert form is not None
        groups = [Uses(*share, window, form) for share in shares]
    parts = parts_ahead(trace, schedule, window, cold) if rule == LOOKAHEAD else parts_of(trace, schedule)
    for part in parts:
        if not part.possible or not all(spread(type(groups[0]).run, groups, repeat(part))):
            return None
        done += int(part.starts[len(part.phases)])
        if progress is not None:
            progress(done, trace.num_tokens)
    return [layer for group in groups for layer in group.of_layers()]
