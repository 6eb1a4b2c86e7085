"""A run set up again from its JSON: its trace, checked to be the same, with its caches and rules.

What a run's JSON does not have (other sizes, other policies, what was in the cache when) is worked out from the trace,
where that is still there. Whatever does not fit is said; nothing is guessed.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrcsim.base.errors import LrcsimError
from lrcsim.base.progress import Progress
from lrcsim.policies import PolicySpec, make_policy
from lrcsim.policies.registry import POLICIES
from lrcsim.simulator.compiled.every_size import StackHits
from lrcsim.simulator.curves.curve import hits_at
from lrcsim.simulator.setup.options import declared
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace
from lrcsim.traces.files import sha256_of


class Unavailable(Exception):  # noqa: N818  # a reason, not a mistake
    """Something cannot be worked out; the message says why, in words for the page."""


@dataclass(frozen=True)
class Again:
    """A run that can be made again.

    Attributes:
        run: without the machine; for several requests at once in the order of the server.
        sha256: of the trace's file.
        on_demand: whether the run's cache loads misses and nothing else, so that a replay has its hits.
        passes: over the trace that were made, see `hits_at`.
    """

    run: Run
    sha256: str
    on_demand: bool
    passes: dict[str, StackHits] = field(default_factory=dict)

    def hits(self, policy: PolicySpec, progress: Progress | None = None) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return hits and accesses of a policy in this run's place, each of prefill and of decode.

        Raises:
            LrcsimError: the policy cannot serve this trace, or fails.
        """
        run = self.run.with_policy(policy)
        hits, accesses, _ = hits_at(run, [run.pools], progress=progress, passes=self.passes)
        return (int(hits[0, 0]), int(hits[1, 0])), (int(accesses[0]), int(accesses[1]))


@dataclass(frozen=True)
class Allowed:
    """What of all that a result names may be used: it may come from a stranger.

    Attributes:
        trace: the trace, where the user has named it; None: the one that the result names, if that may be opened.
        profile: the same of the trace that popularity is taken from.
        code: whether a policy that is not lrcsim's own may be run.
        beside: folders in which (or below which) a result may name a trace that it does not know the SHA-256 of; None:
            anywhere.
    """

    trace: str | None = None
    profile: str | None = None
    code: bool = False
    beside: tuple[Path, ...] | None = None


HITS_ONLY = {name: option.default for name, option in declared().items() if option.group == "machine"}
"""Options of a machine, as they are where hits alone are counted; what a result names for them is not opened."""


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
        trace = stack.enter_context(RoutingTrace.open(_trace_path(result["trace"], known, allowed)))
        _check_trace(trace, result["trace"], known)
        profile = _profile_path(options.get("profile"), known, allowed)
        told = HITS_ONLY | {"expert_bytes": result["trace"].get("expert_bytes"), "low_copy": None, "profile": profile}
        run = Run.from_dict(result, trace, **told)
        if "batch" not in config:  # in a server's order there may be more requests
            _check_counts(run.trace, result["trace"], ("tokens", "requests"))
        if [pool.capacity for pool in run.pools] != config["capacity"]:
            raise Unavailable(f"cache {config['cache']} is another capacity now than in the result")
        loads = all(options.get(name) in (None, HITS_ONLY[name]) for name in ("miss", "prefetch"))
        again = Again(run, trace.file_sha256(), on_demand=loads and not config.get("kv_shared"))
        _check(again, result["cache"], progress)
    except LrcsimError as error:
        raise Unavailable(str(error)) from None
    return again


def _trace_path(was: dict[str, Any], known: dict[str, Any], allowed: Allowed) -> str:
    """Return the trace to open, as the user says or the result."""
    path = was.get("path") if allowed.trace is None else allowed.trace
    if allowed.trace is None:
        _named_file(path, known.get("trace_sha256"), allowed, "--trace")
    elif not allowed.trace.startswith("bundled:") and not Path(allowed.trace).is_file():
        raise Unavailable(f"its trace {path} is not there (--trace FILE says where it is now)")
    return str(path)


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


TRACE_ENDINGS = (".h5", ".hdf5")


def _named_file(path: object, sha256: object, allowed: Allowed, option: str) -> None:
    """Refuse to open what a result names unless it is a trace by its name, and the result's own or beside it.

    A stranger's result may name any file of this machine (``/etc/passwd``, a device, a share in the network). A file
    is opened if it ends in .h5 or .hdf5 where its links end, and the result knows its SHA-256, or it lies where the
    result does.

    Raises:
        Unavailable: it is not to be opened; the message says what to give.
    """
    if not isinstance(path, str) or "\0" in path:
        raise Unavailable("the result does not say in which file its trace is (--trace FILE says it)")
    if path.startswith("bundled:"):
        return
    if path.startswith(("//", "\\\\")):
        raise Unavailable(f"{path} is in the network, where a result may not send one: {option} FILE says where it is")
    file = Path(path).resolve()
    if file.suffix.lower() not in TRACE_ENDINGS:
        raise Unavailable(
            f"its trace {path} does not end in {' or '.join(TRACE_ENDINGS)}, and no other file that a result names is "
            f"opened: {option} FILE says where it is"
        )
    if not file.is_file():
        raise Unavailable(f"its trace {path} is not there ({option} FILE says where it is now)")
    if sha256 is None and allowed.beside is not None:
        folders = [folder.resolve() for folder in allowed.beside]
        if not any(file.is_relative_to(folder) for folder in folders):
            raise Unavailable(
                f"the result does not say the SHA-256 of {path}, which is in another folder than the result: "
                f"{option} {path} says that it may be opened"
            )


def _profile_path(named: object, known: dict[str, Any], allowed: Allowed) -> str | None:
    """Return the trace to take popularity from, as the user says or the result; None: the run takes none."""
    if allowed.profile is not None:
        return allowed.profile
    if named is None or named == "self":
        return named
    before = known.get("profile_sha256")
    _named_file(named, before, allowed, "--profile")
    if before not in (None, sha256_of(str(named))):
        raise Unavailable(f"its profile {named} has changed since the run (--profile FILE says where it is now)")
    return str(named)


def _check(again: Again, cache: dict[str, Any], progress: Progress | None) -> None:
    """See that the run's policy has the run's hits."""
    was = [tuple(cache[phase][key] for phase in ("prefill", "decode")) for key in ("hits", "accesses")]
    hits, accesses = again.hits(again.run.policy, progress)
    if accesses != was[1] or (again.on_demand and hits != was[0]):
        raise Unavailable(
            f"run again, {make_policy(again.run.policy).label()} has {sum(hits):,} hits of {sum(accesses):,}, the "
            f"result says {cache['hits']:,} of {cache['accesses']:,}: the trace, the policy or lrcsim has changed since"
        )
