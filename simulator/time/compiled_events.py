"""The event-driven engine compiled: what `compiled` has no closed form for, at 60 to 90 times SimPy's speed.

The caches, links, memory bandwidth and prefetches of `Engine`, event by event (`event_loop`), for the miss actions and
prefetchers of lrcsim's own and policies with a queue loop. Counts are those of `Engine`, times agree to 1e-9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.hardware import HardwareProfile
from lrcsim.policies import make_policy
from lrcsim.policies.kernels import Queue
from lrcsim.runtimes import IDEAL, Runtime
from lrcsim.simulator.cache.capacity import PoolSize
from lrcsim.simulator.cache.pool import pool_view
from lrcsim.simulator.compiled.compiled_cache import CompiledCache
from lrcsim.simulator.compiled.counts import signatures
from lrcsim.simulator.compiled.engine_for import kernel_of
from lrcsim.simulator.compiled.pools import PoolMaker, QueuePool
from lrcsim.simulator.compiled.queue_lists import QueueSizes
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.serving.arrivals import ArrivalSteps
from lrcsim.simulator.serving.steps import TOKENS_AT_ONCE, WITH_USES, StepTable, step_table
from lrcsim.simulator.serving.uses import uses_table
from lrcsim.simulator.setup.admission import Prices, no_uploads
from lrcsim.simulator.setup.costs import Costs
from lrcsim.simulator.setup.miss_actions import Lossy, MissAction
from lrcsim.simulator.setup.outcomes import Outcome
from lrcsim.simulator.setup.prefetchers import NoPrefetch, Prefetcher
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.event_ahead import Proposed, Proposer, proposer
from lrcsim.simulator.time.event_book import (
    ADMITTED,
    COLD_MISSES,
    DISPLACED,
    DISPLACED_MISSED,
    PREFETCHED,
    REPINNED,
    WASTED,
    Book,
    Work,
)
from lrcsim.simulator.time.event_decisions import Plan, plan_of
from lrcsim.simulator.time.event_links import busy_seconds, moved
from lrcsim.simulator.time.event_loop import Room, run_event_steps, run_idle
from lrcsim.simulator.time.event_pools import QueuePools, queue_pools
from lrcsim.simulator.time.event_state import grown, make_rules, make_state
from lrcsim.simulator.time.residency import by_key
from lrcsim.simulator.time.tally import GivenUp, LinkUse, PrefetchUse, Tally
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Block

ROOM = 1024
"""Transfers at once that there is room for at first."""


DRAM_ARGUMENT = 6
"""Place of ``dram`` among the arguments of `run_event_steps`."""


class Dram:
    """The cache in main memory: its room, and its policy by name."""

    def __init__(self, size: PoolSize, policy: str) -> None:
        self.size = size
        self.policy = policy


def unsupported_events(
    job: Run,
    costs: Costs,
    profile: HardwareProfile,
    action: MissAction,
    prefetcher: Prefetcher | None = None,
    *,
    dram: Dram | None = None,
    shrinks: bool = False,
) -> str | None:
    """Return why a run is none for the compiled event loop, in a few words; None where it is.

    Args:
        job: trace, policy, capacities and rules.
        costs: seconds of compute.
        profile: the machine.
        action: what to do with misses.
        prefetcher: what to bring ahead.
        dram: the cache in main memory; None: all experts are there.
        shrinks: whether the caches' capacity changes on the way.
    """
    policy = make_policy(job.policy)
    ahead = not (prefetcher is None or isinstance(prefetcher, NoPrefetch))
    if kernel_of(policy, Queue) is None:
        return f"policy {policy.name} has no compiled queue"
    if dram is not None and kernel_of(make_policy(dram.policy), Queue) is None:
        return f"policy {dram.policy} of main memory has no compiled queue"
    if plan_of(action, [], False, False) is None:
        return f"miss action {action.label()} is one's own"
    if action.admits and no_uploads(profile, overlap=True):
        return "there is no link to upload over"
    if ahead and proposer(prefetcher, job) is None:  # type: ignore[arg-type]  # it is one
        return f"prefetcher {prefetcher.label()} has no compiled form"  # type: ignore[union-attr]
    if ahead and (policy.refills or "future" in policy.needs):
        return f"policy {policy.name} cannot go with a prefetcher"
    if shrinks:
        return "the KV cache takes memory from the experts"
    if job.access != "coresident":
        return f"access {job.access} is not coresident"
    if not profile.links:
        return "the machine has no link"
    if dram is not None and not profile.storage_links:
        return "the machine has no nvme"
    rooms = [*job.pools, *([] if dram is None else [dram.size])]
    if any(pool_view(size, job.trace).slots == 0 for size in rooms):
        return "a cache has no room for an expert"
    if not hasattr(costs, "table"):
        return f"costs {type(costs).__name__} have no table()"
    return None


class CompiledEvents:
    """A run in the compiled event loop, block by block.

    Args:
        job: trace, policy, capacities and rules, for which `unsupported_events` has no objection; like the rest.
        costs: seconds of compute, with a method ``table(layers)`` that returns a `CostTable`.
        profile: the machine.
        sizes: bytes of an expert of each MoE layer, or of each expert by key.
        action: what to do with misses.
        prefetcher: what to bring ahead.
        runtime: what runs the model.
        overlap: whether transfers run beside compute, if the runtime lets them.
        dram: the cache in main memory; None: all experts are there.

    Raises:
        ConfigError: misses are to be uploaded, and nothing can be beside compute.

    Attributes:
        tally: seconds and bytes, complete after `finish`.
    """

    def __init__(
        self,
        job: Run,
        costs: Any,
        profile: HardwareProfile,
        sizes: Sequence[int],
        action: MissAction,
        prefetcher: Prefetcher | None = None,
        *,
        runtime: Runtime = IDEAL,
        overlap: bool = True,
        dram: Dram | None = None,
    ) -> None:
        trace = job.trace
        layers, stride = trace.num_layers, trace.num_experts
        self.job, self.profile, self.action = job, profile, action
        self.cache = CompiledCache(job)
        self.tally = Tally(None)
        table = costs.table(layers)
        drawn = [np.array(by_key(row.tolist(), layers, stride)) for row in (table.expert_bytes, table.cpu_bytes)]
        self.costs = table._replace(expert_bytes=drawn[0], cpu_bytes=drawn[1])
        self.rules = make_rules(profile, runtime, self.costs, overlap, stride)
        self.state = make_state(profile, runtime, self.rules, layers * stride, len(job.pools), ROOM)
        if action.admits and (reason := no_uploads(profile, self.rules.overlap)):
            raise ConfigError(f"miss action {action.label()!r} uploads beside compute, and {reason}")
        of_key = by_key(sizes, layers, stride)
        self.prices = Prices(costs, profile, of_key, runtime)
        plan = plan_of(
            action,
            of_key,
            self.cache.policy.bypass,
            self.cache.policy.refills,
            keys=layers * stride,
            upload=self.prices.upload,
            device_link=profile.device_link is not None,
        )
        assert plan is not None  # unsupported_events() says so
        self.plan: Plan = plan
        self.pools = _together(self.cache.pools, job.pools, self.cache.counters)
        self.dram = None if dram is None else _dram_pool(dram, job)
        self.book = Book.empty(layers, layers * stride, self.rules.links)
        self.room = Room.of(stride, layers, self.rules.links)
        self.proposer: Proposer | None = None
        if self.rules.overlap and prefetcher is not None:
            self.proposer = proposer(prefetcher, job)
        self._steps = np.zeros(2, np.int64)

    def blocks(self) -> Iterator[tuple[Block, Proposed | None]]:
        """Yield the blocks of the schedule with what is proposed to be brought ahead."""
        before: Block | None = None
        size = WITH_USES if self.action.needs else TOKENS_AT_ONCE
        for block in self.cache.schedule.blocks(size):
            if not len(block.layer):  # nothing was recorded in it
                continue
            if before is not None:
                yield before, self._proposed(before, block)
            before = block
        if before is not None:
            yield before, self._proposed(before, None)

    def serve(self, arriving: ArrivalSteps, progress: Callable[[int], None] | None = None) -> None:
        """Run steps that depend on when requests arrive.

        What is proposed to be brought ahead is asked for only of steps that are sure to be run: it counts them.

        Args:
            arriving: says which to run now.
            progress: called with the tokens done after each block.
        """
        clock, wait = self.state.clock[0], cast("Any", run_idle)
        self.tally.arrivals = arriving.arrivals
        while (planned := arriving.next_block(float(clock.now), guess=self.proposer is None)) is not None:
            if isinstance(planned, float):
                begin = float(clock.now)
                wait(self.state, planned - begin)
                self.tally.idle += float(clock.now) - begin
                continue
            trace, block, clock.until = planned
            proposed = None if self.proposer is None else self.proposer.propose(trace, block, None)
            steps = self.advance(trace, block, proposed)
            done = arriving.ran(planned, steps, float(clock.now))
            if progress is not None:
                progress(done)

    def advance(self, trace: RoutingTrace, block: Block, proposed: Proposed | None) -> int:
        """Run a block with at least one layer-step.

        Args:
            trace: what the block is of.
            block: the block.
            proposed: what is to be brought ahead.

        Returns:
            How many of its steps have been run: all, or those that begin before ``until`` of the clock.
        """
        rows = np.flatnonzero(np.diff(block.step, prepend=-1))
        table = step_table(trace, block, rows)
        self.cache.begin(block)
        phase = block.phase[rows]
        work = self._work(trace, block, rows, table, proposed)
        steps = np.empty((len(rows), 5))
        run: Any = run_event_steps  # compiled: type checkers do not know its arguments
        done, clock = 0, self.state.clock[0]
        while done < len(rows) and clock.now < clock.until:
            needed, room = int(work.transfers[done]), len(self.state.transfers) - 1
            if clock.free < needed:
                self.state = grown(self.state, max(2 * room, room + needed))
            done = run(
                *(done, not self.job.warm, self.state, self.costs, self.plan, self.pools, self.dram, work),
                *(self.book, self.room, steps),
            )
        phase, ends = phase[:done], table.starts[done]
        parts = (table.sizes[:done], table.starts[: done + 1], table.sequences[:ends], table.emitted[:ends])
        self.tally.extend(steps[:done], phase, StepTable(*parts))
        self._steps += np.bincount(phase, minlength=2)
        return done

    def finish(self) -> Counts:
        """Close the account; return the counts."""
        tally, book, clock = self.tally, self.book, self.state.clock[0]
        tally.total, tally.compute, tally.overhead = float(clock.now), float(clock.compute), float(clock.overhead)
        tally.cpu = float(clock.cpu)
        brought = book.brought.copy()
        for kind in (PREFETCHED, ADMITTED, REPINNED):
            brought[kind, WASTED] += self.plan.sizes[book.unused == kind].sum()
        use = book.counter.tolist()
        issued, useful, late, wasted = brought[PREFETCHED].tolist()
        tally.prefetch = PrefetchUse(issued, useful, late, wasted, use[DISPLACED], use[DISPLACED_MISSED])
        for kind, found in ((ADMITTED, tally.admitted), (REPINNED, tally.repinned)):
            found.issued, found.useful, found.late_uses, found.wasted = brought[kind].tolist()
        tally.outcomes = book.outcomes.tolist()
        tally.given_up = GivenUp(book.tokens.tolist(), book.shares.tolist())
        for number, link in reversed(list(enumerate(self.profile.links))):
            bytes_moved, busy = round(float(moved(self.state, number))), float(busy_seconds(self.state, number))
            tally.links[link.name] = LinkUse(bytes_moved, busy, link.bandwidth)
            tally.moved[link.name] = book.moved[number].tolist()
        loads = sum(book.outcomes[outcome] for outcome in Outcome if outcome.moves)
        counts = Counts(
            accesses=book.accesses,
            misses=book.misses,
            preloaded=np.zeros(self.job.trace.num_layers, np.int64),
            steps=self._steps,
            cold_misses=use[COLD_MISSES],
            loads=loads,
            loaded_bytes=book.loaded_bytes,
        )
        self.cache.finish(counts)
        if counts.preloaded.any():
            tally.repinned.before = self._pinned_bytes()
        return counts

    def _proposed(self, block: Block, following: Block | None) -> Proposed | None:
        return None if self.proposer is None else self.proposer.propose(self.job.trace, block, following)

    def _work(
        self,
        trace: RoutingTrace,
        block: Block,
        rows: npt.NDArray[np.int64],
        table: StepTable,
        proposed: Proposed | None,
    ) -> Work:
        whole, narrow = np.zeros(0, np.int64), np.zeros(0, np.int32)
        starts, ahead = (whole, narrow) if proposed is None else proposed
        needed, given, saves = np.zeros(0, np.bool_), np.zeros(0), np.zeros(0)
        if self.plan.payback:
            saves = self._saves(block)
        uses = (whole, narrow, narrow, narrow, whole, needed)
        if self.action.needs:
            assert isinstance(self.action, Lossy)  # plan_of() says so
            found = uses_table(trace, block)
            access = np.repeat(block.starts[:-1], np.diff(found.starts)) + found.place
            needed, number = np.zeros(len(block.keys), np.bool_), len(block.keys)
            needed[access[self.action.vital(found.share, found.order)]] = True
            given = np.bincount(access, weights=found.share, minlength=number).astype(np.float64)
            light = np.zeros(int(np.diff(found.starts).max(initial=0)), np.bool_)
            uses = (found.starts, found.token, found.place, found.order, found.tokens, light)
        first = np.append(rows, len(block.layer))
        transfers = np.diff(block.starts[first]) * self.rules.stages
        if self.plan.refills and not self.job.warm:
            transfers += int(self.pools.pins.sum())
        if self.pools.policy == Queue.REPIN:
            passes = block.step[rows] // self.pools.sizes[0, QueueSizes._fields.index("threshold")]
            transfers[np.diff(passes, prepend=-1) != 0] += len(self.plan.sizes)
        if proposed is not None:
            transfers += np.diff(starts[first])
        return Work(
            block.keys,
            whole if block.tokens is None else block.tokens,
            block.starts,
            block.layer,
            needed,
            given,
            *uses,
            starts,
            ahead,
            saves,
            first,
            block.request[rows],
            block.phase[rows],
            table.sizes,
            transfers,
            block.step[rows],
        )

    def _pinned_bytes(self) -> int:
        """Return the bytes of what the pools hold for good."""
        pools, sizes = self.pools, self.plan.sizes
        pinned = [first + pools.pinned[pool, : pools.pins[pool]] for pool, first in enumerate(pools.first_key)]
        return int(sum(sizes[keys].sum() for keys in pinned))

    def _saves(self, block: Block) -> npt.NDArray[np.float64]:
        """Return `Work.saves`: what each expert would save, asked for once of each and each number of tokens."""
        tokens = np.ones(len(block.keys), np.int64) if block.tokens is None else block.tokens
        pairs, which = np.unique(np.stack((block.keys, tokens)), axis=1, return_inverse=True)
        each = [self.prices.saved(key // self.rules.stride, number, key) for key, number in pairs.T.tolist()]
        saved: npt.NDArray[np.float64] = np.array(each, np.float64)[which.reshape(-1)]
        return saved


def run_events(
    job: Run,
    costs: Any,
    profile: HardwareProfile,
    sizes: Sequence[int],
    action: MissAction,
    prefetcher: Prefetcher | None = None,
    *,
    runtime: Runtime = IDEAL,
    overlap: bool = True,
    dram: Dram | None = None,
    arriving: ArrivalSteps | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Tally, Counts]:
    """Run a trace for which `unsupported_events` has no objection.

    Args:
        job: as for `CompiledEvents`, like the following.
        costs: seconds of compute.
        profile: the machine.
        sizes: bytes of an expert of each MoE layer, or of each expert by key.
        action: what to do with misses.
        prefetcher: what to bring ahead.
        runtime: what runs the model.
        overlap: whether transfers run beside compute.
        dram: the cache in main memory.
        arriving: which steps to run, where that depends on when requests arrive; None: those of the trace.
        progress: called with the tokens done after each block.

    Returns:
        What `Engine.run` and `Residency.finish` give.
    """
    run = CompiledEvents(job, costs, profile, sizes, action, prefetcher, runtime=runtime, overlap=overlap, dram=dram)
    if arriving is not None:
        run.serve(arriving, progress)
    else:
        for block, proposed in run.blocks():
            run.advance(job.trace, block, proposed)
            if progress is not None:
                progress(block.end_token)
    counts = run.finish()
    return run.tally, counts


def is_compiled(dram: Dram | None) -> bool:
    """Return whether the loop was compiled before, in this process or on this machine."""
    run: Any = run_event_steps
    return any((str(types[DRAM_ARGUMENT]) == "none") == (dram is None) for types in signatures(run))


def _together(pools: Sequence[Any], sizes: Sequence[PoolSize], counters: npt.NDArray[np.int64]) -> QueuePools:
    queues = [pool for pool in pools if isinstance(pool, QueuePool)]
    assert len(queues) == len(pools)  # unsupported_events() says so
    return queue_pools(queues, [size.layers for size in sizes], counters)


def _dram_pool(dram: Dram, job: Run) -> QueuePools:
    maker = PoolMaker(make_policy(dram.policy), job.trace, "coresident", job.prefill, True)
    return _together([maker.pool(dram.size)], [dram.size], np.zeros((1, 4), np.int64))
