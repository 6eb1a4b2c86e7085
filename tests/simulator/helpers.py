"""Tiny machines, traces and runs in round numbers: an expert has 100 bytes, a link moves 100 bytes/s, unless told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.hardware import Cpu, Dram, Gpu, HardwareProfile, Link
from lrcsim.policies import View, make_policy
from lrcsim.runtimes import IDEAL, Runtime
from lrcsim.runtimes.machine_under import machine_under
from lrcsim.simulator.cache.capacity import PoolSize, resolve_capacity
from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.cache.pool import Pool
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.serving.steps import Step, steps_of
from lrcsim.simulator.setup.costs import Costs, FixedCosts
from lrcsim.simulator.setup.miss_actions import MissAction, make_action
from lrcsim.simulator.setup.prefetchers import Prefetcher, make_prefetcher
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.engine import Engine
from lrcsim.simulator.time.residency import Residency
from lrcsim.simulator.time.spans import Log, Span
from lrcsim.simulator.time.tally import Tally
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule

SIZE = 100
"""Bytes of an expert."""


COSTS = FixedCosts(expert_s=1, cpu_bytes=SIZE, cpu_rate=SIZE)
"""An expert takes a second per token where the model runs, and a second on the CPU, undisturbed."""

QUICK = FixedCosts(expert_s=0.25, cpu_bytes=SIZE, cpu_rate=SIZE)
"""Experts that compute in a quarter of a second, so that transfers outlast them."""


def link(
    bandwidth: float = 100,
    *,
    latency: float = 0,
    overhead: float = 0,
    lanes: int = 1,
    chunk: int | None = None,
    name: str = "pcie",
) -> Link:
    return Link(name, bandwidth, latency, overhead, lanes, chunk)


PCIE = link()


def machine(
    pcie: Link | None = PCIE,
    nvme: Link | None = None,
    *more: Link,
    dram: float = 1e6,
    layer_overhead: float = 0,
    expert_overhead: float = 0,
) -> HardwareProfile:
    """Make a machine whose DRAM (bytes/s) is by default too fast to matter; without ``pcie`` its memory is unified.

    Between ``nvme`` and DRAM there may be ``more`` links, by their own names.
    """
    gpu = Gpu(memory=10**6, bandwidth=1e3, compute=1e3, overhead=0)
    cpu = Cpu(compute=1e3, bandwidth=100, overhead=0, cores=1)
    return HardwareProfile(
        name="test",
        gpu=gpu,
        cpu=cpu,
        dram=Dram(10**6, dram),
        links=(*path(None, nvme), *more, *path(pcie, None)),
        unified=pcie is None,
        layer_overhead=layer_overhead,
        expert_overhead=expert_overhead,
    )


def path(pcie: Link | None, nvme: Link | None) -> tuple[Link, ...]:
    """Return the links that are there, by these names, from storage to the device."""
    return tuple(replace(link, name=name) for link, name in ((nvme, "nvme"), (pcie, "pcie")) if link is not None)


def trace(*tokens: str, experts: int = 6, **columns: Any) -> RoutingTrace:
    """Make a trace of tokens like ``"01|2"``: experts 0 and 1 in layer 0, expert 2 in layer 1; ``_``: not recorded."""
    rows = [[[-1 if expert == "_" else int(expert) for expert in layer] for layer in t.split("|")] for t in tokens]
    width = max(len(layer) for row in rows for layer in row)
    ids = np.array([[layer + [-1] * (width - len(layer)) for layer in row] for row in rows])
    return RoutingTrace.from_arrays(ids, num_experts=experts, **columns)


class Wishes(Prefetcher):
    """Prefetch what a test says: for (step, layer-step), expert names such as ``"1.3"`` (layer.expert)."""

    def __init__(self, **wishes: str) -> None:
        """Take wishes as ``after_0_1="1.3 1.4"``: in step 0, at its layer-step 1."""
        super().__init__()
        self.wishes = {tuple(map(int, name.split("_")[1:])): names.split() for name, names in wishes.items()}

    def propose(self, step: Step, place: int) -> list[int]:
        named = [name.split(".") for name in self.wishes.get((step.number, place), [])]
        return [int(layer) * self.stride + int(expert) for layer, expert in named]


class Finished(NamedTuple):
    """What came out of a run."""

    tally: Tally
    counts: Counts
    spans: list[Span]
    engine: Engine

    @property
    def events(self) -> list[str]:
        """Every span as a line, ``"0-1.5 pcie load 0.3"`` (layer.expert), sorted by start, end and track."""
        return [line(span) for span in sorted(self.spans, key=lambda span: (span.start, span.end, span.track))]


def line(span: Span) -> str:
    when = number(span.start) if span.start == span.end else f"{number(span.start)}-{number(span.end)}"
    where = "" if span.layer < 0 else f" {span.layer}" if span.expert < 0 else f" {span.layer}.{span.expert}"
    return f"{when} {span.track} {span.what}{where}"


def number(seconds: float) -> str:
    return repr(float(seconds)).removesuffix(".0")


class Settled(NamedTuple):
    """What an engine is made of, whichever engine it is.

    Attributes:
        job: the trace and its pools.
        uses: float64 [keys], the profile.
        hardware: the machine under the runtime.
        of_layer: bytes of an expert, by layer.
        action: what becomes of misses.
        prefetcher: not yet told of the trace.
        dram: of the cache in DRAM, experts of all layers; None: it holds all.
        shrink: takes a step and a pool, returns slots less; None: none.
        log: whether spans are kept.
    """

    job: Run
    uses: npt.NDArray[np.float64]
    hardware: HardwareProfile
    of_layer: list[int]
    action: MissAction
    prefetcher: Prefetcher
    costs: Costs
    runtime: Runtime
    overlap: bool
    dram: PoolSize | None
    shrink: Any
    log: bool


def settled(
    routing: RoutingTrace,
    capacity: Any,
    hardware: HardwareProfile | None = None,
    *,
    policy: Any = "lru",
    scope: Any = "layer",
    action: str | MissAction = "load",
    prefetch: str | Prefetcher = "none",
    costs: Costs = COSTS,
    overlap: bool = True,
    warm: bool = True,
    prefill: str = "step",
    dram: int | None = None,
    shrink: Any = None,
    sizes: Sequence[int] | None = None,
    profile: Sequence[float] | None = None,
    log: bool = True,
    runtime: Runtime = IDEAL,
) -> Settled:
    """Settle the options of a run; ``dram``: experts that DRAM holds, an LRU cache over NVMe, None: all."""
    hardware = machine_under(hardware or machine(), runtime)
    layers, stride = routing.num_layers, routing.num_experts
    uses = np.zeros(layers * stride) if profile is None else np.asarray(profile, np.float64)
    pools = capacity if isinstance(capacity, tuple) else tuple(resolve_capacity(capacity, routing.layers, scope))
    return Settled(
        job=Run.in_pools(routing, policy, pools, "coresident", prefill, warm, uses),
        uses=uses,
        hardware=hardware,
        of_layer=[SIZE] * layers if sizes is None else list(sizes),
        action=make_action(action, hardware),
        prefetcher=make_prefetcher(prefetch),
        costs=costs,
        runtime=runtime,
        overlap=overlap,
        dram=None if dram is None else PoolSize(tuple(range(layers)), dram),
        shrink=shrink,
        log=log,
    )


def engine(routing: RoutingTrace, capacity: Any, hardware: HardwareProfile | None = None, **options: Any) -> Engine:
    """Make an engine; arguments as of `settled`."""
    one = settled(routing, capacity, hardware, **options)
    layers, stride = routing.num_layers, routing.num_experts
    below = None
    if one.dram is not None:
        view = View(one.dram.capacity, stride, one.dram.layers, layers, routing.top_k)
        below = Pool(one.dram, make_policy("lru"), view)
    residency = Residency(one.job, one.action, below, one.shrink, one.of_layer)
    wanted = residency.pools[0].policy.needs | residency.pools[0].policy.wants
    schedule = Schedule(routing, one.job.prefill, weights="weights" in wanted)
    future = None
    if "future" in wanted:
        future = Future(schedule, "coresident", one.job.warm)
        for pool in residency.pools:
            pool.view.upcoming = future.of_pool(pool.view.layers)
    fetcher = one.prefetcher
    fetcher.trace, fetcher.stride, fetcher.num_layers, fetcher.top_k = routing, stride, layers, routing.top_k
    fetcher.profile = one.uses
    fetcher.reset()
    return Engine(
        steps_of(schedule, future, uses="weights" in one.action.needs),
        residency,
        one.costs,
        one.hardware,
        one.of_layer,
        runtime=one.runtime,
        overlap=one.overlap,
        prefetcher=fetcher,
        log=Log(stride) if one.log else None,
    )


def run(*arguments: Any, **options: Any) -> Finished:
    """Make an engine (`engine`) and run it."""
    made = engine(*arguments, **options)
    tally = made.run()
    return Finished(tally, made.residency.finish(), made.log.spans if made.log is not None else [], made)
