"""The parts of a page that need the run's trace: every cache size, other policies, residency, local consistency."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrcsim.base.errors import ConfigError, did_you_mean
from lrcsim.policies import make_policy
from lrcsim.reports.allowed import Allowed, Unavailable
from lrcsim.reports.blocks import LeftOut
from lrcsim.reports.policies_again import Compared, Watcher, compare_policies
from lrcsim.reports.rerun import Again, set_up
from lrcsim.reports.residency import watch
from lrcsim.reports.residency_in_time import watch_in_time
from lrcsim.reports.residents import Residents
from lrcsim.simulator.curves.trace_curves import TraceCurves
from lrcsim.simulator.metrics.windows import PAPER_SEGMENTS

PARTS = {
    "curve": "hit rate at every cache size",
    "policies": "other policies at this size",
    "map": "residency map",
    "locality": "SRP and SCH",
}
"""What is worked out from the trace, by the name it is left out by."""

COMPARED = ("lru", "lfu", "lfu-aging", "s3-fifo", "arc", "moe-infinity", "belady")
"""Policies that a run is compared with."""

ON_CURVE = ("lru", "lfu", "belady")
"""Policies beside the run's own on its curve; each takes one pass for all sizes."""

RESAMPLES = 1000
"""Of requests, for confidence intervals, as `lrcsim srp` makes them."""

AROUND = (0.25, 0.5, 0.75, 1, 1.5, 2, 3)
"""Sizes of a curve in bytes, times the run's own."""


def parts_but(unwanted: str | None) -> list[str]:
    """Return the parts to work out, but those named, with commas between; ``all``: none.

    Raises:
        ConfigError: there is no such part.
    """
    names = [name.strip() for name in (unwanted or "").split(",") if name.strip()]
    for name in names:
        if name != "all" and name not in PARTS:
            raise ConfigError(
                f"there is no part {name!r}, there are {', '.join(PARTS)}, all" + did_you_mean(name, [*PARTS, "all"])
            )
    return [] if "all" in names else [part for part in PARTS if part not in names]


@dataclass
class Rebuilt:
    """What was worked out; None or empty where it was not, with the reason in ``left_out``.

    Attributes:
        sha256: of the trace.
        curve: as `lrcsim curve` writes it.
        compared: policies at the run's size.
        residents: what was in the cache when.
        srp: as `lrcsim srp` writes it.
        sch: as `lrcsim sch` writes it.
        left_out: parts that are missing, and why.
    """

    sha256: str | None = None
    curve: dict[str, Any] | None = None
    compared: list[Compared] = field(default_factory=list)
    residents: Residents | None = None
    srp: dict[str, Any] | None = None
    sch: dict[str, Any] | None = None
    left_out: list[LeftOut] = field(default_factory=list)


def rebuild(
    run: dict[str, Any],
    watcher: Watcher,
    *,
    trace_path: str | None = None,
    parts: Collection[str] = tuple(PARTS),
    policies: Sequence[str] = COMPARED,
    request: int | None = None,
    profile_path: str | None = None,
    allow_code: bool = False,
    beside: tuple[Path, ...] | None = None,
) -> Rebuilt:
    """Work out what a run's JSON does not have.

    Args:
        run: JSON of ``lrcsim run``.
        watcher: shows progress.
        trace_path: where the trace is now; None: where the JSON says.
        parts: which of `PARTS`.
        policies: to compare with.
        request: whose residency to map; None: one of middling length.
        profile_path: where the trace is that popularity was taken from; None: where the JSON says.
        allow_code: whether a policy that the JSON names may be code of somebody's.
        beside: see `Allowed`.

    Raises:
        ConfigError: there is no such request.
        PolicyError: there is no such policy to compare with.
    """
    found = Rebuilt()
    if not parts:
        return found
    for policy in policies:
        make_policy(policy)  # a wrong name is the user's to know, not the page's
    with ExitStack() as stack:
        try:
            with watcher("checking the trace") as progress:
                again = set_up(run, Allowed(trace_path, profile_path, allow_code, beside), stack, progress)
        except Unavailable as reason:
            found.left_out += [LeftOut(PARTS[part], str(reason)) for part in PARTS if part in parts]
            return found
        _check_request(request, again.run.trace.num_requests)
        found.sha256 = again.sha256
        own = make_policy(again.run.policy).label()
        works: dict[str, Callable[[], None]] = {
            "policies": lambda: _compare(found, again, run, policies, watcher),
            "curve": lambda: _curve(found, again, own, watcher),
            "map": lambda: _map(found, again, run, request, watcher),
            "locality": lambda: _locality(found, again, watcher),
        }
        for part, work in works.items():
            if part in parts:
                try:
                    work()
                except (Unavailable, ConfigError) as reason:
                    found.left_out.append(LeftOut(PARTS[part], str(reason)))
    return found


def _check_request(request: int | None, requests: int) -> None:
    if request is not None and not 0 <= request < requests:
        raise ConfigError(f"there is no request {request}, the trace has {requests:,}: give 0 to {requests - 1}")


def _compare(found: Rebuilt, again: Again, run: dict[str, Any], policies: Sequence[str], watcher: Watcher) -> None:
    found.compared, left_out = compare_policies(again, run, policies, watcher)
    found.left_out += left_out


def _curve(found: Rebuilt, again: Again, own: str, watcher: Watcher) -> None:
    from lrcsim.simulator.curves.curve import curve_of

    run, layers, capacities = again.run, again.run.trace.layers, None
    if run.pools[0].bytes_per_expert is not None:  # experts of unequal size: these are replayed, at a few sizes
        assert layers.layer_bytes is not None  # they are what is unequal
        wanted = [int(times * run.pools[0].capacity) for times in AROUND]
        capacities = [f"{size}B" for size in wanted if size < int(layers.layer_bytes.sum())]
    policies: dict[str, Any] = {name: name for name in ON_CURVE} | {own: run.policy}
    curves = []
    for label, policy in policies.items():
        with watcher(f"{label}, every size") as progress:
            curves.append(curve_of(run.with_policy(policy), capacities, progress=progress, passes=again.passes))
    config = {"scope": run.scope, "access": run.access, "prefill": run.prefill, "warm": run.warm}
    found.curve = TraceCurves(run.trace.model, curves, []).to_dict() | {"config": config}


def _map(found: Rebuilt, again: Again, run: dict[str, Any], request: int | None, watcher: Watcher) -> None:
    if again.run.access != "coresident":
        raise Unavailable(f"it shows what is resident with access coresident, this run has {again.run.access}")
    with watcher("residency") as progress:
        if again.on_demand:
            found.residents = watch(again.run, request, progress)
        else:
            found.residents = watch_in_time(again, run["cache"], request, progress)


def _locality(found: Rebuilt, again: Again, watcher: Watcher) -> None:
    from lrcsim.simulator import srp
    from lrcsim.simulator.metrics.sch_metric import sch_at_sizes

    trace = again.run.trace
    if "step" in trace.columns:
        raise Unavailable("it is of one request after the other, this run has several at once or drafts")
    longest = int((trace.offsets[1:] - trace.offsets[:-1]).max())
    segments = [m for m in PAPER_SEGMENTS if m <= longest]
    if not segments:
        raise Unavailable(f"no request has {PAPER_SEGMENTS[0]} tokens")
    srps, schs = [], []
    for m in segments:
        with watcher(f"SRP, m = {m}") as progress:
            srps.append(srp(trace, m, bootstrap=RESAMPLES, progress=progress))
        with watcher(f"SCH, m = {m}") as progress:
            schs += sch_at_sizes(trace, m, ["1x", "2x"], bootstrap=RESAMPLES, progress=progress)
    found.srp = {"level": "model", "confidence": 0.95, "results": [one.to_dict(trace.model) for one in srps]}
    found.sch = {"definition": "static", "scope": "layer", "confidence": 0.95}
    found.sch["results"] = [one.to_dict(trace.model) for one in schs]
