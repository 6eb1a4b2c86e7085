"""What happens next in the compiled event loop: the clock, and what has come to its end."""

from __future__ import annotations

import math

from lrcsim.simulator.compiled.uncounted import inner_loop_njit
from lrcsim.simulator.time.event_layer import arrived_on_gpu, begin_on_cpu, compute_on_cpu, computed_on_cpu, wait_less
from lrcsim.simulator.time.event_links import begin_flow, cancel, end_chunk, end_flows, end_latency, next_turn, release
from lrcsim.simulator.time.event_links import submit as submit_leg
from lrcsim.simulator.time.event_state import (
    AHEAD,
    BEFORE,
    BEGIN_FLOW,
    BEHIND,
    CPU,
    FOR_NOBODY,
    READ_BEHIND,
    TO_CPU,
    TO_GPU,
)
from lrcsim.simulator.time.links import PREFETCH

END, TIMER = -1, -2
"""What `_earliest` says: the end of a flow, or a timer; else a link, whose latency a transfer has waited for."""


@inner_loop_njit
def land(state, key):  # type: ignore[no-untyped-def]
    """Take an expert out of the ring of prefetches and uploads under way."""
    state.flight[key] = 0
    after, before = state.flying[0, key], state.flying[1, key]
    state.flying[0, before], state.flying[1, after] = after, before


@inner_loop_njit
def take_off(state, key, pool, number):  # type: ignore[no-untyped-def]
    """Put an expert of a pool into its ring."""
    ring = len(state.flight) + pool
    last = state.flying[1, ring]
    state.flight[key] = number
    state.flying[0, key], state.flying[1, key] = ring, last
    state.flying[0, last] = state.flying[1, ring] = key


@inner_loop_njit
def call_off(state, key):  # type: ignore[no-untyped-def]
    """Cancel a prefetch, but for what goes from storage to DRAM: that counts as being there (`Engine._cancel`)."""
    number = state.flight[key]
    land(state, key)
    transfer = state.transfers[number]
    if state.rules.storage < state.rules.links and transfer.link < state.rules.storage:
        transfer.last, transfer.purpose = state.rules.storage - 1, FOR_NOBODY
        state.reads[key] = number
    else:
        cancel(state, number)


@inner_loop_njit
def _arrived(state, number):  # type: ignore[no-untyped-def]
    """Go on with an expert that has come over a link: over the next one, or to its purpose (`Fetch._arrived`)."""
    transfer = state.transfers[number]
    if transfer.link < transfer.last:
        transfer.link += 1
        transfer.left = transfer.whole = transfer.next_size
        submit_leg(state, number)
        return
    key, purpose, part = transfer.key, transfer.purpose, transfer.part
    if purpose == READ_BEHIND:  # it is in DRAM now, and goes on to the GPU (`Engine._on_cpu_and_up`)
        compute_on_cpu(state, key % state.rules.stride)
        transfer.purpose, transfer.priority, transfer.last = BEHIND, PREFETCH, state.rules.links - 1
        transfer.link += 1
        transfer.left = transfer.whole = transfer.next_size
        submit_leg(state, number)
        return
    release(state, number)
    if purpose == TO_GPU:
        arrived_on_gpu(state, key - state.clock[0].layer * state.rules.stride, part)
    elif purpose == TO_CPU:
        compute_on_cpu(state, key % state.rules.stride)
    elif purpose in (AHEAD, BEHIND):
        land(state, key)
    elif purpose == BEFORE:
        land(state, key)
        wait_less(state, 1)
    else:
        state.reads[key] = 0


@inner_loop_njit
def _earliest(state):  # type: ignore[no-untyped-def]
    """Return when the next thing happens, in which turn, what it is, and of a timer its place."""
    clock = state.clock[0]
    time, turn, what, place = clock.end, clock.end_turn, END, 0
    for i in range(clock.timers):
        timer = state.timers[i]
        if timer.time < time or (timer.time == time and timer.turn < turn):
            time, turn, what, place = timer.time, timer.turn, TIMER, i
    for here in range(state.rules.links):
        link = state.links[here]
        if link.latent:
            first = state.latent_time[here, link.first_latent]
            its_turn = state.latent_turn[here, link.first_latent]
            if first < time or (first == time and its_turn < turn):
                time, turn, what, place = first, its_turn, here, 0
    return time, turn, what, place


@inner_loop_njit
def _happen(state, time, what, place):  # type: ignore[no-untyped-def]
    """Let the next thing happen."""
    clock = state.clock[0]
    clock.now = time
    if what == END:
        for i in range(end_flows(state)):
            number = state.ended[i]
            if number == CPU:
                computed_on_cpu(state)
            elif end_chunk(state, number):
                _arrived(state, number)
    elif what == TIMER:
        begins, which = state.timers[place].what, state.timers[place].which
        clock.timers -= 1
        last, freed = state.timers[clock.timers], state.timers[place]
        freed.time, freed.turn, freed.what, freed.which = last.time, last.turn, last.what, last.which
        if begins == BEGIN_FLOW:
            begin_flow(state, which)
        else:
            begin_on_cpu(state, which)
    else:
        end_latency(state, what)


@inner_loop_njit
def _pass_until(state, until, turn):  # type: ignore[no-untyped-def]
    """Let all happen that comes before a turn at a time."""
    while True:
        time, its_turn, what, place = _earliest(state)
        if time > until or (time == until and its_turn > turn):
            break
        _happen(state, time, what, place)
    state.clock[0].now = until


@inner_loop_njit
def pass_seconds(state, seconds):  # type: ignore[no-untyped-def]
    """Let time pass."""
    clock = state.clock[0]
    _pass_until(state, clock.now + seconds, next_turn(clock))


@inner_loop_njit
def await_pending(state):  # type: ignore[no-untyped-def]
    """Let time pass until nothing that the layer-step waits for is still to come."""
    clock = state.clock[0]
    if clock.pending == 0:
        return
    while clock.resume == 0:
        time, _, what, place = _earliest(state)
        if time == math.inf:  # cannot be: what is pending is under way
            raise RuntimeError("nothing is under way")
        _happen(state, time, what, place)
    _pass_until(state, clock.now, clock.resume)
