"""What a routing rule goes with in a run, and what is another name for one."""

from __future__ import annotations

from dataclasses import replace

from lrcsim.base.errors import ConfigError, PolicyError
from lrcsim.policies import Policy
from lrcsim.policies.routing import make_rule
from lrcsim.simulator.setup.miss_actions import Load, Substitute
from lrcsim.simulator.setup.options import Options
from lrcsim.simulator.setup.platform import Platform
from lrcsim.simulator.setup.router_scores import RouterScores
from lrcsim.traces import RoutingTrace


def as_rule(options: Options, platform: Platform | None, trace: RoutingTrace) -> tuple[Options, Platform | None]:
    """Return options and machine in which the miss action ``substitute`` is the routing rule of that name.

    Where the trace has logits: they say which resident stands in for an expert. Without them the miss action counts
    that one does, and nobody knows which.

    Raises:
        ConfigError: there is another rule besides.
    """
    action = None if platform is None else platform.action
    if platform is None or type(action) is not Substitute or "logits" not in trace.columns:
        return options, platform
    rule = f"substitute:{action.threshold!r},keep={action.keep}"
    if options.route is not None:
        raise ConfigError(
            f"miss {action.label()!r} is the routing rule {rule!r}, and route names another: leave one out"
        )
    return replace(options, miss="load", route=rule), replace(platform, action=Load())


def check_rule(options: Options, policy: Policy, trace: RoutingTrace, platform: Platform | None) -> None:
    """Refuse a routing rule that cannot be made, or not with this trace or the other options.

    Raises:
        ConfigError: with what it does not go with, and what to do.
        PolicyError: the rule's class cannot be loaded or made, or the policy knows the future.
    """
    assert options.route is not None  # the caller looks
    rule = make_rule(options.route).label()
    RouterScores.of(trace)
    if options.access == "paper":
        raise ConfigError(
            f"route {rule!r} decides by the residents before a layer-step, and access 'paper' looks whole tokens up: "
            "use access 'coresident' or 'sequential'"
        )
    if "future" in policy.needs:
        raise PolicyError(
            f"policy {policy.name} needs to know the uses to come, and with route {rule!r} they depend on it: "
            "use another policy"
        )
    if options.arrivals is not None:
        raise ConfigError(
            f"route {rule!r} does not depend on time, and with arrivals the order of steps does: leave out arrivals"
        )
    if platform is None or platform.on_demand:
        return
    what = "memory that cache and KV cache share (kv_shared)"
    if not platform.loads_all:
        what = f"miss action {platform.action.label()!r}: use load"
    elif platform.prefetcher is not None:
        what = f"prefetch {platform.prefetcher.label()!r}: leave it out"
    raise ConfigError(
        f"route {rule!r} decides by the residents of a cache of fixed size that loads on demand, not with {what}"
    )
