"""What experts specialise in, how evenly they are used, and how SRP goes with either (arXiv 2505.16056).

The rate at which an expert is used, ``act``, is A / P(0) of its SRP: uses by windows, so that tokens near the ends of a
request, which fewer windows cover, count less.

* Domain specialisation of an expert: coefficient of variation (standard deviation, divisor n - 1, over mean) of ``act``
  over the domains in which it is above 1e-5; it takes two such domains.
* Vocabulary specialisation of an expert: every token id that occurs at least 20 times belongs to the expert that is
  most often its first choice (greatest router score), with that expert's share of the occurrences; the expert's value
  is the mean share of the token ids that belong to it. ``in``: by the token that is routed; ``predicted``: by the token
  that the model's output favours at the position; ``out``: by the next token of the request. Ties go to the smaller
  expert id; an expert without token ids has no value.
* Load imbalance: standard deviation (divisor n - 1) of ``act`` over all experts of the model.

A model's value is the mean over the experts that have one; the correlation is Pearson's, over these experts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numba
import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.base.progress import Progress
from lrcsim.base.reprs import short_repr
from lrcsim.simulator.metrics.groups import label_requests
from lrcsim.simulator.metrics.srp_metric import srp
from lrcsim.simulator.metrics.windows import Ints, check_segment, streams
from lrcsim.traces import RoutingTrace

Floats = npt.NDArray[np.float64]

VocabularyKind = Literal["in", "predicted", "out"]
"""Which token stands for a position (``in``, ``pred`` and ``out`` in the paper's 20_vocab_calc.py)."""

USED = 1e-5
"""A domain counts for an expert when its activation there is above this, as in the paper's code."""
MOST_TABLE_BYTES = 2**29
"""Tables of uses by token id and expert are kept for as many layers at a time as fit this."""


@dataclass(frozen=True)
class ExpertMeasures:
    """Measures of every expert; arrays are float64 [L, E], NaN where an expert has no value or does not exist.

    Attributes:
        segment: m of ``srp`` and ``activation``.
        srp: SRP of each expert with a threshold of its own.
        activation: rate at which the expert is used, 0 to 1.
        domain: domain specialisation, or None: see ``missing``.
        vocabulary_in: vocabulary specialisation by the routed token, or None.
        vocabulary_predicted: the same by the predicted token, or None.
        vocabulary_out: the same by the next token, or None.
        missing: why a measure is None, by its name.
    """

    segment: int
    srp: Floats
    activation: Floats
    domain: Floats | None
    vocabulary_in: Floats | None
    vocabulary_predicted: Floats | None
    vocabulary_out: Floats | None
    missing: dict[str, str]

    __repr__ = short_repr

    @property
    def load_imbalance(self) -> float:
        """Standard deviation of ``activation`` over all experts; 0 when all are used alike."""
        rates = self.activation[np.isfinite(self.activation)]
        return float(rates.std(ddof=1)) if len(rates) > 1 else 0.0

    @property
    def busiest(self) -> Floats:
        """float64 [L], the activation of each layer's most used expert over the layer's mean; 1 when all are alike."""
        return np.array([_over_mean(row[np.isfinite(row)]) for row in self.activation])

    def present(self) -> dict[str, Floats]:
        """Return the measures that SRP is compared with, by name, those that the trace allows."""
        measures = {
            "activation": self.activation,
            "domain": self.domain,
            "vocabulary_in": self.vocabulary_in,
            "vocabulary_predicted": self.vocabulary_predicted,
            "vocabulary_out": self.vocabulary_out,
        }
        return {name: values for name, values in measures.items() if values is not None}

    def mean(self, measure: str) -> float | None:
        """Return the model's value of a measure of `present`, or None when no expert has one."""
        values = self.present()[measure]
        return float(np.nanmean(values)) if np.isfinite(values).any() else None

    def correlation(self, measure: str) -> float | None:
        """Return Pearson's correlation of the experts' SRP with a measure of `present`, or None when undefined."""
        return pearson(self.srp, self.present()[measure])


def expert_measures(
    trace: RoutingTrace,
    segment: int = 16,
    *,
    domains: Sequence[str] | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> ExpertMeasures:
    """Measure all that the trace allows.

    Args:
        trace: the routing trace; without domains or token ids the measures that need them are None.
        segment: m, in tokens (the paper: 16).
        domains: one label per request, in place of the trace's own.
        jobs: threads; None: all cores. The result does not depend on it.
        progress: told the measures done, and all.

    Raises:
        ConfigError: the segment is longer than every request, or the labels are not one per request.
    """
    groups = srp(trace, segment, level="expert", domains=domains, jobs=jobs).groups
    assert groups is not None
    kinds: dict[str, VocabularyKind] = {f"vocabulary_{kind}": kind for kind in get_args(VocabularyKind)}
    found: dict[str, Floats | None] = dict.fromkeys(("domain", *kinds))
    missing: dict[str, str] = {}
    if domains is not None:
        label_requests(trace, domains)  # labels that were given must be right
    for done, name in enumerate(found, start=1):
        if progress is not None:
            progress(done, len(found) + 1)
        try:
            if name == "domain":
                found[name] = domain_specialisation(trace, segment, domains=domains)
            else:
                found[name] = vocabulary_specialisation(trace, kinds[name], jobs=jobs)
        except ConfigError as error:
            missing[name] = str(error)
    return ExpertMeasures(segment, groups.value, groups.activation, **found, missing=missing)


def activation_by_domain(trace: RoutingTrace, segment: int, domains: Sequence[str] | None = None) -> Floats:
    """Return float64 [domains, L, E], A / P(0) of every expert in every domain; NaN in a domain without windows.

    Raises:
        ConfigError: the requests have no labels, or none has ``segment`` tokens.
    """
    m = check_segment(trace, segment)
    names, label = label_requests(trace, domains)
    shape = (len(names), trace.num_layers, trace.num_experts)
    rates = np.full(shape, np.nan)
    for stream in streams(trace):
        windows = stream.windows(m)
        active = np.zeros(int(np.prod(shape)))
        for block in stream.blocks(m):
            experts = block.experts[block.lead :]
            first = block.done - stream.done_before - len(experts)
            token = first + np.arange(len(experts))
            request = np.searchsorted(stream.offsets, token, side="right") - 1
            before, after = token - stream.offsets[request], stream.offsets[request + 1] - token - 1
            # Windows that cover the token: bounded by its distance to both ends, by m, and by how many there are.
            cover = np.minimum(np.minimum(before, after) + 1, np.minimum(m, windows[request]))
            position = np.nonzero(experts >= 0)
            key = (label[request[position[0]]] * shape[1] + position[1]) * shape[2] + experts[position]
            active += np.bincount(key, weights=cover[position[0]], minlength=len(active))
        possible = m * np.bincount(label, weights=windows, minlength=len(names))
        with np.errstate(invalid="ignore"):
            of_stream = active.reshape(shape) / possible[:, None, None]
        rates[:, stream.layers] = of_stream[:, stream.layers]
    rates[:, np.arange(shape[2]) >= trace.layers.num_experts[:, None]] = np.nan
    return rates


def domain_specialisation(trace: RoutingTrace, segment: int = 16, *, domains: Sequence[str] | None = None) -> Floats:
    """Return float64 [L, E], the domain specialisation of every expert (see the top of this module).

    Args:
        trace: the routing trace.
        segment: m, in tokens.
        domains: one label per request, in place of the trace's own.

    Raises:
        ConfigError: the requests have no labels, or all the same, or none has ``segment`` tokens.
    """
    names, _ = label_requests(trace, domains)
    if len(names) < 2:
        raise ConfigError(f"domain specialisation compares domains, all requests are {names[0]!r}")
    rates = activation_by_domain(trace, segment, domains)
    used = np.nan_to_num(rates) > USED
    number = used.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(used, rates, 0).sum(axis=0) / number
        variance = np.where(used, (rates - mean) ** 2, 0).sum(axis=0) / (number - 1)
        return np.where(number > 1, np.sqrt(variance) / mean, np.nan)


def vocabulary_specialisation(
    trace: RoutingTrace, kind: VocabularyKind = "in", *, occurrences: int = 20, jobs: int | None = None
) -> Floats:
    """Return float64 [L, E], the vocabulary specialisation of every expert (see the top of this module).

    Tokens of unknown id (-1) and positions whose first choice was not recorded are left out.

    Args:
        trace: the routing trace, with token ids; for ``"predicted"`` with predicted ones.
        kind: ``"in"``: by the routed token; ``"predicted"``: by the one that the model's output favours at the
            position; ``"out"``: by the token after it.
        occurrences: how often a token id must occur.
        jobs: threads; None: all cores. The result does not depend on it.

    Raises:
        ConfigError: the trace has not these token ids, or none occurs often enough.
    """
    if kind not in get_args(VocabularyKind):
        raise ConfigError(f"vocabulary specialisation of kind {kind!r} is not known, use 'in', 'predicted' or 'out'")
    if _column_of(kind) not in trace.columns:
        wanted = "predicted token ids" if kind == "predicted" else "token ids"
        raise ConfigError(f"the trace has no {wanted}, vocabulary specialisation needs them")
    seen, counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for _, ids in _token_blocks(trace, kind):
        new, new_counts = np.unique(ids[ids >= 0], return_counts=True)
        everything = np.concatenate([seen, new])
        seen, place = np.unique(everything, return_inverse=True)
        counts = np.bincount(place, weights=np.concatenate([counts, new_counts]), minlength=len(seen)).astype(np.int64)
    frequent = seen[counts >= occurrences]
    if len(frequent) == 0:
        raise ConfigError(f"no token id occurs {occurrences} times, vocabulary specialisation needs some that do")

    tally: Any = _tally  # compiled: type checkers do not know its arguments
    shape = (len(frequent), trace.num_experts)
    at_once = max(MOST_TABLE_BYTES // (8 * len(frequent) * trace.num_experts), 1)
    result = np.full((trace.num_layers, trace.num_experts), np.nan)
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as threads:
        for low in range(0, trace.num_layers, at_once):
            layers = range(low, min(low + at_once, trace.num_layers))
            tables = np.zeros((len(layers), *shape), np.int64)
            for first, ids in _token_blocks(trace, kind):
                experts = np.ascontiguousarray(trace.read("experts", first, first + len(ids))[:, :, 0])
                rows = np.searchsorted(frequent, ids).clip(max=len(frequent) - 1)
                rows[frequent[rows] != ids] = -1
                list(threads.map(partial(tally, experts, rows), layers, tables))
            for layer, table in zip(layers, tables, strict=True):
                result[layer] = _mean_share(table, occurrences)
    return result


def pearson(a: Floats, b: Floats) -> float | None:
    """Return Pearson's correlation over the places where both are numbers; None for fewer than two, or no variation."""
    both = np.isfinite(a) & np.isfinite(b)
    x, y = a[both] - a[both].mean() if both.any() else a[both], b[both] - b[both].mean() if both.any() else b[both]
    spread = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / spread if spread > 0 else None


@numba.njit(cache=True, nogil=True)
def _tally(first_choice, rows, layer, table):  # type: ignore[no-untyped-def]
    """Add one use by token id and expert: first_choice int [tokens, L], rows int64 [tokens], table [ids, E]."""
    for token in range(len(rows)):
        expert = first_choice[token, layer]
        if rows[token] >= 0 and expert >= 0:
            table[rows[token], expert] += 1


def _column_of(kind: VocabularyKind) -> str:
    return "predicted_ids" if kind == "predicted" else "token_ids"


def _token_blocks(trace: RoutingTrace, kind: VocabularyKind) -> Iterator[tuple[int, Ints]]:
    """Yield the first token of a block and the token ids to count its tokens by, -1 where there is none."""
    for low, high in trace.blocks(65_536):
        if kind != "out":
            yield low, trace.read(_column_of(kind), low, high).astype(np.int64)
            continue
        ids = trace.read("token_ids", low, min(high + 1, trace.num_tokens)).astype(np.int64)[1:]
        ids = np.append(ids, -1)[: high - low]
        last = trace.offsets[1:][np.diff(trace.offsets) > 0] - 1  # of every request
        last = last[(last >= low) & (last < high)]
        ids[last - low] = -1
        yield low, ids


def _mean_share(table: Ints, occurrences: int) -> Floats:
    """Return float64 [E] for int64 [token ids, E], uses as first choice."""
    total = table.sum(axis=1)
    table, total = table[total >= occurrences], total[total >= occurrences]
    owner = table.argmax(axis=1)
    share = table.max(axis=1, initial=0) / total
    with np.errstate(invalid="ignore"):
        won = np.bincount(owner, minlength=table.shape[1])
        return np.asarray(np.bincount(owner, weights=share, minlength=table.shape[1]) / won)


def _over_mean(rates: Floats) -> float:
    return float(rates.max() / rates.mean()) if len(rates) and rates.mean() > 0 else 1.0
