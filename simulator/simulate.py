"""`simulate`: one policy, one cache, one trace, and what could have been."""

from __future__ import annotations

from lrcsim.policies import PolicySpec, make_policy
from lrcsim.simulator.advice import advice
from lrcsim.simulator.capacity import CacheSize, Scope, resolve_capacity
from lrcsim.simulator.references import References
from lrcsim.simulator.replay import Progress, Replay, part_of, replay
from lrcsim.simulator.result import Bound, Result
from lrcsim.simulator.rules import Access, refuse_unservable, resolve_rules, uses_by_key
from lrcsim.traces import RoutingTrace

__all__ = ["simulate"]


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
        progress: called with tokens done and tokens in all, over all the replays together.

    Returns:
        A `Result`.

    Raises:
        ConfigError: an option is not allowed, alone or with the others.
        PolicyError: the policy is unknown, cannot serve this trace, or misbehaves.
    """
    tried = make_policy(policy)
    rules = resolve_rules(access, prefill, warm)
    pools = resolve_capacity(cache, trace.layers, scope)
    refuse_unservable(tried, trace, access, profiled=profile is not None)
    counts_by_key = None if profile is None else uses_by_key(profile, like=trace)
    job = Replay(trace, policy, tuple(pools), access, rules.prefill, rules.warm, counts_by_key)
    compared = References(job, scope) if bounds else None
    runs = 1 + (compared.replays_needed(tried.bypass, but=tried.label()) if compared else 0)
    counts = replay(job, record=record, progress=part_of(progress, 0, runs))
    found: dict[str, Bound] = {}
    if compared is not None:
        compared.keep(tried.label(), counts)
        found = compared.find(tried.bypass, progress)
    return Result(
        trace=trace,
        config={
            "policy": tried.label(),
            "cache": cache if isinstance(cache, str | int | float) else list(cache),
            "capacity": [pool.capacity for pool in pools],
            "capacity_unit": "experts" if pools[0].bytes_per_expert is None else "bytes",
            "scope": scope,
            "access": access,
            "prefill": rules.prefill if "phase" in trace.columns else None,
            "warm": rules.warm,
        },
        counts=counts,
        bounds={name: bound for name, bound in found.items() if name != "lru"},
        lru=found.get("lru"),
        warnings=advice(trace, tried.name, pools, scope, access, counts),
    )
