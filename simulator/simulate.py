"""`simulate`: one policy, one cache, one trace, and what could have been."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lrcsim.errors import ConfigError, did_you_mean
from lrcsim.policies import PolicySpec, make_policy
from lrcsim.simulator.bounds import most_hits
from lrcsim.simulator.capacity import CacheSize, PoolSize, Scope, resolve_capacity
from lrcsim.simulator.future import Future
from lrcsim.simulator.replay import Counts, Progress, Replay, replay
from lrcsim.simulator.result import Bound, Result, rate
from lrcsim.simulator.schedule import Schedule, parse_prefill
from lrcsim.traces import DECODE, PREFILL, RoutingTrace

__all__ = ["ACCESS", "Access", "simulate", "uses_by_key"]

Access = Literal["coresident", "sequential", "paper"]
ACCESS: tuple[Access, ...] = ("coresident", "sequential", "paper")


def simulate(
    trace: RoutingTrace,
    policy: PolicySpec = "lru",
    cache: CacheSize = "2x",
    *,
    scope: Scope = "layer",
    access: Access = "coresident",
    prefill: str | None = None,
    warm: bool | None = None,
    profile: RoutingTrace | None = None,
    bounds: bool = True,
    record: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Replay a trace through an expert cache and count its hits exactly.

    Args:
        trace: the routing trace.
        policy: a name with parameters, ``file.py:Class``, ``pkg.mod:Class``, a class, or (scope ``model``) an object.
        cache: ``"2x"`` times the active experts, ``16`` experts, ``"25%"`` of all, ``"4GiB"`` bytes in all, or a list
            with one entry per layer.
        scope: ``"layer"``: every layer has its own cache; ``"model"``: one pool for all.
        access: the rule of accounting (docs/accounting.md): ``"coresident"``, ``"sequential"`` or ``"paper"``.
        prefill: how prompt tokens make steps: ``"step"`` (all in one, default), ``"chunk:N"``, ``"token"``. Under
            ``access="paper"`` a batch is always one token.
        warm: whether the cache keeps its contents from request to request; default True, and False under
            ``access="paper"``, where every request starts cold.
        profile: a trace to take expert popularity from, for policies that need a profile.
        bounds: also run LRU and the optimum at the same capacity.
        record: keep a hit flag for every access in ``result.counts.hit``, in the order of `Schedule`.
        progress: called with tokens done and tokens in all, over all the runs together.

    Returns:
        A `Result`.

    Raises:
        ConfigError: an option is not allowed, alone or with the others.
        PolicyError: the policy is unknown, cannot serve this trace, or misbehaves.
    """
    if access not in ACCESS:
        raise ConfigError(f"access {access!r} is not known, use {', '.join(ACCESS)}{did_you_mean(str(access), ACCESS)}")
    pools = resolve_capacity(cache, trace.layers, scope)
    if access == "paper":
        if prefill not in (None, "token"):
            raise ConfigError(
                f"prefill {prefill!r} cannot go with access 'paper', where a batch is one token: leave it out"
            )
        if warm:
            raise ConfigError(
                "a warm cache cannot go with access 'paper', where every request starts cold: leave it out"
            )
    prefill = prefill or ("token" if access == "paper" else "step")
    parse_prefill(prefill)
    warm = access != "paper" if warm is None else warm
    tried = make_policy(policy)
    _refuse_what_it_cannot_serve(tried, trace, access, profile)
    counts_by_key = None if profile is None else uses_by_key(profile, like=trace)

    bypass = tried.bypass and access != "paper"
    names = ["lru", "belady", *(["belady-bypass"] if bypass else [])] if bounds else []
    plan = _Plan(
        trace, tuple(pools), access, prefill, warm, progress, runs=1 + sum(plan_name != policy for plan_name in names)
    )
    counts = plan.run(policy, counts_by_key, record=record)
    found = {name: counts if name == policy else plan.reference(name) for name in names}
    return Result(
        trace=trace,
        config={
            "policy": tried.label(),
            "cache": cache if isinstance(cache, str | int | float) else list(cache),
            "capacity": [pool.capacity for pool in pools],
            "capacity_unit": "experts" if pools[0].bytes_per_expert is None else "bytes",
            "scope": scope,
            "access": access,
            "prefill": prefill if "phase" in trace.columns else None,
            "warm": warm,
        },
        counts=counts,
        bounds=_bounds(plan, found),
        lru=_as_bound(found["lru"], proven=False, note="LRU under the same rules") if bounds else None,
        warnings=_warnings(trace, tried.name, pools, scope, access, counts),
    )


def uses_by_key(profile: RoutingTrace, like: RoutingTrace) -> npt.NDArray[np.float64]:
    """Count the layer-steps in which each expert of a profiling trace is used.

    Args:
        profile: the trace to count.
        like: the trace to be served; its layers and experts must be the same.

    Returns:
        float64 [L * E], by key.

    Raises:
        ConfigError: the traces are not of the same geometry.
    """
    mine, theirs = like.layers.num_experts.tolist(), profile.layers.num_experts.tolist()
    if mine != theirs:
        raise ConfigError(
            f"the profile is of another model: {len(theirs)} MoE layers of {max(theirs)} experts, "
            f"the trace has {len(mine)} of {max(mine)}"
        )
    counts = np.zeros(like.num_layers * like.num_experts, np.float64)
    for block in Schedule(profile).blocks():
        counts += np.bincount(block.keys, minlength=len(counts))
    return counts


def _refuse_what_it_cannot_serve(policy: Any, trace: RoutingTrace, access: str, profile: RoutingTrace | None) -> None:
    from lrcsim.errors import PolicyError

    if "weights" in policy.needs and "weights" not in trace.columns:
        raise PolicyError(f"policy {policy.name} needs router weights, and this trace has none recorded")
    if "profile" in policy.needs and profile is None:
        raise PolicyError(
            f"policy {policy.name} needs a profile: give a trace to take expert popularity from with --profile TRACE "
            "(or 'self', which is hindsight)"
        )
    if policy.bypass and access == "paper":
        raise PolicyError(
            f"policy {policy.name} lets misses bypass the cache, and access 'paper' inserts every expert: "
            "use access 'coresident' or 'sequential'"
        )


class _Plan:
    """The runs that one call of `simulate` makes, with one progress over all of them."""

    def __init__(
        self,
        trace: RoutingTrace,
        pools: tuple[PoolSize, ...],
        access: str,
        prefill: str,
        warm: bool,
        progress: Progress | None,
        runs: int,
    ) -> None:
        self.trace, self.pools, self.access, self.prefill, self.warm = trace, pools, access, prefill, warm
        self._progress, self._runs, self._done = progress, runs, 0

    def run(
        self, policy: PolicySpec, profile: npt.NDArray[np.float64] | None = None, *, record: bool = False
    ) -> Counts:
        job = Replay(self.trace, policy, self.pools, self.access, self.prefill, self.warm, profile)
        counts = replay(job, record=record, progress=self._report if self._progress else None)
        self._done += 1
        return counts

    def _report(self, tokens: int, total: int) -> None:
        assert self._progress is not None
        self._progress(self._done * total + tokens, self._runs * total)

    def reference(self, name: str) -> Counts:
        """Run a reference policy, once for each trace and configuration."""
        key = ("reference", name, self.pools, self.access, self.prefill, self.warm)
        known = self.trace.notes.get(key)
        if not isinstance(known, Counts):
            known = self.trace.notes[key] = self.run(name)
        return known

    def upper(self) -> int:
        key = ("upper", self.pools, self.access, self.prefill, self.warm)
        known = self.trace.notes.get(key)
        if not isinstance(known, int):
            future = Future(Schedule(self.trace, self.prefill), self.access, self.warm)
            known = self.trace.notes[key] = most_hits(future, list(self.pools))
        return known


def _as_bound(counts: Counts, *, proven: bool, note: str) -> Bound:
    return Bound(rate(counts) or 0.0, rate(counts, PREFILL), rate(counts, DECODE), proven, note)


def _bounds(plan: _Plan, found: dict[str, Counts]) -> dict[str, Bound]:
    unequal = any(pool.bytes_per_expert is not None for pool in plan.pools)
    proven = plan.access != "paper" and not unequal
    note = "farthest next use" + (
        ", the optimum without bypass"
        if proven
        else "; experts differ in size, so a good heuristic only"
        if unequal
        else "; a heuristic under the paper's rule"
    )
    bounds = {}
    if "belady" in found:
        bounds["belady"] = _as_bound(found["belady"], proven=proven, note=note)
    if "belady-bypass" in found:
        note = note.replace("without bypass", "with bypass")
        bounds["belady-bypass"] = _as_bound(found["belady-bypass"], proven=proven, note=note)
    if found and unequal and plan.access != "paper":
        accesses = int(found["lru"].accesses.sum())
        bounds["upper"] = Bound(
            hit_rate=min(plan.upper() / accesses, 1.0) if accesses else 0.0,
            prefill_hit_rate=None,
            decode_hit_rate=None,
            proven=True,
            note="no policy exceeds it (PFOO-L); it need not be reachable",
        )
    return bounds


def _warnings(
    trace: RoutingTrace, policy: str, pools: list[PoolSize], scope: str, access: str, counts: Counts
) -> list[str]:
    warnings = []
    layers = trace.layers
    if scope == "model":
        sizes = (
            np.ones(len(layers), np.int64) if pools[0].bytes_per_expert is None else np.array(pools[0].bytes_per_expert)
        )
        cycle, everything = int(layers.top_k @ sizes), int(layers.num_experts @ sizes)
        if policy in ("lru", "fifo") and pools[0].capacity < cycle and access != "paper":
            warnings.append(
                f"the pool holds {pools[0].capacity:,}, one token uses {cycle:,}: below one token cycle a global "
                f"{policy.upper()} hits (almost) never, because the layers come round in a cycle; "
                "use a larger cache, scope layer, or another policy"
            )
        holds_all = pools[0].capacity >= everything
    else:
        holds_all = all(pool.capacity >= total for pool, total in zip(pools, layers.num_experts.tolist(), strict=True))
    if holds_all:
        warnings.append("the cache holds every expert: only first uses miss, so every policy scores the same")
    elif counts.evictions + counts.bypassed == 0 and counts.resident:
        warnings.append(
            f"the cache never filled: the trace uses {counts.resident:,} experts in all, so this says nothing about "
            "the policy; use a longer trace or a smaller cache"
        )
    preloaded = int(counts.preloaded.sum())
    if preloaded:
        warnings.append(
            f"{preloaded:,} experts were loaded ahead by the policy and are not counted as misses, so it may exceed "
            "the optimum of a cache that loads on demand"
        )
    return warnings
