"""A run set up again from its JSON: its trace, checked to be the same, with its caches and rules.

What a run's JSON does not have (other sizes, other policies, what was in the cache when) is worked out from the trace,
where that is still there. Whatever does not fit is said; nothing is guessed.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from lrcsim.base.errors import LrcsimError
from lrcsim.base.progress import Progress
from lrcsim.policies import PolicySpec, make_policy
from lrcsim.policies.registry import POLICIES
from lrcsim.reports.allowed import Allowed, Unavailable, profile_to_open, trace_to_open
from lrcsim.reports.machine_again import HITS_ONLY, machine_options
from lrcsim.simulator.compiled.every_size import StackHits
from lrcsim.simulator.curves.curve import hits_at
from lrcsim.simulator.setup.options import declared
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace


@dataclass(frozen=True)
class Again:
    """A run that can be made again.

    Attributes:
        run: without the machine; for several requests at once in the order of the server.
        sha256: of the trace's file.
        on_demand: whether the run's cache loads misses and nothing else, so that a replay has its hits.
        timed: with the machine; None: it had none, or that cannot be made again.
        untimed: why it cannot; empty: it can, or there was none.
        passes: over the trace that were made, see `hits_at`.
    """

    run: Run
    sha256: str
    on_demand: bool
    timed: Run | None = None
    untimed: str = ""
    passes: dict[str, StackHits] = field(default_factory=dict)

    def hits(self, policy: PolicySpec, progress: Progress | None = None) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return hits and accesses of a policy in this run's place, each of prefill and of decode.

        Raises:
            LrcsimError: the policy cannot serve this trace, or fails.
        """
        run = self.run.with_policy(policy)
        hits, accesses, _ = hits_at(run, [run.pools], progress=progress, passes=self.passes)
        return (int(hits[0, 0]), int(hits[1, 0])), (int(accesses[0]), int(accesses[1]))


def set_up(result: dict[str, Any], allowed: Allowed, stack: ExitStack, progress: Progress | None = None) -> Again:
    """Open a run's trace and set up its caches; see that they are what they were.

    Nothing that only the result names is run, and only traces are opened (`_named_file`).

    Args:
        result: JSON of ``lrcsim run``.
        allowed: what may be used besides.
        stack: closes the files in the end.
        progress: told how far the check is.

    Raises:
        Unavailable: the trace is gone, or is another one, or the run cannot be made again.
    """
    options, config, known = result["run"]["options"], result["config"], result.get("provenance", {})
    policy = options.get("policy", declared()["policy"].default)
    if not allowed.code and not (isinstance(policy, str) and POLICIES.is_built_in(policy)):
        raise Unavailable(
            f"its policy {policy} is a class of the user's, and what a result names is not run: give --allow-code if "
            "you trust it"
        )
    if options.get("route") is not None:
        raise Unavailable("with a routing rule another trace is run than the one recorded")
    if options.get("arrivals") is not None:
        raise Unavailable("with arrivals the order of the steps depends on time")
    try:
        trace = stack.enter_context(RoutingTrace.open(trace_to_open(result["trace"], known, allowed)))
        _check_trace(trace, result["trace"], known)
        profile = profile_to_open(options.get("profile"), known, allowed)
        told = HITS_ONLY | {"expert_bytes": result["trace"].get("expert_bytes"), "low_copy": None, "profile": profile}
        run = Run.from_dict(result, trace, **told)
        if "batch" not in config:  # in a server's order there may be more requests
            _check_counts(run.trace, result["trace"], ("tokens", "requests"))
        if [pool.capacity for pool in run.pools] != config["capacity"]:
            raise Unavailable(f"cache {config['cache']} is another capacity now than in the result")
        loads = all(options.get(name) in (None, HITS_ONLY[name]) for name in ("miss", "prefetch"))
        timed, untimed = _with_machine(result, trace, told)
        on_demand = loads and not config.get("kv_shared")
        again = Again(run, trace.file_sha256(), on_demand, timed, untimed)
        _check(again, result["cache"], progress)
    except LrcsimError as error:
        raise Unavailable(str(error)) from None
    return again


def _with_machine(result: dict[str, Any], trace: RoutingTrace, told: dict[str, Any]) -> tuple[Run | None, str]:
    """Return the run with its machine, or why that is not to be had."""
    if "time" not in result:
        return None, ""
    try:
        return Run.from_dict(result, trace, **told | machine_options(result["run"]["options"])), ""
    except (Unavailable, LrcsimError) as reason:
        return None, str(reason)


def _check_trace(trace: RoutingTrace, was: dict[str, Any], known: dict[str, Any]) -> None:
    """See that a trace is the one of the result."""
    sha256, before = trace.file_sha256(), known.get("trace_sha256")
    if before not in (None, sha256, trace.first_sha256()):
        raise Unavailable(f"{trace.path} has changed since the run: its SHA-256 is {sha256}, it was {before}")
    _check_counts(trace, was, ("num_layers", "num_experts", "top_k"))


def _check_counts(trace: RoutingTrace, was: dict[str, Any], names: tuple[str, ...]) -> None:
    """See that a trace is as large as that of the result."""
    for name in names:
        count = getattr(trace, f"num_{name}" if name in ("tokens", "requests") else name)
        if was.get(name, count) != count:
            raise Unavailable(f"{trace.path} is another trace: it has {name} {count:,}, the result {was[name]:,}")


def _check(again: Again, cache: dict[str, Any], progress: Progress | None) -> None:
    """See that the run's policy has the run's hits."""
    was = [tuple(cache[phase][key] for phase in ("prefill", "decode")) for key in ("hits", "accesses")]
    hits, accesses = again.hits(again.run.policy, progress)
    if accesses != was[1] or (again.on_demand and hits != was[0]):
        raise Unavailable(
            f"run again, {make_policy(again.run.policy).label()} has {sum(hits):,} hits of {sum(accesses):,}, the "
            f"result says {cache['hits']:,} of {cache['accesses']:,}: the trace, the policy or lrcsim has changed since"
        )
