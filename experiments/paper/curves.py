"""Hit-rate curves request by request, so that requests can be resampled.

Every request starts cold, so that its hits are those of a trace of its own and the hits of a trace are the sum over its
requests.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lrcsim.experiments.paper.inputs import requests_of
from lrcsim.simulator import sch
from lrcsim.simulator.cache.capacity import Scope
from lrcsim.simulator.compiled.every_size import stack_hits
from lrcsim.simulator.metrics.bootstrap import basic_interval, resamples
from lrcsim.traces import RoutingTrace

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class RequestCurves:
    """Hits at every capacity, by request.

    Attributes:
        policy: ``"lru"``, ``"lfu"``, ``"belady"``, ``"sch-lookahead:m"`` or ``"sch-static:m"``.
        scope: ``"layer"`` (hits added up over the layers' own caches) or ``"model"``.
        active: experts active per token, by which capacities are divided: k, or k L in scope ``"model"``.
        hits: int64 [requests, capacities + 1], at 0, 1, 2 ... experts, per layer or in the pool.
        accesses: int64 [requests].
        by_layer: float64 [L, capacities + 1], hit rate of each layer's own cache, all requests; scope ``"layer"`` under
            the paper's rule only, and not for ``sch-static``.
    """

    policy: str
    scope: Scope
    active: float
    hits: npt.NDArray[np.int64]
    accesses: npt.NDArray[np.int64]
    by_layer: Floats | None = None

    @property
    def everything(self) -> float:
        """Relative size of a cache of all experts."""
        return float((self.hits.shape[1] - 1) / self.active)

    def rate(self, sizes: Floats) -> Floats:
        """Float64 [sizes]: hit rate at relative sizes, on the straight line between whole numbers of experts."""
        return self._at(self.hits.sum(axis=0) / self.accesses.sum(), sizes)

    def drawn(self, sizes: Floats, draws: int, seed: int) -> Floats:
        """Float64 [draws, sizes]: the same with requests drawn with replacement; no rows below two requests."""
        requests = len(self.hits)
        if requests < 2:
            return np.zeros((0, len(sizes)))
        weights = resamples(requests, draws, seed).astype(np.float64)
        accesses = weights @ self.accesses
        rates = (weights @ self.hits)[accesses > 0] / accesses[accesses > 0, None]
        return np.stack([self._at(row, sizes) for row in rates])

    def interval(self, size: float, draws: int, seed: int) -> tuple[float, float] | None:
        """Return the basic 95 % interval of the rate at one size, or None for fewer than two requests."""
        rates = self.drawn(np.array([size]), draws, seed)
        return basic_interval(float(self.rate(np.array([size]))[0]), rates[:, 0], 0.95) if len(rates) else None

    def layers_at(self, size: float) -> Floats | None:
        """Float64 [L]: hit rate of each layer's cache of a relative size, or None."""
        if self.by_layer is None:
            return None
        return np.array([self._at(row, np.array([size]))[0] for row in self.by_layer])

    def _at(self, rates: Floats, sizes: Floats) -> Floats:
        return np.interp(sizes, np.arange(len(rates)) / self.active, rates)


def request_curves(
    trace: RoutingTrace, policy: str, scope: Scope, *, access: str = "paper", jobs: int | None = None
) -> RequestCurves:
    """Count a policy's hits request by request; all tokens of a trace without phases are steps of their own.

    ``sch-static:m`` counts the accesses of all windows; requests of fewer than m tokens have none.

    Args:
        trace: the routing trace.
        policy: see `RequestCurves`.
        scope: ``"layer"`` or ``"model"``.
        access: the rule of counting; under the paper's all tokens are steps of their own.
        jobs: threads.
    """
    name, _, parameter = policy.partition(":")
    keys = trace.layers.total_experts if scope == "model" else trace.num_experts
    hits, accesses = np.zeros((trace.num_requests, keys + 1), np.int64), np.zeros(trace.num_requests, np.int64)
    by_layer = np.zeros((trace.num_layers, keys + 1)) if scope == "layer" and name != "sch-static" else None
    for request, tokens in enumerate(np.diff(trace.offsets)):
        if tokens == 0 or (name == "sch-static" and tokens < int(parameter)):
            continue
        part = requests_of(trace, [request])
        if name == "sch-static":
            found = sch(part, int(parameter), definition="static", scope=scope, jobs=jobs)
            accesses[request] = found.accesses
            hits[request, 1:] = np.rint(found.hit_rate * found.accesses)
            continue
        counted = stack_hits(part, policy, scope, access, "token" if access == "paper" else "step", False, jobs)
        pools = np.stack([pool.sum(axis=0)[: keys + 1] for pool in counted.hits])
        hits[request], accesses[request] = pools.sum(axis=0), counted.accesses.sum()
        if by_layer is not None:
            by_layer += pools
    if by_layer is not None:
        with np.errstate(invalid="ignore", divide="ignore"):
            by_layer /= by_layer[:, -1:]  # a cache of all experts: under the paper's rule cold uses are free
    active = float(trace.layers.top_k.sum() if scope == "model" else trace.layers.top_k.mean())
    return RequestCurves(policy, scope, active, hits, accesses, by_layer if access == "paper" else None)


def shuffled(trace: RoutingTrace, seed: int) -> RoutingTrace:
    """Return the trace with its tokens in random order, request lengths as they are: routing without locality."""
    order = np.random.default_rng(seed).permutation(trace.num_tokens)
    experts = trace.read("experts", 0, trace.num_tokens)[order]
    return RoutingTrace(trace.layers, {"experts": experts}, trace.offsets, model=trace.model)
