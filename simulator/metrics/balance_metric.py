"""Load balance of experts, local and global: how unequally tokens near each other, and all tokens, use the experts.

Later versions of arXiv 2505.16056 (v3, v4) say that local routing consistency trades off strongly against *local* load
balance while *global* balance can coexist. Neither the abstract nor the published code defines these; this is ours.

Token t uses a(t) of a layer's E experts (k where all were recorded), and n(e) tokens of a set of T use expert e. With
balanced random routing, where every token draws its experts evenly and independently of the others, two tokens s, t
share a(s) a(t) / E experts on average; at most they share all. The **imbalance** of a set of pairs of tokens is

    (shared - chance) / (most - chance)        shared  experts that both use,   summed over the pairs
                                               chance  a(s) a(t) / E,           summed
                                               most    (a(s) + a(t)) / 2,       summed

* **local**: ordered pairs of different tokens of one window, over all windows of m tokens (overlapping, as SRP's). For
  A = sum of n(e), and T tokens with experts, a window has shared = sum of n (n - 1), chance = (A^2 - sum of a^2) / E,
  most = (T - 1) A.
* **global**: pairs of tokens of different requests: what tokens have in common that have nothing to do with each other.

It is 0 for balanced random routing at any m, 1 where all tokens use the same experts, and at least -1 / (m - 1), which
round robin reaches. Numerators and denominators are pooled over windows, layers and requests.

Why this measure. The usual one is the coefficient of variation of the counts, CV^2 = E sum of n^2 / A^2 - 1. With k
experts a token and r = k / E it is (1 - r) / (m r) for balanced random routing, as n has the variance m r (1 - r), and
(1 - r) / r for the same experts every time. So it depends on m and r, and few tokens look unbalanced. Taken between its
two ends, (CV^2 - floor) / (most - floor), it is the imbalance above exactly: the squares of counts are what pairs of
tokens share, and the floor is that of a token with itself. The global one has no floor left, of tokens or of requests.
(Entropy has neither this closed form nor these pairs.) CV and its expectation are given beside.

What is by definition. The local imbalance is the second moment of the window's counts, SRP the best F1 of the same
counts: two tokens of a window that share experts raise both. So that the two go together says little; what is left is
a question of fact: how much of local imbalance is the global one. Their difference, ``above_global``, is by how much
tokens near each other share more than tokens of different requests; in random order it would be 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError, check_choice
from lrcsim.base.progress import Progress, part_of
from lrcsim.base.reprs import short_repr
from lrcsim.base.text import number
from lrcsim.simulator.metrics.balance_sums import BalanceSums, Pairs, count_balance
from lrcsim.simulator.metrics.bootstrap import basic_interval, check_bootstrap, number_of_blocks, resample_blocks
from lrcsim.simulator.metrics.groups import group_values, interval_values, label_requests
from lrcsim.simulator.metrics.windows import Ints, check_segment, streams
from lrcsim.traces import RoutingTrace

BalanceLevel = Literal["model", "stack", "layer", "domain"]
BALANCE_LEVELS: tuple[BalanceLevel, ...] = ("model", "stack", "layer", "domain")
Floats = npt.NDArray[np.float64]
Ends = tuple[float, float] | None

NUMBERS = (
    "local_imbalance",
    "global_imbalance",
    "above_global",
    "local_cv",
    "local_cv_random",
    "global_cv",
    "global_cv_random",
)
"""The measures that a trace and each of its groups have."""


@dataclass(frozen=True)
class BalanceGroups:
    """Load balance of stacks, layers or domains, float64 [groups] but for ``windows``; see `Balance`.

    Attributes:
        local_imbalance: NaN where no window has two tokens with experts, or every token uses every expert.
        global_imbalance: NaN where there are not two requests; a domain's is of pairs of its own requests.
        above_global: the difference.
        local_cv: coefficient of variation.
        local_cv_random: the same expected of balanced random routing.
        global_cv: of all tokens.
        global_cv_random: expected.
        windows: int64, windows in the group.
        low: lower end of the confidence interval of ``local_imbalance``, NaN where fewer than two requests have
            windows; or None.
        high: its upper end, or None.
    """

    local_imbalance: Floats
    global_imbalance: Floats
    above_global: Floats
    local_cv: Floats
    local_cv_random: Floats
    global_cv: Floats
    global_cv_random: Floats
    windows: Ints
    low: Floats | None = None
    high: Floats | None = None

    __repr__ = short_repr


@dataclass(frozen=True)
class Balance:
    """Load balance of a trace at one segment length, pooled over all layers and requests.

    Attributes:
        segment: m, tokens in a window.
        local_imbalance: of pairs of tokens in a window: 0 as balanced random routing, 1 the same experts always; NaN
            when nothing was recorded, or every token uses every expert.
        global_imbalance: of pairs of tokens of different requests, at any m; NaN for one request alone.
        above_global: the first less the second.
        local_cv: coefficient of variation over experts of their uses in a window, root of the mean square.
        local_cv_random: the same expected of balanced random routing, sqrt((1 - r) / (m r)) where all was recorded.
        global_cv: coefficient of variation over experts of their uses by all tokens; over layers as before.
        global_cv_random: the same expected of as many tokens.
        windows: windows in the trace.
        interval: confidence interval of ``local_imbalance``, or None: not asked for, or fewer than two requests.
        global_interval: of ``global_imbalance``.
        above_global_interval: of ``above_global``, from the same resamples.
        level: what ``groups`` are.
        groups: the same by ``level``, or None at level ``"model"``.
        domains: at level ``"domain"`` the labels, in order of appearance.
        stacks: at level ``"stack"`` their names.
        draws: float64 [2, bootstrap], local and global imbalance of each resample, or None without an interval.
    """

    segment: int
    local_imbalance: float
    global_imbalance: float
    above_global: float
    local_cv: float
    local_cv_random: float
    global_cv: float
    global_cv_random: float
    windows: int
    interval: Ends
    global_interval: Ends
    above_global_interval: Ends
    level: BalanceLevel
    groups: BalanceGroups | None = None
    domains: tuple[str, ...] | None = None
    stacks: tuple[str, ...] | None = None
    draws: Floats | None = None

    __repr__ = short_repr

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of the groups, at levels whose groups have names."""
        return self.domains if self.stacks is None else self.stacks

    def to_dict(self, label: str) -> dict[str, Any]:
        """Return JSON values, None for what is not known; ``label`` names the trace."""
        data: dict[str, Any] = {"trace": label, "segment": self.segment}
        data |= {name: number(getattr(self, name)) for name in NUMBERS} | {"windows": self.windows}
        for name in ("interval", "global_interval", "above_global_interval"):
            data[name] = interval_values(getattr(self, name))
        return data | group_values(self.groups, self.domains, self.stacks)


def balance(
    trace: RoutingTrace,
    segment: int = 16,
    *,
    level: BalanceLevel = "model",
    domains: Sequence[str] | None = None,
    bootstrap: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Balance:
    """Measure local and global load balance (see the top of this module).

    Positions that were not recorded count as no use: a token without experts is in no pair. The trace is streamed.

    Args:
        trace: the routing trace.
        segment: m, tokens in a window, at least 2.
        level: of what to give it besides the pooled one: ``"stack"`` (encoder and decoder), ``"layer"``, ``"domain"``,
            or nothing more: ``"model"``.
        domains: one label per request, in place of the trace's own.
        bootstrap: draws for confidence intervals, of whole requests; 0: none. Groups have one of their local imbalance.
            Takes 8 bytes x draws x layers x experts of memory.
        confidence: of the intervals.
        seed: of the resamples, those of `srp` at the same seed.
        jobs: threads; None: all cores. The result does not depend on it.
        progress: told the tokens done, and all.

    Raises:
        ConfigError: an option is not allowed, or no request has ``segment`` tokens.
        TraceError: the trace is damaged.
    """
    check_choice("level", level, BALANCE_LEVELS)
    m = check_segment(trace, segment)
    if m < 2:
        raise ConfigError(f"segment {m} is not allowed: balance compares tokens of a segment, it takes at least 2")
    check_bootstrap(bootstrap, confidence)
    if level == "domain":
        names, label = label_requests(trace, domains)
    else:
        names, label = ("",), np.zeros(trace.num_requests, np.int64)
    windows = np.stack([stream.windows(m) for stream in streams(trace)])  # [streams, requests]
    draws = bootstrap if np.count_nonzero(windows.sum(axis=0)) > 1 else 0
    sums = BalanceSums(trace, label, len(names), draws)
    passes = max(number_of_blocks(trace.num_requests, draws), 1)
    if not draws:
        count_balance(trace, m, sums, jobs, progress)
    for block, (first, weights) in enumerate(resample_blocks(trace.num_requests, draws, seed) if draws else ()):
        sums.weigh(first, weights)
        count_balance(trace, m, sums, jobs, part_of(progress, block, passes))

    local, overall = sums.local_pairs(sums.windows.sum(axis=0)), sums.of_trace()
    of_model = {name: float(value) for name, value in _numbers(local.pooled(), overall.pooled()).items()}
    values: Floats | None = None
    intervals: list[Ends] = [None, None, None]
    if draws:
        near = sums.local_pairs(sums.drawn_windows.sum(axis=0)).pooled().imbalance()
        far = sums.global_pairs(sums.drawn_uses, sums.drawn_requests).pooled().imbalance()
        values = np.stack([near, far])
        measured = [of_model[name] for name in NUMBERS[:3]]
        intervals = [basic_interval(a, b, confidence) for a, b in zip(measured, (near, far, near - far), strict=True)]
    return Balance(
        segment=m,
        **of_model,
        windows=int(windows.sum()),
        interval=intervals[0],
        global_interval=intervals[1],
        above_global_interval=intervals[2],
        level=level,
        groups=_groups_of(trace, level, sums, windows, confidence),
        domains=names if level == "domain" else None,
        stacks=trace.layers.stack_names if level == "stack" else None,
        draws=values,
    )


def _numbers(local: Pairs, overall: Pairs) -> dict[str, Floats]:
    near, far = local.imbalance(), overall.imbalance()
    variations = (local.variation(), local.random_variation(), overall.variation(), overall.random_variation())
    return dict(zip(NUMBERS, (near, far, near - far, *variations), strict=True))


def _groups_of(
    trace: RoutingTrace, level: BalanceLevel, sums: BalanceSums, windows: Ints, confidence: float
) -> BalanceGroups | None:
    """Measure the groups of a level; ``windows`` is int64 [streams, requests]."""
    if level == "model":
        return None
    drawn = sums.local_pairs(sums.drawn_windows if level == "domain" else sums.drawn_windows.sum(axis=0))
    if level == "domain":
        labels = np.arange(len(sums.windows))[:, None]
        by_domain = windows.sum(axis=0) * (sums.label == labels)  # [domains, requests]
        local, overall = sums.local_pairs(sums.windows), sums.global_pairs(sums.uses, sums.requests)
        return _with_intervals(
            local.pooled(), overall.pooled(), list(drawn.pooled().imbalance()), by_domain, confidence
        )
    local, overall = sums.local_pairs(sums.windows.sum(axis=0)), sums.of_trace()
    by_layer = np.zeros((trace.num_layers, trace.num_requests), np.int64)
    by_stack = np.zeros((len(trace.layers.stack_names), trace.num_requests), np.int64)
    layers_of = [np.zeros(0, np.int64)] * len(by_stack)
    for stream, of_requests in zip(streams(trace), windows, strict=True):
        by_layer[stream.layers] = by_stack[stream.stack] = of_requests
        layers_of[stream.stack] = stream.layers
    if level == "layer":
        return _with_intervals(local, overall, list(drawn.imbalance().T), by_layer, confidence)
    near, far = (_stacked([pairs.pooled(layers) for layers in layers_of]) for pairs in (local, overall))
    return _with_intervals(near, far, [drawn.pooled(some).imbalance() for some in layers_of], by_stack, confidence)


def _with_intervals(
    local: Pairs, overall: Pairs, drawn: Sequence[Floats], windows: Ints, confidence: float
) -> BalanceGroups:
    """Put groups together.

    Args:
        local: of each group.
        overall: of each group.
        drawn: float64 [draws] of each group, its local imbalance in the resamples.
        windows: int64 [groups, requests]; one request with windows alone gives no interval.
        confidence: of the intervals.
    """
    groups = BalanceGroups(**_numbers(local, overall), windows=windows.sum(axis=-1))
    if len(drawn[0]) == 0:
        return groups
    ends = [
        basic_interval(float(value), values if np.count_nonzero(mine) > 1 else values[:0], confidence)
        for value, values, mine in zip(groups.local_imbalance, drawn, windows, strict=True)
    ]
    low, high = np.array(ends).reshape(-1, 2).T
    return replace(groups, low=low, high=high)


def _stacked(parts: Sequence[Pairs]) -> Pairs:
    return Pairs(*(np.stack(arrays) for arrays in zip(*parts, strict=True)))
