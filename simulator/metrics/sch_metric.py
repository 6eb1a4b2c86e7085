"""SCH, segment cache best hit rate, in its two definitions, at every capacity.

**static** (arXiv 2505.16056, first version). For every window of m consecutive tokens of a request, the
cache holds the C experts that the window uses most, chosen with hindsight and free to be others in the next window:

    SCH(m, C) = sum over windows of the C largest n(w, .) / sum over windows of all n(w, .)

where n(w, e) is how many tokens of window w use expert e. Where every position was recorded the divisor is m * k * L
per window. It says how well the best fixed set serves a segment; as loading the set is free, it is no hit rate of a
cache.

**lookahead** (its later code). A real cache, run over every request from a cold start under the rule
``access="paper"``, that evicts the expert with the fewest uses in this and the next m - 1 tokens, ties to the least
recently used: policy ``sch-lookahead:m``. It is no upper bound either: it can lie below LRU (docs/accounting.md says
what the rule counts).

In scope ``layer`` every layer has a cache; hits and accesses are added up over layers. In scope ``model`` all layers
share one. Both are pooled over requests by accesses. The authors take the mean over requests instead, which is the same
where requests have the same length, as theirs have.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.base.progress import Progress
from lrcsim.base.reprs import short_repr
from lrcsim.base.shown import Shown
from lrcsim.base.text import number, numbers
from lrcsim.simulator.cache.capacity import CacheSize, Scope, resolve_capacity
from lrcsim.simulator.compiled.by_request import lookahead_by_request
from lrcsim.simulator.compiled.every_size import stack_hits
from lrcsim.simulator.metrics import window_kernels
from lrcsim.simulator.metrics.bootstrap import basic_interval, check_bootstrap, each_resample
from lrcsim.simulator.metrics.groups import interval_values
from lrcsim.simulator.metrics.windows import BlockOfWindows, Ints, Stream, check_segment, refuse_repeats, streams
from lrcsim.traces import RoutingTrace

Definition = Literal["static", "lookahead"]
DEFINITIONS: tuple[Definition, ...] = ("static", "lookahead")
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sch(Shown):
    """SCH of a trace at one segment length and cache size, and at all others beside it.

    Attributes:
        segment: m, tokens in a window (static), or looked at, the current one included (lookahead).
        definition: ``"static"`` or ``"lookahead"``.
        scope: ``"layer"`` or ``"model"``.
        cache: the cache size as given.
        slots: int64 [pools], the experts that it holds: by layer, or of the one pool.
        value: hits over accesses, 0 to 1; NaN without accesses.
        by_layer: float64 [L], the same for each layer alone, or None in scope ``"model"``.
        interval: confidence interval of ``value``, or None: not asked for, or fewer than two requests to resample.
        accesses: the divisor: expert uses, in ``static`` those of all windows.
        capacities: int64 [n], 1 to the number of experts of a layer, or of the pool.
        relative: float64 [n], capacity over the experts active per token (mean over layers in scope ``"layer"``).
        hit_rate: float64 [n], value at each capacity, the same for every layer in scope ``"layer"``.
    """

    segment: int
    definition: Definition
    scope: Scope
    cache: str
    slots: Ints
    value: float
    by_layer: Floats | None
    interval: tuple[float, float] | None
    accesses: int
    capacities: Ints
    relative: Floats
    hit_rate: Floats

    drawn_by = "plots.shown:draw_sch"
    __repr__ = short_repr

    def _rows(self) -> dict[str, Any]:
        """Return a row for each capacity, experts of a layer or of the pool, with the SCH there."""
        return {"capacity": self.capacities, "relative": self.relative, "hit_rate": self.hit_rate}

    def to_dict(self, label: str) -> dict[str, Any]:
        """Return JSON values, None for what is not known; ``label`` names the trace."""
        return {
            "trace": label,
            "segment": self.segment,
            "cache": self.cache,
            "slots": self.slots.tolist(),
            "value": number(self.value),
            "interval": interval_values(self.interval),
            "accesses": self.accesses,
            "by_layer": None if self.by_layer is None else numbers(self.by_layer),
            "capacities": self.capacities.tolist(),
            "relative": self.relative.tolist(),
            "hit_rate": numbers(self.hit_rate),
        }


def sch(
    trace: RoutingTrace,
    segment: int = 16,
    cache: CacheSize = "2x",
    *,
    definition: Definition = "static",
    scope: Scope = "layer",
    bootstrap: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Sch:
    """Measure the segment cache best hit rate.

    Definition ``"static"`` streams the trace; ``"lookahead"`` reads it whole or, with ``bootstrap``, request by
    request.

    Args:
        trace: the routing trace.
        segment: m, in tokens.
        cache: size of the cache: ``"2x"`` (times active experts), ``16`` (experts), ``"25%"``, bytes, or a list by
            layer.
        definition: ``"static"`` or ``"lookahead"``; see the top of this module.
        scope: ``"layer"`` or ``"model"``.
        bootstrap: draws of requests for the confidence interval (the paper: 1000); 0: none.
        confidence: of the interval.
        seed: of the resamples, which are the same for every segment length and cache size.
        jobs: threads, one pool each at a time; None: all cores. The result does not depend on it.
        progress: told the tokens done, and all.

    Raises:
        ConfigError: an option is not allowed, or (static) no request has ``segment`` tokens.
        TraceError: the trace is damaged.
    """
    (found,) = sch_at_sizes(
        trace,
        segment,
        [cache],
        definition=definition,
        scope=scope,
        bootstrap=bootstrap,
        confidence=confidence,
        seed=seed,
        jobs=jobs,
        progress=progress,
    )
    return found


def sch_at_sizes(
    trace: RoutingTrace,
    segment: int,
    caches: Sequence[CacheSize],
    *,
    definition: Definition = "static",
    scope: Scope = "layer",
    bootstrap: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[Sch]:
    """Do as `sch` for several cache sizes at the price of one."""
    if definition not in DEFINITIONS:
        raise ConfigError(
            f"definition {definition!r} is not known, use 'static' or 'lookahead'"
            + did_you_mean(str(definition), DEFINITIONS)
        )
    m = check_segment(trace, segment, fits=definition == "static")
    check_bootstrap(bootstrap, confidence)
    slots = np.stack([_slots(trace, cache, scope) for cache in caches])  # [caches, pools]
    draws = bootstrap if trace.num_requests > 1 else 0
    if definition == "static":
        hits, by_request = _static(trace, m, scope, slots if draws else slots[:0], jobs, progress)
    else:
        hits, by_request = _lookahead(trace, m, scope, slots if draws else slots[:0], jobs, progress)
    accesses = hits[:, -1]
    layers = trace.layers
    everything = layers.total_experts if scope == "model" else trace.num_experts
    capacities = np.arange(1, everything + 1)
    with np.errstate(invalid="ignore"):
        hit_rate = hits.sum(axis=0)[1 : everything + 1] / accesses.sum()
        at_slots = np.take_along_axis(hits, slots.T.clip(max=everything), axis=1).T  # [caches, pools]
        values = at_slots.sum(axis=1) / accesses.sum()
        by_layer = at_slots / accesses
    intervals: list[tuple[float, float] | None] = [None] * len(caches)
    if draws and np.count_nonzero(by_request[-1]) > 1:
        drawn = np.stack([by_request @ row for row in each_resample(trace.num_requests, draws, seed)], axis=1)
        with np.errstate(invalid="ignore"):
            rates = drawn[:-1] / drawn[-1]
        intervals = [basic_interval(float(value), row, confidence) for value, row in zip(values, rates, strict=True)]
    return [
        Sch(
            segment=m,
            definition=definition,
            scope=scope,
            cache=str(cache),
            slots=slots[i],
            value=float(values[i]),
            by_layer=by_layer[i] if scope == "layer" else None,
            interval=intervals[i],
            accesses=int(accesses.sum()),
            capacities=capacities,
            relative=capacities / float(layers.top_k.sum() if scope == "model" else layers.top_k.mean()),
            hit_rate=hit_rate,
        )
        for i, cache in enumerate(caches)
    ]


def _slots(trace: RoutingTrace, cache: CacheSize, scope: Scope) -> Ints:
    pools = resolve_capacity(cache, trace.layers, scope)
    if any(pool.bytes_per_expert is not None for pool in pools):
        raise ConfigError(
            f"cache size {cache!r} is in bytes and experts that share a cache differ in size: SCH counts experts, "
            "give experts (16), times active (2x) or percent (25%)"
            + (
                ", or run the policy sch-static, which fills bytes"
                if trace.layers.sized_by_expert
                else ", or use scope 'layer'"
            )
        )
    return np.array([pool.capacity for pool in pools], np.int64)


def _static(
    trace: RoutingTrace, segment: int, scope: Scope, sizes: Ints, jobs: int | None, progress: Progress | None
) -> tuple[Ints, Floats]:
    """Run `window_kernels.count_largest`.

    Args:
        trace: the routing trace.
        segment: m.
        scope: ``"layer"`` or ``"model"``.
        sizes: int64 [s, pools], slots for which requests are counted apart.
        jobs: threads.
        progress: told the tokens done, and all.

    Returns:
        int64 [pools, capacities + 1], hits of a cache of 0, 1, 2 ... slots, at last all accesses; float64
        [s + 1, requests], hits of each request at ``sizes``, and its accesses.
    """
    stride, num_layers = trace.num_experts, trace.num_layers
    pools = [(0, num_layers)] if scope == "model" else [(layer, layer + 1) for layer in range(num_layers)]
    keys = stride * (num_layers if scope == "model" else 1)
    wanted = np.full((len(pools), len(sizes) + 1 if len(sizes) else 0), keys)  # [pools, s + 1]; the last: all accesses
    if len(sizes):
        wanted[:, :-1] = sizes.T
    count, largest, since, total = np.zeros((4, len(pools), keys), np.int64)
    above = np.zeros((len(pools), segment + 1), np.int64)
    held = np.zeros_like(wanted)
    by_request = np.zeros((wanted.shape[1], trace.num_requests))
    # One pool takes the tokens of all stacks as they come.
    parts = [Stream(trace, np.arange(num_layers), trace.offsets)] if scope == "model" else streams(trace)
    kernel: Any = window_kernels.count_largest  # compiled: type checkers do not know its arguments
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as threads:
        for stream in parts:
            mine = [0] if scope == "model" else stream.layers.tolist()
            for block in stream.blocks(segment):
                rows = np.zeros((len(mine), len(block.requests), wanted.shape[1]), np.int64)

                def run(pool: int, row: Ints, block: BlockOfWindows = block) -> bool:
                    state = count[pool], above[pool], largest[pool], since[pool], held[pool], total[pool]
                    given = (*pools[pool], stride, *block.spans, segment, wanted[pool])
                    return bool(kernel(block.experts, *given, *state, row))

                refuse_repeats(all(threads.map(run, mine, rows)), block)
                by_request[:, block.requests] += rows.sum(axis=0).T
                if progress is not None:
                    progress(block.done, trace.num_tokens)
    return np.pad(total.cumsum(axis=1), ((0, 0), (1, 0))), by_request


def _lookahead(
    trace: RoutingTrace, segment: int, scope: Scope, sizes: Ints, jobs: int | None, progress: Progress | None
) -> tuple[Ints, Floats]:
    """Run policy ``sch-lookahead``; arguments and results as in `_static`."""
    if len(sizes) == 0:
        found = stack_hits(trace, f"sch-lookahead:{segment}", scope, "paper", "token", False, jobs)
        return np.stack([pool.sum(axis=0) for pool in found.hits]), np.zeros((1, trace.num_requests))
    total: Ints = np.zeros(1, np.int64)
    by_request = np.zeros((len(sizes) + 1, trace.num_requests))
    for requests, hits in lookahead_by_request(trace, segment, scope, jobs):  # [pools, requests, capacities + 1]
        total = total + hits.sum(axis=1)
        by_request[-1, requests] = hits[:, :, -1].sum(axis=0)
        places = sizes.T.clip(max=hits.shape[2] - 1)  # [pools, caches]
        by_request[:-1, requests] = np.take_along_axis(hits, places[:, None], axis=2).sum(axis=0).T
        if progress is not None:
            progress(int(trace.offsets[requests.stop]), trace.num_tokens)
    return total, by_request
