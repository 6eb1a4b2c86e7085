"""The rules of a run: what goes with what, and which policy can serve which trace."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from lrcsim.errors import ConfigError, PolicyError, did_you_mean
from lrcsim.policies import Policy
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule, parse_prefill

__all__ = ["ACCESS", "Access", "Rules", "profiled_uses", "refuse_unservable", "resolve_rules", "uses_by_key"]

Access = Literal["coresident", "sequential", "paper"]
ACCESS: tuple[Access, ...] = ("coresident", "sequential", "paper")


class Rules(NamedTuple):
    """What is left open by the user, settled.

    Attributes:
        prefill: how prompt tokens make steps (`Schedule`).
        warm: whether the cache keeps its contents between requests.
    """

    prefill: str
    warm: bool


def resolve_rules(access: str, prefill: str | None, warm: bool | None) -> Rules:
    """Settle what the user left open, and refuse what does not go together.

    Raises:
        ConfigError: an option is unknown, or cannot go with the rule of access.
    """
    if access not in ACCESS:
        raise ConfigError(f"access {access!r} is not known, use {', '.join(ACCESS)}{did_you_mean(str(access), ACCESS)}")
    if not isinstance(warm, bool | None):
        raise ConfigError(f"warm must be True, False or None (the default of the rule), given {warm!r}")
    if access == "paper":
        if prefill not in (None, "token"):
            raise ConfigError(
                f"prefill {prefill!r} cannot go with access 'paper', where a batch is one token: leave it out"
            )
        if warm:
            raise ConfigError(
                "a warm cache cannot go with access 'paper', where every request starts cold: leave it out"
            )
        return Rules("token", warm=False)
    settled = Rules("step" if prefill is None else prefill, True if warm is None else warm)
    parse_prefill(settled.prefill)
    return settled


def refuse_unservable(policy: Policy, trace: RoutingTrace, access: str, *, profiled: bool) -> None:
    """Refuse a policy that needs what the trace does not have, or that the rule of access does not allow.

    Raises:
        PolicyError: with the reason, and what to do.
        ConfigError: the trace is in a server's order (`lrcsim.hierarchy.batched`), and the rule runs single tokens.
    """
    if access == "paper" and "step" in trace.columns:
        raise ConfigError(
            "access 'paper' runs one token after the other, which leaves no batches or drafts: "
            "use access 'coresident' or 'sequential'"
        )
    if "weights" in policy.needs and "weights" not in trace.columns:
        raise PolicyError(f"policy {policy.name} needs router weights, and this trace has none recorded")
    if "profile" in policy.needs and not profiled:
        raise PolicyError(
            f"policy {policy.name} needs a profile: give a trace to take expert popularity from with --profile TRACE "
            "(or 'self', which is hindsight)"
        )
    if policy.bypass and access == "paper":
        raise PolicyError(
            f"policy {policy.name} lets misses bypass the cache, and access 'paper' inserts every expert: "
            "use access 'coresident' or 'sequential'"
        )


def profiled_uses(profile: RoutingTrace | str | Path | None, like: RoutingTrace) -> npt.NDArray[np.float64] | None:
    """Count the uses of a profile as it is given: a trace, a trace file, or ``"self"``, the trace to be served.

    Args:
        profile: one of these; None: there is none.
        like: the trace to be served.

    Returns:
        As `uses_by_key`; None without a profile.

    Raises:
        ConfigError: it is something else, or the traces are not of the same geometry.
        TraceError: the file is no trace.
    """
    if profile is None:
        return None
    if profile == "self":
        return uses_by_key(like, like)
    if isinstance(profile, RoutingTrace):
        return uses_by_key(profile, like)
    if not isinstance(profile, str | Path) or not str(profile):
        raise ConfigError(f"profile {profile!r} is not allowed: give a RoutingTrace, the path of one, or 'self'")
    with RoutingTrace.open(profile) as opened:
        return uses_by_key(opened, like)


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
