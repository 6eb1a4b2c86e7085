"""What the compiled event loop keeps: transfers, links, flows and the layer-step that runs, as arrays of records.

The loop is `lrcsim.simulator.time.engine` again, event by event, in numbers: what happens at the same moment happens in
the order in which it was asked for, as SimPy has it, and every sum is made in the same order. Two engines that take the
same decisions at the same moments then agree in every count.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.hardware import HardwareProfile
from lrcsim.runtimes import Runtime
from lrcsim.simulator.setup.costs import CostTable
from lrcsim.simulator.time.host import launches

CPU = 0
"""Place of the CPU's flow among the transfers."""

LATENT, WAITING, MOVING, NOWHERE = range(4)
"""Where a transfer is: on its way to the link's queue, in it, on a lane; or not in use."""

TO_GPU, TO_CPU, AHEAD, FOR_NOBODY, BEHIND, READ_BEHIND, BEFORE = range(7)
"""What an expert is brought for: the running layer-step on the GPU, or on the CPU; a later one, foreseen; none any
more; later uses, as an upload; the CPU now, then as an upload; the step that is about to begin, which waits for it."""

BEGIN_FLOW, BEGIN_ON_CPU = range(2)
"""What a timer begins: a flow, or an expert on the CPU."""

TRANSFER = np.dtype(
    [
        ("left", "f8"),  # bytes that no chunk has taken up yet
        ("whole", "f8"),  # bytes in all, on this link (numpy has a `size` of its own)
        ("next_size", "f8"),  # bytes on the links to come
        ("flow", "f8"),  # bytes of its chunk that have still to move
        ("rate", "f8"),  # bytes/s at the moment
        ("order", "i8"),  # place among those of equal priority
        ("key", "i8"),  # layer * E + expert
        ("link", "i8"),  # the link it is on
        ("last", "i8"),  # the last one of its way
        ("part", "i8"),  # which of the expert's tensors it is, -1: all
        ("pieces", "i8"),  # how many transfers the expert is
        ("priority", "i8"),  # `DEMAND` or `PREFETCH`
        ("where", "i8"),  # `LATENT` ...
        ("purpose", "i8"),  # `TO_GPU` ...
        ("cancelled", "i8"),  # the rest is not wanted any more
    ]
)

LINK = np.dtype(
    [
        ("bandwidth", "f8"),
        ("latency", "f8"),
        ("overhead", "f8"),
        ("lane", "f8"),  # bytes/s that one lane carries at most
        ("chunk", "f8"),  # bytes, infinite for none
        ("lanes", "i8"),
        ("copies", "i8"),  # that an expert is
        ("bytes", "f8"),  # moved or moving so far
        ("busy", "f8"),  # seconds with a lane taken, up to `busy_since`
        ("busy_since", "f8"),
        ("taken", "i8"),  # lanes
        ("flows", "i8"),  # active
        ("submitted", "i8"),
        ("first_latent", "i8"),  # a ring
        ("latent", "i8"),  # how many there are
    ]
)

TIMER = np.dtype([("time", "f8"), ("turn", "i8"), ("what", "i8"), ("which", "i8")])
"""Something that is to begin: when, in which turn among equal times, `BEGIN_FLOW` ..., a transfer or a key."""

CLOCK = np.dtype(
    [
        ("now", "f8"),
        ("turn", "i8"),  # rises with everything that is to happen
        ("settled", "f8"),  # when the bytes that are left were last brought up to date
        ("flows", "i8"),  # active
        ("timers", "i8"),
        ("end", "f8"),  # when the next flow ends, infinite: none is active
        ("end_turn", "i8"),
        ("end_after", "f8"),  # seconds from `settled` until then
        ("until", "f8"),  # no step begins then or later, infinite: at any time
        ("free", "i8"),  # transfers that are not in use
        ("compute", "f8"),  # seconds so far, as in `Tally`
        ("overhead", "f8"),
        ("cpu", "f8"),
        ("idle", "f8"),
        # of the running layer-step:
        ("layer", "i8"),
        ("pending", "i8"),  # what is waited for
        ("resume", "i8"),  # the turn in which the layer-step goes on, 0: something is still waited for
        ("gpu", "f8"),  # when the GPU is free
        ("host", "f8"),  # when the host is through with what it has launched
        ("launched", "f8"),  # when it has launched all that needs no waiting
        ("held", "i8"),  # experts that wait until all are there
        ("cpu_free", "f8"),  # when the CPU's last expert was through
        ("cpu_begin", "f8"),
        ("cpu_rate", "f8"),  # bytes/s that the expert on the CPU draws undisturbed
        ("cpu_busy", "i8"),
        ("cpu_first", "i8"),  # its queue is on_cpu[cpu_first:cpu_end]
        ("cpu_end", "i8"),
        ("stage", "i8"),  # that is open
        ("residents", "i8"),
    ]
)


class Rules(NamedTuple):
    """What stays the same all along.

    Attributes:
        stride: E.
        links: of the way from storage to the device.
        storage: of them, those from storage to DRAM.
        dram: bytes/s that all flows share.
        stages: transfers of an expert, and pieces in which it is computed; 1 without overlap.
        overlap: whether transfers run beside compute.
        layer_overhead: seconds per layer-step.
        miss: seconds per expert loaded.
        byte: seconds per byte loaded.
        eviction: seconds per expert evicted.
        cpu_layer: seconds per layer-step with experts on the CPU.
        cpu_overhead: seconds per expert there.
        beside: whether what bytes and evictions cost runs beside the transfers.
        ahead: whether the host launches ahead of the device.
        launch_layer: seconds in which it launches a layer's dense part; 0 where it does not launch ahead.
        launch: seconds in which it launches an expert, or the output; likewise.
    """

    stride: int
    links: int
    storage: int
    dram: float
    stages: int
    overlap: bool
    layer_overhead: float
    miss: float
    byte: float
    eviction: float
    cpu_layer: float
    cpu_overhead: float
    beside: bool
    ahead: bool
    launch_layer: float
    launch: float


class EventState(NamedTuple):
    """What goes on.

    Attributes:
        rules: what stays the same.
        clock: `CLOCK` [1].
        links: `LINK` [links].
        transfers: `TRANSFER` [n]; the first is the CPU's flow.
        free: int64 [n], the first ``clock.free`` are the transfers not in use.
        active: int64 [n], flows, in the order in which they began.
        ended: int64 [n], room for those that end together.
        timers: `TIMER` [n], in any order.
        waiting: int64 [2 links, n], queues of transfers, the oldest first: row 2 l + p is of link l and priority p.
        waiting_order: int64 [2 links, n], the place of each among those of equal priority; those that are not there any
            more, or became urgent, still stand in their queue and are passed over.
        queue: int64 [2 links, 2], where each queue begins and ends.
        latent: int64 [links, n], transfers that have been submitted and may not start yet, in order.
        latent_time: float64 [links, n], when they may.
        latent_turn: int64 [links, n].
        flight: int64 [L * E], of each expert the prefetch under way; 0: none.
        flying: int64 [2, L * E + pools], rings of these experts, one for each pool: the next and the one before of each
            expert, and last of each pool its first and last (or itself).
        reads: int64 [L * E], of each expert a cancelled prefetch that still brings it to DRAM; 0: none.
        takes: float64 [E], seconds of the running layer's experts on the GPU.
        cpu_bytes: float64 [E], bytes that those on the CPU draw.
        draws: float64 [E], bytes/s of these undisturbed.
        held: int64 [E], experts that wait until all are there.
        on_cpu: int64 [E], experts handed over to the CPU.
        residents: int64 [E], experts that are there, of the open stage.
        missing: int64 [stages], tensors to come.
        arrived: int64 [stages, E + 1], tensors that came before their stage was open, their number last.
    """

    rules: Rules
    clock: npt.NDArray[Any]
    links: npt.NDArray[Any]
    transfers: npt.NDArray[Any]
    free: npt.NDArray[np.int64]
    active: npt.NDArray[np.int64]
    ended: npt.NDArray[np.int64]
    timers: npt.NDArray[Any]
    waiting: npt.NDArray[np.int64]
    waiting_order: npt.NDArray[np.int64]
    queue: npt.NDArray[np.int64]
    latent: npt.NDArray[np.int64]
    latent_time: npt.NDArray[np.float64]
    latent_turn: npt.NDArray[np.int64]
    flight: npt.NDArray[np.int64]
    flying: npt.NDArray[np.int64]
    reads: npt.NDArray[np.int64]
    takes: npt.NDArray[np.float64]
    cpu_bytes: npt.NDArray[np.float64]
    draws: npt.NDArray[np.float64]
    held: npt.NDArray[np.int64]
    on_cpu: npt.NDArray[np.int64]
    residents: npt.NDArray[np.int64]
    missing: npt.NDArray[np.int64]
    arrived: npt.NDArray[np.int64]


def records(dtype: np.dtype[Any], number: int) -> npt.NDArray[Any]:
    """Return so many records of zeros; ``array[i].name`` works with and without the compiler."""
    return np.zeros(number, dtype).view(np.recarray)


def make_rules(profile: HardwareProfile, runtime: Runtime, costs: CostTable, overlap: bool, stride: int) -> Rules:
    """Collect the numbers of a machine, as the runtime uses it.

    Args:
        profile: the machine.
        runtime: what runs the model.
        costs: what computing takes.
        overlap: whether transfers run beside compute, if the runtime lets them.
        stride: E.
    """
    overlap = overlap and runtime.loads.overlap != "none"
    launch_layer, launch = launches(runtime)
    return Rules(
        stride=stride,
        links=len(profile.links),
        storage=len(profile.storage_links),
        dram=float(profile.dram.bandwidth),
        stages=runtime.parts if overlap else 1,
        overlap=overlap,
        layer_overhead=float(profile.layer_overhead),
        miss=float(profile.expert_overhead),
        byte=float(runtime.loads.byte),
        eviction=float(runtime.loads.eviction),
        cpu_layer=float(runtime.cpu.layer) if profile.gpu is not None else 0.0,
        cpu_overhead=float(costs.cpu_overhead),
        beside=runtime.loads.beside and overlap,
        ahead=runtime.device.ahead,
        launch_layer=launch_layer,
        launch=launch,
    )


def make_state(
    profile: HardwareProfile, runtime: Runtime, rules: Rules, keys: int, pools: int, room: int
) -> EventState:
    """Make the state before anything has happened.

    Args:
        profile: the machine.
        runtime: what runs the model.
        rules: the rules.
        keys: L * E.
        pools: of the cache.
        room: transfers at once, at most (`grown` makes more).
    """
    links, stride, stages = records(LINK, rules.links), rules.stride, rules.stages
    taken = {link.name for link in profile.load_links}
    for here, link in zip(links, profile.links, strict=True):
        here.bandwidth, here.latency, here.overhead = link.bandwidth, link.latency, link.overhead
        here.lane, here.chunk, here.lanes = link.lane_bandwidth or math.inf, link.chunk or math.inf, link.lanes
        here.copies = runtime.loads.copies if link.name in taken else 1
    clock = records(CLOCK, 1)
    clock[0].end = clock[0].until = math.inf
    clock[0].free = room
    flows = int(sum(link.lanes for link in profile.links)) + 1
    by_key = np.zeros(keys, np.int64)

    def whole(*shape: int) -> npt.NDArray[np.int64]:
        return np.zeros(shape, np.int64)

    return EventState(
        rules=rules,
        clock=clock,
        links=links,
        transfers=records(TRANSFER, room + 1),
        free=np.arange(room, 0, -1),
        active=whole(flows),
        ended=whole(flows),
        timers=records(TIMER, flows + stride),
        waiting=whole(2 * rules.links, room),
        waiting_order=whole(2 * rules.links, room),
        queue=whole(2 * rules.links, 2),
        latent=whole(rules.links, room),
        latent_time=np.zeros((rules.links, room)),
        latent_turn=whole(rules.links, room),
        flight=by_key.copy(),
        flying=np.tile(np.arange(keys + pools), (2, 1)),
        reads=by_key.copy(),
        takes=np.zeros(stride),
        cpu_bytes=np.zeros(stride),
        draws=np.zeros(stride),
        held=whole(stride),
        on_cpu=whole(stride),
        residents=whole(stride),
        missing=whole(stages),
        arrived=whole(stages, stride + 1),
    )


def grown(state: EventState, room: int) -> EventState:
    """Return the same state with more room: for ``room`` transfers at once."""
    before = len(state.transfers) - 1
    transfers = records(TRANSFER, room + 1)
    transfers[: before + 1] = state.transfers
    unused, clock = int(state.clock[0].free), state.clock[0]
    free = np.zeros(room, np.int64)
    free[: room - before] = np.arange(room, before, -1)
    free[room - before : room - before + unused] = state.free[:unused]
    clock.free = unused + room - before
    waiting, waiting_order = (np.zeros((2 * len(state.links), room), np.int64) for _ in range(2))
    waiting[:, :before], waiting_order[:, :before] = state.waiting, state.waiting_order
    latent, latent_turn = (np.zeros((len(state.links), room), np.int64) for _ in range(2))
    latent_time = np.zeros((len(state.links), room))
    for number, link in enumerate(state.links):
        order = (link.first_latent + np.arange(link.latent)) % before
        for new, old in (
            (latent, state.latent), (latent_time, state.latent_time), (latent_turn, state.latent_turn)
        ):  # fmt: skip
            new[number, : link.latent] = old[number, order]
        link.first_latent = 0
    return state._replace(
        transfers=transfers,
        free=free,
        waiting=waiting,
        waiting_order=waiting_order,
        latent=latent,
        latent_time=latent_time,
        latent_turn=latent_turn,
    )
