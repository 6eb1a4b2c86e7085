"""How many different experts a layer uses: in the steps of a server that runs B requests at once, in a run of tokens.

Both are held against a cache of c slots a layer: r = distinct experts / c. Above 1 they do not fit together, whatever
the policy; far below, a low hit rate is the policy's. Hit rates of different models, batches and machines compare at
equal r, not at equal B; but r alone does not decide them, for the order of the steps matters too (arXiv 2608.07911,
section 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from lrcsim.base.compiling import watch
from lrcsim.base.reprs import short_repr
from lrcsim.simulator.metrics.windows import Ints, streams
from lrcsim.simulator.serving.batching import batched
from lrcsim.traces import DECODE, RoutingTrace
from lrcsim.traces.schedule import Schedule

watch()

TOKENS_AT_ONCE = 8_192


@dataclass(frozen=True)
class Sizes:
    """Sizes of sets of experts.

    Attributes:
        counted: int64 [L, E + 1], how many sets of each layer have 0, 1, 2 ... experts.
        top_k: int64 [L], experts per token.
    """

    counted: Ints
    top_k: Ints

    __repr__ = short_repr

    @property
    def number(self) -> int:
        """Sets of all layers."""
        return int(self.counted.sum())

    @property
    def mean(self) -> float:
        """Experts in a set, over all layers; there must be sets."""
        return float(self.counted.sum(axis=0) @ np.arange(self.counted.shape[1]) / self.number)

    def quantile(self, share: float) -> int:
        """Return the smallest size that ``share`` of the sets, of all layers, do not exceed."""
        return quantile(self.counted.sum(axis=0), share)

    def over(self, relative: float) -> tuple[float, float]:
        """Hold the sets against caches of ``relative`` times the experts active per token of their layer.

        Returns:
            The mean of size over capacity, and the share of sets above 1: that do not fit.
        """
        size = np.arange(self.counted.shape[1])
        r = size / (relative * self.top_k[:, None])
        return float((self.counted * r).sum() / self.number), float(self.counted[r > 1].sum() / self.number)


@dataclass(frozen=True)
class BatchUnion:
    """Distinct experts of a layer in the decode steps of B requests.

    Attributes:
        batch: B.
        sizes: of the batches, over those steps in which B requests decode, in continuous batching
            (`lrcsim.simulator.serving.batching`), and layers of which all B k positions are recorded.
        picks: B k, the mean over these.
        even: what a router that picks k of E at random, all alike, would use: E (1 - (1 - k/E)^B), the mean over these.
    """

    batch: int
    sizes: Sizes
    picks: float
    even: float

    __repr__ = short_repr


def batch_unions(trace: RoutingTrace, batches: Sequence[int]) -> list[BatchUnion]:
    """Count the distinct experts of a layer-step by the number of requests that decode together.

    Args:
        trace: the routing trace; one without phases is decode throughout. Not one in a server's order.
        batches: numbers of requests at once, B.

    Returns:
        An entry for each B of which there are such steps.
    """
    experts, top_k = trace.layers.num_experts, trace.layers.top_k
    found = []
    for batch in batches:
        if batch > trace.num_requests:
            break
        counted = _unions(trace, batch)
        if not (layer_steps := counted.sum(axis=1)).any():
            continue
        even = experts * (1 - (1 - top_k / experts) ** batch)
        found.append(
            BatchUnion(
                batch,
                Sizes(counted, top_k),
                picks=float(layer_steps @ (batch * top_k) / layer_steps.sum()),
                even=float(layer_steps @ even / layer_steps.sum()),
            )
        )
    return found


def _unions(trace: RoutingTrace, batch: int) -> Ints:
    """Return int64 [L, E + 1], how many complete decode layer-steps of ``batch`` requests use so many experts."""
    counted = np.zeros((trace.num_layers, trace.num_experts + 1), np.int64)
    together = batched(trace, batch=batch)
    stamp = np.full((trace.num_layers, trace.num_experts), -1, np.int64)
    kernel: Any = count_unions
    for run in Schedule(together).step_runs(TOKENS_AT_ONCE):
        wanted = (run.phase == DECODE) & (np.diff(run.starts) == batch)
        if not wanted.any():
            continue
        first = int(run.starts[0])
        ids = np.ascontiguousarray(together.read("experts", first, int(run.starts[-1])))
        kernel(ids, run.starts[:-1][wanted] - first, batch, trace.layers.top_k, run.first_step, stamp, counted)
    return counted


def working_sets(trace: RoutingTrace, length: int) -> Sizes | None:
    """Count the distinct experts of a layer in every window of consecutive tokens of a request.

    The working set of Denning, "The working set model for program behavior", CACM 11(5), 1968, in tokens.

    Args:
        trace: the routing trace.
        length: m, tokens in a window.

    Returns:
        Their sizes; None where every request is shorter.
    """
    counted = np.zeros((trace.num_layers, trace.num_experts + 1), np.int64)
    kernel: Any = count_distinct
    for stream in streams(trace):
        if not stream.windows(length).any():
            continue
        uses = np.zeros((trace.num_layers, trace.num_experts), np.int64)
        distinct = np.zeros(trace.num_layers, np.int64)
        for block in stream.blocks(length):
            kernel(block.experts, stream.layers, *block.spans, length, uses, distinct, counted)
    return Sizes(counted, trace.layers.top_k) if counted.any() else None


def whole_sets(trace: RoutingTrace) -> tuple[Sizes, Sizes]:
    """Count the distinct experts of a layer that each request uses, and that the trace uses.

    Layers of which a request records nothing (another stack's) are not counted with it.
    """
    stride, layers = trace.num_experts, np.arange(trace.num_layers)
    of_requests = np.zeros((trace.num_layers, stride + 1), np.int64)
    everything = np.zeros((trace.num_layers, stride), bool)
    used = np.zeros_like(everything)
    request = 0
    for low, high in trace.blocks():
        experts = trace.read("experts", low, high)
        while low < high:
            end = min(high, int(trace.offsets[request + 1]))
            part = experts[len(experts) - (high - low) : len(experts) - (high - end)]
            token, layer, rank = np.nonzero(part >= 0)
            used[layer, part[token, layer, rank]] = True
            low = end
            if end == trace.offsets[request + 1]:
                _add(of_requests, layers, used)
                everything |= used
                used[:] = False
                request += 1
    of_trace = np.zeros_like(of_requests)
    _add(of_trace, layers, everything)
    return Sizes(of_requests, trace.layers.top_k), Sizes(of_trace, trace.layers.top_k)


def _add(counted: Ints, layers: Ints, used: npt.NDArray[np.bool_]) -> None:
    sizes = used.sum(axis=1)
    counted[layers[sizes > 0], sizes[sizes > 0]] += 1


def quantile(counted: Ints, share: float) -> int:
    """Return the smallest number that ``share`` of them do not exceed, of int64 [n], how often 0, 1, 2 ... come."""
    total = np.cumsum(counted)
    return int(np.searchsorted(total, share * total[-1] - 1e-9))


@numba.njit(cache=True, nogil=True)
def count_unions(experts, starts, batch, top_k, first_step, stamp, counted):  # type: ignore[no-untyped-def]
    """Tally the sizes of the unions of a block's steps; layer-steps with an unrecorded position are left out.

    Args:
        experts: int [tokens, L, K], -1 = not recorded.
        starts: int64 [steps], first token of each step of ``batch`` tokens.
        batch: B.
        top_k: int64 [L].
        first_step: of the block, to tell its steps from those of other blocks.
        stamp: int64 [L, E], step in which each expert was last seen; state, -1 at first.
        counted: int64 [L, E + 1], added to.
    """
    for step in range(len(starts)):
        now = first_step + step
        for layer in range(experts.shape[1]):
            picks, distinct = 0, 0
            for token in range(starts[step], starts[step] + batch):
                for rank in range(experts.shape[2]):
                    expert = experts[token, layer, rank]
                    if expert >= 0:
                        picks += 1
                        if stamp[layer, expert] != now:
                            stamp[layer, expert] = now
                            distinct += 1
            if picks == batch * top_k[layer]:
                counted[layer, distinct] += 1


@numba.njit(cache=True, nogil=True)
def count_distinct(experts, layers, lead, begins, ends, segment, uses, distinct, counted):  # type: ignore[no-untyped-def]
    """Tally how many experts every window of ``segment`` tokens uses.

    Args:
        experts: int [tokens, L, K].
        layers: int64 [l], the layers to count.
        lead: tokens of ``experts`` that were dealt with before.
        begins: int64 [n], first token of each request.
        ends: int64 [n], one after its last.
        segment: m.
        uses: int64 [L, E], in the current window; state between blocks, zeros at first.
        distinct: int64 [L], experts with uses; state, zeros at first.
        counted: int64 [L, E + 1], windows by that number; added to.
    """
    tokens = experts.shape[0]
    for i in range(len(begins)):
        begin, end = begins[i], ends[i]
        for t in range(max(begin, lead), min(end, tokens)):
            for layer in layers:
                for rank in range(experts.shape[2]):
                    if t - begin >= segment:
                        gone = experts[t - segment, layer, rank]
                        if gone >= 0:
                            uses[layer, gone] -= 1
                            if uses[layer, gone] == 0:
                                distinct[layer] -= 1
                    expert = experts[t, layer, rank]
                    if expert >= 0:
                        uses[layer, expert] += 1
                        if uses[layer, expert] == 1:
                            distinct[layer] += 1
                if t - begin >= segment - 1:
                    counted[layer, distinct[layer]] += 1
        if end <= tokens:
            uses[:] = 0
            distinct[:] = 0
