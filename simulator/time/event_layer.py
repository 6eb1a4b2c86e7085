"""The running layer-step of the compiled event loop: what its experts wait for, and what computes them."""

from __future__ import annotations

from lrcsim.simulator.compiled.uncounted import inner_loop_njit
from lrcsim.simulator.time.event_links import next_turn, promote, set_timer, start_flow, submit
from lrcsim.simulator.time.event_state import BEGIN_ON_CPU, CPU, READ_BEHIND, TO_CPU, TO_GPU
from lrcsim.simulator.time.links import DEMAND


@inner_loop_njit
def host_delay(state, ready, takes):  # type: ignore[no-untyped-def]
    """Launch something in ``takes`` seconds; return how long the device waits for that (`Host.delay`)."""
    if not state.rules.ahead:
        return 0.0
    clock = state.clock[0]
    clock.host += takes
    return max(clock.host - ready, 0.0)


@inner_loop_njit
def _compute(state, expert):  # type: ignore[no-untyped-def]
    """Compute an expert of the running layer, or one of its tensors, when the GPU is free (`Engine._compute`)."""
    clock = state.clock[0]
    begin = max(clock.gpu, clock.now)
    late = host_delay(state, begin, state.rules.launch)
    begin += late
    clock.overhead += late
    seconds = state.takes[expert] / state.rules.stages
    clock.gpu = begin + seconds
    clock.compute += seconds


@inner_loop_njit
def begin_layer(state, layer):  # type: ignore[no-untyped-def]
    """Forget the layer-step before."""
    clock = state.clock[0]
    clock.layer, clock.pending, clock.resume, clock.held = layer, 0, 0, 0
    clock.stage = clock.residents = 0
    state.missing[:] = 0
    state.arrived[:, -1] = 0


@inner_loop_njit
def ready(state, expert):  # type: ignore[no-untyped-def]
    """Compute an expert that is there: now, or when all are, without overlap (`Engine._ready`)."""
    clock = state.clock[0]
    if state.rules.overlap:
        state.residents[clock.residents] = expert
        clock.residents += 1
        _compute(state, expert)
    else:
        state.held[clock.held] = expert
        clock.held += 1


@inner_loop_njit
def compute_held(state):  # type: ignore[no-untyped-def]
    """Compute what has waited for all the others, without overlap."""
    clock = state.clock[0]
    if clock.held:
        clock.host = max(clock.now, clock.host)
        for i in range(clock.held):
            _compute(state, state.held[i])


@inner_loop_njit
def expect(state):  # type: ignore[no-untyped-def]
    """Wait for an expert that is to come to the GPU (`Engine._expect`)."""
    state.clock[0].pending += state.rules.stages
    for stage in range(state.rules.stages):
        state.missing[stage] += 1


@inner_loop_njit
def open_stages(state):  # type: ignore[no-untyped-def]
    """Open the next stages, as long as all of one have arrived (`Stages.advance`)."""
    clock = state.clock[0]
    while clock.stage + 1 < state.rules.stages and state.missing[clock.stage] == 0:
        clock.stage += 1
        for i in range(clock.residents):
            _compute(state, state.residents[i])
        came = state.arrived[clock.stage]
        for i in range(came[-1]):
            _compute(state, came[i])


@inner_loop_njit
def wait_less(state, number):  # type: ignore[no-untyped-def]
    """Wait for so much less; with nothing left the layer-step goes on in its turn (`Engine._done`)."""
    clock = state.clock[0]
    clock.pending -= number
    if clock.pending == 0:
        clock.resume = next_turn(clock)


@inner_loop_njit
def arrived_on_gpu(state, expert, part):  # type: ignore[no-untyped-def]
    """Take an expert of the running layer that has come, or one of its tensors (`Engine._loaded`)."""
    clock = state.clock[0]
    if not state.rules.overlap:
        state.held[clock.held] = expert
        clock.held += 1
    else:
        for one in range(state.rules.stages):
            if part in (-1, one):
                state.missing[one] -= 1
                if one == clock.stage:
                    _compute(state, expert)
                else:
                    came = state.arrived[one]
                    came[came[-1]] = expert
                    came[-1] += 1
        open_stages(state)
    wait_less(state, state.rules.stages if part < 0 else 1)


@inner_loop_njit
def _next_on_cpu(state):  # type: ignore[no-untyped-def]
    """Begin the next expert of the CPU (`CpuQueue._next`)."""
    clock = state.clock[0]
    clock.cpu_busy = clock.cpu_first < clock.cpu_end
    if not clock.cpu_busy:
        return
    expert = state.on_cpu[clock.cpu_first]
    clock.cpu_first += 1
    clock.cpu_begin = clock.now
    clock.cpu_rate = state.draws[expert]
    start_flow(state, CPU, state.cpu_bytes[expert], state.rules.cpu_overhead)


@inner_loop_njit
def begin_on_cpu(state, expert):  # type: ignore[no-untyped-def]
    """Hand an expert of the running layer over to the CPU."""
    clock = state.clock[0]
    if not clock.cpu_busy and clock.cpu_first == clock.cpu_end:
        clock.cpu_first = clock.cpu_end = 0
    state.on_cpu[clock.cpu_end] = expert
    clock.cpu_end += 1
    if not clock.cpu_busy:
        _next_on_cpu(state)


@inner_loop_njit
def compute_on_cpu(state, expert):  # type: ignore[no-untyped-def]
    """The same, once a host that launches ahead and computes itself has launched (`Engine._compute_on_cpu`)."""
    clock = state.clock[0]
    if state.rules.ahead and clock.launched > clock.now:
        set_timer(state, clock.launched - clock.now, BEGIN_ON_CPU, expert)
    else:
        begin_on_cpu(state, expert)


@inner_loop_njit
def computed_on_cpu(state):  # type: ignore[no-untyped-def]
    """Take note that the CPU is through with its expert, and begin the next."""
    clock = state.clock[0]
    clock.cpu += clock.now - clock.cpu_begin
    clock.cpu_free = clock.now
    wait_less(state, 1)
    _next_on_cpu(state)


@inner_loop_njit
def fetch(state, key, size, from_storage, priority, purpose, part):  # type: ignore[no-untyped-def]
    """Bring an expert to the GPU, or for the CPU from storage to DRAM only (`Engine._fetch`); return the transfer.

    Args:
        state: the state.
        rules: the state.rules.
        key: the expert.
        size: bytes.
        from_storage: whether DRAM does not hold it.
        priority: `DEMAND` or `PREFETCH`.
        purpose: `TO_GPU` ...
        part: which of its tensors this is; -1: all.
    """
    clock = state.clock[0]
    last = state.rules.storage - 1 if purpose in (TO_CPU, READ_BEHIND) else state.rules.links - 1
    number = state.reads[key]
    if number:  # it is on its way to DRAM already
        state.reads[key] = 0
        read = state.transfers[number]
        read.last, read.next_size, read.purpose = last, size, purpose
        if priority == DEMAND:
            promote(state, number)
        return number
    clock.free -= 1
    number = state.free[clock.free]
    transfer = state.transfers[number]
    transfer.left = transfer.whole = transfer.next_size = size
    transfer.key, transfer.part, transfer.priority, transfer.purpose = key, part, priority, purpose
    transfer.pieces = 1 if part < 0 else state.rules.stages
    transfer.link = 0 if from_storage or state.rules.storage == state.rules.links else state.rules.storage
    transfer.last, transfer.cancelled = last, 0
    submit(state, number)
    return number


@inner_loop_njit
def load(state, key, size, from_storage, part):  # type: ignore[no-untyped-def]
    """Put a tensor of an expert on its way to the GPU; return whether it is the whole expert (`Engine._load`)."""
    whole = state.rules.stages == 1 or state.reads[key] != 0
    if not whole:
        size /= state.rules.stages
    fetch(state, key, size, from_storage, DEMAND, TO_GPU, -1 if whole else part)
    return whole


@inner_loop_njit
def run_on_cpu(state, key, size, from_storage, uploaded):  # type: ignore[no-untyped-def]
    """Compute an expert on the CPU, once it is in DRAM, whence it may be uploaded (`Engine._run_on_cpu`).

    Returns:
        The transfer that reads it from storage; 0 where none does.
    """
    state.clock[0].pending += 1
    if from_storage or state.reads[key] or state.rules.storage == state.rules.links:
        return fetch(state, key, size, True, DEMAND, READ_BEHIND if uploaded else TO_CPU, -1)
    compute_on_cpu(state, key % state.rules.stride)
    return 0
