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


@dataclass(frozen=True)
class MeasuredVariant:
    """Measures of one trace, and what the resamples of its requests gave.

    Attributes:
        value: by measure; None where the trace does not allow it.
        drawn: float64 [draws] by measure.
        correlation: Pearson's, over experts, of SRP with a specialisation, by measure.
        curves: of the measures that are hit rates.
    """

    value: dict[str, float | None]
    drawn: dict[str, Floats]
    correlation: dict[str, float | None]
    curves: dict[str, RequestCurves]

    def interval(self, name: str) -> tuple[float, float] | None:
        """Return the 95 % interval of a measure."""
        value = self.value[name]
        return None if value is None else basic_interval(value, self.drawn[name], CONFIDENCE)

    @property
    def knee(self) -> float:
        """Relative cache size of LRU's knee: farthest above the line to the last size, cache per layer."""
        lru = self.curves["lru"]
        sizes = np.arange(1, lru.hits.shape[1]) / lru.active
        rates = lru.rate(sizes)
        return float(sizes[np.argmax(rates - rates[-1] * sizes / sizes[-1])])

    @property
    def curve(self) -> dict[str, list[float]]:
        """LRU's and the optimum's hit rate at relative sizes 0.5 to 4, cache per layer."""
        lru, optimum = (self.curves[name].rate(np.array(SIZES)).tolist() for name in ("lru", "optimum"))
        return {"relative": list(SIZES), "lru": lru, "belady": optimum}


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
    found = MeasuredVariant({"srp": whole.value}, {"srp": whole.draws}, {}, {})
    experts = expert_measures(trace, SEGMENT)
    columns = [name for name in ("experts", "token_ids") if name in trace.columns]
    drawn = [np.repeat(np.arange(trace.num_requests), times) for times in resamples(trace.num_requests, DRAWS, SEED)]
    for done, name in enumerate(MEASURES, start=1):
        if name in RATES:
            policy, scope, access = RATES[name]
            found.curves[name] = curve = request_curves(trace, policy, scope, access=access)
            found.value[name] = float(curve.rate(np.array([CACHE]))[0])
            found.drawn[name] = curve.drawn(np.array([CACHE]), DRAWS, SEED)[:, 0]
        elif name in SPECIALISATIONS:
            key, of_experts = SPECIALISATIONS[name]
            known = key in experts.present()
            found.value[name] = experts.mean(key) if known else None
            if known:
                found.correlation[name] = experts.correlation(key)
                found.drawn[name] = np.array([_mean(of_experts, requests_of(trace, which, columns)) for which in drawn])
        if progress is not None:
            progress(done, len(MEASURES))
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
