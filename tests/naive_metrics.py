"""Definition-level twins of SRP, static SCH and the expert measures: plain lists, slow, readable, nothing of lrcsim.

A trace is nested lists: ``experts[token][layer]`` the ids of the experts used there (none for what was not recorded),
``offsets``, and the number of experts of every layer. A count is n(window, layer, expert).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import combinations, pairwise
from math import sqrt
from typing import NamedTuple

Experts = list[list[list[int]]]


class Count(NamedTuple):
    """Uses of one expert in one window."""

    request: int
    start: int  # first token of the window, counted from the first of its request
    layer: int
    expert: int
    uses: int


class Best(NamedTuple):
    """SRP of a set of counts."""

    value: Fraction
    tau: int
    group_size: Fraction
    activation: Fraction


def counts(experts: Experts, offsets: Sequence[int], num_experts: Sequence[int], m: int) -> list[Count]:
    """Count the uses of every expert in every window."""
    found = []
    for request in range(len(offsets) - 1):
        tokens = experts[offsets[request] : offsets[request + 1]]
        for start in range(len(tokens) - m + 1):
            for layer, experts_of_layer in enumerate(num_experts):
                for expert in range(experts_of_layer):
                    uses = sum(expert in token[layer] for token in tokens[start : start + m])
                    found.append(Count(request, start, layer, expert, uses))
    return found


def f1(kept: Iterable[int], every: Iterable[int], m: int) -> Fraction | None:
    """Give F1 of keeping the sets with these counts, of all sets; None when there is nothing to serve."""
    kept, active = list(kept), sum(every)
    true_positives, predicted = sum(kept), m * len(kept)
    return Fraction(2 * true_positives, predicted + active) if active else None


def srp(uses: Sequence[int], m: int) -> Best | None:
    """Try every threshold; None when there is no activation."""
    scores = {tau: f1([n for n in uses if n >= tau], uses, m) for tau in range(m + 1)}
    if None in scores.values():
        return None
    value = max(score for score in scores.values() if score is not None)
    tau = min(tau for tau, score in scores.items() if score == value)
    predicted = m * sum(n >= tau for n in uses)
    return Best(value, tau, Fraction(predicted, sum(uses)), Fraction(sum(uses), m * len(uses)))


def best_of_all_choices(uses: Sequence[int], m: int) -> Fraction | None:
    """Try every subset of the (window, layer, expert) to keep, not only those that a threshold can choose."""
    choices = (chosen for size in range(len(uses) + 1) for chosen in combinations(uses, size))
    scores = [f1(chosen, uses, m) for chosen in choices]
    return max((score for score in scores if score is not None), default=None)


def sch_static(found: Sequence[Count], capacity: int, *, shared: bool) -> tuple[int, int]:
    """Return hits and accesses: in every window the ``capacity`` largest counts, of each layer or of all layers."""
    windows: dict[tuple[int, ...], list[int]] = {}
    for count in found:
        pool = () if shared else (count.layer,)
        windows.setdefault((count.request, count.start, *pool), []).append(count.uses)
    hits = sum(sum(sorted(uses, reverse=True)[:capacity]) for uses in windows.values())
    return hits, sum(count.uses for count in found)


def domain_specialisation(
    found: Sequence[Count], labels: Sequence[str], layer: int, expert: int, m: int
) -> float | None:
    """Return the coefficient of variation of one expert's activation over domains, None for fewer than two."""
    rates = []
    for domain in dict.fromkeys(labels):
        uses = [c.uses for c in found if (c.layer, c.expert) == (layer, expert) and labels[c.request] == domain]
        if uses and sum(uses) / (m * len(uses)) > 1e-5:
            rates.append(sum(uses) / (m * len(uses)))
    if len(rates) < 2:
        return None
    mean = sum(rates) / len(rates)
    return sqrt(sum((rate - mean) ** 2 for rate in rates) / (len(rates) - 1)) / mean


def vocabulary_specialisation(
    first_choice: Sequence[int], ids: Sequence[int], num_experts: int, occurrences: int
) -> list[float | None]:
    """Return the value of each expert of one layer; -1 in either list is not known."""
    pairs = [(token, expert) for token, expert in zip(ids, first_choice, strict=True) if token >= 0 and expert >= 0]
    shares: list[list[float]] = [[] for _ in range(num_experts)]
    for token, total in Counter(token for token, _ in pairs).items():
        if total >= occurrences:
            uses = [pairs.count((token, expert)) for expert in range(num_experts)]
            shares[uses.index(max(uses))].append(max(uses) / total)
    return [sum(share) / len(share) if share else None for share in shares]


def next_ids(ids: Sequence[int], offsets: Sequence[int]) -> list[int]:
    """Return the id after each token in its request, -1 at the end of a request."""
    return [-1 if i + 1 in offsets else ids[i + 1] for i in range(len(ids))]


class Shared(NamedTuple):
    """Experts that pairs of tokens share, added up: found, expected of balanced random routing, at most."""

    shared: Fraction
    chance: Fraction
    most: Fraction


def shared(pairs: Iterable[tuple[Sequence[int], Sequence[int]]], num_experts: int) -> Shared:
    """Add up pairs of tokens, each given as the experts that it uses; a token without any is in no pair."""
    total = Shared(Fraction(0), Fraction(0), Fraction(0))
    for one, other in pairs:
        if one and other:
            both, mean = len(set(one) & set(other)), Fraction(len(one) + len(other), 2)
            chance = Fraction(len(one) * len(other), num_experts)
            total = Shared(total.shared + both, total.chance + chance, total.most + mean)
    return total


def local_pairs(experts: Experts, offsets: Sequence[int], layer: int, m: int) -> list[tuple[list[int], list[int]]]:
    """Pair every token of every window with every other of it."""
    found = []
    for begin, end in pairwise(offsets):
        for start in range(begin, end - m + 1):
            window = range(start, start + m)
            found += [(experts[s][layer], experts[t][layer]) for s in window for t in window if s != t]
    return found


def global_pairs(experts: Experts, offsets: Sequence[int], layer: int) -> list[tuple[list[int], list[int]]]:
    """Pair every token with every token of another request."""
    request = [i for i, (begin, end) in enumerate(pairwise(offsets)) for _ in range(begin, end)]
    every = range(len(request))
    return [(experts[s][layer], experts[t][layer]) for s in every for t in every if request[s] != request[t]]


def imbalance(sums: Iterable[Shared]) -> Fraction | None:
    """Give (shared - chance) / (most - chance) of sums of several layers together; None where nothing could differ."""
    parts = list(sums)
    room = sum((part.most - part.chance for part in parts), Fraction(0))
    return sum((part.shared - part.chance for part in parts), Fraction(0)) / room if room else None
