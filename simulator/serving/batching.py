"""Several requests at once, and speculative decoding: which tokens a server runs together in one step.

At every step boundary a server

1. lets requests go that have run their last token;
2. lets requests join, in order of arrival, while there are places: ``"continuous"``, whenever one is free, or
   ``"static"``, only when all requests of the last batch are done;
3. runs the next prompt step of the first request that has one (the whole prompt, a chunk, a token), alone;
4. or, when no request has prompt tokens to run, one decode step: each request in the batch runs its next token, in the
   order in which they joined. Its experts are the union.

Continuous batching is iteration-level scheduling: Yu et al., "Orca", OSDI 2022. Prompts before decoding, and never both
in one step, is what vLLM did before it chunked prompts (Kwon et al., SOSP 2023). docs/batching.md has an example.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal, TypeGuard

import numpy as np

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.simulator.serving.reorder import Order, Turn
from lrcsim.traces import DECODE, PREFILL, RoutingTrace
from lrcsim.traces.schedule import Schedule, StepRun

Batching = Literal["continuous", "static"]
BATCHING: tuple[Batching, ...] = ("continuous", "static")

MOST_DRAFTS = 1_024
"""Drafts of a step at most; engines draft 1 to some 60 (trees of them in EAGLE-2, arXiv 2406.16858)."""

Speculative = tuple[int, float | Sequence[int]]
"""Tokens drafted per step; and how many are accepted: a rate for each, or counts for the steps of a request."""


def batched(
    trace: RoutingTrace,
    *,
    batch: int = 1,
    batching: Batching = "continuous",
    speculative: Speculative | None = None,
    seed: int = 0,
    prefill: str = "step",
) -> RoutingTrace:
    """Put a trace into the order in which a server runs it, all requests waiting from the beginning.

    The result serves every replay, bound and engine as any trace does (`Order.trace` says which columns it gains), with
    whatever ``prefill``, for its steps are fixed here. Its requests are the times without a break in which some request
    is running: one per request for a batch of 1, one per batch where ``batching`` is static. A cache that is emptied
    between requests is emptied then.

    Args:
        trace: the routing trace; it must stay open.
        batch: requests at once, at most.
        batching: ``"continuous"`` or ``"static"``.
        speculative: ``(n, acceptance)``: every decode step verifies n drafted tokens besides the next one. The drafts
            are taken to be the tokens that follow in the trace; those rejected are run again in the next step. At the
            end of a request there are fewer. ``acceptance``: the rate at which each is accepted, up to the first that
            is not; or a list of the numbers accepted in the decode steps of a request, from the start again when it is
            used up. None: no drafts.
        seed: of the draws at a rate; each request has draws of its own, whatever runs beside it.
        prefill: how prompt tokens make steps (`Schedule`).

    Returns:
        The trace in its new order; ``trace`` itself for one request at a time without drafts.

    Raises:
        ConfigError: an option is not allowed, or the trace is in such an order already.
    """
    check_serving(trace, batch, batching, speculative, seed)
    if batch == 1 and speculative is None:
        Schedule(trace, prefill)  # refuse a wrong `prefill` here too
        return trace
    server = Server(trace, batch, batching, speculative, seed, prefill)
    order = Order()
    while isinstance(turns := server.next(), list):
        order.add(turns, server.period)
    return order.trace(trace)


class Server:
    """Says step by step what is run, by the rules above.

    Args:
        trace: the routing trace.
        batch: requests at once, at most.
        batching: ``"continuous"`` or ``"static"``.
        speculative: as for `batched`.
        seed: as for `batched`.
        prefill: as for `batched`.
        arrivals: seconds, one for each request; None: all at 0.

    Attributes:
        period: number of the busy period: it rises when requests join and none is left from before.
    """

    def __init__(
        self,
        trace: RoutingTrace,
        batch: int,
        batching: Batching,
        speculative: Speculative | None,
        seed: int,
        prefill: str,
        arrivals: Sequence[float] | None = None,
    ) -> None:
        self.batch = batch
        self.static = batching == "static"
        self.speculative = speculative
        self.seed = seed
        self.steps = Schedule(trace, prefill).all_steps()
        self.arrivals = [0.0] * trace.num_requests if arrivals is None else list(arrivals)
        self._first = np.searchsorted(self.steps.starts[:-1], trace.offsets)  # step at which each request begins
        with_tokens = np.flatnonzero(np.diff(trace.offsets)).tolist()
        self.waiting = deque(sorted(with_tokens, key=self.arrivals.__getitem__))
        self.running: list[_Request] = []
        self.period = -1

    def next(self, now: float = 0.0) -> list[Turn] | float | None:
        """Return what is run in the next step, the time of the next arrival where nothing is to do, None at the end."""
        self.change(now)
        for request in self.running:
            if request.at_prompt:
                return [request.prompt_turn()]
        if self.running:
            return [request.decode_turn() for request in self.running]
        return self.arrivals[self.waiting[0]] if self.waiting else None

    @property
    def busy(self) -> bool:
        """Whether a request that runs has tokens left."""
        return any(not request.done for request in self.running)

    def change(self, now: float) -> float:
        """Let requests go and join at a step boundary, as `next` does first; while `busy` that may be done ahead of it.

        Returns:
            The time from which one more request would join here; infinite: no more would, however late it is.
        """
        self.running = [request for request in self.running if not request.done]
        if self.running and self.static:
            return math.inf
        left = len(self.running)
        while len(self.running) < self.batch and self.waiting and self.arrivals[self.waiting[0]] <= now:
            self.running.append(self._begin(self.waiting.popleft()))
        if not left and self.running:
            self.period += 1
        return self.arrivals[self.waiting[0]] if self.waiting and len(self.running) < self.batch else math.inf

    def mark(self) -> list[tuple[_Request, int, int]]:
        """Return how far each request is, for `go_back`."""
        return [(request, request.at, request.decoded) for request in self.running]

    def go_back(self, mark: list[tuple[_Request, int, int]]) -> None:
        """Undo steps, at whose boundaries none joined."""
        self.running = [request for request, _, _ in mark]
        for request, at, decoded in mark:
            request.at, request.decoded = at, decoded

    def _begin(self, number: int) -> _Request:
        first, end = int(self._first[number]), int(self._first[number + 1])
        drafts, acceptance = self.speculative or (0, 0.0)
        return _Request(number, self.steps, first, end, drafts, _accepted(drafts, acceptance, [self.seed, number]))


class _Request:
    """A request in the batch, and how far it is: a walk along its steps ``first`` to ``end``."""

    def __init__(self, number: int, steps: StepRun, first: int, end: int, drafts: int, accepted: Iterator[int]) -> None:
        self.number = number
        self.starts: list[int] = steps.starts[first : end + 1].tolist()
        self.phases: list[int] = [*steps.phase[first:end].tolist(), PREFILL]  # the last one ends every run of decoding
        self.at = 0
        self.decoded = 0  # steps
        self.drafts = drafts
        self._accepted = accepted
        self._drawn: list[int] = []

    @property
    def done(self) -> bool:
        """Whether all its tokens have been run."""
        return self.at == len(self.phases) - 1

    @property
    def at_prompt(self) -> bool:
        """Whether its next step is one of the prompt."""
        return self.phases[self.at] == PREFILL

    def prompt_turn(self) -> Turn:
        """Run its next prompt step."""
        first, end = self.starts[self.at : self.at + 2]
        self.at += 1
        return Turn(self.number, first, end - first, end - first)

    def decode_turn(self) -> Turn:
        """Run its next token, and drafts."""
        first, at = self.starts[self.at], self.at
        end = at + 1
        while end <= at + self.drafts and self.phases[end] == DECODE:
            end += 1
        if self.decoded == len(self._drawn):
            self._drawn.append(next(self._accepted))
        kept = min(1 + self._drawn[self.decoded], end - at)
        self.at += kept
        self.decoded += 1
        return Turn(self.number, first, end - at, kept)


def _accepted(drafts: int, acceptance: float | Sequence[int], seed: Sequence[int]) -> Iterator[int]:
    """Yield how many drafts are accepted in each decode step of a request, without end.

    At rate p the number is that of successes before the first failure, n at most: Leviathan et al., "Fast inference
    from transformers via speculative decoding", ICML 2023, section 3.1; 1 + it is (1 - p^(n+1)) / (1 - p) on average.
    """
    if not drafts:
        yield from itertools.repeat(0)
    if not isinstance(acceptance, int | float):
        yield from itertools.cycle(acceptance)
        return
    random = np.random.default_rng(seed)
    while True:
        rejected = np.flatnonzero(random.random(drafts) >= acceptance)
        yield int(rejected[0]) if len(rejected) else drafts


def parse_acceptance(text: str) -> float | list[int]:
    """Read an acceptance as users write it: ``"0.7"``, a rate, or ``"2,0,3"``, counts (``"2,"`` for a single one).

    Raises:
        ConfigError: it is neither.
    """
    try:
        return [int(count) for count in text.split(",") if count.strip()] if "," in text else float(text)
    except ValueError:
        raise ConfigError(
            f"acceptance {text!r} is neither a rate from 0 to 1 nor a list of accepted drafts such as 2,0,3"
        ) from None


def check_serving(
    trace: RoutingTrace, batch: int, batching: str, speculative: Speculative | None, seed: int = 0
) -> None:
    """Refuse options of `batched` that are not allowed, or not with this trace.

    Raises:
        ConfigError: with what was given and what is allowed.
    """
    if "step" in trace.columns:
        raise ConfigError("this trace is in the order of a server already: give the one it was made of")
    check_values(batch, batching, speculative, seed)


def check_values(batch: object, batching: object, speculative: Speculative | None, seed: object) -> None:
    """Refuse values that these options cannot have, whether a run uses them or not.

    Raises:
        ConfigError: with what was given and what is allowed.
    """
    if not _whole(batch) or batch < 1:
        raise ConfigError(f"batch must be a number of requests, 1 or more, given {batch!r}")
    if batching not in BATCHING:
        raise ConfigError(
            f"batching {batching!r} is not known, use {' or '.join(BATCHING)}{did_you_mean(str(batching), BATCHING)}"
        )
    if not _whole(seed) or seed < 0:
        raise ConfigError(f"seed must be a whole number, 0 or more, given {seed!r}")
    if speculative is None:
        return
    given: Sequence[object] = speculative if isinstance(speculative, list | tuple) else ()
    if len(given) != 2:
        raise ConfigError(f"speculative must be (drafts, acceptance), such as (3, 0.7), given {speculative!r}")
    drafts, acceptance = given
    if not _whole(drafts) or not 1 <= drafts <= MOST_DRAFTS:
        raise ConfigError(f"drafts must be a number of tokens from 1 to {MOST_DRAFTS:,}, given {drafts!r}")
    listed = isinstance(acceptance, list | tuple) and len(acceptance) > 0
    rate = isinstance(acceptance, int | float) and not isinstance(acceptance, bool) and 0 <= acceptance <= 1
    if not listed and not rate:
        raise ConfigError(f"acceptance must be a rate from 0 to 1, or a list of accepted drafts, given {acceptance!r}")
    for count in acceptance if isinstance(acceptance, list | tuple) else ():
        if not _whole(count) or not 0 <= count <= drafts:
            raise ConfigError(f"of {drafts} drafts 0 to {drafts} can be accepted, given {count!r}")


def _whole(number: object) -> TypeGuard[int]:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)
