"""One trace over many machines: the caches run once, the clock as often as it is asked.

What hits does not depend on time, so everything the caches decide is recorded in one pass and handed to an `Engine` for
each profile that is tried. Only the decode steps are kept; prefill only fills the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.hardware import HardwareProfile
from lrcsim.models import Geometry, check_trace, expert_bytes, matching_dtype
from lrcsim.policies import PolicySpec, make_policy
from lrcsim.runtimes import IDEAL, Runtime
from lrcsim.runtimes.machine_under import machine_under
from lrcsim.simulator.cache.capacity import CacheSize, Scope
from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.serving.steps import LayerStep, Step, StepSize, steps_of
from lrcsim.simulator.setup.costs import RooflineCosts
from lrcsim.simulator.setup.miss_actions import Load
from lrcsim.simulator.setup.outcomes import Outcome
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.engine import Engine
from lrcsim.simulator.time.residency import Lookup, Residency
from lrcsim.traces import DECODE, RoutingTrace
from lrcsim.traces.schedule import Schedule

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class StepTimes:
    """What decode steps take, float64 [steps] in seconds; ``wall = compute + stall + overhead``.

    Attributes:
        wall: from begin to end.
        compute: the device computes.
        stall: it waits for experts.
        overhead: synchronisation and bookkeeping.
    """

    wall: FloatArray
    compute: FloatArray
    stall: FloatArray
    overhead: FloatArray

    def column(self, name: str) -> FloatArray:
        """Return one of the four by its name."""
        values: FloatArray = getattr(self, name)
        return values


class Rerun:
    """The decode steps of a trace, with what a cache found in each, ready to be timed on any machine.

    Every miss is loaded when it is needed; nothing is brought ahead.

    Args:
        trace: the routing trace.
        geometry: the model that was traced.
        dtype: how its weights are stored; None: the one whose experts are as large as the trace's (`matching_dtype`).
        policy: eviction policy, by name with parameters.
        cache: cache size (`resolve_capacity`).
        scope: ``"layer"`` or ``"model"``.
        prefill: how prompt tokens make steps.
        warm: whether the cache is kept between requests.

    Attributes:
        steps: decode steps.
        misses: int64 [steps], experts loaded.
        bytes: int64 [steps], of them.
        dtype: as used.
        recorded_bytes: int64 [steps], what the engine that was traced loaded, where the trace says what was resident.

    Raises:
        ConfigError: the model is not the trace's, or an option is not allowed.
        PolicyError: the policy is unknown or cannot serve the trace.
    """

    def __init__(
        self,
        trace: RoutingTrace,
        geometry: Geometry,
        *,
        dtype: str | None = None,
        policy: PolicySpec = "lru",
        cache: CacheSize = "2x",
        scope: Scope = "layer",
        prefill: str | None = None,
        warm: bool | None = None,
    ) -> None:
        check_trace(geometry, trace)
        self.geometry = geometry
        self.dtype = dtype or matching_dtype(geometry, trace)
        known = trace.expert_bytes
        if trace.layers.sized_by_expert:
            raise ConfigError(
                "experts of a layer differ in bytes in this trace: a run is fitted with one size per layer"
            )
        self._sizes = np.asarray(expert_bytes(geometry, self.dtype) if known is None else known, np.int64)
        self._dense = None if known is None else trace.layers.dense_bytes
        if known is None:
            trace.layers = trace.layers.with_expert_bytes(self._sizes.tolist())
        run = Run.of(trace, policy=policy, cache=cache, scope=scope, prefill=prefill, warm=warm)
        tried = make_policy(policy)
        schedule = Schedule(trace, run.prefill, weights="weights" in tried.needs | tried.wants)
        future = Future(schedule, run.access, run.warm) if "future" in tried.needs else None
        self._residency = residency = Residency(run, Load())
        if future is not None:
            for pool in residency.pools:
                pool.view.upcoming = future.of_pool(pool.view.layers)
        self._steps: list[Step] = []
        self._lookups: list[list[Lookup]] = []
        for step in steps_of(schedule, future):
            residency.begin(step)
            found = [residency.look_up(step, work) for work in step.layers]
            if "phase" not in trace.columns or step.phase == DECODE:
                step.following = None  # no prefetcher asks for it, and it would keep every step alive
                self._steps.append(step)
                self._lookups.append(found)
        if not self._steps:
            raise ConfigError("the trace has no decoded token: calibrating compares decode steps")
        loads = [[lookup.decision.get(Outcome.LOADED, []) for lookup in found] for found in self._lookups]
        self.steps = len(self._steps)
        self.misses = np.array([sum(map(len, step)) for step in loads], np.int64)
        stride = trace.num_experts
        self.bytes = np.array(
            [sum(int(self._sizes[key // stride]) for keys in step for key in keys) for step in loads], np.int64
        )
        self.recorded_bytes = self._recorded(trace)

    def times(
        self,
        profile: HardwareProfile,
        steps: slice = slice(None),
        *,
        runtime: Runtime = IDEAL,
        overlap: bool = True,
        compute: FloatArray | None = None,
    ) -> StepTimes:
        """Time decode steps on a machine.

        Args:
            profile: the machine.
            steps: which of the decode steps.
            runtime: what runs the model there.
            overlap: whether transfers run beside compute, where the runtime lets them.
            compute: float64 [steps chosen], seconds the device computes in each, when they are known: all compute of
                a step is stretched to give them, and transfers then hide behind more or less of it. None: the roofline.

        Raises:
            ConfigError: the machine has no link over which experts could come.
        """
        if not profile.links:
            raise ConfigError(f"hardware {profile.name} has neither pcie nor nvme: experts that miss come over one")
        machine = machine_under(profile, runtime)
        overlap = overlap and runtime.loads.overlap != "none"
        plain = self._run(machine, runtime, steps, overlap, None)
        if compute is None:
            return plain
        return self._run(machine, runtime, steps, overlap, compute / plain.compute)

    def _run(
        self, profile: HardwareProfile, runtime: Runtime, chosen: slice, overlap: bool, factors: FloatArray | None
    ) -> StepTimes:
        costs = _Scaled(self.geometry, profile, self.dtype, self._sizes, runtime=runtime, dense=self._dense)
        steps = self._steps[chosen]
        found = [lookup for lookups in self._lookups[chosen] for lookup in lookups]

        def paced() -> Iterator[Step]:  # the engine asks for a step when the one before has ended
            for place, step in enumerate(steps):
                costs.factor = 1.0 if factors is None else float(factors[place])
                yield step

        residency = _Recorded(self._residency, found)
        engine = Engine(paced(), residency, costs, profile, self._sizes.tolist(), runtime=runtime, overlap=overlap)
        begin, end, busy, overhead, _ = engine.run().by_step().T
        wall = end - begin
        return StepTimes(wall, busy.copy(), np.maximum(wall - busy - overhead, 0.0), overhead.copy())

    def _recorded(self, trace: RoutingTrace) -> npt.NDArray[np.int64] | None:
        """Add up the experts that the trace marks as missing; None without marks, or if steps are no single tokens."""
        tokens = [step.first_token for step in self._steps]
        if "residency" not in trace.columns or any(step.size.tokens != 1 for step in self._steps):
            return None
        missing = trace.read("residency", 0, trace.num_tokens)[tokens] == 0  # [steps, L, k]
        recorded = trace.read("experts", 0, trace.num_tokens)[tokens] >= 0
        loaded: npt.NDArray[np.int64] = ((missing & recorded).sum(axis=2) * self._sizes).sum(axis=1)
        return loaded


class _Recorded(Residency):
    """Gives back what another one found."""

    def __init__(self, residency: Residency, found: Sequence[Lookup]) -> None:
        self.__dict__.update(residency.__dict__)
        self._found = iter(found)

    def begin(self, step: Step) -> bool:
        return False

    def look_up(self, step: Step, work: LayerStep) -> Lookup:
        return next(self._found)


class _Scaled(RooflineCosts):
    """A roofline on a machine that runs slower or faster by ``factor`` for a while."""

    factor = 1.0

    def before(self, layer: int, size: StepSize) -> float:
        return self.factor * super().before(layer, size)

    def after(self, size: StepSize) -> float:
        return self.factor * super().after(size)

    def expert(self, layer: int, tokens: int, key: int = -1) -> float:
        return self.factor * super().expert(layer, tokens)
