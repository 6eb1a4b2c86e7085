"""How short a run could have been: by its compute, by its links, by the fewest bytes it had to load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.reprs import short_repr
from lrcsim.simulator.baselines import Free, LeastBytes
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.serving.steps import steps_of
from lrcsim.simulator.setup.miss_actions import loaded_share
from lrcsim.simulator.setup.outcomes import Outcome
from lrcsim.simulator.setup.platform import Platform
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.compute_alone import compute_alone
from lrcsim.simulator.time.host import launches
from lrcsim.simulator.time.tally import Tally
from lrcsim.traces import DECODE, PREFILL
from lrcsim.traces.schedule import Schedule

Phases = npt.NDArray[np.float64]  # [2], seconds of prefill and of decode
MOST_KNOWN = 10_000  # sets of experts whose seconds are remembered


@dataclass(frozen=True)
class Limits:
    """Lower bounds on the time that steps take, each float64 [2]: seconds of prefill, of decode.

    Attributes:
        compute_only: compute and synchronisation, nothing else. Where misses may run on the CPU: those of the best
            division of every layer-step's experts between the two. Experts that were skipped stay skipped.
        link_bound: the bytes this run moved over its slowest link, at its full bandwidth, without a pause.
        link: that link's name, empty where nothing was moved.
        optimum: the greater of ``compute_only`` and of moving what no policy and no prefetcher can do without. None
            where misses are not simply loaded, or nobody asked for it.
        optimum_total: seconds of both phases together by the same rule: more than the sum where the bytes of one phase
            may have been loaded in the other.
        reachable: whether there is a policy that loads as little.
        resident: all experts resident, hence computed where the model runs: no bound where misses may run on the CPU,
            as then two compute.
        tokens: decoded.
        measured: what the run took.
        busy: by resource, the share of the run that it was at work.
    """

    compute_only: Phases
    link_bound: Phases
    link: str
    optimum: Phases | None
    optimum_total: float
    reachable: bool
    resident: Phases
    tokens: int
    measured: Phases
    busy: dict[str, float]

    __repr__ = short_repr

    @property
    def binds(self) -> dict[str, Any]:
        """The resource that was at work for the greatest share of the run, and that share."""
        name = max(self.busy, key=lambda resource: self.busy[resource])
        return {"resource": name, "busy": self.busy[name], "all": self.busy}

    def to_dict(self) -> dict[str, Any]:
        """Return the bounds as JSON values; ``ratio`` is the run's time over the bound's, never below 1."""
        result = {
            "compute_only": self._times(self.compute_only) | {"proven": True, "of": "compute and synchronisation"},
            "link_bound": self._times(self.link_bound)
            | {"proven": True, "of": "the bytes that this run moved", "link": self.link or None},
        }
        if self.optimum is not None:
            of = "the loads of the optimal policy, all ahead of their use"
            if not self.reachable:
                of = "bytes that no policy does without; it need not be reachable"
            times = self._times(self.optimum, self.optimum_total)
            result["optimum"] = times | {"proven": True, "reachable": self.reachable, "of": of}
        return result

    def all_resident(self) -> dict[str, Any]:
        """Return what the run would take with all experts resident, to compare with, as JSON values."""
        return self._times(self.resident)

    def _times(self, seconds: Phases, total: float = 0.0) -> dict[str, Any]:
        decode, total = float(seconds[DECODE]), max(float(seconds.sum()), total)
        return {
            "total_s": total,
            "decode_s": decode,
            "decode_tokens_per_s": self.tokens / decode if decode > 0 and self.tokens else None,
            "ratio": float(self.measured.sum() / total) if total > 0 else None,
            "decode_ratio": float(self.measured[DECODE] / decode) if decode > 0 else None,
        }


def time_limits(
    job: Run, platform: Platform, tally: Tally, counts: Counts, least: LeastBytes | None, *, compiled: bool = False
) -> Limits:
    """Work out the bounds of a run.

    Args:
        job: what was run.
        platform: on what.
        tally: what it took.
        counts: hits, misses and loads.
        least: bytes that have to be loaded, on a machine that loads every miss; None where they are not known.
        compiled: whether the run was compiled, and its bounds are to be.
    """
    steps = tally.by_step()
    decode = np.frombuffer(bytes(tally.phases), np.uint8) == DECODE
    measured = _by_phase(steps[:, 1] - steps[:, 0], decode)
    share = loaded_share(platform.action)
    two = tally.misses(Outcome.ON_CPU) + tally.misses(Outcome.ADMITTED) > 0 or (
        share is not None and share < 1
    )  # compute at once
    overhead = _layers_alone(_by_phase(steps[:, 3], decode), platform, counts, job.trace.num_layers, two)
    if two and tally.alone is not None:
        resident, compute = tally.alone
    elif two:
        resident, compute = computed(job, platform, compiled=compiled)
    else:  # all was computed where the model runs, whether it was resident or not
        resident = compute = _by_phase(steps[:, 2], decode)
    shortest = compute + overhead
    needs = {name: np.array(tally.moved[name]) / use.bandwidth for name, use in tally.links.items() if use.bytes}
    link = max(needs, key=lambda name: float(needs[name].sum())) if needs else ""
    optimum, total = None, 0.0
    if least is not None and platform.profile.links:
        slowest = min(link.bandwidth for link in platform.profile.load_links)
        optimum = np.maximum(shortest, np.array([least.prefill, least.decode]) / slowest)
        total = least.total / slowest
    busy = {"gpu" if platform.profile.gpu else "cpu": tally.compute, "overhead": tally.overhead}
    if platform.profile.gpu or tally.cpu:
        busy["cpu" if platform.profile.gpu else "cpu (missed experts)"] = tally.cpu
    busy |= {name: use.busy_s for name, use in tally.links.items()}
    return Limits(
        compute_only=shortest,
        link_bound=needs.get(link, np.zeros(2)),
        link=link,
        optimum=optimum,
        optimum_total=total,
        reachable=least is not None and least.reachable,
        resident=resident + overhead,
        tokens=tally.decode_tokens(),
        measured=measured,
        busy={name: seconds / tally.total if tally.total else 0.0 for name, seconds in busy.items()},
    )


def _layers_alone(overhead: Phases, platform: Platform, counts: Counts, layers: int, two: bool) -> Phases:
    """Return what of the overhead is due without a single miss: that of layers.

    What the device waits for launches, where the host launches ahead, is among it: waiting for experts only hides more
    of them. It is left out where two compute, as it would depend on how experts are divided, and where the host asks
    for transfers ahead, as it is not known by phase for how many.
    """
    profile, runtime = platform.profile, platform.runtime
    assert counts.loads is not None  # Residency counts both
    assert counts.loaded_bytes is not None
    by_loads = profile.expert_overhead * counts.loads + runtime.loads.byte * counts.loaded_bytes
    alone = np.maximum(overhead - by_loads, 0.0)
    unclear = runtime.device.ahead and (two or platform.prefetcher is not None)
    if runtime.loads.eviction or runtime.cpu.layer or unclear:  # how often they were due is not known by phase
        alone = np.minimum(alone, profile.layer_overhead * counts.steps * layers)
    return alone


def free_loads(tally: Tally, counts: Counts) -> Free:
    """Return what a run may have had in its caches without a transfer in the steps in question."""
    steps, phases = tally.by_step(), np.frombuffer(bytes(tally.phases), np.uint8)
    idle = steps[1:, 0] > steps[:-1, 1]
    broken = idle | (phases[1:] != phases[:-1])
    of_phase = [int(np.count_nonzero(broken & (phases[1:] == phase))) for phase in (PREFILL, DECODE)]
    return Free(counts.preloaded, (of_phase[0], of_phase[1], int(np.count_nonzero(idle))))


def computed(job: Run, platform: Platform, *, compiled: bool = False) -> tuple[Phases, Phases]:
    """Return the seconds of compute with all experts resident, and with the best division of each layer-step's experts.

    Where they are divided some run where the model does, the others meanwhile on the CPU one after the other, as fast
    as main memory allows; experts may be divided too, so this can only be too short.

    Args:
        job: what was run.
        platform: on what.
        compiled: whether to go through the trace compiled (`compute_alone`), where experts of a layer have one size.

    Returns:
        Two of float64 [2]: prefill, decode. The first has launches in it where the host launches ahead and they take
        longer.
    """
    costs, dram = platform.costs, platform.profile.dram.bandwidth
    if compiled and not job.trace.layers.sized_by_expert:
        table, schedule = costs.table(job.trace.num_layers), Schedule(job.trace, job.prefill)
        whole, least = compute_alone(schedule, table, dram, launches(platform.runtime))
        return whole, least
    launch_layer, launch = launches(platform.runtime)
    sizes = job.trace.layers.key_bytes if job.trace.layers.sized_by_expert else None
    # by layer, and of each expert its tokens, and where experts of a layer differ in bytes one of its size, else -1
    known: dict[tuple[int, tuple[tuple[int, int], ...]], tuple[float, float]] = {}
    alike: dict[tuple[int, int], int] = {}  # by layer and bytes: an expert of that size

    def kind(layer: int, key: int) -> int:
        return -1 if sizes is None else alike.setdefault((layer, int(sizes[key])), key)

    def on_cpu(layer: int, tokens: int, key: int) -> float:
        overhead, size, rate = costs.on_cpu(layer, tokens, key)
        return overhead + size / min(rate, dram)

    def experts(layer: int, used: tuple[tuple[int, int], ...]) -> tuple[float, float]:
        gpu = np.array([costs.expert(layer, *one) for one in used])
        return float(gpu.sum()), shared(gpu, np.array([on_cpu(layer, *one) for one in used]))

    resident, divided = [0.0, 0.0], [0.0, 0.0]
    for step in steps_of(Schedule(job.trace, job.prefill)):
        alone = together = costs.after(step.size)
        for work in step.layers:
            numbers = [1] * len(work.keys) if work.tokens is None else work.tokens
            each = [(number, kind(work.layer, key)) for number, key in zip(numbers, work.keys, strict=True)]
            used = (work.layer, tuple(sorted(each)))
            if used not in known:
                if len(known) >= MOST_KNOWN:
                    known.clear()
                known[used] = experts(*used)
            dense, (whole, least) = costs.before(work.layer, step.size), known[used]
            alone += max(dense + whole, launch_layer + launch * len(work.keys))
            together += dense + least
        resident[step.phase] += alone
        divided[step.phase] += together
    return np.array(resident), np.array(divided)


def shared(gpu: npt.NDArray[np.float64], cpu: npt.NDArray[np.float64]) -> float:
    """Return the least, over divisions x, of max(x gpu, (1 - x) cpu), each summed over the experts.

    For every number p from 0 to 1 it is at least the sum of min(p gpu, (1 - p) cpu); at the best p, which is one where
    the two are equal for some expert, it is just that (duality of linear programs).
    """
    both = gpu + cpu
    weights = np.unique(np.divide(cpu, both, out=np.zeros_like(both), where=both > 0))
    if not len(weights):
        return 0.0
    return float(np.minimum(np.outer(weights, gpu), np.outer(1 - weights, cpu)).sum(axis=1).max())


def _by_phase(values: npt.NDArray[np.float64], decode: npt.NDArray[np.bool_]) -> Phases:
    return np.array([values[~decode].sum(), values[decode].sum()])
