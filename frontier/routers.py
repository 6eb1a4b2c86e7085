"""The routers of a model, layer by layer, from what it ran without a rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lrcsim.base.errors import ConfigError
from lrcsim.frontier.closed_loop import Ran
from lrcsim.frontier.router_choice import RouterChoice
from lrcsim.frontier.router_weights import RouterWeights
from lrcsim.frontier.rules import Compared
from lrcsim.policies.routing import CompiledRule
from lrcsim.simulator.compiled.route_loop import looks_at
from lrcsim.traces import RoutingTrace


def routers(model: Any, ran: Ran, trace: RoutingTrace) -> list[RouterChoice]:
    """Return what the router of each layer compares and weighs.

    Args:
        model: the model.
        ran: what it ran without a rule.
        trace: the same as a trace.

    Raises:
        ConfigError: the scores of a router are not known, or do not explain its weights or its choices.
    """
    if "logits" not in trace.columns:
        raise ConfigError(
            f"routing rules need the scores of all experts, and the routers of {type(model).__name__} cannot be found: "
            "compare skip and none only"
        )
    weights = RouterWeights.of(trace)
    found = []
    for layer, site in enumerate(ran.sites):
        block = model.get_submodule(site.name.rpartition(".")[0])
        k, count = int(trace.layers.top_k[layer]), site.num_experts
        logits, ids = ran.columns["logits"][:, layer, :count], ran.columns["experts"][:, layer, :k]
        found.append(RouterChoice.of(site, block, weights, logits, ids.astype(np.int64)))
    return found


def refuse_share(rule: Compared, choices: Sequence[RouterChoice]) -> None:
    """Refuse a rule that looks at shares of the router's weight where the router compares something else.

    Raises:
        ConfigError: it does: what is compared, values and a bias, are no weights.
    """
    kind = type(rule.route)
    shares = isinstance(rule.route, CompiledRule) and rule.route.compilable() and looks_at(rule.route, "share")
    if shares and any(choice.bias is not None for choice in choices):
        raise ConfigError(
            f"rule {rule.label!r} looks at shares of the router's weight ({kind.__name__}.value), and this router adds "
            "a bias to them when it chooses: use prior or window, which look at what is compared"
        )
