"""What the engine is fed: steps one after the other, each with its layer-steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.serving.uses import Uses, uses_of
from lrcsim.traces import DECODE, RoutingTrace
from lrcsim.traces.schedule import Block, Schedule

TOKENS_AT_ONCE, WITH_USES = 8_192, 2_048
"""Tokens per block of the schedule; fewer where every use of every token is wanted: each takes some 100 bytes."""


class StepSize(NamedTuple):
    """How large a step is.

    Attributes:
        tokens: run through the model.
        outputs: tokens whose output is computed: one for each request, or every one that is verified.
        context: tokens of KV cache read, over the requests.
        pairs: pairs of a token and one it attends to.
        requests: that the tokens are of.
    """

    tokens: int
    outputs: int
    context: int
    pairs: int
    requests: int = 1


@dataclass(slots=True)
class LayerStep:
    """One layer-step.

    Attributes:
        layer: MoE layer.
        keys: the batch, layer * E + expert, in the order of last use.
        tokens: how many of the step's tokens use each; None: one each.
        weights: mean router weight of each over the step's tokens; None where the trace has none or nobody asked.
        next_use: time of the next use of each, in layer-steps; None where nobody asked.
        uses: which token uses which of them how much; None where nobody asked.
    """

    layer: int
    keys: list[int]
    tokens: list[int] | None
    weights: list[float] | None
    next_use: list[int] | None
    uses: Uses | None = None


@dataclass(slots=True)
class Step:
    """One forward pass.

    Attributes:
        number: from the beginning of the trace.
        request: that of its first token.
        phase: 0 prefill, 1 decode.
        first_token: of the trace.
        size: tokens, requests, context.
        sequences: the requests that get a token out of it.
        layers: its layer-steps, in order; MoE layers without a recorded expert are missing.
        following: the next step, None at the end, and where it depends on time.
        emitted: how many tokens each of its sequences gets out of it; empty: one each.
        rows: int64 [tokens], its tokens in the trace, where they are not simply those from ``first_token`` on.
    """

    number: int
    request: int
    phase: int
    first_token: int
    size: StepSize
    sequences: tuple[int, ...]
    layers: list[LayerStep]
    following: Step | None = None
    emitted: tuple[int, ...] = ()
    rows: npt.NDArray[np.int64] | None = None


class TimedSteps(Protocol):
    """Steps that depend on when they are asked for (`lrcsim.simulator.serving.arrivals`).

    Attributes:
        arrivals: seconds at which each request arrived.
    """

    arrivals: dict[int, float]

    def next(self, now: float) -> Step | float | None:
        """Return the step to run now, or the time before which there is none, or None at the end."""


def steps_of(schedule: Schedule, future: Future | None = None, *, uses: bool = False) -> Iterator[Step]:
    """Yield the steps of a schedule, each knowing the one that follows.

    Args:
        schedule: the steps.
        future: the next uses, to be handed on.
        uses: whether to say which token uses which expert how much; the trace must have weights.

    Raises:
        TraceError: the trace's ids are not allowed, or with ``uses`` its weights.
    """
    held: Step | None = None
    for step in _steps(schedule, future, uses):
        if held is not None:
            held.following = step
            yield held
        held = step
    if held is not None:
        yield held


def _steps(schedule: Schedule, future: Future | None, with_uses: bool) -> Iterator[Step]:
    trace = schedule.trace
    for block in schedule.blocks(WITH_USES if with_uses else TOKENS_AT_ONCE):
        if not len(block.layer):  # nothing was recorded in it
            continue
        keys, starts, layers = block.keys.tolist(), block.starts.tolist(), block.layer.tolist()
        tokens = None if block.tokens is None else block.tokens.tolist()
        weights = None if block.weights is None else block.weights.tolist()
        next_use = None
        if future is not None:
            next_use = future.next_use[block.first_access : block.first_access + len(keys)].tolist()
        uses = uses_of(trace, block) if with_uses else None
        first = np.flatnonzero(np.diff(block.step, prepend=-1))
        ends = [*first[1:].tolist(), len(layers)]
        table = step_table(trace, block, first)
        sizes, sequences, emitted = table.sizes.tolist(), table.sequences.tolist(), table.emitted.tolist()
        served = "sequence" in trace.columns
        for number, (low, high) in enumerate(zip(first.tolist(), ends, strict=True)):
            mine = slice(table.starts[number], table.starts[number + 1])
            work = [
                LayerStep(
                    layers[i],
                    keys[starts[i] : starts[i + 1]],
                    None if tokens is None else tokens[starts[i] : starts[i + 1]],
                    None if weights is None else weights[starts[i] : starts[i + 1]],
                    None if next_use is None else next_use[starts[i] : starts[i + 1]],
                    None if uses is None else next(uses),
                )
                for i in range(low, high)
            ]
            yield Step(
                int(block.step[low]),
                int(block.request[low]),
                int(block.phase[low]),
                int(block.first_token[low]),
                StepSize(*sizes[number]),
                tuple(sequences[mine]),
                work,
                emitted=tuple(emitted[mine]) if served and block.phase[low] == DECODE else (),
                rows=_rows(int(block.first_token[low]), int(block.step_end[low]), block.idle),
            )


def _rows(first: int, end: int, idle: npt.NDArray[np.int64]) -> npt.NDArray[np.int64] | None:
    """Return the tokens ``first:end`` that ran; None for all."""
    low, high = np.searchsorted(idle, [first, end])
    return None if low == high else np.setdiff1d(np.arange(first, end), idle[low:high])


class StepTable(NamedTuple):
    """Some steps in columns.

    Attributes:
        sizes: int64 [steps, 5], the numbers of `StepSize`.
        starts: int64 [steps + 1], step i gives tokens to ``sequences[starts[i]:starts[i + 1]]``.
        sequences: int64 [n], requests.
        emitted: int64 [n], tokens that each of them gets.
    """

    sizes: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]
    sequences: npt.NDArray[np.int64]
    emitted: npt.NDArray[np.int64]


def step_table(trace: RoutingTrace, block: Block, rows: npt.NDArray[np.int64]) -> StepTable:
    """Return how large steps are, and which requests get tokens out of them.

    Args:
        trace: the trace.
        block: of its schedule.
        rows: int64 [steps], the first layer-step of each step, at least one.
    """
    first, end = block.first_token[rows], block.step_end[rows]
    if "sequence" in trace.columns:
        return _served_table(trace, first, end, block.phase[rows], block.idle)
    request, (tokens, context, pairs) = _plain_sizes(trace, first, end, block.idle)
    ones = np.ones(len(request), np.int64)
    sizes = np.stack([tokens, ones, context, pairs, ones], axis=1)
    return StepTable(sizes, np.arange(len(request) + 1), request, ones)


def _served_table(
    trace: RoutingTrace,
    first: npt.NDArray[np.int64],
    end: npt.NDArray[np.int64],
    phase: npt.NDArray[np.uint8],
    idle: npt.NDArray[np.int64],
) -> StepTable:
    """Return the table of steps ``first[i]:end[i]`` of tokens in a server's order (`batching`).

    There the tokens of a request in a step stand together.
    """
    base, lengths = int(first[0]), end - first
    step = np.repeat(np.arange(len(first)), lengths)
    begins = np.cumsum(lengths) - lengths  # of each step, among the steps' own tokens
    token = np.arange(len(step)) + np.repeat(first - base - begins, lengths)
    sequence, position, kept = (
        trace.read(name, base, int(end[-1]))[token].astype(np.int64) for name in ("sequence", "position", "kept")
    )
    ran = ~np.isin(token + base, idle)  # whole steps without routing are none
    turn = np.flatnonzero((np.diff(step, prepend=-1) != 0) | (np.diff(sequence, prepend=-1) != 0))
    starts = np.searchsorted(turn, [*begins, len(step)])
    longest = np.maximum.reduceat(position + 1, turn)
    emitted = np.where(phase[step[turn]] == DECODE, np.add.reduceat(kept * ran, turn), 1)
    tokens, requests = np.add.reduceat(ran.astype(np.int64), begins), np.diff(starts)
    sizes = (
        tokens,
        np.where(phase == DECODE, tokens, requests),
        np.add.reduceat(longest, starts[:-1]),
        np.add.reduceat((position + 1) * ran, begins),
        requests,
    )
    return StepTable(np.stack(sizes, axis=1), starts, sequence[turn], emitted)


def _plain_sizes(
    trace: RoutingTrace, first: npt.NDArray[np.int64], end: npt.NDArray[np.int64], idle: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Return request and size of each step, tokens ``first[i]:end[i]``, where requests run one after the other.

    Tokens of ``idle`` (`Block.idle`) are context only.

    Returns:
        int64 [steps], and three of them: tokens, context, pairs (`StepSize`).
    """
    request = np.searchsorted(trace.offsets, first, side="right") - 1
    begin = trace.offsets[request]
    before, tokens = first - begin, end - first
    context = before + tokens
    pairs = tokens * before + tokens * (tokens + 1) // 2
    if len(idle):
        low, high = np.searchsorted(idle, first), np.searchsorted(idle, end)
        positions = np.concatenate([[0], np.cumsum(idle)])
        tokens = tokens - (high - low)
        pairs -= positions[high] - positions[low] + (high - low) * (1 - begin)
    return request, (tokens, context, pairs)
