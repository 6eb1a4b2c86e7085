"""The event-driven engine: one forward pass after the other over a machine's compute, links and memory.

A layer-step runs so:

1. The GPU computes the layer's dense part (`Costs.before`); then its routing is known. The host takes
   ``layer_overhead``, and ``expert_overhead`` for each expert it is going to load; what a runtime pays besides: by the
   byte loaded, by the expert evicted, and once where experts run on the CPU. What it pays by the byte and the eviction
   may come after the transfers were asked for (``beside``): then nothing is computed meanwhile, but transfers run.
2. Experts that are resident are computed at once, in batch order, one after the other. Those on their way as prefetches
   become urgent and are waited for. Misses are put on the link, in batch order; others run on the CPU, one at a time.
3. Misses that are admitted (`Outcome.ADMITTED`) run on the CPU, and are uploaded behind everything urgent. The
   prefetcher is asked; what it wants goes there, too.
4. Each expert that arrives is computed when the GPU is free. The layer ends when its last expert has.

Where a runtime overlaps by tensor, an expert is three transfers of a third: all gates, all ups, all downs; each is
computed when it is there and the stage before is over (`Stages`). An expert brought ahead comes whole.

Where the host launches ahead (`Host`), the routing is known no sooner than the dense part was launched, and an expert
computed no sooner than it was; what the device waits for launches counts as overhead.

Without overlap the experts are computed only when all have arrived, and nothing is brought ahead.

From storage an expert moves whole over each link to DRAM, then whole to the GPU. A prefetch that leaves the cache under
way ends with the chunk that is moving; but its way from storage to DRAM goes on, because the cache in DRAM counts on
it. A copy of low precision comes over the same links, from storage where DRAM does not hold the expert, and DRAM does
not keep it. An expert for which residents stand in takes the time of one that is resident. What a policy loads of its
own accord (`Policy.refill`) before the first step is there at once: the model is being loaded. Later it is uploaded
like what is admitted, and without overlap waited for before the step begins. The cache holds what is being uploaded,
so it hits; until it has arrived it runs on the CPU if the rule for misses says so (`MissAction.meanwhile`), else it
becomes urgent and is waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any

import simpy

from lrcsim.base.errors import ConfigError, PolicyError
from lrcsim.base.user_code import written_in
from lrcsim.hardware import HardwareProfile
from lrcsim.runtimes import IDEAL, Runtime
from lrcsim.simulator.serving.steps import LayerStep, Step, TimedSteps
from lrcsim.simulator.setup.admission import Prices, no_uploads
from lrcsim.simulator.setup.costs import Costs
from lrcsim.simulator.setup.outcomes import Outcome
from lrcsim.simulator.setup.prefetchers import NoPrefetch, Prefetcher, proposals
from lrcsim.simulator.time.bandwidth import Flows
from lrcsim.simulator.time.cpu import CpuQueue
from lrcsim.simulator.time.fetch import Fetch
from lrcsim.simulator.time.host import Host
from lrcsim.simulator.time.links import DEMAND, PREFETCH, LinkServer
from lrcsim.simulator.time.residency import Lookup, Residency, by_key
from lrcsim.simulator.time.spans import Log
from lrcsim.simulator.time.stages import Stages
from lrcsim.simulator.time.tally import Tally

ADMIT, REPIN = "admit", "re-pin"
"""What uploads are for, in the log."""


class Engine:
    """Runs steps over a machine.

    Args:
        steps: what to run; `TimedSteps` where requests arrive in the course of time.
        residency: the caches.
        costs: seconds of compute.
        profile: the machine, as the runtime uses it (`lrcsim.runtimes.machine_under`).
        sizes: bytes of an expert of each MoE layer, or of each expert by key.
        runtime: what runs the model.
        overlap: whether transfers run beside compute, if the runtime lets them.
        prefetcher: what to bring ahead; without overlap nothing is.
        log: where to note every span, or None.
        progress: called with the tokens done after each step.

    Attributes:
        tally: what was measured so far: seconds by step and resource, use of links, what became of prefetches.
        links: the links by name.

    Raises:
        ConfigError: the machine has no link that a miss or an upload needs, or the policy cannot go with a prefetcher.
        PolicyError: in `run`, a policy, a prefetcher or a miss action broke its contract.
    """

    def __init__(
        self,
        steps: Iterable[Step] | TimedSteps,
        residency: Residency,
        costs: Costs,
        profile: HardwareProfile,
        sizes: list[int],
        *,
        runtime: Runtime = IDEAL,
        overlap: bool = True,
        prefetcher: Prefetcher | None = None,
        log: Log | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.env = env = simpy.Environment()
        self.residency = residency
        self.costs = costs
        self.profile = profile
        self.stride = residency.pools[0].view.stride
        self.sizes = by_key(sizes, len(residency.pool_of_layer), self.stride)
        self.runtime = runtime
        self.overlap = overlap and runtime.loads.overlap != "none"
        self.host = Host(runtime, profile.expert_overhead)
        self.stages = Stages(runtime.parts if self.overlap else 1, self._compute)
        self.prefetcher = prefetcher if self.overlap and not isinstance(prefetcher, NoPrefetch) else None
        _check(profile, residency, self.prefetcher)
        action = residency.action
        if action.admits and (reason := no_uploads(profile, self.overlap)):
            raise ConfigError(f"miss action {action.label()!r} uploads beside compute, and {reason}")
        action.prices = Prices(costs, profile, self.sizes, runtime)
        self.log = log
        self.progress = progress
        self.flows = Flows(env, profile.dram.bandwidth)
        taken = {link.name for link in profile.load_links}  # by loads, hence in the runtime's copies
        self.links = {
            link.name: LinkServer(env, link, self.flows, log, runtime.loads.copies if link.name in taken else 1)
            for link in reversed(profile.links)
        }
        way = [self.links[link.name] for link in profile.links]
        self._to_device = way[len(profile.storage_links) :]
        self._to_memory = way[: len(profile.storage_links)]
        self.tally = Tally(residency)
        self._next: Callable[[float], Step | float | None]
        if isinstance(steps, Iterable):
            following = iter(steps)
            self._next = lambda _: next(following, None)
        else:
            self._next = steps.next
            self.tally.arrivals = steps.arrivals
        self._in_flight: dict[int, Fetch] = {}  # prefetches and uploads that have not arrived
        self._reads: dict[int, Fetch] = {}  # cancelled ones that still bring an expert from storage to DRAM
        self.cpu = CpuQueue(env, self.flows, costs, self.stride, log)
        # of the running layer-step:
        self._pending = 0
        self._gpu = 0.0  # when the GPU is free
        self._waiting: simpy.Event | None = None
        self._tokens: dict[int, int] = {}
        self._layer = 0
        self._held: list[int] = []
        self._launched = 0.0  # when the host that launches ahead has launched all that needs no waiting
        self._cpu_free = 0.0  # when the CPU's last expert was through
        self._late: set[int] = set()  # hits that run on the CPU, as their uploads are under way
        self._read: set[int] = set()  # misses that the CPU waits for, as they are read from storage
        self._began = False  # whether a step has begun

    def run(self) -> Tally:
        """Run everything; return what it took."""
        self.env.run(until=self.env.process(self._run()))
        self.tally.finish(self.env.now, self.links)
        return self.tally

    def _run(self) -> Generator[simpy.Event, Any, None]:
        env, costs, tally = self.env, self.costs, self.tally
        while (step := self._next(env.now)) is not None:
            begin = self.host.free = env.now  # it waited for the token before
            if isinstance(step, float):  # nothing to do until a request arrives
                yield env.timeout(step - begin)  # where rounding leaves the clock just before, it waits once more
                tally.idle += env.now - begin
                continue
            if self.log is not None:
                self.log.begin(begin, step.first_token, step.size.tokens)
            if self.residency.begin(step):
                self._forget_prefetches()
            self._evict(self.residency.evicted)
            tally.begin(self.links)
            yield from self._repin(step)
            for place, work in enumerate(step.layers):
                yield from self._layer_step(step, place, work)
            after = costs.after(step.size)
            late = self.host.delay(env.now + after, self.host.kernel)
            tally.overhead += late
            if after + late > 0:
                start = env.now
                yield env.timeout(after + late)
                self._note(start, "gpu", "output")
                tally.compute += after
            tally.end(step, begin, env.now, self.links)
            if self.log is not None:
                self.log.step(begin, env.now, step.phase, step.sequences, *tally.steps[-3:-1])
            if self.progress is not None:
                self.progress(step.first_token + step.size.tokens)

    def _layer_step(self, step: Step, place: int, work: LayerStep) -> Generator[simpy.Event, Any, None]:
        env, tally, layer = self.env, self.tally, work.layer
        found = self.residency.look_up(step, work)
        moved = sum(len(keys) for outcome, keys in found.decision.items() if outcome.moves)
        dense = self.costs.before(layer, step.size)
        overhead, beside = self._bookkeeping(found, moved)
        overhead += self.host.delay(env.now + dense, self.host.layer)
        tally.compute += dense
        tally.overhead += overhead + beside
        start = env.now
        if dense + overhead > 0:
            yield env.timeout(dense + overhead)
            if self.log is not None:
                if dense:
                    self.log.note(start, start + dense, "gpu", "dense", layer=layer)
                if overhead:
                    self.log.note(start + dense, env.now, "host", "overhead", layer=layer)
        self._late = {key for key in found.hits if self._runs_on_cpu_meanwhile(key)}
        if self._late and (first_there := self._cpu_layer(found)):
            tally.overhead += first_there
            yield env.timeout(first_there)
        self._layer, self._gpu, self._pending, self._held = layer, env.now + beside, 0, []
        self.host.free = self._gpu + self.host.asks(moved)[1]
        on_device = len(found.hits) - len(self._late)
        on_device += sum(len(keys) for what, keys in found.decision.items() if what.runs_on == "gpu")
        self._launched = self.host.free + (self.host.kernel * on_device if self.overlap else 0.0)
        if beside and self.log is not None:
            self.log.note(env.now, self._gpu, "host", "overhead", layer=layer)
        self.stages.begin()
        self._tokens = {} if work.tokens is None else dict(zip(work.keys, work.tokens, strict=True))
        self._use_hits(found)
        self._evict(found.evicted)
        self._start_misses(found, step, work)
        self._admit(found)
        if self.prefetcher is not None:
            self._prefetch(step, place, work)
        if self._pending:
            self._waiting = env.event()
            yield self._waiting
            self._waiting = None
        if self._held:
            self.host.free = max(env.now, self.host.free)
        for key in self._held:  # without overlap everything is computed now
            self._compute(key)
        if self._gpu > env.now:
            yield env.timeout(self._gpu - env.now)
        self.host.free = max(self.host.free, self._cpu_free)

    def _bookkeeping(self, found: Lookup, loaded: int) -> tuple[float, float]:
        """Return what a layer-step takes of the host before transfers are asked for, and what beside them; seconds."""
        loads, action, sizes = self.runtime.loads, self.residency.action, self.sizes
        seconds = self.profile.layer_overhead + self.host.asks(loaded)[0]
        if not (loads.byte or loads.eviction or self.runtime.cpu.layer):
            return seconds, 0.0
        moved = sum(
            action.bytes_of(what, sizes[key]) for what, keys in found.decision.items() if what.moves for key in keys
        )
        if _on_cpu(found) and self.profile.gpu is not None:
            seconds += self.runtime.cpu.layer
        more = loads.byte * moved + loads.eviction * found.evictions
        return (seconds, more) if loads.beside and self.overlap else (seconds + more, 0.0)

    def _cpu_layer(self, found: Lookup) -> float:
        """Return what the host takes besides where hits alone run on the CPU, since uploads are under way; seconds."""
        return 0.0 if _on_cpu(found) else self.runtime.cpu.layer

    def _runs_on_cpu_meanwhile(self, key: int) -> bool:
        """Return whether an expert that hits is on its way as an upload, and runs on the CPU until it is there."""
        fetch = self._in_flight.get(key)
        if fetch is None or fetch.what not in (ADMIT, REPIN) or fetch.link not in self._to_device:
            return False  # the last: main memory does not hold it yet
        return self.residency.action.meanwhile == "cpu"

    def _use_hits(self, found: Lookup) -> None:
        for key in found.hits:
            if key in self._late:  # main memory holds what is uploaded out of it
                self.tally.used_on_cpu(key)
                self._run_on_cpu(key, False)
                continue
            fetch = self._in_flight.pop(key, None)
            if fetch is not None:  # from now on it is this layer's, whatever becomes of its place in the cache
                self._expect()
                self.tally.used(key, late=True)
                fetch.done = self._loaded
                fetch.promote()
                self._note(self.env.now, "cache", "join", key)
            else:
                self.tally.used(key, late=False)
                self._ready(key)

    def _start_misses(self, found: Lookup, step: Step, work: LayerStep) -> None:
        loads: list[tuple[int, Outcome, bool]] = []
        self._read.clear()
        for outcome, keys in found.decision.items():
            if outcome.runs_on == "":
                continue
            for key in keys:
                if outcome.moves:
                    loads.append((key, outcome, key in found.from_storage))
                    self._expect()
                    if self._load(*loads[-1], 0):
                        loads.pop()
                elif outcome.runs_on == "cpu":
                    uploaded = outcome.behind and self.residency.holds(key)
                    self._run_on_cpu(key, key in found.from_storage, uploaded)
                else:  # residents stand in
                    self._ready(key)
        for part in range(1, self.stages.number):
            for load in loads:
                self._load(*load, part)
        self.stages.advance()
        self.tally.count(found.decision, work, step.phase)

    def _expect(self) -> None:
        """Wait for an expert."""
        self._pending += self.stages.number
        self.stages.expect()

    def _load(self, key: int, outcome: Outcome, from_storage: bool, part: int) -> bool:
        """Put one tensor of an expert, or of a copy of it, on its way to the GPU; return whether it is all of them."""
        size: float = self.residency.action.bytes_of(outcome, self.sizes[key])
        what = "load" if outcome.reads == "expert" else "load low"
        whole = self.stages.number == 1 or key in self._reads
        if not whole:
            size /= self.stages.number
        self._fetch(key, size, from_storage, DEMAND, what, self._loaded, part=None if whole else part)
        return whole

    def _run_on_cpu(self, key: int, from_storage: bool, uploaded: bool = False) -> None:
        """Compute an expert on the CPU, once it is in DRAM; from then on it may be uploaded."""
        self._pending += 1
        if from_storage or key in self._reads or not self._to_device:
            done = self._on_cpu_and_up if uploaded else self._on_cpu
            self._fetch(key, self.sizes[key], True, DEMAND, "read", done, to_gpu=False)
            self._read.add(key)
        else:
            self._compute_on_cpu(key)

    def _fetch(
        self,
        key: int,
        size: float,
        from_storage: bool,
        priority: int,
        what: str,
        done: Callable[[Fetch], None],
        to_gpu: bool = True,
        part: int | None = None,
    ) -> Fetch:
        """Bring an expert from storage or DRAM to the GPU, or from storage to DRAM only."""
        legs = self._to_device[:] if to_gpu else []
        read = self._reads.pop(key, None)
        if read is not None:  # it is on its way to DRAM already
            self._note(self.env.now, "cache", "join", key)
            read.legs, read.size, read.what, read.done = read.legs + legs, size, what, done
            if priority == DEMAND:
                read.promote()
            return read
        if from_storage or not legs:
            legs = self._to_memory + legs
        return Fetch(key, legs, size, priority, what, done, part, 1 if part is None else self.stages.number)

    def _loaded(self, fetch: Fetch) -> None:
        if self.overlap:
            self.stages.arrived(fetch.key, fetch.part)
        else:
            self._held.append(fetch.key)
        self._done(self.stages.number if fetch.part is None else 1)

    def _ready(self, key: int) -> None:
        """Compute an expert that is there: now, or when all are, without overlap."""
        if self.overlap:
            self.stages.resident(key)
        else:
            self._held.append(key)

    def _compute(self, key: int) -> None:
        """Compute an expert, or one of its tensors."""
        begin = max(self._gpu, self.env.now)
        late = self.host.delay(begin, self.host.kernel)
        begin += late
        self.tally.overhead += late
        seconds = self.costs.expert(self._layer, self._tokens.get(key, 1), key) / self.stages.number
        self._gpu = begin + seconds
        self.tally.compute += seconds
        if self.log is not None:
            self.log.note(begin, self._gpu, "gpu", "expert", key)

    def _on_cpu(self, fetch: Fetch) -> None:
        self._compute_on_cpu(fetch.key)

    def _on_cpu_and_up(self, fetch: Fetch) -> None:
        self._compute_on_cpu(fetch.key)
        self._upload(fetch.key, False, ADMIT)

    def _compute_on_cpu(self, key: int) -> None:
        def begin(_: simpy.Event | None = None) -> None:
            self.cpu.compute(key, self._tokens.get(key, 1), self._cpu_done)

        if self.host.ahead and self._launched > self.env.now:  # the host that computes launches first
            self.env.timeout(self._launched - self.env.now).callbacks.append(begin)
        else:
            begin()

    def _cpu_done(self, seconds: float) -> None:
        self.tally.cpu += seconds
        self._cpu_free = self.env.now
        self._done(1)

    def _done(self, number: int) -> None:
        self._pending -= number
        if not self._pending and self._waiting is not None:
            self._waiting.succeed()

    def _admit(self, found: Lookup) -> None:
        """Upload what is admitted and stayed in the cache, most tokens first; what has to be read comes after that."""
        admitted = [key for outcome, keys in found.decision.items() if outcome.behind for key in keys]
        if not admitted:
            return
        action = self.residency.action
        if not action.admits and (reason := no_uploads(self.profile, self.overlap)):
            raise PolicyError(
                f"miss action {action.name}: decide() returned Outcome.ADMITTED, and {reason}"
                f"{written_in(type(action), 'decide')}"
            )
        for key in sorted(admitted, key=lambda key: -self._tokens.get(key, 1)):
            if self.residency.holds(key):
                self.tally.uploaded(key, self.sizes[key], self.tally.admitted)
                self.host.free += self.host.prefetch
                if key not in self._read:
                    self._upload(key, False, ADMIT)

    def _repin(self, step: Step) -> Generator[simpy.Event, Any, None]:
        """Upload what the policy has loaded of its own accord; without overlap wait for it."""
        wanted, began = self.residency.refilled[:], self._began
        self.residency.refilled.clear()
        self._began = True
        self._pending = 0
        for key in wanted:
            size, layer = self.sizes[key], key // self.stride
            if not began:  # the model is being loaded
                self.tally.repinned.before += size
                continue
            self.tally.uploaded(key, size, self.tally.repinned)
            self.host.free += self.host.prefetch
            self._pending += not self.overlap
            self._upload(key, bool(self.residency.below([key], step, layer)), REPIN)
        if self._pending:
            self._waiting = self.env.event()
            yield self._waiting
            self._waiting = None

    def _upload(self, key: int, from_storage: bool, what: str) -> None:
        """Bring an expert to the GPU behind everything urgent."""
        size = self.sizes[key]
        self._in_flight[key] = self._fetch(key, size, from_storage, PREFETCH, what, self._uploaded)

    def _uploaded(self, fetch: Fetch) -> None:
        del self._in_flight[fetch.key]
        if not self.overlap:
            self._done(1)

    def _prefetch(self, step: Step, place: int, work: LayerStep) -> None:
        assert self.prefetcher is not None
        wanted = proposals(self.prefetcher, step, place)
        if not wanted:
            return
        residency, end = self.residency, len(self.sizes)
        protected = {*work.keys, *self._in_flight}
        for key in wanted:
            if not 0 <= key < end:
                raise PolicyError(
                    f"prefetcher {self.prefetcher.name}: propose() returned {key}, which is no expert: "
                    f"give keys, layer * {self.stride} + expert, below {end}"
                    f"{written_in(type(self.prefetcher), 'propose')}"
                )
            if not residency.bring_ahead(key, step, work.layer, protected):
                continue
            self._evict(residency.evicted, for_prefetch=True)
            size = self.sizes[key]
            self.tally.prefetched(key, size)
            from_storage = bool(residency.below([key], step, key // self.stride))
            self.host.free += self.host.prefetch
            self._in_flight[key] = self._fetch(key, size, from_storage, PREFETCH, "prefetch", self._prefetch_arrived)
            protected.add(key)

    def _prefetch_arrived(self, fetch: Fetch) -> None:
        del self._in_flight[fetch.key]

    def _evict(self, keys: list[int], for_prefetch: bool = False) -> None:
        """Take note of what left the cache, and empty the list."""
        for key in keys:
            fetch = self._in_flight.pop(key, None)
            if fetch is not None:
                self._cancel(fetch)
            self.tally.evicted(key, for_prefetch)
            self._note(self.env.now, "cache", "evict", key)
        keys.clear()

    def _cancel(self, fetch: Fetch) -> None:
        """Let nothing more of a prefetch start, but what goes from storage to DRAM: it counts as being there."""
        if self._to_device and fetch.link not in self._to_device:
            fetch.legs, fetch.done = fetch.legs[: -len(self._to_device)], self._read_for_nobody
            self._reads[fetch.key] = fetch
        else:
            fetch.cancel()

    def _read_for_nobody(self, fetch: Fetch) -> None:
        del self._reads[fetch.key]

    def _forget_prefetches(self) -> None:
        for fetch in self._in_flight.values():
            self._cancel(fetch)
        self._in_flight.clear()
        self.tally.emptied()

    def _note(self, start: float, track: str, what: str, key: int = -1) -> None:
        if self.log is not None:
            self.log.note(start, self.env.now, track, what, key)


def _on_cpu(found: Lookup) -> bool:
    """Return whether misses of a layer-step run on the CPU."""
    return any(keys and what.runs_on == "cpu" for what, keys in found.decision.items())


def _check(profile: HardwareProfile, residency: Residency, prefetcher: Prefetcher | None) -> None:
    if not profile.links:
        raise ConfigError(
            f"hardware {profile.name} has neither pcie nor nvme: a missed expert cannot be loaded; set nvme"
        )
    if residency.dram is not None and not profile.storage_links:
        raise ConfigError(f"hardware {profile.name} has no nvme: without it DRAM must hold all experts; set nvme")
    policy = residency.pools[0].policy
    if prefetcher is not None and (policy.refills or "future" in policy.needs):
        reason = "knows the future of uses only" if "future" in policy.needs else "loads experts of its own accord"
        raise ConfigError(
            f"policy {policy.name} {reason} and cannot go with prefetcher {prefetcher.name}: "
            "use another policy, or prefetcher none"
        )
