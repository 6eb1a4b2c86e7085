"""From a trace to what a cache sees: requests, steps and layer-steps, each with its batch of distinct experts.

A *step* is one forward pass: one decoded token, or the prompt (whole, in chunks, or token by token). A *layer-step* is
one MoE layer within a step; its *batch* is the distinct experts that the step's tokens use there. The batch is ordered
by last use: the expert whose last use (token, then rank) lies furthest back comes first. For a single token that is
rank order. With this order global LRU reproduces a real engine's recorded residency access by access, which neither
first use nor id order does (tests/simulator/test_recorded.py).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.traces.kept import Kept
from lrcsim.traces.trace import DECODE, PREFILL, RoutingTrace

ACCESSES_PER_BLOCK = 1 << 17
"""A block in the making takes some 130 bytes per access. Half as many save nothing beside the rest of a run."""

get_batch_kernel: Callable[[], Callable[..., tuple[int, int]]] | None = None
"""What gives the compiled function that forms batches of several tokens. `lrcsim.simulator` sets it when it is
imported: traces know of no compiler. None, or numba not imported yet: uses are sorted, which takes longer
(benchmarks/NOTES.md)."""

_accesses_kept = 1 << 20
"""Most accesses of a trace whose blocks are kept with it, 5 to 25 bytes each: a plan runs it some 50 times."""


def keep_blocks(accesses: int) -> None:
    """Keep the blocks of traces of up to so many accesses in this process, which is going to run them again."""
    global _accesses_kept
    _accesses_kept = accesses


@dataclass(frozen=True)
class Block:
    """A run of whole steps in compressed rows: layer-step i accesses ``keys[starts[i]:starts[i + 1]]``.

    Attributes:
        keys: int32 [accesses], layer * E + expert, E being the experts of the largest layer.
        weights: float32 [accesses], mean router weight over the step's tokens (0 where a token does not use the
            expert), or None when the trace has no weights or nobody asked.
        tokens: int64 [accesses], tokens of the step that use the expert; None where every step is one token.
        starts: int64 [layer_steps + 1].
        layer: int64 [layer_steps].
        step: int64 [layer_steps], counted from the beginning of the trace.
        request: int64 [layer_steps].
        phase: uint8 [layer_steps], 0 prefill, 1 decode; a trace without phases counts as decode.
        first_token: int64 [layer_steps], first token of the step.
        step_end: int64 [layer_steps], token after the step's last.
        first_access: accesses in the trace before this block.
        end_token: token after the block's last.
        idle: int64 [n], tokens of the trace in which nothing is recorded: they did not run (a cached prefix), but the
            tokens after them attend to them.
    """

    keys: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32] | None
    tokens: npt.NDArray[np.int64] | None
    starts: npt.NDArray[np.int64]
    layer: npt.NDArray[np.int64]
    step: npt.NDArray[np.int64]
    request: npt.NDArray[np.int64]
    phase: npt.NDArray[np.uint8]
    first_token: npt.NDArray[np.int64]
    step_end: npt.NDArray[np.int64]
    first_access: int
    end_token: int
    idle: npt.NDArray[np.int64]

    def batches(self, whole_tokens: bool) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return int64 [batches], the first layer-step of each batch, and int64 [batches + 1], where each begins.

        Args:
            whole_tokens: whether a batch is all layers of a step (the paper's rule in scope ``model``), not one.
        """
        if not whole_tokens:
            return np.arange(len(self.layer)), self.starts
        first = np.flatnonzero(np.diff(self.step, prepend=-1))
        return first, np.concatenate([self.starts[first], self.starts[-1:]])

    def accesses_by_phase(self) -> npt.NDArray[np.int64]:
        """Return int64 [2], the accesses of prefill and of decode."""
        return np.bincount(self.phase, weights=np.diff(self.starts), minlength=2).astype(np.int64)


def parse_prefill(prefill: str) -> int | None:
    """Return the prompt tokens per step: None for ``"step"`` (all), N for ``"chunk:N"``, 1 for ``"token"``.

    Raises:
        ConfigError: any other value.
    """
    if prefill == "step":
        return None
    if prefill == "token":
        return 1
    kind, _, number = str(prefill).partition(":")
    if kind == "chunk" and number.isdecimal() and int(number) > 0:
        return int(number)
    raise ConfigError(f"prefill {prefill!r} is not known, use 'step', 'chunk:N' (N prompt tokens a step) or 'token'")


@dataclass(frozen=True)
class StepRun:
    """A run of whole steps.

    Attributes:
        first_step: number of the first one.
        starts: int64 [steps + 1], step i is tokens ``starts[i]:starts[i + 1]`` of the trace.
        request: int64 [steps].
        phase: uint8 [steps], 0 prefill, 1 decode; a trace without phases counts as decode.
    """

    first_step: int
    starts: npt.NDArray[np.int64]
    request: npt.NDArray[np.int64]
    phase: npt.NDArray[np.uint8]


_kept: Kept[list[Block]] = Kept()
"""Blocks of short traces, by rule and size; whoever reads them leaves them as they are."""


class Schedule:
    """The steps of a trace, streamed in runs and blocks.

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
        self._prompt_tokens = parse_prefill(prefill)

    @property
    def stride(self) -> int:
        """E: a key is layer * E + expert."""
        return self.trace.num_experts

    def all_steps(self) -> StepRun:
        """Return all steps at once: 17 bytes each."""
        runs = list(self.step_runs(1 << 20))
        return StepRun(
            0,
            np.concatenate([*(run.starts[:-1] for run in runs), [self.trace.num_tokens]]),
            np.concatenate([run.request for run in runs]),
            np.concatenate([run.phase for run in runs]),
        )

    def step_runs(self, target_tokens: int = 8_192) -> Iterator[StepRun]:
        """Yield the steps in order, in runs of about ``target_tokens`` tokens (one step at least)."""
        trace, low, step = self.trace, 0, 0
        while low < trace.num_tokens:
            size = target_tokens
            starts = self._starts(low, min(low + size, trace.num_tokens))
            while starts[-1] < trace.num_tokens and len(starts) < 3:  # the last step may go on: look further
                size *= 2
                starts = self._starts(low, min(low + size, trace.num_tokens))
            if starts[-1] < trace.num_tokens:
                starts = starts[:-1]
            phase = np.full(len(starts) - 1, DECODE, np.uint8)
            if "phase" in trace.columns:
                phase = trace.read("phase", low, int(starts[-1]))[starts[:-1] - low]
            first, last = np.searchsorted(trace.offsets, starts[[0, -2]], side="right") - 1
            request = np.full(len(phase), first)
            if last > first:  # looking every step up would cost an LRU curve a tenth of its time
                request = np.searchsorted(trace.offsets, starts[:-1], side="right") - 1
            yield StepRun(step, starts, request, phase)
            step += len(phase)
            low = int(starts[-1])

    def _starts(self, low: int, high: int) -> npt.NDArray[np.int64]:
        """Return the tokens of ``low:high`` that start a step, and ``high``; ``low`` is known to start one."""
        trace = self.trace
        before = max(low - 1, 0)
        if "step" in trace.columns:  # the trace says itself (`batching`)
            changes = np.flatnonzero(np.diff(trace.read("step", before, high))) + before + 1
            return np.unique(np.concatenate([[low], changes[changes >= low], [high]]))
        if "phase" not in trace.columns:
            return np.arange(low, high + 1)
        phase = trace.read("phase", before, high)
        begins = phase == DECODE
        begins[1:] |= phase[:-1] == DECODE
        if "stack" in trace.columns:
            stack = trace.read("stack", before, high)
            begins[1:] |= stack[1:] != stack[:-1]
        first, last = np.searchsorted(trace.offsets, [low, high])
        begins[trace.offsets[first:last] - before] = True
        begins = begins[low - before :]
        begins[0] = True
        if self._prompt_tokens is not None:  # counting from low is right: it starts a prompt, or a chunk of one
            runs = np.flatnonzero(begins)
            within = np.arange(high - low) - runs[np.cumsum(begins) - 1]
            begins |= (phase[low - before :] == PREFILL) & (within % self._prompt_tokens == 0)
        return np.append(np.flatnonzero(begins) + low, high)

    def blocks(self, target_tokens: int | None = None) -> Iterator[Block]:
        """Yield the steps in order, in blocks of about ``target_tokens`` tokens (one step at least).

        None: of about `ACCESSES_PER_BLOCK`.
        """
        if target_tokens is None:
            target_tokens = max(1, ACCESSES_PER_BLOCK // math.prod(self.trace.columns["experts"].shape[1:]))
        known, key = _kept.of(self.trace), (self.prefill, self.weights, target_tokens)
        if key in known:
            yield from known[key]
            return
        keeps, made, access = math.prod(self.trace.columns["experts"].shape) <= _accesses_kept, list[Block](), 0
        for run in self.step_runs(target_tokens):
            block = self._block(run, access)
            access += len(block.keys)
            if keeps:
                made.append(block)
            yield block
        if keeps:
            known[key] = made

    def _block(self, run: StepRun, first_access: int) -> Block:
        trace = self.trace
        first, last = int(run.starts[0]), int(run.starts[-1])
        experts = trace.read("experts", first, last)
        weights = trace.read("weights", first, last) if self.weights else None
        rows = distinct_experts(experts, weights, np.diff(run.starts), self.stride)
        step = rows.step
        return Block(
            keys=rows.keys,
            weights=rows.weights,
            tokens=rows.tokens,
            starts=rows.starts,
            layer=rows.layer,
            step=step + run.first_step,
            request=run.request[step],
            phase=run.phase[step],
            first_token=run.starts[:-1][step],
            step_end=run.starts[1:][step],
            first_access=first_access,
            end_token=last,
            idle=first + _idle(experts),
        )


def _idle(experts: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Return int64 [n], the tokens of int [tokens, L, k] in which nothing is recorded."""
    maybe = np.flatnonzero(experts[:, 0, 0] < 0)  # none, as a rule
    return maybe[(experts[maybe] < 0).all(axis=(1, 2))]


@dataclass(frozen=True)
class Rows:
    """The batches of a run of steps in compressed rows, as in `Block`; ``step`` counts from the run's first."""

    keys: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32] | None
    tokens: npt.NDArray[np.int64] | None
    starts: npt.NDArray[np.int64]
    layer: npt.NDArray[np.int64]
    step: npt.NDArray[np.int64]


def distinct_experts(
    experts: npt.NDArray[np.integer],
    weights: npt.NDArray[np.floating] | None,
    lengths: npt.NDArray[np.int64],
    stride: int,
) -> Rows:
    """Form the batches of steps: the distinct experts of each layer-step, in the order of their last use.

    Args:
        experts: int [tokens, L, k], the steps' tokens one after the other, -1 = not recorded.
        weights: float [tokens, L, k] or None.
        lengths: int64 [steps], tokens of each step.
        stride: E, a key is layer * E + expert.
    """
    several = bool((lengths > 1).any())
    if several and get_batch_kernel is not None and "numba" in sys.modules:
        return _compiled_rows(get_batch_kernel(), experts, weights, lengths, stride)
    num_layers = experts.shape[1]
    token_step = np.repeat(np.arange(len(lengths)), lengths)
    recorded = experts >= 0
    row = (token_step[:, None] * num_layers + np.arange(num_layers))[:, :, None]  # layer-step of each position
    rows = np.broadcast_to(row, experts.shape)[recorded]
    ids = experts[recorded].astype(np.int64)  # in (token, layer, rank) order
    found = None if weights is None else weights[recorded].astype(np.float32)
    tokens = None
    if several:
        rows, ids, found, tokens = _distinct(rows, ids, found, stride, lengths[rows // num_layers])
    counts = np.bincount(rows, minlength=len(lengths) * num_layers)
    used = np.flatnonzero(counts)
    return Rows(
        keys=((rows % num_layers) * stride + ids).astype(np.int32),
        weights=found,
        tokens=tokens,
        starts=np.concatenate([[0], np.cumsum(counts[used])]),
        layer=used % num_layers,
        step=used // num_layers,
    )


def _compiled_rows(
    order_by_last_use: Callable[..., tuple[int, int]],
    experts: npt.NDArray[np.integer],
    weights: npt.NDArray[np.floating] | None,
    lengths: npt.NDArray[np.int64],
    stride: int,
) -> Rows:
    """Form the batches in one pass without a sort."""
    num_layers, ranks = experts.shape[1:]
    layer_steps = len(lengths) * num_layers
    most = int(np.minimum(lengths * ranks, stride).sum()) * num_layers
    keys, tokens = np.empty(most, np.int32), np.empty(most, np.int64)
    means = None if weights is None else np.empty(most, np.float32)
    starts, layer, step = np.zeros(layer_steps + 1, np.int64), *np.empty((2, layer_steps), np.int64)
    # one dtype and layout, whatever the file has: each is compiled by itself
    told: tuple[Any, ...] = (experts.astype(np.int32), None if weights is None else weights.astype(np.float32), lengths)
    rows, accesses = order_by_last_use(*told, stride, keys, means, tokens, starts, layer, step)
    return Rows(
        keys=keys[:accesses],
        weights=None if means is None else means[:accesses],
        tokens=tokens[:accesses],
        starts=starts[: rows + 1],
        layer=layer[:rows],
        step=step[:rows],
    )


def _distinct(
    rows: npt.NDArray[np.int64],
    ids: npt.NDArray[np.int64],
    weights: npt.NDArray[np.float32] | None,
    stride: int,
    tokens: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float32] | None, npt.NDArray[np.int64]]:
    """Keep each expert once per layer-step, at its last use; average weights over the step's tokens; count them."""
    pairs = rows * stride + ids
    _, from_end, group = np.unique(pairs[::-1], return_index=True, return_inverse=True)
    last = len(pairs) - 1 - from_end
    order = last[np.lexsort((last, rows[last]))]
    if weights is not None:
        total = np.bincount(group, weights=weights[::-1], minlength=len(last))
        mean = np.empty(len(pairs), np.float32)
        mean[last] = total / tokens[last]
        weights = mean[order]
    used_by = np.empty(len(pairs), np.int64)
    used_by[last] = np.bincount(group, minlength=len(last))
    return rows[order], ids[order], weights, used_by[order]
