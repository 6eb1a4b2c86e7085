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
from lrcsim.simulator import expert_measures, hit_rate_curve, sch, srp
from lrcsim.simulator.metrics.bootstrap import basic_interval, resamples
from lrcsim.simulator.metrics.specialisation import domain_specialisation, vocabulary_specialisation
from lrcsim.traces import RoutingTrace

__all__ = ["MEASURES", "Measured", "difference", "measure", "resampled"]

Floats = npt.NDArray[np.float64]

SEGMENT = 16
CACHE = "2x"
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


@dataclass(frozen=True)
class Measured:
    """Measures of one trace, and what the resamples of its requests gave.

    Attributes:
        value: by measure; None where the trace does not allow it.
        drawn: float64 [draws] by measure.
        correlation: Pearson's, over experts, of SRP with a specialisation, by measure.
        knee: relative cache size of LRU's knee (see `Curve.knee`), cache per layer.
        curve: LRU's and the optimum's hit rate at relative sizes 0.5 to 4, cache per layer.
    """

    value: dict[str, float | None]
    drawn: dict[str, Floats]
    correlation: dict[str, float | None]
    knee: float
    curve: dict[str, list[float]]

    def interval(self, name: str) -> tuple[float, float] | None:
        """Return the 95 % interval of a measure."""
        value = self.value[name]
        return None if value is None else basic_interval(value, self.drawn[name], CONFIDENCE)


def resampled(trace: RoutingTrace, times: npt.NDArray[np.integer[Any]]) -> RoutingTrace:
    """Return the trace in which request i occurs ``times[i]`` times (int [requests])."""
    order = np.repeat(np.arange(trace.num_requests), times)
    rows = np.concatenate([np.arange(trace.offsets[i], trace.offsets[i + 1]) for i in order])
    lengths = np.diff(trace.offsets)[order]
    ids, domains = trace.token_ids, trace.domains
    return RoutingTrace(
        trace.layers,
        {"experts": trace.experts[rows]} | ({} if ids is None else {"token_ids": ids[rows]}),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        domains=None if domains is None else [domains[i] for i in order],
        model=trace.model,
    )


def measure(trace: RoutingTrace, progress: Callable[[int, int], None] | None = None) -> Measured:
    """Measure a teacher-forced trace whose requests are equally long.

    Args:
        trace: the trace.
        progress: told the measures done, and all.

    Raises:
        ConfigError: the trace has fewer than two requests.
    """
    if trace.num_requests < 2:
        raise ConfigError("the trace has one request, intervals need several")
    draws = resamples(trace.num_requests, DRAWS, SEED)
    alone = [resampled(trace, np.eye(trace.num_requests, dtype=np.int64)[i]) for i in range(trace.num_requests)]
    value: dict[str, float | None] = {}
    drawn: dict[str, Floats] = {}

    def of_requests(name: str, rate: Callable[[RoutingTrace], float]) -> None:
        """Measure request by request: a rate over accesses, every request from a cold cache."""
        rates = np.array([rate(request) for request in alone])
        weights = np.array([np.count_nonzero(request.experts >= 0) for request in alone], float)
        value[name] = float(rates @ weights / weights.sum())
        drawn[name] = (draws @ (rates * weights)) / (draws @ weights)

    def of_trace(name: str, number: Callable[[RoutingTrace], float]) -> None:
        """Measure the trace as a whole, and every resample of it."""
        try:
            value[name] = number(trace)
        except ConfigError:
            value[name] = None
            return
        drawn[name] = np.array([_or_nan(number, resampled(trace, times)) for times in draws])

    def of_srp() -> None:
        """Measure SRP; its own bootstrap makes the same resamples, without running through the trace for each."""
        found = srp(trace, SEGMENT, bootstrap=DRAWS, seed=SEED)
        assert found.draws is not None  # there are several requests
        value["srp"], drawn["srp"] = found.value, found.draws

    def at(policy: str, scope: str, access: str) -> Callable[[RoutingTrace], float]:
        def rate(request: RoutingTrace) -> float:
            slots = 2 * int(request.layers.top_k.sum() if scope == "model" else request.layers.top_k.max())
            found = hit_rate_curve(request, policy, scope=scope, access=access, capacities=[slots])  # type: ignore[arg-type]
            return float(found.hit_rate[0])

        return rate

    steps: list[Callable[[], None]] = [
        of_srp,
        lambda: of_requests("sch", lambda part: sch(part, SEGMENT, CACHE, definition="lookahead", scope="model").value),
        lambda: of_requests("lru_paper", at("lru", "model", "paper")),
        lambda: of_requests("lru", at("lru", "layer", "coresident")),
        lambda: of_requests("optimum", at("belady", "layer", "coresident")),
        lambda: of_trace("domain", lambda part: _mean(domain_specialisation(part, SEGMENT))),
        lambda: of_trace("vocabulary", lambda part: _mean(vocabulary_specialisation(part))),
    ]
    for done, step in enumerate(steps, start=1):
        step()
        if progress is not None:
            progress(done, len(steps))
    experts = expert_measures(trace, SEGMENT)
    correlation = {
        name: experts.correlation(key)
        for name, key in (("domain", "domain"), ("vocabulary", "vocabulary_in"))
        if key in experts.present()
    }
    curves = {name: hit_rate_curve(trace, name, warm=False) for name in ("lru", "belady")}
    sizes = [0.5, 1.0, 1.5, 2.0, 3.0, 4.0]
    lru = curves["lru"]
    curve = {"relative": sizes} | {
        name: [float(np.interp(size, found.relative, found.hit_rate)) for size in sizes]
        for name, found in curves.items()
    }
    return Measured(value, drawn, correlation, float(lru.relative[lru.knee]), curve)


def _or_nan(number: Callable[[RoutingTrace], float], part: RoutingTrace) -> float:
    """Measure a resample; NaN, which intervals leave out, where it lacks what the measure needs (a second domain)."""
    try:
        return number(part)
    except ConfigError:
        return float("nan")


def _mean(values: Floats) -> float:
    """Return the mean over the experts that have a value; NaN where none has."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def difference(a: Measured, b: Measured, name: str) -> tuple[float, float, float] | None:
    """Return a - b of a measure with its paired 95 % interval; None where one of them lacks it."""
    left, right = a.value[name], b.value[name]
    if left is None or right is None:
        return None
    return (left - right, *basic_interval(left - right, a.drawn[name] - b.drawn[name], CONFIDENCE))
