"""Tokens per second of one configuration, from the engine that keeps time; and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from lrcsim.hardware import HardwareProfile
from lrcsim.models import Geometry
from lrcsim.planner.workload import PLACED, Fold, Workload
from lrcsim.runtimes import IDEAL, Runtime
from lrcsim.runtimes.machine_under import machine_under
from lrcsim.simulator.metrics.bootstrap import resamples
from lrcsim.simulator.serving.steps import StepSize
from lrcsim.simulator.setup.costs import RooflineCosts
from lrcsim.simulator.setup.options import Options
from lrcsim.simulator.setup.platform import KV_BYTES
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.run_in_time import Timed, run_timed
from lrcsim.traces import DECODE, RoutingTrace
from lrcsim.traces.schedule import Schedule

BLOCK = 32
"""Decoded tokens that are resampled together where there are fewer than `FEW_REQUESTS` requests."""

FEW_REQUESTS = 5
DRAWS = 400
CONFIDENCE = 0.95

Floats = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Setup:
    """A machine and a model to run on it.

    Attributes:
        profile: the machine.
        geometry: the model.
        dtype: how its weights are stored.
        runtime: what runs it.
    """

    profile: HardwareProfile
    geometry: Geometry
    dtype: str
    runtime: Runtime = IDEAL

    @property
    def machine(self) -> HardwareProfile:
        """The machine as the runtime uses it."""
        return machine_under(self.profile, self.runtime)

    def costs(self, kv_bytes_per_value: float) -> RooflineCosts:
        """Return what each part of the model takes, with a KV cache of so many bytes a number."""
        return RooflineCosts(
            self.geometry, self.machine, self.dtype, kv_dtype_bytes=kv_bytes_per_value, runtime=self.runtime
        )

    def dense_seconds(self, context: float, kv_bytes_per_value: float) -> float:
        """Return what a token takes besides its experts, with so many tokens of context: s."""
        return _dense_seconds(self, context, kv_bytes_per_value)


@lru_cache(maxsize=64)
def _dense_seconds(setup: Setup, context: float, kv_bytes_per_value: float) -> float:
    costs = setup.costs(kv_bytes_per_value)
    size = StepSize(1, 1, round(context), round(context))
    return sum(costs.before(layer, size) for layer in range(len(setup.geometry.moe_layers))) + costs.after(size)


@dataclass(frozen=True)
class Speed:
    """What a configuration gives.

    Attributes:
        seconds: float64 [units], of decoding; a unit is a request, or `BLOCK` tokens where there are few.
        tokens: float64 [units], decoded.
        hit_rate: while decoding.
        binds: the resource that was at work for the greatest share of decoding, and that share.
        context: mean tokens of context while decoding.
    """

    seconds: Floats
    tokens: Floats
    hit_rate: float
    binds: tuple[str, float]
    context: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens over seconds, all units together."""
        return float(self.tokens.sum() / self.seconds.sum())

    def at_context(
        self, setup: Setup, context: int, kv_bytes_per_value: float, tokens_per_s: float | None = None
    ) -> float:
        """Return tokens/s with so many tokens of context, where `tokens_per_s` or what is given is the run's own.

        Longer context is more KV cache to read for each token and more arithmetic: what the dense part takes more of
        time is added.
        """
        now = setup.dense_seconds(self.context, KV_BYTES)
        more = setup.dense_seconds(context, kv_bytes_per_value) - now
        return 1.0 / (1.0 / (tokens_per_s or self.tokens_per_s) + max(more, 0.0))


def measure(folds: Sequence[Fold], cache: str, setup: Setup, miss: str = "load") -> Speed:
    """Run replays in time and add them up. Whether memory suffices is not checked: `memory_of` has accounted for it.

    Args:
        folds: what to replay.
        cache: experts per layer, as `simulate` takes it.
        setup: machine and model.
        miss: what to do with misses.

    Raises:
        ConfigError: trace and model do not match.
    """
    parts = [_run(fold, cache, setup, miss) for fold in folds]
    seconds, tokens = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    hits, accesses = (sum(part[2][i] for part in parts) for i in (0, 1))
    busy = {name: sum(part[3][name] for part in parts) / float(seconds.sum()) for name in parts[0][3]}
    binds = max(busy, key=lambda name: busy[name])
    context = float(np.average([part[4] for part in parts], weights=[part[1].sum() for part in parts]))
    return Speed(seconds, tokens, hits / max(accesses, 1), (binds, busy[binds]), context)


def interval(speed: Speed, seed: int = 0) -> tuple[float, float]:
    """Return what tokens/s could have been with other requests: 95 % of bootstrap resamples (percentiles)."""
    found = resampled(speed, seed)
    tail = 50 * (1 - CONFIDENCE)
    low, high = np.percentile(found, [tail, 100 - tail])
    return float(low), float(high)


def resampled(speed: Speed, seed: int = 0) -> Floats:
    """Return tokens/s of `DRAWS` resamples of the units; equal seeds draw alike, so that policies can be compared."""
    drawn = resamples(len(speed.tokens), DRAWS, seed).astype(np.float64)
    rates: Floats = (drawn @ speed.tokens) / (drawn @ speed.seconds)
    return rates


def _run(
    fold: Fold, cache: str, setup: Setup, miss: str
) -> tuple[Floats, Floats, tuple[int, int], dict[str, float], float]:
    trace = fold.trace
    options = Options(
        policy=fold.policy,
        cache=cache,
        profile=fold.profile,
        hardware=setup.profile,
        runtime=setup.runtime,
        model=setup.geometry,
        dtype=setup.dtype,
        miss=miss,
    )
    timed = run_timed(Run.of(trace, options))
    seconds, tokens, context = _units(trace, timed)
    accesses = int(timed.counts.accesses[DECODE].sum())
    hits = accesses - int(timed.counts.misses[DECODE].sum())
    return seconds, tokens, (hits, accesses), _busy(timed), context


def _busy(timed: Timed) -> dict[str, float]:
    """Return the seconds of decoding that each resource was at work; a link's are divided as the misses are."""
    tally, profile = timed.tally, timed.platform.profile
    decode = np.frombuffer(bytes(tally.phases), np.uint8) == DECODE
    compute, overhead, cpu = tally.by_step()[decode, 2:].sum(axis=0).tolist()
    busy = {"gpu": compute, "cpu": cpu} if profile.gpu else {"cpu": compute + cpu}
    missed = timed.counts.misses.sum(axis=1)
    share = float(missed[DECODE] / max(missed.sum(), 1))
    return busy | {"overhead": overhead} | {name: share * use.busy_s for name, use in tally.links.items()}


def decoded_context(workload: Workload) -> float:
    """Return the tokens that attention sees while a workload decodes, in the mean."""
    positions = [_decoded(fold.trace)[1] for fold in workload.folds(PLACED)]
    return float(np.concatenate(positions).mean())


def _decoded(trace: RoutingTrace) -> tuple[IntArray, IntArray, npt.NDArray[np.bool_]]:
    """Return the request of each decoded token, the tokens it sees, and which recorded steps these are."""
    steps = Schedule(trace).all_steps()
    recorded = np.logical_or.reduceat((trace.experts >= 0).any(axis=(1, 2)), steps.starts[:-1])
    decode = steps.phase[recorded] == DECODE
    request = steps.request[recorded][decode]
    return request, steps.starts[1:][recorded][decode] - trace.offsets[request], decode


def _units(trace: RoutingTrace, timed: Timed) -> tuple[Floats, Floats, float]:
    """Return seconds and tokens decoded of each unit, and the mean context, of a run of single requests."""
    request, position, decode = _decoded(trace)
    taken = np.diff(timed.tally.by_step()[:, :2], axis=1)[:, 0][decode]
    if len(np.unique(request)) < FEW_REQUESTS:
        request = np.arange(len(taken)) // BLOCK
    seconds = np.bincount(request, weights=taken).astype(np.float64)
    tokens = np.bincount(request).astype(np.float64)
    used = tokens > 0
    return seconds[used], tokens[used], float(position.mean())
