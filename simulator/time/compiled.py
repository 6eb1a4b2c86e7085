"""The compiled engine: a closed form of `lrcsim.simulator.time.engine` where nothing comes ahead.

Two stages for each block of the schedule. The caches say of every access whether it hits, is loaded, or runs on the
CPU (`CompiledCache`, `AheadCache`; `ReplayedCache`, in Python, for policies that have no compiled form): none of this
depends on time where nothing is brought ahead. Then `run_layer_steps` works out how long it all takes. Hits are those
of `Engine`, times agree to 1e-9.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.hardware import HardwareProfile
from lrcsim.policies import make_policy
from lrcsim.policies.kernels import Queue
from lrcsim.runtimes import IDEAL, Runtime
from lrcsim.simulator.compiled.ahead_cache import AheadCache, has_ahead_loop
from lrcsim.simulator.compiled.compiled_cache import CompiledCache
from lrcsim.simulator.compiled.counts import signatures
from lrcsim.simulator.compiled.engine_for import engine_for, kernel_of
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.serving.steps import StepTable, step_table
from lrcsim.simulator.setup.costs import Costs
from lrcsim.simulator.setup.miss_actions import MissAction, loaded_share
from lrcsim.simulator.setup.outcomes import Outcome
from lrcsim.simulator.setup.prefetchers import NoPrefetch, Prefetcher
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.compiled_loop import (
    CLOCK,
    COLD_MISSES,
    COMPUTE,
    CPU,
    LINK_BUSY,
    LINK_BYTES,
    OVERHEAD,
    Path,
    Totals,
    run_layer_steps,
)
from lrcsim.simulator.time.compute_alone import add_block
from lrcsim.simulator.time.host import launches
from lrcsim.simulator.time.replayed_cache import ReplayedCache
from lrcsim.simulator.time.tally import LinkUse, Tally
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Block

Flags = npt.NDArray[np.uint8]
Timetable = tuple[npt.NDArray[np.float64], npt.NDArray[np.uint8], StepTable]


def unsupported(
    job: Run,
    costs: Costs,
    profile: HardwareProfile,
    action: MissAction,
    prefetcher: Prefetcher | None = None,
    *,
    runtime: Runtime = IDEAL,
    dram_cache: bool = False,
    shrinks: bool = False,
) -> str | None:
    """Return why a run is none for the compiled engine, in a few words; None where it is.

    Args:
        job: trace, policy, capacities and rules.
        costs: seconds of compute.
        profile: the machine.
        action: what to do with misses.
        prefetcher: what to bring ahead.
        runtime: what runs the model.
        dram_cache: whether main memory holds only some of the experts.
        shrinks: whether the caches' capacity changes on the way.
    """
    policy = make_policy(job.policy)
    share = loaded_share(action)
    if share is None:
        return f"miss action {action.label()} is not load, cpu or split"
    if not (prefetcher is None or isinstance(prefetcher, NoPrefetch)):
        return f"prefetcher {prefetcher.name} brings experts ahead"
    if dram_cache:
        return "main memory is a cache too"
    if shrinks:
        return "the KV cache takes memory from the experts"
    if job.trace.layers.sized_by_expert:
        return "experts of a layer differ in bytes"
    if job.access != "coresident":
        return f"access {job.access} is not coresident"
    if not profile.links:
        return "the machine has no link"
    if len(profile.load_links) > 1:
        return "experts come over several links, one after the other"
    if profile.device_link is None and share < 1:
        return "without pcie an expert for the CPU is read from storage first"
    if runtime.loads.eviction and (policy.bypass or policy.refills or _unlike(job)):
        return "evictions cost, and how many each step makes is not known beforehand"
    if policy.refills and (not job.warm or kernel_of(policy, Queue) in (None, Queue.REPIN)):
        return f"policy {policy.name} loads experts of its own accord on the way, over the links"
    if not hasattr(costs, "table"):
        return f"costs {type(costs).__name__} have no table()"
    return None


def has_compiled_cache(job: Run) -> bool:
    """Return whether the policy of a run is compiled too; else its class says what hits, and its times are compiled."""
    return engine_for(make_policy(job.policy), job.pools) == "compiled" or has_ahead_loop(job)


def closed_form_is_compiled() -> bool:
    """Return whether the loop over layer-steps was compiled before, in this process or on this machine."""
    return bool(signatures(run_layer_steps))


def run_compiled(
    job: Run,
    costs: Any,
    profile: HardwareProfile,
    sizes: Sequence[int],
    action: MissAction,
    *,
    runtime: Runtime = IDEAL,
    overlap: bool = True,
    progress: Callable[[int], None] | None = None,
) -> tuple[Tally, Counts]:
    """Run a trace for which `unsupported` has no objection.

    Args:
        job: trace, policy, capacities and rules; access ``"coresident"``.
        costs: seconds of compute, with a method ``table(layers)`` that returns a `CostTable`.
        profile: the machine.
        sizes: bytes of an expert of each MoE layer.
        action: ``load``, ``cpu`` or ``split``.
        runtime: what runs the model.
        overlap: whether transfers run beside compute, if the runtime lets them.
        progress: called with the tokens done after each block.

    Returns:
        What `Engine.run` and `Residency.finish` give.

    Raises:
        PolicyError: the policy failed, or cannot be compiled.
    """
    share = loaded_share(action)
    assert share is not None  # unsupported() says so
    cache: CompiledCache | AheadCache | ReplayedCache
    if has_ahead_loop(job):
        cache = AheadCache(job, share)
    else:
        cache = CompiledCache(job, share) if has_compiled_cache(job) else ReplayedCache(job, action)
    run = ClosedForm(job, costs, profile, sizes, share, runtime=runtime, overlap=overlap)
    for block, served in cache.blocks():
        if len(block.layer):  # else nothing was recorded in it
            run.keep(*run.advance(job.trace, block, served))
        if progress is not None:
            progress(block.end_token)
    return run.finish(cache)


class ClosedForm:
    """The times of a run, block by block, as its caches say what hits.

    Args:
        job: as for `run_compiled`, like the following.
        costs: seconds of compute.
        profile: the machine.
        sizes: bytes of an expert of each MoE layer.
        share: of the misses of a layer-step that is loaded.
        runtime: what runs the model.
        overlap: whether transfers run beside compute.

    Attributes:
        totals: what is counted from block to block.
        tally: seconds and bytes, complete after `finish`.
    """

    def __init__(
        self,
        job: Run,
        costs: Any,
        profile: HardwareProfile,
        sizes: Sequence[int],
        share: float,
        *,
        runtime: Runtime,
        overlap: bool,
    ) -> None:
        trace = job.trace
        self.job, self.profile, self.runtime = job, profile, runtime
        self.overlap = overlap and runtime.loads.overlap != "none"
        self.prices = costs.table(trace.num_layers)
        self.path = _path(profile, runtime, max(sizes))
        self.sizes = np.array(sizes, np.int64)
        self.totals = Totals.zero(trace.num_layers, trace.num_layers * trace.num_experts, _rooms(job))
        self.tally = Tally(None)
        if share < 1:
            self.tally.alone = np.zeros((2, 2))  # for the bounds, while the schedule is here
        self._steps = np.zeros(2, np.int64)

    def advance(self, trace: RoutingTrace, block: Block, served: Flags) -> Timetable:
        """Run a block with at least one layer-step.

        Args:
            trace: what the block is of.
            block: the block.
            served: uint8 [accesses], `Served.flags`.

        Returns:
            What `keep` takes.
        """
        run: Any = run_layer_steps  # compiled: type checkers do not know its arguments
        rows = np.flatnonzero(np.diff(block.step, prepend=-1))
        table = step_table(trace, block, rows)
        request, phase = block.request[rows], block.phase[rows]
        steps, first = np.empty((len(rows), 5)), np.append(rows, len(block.layer))
        tokens = np.zeros(0, np.int64) if block.tokens is None else block.tokens
        longest = int(np.diff(block.starts).max())
        run(
            *(self.prices, self.path, self.overlap, not self.job.warm, self.sizes, block.keys),
            *(tokens, served, block.starts, block.layer),
            *(first, request, phase, table.sizes, steps, self.totals, np.empty(longest), np.empty(longest, np.int64)),
        )
        if self.tally.alone is not None:
            machine = (self.prices, self.path.dram, launches(self.runtime))
            add_block(*machine, tokens, block.starts, block.layer, first, phase, table.sizes, self.tally.alone)
        return steps, phase, table

    def keep(self, steps: npt.NDArray[np.float64], phase: npt.NDArray[np.uint8], table: StepTable) -> None:
        """Take the steps of a block into the account.

        Args:
            steps: float64 [steps, 5]: begin, end, compute, overhead, CPU.
            phase: uint8 [steps].
            table: their sizes.
        """
        self.tally.extend(steps, phase, table)
        self._steps += np.bincount(phase, minlength=2)

    def finish(self, cache: CompiledCache | AheadCache | ReplayedCache) -> tuple[Tally, Counts]:
        """Close the account; return what `run_compiled` does."""
        totals, tally, layers = self.totals, self.tally, self.job.trace.num_layers
        seconds, counter = totals.seconds.tolist(), totals.counter.tolist()
        tally.total, tally.compute, tally.overhead, tally.cpu = (seconds[i] for i in (CLOCK, COMPUTE, OVERHEAD, CPU))
        loads, loaded_bytes = totals.loads.sum(axis=1), totals.loads @ self.sizes
        tally.outcomes[Outcome.LOADED] = loads.tolist()
        tally.outcomes[Outcome.ON_CPU] = (totals.misses.sum(axis=1) - loads).tolist()
        (used,) = self.profile.load_links
        for link in reversed(self.profile.links):
            moved, busy = (counter[LINK_BYTES], seconds[LINK_BUSY]) if link is used else (0, 0.0)
            tally.links[link.name] = LinkUse(moved, busy, link.bandwidth)
        counts = Counts(
            accesses=totals.accesses,
            misses=totals.misses,
            preloaded=np.zeros(layers, np.int64),
            steps=self._steps,
            cold_misses=counter[COLD_MISSES],
            loads=loads,
            loaded_bytes=loaded_bytes,
        )
        cache.finish(counts)
        tally.repinned.before = int(counts.preloaded @ self.sizes)
        tally.moved = {name: loaded_bytes.tolist() if name == used.name else [0.0, 0.0] for name in tally.links}
        return tally, counts


def _rooms(job: Run) -> npt.NDArray[np.int64]:
    """Return `Totals.pools`."""
    rooms = np.zeros((job.trace.num_layers, 2), np.int64)
    for number, size in enumerate(job.pools):
        slots = size.capacity if size.bytes_per_expert is None else size.capacity // max(size.bytes_per_expert)
        rooms[list(size.layers)] = number, slots
    return rooms


def _unlike(job: Run) -> bool:
    """Return whether a pool counts in bytes experts of unlike size."""
    return any(size.bytes_per_expert is not None and len({*size.bytes_per_expert}) > 1 for size in job.pools)


def _path(profile: HardwareProfile, runtime: Runtime, largest: int) -> Path:
    (link,) = profile.load_links  # unsupported() says so
    launch_layer, launch = launches(runtime)
    return Path(
        bandwidth=float(link.bandwidth),
        latency=float(link.latency),
        overhead=float(link.overhead),
        copies=runtime.loads.copies,
        lanes=link.lanes,
        chunk=link.chunk or largest,
        dram=float(profile.dram.bandwidth),
        lane=float(link.lane_bandwidth or math.inf),
        parts=runtime.parts,
        layer_overhead=float(profile.layer_overhead),
        expert_overhead=float(profile.expert_overhead),
        byte=float(runtime.loads.byte),
        eviction=float(runtime.loads.eviction),
        cpu_layer=float(runtime.cpu.layer),
        beside=runtime.loads.beside,
        ahead=runtime.device.ahead,
        launch_layer=launch_layer,
        launch=launch,
    )
