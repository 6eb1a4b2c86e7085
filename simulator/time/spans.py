"""What happened when: one list of spans, for tests that assert it whole and for the timeline that people look at."""

from __future__ import annotations

import math
from typing import NamedTuple

Logged = bool | tuple[int, int]
"""Whether spans are kept; of a window of tokens its first, and the one behind its last, in the order of the run."""


class Span(NamedTuple):
    """Something that took from ``start`` to ``end``.

    Attributes:
        start: seconds.
        end: seconds; equal to ``start`` for what takes no time (an eviction, a transfer that is joined).
        track: where: ``"gpu"``, ``"cpu"``, ``"host"``, ``"cache"``, the name of a link.
        what: ``"dense"``, ``"expert"``, ``"overhead"``, ``"load"``, ``"prefetch"``, ``"evict"``, ``"join"`` ...
        layer: MoE layer, -1 where there is none.
        expert: id within the layer, -1 where there is none.
    """

    start: float
    end: float
    track: str
    what: str
    layer: int = -1
    expert: int = -1


class StepSpan(NamedTuple):
    """One forward pass.

    Attributes:
        start: seconds.
        end: seconds.
        phase: 0 prefill, 1 decode.
        sequences: the requests that it runs.
        compute: seconds of it that the device computed.
        overhead: seconds of it that went into synchronisation and bookkeeping.
    """

    start: float
    end: float
    phase: int
    sequences: tuple[int, ...]
    compute: float = 0.0
    overhead: float = 0.0

    @property
    def stall(self) -> float:
        """Seconds of it that were neither: waiting for experts."""
        return max(self.end - self.start - self.compute - self.overhead, 0.0)


class Log:
    """Keeps spans, up to a number of them; ``None`` in place of a log keeps nothing and costs nothing.

    Attributes:
        stride: E, for keys.
        spans: in the order in which they were noted: at their ends, but for the GPU's experts, noted when queued.
        steps: the forward passes whose spans were kept.
        limit: how many are kept.
        dropped: how many more there were.
        window: tokens, in the order in which they run; only forward passes with some of ``window[0]`` to
            ``window[1] - 1`` are kept, and what began in them; None: all.
    """

    def __init__(self, stride: int, limit: int = 300_000, window: tuple[int, int] | None = None) -> None:
        self.stride = stride
        self.limit = limit
        self.window = window
        self._from = 0.0 if window is None else math.inf  # seconds at which the window begins
        self._to = math.inf  # and ends
        self.spans: list[Span] = []
        self.steps: list[StepSpan] = []
        self.dropped = 0

    def begin(self, now: float, first: int, tokens: int) -> None:
        """Take note that a forward pass over tokens ``first`` to ``first + tokens - 1`` begins at ``now`` seconds."""
        if self.window is None:
            return
        low, high = self.window
        if first < high and first + tokens > low:
            self._from = min(self._from, now)
        elif self._from < math.inf:
            self._to = min(self._to, now)

    def step(
        self,
        start: float,
        end: float,
        phase: int,
        sequences: tuple[int, ...],
        compute: float = 0.0,
        overhead: float = 0.0,
    ) -> None:
        """Add a forward pass.

        Args:
            start: seconds.
            end: seconds.
            phase: 0 prefill, 1 decode.
            sequences: the requests that it runs.
            compute: seconds of it.
            overhead: seconds of it.
        """
        if len(self.spans) < self.limit and self._from <= start < self._to:
            self.steps.append(StepSpan(start, end, phase, sequences, compute, overhead))

    def note(self, start: float, end: float, track: str, what: str, key: int = -1, layer: int = -1) -> None:
        """Add a span.

        Args:
            start: seconds.
            end: seconds.
            track: the resource at work.
            what: what it does.
            key: layer * stride + expert, or -1 where it is about no expert.
            layer: the MoE layer where ``key`` is -1; -1: none.
        """
        if end < self._from or start >= self._to:
            return
        if len(self.spans) >= self.limit:
            self.dropped += 1
            return
        if key >= 0:
            layer, expert = divmod(key, self.stride)
            self.spans.append(Span(start, end, track, what, layer, expert))
        else:
            self.spans.append(Span(start, end, track, what, layer))
