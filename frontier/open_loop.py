"""The same rules replayed on what the model recorded without any: what a trace alone foretells."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lrcsim.frontier.caches import Caches
from lrcsim.frontier.deciders import Decider, Own, SkipDecider
from lrcsim.frontier.rules import Compared
from lrcsim.simulator import simulate
from lrcsim.simulator.setup.run import Run


class Foretold(NamedTuple):
    """Hit rate and loads per access of the router's own choice."""

    hit_rate: float
    loads_per_access: float


def foretold(rule: Compared, run: Run) -> Foretold:
    """Replay a rule on a recorded trace.

    Args:
        rule: the rule.
        run: without a rule, on the trace of the model's own choice.
    """
    if rule.skip is not None:
        decider = SkipDecider(rule.skip, Caches(run))
        replay(decider, run)
        caches = decider.caches
        loads = caches.misses - caches.left_out
        return Foretold(1 - caches.misses / caches.accesses, loads / caches.accesses)
    options = run.options.given("cache") | {"bounds": False}
    if rule.route is not None:
        options["route"] = rule.route
    result = simulate(run.trace, **options)
    assert result.hit_rate is not None
    assert result.loads_per_access is not None
    return Foretold(result.hit_rate, result.loads_per_access)


def replay(decider: Decider, run: Run) -> None:
    """Let a decider work on a trace, token after token.

    Args:
        decider: with caches of its own.
        run: on a trace with ``weights``.
    """
    trace = run.trace
    top_k = trace.layers.top_k.tolist()
    for request in range(trace.num_requests):
        low, high = (int(bound) for bound in trace.offsets[request : request + 2])
        experts = trace.read("experts", low, high).astype(np.int64)
        weights = trace.read("weights", low, high).astype(np.float64)
        for token in range(high - low):
            for layer, k in enumerate(top_k):
                ids, mine = (columns[token : token + 1, layer, :k] for columns in (experts, weights))
                decider.decide(Own(layer, low + token, request, ids, mine, None))
