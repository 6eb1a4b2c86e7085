"""Run a trace in time: the schedule through the caches and over the machine, watched on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError, LrcsimError, PolicyError, brief
from lrcsim.base.progress import Progress
from lrcsim.base.reprs import short_repr
from lrcsim.policies import Policy, make_policy
from lrcsim.simulator.baselines import Baselines
from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.serving.arrivals import ArrivalSteps, arrival_steps
from lrcsim.simulator.serving.steps import Step, TimedSteps, steps_of
from lrcsim.simulator.setup.miss_actions import Cpu, MissAction
from lrcsim.simulator.setup.outcomes import OTHER_MODEL
from lrcsim.simulator.setup.platform import Platform
from lrcsim.simulator.setup.prefetchers import Oracle, Prefetcher, start
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.compiled import closed_form_is_compiled, has_compiled_cache, run_compiled, unsupported
from lrcsim.simulator.time.engine import Engine
from lrcsim.simulator.time.residency import Residency
from lrcsim.simulator.time.spans import Log, Logged
from lrcsim.simulator.time.tally import GivenUp, Tally
from lrcsim.simulator.time.time_bounds import Limits, free_loads, time_limits
from lrcsim.traces import DECODE, PREFILL
from lrcsim.traces.schedule import Schedule

SAMPLES = 400  # at most, along a run

TOO_MUCH = 1 / 3 + 1e-9
"""Of the router weight; a lossy rule that gives up more is warned of. A third, with what sums of weights are off by."""


@dataclass
class Samples:
    """The state of a run at the beginning of some of its steps.

    Attributes:
        steps: numbers of the steps, ascending.
        times: seconds.
        residents: int [samples, L], experts in the cache.
        accesses: int [samples, L], so far.
        misses: int [samples, L], so far.
        link_bytes: by link, bytes so far at each sample.
        link_busy: by link, busy seconds so far at each sample.
    """

    steps: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    residents: list[npt.NDArray[np.int64]] = field(default_factory=list)
    accesses: list[npt.NDArray[np.int64]] = field(default_factory=list)
    misses: list[npt.NDArray[np.int64]] = field(default_factory=list)
    link_bytes: dict[str, list[int]] = field(default_factory=dict)
    link_busy: dict[str, list[float]] = field(default_factory=dict)

    __repr__ = short_repr


@dataclass
class Timed:
    """What a run in time found.

    Attributes:
        run: what was run; with arrivals its trace is in the order in which it was.
        counts: hits and misses.
        tally: seconds and bytes.
        platform: what it ran on.
        limits: what no policy or prefetcher could have made shorter; None until they are known.
        engine: ``"events"`` or ``"compiled"``.
        log: every span, where it was asked for.
        samples: the state along the way, where it was asked for.
    """

    run: Run
    counts: Counts
    tally: Tally
    platform: Platform
    engine: str
    limits: Limits | None = None
    log: Log | None = None
    samples: Samples | None = None

    __repr__ = short_repr

    def find_limits(self, baselines: Baselines | None) -> None:
        """Work out what the run could not have been shorter than.

        Args:
            baselines: knows the optimal policy; None: nobody asked for it.
        """
        least = None
        if baselines is not None and self.platform.loads_all:
            least = baselines.least_bytes(
                self.platform.flat_sizes,
                make_policy(self.run.policy).bypass,
                free_loads(self.tally, self.counts),
                self.counts.accesses,
            )
        self.limits = time_limits(
            self.run, self.platform, self.tally, self.counts, least, compiled=self.engine == "compiled"
        )

    def advice(self) -> list[str]:
        """Return what a reader of the times should be told."""
        notes = []
        action = self.platform.action
        if type(action) is Cpu and not action.admits and not int(self.counts.preloaded.sum()):
            notes.append(
                "with miss action cpu nothing is ever loaded, so this cache stays empty: use cpu,admit:4, a policy "
                "that fills it by itself (static, pinned-lru), or split"
            )
        notes += _lossy_advice(self.platform.action.label(), self.tally.given_up)
        if self.platform.prefetcher is not None:
            notes.append(
                "experts prefetched before their use count as hits, so the hit rate may exceed the optimum, which "
                "loads on demand; time is what tells"
            )
        if self.log is not None and self.log.dropped:
            notes.append(
                f"the timeline keeps {self.log.limit:,} spans: the last {self.log.dropped:,} are not in it; "
                "--timeline-tokens 100:120 (log=(100, 120)) keeps those of some tokens"
            )
        return notes

    def to_dict(self) -> dict[str, Any]:
        """Return ``time``, ``links``, ``misses`` and ``prefetch`` as JSON values."""
        data = self.tally.to_dict()
        if self.limits is not None:
            data["time"]["bounds"] = self.limits.to_dict()
            data["time"]["all_resident"] = self.limits.all_resident()
            data["time"]["binds"] = self.limits.binds
        return data


def _lossy_advice(action: str, given_up: GivenUp) -> list[str]:
    """Return a warning where a lossy rule leaves out or replaces so much that another model runs."""
    notes = []
    for outcome in OTHER_MODEL:
        prefill, decode, overall = (given_up.mean(outcome, phase) for phase in (PREFILL, DECODE, None))
        if max(prefill, decode, overall) > TOO_MUCH:
            both = all(given_up.tokens)
            phases = f" ({100 * prefill:.1f} % in prefill, {100 * decode:.1f} % in decode)" if both else ""
            notes.append(
                f"miss action {action} {outcome.changes} {100 * overall:.1f} % of the router weight{phases}, more than "
                "a third: what runs is hardly the model that was recorded; use a lower threshold, a larger keep or "
                "cache, or load"
            )
    return notes


def run_timed(
    run: Run,
    *,
    log: Logged = False,
    samples: bool = False,
    progress: Progress | None = None,
) -> Timed:
    """Run a trace in time.

    Args:
        run: what to run, on a machine.
        log: keep every span, or those of a window of tokens.
        samples: keep the state along the way.
        progress: called with tokens done and tokens in all.

    Raises:
        ConfigError: options that cannot go together.
        PolicyError: a policy, a prefetcher or a miss action failed.
    """
    run.refuse_unrouted()
    platform, options = run.platform, run.options
    assert platform is not None  # for a run in time
    arrivals = options.arrivals
    if arrivals is not None:
        check_arrivals(make_policy(run.policy), platform.prefetcher)
    if (compiled := _compiled(run, platform, events=bool(log) or samples)) is not None:
        return compiled(None if progress is None else _told(progress, run.trace.num_tokens))
    sizes = platform.flat_sizes
    residency = Residency(run, platform.action, platform.dram_pool(run.trace), platform.shrink(len(run.pools)), sizes)
    policy = residency.pools[0].policy
    prefetcher = platform.prefetcher
    weights, uses = "weights" in policy.needs | policy.wants, "weights" in platform.action.needs
    arriving = None if arrivals is None else _arriving(run, policy, platform.action)
    if prefetcher is not None and "future" in policy.needs:
        raise ConfigError(
            f"policy {policy.name!r} knows the next uses of what is loaded on demand, prefetching would change them: "
            "use prefetch 'none', or another policy"
        )
    schedule = Schedule(run.trace, run.prefill, weights=weights)
    future = Future(schedule, run.access, run.warm) if "future" in policy.needs else None
    if future is not None:
        for pool in residency.pools:
            pool.view.upcoming = future.of_pool(pool.view.layers)
    if prefetcher is not None:
        prefetcher.trace, prefetcher.stride = run.trace, schedule.stride
        prefetcher.num_layers, prefetcher.top_k = run.trace.num_layers, run.trace.top_k
        prefetcher.profile = (
            np.zeros(run.trace.num_layers * schedule.stride) if run.profile is None else run.profile.astype(float)
        )
        start(prefetcher)
    watch = _Watch(residency, run.trace.num_tokens) if samples else None
    steps: Iterable[Step] | TimedSteps = steps_of(schedule, future, uses=uses) if arriving is None else arriving
    kept = Log(schedule.stride, window=log if isinstance(log, tuple) else None) if log else None
    engine = Engine(
        steps if watch is None else watch.along(steps),
        residency,
        platform.costs,
        platform.profile,
        sizes,
        runtime=platform.runtime,
        overlap=platform.overlap,
        prefetcher=prefetcher,
        log=kept,
        progress=None if progress is None else _told(progress, run.trace.num_tokens),
    )
    if watch is not None:
        watch.engine = engine
    try:
        tally = engine.run()
    except LrcsimError:
        raise
    except Exception as error:
        who = f"policy {policy.name}" if prefetcher is None else f"policy {policy.name} or prefetcher {prefetcher.name}"
        raise PolicyError(f"{who} failed at {engine.env.now:.6g} s: {brief(error)}") from error
    seen = None if watch is None else watch.finish()
    if arriving is not None:
        run = replace(run, trace=arriving.trace())
    return Timed(run, residency.finish(), tally, platform, "events", log=kept, samples=seen)


def _arriving(run: Run, policy: Policy, action: MissAction) -> ArrivalSteps:
    """Return the steps of a run to which requests come one by one."""
    options = run.options
    assert options.arrivals is not None  # the caller asks only then
    return arrival_steps(
        run.trace,
        options.arrivals,
        batch=options.batch,
        batching=options.batching,
        speculative=options.speculative,
        seed=options.seed,
        prefill=run.prefill,
        weights="weights" in policy.needs | policy.wants,
        uses="weights" in action.needs,
    )


def check_arrivals(policy: Policy, prefetcher: Prefetcher | None = None) -> None:
    """Refuse what has to know the steps to come, where they depend on the time that each takes.

    Raises:
        ConfigError: the policy needs the future, or the prefetcher is the oracle.
    """
    name = f"policy {policy.name}" if "future" in policy.needs else ""
    if isinstance(prefetcher, Oracle):
        name = "prefetcher oracle"
    if name:
        raise ConfigError(
            f"{name} needs to know the steps to come, and with arrivals these depend on time: "
            "leave out arrivals, or use another"
        )


def _compiled(run: Run, platform: Platform, *, events: bool) -> Callable[[Callable[[int], None] | None], Timed] | None:
    """Return what runs it compiled, given whom to tell of tokens done; None: it is for SimPy.

    Raises:
        ConfigError: a compiled engine was asked for, and none can.
    """
    if platform.engine == "events":
        return None
    machine, rest = (run, platform.costs, platform.profile), (platform.action, platform.prefetcher)
    how: dict[str, Any] = {"runtime": platform.runtime, "overlap": platform.overlap}
    shrinks = platform.profile.kv_shared

    def in_closed_form(told: Callable[[int], None] | None) -> Timed:
        tally, counts = run_compiled(*machine, platform.flat_sizes, platform.action, **how, progress=told)
        return Timed(run, counts, tally, platform, "compiled")

    def arriving_in_closed_form(told: Callable[[int], None] | None) -> Timed:
        from lrcsim.simulator.time.compiled_arrivals import run_arriving

        arriving = _arriving(run, make_policy(run.policy), platform.action)
        tally, counts = run_arriving(*machine, platform.flat_sizes, platform.action, arriving, **how, progress=told)
        return Timed(replace(run, trace=arriving.trace()), counts, tally, platform, "compiled")

    dram_cache = platform.dram is not None
    what: dict[str, Any] = {"runtime": platform.runtime, "dram_cache": dram_cache, "shrinks": shrinks}
    if not events and unsupported(*machine, *rest, **what) is None:
        if run.options.arrivals is None:
            forced = platform.engine == "compiled" or has_compiled_cache(run)
            return None if not forced and _better_in_simpy(run, closed_form_is_compiled()) else in_closed_form
        from lrcsim.simulator.time.compiled_arrivals import can_go_back  # the rest does without

        if can_go_back(run):
            return arriving_in_closed_form
    # The closed form does without, and importing it takes 50 ms:
    from lrcsim.simulator.time.compiled_events import Dram, is_compiled, run_events, unsupported_events

    dram = None if platform.dram is None else Dram(platform.dram, platform.dram_policy)

    def in_events(told: Callable[[int], None] | None) -> Timed:
        policy = make_policy(run.policy)
        arriving = None if run.options.arrivals is None else _arriving(run, policy, platform.action)
        tally, counts = run_events(
            *machine, platform.flat_sizes, *rest, **how, dram=dram, arriving=arriving, progress=told
        )
        own = run if arriving is None else replace(run, trace=arriving.trace())
        return Timed(own, counts, tally, platform, "compiled")

    reason: str | None = "timeline and plot need every event"
    if not events:
        reason = unsupported_events(*machine, *rest, dram=dram, shrinks=shrinks)
        if reason is None and (platform.engine == "compiled" or not _better_in_simpy(run, is_compiled(dram))):
            return in_events
    if reason is not None and platform.engine == "compiled":
        raise ConfigError(f"engine 'compiled' does not run this: {reason}; use 'auto' or 'events'")
    return None


FEW = 100_000
"""Layer-steps, in this process so far, up to which SimPy runs what would have to be compiled for first.

That is the event loop, or the closed form under a policy that is not compiled itself: some 25 and 8 s of CPU. SimPy
makes 1,000 to 10,000 layer-steps a second (benchmarks/NOTES.md).
"""

_in_simpy = 0


def much_follows() -> None:
    """Take note that this process is going to run more than `FEW` layer-steps: nothing is left to SimPy for that."""
    global _in_simpy
    _in_simpy = FEW


def _better_in_simpy(run: Run, compiled: bool) -> bool:
    """Return whether there is too little to run for compiling first what is to run it, unless it is compiled."""
    global _in_simpy
    layer_steps = run.trace.num_tokens * run.trace.num_layers
    if _in_simpy + layer_steps > FEW or compiled:
        return False
    _in_simpy += layer_steps
    return True


def _told(progress: Progress, total: int) -> Callable[[int], None]:
    return lambda done: progress(done, total)


class _Watch:
    """Looks at the engine as steps pass."""

    def __init__(self, residency: Residency, tokens: int) -> None:
        self.engine: Engine | None = None
        self.residency = residency
        self.every = max(tokens // SAMPLES, 1)
        self.samples = Samples()
        self.last_token = -self.every
        self.step = 0
        self.arrivals: dict[int, float] = {}

    def along(self, steps: Iterable[Step] | TimedSteps) -> TimedSteps:
        """Return a source of the same steps that takes a sample every so many tokens."""
        if isinstance(steps, Iterable):
            following = iter(steps)
            self._next: Callable[[float], Step | float | None] = lambda _: next(following, None)
        else:
            self._next, self.arrivals = steps.next, steps.arrivals
        return self

    def next(self, now: float) -> Step | float | None:
        """Pass the next step on."""
        step = self._next(now)
        if isinstance(step, Step):
            if step.first_token >= self.last_token + self.every:
                self.last_token = step.first_token
                self._take(step.number)
            self.step = step.number
        return step

    def finish(self) -> Samples:
        """Take the last sample."""
        self._take(self.step + 1)
        return self.samples

    def _take(self, step: int) -> None:
        assert self.engine is not None
        samples, residency = self.samples, self.residency
        residents = np.zeros(len(residency.pool_of_layer), np.int64)
        for pool in residency.pools:
            for key in pool.resident:
                residents[key // pool.view.stride] += 1
        samples.steps.append(step)
        samples.times.append(self.engine.env.now)
        samples.residents.append(residents)
        accesses, misses = residency.so_far()
        samples.accesses.append(accesses)
        samples.misses.append(misses)
        for name, link in self.engine.links.items():
            samples.link_bytes.setdefault(name, []).append(round(link.moved()))
            samples.link_busy.setdefault(name, []).append(link.busy())
