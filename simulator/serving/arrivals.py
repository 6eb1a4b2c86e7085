"""Requests that arrive while others run: steps that are known only when their time has come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lrcsim.base.errors import ConfigError
from lrcsim.simulator.serving.batching import Batching, Server, Speculative, check_serving
from lrcsim.simulator.serving.reorder import Order, Turn
from lrcsim.simulator.serving.steps import Step, steps_of
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import ACCESSES_PER_BLOCK, Block, Schedule


def arrival_times(arrivals: str | Sequence[float], requests: int, seed: int = 0) -> list[float]:
    """Return when each request arrives, in seconds.

    Args:
        arrivals: ``"poisson:2.5"`` or ``"poisson:2.5/s"``, requests per second on average, the gaps (the first one too)
            being exponential; the path of a text file with a number on each line; or the numbers. They need not be in
            order.
        requests: in the trace.
        seed: of the gaps.

    Raises:
        ConfigError: a rate or time is no number in range, there are not as many times as requests, or no such file.
    """
    if isinstance(arrivals, str) and arrivals.startswith("poisson"):
        return _poisson(arrivals, requests, seed)
    given: Sequence[object] = arrivals
    if isinstance(arrivals, str):
        try:
            given = Path(arrivals).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"arrivals {arrivals!r} cannot be read ({type(error).__name__}): "
                "give poisson:RATE, or a text file with a number of seconds on each line"
            ) from None
    if not isinstance(given, Sequence | np.ndarray):
        raise ConfigError(f"arrivals {given!r}: give poisson:RATE, a file of seconds, or a list of them")
    times = []
    for place, value in enumerate(given):
        time = _number(value)
        if not (math.isfinite(time) and time >= 0):
            raise ConfigError(f"arrival of request {place} must be a number of seconds, 0 or more, given {value!r}")
        times.append(time)
    if len(times) != requests:
        raise ConfigError(f"arrivals must give a time for each of the {requests} requests, given {len(times)}")
    return times


def _poisson(text: str, requests: int, seed: int) -> list[float]:
    rate = _number(text.removeprefix("poisson").removeprefix(":").removesuffix("/s"))
    if not (math.isfinite(rate) and rate > 0):
        raise ConfigError(f"arrivals {text!r}: give requests per second, more than 0, such as poisson:2.5")
    times: list[float] = np.cumsum(np.random.default_rng(seed).exponential(1 / rate, requests)).tolist()
    return times


def _number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]  # whatever it is, the error says so
    except (TypeError, ValueError):
        return math.nan


def arrival_steps(
    trace: RoutingTrace,
    arrivals: str | Sequence[float],
    *,
    batch: int = 1,
    batching: Batching = "continuous",
    speculative: Speculative | None = None,
    seed: int = 0,
    prefill: str = "step",
    weights: bool = False,
    uses: bool = False,
) -> ArrivalSteps:
    """Return the steps of a server to which requests come one by one, for `Engine`.

    A request joins the batch, if there is a place, at the first step boundary at or after its arrival.

    Args:
        trace: the routing trace.
        arrivals: as for `arrival_times`.
        batch: as for `batched`, like the following.
        batching: with ``"static"`` a batch is what has arrived when the last one is done.
        speculative: as for `batched`.
        seed: of acceptance and arrivals.
        prefill: as for `batched`.
        weights: whether the steps carry router weights.
        uses: whether they say which token uses which expert how much.

    Raises:
        ConfigError: an option is not allowed.
    """
    check_serving(trace, batch, batching, speculative, seed)
    times = arrival_times(arrivals, trace.num_requests, seed)
    return ArrivalSteps(trace, Server(trace, batch, batching, speculative, seed, prefill, times), weights, uses)


class Planned(NamedTuple):
    """Some steps to run one after the other.

    Attributes:
        trace: of them alone.
        block: of its schedule, with layer-steps; steps are counted from the beginning of the run.
        until: a step that would begin then or later must not be run, for another request joins before it; the first
            one begins before.
    """

    trace: RoutingTrace
    block: Block
    until: float


class ArrivalSteps:
    """Steps that depend on time (`lrcsim.simulator.serving.steps.TimedSteps`); made by `arrival_steps`, to be run once.

    Asked for either one by one, by `next`, or, where an engine can stop between steps, in blocks: `next_block`, and
    after each what of it has been run, `ran`.

    Attributes:
        arrivals: seconds, of each request.
    """

    def __init__(self, trace: RoutingTrace, server: Server, weights: bool, uses: bool = False) -> None:
        self.base = trace
        self.server = server
        self.weights = weights
        self.uses = uses
        self.arrivals = dict(enumerate(server.arrivals))
        self._order = Order()
        self._most_tokens = max(1, ACCESSES_PER_BLOCK // math.prod(trace.columns["experts"].shape[1:]))
        self._pace = math.inf  # seconds per step of late
        self._now = 0.0
        self._plan: list[list[Turn]] = []
        self._mark = server.mark()

    def next(self, now: float) -> Step | float | None:
        """Return the step to run now, or the time of the next arrival, or None at the end."""
        while isinstance(turns := self.server.next(now), list):
            alone, number, tokens_before = _order_of([turns]), self._order.steps, self._order.tokens
            rows = alone.rows()
            self._order.add(turns, self.server.period)
            schedule = Schedule(alone.trace(self.base), weights=self.weights)
            for step in steps_of(schedule, uses=self.uses):
                step.number, step.request, step.first_token = number, self.server.period, tokens_before
                step.rows = rows if step.rows is None else rows[step.rows]  # without tokens that did not run
                return step
            # no expert of it is recorded: there is nothing to run
        return turns

    def next_block(self, now: float, guess: bool = True) -> Planned | float | None:
        """Return the next steps to run, the first of them now; else what `next` says.

        They go as far as it is known which requests run. That is known for the steps at whose beginning none could
        join: there is no place, or none waits, or who waits is there already.

        Args:
            now: seconds.
            guess: whether to go on, to a time that is known, as long as none joins.
        """
        while isinstance(until := self._make_plan(now, guess), float) and self._plan:
            trace = _order_of(self._plan).trace(self.base)
            (block,) = Schedule(trace, weights=self.weights).blocks(trace.num_tokens)
            if len(block.layer):
                own = replace(block, step=block.step + self._order.steps, request=block.request + self.server.period)
                return Planned(trace, own, until)
            self._keep(len(self._plan))  # no expert of them is recorded: there is nothing to run
        return until

    def ran(self, planned: Planned, steps: int, now: float) -> int:
        """Take note of what has been run of a block.

        Args:
            planned: what `next_block` returned last.
            steps: of those of its steps that have layer-steps, at least one.
            now: seconds.

        Returns:
            Tokens that have been run so far.
        """
        number = len(self._plan)
        if now >= planned.until:  # those without layer-steps that come next do not run before who joins now
            last = np.unique(planned.block.step)[steps - 1]
            number = int(last) + 1 - self._order.steps
        self._pace, planned_at = (now - self._now) / number, self._now
        if number < len(self._plan):
            self.server.go_back(self._mark)
            for _ in range(number - 1):
                self.server.next(planned_at)
        self._keep(number)
        return self._order.tokens

    def _make_plan(self, now: float, guess: bool) -> float | None:
        """Ask the server for steps; return `Planned.until`, or without steps what the server says."""
        server, self._plan, self._now = self.server, [], now
        turns = server.next(now)
        if not isinstance(turns, list):
            return turns
        until, left = math.inf, self._most_tokens
        while True:
            self._plan.append(turns)
            left -= sum(turn.tokens for turn in turns)
            if left <= 0 or not server.busy:
                return until
            joins = server.change(now)
            if len(self._plan) == 1:
                until, self._mark = joins, server.mark()
                if joins < math.inf:
                    most = (joins - now) / self._pace if guess and self._pace else 0
            if joins != until or (until < math.inf and len(self._plan) > most):
                return until
            turns = server.next(now)
            assert isinstance(turns, list)  # it is busy

    def _keep(self, steps: int) -> None:
        """Note down the first so many steps of the plan as run."""
        for turns in self._plan[:steps]:
            self._order.add(turns, self.server.period)

    def trace(self) -> RoutingTrace:
        """Return what has been run so far as a trace, as `batched` does: for bounds, or another policy's hits."""
        return self._order.trace(self.base)


def _order_of(steps: list[list[Turn]]) -> Order:
    """Return steps as an order of their own."""
    order = Order()
    for turns in steps:
        order.add(turns, 0)
    return order
