"""The compiled event loop: one forward pass after the other, each layer-step as `Engine._layer_step` runs it.

Cache and time go together here, because what may be brought ahead depends on what is under way.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.simulator.compiled.queue_lists import FILLING
from lrcsim.simulator.compiled.queue_rules import REPIN
from lrcsim.simulator.compiled.served import ELSEWHERE, GONE, LOADED, RESIDENT
from lrcsim.simulator.compiled.uncounted import inner_loop_njit, loop_njit
from lrcsim.simulator.setup.outcomes import Outcome
from lrcsim.simulator.time.by_reference import by_reference
from lrcsim.simulator.time.compiled_loop import dense_seconds, output_seconds
from lrcsim.simulator.time.event_book import ADMITTED as AS_ADMITTED
from lrcsim.simulator.time.event_book import (
    COLD_MISSES,
    DISPLACED_MISSED,
    NOTHING,
    PREFETCHED,
    REPINNED,
    REQUEST,
    take_brought,
    take_emptied,
    take_evicted,
    take_used,
)
from lrcsim.simulator.time.event_book import LATE as LATE_USES
from lrcsim.simulator.time.event_clock import await_pending, call_off, land, pass_seconds, take_off
from lrcsim.simulator.time.event_decisions import ADMITTED, LATE, decide, most_used
from lrcsim.simulator.time.event_layer import (
    begin_layer,
    compute_held,
    expect,
    fetch,
    host_delay,
    load,
    open_stages,
    ready,
    run_on_cpu,
)
from lrcsim.simulator.time.event_links import moved, promote
from lrcsim.simulator.time.event_pools import (
    begin_step,
    bring_ahead,
    count_uses,
    empty_pools,
    guard,
    is_resident,
    unguard,
    use,
)
from lrcsim.simulator.time.event_state import AHEAD, BEFORE, BEHIND, TO_GPU
from lrcsim.simulator.time.links import PREFETCH

ON_CPU, SKIPPED, SUBSTITUTED, LOW = (
    int(outcome) for outcome in (Outcome.ON_CPU, Outcome.SKIPPED, Outcome.SUBSTITUTED, Outcome.LOW_PRECISION)
)
UPLOADED = int(Outcome.ADMITTED)


class Room(NamedTuple):
    """Room for the running layer-step.

    Attributes:
        flags: uint8 [E], of each expert of the batch `RESIDENT`, `LOADED`, `ELSEWHERE`, `ADMITTED` or `LATE`.
        stored: bool [E], whether it has to come from storage.
        parts: bool [E], whether its tensors come one by one.
        guarded: int64 [L], pools that are guarded.
        moved: float64 [links], bytes that had moved when the step began.
    """

    flags: npt.NDArray[np.uint8]
    stored: npt.NDArray[np.bool_]
    parts: npt.NDArray[np.bool_]
    guarded: npt.NDArray[np.int64]
    moved: npt.NDArray[np.float64]

    @classmethod
    def of(cls, stride: int, layers: int, links: int) -> Room:
        """Make room for E experts, L layers and so many links."""
        stored, parts = (np.zeros(stride, np.bool_) for _ in range(2))
        return cls(np.zeros(stride, np.uint8), stored, parts, np.zeros(layers, np.int64), np.zeros(links))


@inner_loop_njit
def _look_up(state, plan, pools, work, row, phase, book, room):  # type: ignore[no-untyped-def]
    """Run a layer-step through its pool and count it (`Residency.look_up`).

    Returns:
        Misses, those of them that are loaded, experts that left the pool (``pools.evicted``), and what counts as
        evictions.
    """
    layer, low, high = work.layer[row], work.starts[row], work.starts[row + 1]
    pool = pools.of_layer[layer]
    missed = 0
    count_uses(pools, pool, work.keys[low:high])
    for place in range(high - low):
        hit = is_resident(pools, pool, int(work.keys[low + place]))
        room.flags[place] = RESIDENT if hit else LOADED
        missed += not hit
    if missed:
        decide(plan, pools, work, row, room.flags, state.rules.stride)
    batch = loaded = 0
    for place in range(high - low):
        key, flag = work.keys[low + place], room.flags[place]
        if flag != ELSEWHERE:
            pools.batch[batch] = key
            batch += 1
            if flag == LOADED:
                loaded += 1
                book.loaded_bytes[phase] += plan.sizes[key]
        elif plan.instead == LOW:
            book.loaded_bytes[phase] += plan.instead_sizes[key]
        if flag != RESIDENT and not book.seen[key]:
            book.counter[COLD_MISSES] += 1
            book.seen[key] = True
        elif plan.refills:
            book.seen[key] = True
    passed_by = pools.served[pool, GONE]
    gone = use(pools, pool, batch)
    passed_by = pools.served[pool, GONE] - passed_by
    book.accesses[phase, layer] += high - low
    book.misses[phase, layer] += missed
    return missed, loaded, gone, gone - passed_by if plan.bypass else gone


@inner_loop_njit
def _look_below(plan, dram, work, row, room):  # type: ignore[no-untyped-def]
    """Ask the cache in DRAM for the misses; mark those that must come from storage (`Residency._from_storage`)."""
    low, high = work.starts[row], work.starts[row + 1]
    count = 0
    for flag in (LOADED, ELSEWHERE, ADMITTED):
        if flag == LOADED or plan.instead == ON_CPU:
            for place in range(high - low):
                if room.flags[place] == flag:
                    dram.batch[count] = work.keys[low + place]
                    count += 1
    if count:
        use(dram, np.int64(0), count)  # for a 0 as such it would be compiled once more
    count = 0
    for flag in (LOADED, ELSEWHERE, ADMITTED):
        for place in range(high - low):
            if room.flags[place] == flag:
                if flag == LOADED or plan.instead == ON_CPU:
                    room.stored[place] = dram.flags[count] != RESIDENT
                    count += 1
                elif plan.instead == LOW:
                    room.stored[place] = not is_resident(dram, 0, int(work.keys[low + place]))


@inner_loop_njit
def _price(state, costs, plan, work, row):  # type: ignore[no-untyped-def]
    """Work out what each expert of the batch takes on the GPU, and draws on the CPU (`Costs`)."""
    low, high, first = work.starts[row], work.starts[row + 1], work.layer[row] * state.rules.stride
    for i in range(low, high):
        key, used_by = int(work.keys[i]), work.tokens[i] if len(work.tokens) else 1
        read, operations = costs.expert_bytes[key] / costs.expert_bandwidth, costs.operations * used_by
        state.takes[key - first] = max(read, operations / costs.compute) + costs.overhead
    if plan.instead != ON_CPU:
        return
    for i in range(low, high):
        key, draws = int(work.keys[i]), costs.cpu_bandwidth
        size = state.cpu_bytes[key - first] = costs.cpu_bytes[key]
        if costs.cpu_compute < math.inf:  # else that is the rate itself, which dividing twice would round
            operations = costs.operations * (work.tokens[i] if len(work.tokens) else 1)
            draws = size / max(size / costs.cpu_bandwidth, operations / costs.cpu_compute)
        state.draws[key - first] = draws


@inner_loop_njit
def _in_memory(state, number):  # type: ignore[no-untyped-def]
    """Return whether an upload has come as far as the link from main memory to the GPU."""
    return state.transfers[number].link >= state.rules.storage


@inner_loop_njit
def _mark_late(state, plan, work, row, room):  # type: ignore[no-untyped-def]
    """Mark the hits that run on the CPU because their uploads are under way; return how many they are."""
    low, late = work.starts[row], 0
    if plan.meanwhile:
        for i in range(low, work.starts[row + 1]):
            if room.flags[i - low] == RESIDENT:
                number = state.flight[work.keys[i]]
                if number and state.transfers[number].purpose == BEHIND and _in_memory(state, number):
                    room.flags[i - low] = LATE
                    late += 1
    return late


@inner_loop_njit
def _use_hits(state, plan, work, row, book, room):  # type: ignore[no-untyped-def]
    """Compute what is there; wait for what is on its way (`Engine._use_hits`)."""
    low, first = work.starts[row], work.layer[row] * state.rules.stride
    for i in range(low, work.starts[row + 1]):
        if room.flags[i - low] == RESIDENT:
            key = int(work.keys[i])
            number, size = state.flight[key], plan.sizes[key]
            if number:  # from now on it is this layer's, whatever becomes of its place in the cache
                land(state, key)
                expect(state)
                take_used(book, key, True, size)
                state.transfers[number].purpose = TO_GPU
                promote(state, number)
            else:
                take_used(book, key, False, size)
                ready(state, key - first)
        elif room.flags[i - low] == LATE:  # main memory holds what is uploaded out of it
            key = int(work.keys[i])
            book.brought[book.unused[key], LATE_USES] += 1
            run_on_cpu(state, key, float(plan.sizes[key]), False, False)


@inner_loop_njit
def _evict(state, plan, pools, gone, book, for_prefetch):  # type: ignore[no-untyped-def]
    """Take note of what left the cache (`Engine._evict`)."""
    for i in range(gone):
        key = int(pools.evicted[i])
        if state.flight[key]:
            call_off(state, key)
        if for_prefetch or book.unused[key] != NOTHING:
            take_evicted(book, key, for_prefetch, plan.sizes[key])


@inner_loop_njit
def _start_misses(state, plan, pools, work, row, phase, book, room):  # type: ignore[no-untyped-def]
    """Ask for what is missing (`Engine._start_misses`)."""
    low, high = work.starts[row], work.starts[row + 1]
    for place in range(high - low):
        if room.flags[place] == LOADED:
            expect(state)
            key = int(work.keys[low + place])
            room.parts[place] = not load(state, key, float(plan.sizes[key]), room.stored[place], 0)
    for place in range(high - low):
        if room.flags[place] == ELSEWHERE:
            key = int(work.keys[low + place])
            if plan.instead == ON_CPU:
                run_on_cpu(state, key, float(plan.sizes[key]), room.stored[place], False)
            elif plan.instead == SUBSTITUTED:
                ready(state, key % state.rules.stride)
            elif plan.instead == LOW:
                expect(state)
                size = float(plan.instead_sizes[key])
                room.parts[place] = not load(state, key, size, room.stored[place], 0)
    if plan.admit:
        pool = pools.of_layer[work.layer[row]]
        for place in range(high - low):
            if room.flags[place] == ADMITTED:
                key = int(work.keys[low + place])
                stays = is_resident(pools, pool, key)
                number = run_on_cpu(state, key, float(plan.sizes[key]), room.stored[place], stays)
                if number and stays:
                    take_off(state, key, pool, number)
    for part in range(1, state.rules.stages):
        for flag in (LOADED, ELSEWHERE):
            if flag == LOADED or plan.instead == LOW:
                for place in range(high - low):
                    if room.flags[place] == flag and room.parts[place]:
                        key = int(work.keys[low + place])
                        size = float(plan.sizes[key] if flag == LOADED else plan.instead_sizes[key])
                        load(state, key, size, room.stored[place], part)
    open_stages(state)
    _count_misses(plan, work, row, phase, book, room)


@inner_loop_njit
def _count_misses(plan, work, row, phase, book, room):  # type: ignore[no-untyped-def]
    """Count what became of the misses (`Tally.count`)."""
    low, high = work.starts[row], work.starts[row + 1]
    given = 0.0
    for place in range(high - low):
        flag = room.flags[place]
        if flag != RESIDENT and flag != LATE:
            outcome = 0 if flag == LOADED else UPLOADED if flag == ADMITTED else plan.instead
            book.outcomes[outcome, phase] += 1
            if flag == ELSEWHERE and len(work.given):
                given += work.given[low + place]
            if book.displaced[work.keys[low + place]]:
                book.displaced[work.keys[low + place]] = False
                book.counter[DISPLACED_MISSED] += 1
    if len(work.given):
        book.shares[plan.instead, phase] += given
        book.tokens[phase] += work.use_tokens[row]


@inner_loop_njit
def _upload(state, plan, pool, key, stored, book, kind, purpose):  # type: ignore[no-untyped-def]
    """Bring an expert of a pool to the GPU behind everything urgent (`Engine._upload`)."""
    size = plan.sizes[key]
    take_brought(book, key, size, kind)
    if state.rules.ahead:
        state.clock[0].host += state.rules.miss
    if state.flight[key] == 0:  # else it is being read, and goes on by itself
        number = fetch(state, key, float(size), stored, PREFETCH, purpose, -1)
        take_off(state, key, pool, number)


@inner_loop_njit
def _upload_admitted(state, plan, pools, work, row, book, room):  # type: ignore[no-untyped-def]
    """Upload what is admitted and stayed in the cache, most tokens first (`Engine._admit`)."""
    low, pool = work.starts[row], pools.of_layer[work.layer[row]]
    size = work.starts[row + 1] - low
    while True:
        place = most_used(work, low, room.flags, size, ADMITTED)
        if place < 0:
            return
        room.flags[place] = ELSEWHERE
        key = int(work.keys[low + place])
        if is_resident(pools, pool, key):
            _upload(state, plan, pool, key, False, book, AS_ADMITTED, BEHIND)


@inner_loop_njit
def _upload_all(state, plan, pools, dram, pool, experts, book):  # type: ignore[no-untyped-def]
    """Upload what the policy of a pool has loaded of its own accord; ``experts`` are numbers in the pool."""
    for expert in experts:
        key = int(pools.first_key[pool] + expert)
        stored = False
        if dram is not None:
            dram.batch[0] = key
            use(dram, np.int64(0), np.int64(1))
            stored = dram.flags[0] != RESIDENT
        state.clock[0].pending += not state.rules.overlap
        _upload(state, plan, pool, key, stored, book, REPINNED, BEHIND if state.rules.overlap else BEFORE)


@inner_loop_njit
def _repin(state, plan, pools, dram, emptied, book):  # type: ignore[no-untyped-def]
    """Upload what the policy has loaded before a step: after a pass, or as the cache was emptied (`Engine._repin`)."""
    clock = state.clock[0]
    clock.pending = clock.resume = 0
    for pool in range(len(pools.first_key)):
        if emptied:
            _upload_all(state, plan, pools, dram, pool, pools.pinned[pool, : pools.pins[pool]], book)
        if pools.policy == REPIN:
            came = pools.counter[pool, FILLING]
            _upload_all(state, plan, pools, dram, pool, pools.missed[pool, :came], book)
    await_pending(state)


@inner_loop_njit
def _prefetch(state, plan, pools, dram, work, row, book, room):  # type: ignore[no-untyped-def]
    """Bring ahead what is proposed, if it is not there and room can be made (`Engine._prefetch`)."""
    stride, first_ring = state.rules.stride, len(state.flight)
    batch = work.keys[work.starts[row] : work.starts[row + 1]]
    mine, guarded = pools.of_layer[work.layer[row]], 0
    first = layer = pool = -stride
    for i in range(work.ahead_starts[row], work.ahead_starts[row + 1]):
        key = int(work.ahead[i])
        if not first <= key < first + stride:
            layer = key // stride
            first, pool = layer * stride, pools.of_layer[layer]
        if is_resident(pools, pool, key):
            continue
        if pools.protected[pool] < 0:
            guard(pools, pool, batch if pool == mine else batch[:0], state.flying, first_ring + pool)
            room.guarded[guarded] = pool
            guarded += 1
        gone = bring_ahead(pools, pool, key)
        if gone < 0:
            continue
        _evict(state, plan, pools, gone, book, True)
        take_brought(book, key, plan.sizes[key], PREFETCHED)
        stored = False
        if dram is not None:
            dram.batch[0] = key
            use(dram, np.int64(0), np.int64(1))
            stored = dram.flags[0] != RESIDENT
        if state.rules.ahead:
            state.clock[0].host += state.rules.miss
        number = fetch(state, key, float(plan.sizes[key]), stored, PREFETCH, AHEAD, -1)
        take_off(state, key, pool, number)
    for i in range(guarded):
        pool = room.guarded[i]
        unguard(pools, pool, batch if pool == mine else batch[:0], state.flying, first_ring + pool)


@inner_loop_njit
def _layer_step(state, costs, plan, pools, dram, work, row, step, book, room):  # type: ignore[no-untyped-def]
    clock, phase, layer = state.clock[0], work.phase[step], work.layer[row]
    moved = book.loaded_bytes[phase]
    missed, loaded, gone, evictions = _look_up(state, plan, pools, work, row, phase, book, room)
    moved = book.loaded_bytes[phase] - moved
    if dram is not None and missed:
        _look_below(plan, dram, work, row, room)
    _price(state, costs, plan, work, row)
    lesser = missed - loaded if plan.instead == LOW else 0  # copies of low precision
    asked = loaded + lesser
    dense = dense_seconds(
        costs.parts, costs.first[layer], costs.first[layer + 1], costs.bandwidth, costs.compute, costs.overhead,
        work.sizes[step],
    )  # fmt: skip
    first, others = (
        state.rules.miss * asked,
        0.0,
    )  # of asking for transfers, before they begin and beside them (`Host.asks`)
    if state.rules.ahead and asked:
        first, others = state.rules.miss, state.rules.miss * (asked - 1)
    books, beside = state.rules.layer_overhead + first, 0.0
    if state.rules.byte or state.rules.eviction or state.rules.cpu_layer:
        if plan.instead == ON_CPU and missed > loaded:
            books += state.rules.cpu_layer
        more = state.rules.byte * moved
        more += state.rules.eviction * evictions
        if state.rules.beside:
            beside = more
        else:
            books += more
    books += host_delay(state, clock.now + dense, state.rules.launch_layer)
    clock.compute += dense
    clock.overhead += books + beside
    if dense + books > 0:
        pass_seconds(state, dense + books)
    late = _mark_late(state, plan, work, row, room)
    if late and missed == loaded and state.rules.cpu_layer:
        clock.overhead += state.rules.cpu_layer
        pass_seconds(state, state.rules.cpu_layer)
    clock.gpu = clock.now + beside
    clock.host = clock.gpu + others
    on_device = work.starts[row + 1] - work.starts[row] - late
    if plan.instead in (ON_CPU, SKIPPED):
        on_device -= missed - loaded
    clock.launched = clock.host + (state.rules.launch * on_device if state.rules.overlap else 0.0)
    begin_layer(state, layer)
    _use_hits(state, plan, work, row, book, room)
    _evict(state, plan, pools, gone, book, False)
    _start_misses(state, plan, pools, work, row, phase, book, room)
    if plan.admit:
        _upload_admitted(state, plan, pools, work, row, book, room)
    if len(work.ahead_starts):
        _prefetch(state, plan, pools, dram, work, row, book, room)
    await_pending(state)
    compute_held(state)
    if clock.gpu > clock.now:
        pass_seconds(state, clock.gpu - clock.now)
    clock.host = max(clock.host, clock.cpu_free)


@inner_loop_njit
def _change_request(state, plan, pools, request, book):  # type: ignore[no-untyped-def]
    """Empty the caches, and call off all prefetches (`Engine._forget_prefetches`)."""
    empty_pools(pools, request)
    first_ring = len(state.flight)
    for ring in range(first_ring, first_ring + len(pools.first_key)):
        while state.flying[0, ring] != ring:
            call_off(state, state.flying[0, ring])
    take_emptied(book, plan.sizes)
    book.seen[:] = False


@inner_loop_njit
def _run_steps(begin, cold, state, costs, plan, pools, dram, work, book, room, steps):  # type: ignore[no-untyped-def]  # fmt: skip
    """Run the steps of a block in time; see `run_event_steps`."""
    clock = state.clock[0]
    for step in range(begin, len(work.request)):
        if clock.free < work.transfers[step] or clock.now >= clock.until:
            return step
        start, compute, overhead, cpu = clock.now, clock.compute, clock.overhead, clock.cpu
        clock.host = start  # it waited for the token before
        pinned_anew = False
        if work.request[step] != book.counter[REQUEST]:
            if cold:
                _change_request(state, plan, pools, work.request[step], book)
                pinned_anew = plan.refills and book.counter[REQUEST] >= 0
            book.counter[REQUEST] = work.request[step]
        if pools.policy == REPIN:
            for pool in range(len(pools.first_key)):
                _evict(state, plan, pools, begin_step(pools, pool, work.number[step]), book, False)
        for link in range(state.rules.links):
            room.moved[link] = moved(state, link)
        if pinned_anew or pools.policy == REPIN:
            _repin(state, plan, pools, dram, pinned_anew, book)
        for row in range(work.first[step], work.first[step + 1]):
            _layer_step(state, costs, plan, pools, dram, work, row, step, book, room)
        after = output_seconds(costs, work.sizes[step])
        late = host_delay(state, clock.now + after, state.rules.launch)
        clock.overhead += late
        if after + late > 0:
            pass_seconds(state, after + late)
            clock.compute += after
        for link in range(state.rules.links):
            book.moved[link, work.phase[step]] += moved(state, link) - room.moved[link]
        steps[step, 0], steps[step, 1] = start, clock.now
        steps[step, 2] = clock.compute - compute
        steps[step, 3] = clock.overhead - overhead
        steps[step, 4] = clock.cpu - cpu
    return len(work.request)


@loop_njit
def run_event_steps(begin, cold, state, costs, plan, pools, dram, work, book, room, steps):  # type: ignore[no-untyped-def]  # fmt: skip
    """Run the steps of a block in time.

    Args:
        begin: the first step that is to be run.
        cold: whether the cache is emptied when the request changes.
        state: `EventState`, advanced in place.
        costs: `CostTable`.
        plan: `Plan`.
        pools: `QueuePools` of the cache.
        dram: `QueuePools` of one pool, the cache in DRAM; None: DRAM holds all experts.
        work: `Work`.
        book: `Book`, advanced in place.
        room: `Room`.
        steps: float64 [steps, 5], filled in: begin, end, compute, overhead, CPU.

    Returns:
        How many steps have been run: all of them, or those before one that may need more room for transfers, or that
        would begin too late (``until`` of the clock).
    """
    return _run_steps(
        begin,
        cold,
        by_reference(state),
        by_reference(costs),
        by_reference(plan),
        by_reference(pools),
        by_reference(dram),
        by_reference(work),
        by_reference(book),
        by_reference(room),
        steps,
    )


@loop_njit
def run_idle(state, seconds):  # type: ignore[no-untyped-def]
    """Let time pass in which no request is there, but prefetches move."""
    pass_seconds(by_reference(state), seconds)
