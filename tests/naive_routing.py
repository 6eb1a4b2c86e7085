"""Definition-level twins of the routing rules and of what a cache does to a trace that they choose: plain lists, slow.

Nothing here is shared with lrcsim. Scores are whole numbers, so that what is equal is equal; of equal experts those
that the router chose come first, in its order, then the lower id.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import naive
import naive_scores
import naive_traces

Rule = Callable[[list[int], list[int], list[int], int], list[int]]
"""Of scores by expert, all experts best first, residents, and k: the experts that a token uses."""


def prior(boost: float) -> Rule:
    """Residents get ``boost`` spans more, then the k best."""

    def choose(scores: list[int], ranked: list[int], resident: list[int], k: int) -> list[int]:
        if math.isinf(boost):
            first = [expert for expert in ranked if expert in resident]
            return (first + [expert for expert in ranked if expert not in resident])[:k]
        more = Fraction(boost) * (max(scores) - min(scores))
        worth = {expert: scores[expert] + (more if expert in resident else 0) for expert in ranked}
        return sorted(ranked, key=lambda expert: -worth[expert])[:k]  # sorted() keeps equal ones as they are ranked

    return choose


def window(sacred: int, width: int) -> Rule:
    """The first ``sacred`` ranks, then residents among the first ``width``, then by rank."""

    def choose(scores: list[int], ranked: list[int], resident: list[int], k: int) -> list[int]:
        chosen = ranked[:k][:sacred]
        for expert in ranked[:width]:
            if len(chosen) < k and expert in resident and expert not in chosen:
                chosen.append(expert)
        for expert in ranked:
            if len(chosen) < k and expert not in chosen:
                chosen.append(expert)
        return chosen

    return choose


def substitute(threshold: float, keep: int) -> Rule:
    """The best residents in place of light experts that are not; what has no stand-in stays, the heaviest first."""

    def choose(scores: list[int], ranked: list[int], resident: list[int], k: int) -> list[int]:
        own = ranked[:k]
        total = sum(math.exp(scores[expert]) for expert in own)
        needed = [
            expert
            for place, expert in enumerate(own)
            if expert in resident or place < keep or math.exp(scores[expert]) / total >= threshold
        ]
        stand_ins = [expert for expert in ranked[k:] if expert in resident]
        light = [expert for expert in own if expert not in needed]
        return (needed + stand_ins + light)[:k]

    return choose


@dataclass
class Outcome:
    """What came of it: ids like the trace's; by phase accesses, hits, experts of the router's own, shares of mass."""

    chosen: list[list[list[int]]]
    accesses: list[int]
    hits: list[int]
    same: list[int]
    mass: list[float]


def reroute(
    trace: naive_traces.Trace,
    logits: list[list[list[int]]],
    rule: Rule,
    policy: str,
    cache: str,
    scope: str,
    access: str,
    prefill: str,
    warm: bool,
    given: list[tuple[int, int, list[int]]] | None = None,
) -> Outcome:
    """Run a trace through a cache, each layer-step's experts chosen by who is resident before it."""
    pools = [
        naive.Pool(size, policy, {}, naive_scores.World(trace.stride, trace.num_layers, "run", warm, [], {}, {}), [])
        for size in naive_traces.pool_sizes(trace, cache, scope)
    ]
    chosen = [[[-1] * len(row) for row in token] for token in trace.experts]
    outcome = Outcome(chosen, [0, 0], [0, 0], [0, 0], [0.0, 0.0])
    request, number, uses_so_far = -1, 0, 0
    for step in naive_traces.schedule(trace, prefill, given):
        if not step.layers:
            continue
        if not warm and step.request != request:
            request = step.request
            for pool in pools:
                pool.empty()
        for run in step.layers:
            (pool,) = (pool for pool in pools if run.layer in pool.size.layers)
            first = run.layer * trace.stride
            resident = [key - first for key in pool.resident if key // trace.stride == run.layer]
            batch: list[int] = []
            for token in step.tokens:
                own = [expert for expert in trace.experts[token][run.layer] if expert != -1]
                if not own:
                    continue
                scores = logits[token][run.layer][: trace.num_experts[run.layer]]
                others = [expert for expert in range(len(scores)) if expert not in own]
                ranked = own + sorted(others, key=lambda expert: -scores[expert])
                mine = rule(scores, ranked, resident, len(own))
                chosen[token][run.layer][: len(mine)] = mine
                outcome.same[step.phase] += sum(expert in own for expert in mine)
                kept = sum(math.exp(scores[expert]) for expert in mine)
                outcome.mass[step.phase] += kept / sum(math.exp(scores[expert]) for expert in own)
                for expert in mine:
                    if first + expert in batch:
                        batch.remove(first + expert)
                    batch.append(first + expert)
            uses = []
            for key in batch:
                place = (step.number, step.request, number, uses_so_far)
                uses.append(naive_scores.Use(key, run.layer, *place, Fraction(0), False, False))
                uses_so_far += 1
            number += 1
            flags = pool.run(uses, access)
            outcome.accesses[step.phase] += len(flags)
            outcome.hits[step.phase] += sum(flags)
    return outcome
