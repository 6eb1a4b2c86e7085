"""Lossy miss actions by definition: what a rule gives up of the misses of a co-resident cache; see `naive`."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from naive import Pool
from naive_scores import Use, World
from naive_traces import Trace, pool_sizes, schedule


@dataclass
class Lossy:
    """A rule that gives up misses: ``skip``, ``substitute`` or ``low``."""

    action: str
    threshold: str  # as written, in decimal
    keep: int


@dataclass
class LossyOutcome:
    """What came of a run with a lossy rule. Lists are [phase]."""

    hits: int
    misses: int
    loads: list[int]
    given_up: int  # misses that were not loaded whole
    evictions: int
    tokens: list[int]  # that used experts, times layers
    weight: list[Fraction]  # shares of their router weight that were given up, summed up


def shares(trace: Trace, token: int, layer: int) -> dict[int, Fraction]:
    """Return the token's experts in a layer, heaviest first, ties by rank, each with its share of their weight."""
    assert trace.weights is not None
    row = zip(trace.experts[token][layer], trace.weights[token][layer], strict=True)
    mine = {layer * trace.stride + expert: Fraction(weight) for expert, weight in row if expert != -1}
    total = sum(mine.values())
    ranked = sorted(mine, key=lambda key: -mine[key])
    return {key: mine[key] / total if total else Fraction(0) for key in ranked}


def kept_whole(trace: Trace, tokens: list[int], layer: int, resident: list[int], rule: Lossy) -> list[int]:
    """Return the misses of a layer-step that are loaded: what one token needs, or cannot have replaced."""
    needed: list[int] = []
    for token in tokens:
        for place, (key, share) in enumerate(shares(trace, token, layer).items()):
            light = share < Fraction(rule.threshold) - Fraction(1, 10**6) and place >= rule.keep
            if key not in resident and not light:
                needed.append(key)
    irreplaceable: list[int] = []
    if rule.action == "substitute":
        for token in tokens:
            mine = list(shares(trace, token, layer))
            light_misses = [key for key in mine if key not in resident and key not in needed]
            stand_ins = [key for key in resident if key // trace.stride == layer and key not in mine]
            irreplaceable += light_misses[: max(len(light_misses) - len(stand_ins), 0)]
    return needed + irreplaceable


def lossy_replay(
    trace: Trace,
    policy: str,
    cache: str,
    scope: str,
    prefill: str,
    warm: bool,
    rule: Lossy,
    given: list[tuple[int, int, list[int]]] | None = None,
) -> LossyOutcome:
    """Run a trace through a co-resident cache whose misses fall to a lossy rule; the policy needs no future."""
    pools = [
        Pool(size, policy, {}, World(trace.stride, trace.num_layers, "run", warm, [], {}, {}), [])
        for size in pool_sizes(trace, cache, scope)
    ]
    outcome = LossyOutcome(0, 0, [0, 0], 0, 0, [0, 0], [Fraction(0), Fraction(0)])
    request, number = -1, 0
    for step in schedule(trace, prefill, given):
        if not step.layers:
            continue
        if not warm and step.request != request:
            request = step.request
            for pool in pools:
                pool.empty()
        for run in step.layers:
            (pool,) = (pool for pool in pools if run.layer in pool.size.layers)
            loaded = kept_whole(trace, step.tokens, run.layer, pool.resident, rule)
            lost = [key for key in run.batch if key not in pool.resident and key not in loaded]
            outcome.hits += sum(key in pool.resident for key in run.batch)
            outcome.misses += sum(key not in pool.resident for key in run.batch)
            outcome.given_up += len(lost)
            for token in step.tokens:
                share = shares(trace, token, run.layer)
                outcome.tokens[step.phase] += len(share) > 0
                outcome.weight[step.phase] += sum(share.get(key, 0) for key in lost)
            shown = [key for key in run.batch if key not in lost]
            place = (step.number, step.request, number, number)
            uses = [Use(key, run.layer, *place, Fraction(0), False, False) for key in shown]
            number += 1
            outcome.loads[step.phase] += len(pool.serve(uses))
    outcome.evictions = sum(pool.evictions for pool in pools)
    return outcome
