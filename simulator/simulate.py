"""`simulate`: one policy, one cache, one trace, and what could have been."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lrcsim.errors import ConfigError, PolicyError, did_you_mean
from lrcsim.policies import PolicySpec, make_policy
from lrcsim.simulator.advice import advice
from lrcsim.simulator.capacity import CacheSize, Scope, resolve_capacity
from lrcsim.simulator.references import References, part_of
from lrcsim.simulator.replay import Progress, Replay, replay
from lrcsim.simulator.result import Bound, Result
from lrcsim.simulator.schedule import Schedule, parse_prefill
from lrcsim.traces import RoutingTrace

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
        progress: called with tokens done and tokens in all, over all the replays together.

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

    job = Replay(trace, policy, tuple(pools), access, prefill, warm, counts_by_key)
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
            "prefill": prefill if "phase" in trace.columns else None,
            "warm": warm,
        },
        counts=counts,
        bounds={name: bound for name, bound in found.items() if name != "lru"},
        lru=found.get("lru"),
        warnings=advice(trace, tried.name, pools, scope, access, counts),
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
