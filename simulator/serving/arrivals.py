"""Requests that arrive while others run: steps that are known only when their time has come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.simulator.serving.batching import Batching, Server, Speculative, check_serving
from lrcsim.simulator.serving.reorder import Order
from lrcsim.simulator.serving.steps import Step, steps_of
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Block, Schedule


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


class _Turns(NamedTuple):
    """A step: a trace of it alone, its tokens in the original one, its number, and the tokens run before it."""

    trace: RoutingTrace
    rows: npt.NDArray[np.int64]
    number: int
    tokens_before: int


class ArrivalSteps:
    """Steps that depend on time (`lrcsim.simulator.serving.steps.TimedSteps`); made by `arrival_steps`, to be run once.

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

    def next(self, now: float) -> Step | float | None:
        """Return the step to run now, or the time of the next arrival, or None at the end."""
        while isinstance(turns := self._next(now), _Turns):
            for step in steps_of(Schedule(turns.trace, weights=self.weights), uses=self.uses):
                step.number, step.request, step.first_token = turns.number, self.server.period, turns.tokens_before
                step.rows = turns.rows
                return step
            # no expert of it is recorded: there is nothing to run
        return turns

    def next_block(self, now: float) -> tuple[RoutingTrace, Block] | float | None:
        """Return the step to run now as a trace and the block of its schedule; else what `next` says."""
        while isinstance(turns := self._next(now), _Turns):
            for block in Schedule(turns.trace, weights=self.weights).blocks():
                if len(block.layer):
                    own = replace(block, step=block.step + turns.number, request=block.request + self.server.period)
                    return turns.trace, own
        return turns

    def _next(self, now: float) -> _Turns | float | None:
        """Let the server say what to run, and keep it."""
        turns = self.server.next(now)
        if not isinstance(turns, list):
            return turns
        number, tokens_before = self._order.steps, self._order.tokens
        self._order.add(turns, self.server.period)
        alone = Order()
        alone.add(turns, 0)
        return _Turns(alone.trace(self.base), alone.rows(), number, tokens_before)

    def trace(self) -> RoutingTrace:
        """Return what has been run so far as a trace, as `batched` does: for bounds, or another policy's hits."""
        return self._order.trace(self.base)
