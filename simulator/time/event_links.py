"""The links of the compiled event loop, and the bandwidth that they share: `links` and `bandwidth` in numbers."""

from __future__ import annotations

import math

from lrcsim.simulator.compiled.uncounted import inner_loop_njit, loop_njit
from lrcsim.simulator.time.bandwidth import TOGETHER
from lrcsim.simulator.time.compiled_loop import copies_before
from lrcsim.simulator.time.event_state import BEGIN_FLOW, CPU, LATENT, MOVING, NOWHERE, WAITING
from lrcsim.simulator.time.links import DEMAND, PREFETCH


@inner_loop_njit
def next_turn(clock):  # type: ignore[no-untyped-def]
    """Return a place among what happens at the same moment: behind all that was asked for before."""
    clock.turn += 1
    return clock.turn


@inner_loop_njit
def set_timer(state, seconds, what, which):  # type: ignore[no-untyped-def]
    """Let something begin so many seconds from now."""
    clock = state.clock[0]
    timer = state.timers[clock.timers]
    timer.time, timer.turn, timer.what, timer.which = clock.now + seconds, next_turn(clock), what, which
    clock.timers += 1


@inner_loop_njit
def _settle(state):  # type: ignore[no-untyped-def]
    """Bring the bytes that are left up to date (`Flows._settle`)."""
    clock = state.clock[0]
    passed = clock.now - clock.settled
    if passed > 0:
        for i in range(clock.flows):
            flow = state.transfers[state.active[i]]
            flow.flow -= flow.rate * passed
    clock.settled = clock.now


@inner_loop_njit
def _share(state):  # type: ignore[no-untyped-def]
    """Set all rates, and when the next flow ends (`Flows._share`)."""
    clock = state.clock[0]
    clock.end = math.inf
    if clock.flows == 0:
        return
    wanted = 0.0
    for i in range(clock.flows):
        number = state.active[i]
        flow = state.transfers[number]
        if number == CPU:
            flow.rate = clock.cpu_rate
        else:
            link = state.links[flow.link]
            flow.rate = min(link.bandwidth / link.flows, link.lane)
        wanted += flow.rate
    slower = state.rules.dram / wanted if wanted > state.rules.dram else 1.0
    first = math.inf
    for i in range(clock.flows):
        flow = state.transfers[state.active[i]]
        flow.rate *= slower
        first = min(first, flow.flow / flow.rate)
    clock.end_after = max(first, 0.0)
    clock.end = clock.now + clock.end_after
    clock.end_turn = next_turn(clock)


@inner_loop_njit
def begin_flow(state, number):  # type: ignore[no-untyped-def]
    """Let the chunk of a transfer, or the expert on the CPU, flow from now on."""
    clock = state.clock[0]
    _settle(state)
    state.active[clock.flows] = number
    clock.flows += 1
    if number != CPU:
        state.links[state.transfers[number].link].flows += 1
    _share(state)


@inner_loop_njit
def start_flow(state, number, size, overhead):  # type: ignore[no-untyped-def]
    """Let so many bytes flow now, or ``overhead`` seconds from now (`Flows.start`)."""
    flow = state.transfers[number]
    flow.flow, flow.rate = size, 0.0
    if overhead > 0:
        set_timer(state, overhead, BEGIN_FLOW, number)
    else:
        begin_flow(state, number)


@inner_loop_njit
def end_flows(state):  # type: ignore[no-untyped-def]
    """End the flows that end now; return how many, the first in ``state.ended`` (`Flows._end`)."""
    clock = state.clock[0]
    count = kept = 0
    for i in range(clock.flows):
        number = state.active[i]
        flow = state.transfers[number]
        if flow.flow / flow.rate <= clock.end_after * (1 + TOGETHER):
            state.ended[count] = number
            count += 1
    _settle(state)
    for i in range(clock.flows):
        number = state.active[i]
        if i - kept < count and state.ended[i - kept] == number:  # they stand in the same order
            if number != CPU:
                state.links[state.transfers[number].link].flows -= 1
        else:
            state.active[kept] = number
            kept += 1
    clock.flows = kept
    _share(state)
    return count


@inner_loop_njit
def _stands(state, queue, at):  # type: ignore[no-untyped-def]
    """Return whether a transfer still waits where it stands in a queue."""
    transfer = state.transfers[state.waiting[queue, at]]
    return (
        transfer.where == WAITING
        and transfer.order == state.waiting_order[queue, at]
        and 2 * transfer.link + transfer.priority == queue
    )


@inner_loop_njit
def _first_waiting(state, queue):  # type: ignore[no-untyped-def]
    """Return the first transfer of a queue, 0 where there is none."""
    bounds = state.queue[queue]
    while bounds[0] < bounds[1]:
        if _stands(state, queue, bounds[0]):
            return state.waiting[queue, bounds[0]]
        bounds[0] += 1
    return 0


@inner_loop_njit
def _close_up(state, queue):  # type: ignore[no-untyped-def]
    """Move those of a queue that still wait to its front: there is no room behind."""
    numbers, orders, bounds = state.waiting[queue], state.waiting_order[queue], state.queue[queue]
    end = 0
    for at in range(bounds[0], bounds[1]):
        if _stands(state, queue, at):
            numbers[end], orders[end] = numbers[at], orders[at]
            end += 1
    bounds[0], bounds[1] = 0, end


@inner_loop_njit
def _line_up(state, number):  # type: ignore[no-untyped-def]
    """Put a transfer into a queue of its link, at its old place where it has been there before."""
    transfer = state.transfers[number]
    queue = 2 * transfer.link + transfer.priority
    numbers, orders, bounds = state.waiting[queue], state.waiting_order[queue], state.queue[queue]
    transfer.where = WAITING
    if bounds[0] > 0 and bounds[0] < bounds[1] and transfer.order < orders[bounds[0]]:
        bounds[0] -= 1
        numbers[bounds[0]], orders[bounds[0]] = number, transfer.order
        return
    if bounds[1] == len(numbers):
        _close_up(state, queue)
    at = bounds[1]
    while at > bounds[0] and transfer.order < orders[at - 1]:
        numbers[at], orders[at] = numbers[at - 1], orders[at - 1]
        at -= 1
    numbers[at], orders[at] = number, transfer.order
    bounds[1] += 1


@inner_loop_njit
def release(state, number):  # type: ignore[no-untyped-def]
    """Let a transfer's place be used again."""
    clock = state.clock[0]
    state.transfers[number].where = NOWHERE
    state.free[clock.free] = number
    clock.free += 1


@inner_loop_njit
def _move_chunk(state, number):  # type: ignore[no-untyped-def]
    """Move the next chunk (`LinkServer._chunk`)."""
    transfer = state.transfers[number]
    link = state.links[transfer.link]
    size = min(transfer.left, link.chunk)
    copies = 1
    if transfer.left == transfer.whole:
        copies = copies_before(link.copies, transfer.pieces, transfer.whole, link.chunk)
    transfer.left -= size
    transfer.where = MOVING
    link.bytes += size
    start_flow(state, number, size, link.overhead * copies)


@inner_loop_njit
def _dispatch(state, here):  # type: ignore[no-untyped-def]
    link = state.links[here]
    while link.taken < link.lanes:
        queue = 2 * here + DEMAND
        number = _first_waiting(state, queue)
        if number == 0:
            queue = 2 * here + PREFETCH
            number = _first_waiting(state, queue)
            if number == 0:
                return
        state.queue[queue, 0] += 1
        if link.taken == 0:
            link.busy_since = state.clock[0].now
        link.taken += 1
        _move_chunk(state, number)


@inner_loop_njit
def submit(state, number):  # type: ignore[no-untyped-def]
    """Ask for a transfer over its link now (`LinkServer.submit`)."""
    clock, transfer = state.clock[0], state.transfers[number]
    here = transfer.link
    link = state.links[here]
    link.submitted += 1
    transfer.order = link.submitted
    if link.latency > 0:
        at = (link.first_latent + link.latent) % state.latent.shape[1]
        state.latent[here, at] = number
        state.latent_time[here, at] = clock.now + link.latency
        state.latent_turn[here, at] = next_turn(clock)
        link.latent += 1
        transfer.where = LATENT
    else:
        _line_up(state, number)
        _dispatch(state, here)


@inner_loop_njit
def end_latency(state, here):  # type: ignore[no-untyped-def]
    """Let the first transfer that has waited for a link's latency join its queue."""
    link = state.links[here]
    number = state.latent[here, link.first_latent]
    link.first_latent = (link.first_latent + 1) % state.latent.shape[1]
    link.latent -= 1
    if state.transfers[number].cancelled:
        release(state, number)
    else:
        _line_up(state, number)
        _dispatch(state, here)


@inner_loop_njit
def promote(state, number):  # type: ignore[no-untyped-def]
    """Make a prefetch urgent: its layer has come."""
    transfer = state.transfers[number]
    if transfer.priority != DEMAND:
        transfer.priority = DEMAND
        if transfer.where == WAITING:
            _line_up(state, number)


@inner_loop_njit
def cancel(state, number):  # type: ignore[no-untyped-def]
    """Let nothing more of a transfer start."""
    transfer = state.transfers[number]
    transfer.cancelled = 1
    if transfer.where == WAITING:
        release(state, number)


@inner_loop_njit
def end_chunk(state, number):  # type: ignore[no-untyped-def]
    """Go on after a chunk (`LinkServer._arrived`); return whether the transfer is through, and still wanted."""
    transfer = state.transfers[number]
    here = transfer.link
    link = state.links[here]
    cancelled = transfer.cancelled != 0
    over = transfer.left == 0 or cancelled
    if not over and (transfer.priority == DEMAND or _first_waiting(state, 2 * here + DEMAND) == 0):
        _move_chunk(state, number)
        return False
    link.taken -= 1
    if link.taken == 0:
        link.busy += state.clock[0].now - link.busy_since
    if not over:
        _line_up(state, number)
    _dispatch(state, here)
    if cancelled:
        release(state, number)
    return over and not cancelled


@loop_njit
def moved(state, here):  # type: ignore[no-untyped-def]
    """Return the bytes that have moved over a link until now: of chunks under way only what has passed."""
    clock = state.clock[0]
    under_way = 0.0
    passed = clock.now - clock.settled
    for i in range(clock.flows):
        number = state.active[i]
        flow = state.transfers[number]
        if number != CPU and flow.link == here:
            under_way += max(flow.flow - flow.rate * passed, 0.0)
    for i in range(clock.timers):
        timer = state.timers[i]
        if timer.what == BEGIN_FLOW and timer.which != CPU and state.transfers[timer.which].link == here:
            under_way += state.transfers[timer.which].flow
    return state.links[here].bytes - under_way


@loop_njit
def busy_seconds(state, here):  # type: ignore[no-untyped-def]
    """Return the seconds with at least one lane of a link taken, until now."""
    link = state.links[here]
    return link.busy + (state.clock[0].now - link.busy_since if link.taken else 0.0)
