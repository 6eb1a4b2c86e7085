"""The compiled loop over layer-steps: the times of `lrcsim.simulator.time.engine`, where nothing is brought ahead.

Then every link is idle when a layer-step begins and when it ends, so each is a small problem of its own. All its
transfers are of one size, asked for at the same moment; with several lanes the first so many start together, have the
same share of the link at all times, arrive together, and the next ones follow: a *group*. So at any moment at most two
things go on, a group on the link and an expert on the CPU, and what couples them is the bandwidth of DRAM. Where a
runtime overlaps by tensor, a load is several transfers, and they stand in the order of `lrcsim.simulator.time.stages`.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.simulator.compiled.served import ELSEWHERE, LOADED, RESIDENT
from lrcsim.simulator.compiled.uncounted import inner_njit, uncounted_njit
from lrcsim.simulator.time.links import copies_before as _copies_before

CLOCK, COMPUTE, OVERHEAD, CPU, LINK_BUSY = range(5)
"""Places in `Totals.seconds`."""

COLD_MISSES, LINK_BYTES, REQUEST = range(3)
"""Places in `Totals.counter`."""

TOKENS, OUTPUTS, CONTEXT, PAIRS, REQUESTS = range(5)
"""Places in a row of `StepTable.sizes`."""


class Path(NamedTuple):
    """The way of an expert to where it is computed, and what bookkeeping costs.

    Attributes:
        bandwidth: bytes/s of the link.
        latency: seconds from submission until data flow.
        overhead: seconds per chunk, and per copy, that occupy a lane.
        copies: that an expert is.
        lanes: transfers served at once.
        chunk: bytes of a chunk, at least 1.
        dram: bytes/s that the link and the CPU share.
        lane: bytes/s that one lane carries at most.
        parts: transfers of an expert, and pieces in which it is computed.
        layer_overhead: seconds per layer-step.
        expert_overhead: seconds per expert loaded.
        byte: seconds per byte loaded.
        eviction: seconds per expert evicted.
        cpu_layer: seconds per layer-step with experts on the CPU.
        beside: whether what bytes and evictions cost runs beside the transfers.
        ahead: whether the host launches ahead of the device.
        launch_layer: seconds in which it launches a layer's dense part; 0 where it does not launch ahead.
        launch: seconds in which it launches an expert, or the output; likewise.
    """

    bandwidth: float
    latency: float
    overhead: float
    copies: int
    lanes: int
    chunk: int
    dram: float
    lane: float
    parts: int
    layer_overhead: float
    expert_overhead: float
    byte: float
    eviction: float
    cpu_layer: float
    beside: bool
    ahead: bool
    launch_layer: float
    launch: float


class Totals(NamedTuple):
    """What is counted from block to block.

    Attributes:
        seconds: float64 [5]: now, and compute, overhead, the CPU's experts, the link with a transfer on it.
        counter: int64 [3]: misses of experts not used before, bytes over the link, the last request (-1 at first).
        accesses: int64 [2, L], by phase and layer.
        misses: int64 [2, L].
        loads: int64 [2, L].
        seen: bool [L * E], used since the cache was last emptied.
        pools: int64 [L, 2], of each layer its pool, and how many experts that has room for.
        held: int64 [pools], experts that it holds.
    """

    seconds: npt.NDArray[np.float64]
    counter: npt.NDArray[np.int64]
    accesses: npt.NDArray[np.int64]
    misses: npt.NDArray[np.int64]
    loads: npt.NDArray[np.int64]
    seen: npt.NDArray[np.bool_]
    pools: npt.NDArray[np.int64]
    held: npt.NDArray[np.int64]

    @classmethod
    def zero(cls, layers: int, keys: int, pools: npt.NDArray[np.int64]) -> Totals:
        """Start at nothing."""
        accesses, misses, loads = (np.zeros((2, layers), np.int64) for _ in range(3))
        counter = np.array([0, 0, -1], np.int64)
        seen, held = np.zeros(keys, np.bool_), np.zeros(int(pools[:, 0].max()) + 1, np.int64)
        return cls(np.zeros(5), counter, accesses, misses, loads, seen, pools, held)


copies_before = inner_njit(_copies_before)


@inner_njit
def _take(served, what, at, high, most):  # type: ignore[no-untyped-def]
    """Go on from ``at`` until ``most`` accesses of a kind are found; return where that ends, and how many were."""
    found = 0
    while at < high and found < most:
        found += served[at] == what
        at += 1
    return at, found


@inner_njit
def _in_turn(served, what, low, high, seconds, gpu, launched, launch):  # type: ignore[no-untyped-def]
    """Compute the experts of a kind one after the other as a host launches them; the arguments as those of `_serve`.

    Returns:
        When the GPU is free then, when the last one was launched, and how long the GPU waited for launches.
    """
    waited = 0.0
    for i in range(low, high):
        if served[i] == what:
            launched += launch
            waited += max(launched - gpu, 0.0)
            gpu = max(gpu, launched) + seconds[i - low]
    return gpu, launched, waited


@inner_njit
def _serve(served, low, high, loads, seconds, size, cpu_bytes, cpu_overhead, path, overlap, hits_take, busy, asks):  # type: ignore[no-untyped-def]
    """Serve the misses of a layer-step; time counts from when they are asked for.

    Args:
        served: uint8 [accesses], `Served.flags`.
        low: first access of the batch.
        high: access after its last.
        loads: int64 [at least those loaded], room for their places.
        seconds: float64 [high - low]: of experts computed on the GPU the seconds, of others the bytes/s that the CPU
            draws undisturbed.
        size: bytes of an expert.
        cpu_bytes: bytes that the CPU draws for an expert.
        cpu_overhead: seconds before it draws them.
        path: `Path`.
        overlap: whether what arrives is computed at once.
        hits_take: seconds of the residents.
        busy: seconds from when misses are asked for in which nothing is computed.
        asks: seconds after ``busy`` in which a host that launches ahead launches nothing yet.

    Returns:
        When the GPU is free then, when the last load has arrived, when the CPU is through with its experts, when the
        last expert was launched, and how long the GPU waited for launches.
    """
    count = elsewhere = 0
    for i in range(low, high):
        elsewhere += served[i] == ELSEWHERE
        if served[i] == LOADED:
            loads[count] = i - low
            count += 1
    parts = path.parts if overlap else 1
    gpu = busy + (hits_take if count == 0 else hits_take / parts)
    launched, waited = busy + asks, 0.0
    if path.ahead and overlap:
        gpu, launched, waited = _in_turn(served, RESIDENT, low, high, seconds, busy, launched, path.launch)
    now = arrived = cpu_done = 0.0
    sent, transfers = 0, count * parts  # those that have arrived, and all: first one part of each load, then the next
    group = min(path.lanes, transfers)
    whole = size / parts
    before = path.overhead * copies_before(path.copies, parts, whole, path.chunk)  # a transfer's first chunk
    wait = path.latency + before  # until bytes flow
    piece = min(whole, float(path.chunk))
    unsent = whole - piece  # of each of the group
    left = piece * group  # of those that flow, the whole group's
    carried = min(path.bandwidth, path.lane * group)
    cpu_at, on_cpu = _take(served, ELSEWHERE, low, high, 1)
    cpu_wait, cpu_left = cpu_overhead, cpu_bytes
    if path.ahead:  # the host that computes launches first
        cpu_wait += busy + asks + (path.launch * (high - low - elsewhere) if overlap else 0.0)
    while group or on_cpu:
        rate = seconds[cpu_at - 1 - low] if on_cpu else 0.0
        wanted = (carried if group and wait <= 0 else 0.0) + (rate if on_cpu and cpu_wait <= 0 else 0.0)
        slower = min(path.dram / wanted, 1.0) if wanted > 0 else 1.0
        until = cpu_until = math.inf
        if group:
            until = wait if wait > 0 else left / (carried * slower)
        if on_cpu:
            cpu_until = cpu_wait if cpu_wait > 0 else cpu_left / (rate * slower)
        passed = min(until, cpu_until)
        now += passed
        if group and until > passed:
            if wait > 0:
                wait -= passed
            else:
                left -= passed * carried * slower
        elif group and wait > 0:
            wait = 0.0
        elif group:
            if unsent == 0:
                arrived = now
                if overlap:
                    for place in range(sent, sent + group):
                        launched += path.launch
                        gpu = max(gpu, now)
                        waited += max(launched - gpu, 0.0) if path.ahead else 0.0
                        gpu = (max(gpu, launched) if path.ahead else gpu) + seconds[loads[place % count]] / parts
                        if (place + 1) % count == 0 and place + 1 < transfers:
                            gpu = gpu + hits_take / parts  # all of one part are there: the residents' next
                sent += group
                group = min(path.lanes, transfers - sent)
                carried = min(path.bandwidth, path.lane * group)
                unsent = whole
                wait = before
            else:
                wait = path.overhead
            piece = min(unsent, float(path.chunk))
            unsent -= piece
            left = piece * group
        if on_cpu and cpu_until > passed:
            if cpu_wait > 0:
                cpu_wait -= passed
            else:
                cpu_left -= passed * rate * slower
        elif on_cpu and cpu_wait > 0:
            cpu_wait = 0.0
        elif on_cpu:
            cpu_done = now
            cpu_at, on_cpu = _take(served, ELSEWHERE, cpu_at, high, 1)
            cpu_wait, cpu_left = cpu_overhead, cpu_bytes
    return gpu, arrived, cpu_done, launched, waited


@inner_njit
def dense_seconds(parts, first, last, bandwidth, compute, overhead, size):  # type: ignore[no-untyped-def]
    """Return the seconds of the dense parts ``first:last`` (`CostTable.parts`) for a step of a size.

    Args:
        parts: `CostTable.parts`.
        first: first part.
        last: part after the last.
        bandwidth: bytes/s.
        compute: FLOP/s.
        overhead: seconds per part.
        size: int64 [5], the numbers of `StepSize`.
    """
    tokens, context, pairs, requests = size[TOKENS], size[CONTEXT], size[PAIRS], size[REQUESTS]
    total = 0.0
    for i in range(first, last):
        seen = min(float(context), parts[i, 4] * requests + tokens - requests)
        shown = min(float(pairs), parts[i, 4] * tokens)
        moved = (parts[i, 0] + parts[i, 2] * seen) / bandwidth
        of_pair = parts[i, 6] if tokens <= requests else parts[i, 3]
        total += max(moved, (parts[i, 1] * tokens + of_pair * shown) / compute) + overhead + parts[i, 5]
    return total


@inner_njit
def output_seconds(costs, size):  # type: ignore[no-untyped-def]
    """Return the seconds after the last MoE layer (`Costs.after`) for a step of a size, int64 [5] as above."""
    first, last = costs.first[-2], costs.first[-1]
    rest = dense_seconds(costs.parts, first, last, costs.bandwidth, costs.compute, costs.overhead, size)
    matrix = max(costs.head[0] / costs.bandwidth, costs.head[1] * size[OUTPUTS] / costs.compute)
    return rest + (matrix + costs.overhead + costs.step)


@uncounted_njit
def run_layer_steps(costs, path, overlap, cold, sizes, keys, tokens, served, starts, layer, first, request, phase, step_sizes, steps, totals, takes, places):  # type: ignore[no-untyped-def]  # fmt: skip  # noqa: E501
    """Run the layer-steps of a block in time.

    Args:
        costs: `CostTable`.
        path: `Path`.
        overlap: whether transfers run beside compute.
        cold: whether the cache is emptied when the request changes.
        sizes: int64 [L], bytes of an expert of each layer.
        keys: int32 [accesses].
        tokens: int64 [accesses], tokens of the step that use each; empty: one each.
        served: uint8 [accesses], `Served.flags`.
        starts: int64 [layer-steps + 1], accesses of each.
        layer: int64 [layer-steps].
        first: int64 [steps + 1], layer-steps of each.
        request: int64 [steps].
        phase: uint8 [steps].
        step_sizes: int64 [steps, 5], the numbers of `StepSize`.
        steps: float64 [steps, 5], filled in: begin, end, compute, overhead, CPU.
        totals: `Totals`, advanced in place.
        takes: float64 [accesses of a layer-step, at most], scratch.
        places: int64 likewise.
    """
    seconds, counter, accesses, misses, loads, seen, pools, held = totals
    parts, parts_of, bandwidth, compute, overhead = (
        costs.parts, costs.first, costs.bandwidth, costs.compute, costs.overhead,
    )  # fmt: skip
    expert_bytes, operations, cpu_bytes = costs.expert_bytes, costs.operations, costs.cpu_bytes
    now = seconds[CLOCK]
    for step in range(len(request)):
        begin = now
        host = 0.0  # when the host has launched everything before, counted from now
        computed = kept_books = cpu = 0.0
        if request[step] != counter[REQUEST]:
            if cold and counter[REQUEST] >= 0:
                seen[:] = False
                held[:] = 0
            counter[REQUEST] = request[step]
        for row in range(first[step], first[step + 1]):
            here, low, high = layer[row], starts[row], starts[row + 1]
            dense = dense_seconds(
                parts, parts_of[here], parts_of[here + 1], bandwidth, compute, overhead, step_sizes[step]
            )
            hits_take = all_take = 0.0
            missed = loaded = 0
            for i in range(low, high):
                used_by = tokens[i] if len(tokens) else 1
                if served[i] == ELSEWHERE:
                    cpu_seconds = max(cpu_bytes[here] / costs.cpu_bandwidth, operations * used_by / costs.cpu_compute)
                    takes[i - low] = cpu_bytes[here] / cpu_seconds
                else:
                    takes[i - low] = (
                        max(expert_bytes[here] / costs.expert_bandwidth, operations * used_by / compute) + overhead
                    )
                    all_take += takes[i - low]
                if served[i] == RESIDENT:
                    hits_take += takes[i - low]
                else:
                    missed += 1
                    loaded += served[i] == LOADED
                    counter[COLD_MISSES] += not seen[keys[i]]
                seen[keys[i]] = True
            pool, room = pools[here, 0], pools[here, 1]
            evicted = max(held[pool] + loaded - room, 0)
            held[pool] += loaded - evicted
            begun = min(loaded, 1) if path.ahead else loaded  # asked for before transfers begin
            asks = path.expert_overhead * (loaded - begun)
            books = path.layer_overhead + path.expert_overhead * begun
            if missed > loaded:
                books += path.cpu_layer
            more = path.byte * (loaded * sizes[here]) + path.eviction * evicted
            beside = more if overlap and path.beside else 0.0
            lasts = all_take
            late = launched = waited = 0.0
            if path.ahead:
                late = max(host + path.launch_layer - dense, 0.0)
                if not missed:
                    lasts, launched, waited = _in_turn(served, RESIDENT, low, high, takes, beside, beside, path.launch)
            if missed:
                gpu, arrived, cpu_done, launched, waited = _serve(
                    served, low, high, places, takes, sizes[here], cpu_bytes[here], costs.cpu_overhead, path, overlap,
                    hits_take, beside, asks,
                )  # fmt: skip
                last = max(arrived, cpu_done)
                lasts = max(gpu, last) if overlap else last + all_take
                if path.ahead and not overlap:
                    launched = max(last, asks)
                    lasts, launched, waited = _in_turn(served, RESIDENT, low, high, takes, last, launched, path.launch)
                    lasts, launched, more_waited = _in_turn(
                        served, LOADED, low, high, takes, lasts, launched, path.launch
                    )
                    waited += more_waited
                launched = max(launched, cpu_done)
                if cpu_done and path.ahead:
                    cpu -= beside + asks
                    if overlap:
                        cpu -= path.launch * (high - low - (missed - loaded))
                cpu += cpu_done
                if loaded:
                    seconds[LINK_BUSY] += arrived - path.latency
            now += dense + late + books + more - beside
            now += lasts
            host = launched - lasts
            computed += dense + all_take
            kept_books += books + more + late + waited
            counter[LINK_BYTES] += loaded * sizes[here]
            accesses[phase[step], here] += high - low
            misses[phase[step], here] += missed
            loads[phase[step], here] += loaded
        output = output_seconds(costs, step_sizes[step])
        late = max(host + path.launch - output, 0.0) if path.ahead else 0.0
        now += output + late
        kept_books += late
        computed += output
        steps[step, 0], steps[step, 1] = begin, now
        steps[step, 2], steps[step, 3], steps[step, 4] = computed, kept_books, cpu
        seconds[COMPUTE] += computed
        seconds[OVERHEAD] += kept_books
        seconds[CPU] += cpu
    seconds[CLOCK] = now
