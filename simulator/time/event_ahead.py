"""What prefetchers propose, worked out before the compiled event loop runs: none of lrcsim's own looks at the clock."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numba
import numpy as np
import numpy.typing as npt

from lrcsim.simulator.setup.prefetchers import (
    NextGate,
    Oracle,
    Popularity,
    Prefetcher,
    Temporal,
    TraceMatch,
    Transition,
)
from lrcsim.simulator.setup.remembered import Remembered
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.event_match import match
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Block

LEAST = 5e-324
"""The least score above 0."""

Ints = npt.NDArray[np.int64]
Proposed = tuple[Ints, npt.NDArray[np.int32]]
"""int64 [layer-steps + 1], where the proposals of each layer-step begin; int32 [proposals], keys, most wanted first."""


class Proposer(Protocol):
    """A prefetcher that is asked block by block."""

    def propose(self, trace: RoutingTrace, block: Block, following: Block | None) -> Proposed:
        """Return what is proposed in each layer-step of a block.

        Args:
            trace: what the block is of.
            block: the next block.
            following: the one behind it, if there is one.
        """


def proposer(prefetcher: Prefetcher, job: Run) -> Proposer | None:
    """Return the compiled form of a prefetcher, None where it has none.

    Args:
        prefetcher: the prefetcher.
        job: what is run.
    """
    kinds: dict[type[Prefetcher], Any] = {
        Oracle: OracleAhead,
        NextGate: NextGateAhead,
        Popularity: PopularityAhead,
        Temporal: TemporalAhead,
        Transition: TransitionAhead,
        TraceMatch: TraceMatchAhead,
    }
    made: Proposer | None = kinds[type(prefetcher)](prefetcher, job) if type(prefetcher) in kinds else None
    return made


def _width(prefetcher: Prefetcher) -> int:
    return int(getattr(prefetcher, "width", 0))


class OracleAhead:
    """`Oracle`."""

    def __init__(self, prefetcher: Oracle, job: Run) -> None:
        self.distance = prefetcher.distance

    def propose(self, trace: RoutingTrace, block: Block, following: Block | None) -> Proposed:
        """Return the batch that comes so many layer-steps later, in this step or the next."""
        keys, starts, step = block.keys, block.starts, block.step
        if following is not None and len(following.layer):
            rows = int(np.searchsorted(following.step, following.step[0], side="right"))
            keys = np.concatenate([keys, following.keys[: following.starts[rows]]])
            starts = np.append(starts, following.starts[1 : rows + 1] + starts[-1])
            step = np.append(step, following.step[:rows])
        number = np.cumsum(np.diff(step, prepend=-1) != 0)  # of steps with layer-steps
        coming = np.arange(len(block.layer)) + self.distance
        last = len(step) - 1
        there = (coming <= last) & (number[np.minimum(coming, last)] <= number[: len(coming)] + 1)
        low = np.where(there, starts[np.minimum(coming, last)], 0)
        high = np.where(there, starts[np.minimum(coming, last) + 1], 0)
        lengths = high - low
        begins = np.append(0, np.cumsum(lengths))
        return begins, keys[np.arange(begins[-1]) + np.repeat(low - begins[:-1], lengths)]


class NextGateAhead:
    """`NextGate`."""

    def __init__(self, prefetcher: NextGate, job: Run) -> None:
        self.stride, self.distance = job.trace.num_experts, prefetcher.distance
        self.width = prefetcher.width or job.trace.top_k

    def propose(self, trace: RoutingTrace, block: Block, following: Block | None) -> Proposed:
        """Return the predictions of each step's tokens, by rank, then token."""
        if not len(block.layer):
            return np.zeros(1, np.int64), np.zeros(0, np.int32)
        low, high = int(block.first_token[0]), int(block.step_end[-1])
        predicted = trace.read(f"predictions/{self.distance}", low, high)[:, :, : self.width]
        ran = np.ones(high - low, np.bool_)
        ran[block.idle[(block.idle >= low) & (block.idle < high)] - low] = False
        stride, lengths = self.stride, block.step_end - block.first_token
        most = int(np.minimum(lengths * predicted.shape[2], stride).sum())
        starts, keys = np.zeros(len(block.layer) + 1, np.int64), np.zeros(most, np.int32)
        find: Any = _predicted  # compiled: type checkers do not know its arguments
        find(
            *(predicted, ran, block.first_token - low, block.step_end - low, block.layer, self.distance, stride),
            *(starts, keys),
        )
        return starts, keys


class TemporalAhead:
    """`Temporal`."""

    def __init__(self, prefetcher: Temporal, job: Run) -> None:
        layers, stride = job.trace.num_layers, job.trace.num_experts
        self.last, self.count = np.zeros((layers, stride), np.int32), np.zeros(layers, np.int64)

    def propose(self, trace: RoutingTrace, block: Block, following: Block | None) -> Proposed:
        """Return what the next layer used in the step before."""
        starts = np.zeros(len(block.layer) + 1, np.int64)
        find: Any = _used_last
        find(block.keys, block.starts, block.layer, self.last, self.count.copy(), starts, np.zeros(0, np.int32))
        keys = np.zeros(int(starts[-1]), np.int32)
        find(block.keys, block.starts, block.layer, self.last, self.count, starts, keys)
        return starts, keys


class PopularityAhead:
    """`Popularity`."""

    def __init__(self, prefetcher: Popularity, job: Run) -> None:
        layers, stride = job.trace.num_layers, job.trace.num_experts
        self.uses = np.zeros((layers, stride))
        if job.profile is not None:
            self.uses[:] = job.profile.reshape(layers, stride)
        self.width = min(_width(prefetcher) or job.trace.top_k, stride)

    def propose(self, trace: RoutingTrace, block: Block, following: Block | None) -> Proposed:
        """Return the most used experts of the next layer."""
        starts = np.zeros(len(block.layer) + 1, np.int64)
        keys = np.zeros(len(block.layer) * self.width, np.int32)
        find: Any = _popular
        find(block.keys, block.starts, block.layer, self.uses, self.width, starts, keys)
        return starts, keys


class TransitionAhead:
    """`Transition`."""

    def __init__(self, prefetcher: Transition, job: Run) -> None:
        layers, stride = job.trace.num_layers, job.trace.num_experts
        self.counts, self.totals = np.zeros((layers, stride, stride), np.int32), np.zeros((layers, stride))
        self.before, self.which = np.zeros(stride, np.int32), np.array([-1, -1, 0])
        self.width = min(_width(prefetcher) or job.trace.top_k, stride)

    def propose(self, trace: RoutingTrace, block: Block, following: Block | None) -> Proposed:
        """Return the experts of the next layer most likely after this layer's."""
        starts = np.zeros(len(block.layer) + 1, np.int64)
        keys = np.zeros(len(block.layer) * self.width, np.int32)
        find: Any = _likely
        find(
            *(block.keys, block.starts, block.layer, block.step, self.counts, self.totals, self.before, self.which),
            *(self.width, starts, keys),
        )
        return starts, keys


class TraceMatchAhead:
    """`TraceMatch`."""

    def __init__(self, prefetcher: TraceMatch, job: Run) -> None:
        layers, stride = job.trace.num_layers, job.trace.num_experts
        self.known = Remembered.empty(min(prefetcher.kept, job.trace.num_requests), layers, stride)
        self.width = min(_width(prefetcher) or job.trace.top_k, layers * stride)

    def propose(self, trace: RoutingTrace, block: Block, following: Block | None) -> Proposed:
        """Return the rest of the recorded request most like the running one."""
        starts = np.zeros(len(block.layer) + 1, np.int64)
        keys = np.zeros(len(block.layer) * self.width, np.int32)
        find: Any = match
        find(block.keys, block.starts, block.layer, block.request, self.known, self.width, starts, keys)
        return starts, keys


@numba.njit(cache=True, nogil=True)
def _predicted(predicted, ran, first, end, layer, distance, stride, starts, keys):  # type: ignore[no-untyped-def]
    """Fill in what `NextGate` proposes.

    Args:
        predicted: int [tokens, L, width].
        ran: bool [tokens].
        first: int64 [layer-steps], first token of the step of each.
        end: int64 [layer-steps], token after its last.
        layer: int64 [layer-steps].
        distance: layers ahead.
        stride: E.
        starts: as in `Proposed`, filled in.
        keys: likewise.
    """
    found = 0
    proposed = np.full(stride, -1, np.int64)  # by expert, the layer-step in which it was last
    for row in range(len(layer)):
        later = layer[row] + distance
        if later < predicted.shape[1]:
            for rank in range(predicted.shape[2]):
                for token in range(first[row], end[row]):
                    expert = predicted[token, later, rank]
                    if expert >= 0 and ran[token] and proposed[expert] != row:
                        proposed[expert] = row
                        keys[found] = later * stride + expert
                        found += 1
        starts[row + 1] = found


@numba.njit(cache=True, nogil=True)
def _used_last(used, used_starts, layer, last, count, starts, keys):  # type: ignore[no-untyped-def]
    """Fill in what `Temporal` proposes; ``last[l, :count[l]]`` are the keys that layer l used last.

    Without room in ``keys`` only ``starts`` and ``count`` are filled in.
    """
    found = 0
    for row in range(len(layer)):
        low, here = used_starts[row], layer[row]
        count[here] = used_starts[row + 1] - low
        later = (here + 1) % len(count)
        if len(keys):
            for i in range(count[here]):
                last[here, i] = used[low + i]
            for i in range(count[later]):
                keys[found + i] = last[later, i]
        found += count[later]
        starts[row + 1] = found


@numba.njit(cache=True, nogil=True)
def _reached(scores, width):  # type: ignore[no-untyped-def]
    """Return what at least ``width`` scores reach: of as many groups, the least of their greatest scores."""
    groups = len(scores) // width
    least = math.inf
    for group in range(width if groups else 0):
        most = scores[group]
        for i in range(1, groups):
            most = max(most, scores[i * width + group])
        least = min(least, most)
    return least if groups else 0.0


@numba.njit(cache=True, nogil=True)
def _most(scores, width, first_key, keys, found, best, which):  # type: ignore[no-untyped-def]
    """Write the experts of the greatest scores above 0 behind ``keys[:found]``, `Prefetcher.most`; return the end.

    Few reach the bound. They are picked out first, without a branch.

    Args:
        scores: float64 [E].
        width: experts, at most.
        first_key: key of the first.
        keys: int32, written to.
        found: where to begin.
        best: float64 [E], scratch.
        which: int32 [E], likewise.
    """
    enough = max(_reached(scores, width), LEAST)
    count = 0
    for expert in range(len(scores)):
        best[count] = scores[expert]
        which[count] = first_key + expert
        count += scores[expert] >= enough
    kept = 0  # of them, sorted at the front of ``best``
    for one in range(count):
        score = best[one]
        if kept == width and score <= best[width - 1]:
            continue
        at = min(kept, width - 1)
        kept = at + 1
        while at > 0 and best[at - 1] < score:
            best[at], keys[found + at] = best[at - 1], keys[found + at - 1]
            at -= 1
        best[at], keys[found + at] = score, which[one]
    return found + kept


@numba.njit(cache=True, nogil=True)
def _popular(used, used_starts, layer, uses, width, starts, keys):  # type: ignore[no-untyped-def]
    """Fill in what `Popularity` proposes; ``uses`` are float64 [L, E], advanced in place."""
    found = 0
    layers, stride = uses.shape
    best, which = np.zeros(stride), np.zeros(stride, np.int32)
    for row in range(len(layer)):
        for i in range(used_starts[row], used_starts[row + 1]):
            uses[layer[row], used[i] % stride] += 1
        later = (layer[row] + 1) % layers
        found = _most(uses[later], width, later * stride, keys, found, best, which)
        starts[row + 1] = found


@numba.njit(cache=True, nogil=True, error_model="numpy")  # so that it divides many at once
def _likely(used, used_starts, layer, step, counts, totals, before, which, width, starts, keys):  # type: ignore[no-untyped-def]  # fmt: skip
    """Fill in what `Transition` proposes.

    Args:
        used: int32 [accesses], keys.
        used_starts: int64 [layer-steps + 1].
        layer: int64 [layer-steps].
        step: int64 [layer-steps].
        counts: int32 [L, E, E], steps that used an expert of a layer and one of the next; advanced in place.
        totals: float64 [L, E], their sums over the last axis; likewise.
        before: int32 [E], experts of the layer-step before; likewise.
        which: int64 [3], its step, its layer, and how many they are; likewise.
        width: experts proposed, at most.
        starts: as in `Proposed`, filled in.
        keys: likewise.
    """
    found = 0
    layers, stride = totals.shape
    scores, best, which_best = np.zeros(stride), np.zeros(stride), np.zeros(stride, np.int32)
    for row in range(len(layer)):
        low, high, here = used_starts[row], used_starts[row + 1], layer[row]
        if which[0] == step[row] and which[1] == here - 1:
            for i in range(which[2]):
                for j in range(low, high):
                    counts[here - 1, before[i], used[j] % stride] += 1
                totals[here - 1, before[i]] += high - low
        which[0], which[1], which[2] = step[row], here, high - low
        for j in range(low, high):
            before[j - low] = used[j] % stride
        if here + 1 < layers:
            scores[:] = 0.0
            for i in range(high - low):
                total, row_counts = totals[here, before[i]], counts[here, before[i]]
                if total > 0:
                    for expert in range(stride):
                        scores[expert] += row_counts[expert] / total
            found = _most(scores, width, (here + 1) * stride, keys, found, best, which_best)
        starts[row + 1] = found
