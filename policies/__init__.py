"""Eviction policies and routing rules: contracts (`Policy`, `RoutingRule`), those built in, by name (`make_policy`)."""

from lrcsim.policies.base import NEVER, Param, Policy, View
from lrcsim.policies.compiled import CompiledScore, Expert, Now
from lrcsim.policies.ordering import RankedPolicy, ScorePolicy
from lrcsim.policies.registry import BUILT_IN, FAMILIES, PolicySpec, make_policy, plugins
from lrcsim.policies.routing import Candidate, CompiledRule, RoutingRule, make_rule

__all__ = [
    "BUILT_IN",
    "FAMILIES",
    "NEVER",
    "Candidate",
    "CompiledRule",
    "CompiledScore",
    "Expert",
    "Now",
    "Param",
    "Policy",
    "PolicySpec",
    "RankedPolicy",
    "RoutingRule",
    "ScorePolicy",
    "View",
    "make_policy",
    "make_rule",
    "plugins",
]
