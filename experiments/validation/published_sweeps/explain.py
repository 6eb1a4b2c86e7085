"""How much of published speeds follows from hit rates: two fitted numbers per sweep, and what is left over.

Rests on this: in a layer with k experts each misses with probability 1 - hit rate, independently of the others. The
engine gives the time of a token whose layers all miss m of k, for m = 0..k; a token's expected time is their mean with
binomial weights, exactly so, because layers follow one another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt

from lrcsim.calibration.from_run.fit import Fit, fit_numbers
from lrcsim.calibration.from_run.rerun import Rerun
from lrcsim.experiments.validation.published_sweeps.data import Offloaded, Sweep
from lrcsim.hardware import HardwareProfile, load_profile
from lrcsim.models import Geometry, expert_bytes, load_geometry
from lrcsim.traces import RoutingTrace

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Explained:
    """A sweep beside what two fitted numbers make of it; arrays float64 [points].

    Attributes:
        fit: what was fitted.
        overlap: whether transfers overlap compute, whichever fits better.
        misses: per token.
        measured: seconds per token.
        predicted: seconds per token.
        per_miss: measured seconds beyond those of a token without a miss on the fitted machine, per miss.
        marginal: measured seconds saved from one point to the next per miss saved, float64 [points - 1].
    """

    fit: Fit
    overlap: bool
    misses: FloatArray
    measured: FloatArray
    predicted: FloatArray
    per_miss: FloatArray
    marginal: FloatArray


def rerun_by_misses(geometry: Geometry, dtype: str) -> Rerun:
    """Return k + 1 decode steps, in step m of which every layer misses m of its k experts (and hits the others).

    LRU with k slots per layer: a prompt token loads k experts; step m uses k - m of the step before and m new ones.
    """
    k, layers = geometry.top_k, len(geometry.moe_layers)
    steps = [list(range(k))]
    fresh = k
    for m in range(k + 1):
        steps.append([*steps[-1][m:], *range(fresh, fresh + m)])
        fresh += m
    enough = replace(geometry, experts=max(fresh, geometry.experts))
    experts = np.array(steps, np.int16)[:, None, :].repeat(layers, axis=1)
    phase = np.array([0] + [1] * (k + 1), np.uint8)
    trace = RoutingTrace.from_arrays(
        experts,
        num_experts=enough.experts,
        phase=phase,
        expert_bytes=expert_bytes(geometry, dtype).tolist(),
        model=geometry.name,
    )
    rerun = Rerun(trace, enough, dtype=dtype, cache=f"{k}")
    assert (rerun.misses == layers * np.arange(k + 1)).all()
    return rerun


def weights(k: int, hit_rate: Sequence[float]) -> FloatArray:
    """Return float64 [points, k + 1]: the chance that m of k experts miss."""
    return np.array([[math.comb(k, m) * (1 - h) ** m * h ** (k - m) for m in range(k + 1)] for h in hit_rate])


def explain(sweep: Sweep) -> Explained:
    geometry = load_geometry(sweep.model)
    base = load_profile(sweep.base, sweep.overrides)
    rerun = rerun_by_misses(geometry, sweep.dtype)
    chance = weights(geometry.top_k, sweep.hit_rate)
    measured = 1 / np.array(sweep.tokens_per_s)
    fits = []
    for overlap in (True, False):

        def predict(profile: HardwareProfile, overlap: bool = overlap) -> dict[str, FloatArray]:
            return {"wall": chance @ rerun.times(profile, overlap=overlap).wall}

        fits.append((fit_numbers(predict, base, sweep.fit, {"wall": measured}, "squares"), overlap, predict))
    fit, overlap, predict = min(fits, key=lambda found: found[0].score)
    misses = len(geometry.moe_layers) * geometry.top_k * (1 - np.array(sweep.hit_rate))
    without = rerun.times(fit.profile, slice(0, 1), overlap=overlap).wall[0]
    return Explained(
        fit,
        overlap,
        misses,
        measured,
        predict(fit.profile)["wall"],
        (measured - without) / misses,
        np.diff(measured) / np.diff(misses),
    )


def best_of_any_three(sweep: Sweep) -> tuple[float, tuple[str, ...]]:
    """Return the smallest greatest error over the points that any three numbers leave, and which three they are."""
    link = sweep.fit[1].partition(".")[0]
    numbers = ("gpu.bandwidth", "gpu.overhead", "layer_overhead", "expert_overhead")
    tried = []
    for three in combinations((*numbers, f"{link}.bandwidth", f"{link}.latency"), 3):
        found = explain(replace(sweep, fit=three))
        tried.append((float(np.abs(found.measured / found.predicted - 1).max()), three))
    return min(tried)


def no_miss(sweep: Sweep) -> tuple[float, float, float]:
    """Return seconds of a token without a miss on the base profile, misses per token, and bytes of an expert."""
    geometry = load_geometry(sweep.model)
    profile = load_profile(sweep.base, sweep.overrides)
    wall = rerun_by_misses(geometry, sweep.dtype).times(profile, slice(0, 1)).wall[0]
    misses = len(geometry.moe_layers) * geometry.top_k * (1 - sweep.hit_rate[0])
    return float(wall), misses, float(expert_bytes(geometry, sweep.dtype).mean())


def saved_per_access(of: Offloaded, accesses: int) -> float:
    """Return seconds that the cache saves per expert used: hit rate times the cost of a miss."""
    return (1 / of.no_cache - 1 / of.no_prefetch) / accesses
