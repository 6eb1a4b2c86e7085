"""The event-driven engine: one forward pass after the other over a machine's compute, links and memory.

A layer-step runs so:

1. The GPU computes the layer's dense part (`Costs.before`); then its routing is known. The host takes
   ``layer_overhead``, and ``expert_overhead`` for each expert it is going to load.
2. Experts that are resident are computed at once, in batch order, one after the other. Those on their way as prefetches
   become urgent and are waited for. Misses are put on the link, in batch order; others run on the CPU, one at a time.
3. The prefetcher is asked; what it wants goes on the link behind everything urgent.
4. Each expert that arrives is computed when the GPU is free. The layer ends when its last expert has.

Without overlap the experts are computed only when all have arrived, and nothing is brought ahead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from typing import Any

import simpy

from lrcsim.hardware import HardwareProfile
from lrcsim.hierarchy.costs import Costs
from lrcsim.hierarchy.flows import Flow, Flows, Lane
from lrcsim.hierarchy.links import DEMAND, PREFETCH, LinkServer, Transfer
from lrcsim.hierarchy.log import Log
from lrcsim.hierarchy.prefetch import NoPrefetch, Prefetcher
from lrcsim.hierarchy.residency import Lookup, Residency
from lrcsim.hierarchy.times import Tally
from lrcsim.hierarchy.work import Step, Work

__all__ = ["Engine"]


class Fetch:
    """One expert's way to the GPU: a transfer on each link of its path, one after the other."""

    __slots__ = ("cancelled", "done", "key", "legs", "priority", "sizes", "transfer", "what")

    def __init__(self, key: int, legs: list[LinkServer], size: int, priority: int, what: str, done: Any) -> None:
        self.key = key
        self.legs = legs
        self.sizes = size
        self.priority = priority
        self.what = what
        self.done = done
        self.cancelled = False
        self.transfer: Transfer | None = None

    def start(self) -> None:
        """Submit the next leg."""
        link = self.legs.pop(0)
        self.transfer = Transfer(self.key, self.sizes, self.priority, self._arrived, self.what)
        link.submit(self.transfer)

    def promote(self, links: Iterable[LinkServer]) -> None:
        """Make it urgent."""
        self.priority = DEMAND
        for link in links:
            if self.transfer is not None:
                link.promote(self.transfer)

    def cancel(self) -> None:
        """Let nothing more of it start."""
        self.cancelled = True
        if self.transfer is not None:
            self.transfer.cancelled = True

    def _arrived(self, _: Transfer) -> None:
        if self.cancelled:
            return
        if self.legs:
            self.start()
        else:
            self.done(self)


class Engine:
    """Runs steps over a machine.

    Args:
        steps: what to run.
        residency: the caches.
        costs: seconds of compute.
        profile: the machine.
        sizes: bytes of an expert of each MoE layer.
        overlap: whether transfers run beside compute.
        prefetcher: what to bring ahead.
        log: where to note every span, or None.
        progress: called with the tokens done after each step.
    """

    def __init__(
        self,
        steps: Iterable[Step],
        residency: Residency,
        costs: Costs,
        profile: HardwareProfile,
        sizes: list[int],
        *,
        overlap: bool = True,
        prefetcher: Prefetcher | None = None,
        log: Log | None = None,
        progress: Any = None,
    ) -> None:
        self.env = env = simpy.Environment()
        self.steps = steps
        self.residency = residency
        self.costs = costs
        self.profile = profile
        self.sizes = sizes
        self.stride = residency.pools[0].view.stride
        self.overlap = overlap
        self.prefetcher = None if isinstance(prefetcher, NoPrefetch) else prefetcher
        self.log = log
        self.progress = progress
        self.flows = Flows(env, profile.dram.bandwidth)
        self.links: dict[str, LinkServer] = {}
        for name in ("pcie", "nvme"):
            link = getattr(profile, name)
            if link is not None:
                self.links[name] = LinkServer(env, name, link, self.flows, log)
        self.tally = Tally(residency)
        self._in_flight: dict[int, Fetch] = {}  # prefetches that have not arrived
        self._cpu: deque[tuple[int, int]] = deque()
        self._cpu_busy = False
        # of the running layer-step:
        self._pending = 0
        self._gpu = 0.0  # when the GPU is free
        self._waiting: simpy.Event | None = None
        self._tokens: dict[int, int] = {}
        self._layer = 0
        self._held: list[int] = []

    def run(self) -> Tally:
        """Run everything; return what it took."""
        self.env.run(until=self.env.process(self._run()))
        self.tally.finish(self.env.now, self.links)
        return self.tally

    def _run(self) -> Generator[simpy.Event, Any, None]:
        env, costs, tally = self.env, self.costs, self.tally
        for step in self.steps:
            begin = env.now
            if self.residency.begin(step):
                self._forget_prefetches()
            tally.begin()
            for place, work in enumerate(step.layers):
                yield from self._layer_step(step, place, work)
            after = costs.after(step.size)
            if after > 0:
                start = env.now
                yield env.timeout(after)
                self._note(start, "gpu", "output")
                tally.compute += after
            tally.end(step, begin, env.now)
            if self.log is not None:
                self.log.step(begin, env.now, step.phase, step.sequences)
            if self.progress is not None:
                self.progress(step.first_token + step.size.tokens)

    def _layer_step(self, step: Step, place: int, work: Work) -> Generator[simpy.Event, Any, None]:
        env, tally, layer = self.env, self.tally, work.layer
        found = self.residency.look_up(step, work)
        decision = found.decision
        loads = decision.load + decision.low
        dense = self.costs.before(layer, step.size)
        overhead = self.profile.layer_overhead + self.profile.expert_overhead * len(loads)
        tally.compute += dense
        tally.overhead += overhead
        start = env.now
        if dense + overhead > 0:
            yield env.timeout(dense + overhead)
            if self.log is not None:
                self.log.note(start, start + dense, "gpu", "dense", layer=layer)
                if overhead:
                    self.log.note(start + dense, env.now, "host", "overhead", layer=layer)
        self._layer, self._gpu, self._pending, self._held = layer, env.now, 0, []
        self._tokens = {} if work.tokens is None else dict(zip(work.keys, work.tokens, strict=True))
        self._evict(found)
        self._use_hits(found)
        self._start_misses(found)
        if self.prefetcher is not None:
            self._prefetch(step, place, work)
        if self._pending:
            self._waiting = env.event()
            yield self._waiting
            self._waiting = None
        for key in self._held:  # without overlap everything is computed now
            self._compute(key)
        if self._gpu > env.now:
            yield env.timeout(self._gpu - env.now)

    def _use_hits(self, found: Lookup) -> None:
        for key in found.hits:
            fetch = self._in_flight.get(key)
            if fetch is not None:
                self._pending += 1
                self.tally.used(key, late=True)
                fetch.promote(self.links.values())
                if self.log is not None:
                    self.log.note(self.env.now, self.env.now, "cache", "join", key)
            else:
                self.tally.used(key, late=False)
                self._ready(key)
        for key in found.decision.substitute:
            self._ready(key)

    def _start_misses(self, found: Lookup) -> None:
        decision, tally = found.decision, self.tally
        for key in decision.load:
            self._pending += 1
            self._fetch(key, self.sizes[key // self.stride], key in found.from_storage, DEMAND, "load", self._loaded)
        for key in decision.low:
            self._pending += 1
            size = max(round(self.sizes[key // self.stride] * self.residency.action.fraction), 1)
            self._fetch(key, size, key in found.from_storage, DEMAND, "load low", self._loaded)
        for key in decision.cpu:
            self._pending += 1
            if key in found.from_storage:
                self._read(key, self._on_cpu)
            else:
                self._queue_cpu(key)
        tally.count(decision)

    def _fetch(self, key: int, size: int, from_storage: bool, priority: int, what: str, done: Any) -> Fetch:
        links = self.links
        names = (["nvme"] if from_storage or "pcie" not in links else []) + (["pcie"] if "pcie" in links else [])
        fetch = Fetch(key, [links[name] for name in names], size, priority, what, done)
        fetch.start()
        return fetch

    def _read(self, key: int, done: Any) -> None:
        """Bring an expert from storage to DRAM only."""
        Fetch(key, [self.links["nvme"]], self.sizes[key // self.stride], DEMAND, "read", done).start()

    def _loaded(self, fetch: Fetch) -> None:
        self._ready(fetch.key)
        self._one_done()

    def _ready(self, key: int) -> None:
        """Compute an expert that is there: now, or when all are, without overlap."""
        if self.overlap:
            self._compute(key)
        else:
            self._held.append(key)

    def _compute(self, key: int) -> None:
        begin = max(self._gpu, self.env.now)
        seconds = self.costs.expert(self._layer, self._tokens.get(key, 1))
        self._gpu = begin + seconds
        self.tally.compute += seconds
        if self.log is not None:
            self.log.note(begin, self._gpu, "gpu", "expert", key)

    def _one_done(self) -> None:
        self._pending -= 1
        if not self._pending and self._waiting is not None:
            self._waiting.succeed()

    def _on_cpu(self, fetch: Fetch) -> None:
        self._queue_cpu(fetch.key)

    def _queue_cpu(self, key: int) -> None:
        self._cpu.append((key, self._tokens.get(key, 1)))
        if not self._cpu_busy:
            self._next_on_cpu()

    def _next_on_cpu(self) -> None:
        self._cpu_busy = bool(self._cpu)
        if not self._cpu:
            return
        key, tokens = self._cpu.popleft()
        overhead, size, rate = self.costs.on_cpu(key // self.stride, tokens)
        begin = self.env.now

        def done() -> None:
            self.tally.cpu += self.env.now - begin
            self._note(begin, "cpu", "expert", key)
            self._one_done()
            self._next_on_cpu()

        flow = Flow(size, Lane(rate), done)
        if overhead > 0:
            ready = self.env.timeout(overhead)
            ready.callbacks.append(lambda _: self.flows.start(flow))
        else:
            self.flows.start(flow)

    def _prefetch(self, step: Step, place: int, work: Work) -> None:
        assert self.prefetcher is not None
        wanted = list(self.prefetcher.propose(step, place))
        if not wanted:
            return
        residency = self.residency
        protected = {*work.keys, *self._in_flight}
        for key in wanted:
            pool = residency.pool_of_layer[key // self.stride]
            if key in pool.resident or not pool.prefetch(key, protected):
                continue
            for gone in residency.put_out:
                self._note(self.env.now, "cache", "evict", gone)
                self.tally.evicted(gone, for_prefetch=True)
            residency.put_out.clear()
            size = self.sizes[key // self.stride]
            self.tally.prefetched(key, size, step.phase)
            from_storage = False
            if residency.dram is not None:
                residency.dram.view.step = step.number
                from_storage = bool(residency.dram.coresident([key]))
            self._in_flight[key] = self._fetch(key, size, from_storage, PREFETCH, "prefetch", self._prefetch_arrived)
            protected.add(key)

    def _prefetch_arrived(self, fetch: Fetch) -> None:
        self._in_flight.pop(fetch.key, None)
        if fetch.priority == DEMAND:  # its layer is waiting for it
            self._loaded(fetch)

    def _evict(self, found: Lookup) -> None:
        for key in found.evicted:
            fetch = self._in_flight.pop(key, None)
            if fetch is not None:
                fetch.cancel()
            self.tally.evicted(key, for_prefetch=False)
            self._note(self.env.now, "cache", "evict", key)

    def _forget_prefetches(self) -> None:
        for fetch in self._in_flight.values():
            fetch.cancel()
        self._in_flight.clear()
        self.tally.emptied()

    def _note(self, start: float, track: str, what: str, key: int = -1) -> None:
        if self.log is not None:
            self.log.note(start, self.env.now, track, what, key)
