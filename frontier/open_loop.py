"""The same rules replayed on what the model recorded without any: what a trace alone foretells."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lrcsim.frontier.deciders import Decider, Own
from lrcsim.simulator import simulate
from lrcsim.simulator.setup.run import Run


class Foretold(NamedTuple):
    """Hit rate and loads per access of the router's own choice."""

    hit_rate: float
    loads_per_access: float


def foretold(decider: Decider | None, run: Run) -> Foretold:
    """Replay a rule on what was recorded without one.

    Where the router compares its scores alone, `lrcsim.simulator.simulate` with ``route`` gives the same from a file.

    Args:
        decider: the rule, with empty caches; None: no rule.
        run: without a rule, on the trace of the model's own choice, with its logits where the rule needs them.
    """
    if decider is None:
        result = simulate(run.trace, **run.options.given("cache"), bounds=False)
        assert result.hit_rate is not None
        assert result.loads_per_access is not None
        return Foretold(result.hit_rate, result.loads_per_access)
    replay(decider, run)
    caches = decider.caches
    return Foretold(1 - caches.misses / caches.accesses, (caches.misses - caches.left_out) / caches.accesses)


def replay(decider: Decider, run: Run) -> None:
    """Let a decider work on a trace, token after token.

    Args:
        decider: with caches of its own.
        run: on a trace with ``weights``, and ``logits`` where the rule is a routing rule.
    """
    trace = run.trace
    top_k, counts = trace.layers.top_k.tolist(), trace.layers.num_experts.tolist()
    for request in range(trace.num_requests):
        low, high = (int(bound) for bound in trace.offsets[request : request + 2])
        experts = trace.read("experts", low, high).astype(np.int64)
        weights = trace.read("weights", low, high).astype(np.float64)
        logits = trace.read("logits", low, high) if "logits" in trace.columns else None
        width = high - low if run.scope == "layer" else 1  # as `ClosedLoop` runs them
        for first in range(0, high - low, width):
            tokens = slice(first, first + width)
            for layer, k in enumerate(top_k):
                scores = None if logits is None else logits[tokens, layer, : counts[layer]]
                ids, mine = experts[tokens, layer, :k], weights[tokens, layer, :k]
                decider.decide(Own(layer, low + first, request, ids, mine, scores))
