"""The sums that load balance is made of, over windows and over requests, for a trace and each resample of its requests.

All are whole numbers held as float64, exact below 2^53: matrix products make those of the resamples, and neither blocks
nor threads change a result.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.base.progress import Progress
from lrcsim.simulator.metrics import balance_kernels
from lrcsim.simulator.metrics.windows import BlockOfWindows, Ints, Stream, refuse_repeats, streams
from lrcsim.traces import RoutingTrace

Floats = npt.NDArray[np.float64]

BYTES_OF_WEIGHTS = 2**26
"""Of resamples as numbers that are multiplied at a time."""

OF_WINDOWS, OF_REQUESTS = 5, 5
"""Sums of a layer's windows (`balance_kernels.sum_windows`), and of its requests: squares of uses, A^2, A T, T, and
squares of a."""


class Pairs(NamedTuple):
    """What pairs of different tokens share, summed over ordered pairs, and how unequal counts are; float64 [...].

    Attributes:
        shared: experts that both tokens use.
        chance: the same expected of balanced random routing.
        most: the same if the two used the same experts: the mean of how many each uses.
        squares: E times the sum over experts of n^2.
        active: A^2.
        random: ``squares`` expected of balanced random routing.
    """

    shared: Floats
    chance: Floats
    most: Floats
    squares: Floats
    active: Floats
    random: Floats

    def pooled(self, which: Any = slice(None)) -> Pairs:
        """Add up the last axis, or some of it."""
        return Pairs(*(part[..., which].sum(axis=-1) for part in self))

    def imbalance(self) -> Floats:
        """(shared - chance) / (most - chance); NaN without pairs, or where every token uses every expert."""
        room = self.most - self.chance
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(room > 1e-9 * self.most, (self.shared - self.chance) / room, np.nan)

    def variation(self) -> Floats:
        """Coefficient of variation of the counts over experts, root of the mean square; NaN without uses."""
        return _variation(self.squares, self.active)

    def random_variation(self) -> Floats:
        """The same expected of balanced random routing."""
        return _variation(self.random, self.active)


class BalanceSums:
    """The sums of a trace, by group of requests (its domains, or one group) and layer, and of resamples.

    Attributes:
        windows: float64 [groups, L, 5], of windows.
        uses: float64 [groups, L, E], uses of each expert.
        requests: float64 [groups, L, 5], of requests.
        drawn_windows: float64 [groups, draws, L, 5].
        drawn_uses: float64 [draws, L, E], of all groups.
        drawn_requests: float64 [draws, L, 5].
    """

    def __init__(self, trace: RoutingTrace, label: Ints, groups: int, draws: int) -> None:
        layers, experts = trace.num_layers, trace.num_experts
        self.experts, self.label = trace.layers.num_experts.astype(np.float64), label
        self.first, self.weights = 0, np.zeros((0, trace.num_requests), np.uint8)
        self.windows = np.zeros((groups, layers, OF_WINDOWS))
        self.uses = np.zeros((groups, layers, experts))
        self.requests = np.zeros((groups, layers, OF_REQUESTS))
        self.drawn_windows = np.zeros((groups, draws, layers, OF_WINDOWS))
        self.drawn_uses = np.zeros((draws, layers, experts))
        self.drawn_requests = np.zeros((draws, layers, OF_REQUESTS))

    def weigh(self, first: int, weights: npt.NDArray[np.uint8]) -> None:
        """Take some of the draws, those from ``first`` on, for the next pass: uint8 [some, requests]."""
        self.first, self.weights = first, weights

    def local_pairs(self, sums: Floats) -> Pairs:
        """Return the pairs within windows, of float64 [..., L, 5]."""
        shared, chance, most, active, uses = np.moveaxis(sums, -1, 0)
        return Pairs(
            shared, chance / self.experts, most, self.experts * (shared + uses), active, self.experts * uses + chance
        )

    def global_pairs(self, uses: Floats, requests: Floats) -> Pairs:
        """Return the pairs of tokens of different requests, of float64 [..., L, E] and [..., L, 5]."""
        own_squares, own_active, own_tokens, tokens, token_squares = np.moveaxis(requests, -1, 0)
        total, squares = uses.sum(axis=-1), (uses**2).sum(axis=-1)
        active = total**2
        return Pairs(
            squares - own_squares,
            (active - own_active) / self.experts,
            total * tokens - own_tokens,
            self.experts * squares,
            active,
            self.experts * total + active - token_squares,
        )

    def of_trace(self) -> Pairs:
        """Return the pairs of tokens of different requests of the trace, by layer."""
        return self.global_pairs(self.uses.sum(axis=0), self.requests.sum(axis=0))

    def add_windows(self, stream: Stream, requests: Ints, rows: Floats) -> None:
        """Add float64 [layers of the stream, n, 5] of some requests; a request may come in parts."""
        label = self.label[requests]
        by_request = rows.swapaxes(0, 1)
        for group in np.unique(label).tolist():
            mine = label == group
            if self.first == 0:
                self.windows[group, stream.layers] += by_request[mine].sum(axis=0)
            for draws, weights in self._weights(requests[mine]):
                drawn = self.drawn_windows[group]  # a view; with the group among the indices numpy turns the axes
                drawn[draws, stream.layers] += _product(weights, by_request[mine])

    def add_requests(self, stream: Stream, requests: Ints, uses: Ints, rows: Ints) -> None:
        """Add whole requests.

        Args:
            stream: theirs.
            requests: int64 [n].
            uses: int64 [layers of the stream, n, E].
            rows: int64 [layers of the stream, n, 2], of `balance_kernels.count_requests`.
        """
        own = uses.swapaxes(0, 1).astype(np.float64)  # [n, layers, E]
        tokens, token_squares = np.moveaxis(rows.swapaxes(0, 1).astype(np.float64), -1, 0)
        active = own.sum(axis=-1)
        pairs = np.stack([(own**2).sum(axis=-1), active**2, active * tokens], axis=-1)
        single = np.stack([tokens, token_squares], axis=-1)
        label = self.label[requests]
        if self.first == 0:
            for group in np.unique(label).tolist():
                mine = label == group
                self.uses[group, stream.layers] += own[mine].sum(axis=0)
                self.requests[group, stream.layers] += np.concatenate([pairs, single], axis=-1)[mine].sum(axis=0)
        for draws, weights in self._weights(requests):
            self.drawn_uses[draws, stream.layers] += _product(weights, own)
            # A request that is drawn twice is no other request: its pairs are taken out with the square of its weight.
            self.drawn_requests[draws, stream.layers, :3] += _product(weights**2, pairs)
            self.drawn_requests[draws, stream.layers, 3:] += _product(weights, single)

    def _weights(self, requests: Ints) -> Iterator[tuple[slice, Floats]]:
        """Yield draws, and float64 [draws, n], how often they have each of some requests."""
        step = max(BYTES_OF_WEIGHTS // (8 * max(len(requests), 1)), 1)
        for low in range(0, len(self.weights), step):
            weights = self.weights[low : low + step][:, requests].astype(np.float64)
            yield slice(self.first + low, self.first + low + len(weights)), weights


def count_balance(
    trace: RoutingTrace, segment: int, sums: BalanceSums, jobs: int | None, progress: Progress | None
) -> None:
    """Read a trace once and add up its windows and requests.

    Raises:
        TraceError: the trace is damaged.
    """
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as threads:
        for stream in streams(trace):
            _of_windows(stream, segment, sums, threads, progress)
            _of_requests(stream, sums, threads)


def _of_windows(
    stream: Stream, segment: int, sums: BalanceSums, threads: ThreadPoolExecutor, progress: Progress | None
) -> None:
    kernel: Any = balance_kernels.sum_windows  # compiled: type checkers do not know its arguments
    trace = stream.trace
    count, held = np.zeros((trace.num_layers, trace.num_experts), np.int64), np.zeros((trace.num_layers, 4), np.int64)
    for block in stream.blocks(segment):
        rows = np.zeros((len(stream.layers), len(block.requests), OF_WINDOWS))

        def run(layer: int, row: Floats, block: BlockOfWindows = block) -> bool:
            return bool(kernel(block.experts, layer, *block.spans, segment, count[layer], held[layer], row))

        refuse_repeats(all(threads.map(run, stream.layers.tolist(), rows)), block)
        sums.add_windows(stream, block.requests, rows)
        if progress is not None:
            progress(block.done, trace.num_tokens)


def _of_requests(stream: Stream, sums: BalanceSums, threads: ThreadPoolExecutor) -> None:
    kernel: Any = balance_kernels.count_requests
    carried: tuple[Ints, Ints] | None = None  # of the request that the block before did not finish
    for block in stream.blocks(1):
        number = len(block.requests)
        uses = np.zeros((len(stream.layers), number, stream.trace.num_experts), np.int64)
        rows = np.zeros((len(stream.layers), number, 2), np.int64)

        def run(layer: int, use: Ints, row: Ints, block: BlockOfWindows = block) -> None:
            kernel(block.experts, layer, *block.spans, use, row)

        list(threads.map(run, stream.layers.tolist(), uses, rows))
        if carried is not None:
            uses[:, 0] += carried[0]
            rows[:, 0] += carried[1]
        finished = number - (number > 0 and bool(block.ends[-1] > len(block.experts)))
        carried = (uses[:, -1], rows[:, -1]) if finished < number else None
        sums.add_requests(stream, block.requests[:finished], uses[:, :finished], rows[:, :finished])


def _product(weights: Floats, values: Floats) -> Floats:
    """Multiply float64 [draws, n] by [n, ...]; n may be 0."""
    product: Floats = np.tensordot(weights, values, axes=1)
    return product


def _variation(squares: Floats, active: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.sqrt(np.maximum(squares / active - 1, 0))
