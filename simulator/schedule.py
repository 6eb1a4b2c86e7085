"""From a trace to what a cache sees: requests, steps and layer-steps, each with its batch of distinct experts.

A *step* is one forward pass: one decoded token, or the prompt (whole, in chunks, or token by token). A *layer-step* is
one MoE layer within a step; its *batch* is the distinct experts that the step's tokens use there. The batch is ordered
by last use: the expert whose last use (token, then rank) lies furthest back comes first. For a single token that is
rank order. With this order global LRU reproduces a real engine's recorded residency access by access, which neither
first use nor id order does (tests/simulator/test_recorded.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrcsim.errors import ConfigError
from lrcsim.traces import DECODE, PREFILL, RoutingTrace

__all__ = ["Block", "Schedule", "parse_prefill"]


@dataclass(frozen=True)
class Block:
    """A run of whole steps in compressed rows: layer-step i accesses ``keys[starts[i]:starts[i + 1]]``.

    Attributes:
        keys: int32 [accesses], layer * E + expert, E being the experts of the largest layer.
        weights: float32 [accesses], mean router weight over the step's tokens (0 where a token does not use the
            expert), or None when the trace has no weights or nobody asked.
        starts: int64 [layer_steps + 1].
        layer: int64 [layer_steps].
        step: int64 [layer_steps], counted from the beginning of the trace.
        request: int64 [layer_steps].
        phase: uint8 [layer_steps], 0 prefill, 1 decode; a trace without phases counts as decode.
        first_token: int64 [layer_steps], first token of the step.
        first_access: accesses in the trace before this block.
    """

    keys: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32] | None
    starts: npt.NDArray[np.int64]
    layer: npt.NDArray[np.int64]
    step: npt.NDArray[np.int64]
    request: npt.NDArray[np.int64]
    phase: npt.NDArray[np.uint8]
    first_token: npt.NDArray[np.int64]
    first_access: int


def parse_prefill(prefill: str) -> int | None:
    """Return the prompt tokens per step: None for ``"step"`` (all), N for ``"chunk:N"``, 1 for ``"token"``.

    Raises:
        ConfigError: any other value.
    """
    if prefill == "step":
        return None
    if prefill == "token":
        return 1
    kind, _, number = prefill.partition(":")
    if kind == "chunk" and number.isdecimal() and int(number) > 0:
        return int(number)
    raise ConfigError(f"prefill {prefill!r} is not known, use 'step', 'chunk:N' (N prompt tokens a step) or 'token'")


class Schedule:
    """The steps of a trace, streamed in blocks.

    Args:
        trace: the routing trace.
        prefill: how prompt tokens make steps, ``"step"``, ``"chunk:N"`` or ``"token"``. Without phases in the trace
            every token is a step of its own, whatever this says.
        weights: whether to compute the router weight of every access.
    """

    def __init__(self, trace: RoutingTrace, prefill: str = "step", *, weights: bool = False) -> None:
        self.trace = trace
        self.prefill = prefill
        self.weights = weights and "weights" in trace.columns
        self._starts = _step_starts(trace, parse_prefill(prefill))

    @property
    def num_steps(self) -> int:
        """Steps in the trace."""
        return len(self._starts) - 1

    @property
    def stride(self) -> int:
        """E: a key is layer * E + expert."""
        return self.trace.num_experts

    def tokens_of_steps(self) -> npt.NDArray[np.int64]:
        """int64 [steps + 1]: step s is tokens ``[s]:[s + 1]``."""
        return self._starts

    def blocks(self, target_tokens: int = 8_192) -> Iterator[Block]:
        """Yield the steps in order, in blocks of about ``target_tokens`` tokens (one step at least)."""
        access = 0
        for low, high in self.step_blocks(target_tokens):
            block = self._block(low, high, access)
            access += len(block.keys)
            yield block

    def step_blocks(self, target_tokens: int = 8_192) -> Iterator[tuple[int, int]]:
        """Yield ranges of steps of about ``target_tokens`` tokens (one step at least) that cover the trace."""
        starts, low = self._starts, 0
        while low < self.num_steps:
            limit = starts[low] + target_tokens
            high = max(int(np.searchsorted(starts, limit, side="right")) - 1, low + 1)
            yield low, high
            low = high

    def _block(self, low: int, high: int, first_access: int) -> Block:
        trace, stride, num_layers = self.trace, self.stride, self.trace.num_layers
        step_starts = self._starts[low : high + 1]
        first, last = int(step_starts[0]), int(step_starts[-1])
        experts = trace.read("experts", first, last)
        lengths = np.diff(step_starts)
        token_step = np.repeat(np.arange(high - low), lengths)
        recorded = experts >= 0
        row = (token_step[:, None] * num_layers + np.arange(num_layers))[:, :, None]  # layer-step of each position
        rows = np.broadcast_to(row, experts.shape)[recorded]
        ids = experts[recorded].astype(np.int64)  # in (token, layer, rank) order
        weights = trace.read("weights", first, last)[recorded].astype(np.float32) if self.weights else None
        if (lengths > 1).any():
            rows, ids, weights = _distinct(rows, ids, weights, stride, lengths[rows // num_layers])
        counts = np.bincount(rows, minlength=(high - low) * num_layers)
        used = np.flatnonzero(counts)
        layer, step = used % num_layers, used // num_layers
        requests = np.searchsorted(trace.offsets, step_starts[:-1], side="right") - 1
        if "phase" in trace.columns:
            phases = trace.read("phase", first, last)[step_starts[:-1] - first]
        else:
            phases = np.full(high - low, DECODE, np.uint8)
        return Block(
            keys=((rows % num_layers) * stride + ids).astype(np.int32),
            weights=weights,
            starts=np.concatenate([[0], np.cumsum(counts[used])]),
            layer=layer,
            step=step + low,
            request=requests[step],
            phase=phases[step],
            first_token=step_starts[:-1][step],
            first_access=first_access,
        )


def _distinct(
    rows: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float32] | None,
    stride: int,
    tokens: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32] | None]:
    """Keep each expert once per layer-step, at its last use; average weights over the step's tokens."""
    pairs = rows * stride + ids
    _, from_end, group = np.unique(pairs[::-1], return_index=True, return_inverse=True)
    last = len(pairs) - 1 - from_end
    order = last[np.lexsort((last, rows[last]))]
    if weights is not None:
        total = np.bincount(group, weights=weights[::-1], minlength=len(last))
        mean = np.empty(len(pairs), np.float32)
        mean[last] = total / tokens[last]
        weights = mean[order]
    return rows[order], ids[order], weights


def _step_starts(trace: RoutingTrace, prompt_tokens: int | None) -> npt.NDArray[np.int64]:
    """Return int64 [steps + 1], the first token of each step and the number of tokens."""
    n = trace.num_tokens
    if "phase" not in trace.columns:
        return np.arange(n + 1)
    begins = np.zeros(n, bool)
    begins[trace.offsets[:-1][trace.offsets[:-1] < n]] = True
    phase = trace.column("phase")
    begins[1:] |= (phase[1:] == DECODE) | (phase[:-1] == DECODE)
    begins |= phase == DECODE
    if "stack" in trace.columns:
        stack = trace.column("stack")
        begins[1:] |= stack[1:] != stack[:-1]
    if prompt_tokens is not None:
        runs = np.flatnonzero(begins)
        within = np.arange(n) - runs[np.cumsum(begins) - 1]
        begins |= (phase == PREFILL) & (within % prompt_tokens == 0)
    return np.append(np.flatnonzero(begins), n)
