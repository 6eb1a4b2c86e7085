"""Everything that is measured of one trace, once, with lrcsim's own metrics; what cannot be, and why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import LrcsimError
from lrcsim.experiments.paper.curves import RequestCurves, request_curves, shuffled
from lrcsim.experiments.paper.inputs import Input, mean_loss, requests_of
from lrcsim.experiments.paper.published import SEGMENTS, published
from lrcsim.simulator import Balance, ExpertMeasures, Srp, balance, expert_measures, srp
from lrcsim.simulator.metrics.specialisation import activation_by_domain, pearson
from lrcsim.traces import RoutingTrace

Floats = npt.NDArray[np.float64]

AT = 16
"""The segment length of the paper's single numbers."""

SCH = f"sch-lookahead:{AT}"
POOLED = (SCH, "model")
"""The curve that findings are made of: the paper's SCH, one pool of all layers."""

CASE_TOKENS = 256
"""Tokens of the paper's case study."""


@dataclass(frozen=True)
class PaperOptions:
    """How much to measure.

    Attributes:
        draws: of requests, for intervals (the paper: 1000).
        seed: of the draws and of the random order.
        jobs: threads; None: all cores.
        segments: m.
        hardware: profile for throughput, or None: leave it out.
        overrides: single values of the profile.
        dtype: how experts are stored there.
        model: geometry for throughput; None: the paper's toy shape where the trace fits it, else the trace's own model.
        tokens: tokens per trace that are run for throughput.
    """

    draws: int = 1000
    seed: int = 0
    jobs: int | None = None
    segments: tuple[int, ...] = SEGMENTS
    hardware: str | None = "rtx-4090"
    overrides: tuple[str, ...] = ()
    dtype: str = "bf16"
    model: str | None = None
    tokens: int = 16384


@dataclass
class MeasuredTrace:
    """What was measured of a trace.

    Attributes:
        source: the trace.
        srp: by segment length, pooled and by layer, with intervals.
        domains: SRP at m = 16 by domain, or None.
        balance: by segment length, load balance, pooled and by layer, with intervals.
        balance_domains: load balance at m = 16 by domain, or None.
        positions: by segment length, SRP by position.
        curves: by (policy, scope).
        control: SCH (look-ahead, m = 16, one pool) of the same tokens in random order, or None.
        experts: measures of every expert at m = 16, or None.
        pairs: correlations over experts between domains: ``activation`` and ``srp``, float64 [domains, domains].
        case: SRP at m = 16 of every expert in the first tokens of the first request, [L, E], or None.
        loss: validation loss of the model, nats per token, or None.
        missing: what is not there, and why.
    """

    source: Input
    srp: dict[int, Srp] = field(default_factory=dict)
    domains: Srp | None = None
    balance: dict[int, Balance] = field(default_factory=dict)
    balance_domains: Balance | None = None
    positions: dict[int, Srp] = field(default_factory=dict)
    curves: dict[tuple[str, str], RequestCurves] = field(default_factory=dict)
    control: RequestCurves | None = None
    experts: ExpertMeasures | None = None
    pairs: dict[str, Floats] = field(default_factory=dict)
    case: Floats | None = None
    loss: float | None = None
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The trace's label."""
        return self.source.label

    @property
    def theirs(self) -> dict[str, Any]:
        """What is published of the model that the trace is compared with, or nothing."""
        return published().of(self.source.paper)

    def at(self, policy: str, scope: str, size: float) -> float | None:
        """Return the hit rate of a curve at a relative size, or None where it was not measured."""
        curve = self.curves.get((policy, scope))
        return None if curve is None else float(curve.rate(np.array([size]))[0])

    def published_srp(self, m: int) -> float | None:
        """Return the published SRP of the model that the trace is compared with, or None."""
        values = self.theirs
        if "srp16" in values:
            return float(values["srp16"]) if m == AT else None
        return float(values["srp"][SEGMENTS.index(m)]) if "srp" in values and m in SEGMENTS else None


def teacher_forced(found: Sequence[MeasuredTrace]) -> list[MeasuredTrace]:
    """Return the traces of the paper's setting, those with SRP at m = 16."""
    return [one for one in found if one.source.kind == "teacher-forced" and AT in one.srp]


def lacks(found: Sequence[MeasuredTrace], *names: str) -> list[str]:
    """Say of each trace what it lacks of some things, and why."""
    return [f"{one.label}: {one.missing[name]}" for one in found for name in names if name in one.missing]


def measure(source: Input, options: PaperOptions, progress: Callable[[int, int], None] | None = None) -> MeasuredTrace:
    """Measure a trace.

    What it lacks (domains, token ids, long enough requests) is said in ``missing`` and left out.

    Raises:
        LrcsimError: the trace is damaged.
    """
    trace, found, threads = source.trace, MeasuredTrace(source), options.jobs
    longest = int(np.diff(trace.offsets).max())
    segments = [m for m in options.segments if m <= longest]
    if len(segments) < len(options.segments):
        gone = ", ".join(str(m) for m in options.segments if m > longest)
        found.missing["segments"] = f"no request has the tokens for m = {gone}; the longest has {longest}"

    def srp_at(m: int) -> None:
        found.srp[m] = srp(trace, m, level="layer", bootstrap=options.draws, seed=options.seed, jobs=threads)
        found.positions[m] = srp(trace, m, level="position", jobs=threads)
        found.balance[m] = balance(trace, m, level="layer", bootstrap=options.draws, seed=options.seed, jobs=threads)

    def curve_of(policy: str, scope: Any) -> None:
        found.curves[policy, scope] = request_curves(trace, policy, scope, jobs=threads)

    policies = [f"sch-{kind}:{m}" for kind in ("lookahead", "static") for m in segments] + ["lru", "lfu", "belady"]
    jobs: list[Callable[[], None]] = [lambda m=m: srp_at(m) for m in segments]  # type: ignore[misc]
    jobs += [lambda p=p, s=s: curve_of(p, s) for p in policies for s in ("model", "layer")]  # type: ignore[misc]
    if longest < AT:
        found.missing["m = 16"] = f"the longest request has {longest} tokens, fewer than the segments of 16"
    else:
        jobs += [lambda job=job: job(found, options) for job in (_control, _experts, _domains, _case)]  # type: ignore[misc]
    for done, job in enumerate(jobs, start=1):
        job()
        if progress is not None:
            progress(done, len(jobs))
    found.loss = mean_loss(trace)
    if found.loss is None:
        found.missing["loss"] = "the trace's provenance holds no validation loss (validation_loss)"
    return found


def _control(found: MeasuredTrace, options: PaperOptions) -> None:
    trace = found.source.trace
    if "stack" in trace.columns:
        found.missing["control"] = "tokens of several stacks cannot be put in random order"
    else:
        found.control = request_curves(shuffled(trace, options.seed), SCH, "model", jobs=options.jobs)


def _experts(found: MeasuredTrace, options: PaperOptions) -> None:
    found.experts = expert_measures(found.source.trace, AT, jobs=options.jobs)
    found.missing |= found.experts.missing


def _domains(found: MeasuredTrace, options: PaperOptions) -> None:
    trace = found.source.trace
    try:
        found.domains = srp(trace, AT, level="domain", bootstrap=options.draws, seed=options.seed, jobs=options.jobs)
    except LrcsimError as error:
        found.missing["domains"] = str(error)
        return
    found.balance_domains = balance(trace, AT, level="domain", jobs=options.jobs)
    names = found.domains.domains or ()
    if len(names) < 2:
        found.missing["domain pairs"] = f"all requests are of the domain {names[0]!r}"
        return
    labels = np.array(trace.domains)
    rates = activation_by_domain(trace, AT).reshape(len(names), -1)
    values = np.full(rates.shape, np.nan)
    for i, name in enumerate(names):
        part = requests_of(trace, np.flatnonzero(labels == name).tolist())
        if int(np.diff(part.offsets).max()) >= AT:
            values[i] = _of_experts(part, options.jobs).ravel()
    for what, rows in (("activation", rates), ("srp", values)):
        found.pairs[what] = np.array([[pearson(a, b) for b in rows] for a in rows], float)  # None: NaN


def _case(found: MeasuredTrace, _: PaperOptions) -> None:
    tokens = np.diff(found.source.trace.offsets)
    request = int(np.flatnonzero(tokens >= min(CASE_TOKENS, int(tokens.max())))[0])
    part = requests_of(found.source.trace, [request])
    end = min(CASE_TOKENS, part.num_tokens)
    columns = {name: part.read(name, 0, end) for name in part.columns}
    found.case = _of_experts(RoutingTrace(part.layers, columns, np.array([0, end])))


def _of_experts(trace: RoutingTrace, jobs: int | None = None) -> Floats:
    """Return SRP at m = 16 of every expert, float64 [L, E]."""
    groups = srp(trace, AT, level="expert", jobs=jobs).groups
    assert groups is not None
    return groups.value
