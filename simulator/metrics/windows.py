"""Windows of consecutive tokens: a trace cut into blocks for the kernels of `window_kernels`.

A window is m consecutive tokens of one request; all are taken, one per first token (stride 1), and a request of fewer
than m tokens has none (arXiv 2505.16056). Memory is bounded by the block, whatever the trace and the
request; a model with several stacks (encoder, decoder) has the windows of each stack's own tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError, TraceError
from lrcsim.traces import RoutingTrace

Ints = npt.NDArray[np.int64]
Ids = npt.NDArray[np.signedinteger[Any]]

BLOCK_IDS = 4_000_000
"""Expert ids read at a time."""

PAPER_SEGMENTS = (4, 16, 64, 256)
"""Lengths of segments in the paper, tokens (arXiv 2505.16056, section 3)."""


@dataclass(frozen=True)
class BlockOfWindows:
    """A run of tokens as the kernels take it; requests without windows are left out.

    Attributes:
        experts: int [tokens, L, K], the last m tokens of the block before among them.
        lead: how many of these tokens the block before has dealt with.
        requests: int64 [n], requests with tokens in the block.
        begins: int64 [n], first token of each, counted from the first of ``experts``.
        ends: int64 [n], one after the last token of each.
        done: tokens of the trace up to here.
    """

    experts: Ids
    lead: int
    requests: Ints
    begins: Ints
    ends: Ints
    done: int

    @property
    def spans(self) -> tuple[int, Ints, Ints]:
        """The kernels' arguments ``lead, begins, ends``."""
        return self.lead, self.begins, self.ends


@dataclass(frozen=True)
class Stream:
    """The tokens that run through the same layers, request after request.

    Attributes:
        trace: where they come from.
        layers: int64 [l], the layers of their stack; all, where a model has one stack.
        offsets: int64 [requests + 1] into the stream.
        tokens: int64 [n], where the tokens stand in the trace, or None: the stream is the trace.
        done_before: tokens of the streams before this one.
        stack: index of their stack.
    """

    trace: RoutingTrace
    layers: Ints
    offsets: Ints
    tokens: Ints | None = None
    done_before: int = 0
    stack: int = 0

    def windows(self, segment: int) -> Ints:
        """int64 [requests], windows of each request."""
        counts: Ints = np.maximum(np.diff(self.offsets) - segment + 1, 0)
        return counts

    def read(self, low: int, high: int) -> Ids:
        """Read the expert ids of tokens ``low:high`` of the stream, int [high - low, L, K].

        Raises:
            TraceError: the file is damaged there, or holds what is impossible.
        """
        if self.tokens is None:
            ids = self.trace.read("experts", low, high)
        else:
            first = int(self.tokens[low])
            ids = self.trace.read("experts", first, int(self.tokens[high - 1]) + 1)[self.tokens[low:high] - first]
        return np.ascontiguousarray(ids)

    def blocks(self, segment: int) -> Iterator[BlockOfWindows]:
        """Yield the stream in blocks of about ``BLOCK_IDS`` expert ids."""
        count = int(self.offsets[-1])
        size = max(BLOCK_IDS // int(np.prod(self.trace.columns["experts"].shape[1:])), 4 * segment)
        long_enough = np.flatnonzero(self.windows(segment))
        begins, ends = self.offsets[:-1][long_enough], self.offsets[1:][long_enough]
        before: Ids | None = None
        for low in range(0, count, size):
            high = min(low + size, count)
            experts = self.read(low, high)
            if before is not None:
                experts = np.concatenate([before, experts])
            before = experts[-segment:]
            origin = high - len(experts)
            inside = slice(int(np.searchsorted(ends, low, side="right")), int(np.searchsorted(begins, high)))
            yield BlockOfWindows(
                experts=experts,
                lead=low - origin,
                requests=long_enough[inside],
                begins=begins[inside] - origin,
                ends=ends[inside] - origin,
                done=self.done_before + high,
            )


def streams(trace: RoutingTrace) -> list[Stream]:
    """Split a trace by the model's stacks; a model with one stack has one stream, the trace as it is."""
    everything = np.arange(trace.num_layers)
    if "stack" not in trace.columns:
        return [Stream(trace, everything, trace.offsets)]
    of_token = trace.column("stack")
    found: list[Stream] = []
    done = 0
    for stack in np.unique(trace.layers.stack):
        tokens = np.flatnonzero(of_token == stack)
        offsets = np.searchsorted(tokens, trace.offsets).astype(np.int64)
        layers = everything[trace.layers.stack == stack]
        found.append(Stream(trace, layers, offsets, tokens, done, int(stack)))
        done += len(tokens)
    return found


def check_segment(trace: RoutingTrace, segment: object, *, fits: bool = True) -> int:
    """Return the segment length m, if the trace has windows of it.

    Args:
        trace: the routing trace.
        segment: m as given.
        fits: whether there must be such windows.

    Raises:
        ConfigError: it is no whole number above 0, or longer than every request.
    """
    if isinstance(segment, bool) or not isinstance(segment, int | np.integer) or segment < 1:
        raise ConfigError(f"segment {segment!r} is not allowed: give a number of tokens, at least 1")
    longest = max(int(np.diff(stream.offsets).max()) for stream in streams(trace))
    if fits and segment > longest:
        raise ConfigError(
            f"segment {segment} is longer than every request, the longest has {longest} tokens: use at most {longest}"
        )
    return int(segment)


def refuse_repeats(fine: bool, block: BlockOfWindows) -> None:
    """Refuse a block of which a kernel says that an expert stands twice in a token.

    Raises:
        TraceError: the file is damaged.
    """
    if not fine:
        last = block.done - 1
        raise TraceError(f"an expert stands twice in one token, before token {last}: see 'lrcsim trace check'")
