"""What happened when: one list of spans, for tests that assert it whole and for the timeline that people look at."""

from __future__ import annotations

from typing import NamedTuple


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
    """One forward pass, from ``start`` to ``end`` seconds, of ``phase``, for the requests ``sequences``."""

    start: float
    end: float
    phase: int
    sequences: tuple[int, ...]


class Log:
    """Keeps spans, up to a number of them; ``None`` in place of a log keeps nothing and costs nothing.

    Attributes:
        stride: E, for keys.
        spans: in the order in which they were noted: at their ends, but for the GPU's experts, noted when queued.
        steps: the forward passes whose spans were kept.
        limit: how many are kept.
        dropped: how many more there were.
    """

    def __init__(self, stride: int, limit: int = 300_000) -> None:
        self.stride = stride
        self.limit = limit
        self.spans: list[Span] = []
        self.steps: list[StepSpan] = []
        self.dropped = 0

    def step(self, start: float, end: float, phase: int, sequences: tuple[int, ...]) -> None:
        """Add a forward pass.

        Args:
            start: seconds.
            end: seconds.
            phase: 0 prefill, 1 decode.
            sequences: the requests that it runs.
        """
        if len(self.spans) < self.limit:
            self.steps.append(StepSpan(start, end, phase, sequences))

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
        if len(self.spans) >= self.limit:
            self.dropped += 1
            return
        if key >= 0:
            layer, expert = divmod(key, self.stride)
            self.spans.append(Span(start, end, track, what, layer, expert))
        else:
            self.spans.append(Span(start, end, track, what, layer))
