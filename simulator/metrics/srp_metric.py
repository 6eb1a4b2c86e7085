"""SRP, segment routing best performance: how well one fixed set of experts can stand for a segment's routing.

Definition (arXiv 2505.16056, and 30_srp_calc.py, 31_srp_refine.py and C0_srp_pos_calc.py of its code). For every window
w of m consecutive tokens of a request, n(w, l, e) is how many of the m tokens use expert e of layer l. A set G of such
(w, l, e) is served by the rule "keep expert e of layer l for the whole window if n >= tau". With

    M(tau) = sum of n over G where n >= tau        activations that found their expert kept
    P(tau) = m * (members of G where n >= tau)     activations there could have been at what was kept
    A      = M(0)                                  activations

the rule has precision M / P and recall M / A, so F1(tau) = 2 M(tau) / (P(tau) + A), and SRP is the largest F1 over
tau = 0 ... m. No other choice of experts per window has a larger pooled F1. Sums are pooled over G before the maximum
is taken: one threshold per G.

Keeping everything (tau = 0) gives F1 = 2 r / (1 + r) at the activation rate r = A / P(0), which is k / E where every
position was recorded: the *floor*, below which SRP cannot fall and which differs between models of different sparsity.
SRP is found with hindsight and has no limit of memory; P(tau) / A says how many experts it keeps, over those active.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import check_choice
from lrcsim.base.progress import Progress, part_of
from lrcsim.base.reprs import short_repr
from lrcsim.base.shown import Shown
from lrcsim.base.text import number
from lrcsim.simulator.metrics import window_kernels
from lrcsim.simulator.metrics.bootstrap import basic_interval, check_bootstrap, number_of_blocks, resample_blocks
from lrcsim.simulator.metrics.groups import group_values, interval_values, label_requests
from lrcsim.simulator.metrics.windows import BlockOfWindows, Ints, Stream, check_segment, refuse_repeats, streams
from lrcsim.traces import RoutingTrace

Level = Literal["model", "stack", "layer", "domain", "expert", "position"]
LEVELS: tuple[Level, ...] = ("model", "stack", "layer", "domain", "expert", "position")
Floats = npt.NDArray[np.float64]
NO_DRAWS: Floats = np.zeros(0)
BYTES_OF_WEIGHTS = 2**26
"""Of resamples as numbers that are multiplied at a time."""

MOST_POSITION_BYTES = 2**29
"""Threads that count positions have a table each; there are as many as fit this."""


@dataclass(frozen=True)
class SrpGroups:
    """SRP of several sets G, each with a threshold of its own.

    All arrays have the same shape: [stacks] by stack, [L] by layer, [domains] by domain, [L, E] by expert, [places] by
    position. Where a set has no activation (an expert that was never used), ``value``, ``group_size`` and the interval
    are NaN.

    Attributes:
        value: float64, SRP.
        tau: int64, the smallest threshold that reaches it.
        group_size: float64, P(tau) / A: experts kept, over experts active.
        activation: float64, A / P(0): the rate at which the set's experts are used, by windows. (An expert that a layer
            does not have is NaN.)
        floor: float64, 2 r / (1 + r) at that rate.
        windows: int64, windows in the set.
        low: float64, lower end of the confidence interval, NaN where fewer than two requests have windows; or None.
        high: float64, its upper end, or None.
    """

    value: Floats
    tau: Ints
    group_size: Floats
    activation: Floats
    floor: Floats
    windows: Ints
    low: Floats | None = None
    high: Floats | None = None

    __repr__ = short_repr


@dataclass(frozen=True)
class Srp(Shown):
    """SRP of a trace at one segment length, pooled over all layers, experts and requests.

    Attributes:
        segment: m, tokens in a window.
        value: SRP, 0 to 1; NaN when no expert was recorded in any window.
        tau: the smallest threshold that reaches it.
        group_size: P(tau) / A: experts kept, over experts active.
        activation: A / P(0); k / E where every position was recorded.
        floor: 2 r / (1 + r) at that rate: what keeping every expert gives.
        windows: windows in the trace.
        interval: confidence interval of ``value``, or None: not asked for, or fewer than two requests have windows.
        level: what ``groups`` are.
        groups: SRP by ``level``, or None at level ``"model"``.
        domains: at level ``"domain"`` the labels, in order of appearance.
        stacks: at level ``"stack"`` their names, as ``("encoder", "decoder")``.
        positions: int64 [places], at level ``"position"``: place p is windows that begin at token p of their request,
            and is drawn at ``positions[p]`` = p + m // 2.
        draws: float64 [bootstrap], the value of each resample, or None without an interval. Two traces of as many
            requests have the same resamples at one seed: where these are the same texts, differences are paired.
    """

    segment: int
    value: float
    tau: int
    group_size: float
    activation: float
    floor: float
    windows: int
    interval: tuple[float, float] | None
    level: Level
    groups: SrpGroups | None = None
    domains: tuple[str, ...] | None = None
    stacks: tuple[str, ...] | None = None
    positions: Ints | None = None
    draws: Floats | None = None

    drawn_by = "plots.shown:draw_srp"
    __repr__ = short_repr

    def _rows(self) -> dict[str, Any]:
        """Return a row for each group of ``level``, for the whole at level ``"model"``."""
        names = ("value", "floor", "group_size", "activation", "tau", "windows", "low", "high")
        if self.groups is None:
            low, high = (None, None) if self.interval is None else self.interval
            found = {**vars(self), "low": low, "high": high}
            return {"segment": [self.segment], **{name: [found[name]] for name in names}}
        shape = self.groups.value.shape
        places: dict[str, Any]
        if self.level == "expert":
            places = dict(zip(("layer", "expert"), (at.ravel() for at in np.indices(shape)), strict=True))
        elif self.labels is not None:
            places = {self.level: list(self.labels)}
        else:
            places = {self.level: np.arange(shape[0]) if self.positions is None else self.positions}
        columns = {name: getattr(self.groups, name) for name in names}
        known = {name: np.ravel(values) for name, values in columns.items() if values is not None}
        return {"segment": np.full(self.groups.value.size, self.segment), **places, **known}

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The names of the groups, at levels whose groups have names."""
        return self.domains if self.stacks is None else self.stacks

    def to_dict(self, label: str) -> dict[str, Any]:
        """Return JSON values, None for what is not known; ``label`` names the trace."""
        data: dict[str, Any] = {"trace": label, "segment": self.segment}
        for name in ("value", "floor", "activation", "group_size"):
            data[name] = number(getattr(self, name))
        data |= {"tau": self.tau, "windows": self.windows}
        data["interval"] = interval_values(self.interval)
        data |= group_values(self.groups, self.domains, self.stacks)
        if self.positions is not None:
            data["positions"] = self.positions.tolist()
        return data


def srp(
    trace: RoutingTrace,
    segment: int = 16,
    *,
    level: Level = "model",
    domains: Sequence[str] | None = None,
    bootstrap: int = 0,
    confidence: float = 0.95,
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Srp:
    """Measure segment routing best performance.

    Positions that were not recorded count as no activation. The trace is streamed.

    Args:
        trace: the routing trace.
        segment: m, tokens in a window.
        level: of what to give SRP besides the pooled one: ``"stack"`` (encoder and decoder), ``"layer"``, ``"domain"``,
            ``"expert"``, ``"position"`` (of the window in its request), or nothing more: ``"model"``.
        domains: one label per request, in place of the trace's own.
        bootstrap: draws for confidence intervals (the paper: 1000); 0: none. Requests are resampled and the threshold
            is chosen anew for each resample. Where draws x requests exceed `bootstrap.MEMORY` the trace is read again
            for each part of the draws. At levels ``"expert"`` and ``"position"`` only
            the pooled value has an interval.
        confidence: of the intervals.
        seed: of the resamples, which are the same for every layer, domain and segment length.
        jobs: threads; None: all cores. The result does not depend on it.
        progress: told the tokens done, and all.

    Raises:
        ConfigError: an option is not allowed, or no request has ``segment`` tokens.
        TraceError: the trace is damaged.
    """
    check_choice("level", level, LEVELS)
    m = check_segment(trace, segment)
    check_bootstrap(bootstrap, confidence)
    names, label = label_requests(trace, domains) if level == "domain" else ((), None)
    windows = np.stack([stream.windows(m) for stream in streams(trace)])  # [streams, requests]
    draws = bootstrap if np.count_nonzero(windows.sum(axis=0)) > 1 else 0
    sums = _Sums(trace, m, level, draws, label, len(names))
    parts = max(number_of_blocks(trace.num_requests, draws), 1)
    passes = parts + (level == "position")
    if not draws:
        _count_windows(trace, sums, jobs, part_of(progress, 0, passes))
    for block, (first, weights) in enumerate(resample_blocks(trace.num_requests, draws, seed) if draws else ()):
        sums.weigh(first, weights)
        _count_windows(trace, sums, jobs, part_of(progress, block, passes))

    pooled = _best(sums.by_layer.sum(axis=0), m, windows.sum())
    interval, values = None, None
    if draws:
        values = _best(_as_int(sums.drawn), m).value
        interval = basic_interval(float(pooled.value), values, confidence)
    windows_of_layer, requests_of_layer = np.zeros((2, trace.num_layers), np.int64)
    windows_of_stack, requests_of_stack = np.zeros((2, len(trace.layers.stack_names)), np.int64)
    for stream, counts in zip(streams(trace), windows, strict=True):
        windows_of_layer[stream.layers] = windows_of_stack[stream.stack] = counts.sum()
        requests_of_layer[stream.layers] = requests_of_stack[stream.stack] = np.count_nonzero(counts)
    groups: SrpGroups | None = None
    positions: Ints | None = None
    if level == "stack":
        groups = _best(sums.by_stack, m, windows_of_stack)
        groups = _with_intervals(groups, sums.drawn_groups, requests_of_stack, m, confidence)
    elif level == "layer":
        groups = _best(sums.by_layer, m, windows_of_layer)
        groups = _with_intervals(groups, sums.drawn_groups, requests_of_layer, m, confidence)
    elif label is not None:
        of_request = windows.sum(axis=0)
        groups = _best(sums.by_domain, m, np.bincount(label, weights=of_request, minlength=len(names)))
        requests = np.bincount(label, weights=of_request > 0, minlength=len(names))
        groups = _with_intervals(groups, sums.drawn_groups, requests, m, confidence)
    elif level == "expert":
        groups = _best(sums.by_expert, m, windows_of_layer[:, None])
        absent = np.arange(trace.num_experts) >= trace.layers.num_experts[:, None]
        groups.activation[absent] = groups.floor[absent] = np.nan
    elif level == "position":
        by_place = _count_positions(trace, m, jobs, part_of(progress, parts, passes))
        places = np.arange(len(by_place))
        reach = sum(trace.num_requests - np.searchsorted(np.sort(row), places, side="right") for row in windows)
        groups = _best(by_place, m, reach)
        positions = places + m // 2
    return Srp(
        segment=m,
        value=float(pooled.value),
        tau=int(pooled.tau),
        group_size=float(pooled.group_size),
        activation=float(pooled.activation),
        floor=float(pooled.floor),
        windows=int(pooled.windows),
        interval=interval,
        level=level,
        groups=groups,
        domains=names if level == "domain" else None,
        stacks=trace.layers.stack_names if level == "stack" else None,
        positions=positions,
        draws=values,
    )


class _Sums:
    """Histograms of n(w, l, e), int64 [..., m + 1], pooled as a level needs them.

    The bootstrap's are float64, so that a matrix product makes them, and exact: whole numbers below 2^53.
    """

    def __init__(
        self, trace: RoutingTrace, segment: int, level: Level, draws: int, label: Ints | None, num_domains: int
    ) -> None:
        layers, bins = trace.num_layers, segment + 1
        self.segment, self.level, self.label = segment, level, label
        self.first, self.weights = 0, np.zeros((0, trace.num_requests), np.uint8)
        stacks = len(trace.layers.stack_names)
        self.by_layer = np.zeros((layers, bins), np.int64)
        self.by_stack = np.zeros((stacks, bins), np.int64)
        self.by_domain = np.zeros((num_domains, bins), np.int64)
        self.by_expert = np.zeros((layers, trace.num_experts if level == "expert" else 0, bins), np.int64)
        self.drawn = np.zeros((draws, bins))
        groups = {"stack": stacks, "layer": layers, "domain": num_domains}.get(level, 0)
        self.drawn_groups = np.zeros((groups, draws, bins))

    def weigh(self, first: int, weights: npt.NDArray[np.uint8]) -> None:
        """Take some of the draws, those from ``first`` on, for the next pass: uint8 [some, requests]."""
        self.first, self.weights = first, weights

    def counts_experts(self, layer: int) -> Ints:
        """Return where to count a layer's experts apart, int64 [E, m + 1]; [0, m + 1] after the first pass."""
        return self.by_expert[layer] if self.first == 0 else self.by_expert[layer, :0]

    def add(self, stream: Stream, requests: Ints, rows: Ints) -> None:
        """Add int64 [layers of the stream, requests, m + 1]; a request may come in parts."""
        of_requests = rows.sum(axis=0)
        if self.first == 0:  # else they are all there from the first pass
            self.by_layer[stream.layers] += rows.sum(axis=1)
            self.by_stack[stream.stack] += of_requests.sum(axis=0)
            if self.label is not None:
                np.add.at(self.by_domain, self.label[requests], of_requests)
        step = max(BYTES_OF_WEIGHTS // (8 * max(len(requests), 1)), 1)
        for low in range(0, len(self.weights), step):
            weights = self.weights[low : low + step][:, requests].astype(np.float64)
            draws = slice(self.first + low, self.first + low + len(weights))
            self._add_drawn(draws, weights, stream, requests, rows, of_requests)

    def _add_drawn(
        self, draws: slice, weights: Floats, stream: Stream, requests: Ints, rows: Ints, of_requests: Ints
    ) -> None:
        self.drawn[draws] += weights @ of_requests
        if self.level == "stack":
            self.drawn_groups[stream.stack, draws] += weights @ of_requests
        elif self.level == "layer":
            for layer, row in zip(stream.layers.tolist(), rows, strict=True):
                self.drawn_groups[layer, draws] += weights @ row
        elif self.label is not None:
            domain = self.label[requests]
            for group in np.unique(domain).tolist():
                mine = domain == group
                self.drawn_groups[group, draws] += weights[:, mine] @ of_requests[mine]


def _count_windows(trace: RoutingTrace, sums: _Sums, jobs: int | None, progress: Progress | None) -> None:
    m, num_experts = sums.segment, trace.layers.num_experts
    kernel: Any = window_kernels.count_windows  # compiled: type checkers do not know its arguments
    count, since = np.zeros((2, trace.num_layers, trace.num_experts), np.int64)
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as threads:
        for stream in streams(trace):
            for block in stream.blocks(m):
                rows = np.zeros((len(stream.layers), len(block.requests), m + 1), np.int64)

                def run(layer: int, row: Ints, block: BlockOfWindows = block) -> bool:
                    state = count[layer], since[layer]
                    own = sums.counts_experts(layer)
                    return bool(kernel(block.experts, layer, num_experts[layer], *block.spans, m, *state, row, own))

                refuse_repeats(all(threads.map(run, stream.layers.tolist(), rows)), block)
                sums.add(stream, block.requests, rows)
                if progress is not None:
                    progress(block.done, trace.num_tokens)


def _count_positions(trace: RoutingTrace, segment: int, jobs: int | None, progress: Progress | None) -> Ints:
    """Return int64 [places, m + 1], (window, layer, expert) counted by first token and n(w, l, e)."""
    num_experts = trace.layers.num_experts
    kernel: Any = window_kernels.count_positions
    places = max(int(stream.windows(segment).max()) for stream in streams(trace))
    most = max(MOST_POSITION_BYTES // (8 * places * (segment + 1)), 1)
    workers = min(jobs or os.cpu_count() or 1, most, trace.num_layers)
    tables = np.zeros((workers, places, segment + 1), np.int64)
    count = np.zeros((trace.num_layers, trace.num_experts), np.int64)
    spectrum = np.zeros((trace.num_layers, segment + 1), np.int64)
    spectrum[:, 0] = num_experts
    with ThreadPoolExecutor(workers) as threads:
        for stream in streams(trace):
            for block in stream.blocks(segment):

                def run(worker: int, layers: Ints = stream.layers, block: BlockOfWindows = block) -> bool:
                    fine = True
                    for layer in layers[worker::workers].tolist():
                        state = count[layer], spectrum[layer]
                        given = (*block.spans, segment, *state, tables[worker])
                        fine &= bool(kernel(block.experts, layer, num_experts[layer], *given))
                    return fine

                refuse_repeats(all(threads.map(run, range(workers))), block)
                if progress is not None:
                    progress(block.done, trace.num_tokens)
    total: Ints = tables.sum(axis=0)
    return total


def _best(histogram: Ints, segment: int, windows: Any = 0) -> SrpGroups:
    """Choose the threshold of each set.

    Args:
        histogram: int64 [..., m + 1], members of the set by n.
        segment: m.
        windows: int64, windows of each set; only passed on.
    """
    uses = np.arange(segment + 1)
    found = (histogram * uses)[..., ::-1].cumsum(axis=-1)[..., ::-1]  # M(tau)
    predicted = segment * histogram[..., ::-1].cumsum(axis=-1)[..., ::-1]  # P(tau)
    active, possible = found[..., 0], predicted[..., 0]  # A, P(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        f1 = 2 * found / (predicted + active[..., None])
        value = np.where(active > 0, f1.max(axis=-1), np.nan)
        tau = np.where(active > 0, f1.argmax(axis=-1), 0)
        kept = np.take_along_axis(predicted, tau[..., None], axis=-1)[..., 0]
        activation = active / possible
        return SrpGroups(
            value=value,
            tau=tau,
            group_size=np.where(active > 0, kept / active, np.nan),
            activation=activation,
            floor=2 * activation / (1 + activation),
            windows=np.broadcast_to(np.asarray(windows), value.shape).astype(np.int64),
        )


def _with_intervals(
    groups: SrpGroups, drawn: Floats, requests: npt.NDArray[Any], segment: int, confidence: float
) -> SrpGroups:
    """Add the intervals of every set.

    Args:
        groups: the sets.
        drawn: float64 [sets, draws, m + 1].
        requests: requests with windows in each set; one alone gives no interval.
        segment: m.
        confidence: of the intervals.
    """
    if drawn.shape[1] == 0:
        return groups
    ends = [
        basic_interval(float(value), _best(_as_int(of_set), segment).value if number > 1 else NO_DRAWS, confidence)
        for value, of_set, number in zip(groups.value, drawn, requests, strict=True)
    ]
    low, high = np.array(ends).reshape(-1, 2).T
    return replace(groups, low=low, high=high)


def _as_int(whole: Floats) -> Ints:
    return whole.astype(np.int64)
