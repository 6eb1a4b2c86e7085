"""What is compared between the variants, measured on teacher-forced traces, with bootstrap intervals over requests.

All variants are recorded on the same held-out text, so intervals of differences are paired: one resample of requests is
used for both sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.experiments.paper.curves import RequestCurves, request_curves
from lrcsim.experiments.paper.inputs import requests_of
from lrcsim.simulator import expert_measures, srp
from lrcsim.simulator.metrics.bootstrap import basic_interval, resamples
from lrcsim.simulator.metrics.specialisation import domain_specialisation, vocabulary_specialisation
from lrcsim.traces import RoutingTrace

Floats = npt.NDArray[np.float64]

SEGMENT = 16
CACHE = 2.0  # times the active experts
DRAWS = 200
SEED = 0
CONFIDENCE = 0.95

MEASURES = {
    "srp": "SRP(16)",
    "sch": "SCH(16, 2x)",
    "lru_paper": "LRU 2x, paper's rule",
    "lru": "LRU 2x",
    "optimum": "optimum 2x",
    "domain": "domain specialisation",
    "vocabulary": "vocabulary specialisation",
}
"""Names of the measures and how tables call them. ``sch`` (look-ahead) and ``lru_paper`` follow the paper: one pool for
all layers, its rule of access, every request cold. ``lru`` and ``optimum``: a cache per layer, co-resident batches,
every request cold. ``vocabulary`` is by the routed token."""

RATES: dict[str, tuple[str, Any, str]] = {
    "sch": (f"sch-lookahead:{SEGMENT}", "model", "paper"),
    "lru_paper": ("lru", "model", "paper"),
    "lru": ("lru", "layer", "coresident"),
    "optimum": ("belady", "layer", "coresident"),
}
"""Policy, scope and rule of access of the measures that are hit rates."""

SPECIALISATIONS: dict[str, tuple[str, Callable[[RoutingTrace], Floats]]] = {
    "domain": ("domain", lambda trace: domain_specialisation(trace, SEGMENT)),
    "vocabulary": ("vocabulary_in", vocabulary_specialisation),
}
"""What `ExpertMeasures` calls the others, and how a resample is measured, float64 [L, E]."""

SIZES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
BUSY = 0.95
"""Share of the accesses that a layer's busy experts get."""


@dataclass(frozen=True)
class MeasuredVariant:
    """Measures of one trace, and what the resamples of its requests gave.

    Attributes:
        value: by measure; None where the trace does not allow it.
        drawn: float64 [draws] by measure.
        correlation: Pearson's, over experts, of SRP with a specialisation, by measure.
        curve: LRU's and the optimum's hit rate, a cache per layer, at the relative sizes `SIZES`; keys ``"relative"``,
            ``"lru"``, ``"belady"``.
        knee: relative cache size of LRU's knee, a cache per layer: farthest above the line to the last size.
        busy: by layer, the least number of experts that together get `BUSY` of the accesses.
    """

    value: dict[str, float | None]
    drawn: dict[str, Floats]
    correlation: dict[str, float | None]
    curve: dict[str, list[float]]
    knee: float
    busy: list[int]

    def interval(self, name: str) -> tuple[float, float] | None:
        """Return the 95 % interval of a measure."""
        value = self.value[name]
        return None if value is None else basic_interval(value, self.drawn[name], CONFIDENCE)


def measure(trace: RoutingTrace, progress: Callable[[int, int], None] | None = None) -> MeasuredVariant:
    """Measure a teacher-forced trace whose requests are equally long.

    Args:
        trace: the trace.
        progress: told the measures done, and all.

    Raises:
        ConfigError: the trace has fewer than two requests.
    """
    if trace.num_requests < 2:
        raise ConfigError("the trace has one request, intervals need several")
    whole = srp(trace, SEGMENT, bootstrap=DRAWS, seed=SEED)
    assert whole.draws is not None  # there are several requests
    values: dict[str, float | None] = {"srp": whole.value}
    drawn: dict[str, Floats] = {"srp": whole.draws}
    correlation: dict[str, float | None] = {}
    curves: dict[str, RequestCurves] = {}
    experts = expert_measures(trace, SEGMENT)
    columns = [name for name in ("experts", "token_ids") if name in trace.columns]
    draws = [np.repeat(np.arange(trace.num_requests), times) for times in resamples(trace.num_requests, DRAWS, SEED)]
    for done, name in enumerate(MEASURES, start=1):
        if name in RATES:
            policy, scope, access = RATES[name]
            curves[name] = curve = request_curves(trace, policy, scope, access=access)
            values[name] = float(curve.rate(np.array([CACHE]))[0])
            drawn[name] = curve.drawn(np.array([CACHE]), DRAWS, SEED)[:, 0]
        elif name in SPECIALISATIONS:
            key, of_experts = SPECIALISATIONS[name]
            known = key in experts.present()
            values[name] = experts.mean(key) if known else None
            if known:
                correlation[name] = experts.correlation(key)
                drawn[name] = np.array([_mean(of_experts, requests_of(trace, which, columns)) for which in draws])
        if progress is not None:
            progress(done, len(MEASURES))
    rates = {name: curves[of].rate(np.array(SIZES)).tolist() for name, of in (("lru", "lru"), ("belady", "optimum"))}
    return MeasuredVariant(
        values, drawn, correlation, {"relative": list(SIZES), **rates}, _knee(curves["lru"]), busy_experts(trace)
    )


def _knee(lru: RequestCurves) -> float:
    sizes = np.arange(1, lru.hits.shape[1]) / lru.active
    rates = lru.rate(sizes)
    return float(sizes[np.argmax(rates - rates[-1] * sizes / sizes[-1])])


def busy_experts(trace: RoutingTrace) -> list[int]:
    """Return, layer by layer, the least number of experts that together get `BUSY` of the accesses."""
    found = []
    for layer in range(trace.num_layers):
        uses = np.bincount(trace.experts[:, layer].ravel())
        shares = np.cumsum(np.sort(uses)[::-1]) / uses.sum()
        found.append(int(np.searchsorted(shares, BUSY) + 1))
    return found


def _mean(of_experts: Callable[[RoutingTrace], Floats], part: RoutingTrace) -> float:
    """Return the mean over the experts that have a value; NaN, which intervals leave out, where none has.

    A resample may lack what a measure needs: a second domain.
    """
    try:
        values = of_experts(part)
    except ConfigError:
        return float("nan")
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def difference(a: MeasuredVariant, b: MeasuredVariant, name: str) -> tuple[float, float, float] | None:
    """Return a - b of a measure with its paired 95 % interval; None where one of them lacks it."""
    left, right = a.value[name], b.value[name]
    if left is None or right is None:
        return None
    return (left - right, *basic_interval(left - right, a.drawn[name] - b.drawn[name], CONFIDENCE))
