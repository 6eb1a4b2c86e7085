"""How much of published speeds follows from hit rates: two fitted numbers per sweep, and what is left over.

    python -m lrcsim.experiments.published_sweeps               # the tables of this folder's README
    python -m lrcsim.experiments.published_sweeps --any-three   # the best of any three numbers (minutes)

Rests on this: in a layer with k experts each misses with probability 1 - hit rate, independently of the others. The
engine gives the time of a token whose layers all miss m of k, for m = 0..k; a token's expected time is their mean with
binomial weights, exactly so, because layers follow one another.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import numpy.typing as npt

from lrcsim.calibration.from_run.fit import Fit, fit_numbers
from lrcsim.calibration.from_run.rerun import Rerun
from lrcsim.experiments.published_sweeps.data import MIXTRAL, SINGLE, SWEEPS, Offloaded, Sweep
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


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m lrcsim.experiments.published_sweeps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--any-three", action="store_true", help="try all choices of three numbers too")
    options = parser.parse_args()
    for sweep in SWEEPS:
        found = explain(sweep)
        numbers = ", ".join(f"{path} {of.value:.4g}" for path, of in found.fit.numbers.items())
        print(f"\n{sweep.name}: {numbers} (SI), transfers {'overlap' if found.overlap else 'do not overlap'} compute\n")
        print(
            "| experts per layer | hit rate | misses per token | measured | predicted | error | per miss | marginal |"
        )
        print("|---:|---:|---:|---:|---:|---:|---:|---:|")
        for i, (slots, rate) in enumerate(zip(sweep.experts, sweep.hit_rate, strict=True)):
            marginal = f"{1e3 * found.marginal[i - 1]:.2f} ms" if i else ""
            print(
                f"| {slots:g} | {100 * rate:.1f} % | {found.misses[i]:.1f} | {1 / found.measured[i]:.2f} tok/s | "
                f"{1 / found.predicted[i]:.2f} tok/s | {100 * (found.measured[i] / found.predicted[i] - 1):+.1f} % | "
                f"{1e3 * found.per_miss[i]:.2f} ms | {marginal} |"
            )
        if options.any_three:
            error, three = best_of_any_three(sweep)
            print(f"\nthe best of any three numbers, {', '.join(three)}: {100 * error:.1f} % at the worst point")
    wall, misses, size = no_miss(SINGLE)
    measured = 1 / SINGLE.tokens_per_s[0]
    print(f"\n{SINGLE.name}: {1e3 * measured:.1f} ms measured; {1e3 * wall:.1f} ms without a miss on {SINGLE.base};")
    left = measured - wall
    print(
        f"{1e3 * left:.1f} ms left for {misses:.1f} misses: {1e3 * left / misses:.2f} ms each, {size / 1e6:.2f} MB of"
    )
    print(f"experts at {size * misses / left / 1e9:.1f} GB/s")
    geometry = load_geometry("mixtral-8x7b")
    size, accesses = float(expert_bytes(geometry, "q2_k").mean()), len(geometry.moe_layers) * geometry.top_k
    print(
        "\n| machine | slots | saved by the cache, per use | by prefetch, per token | one expert | hit rate implied |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for of in MIXTRAL:
        link = load_profile(f"rtx-4090+{of.link}").device_link
        assert link is not None
        load, saved = size / link.bandwidth, saved_per_access(of, accesses)
        prefetch = 1 / of.no_prefetch - 1 / of.full
        print(
            f"| {of.machine} | {of.slots} | {1e3 * saved:.2f} ms | {1e3 * prefetch:.0f} ms | {1e3 * load:.2f} ms "
            f"({of.link}) | {100 * saved / load:.0f} % |"
        )
