"""A run set up again from its JSON: its trace, checked to be the same, with its caches and rules.

What a run's JSON does not have (other sizes, other policies, what was in the cache when) is worked out from the trace,
where that is still there. Whatever does not fit is said; nothing is guessed.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrcsim.base.errors import LrcsimError
from lrcsim.base.progress import Progress
from lrcsim.policies import Policy, make_policy
from lrcsim.policies.registry import POLICIES
from lrcsim.simulator.curves.curve import hits_at
from lrcsim.simulator.setup.options import declared
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace

__all__ = ["Again", "Allowed", "Unavailable", "set_up"]


class Unavailable(Exception):  # noqa: N818  # a reason, not a mistake
    """Something cannot be worked out; the message says why, in words for the page."""


@dataclass(frozen=True)
class Again:
    """A run that can be made again.

    Attributes:
        run: without the machine; for several requests at once in the order of the server.
        sha256: of the trace's file.
        on_demand: whether the run's cache loads misses and nothing else, so that a replay has its hits.
    """

    run: Run
    sha256: str
    on_demand: bool

    def hits(self, policy: str | Policy | type[Policy], progress: Progress | None = None) -> tuple[int, ...]:
        """Return hits and accesses of a policy in this run's place: of prefill, of decode, then both accesses.

        Raises:
            LrcsimError: the policy cannot serve this trace, or fails.
        """
        run = self.run.with_policy(policy)
        hits, accesses, _ = hits_at(run, [run.pools], progress=progress)
        return (int(hits[0, 0]), int(hits[1, 0]), int(accesses[0]), int(accesses[1]))


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


def set_up(run: dict[str, Any], allowed: Allowed, stack: ExitStack, progress: Progress | None = None) -> Again:
    """Open a run's trace and set up its caches; see that they are what they were.

    Nothing that only the result names is run, and only traces are opened (`_named_file`).

    Args:
        run: JSON of ``lrcsim run``.
        allowed: what may be used besides.
        stack: closes the files in the end.
        progress: told how far the check is.

    Raises:
        Unavailable: the trace is gone, or is another one, or the run cannot be made again.
    """
    try:
        return _set_up(run, allowed, stack, progress)
    except LrcsimError as error:
        raise Unavailable(str(error)) from None


def _set_up(run: dict[str, Any], allowed: Allowed, stack: ExitStack, progress: Progress | None) -> Again:
    config, was, known = run["config"], run["trace"], run.get("provenance", {})
    options = run.get("run", {}).get("options", {})
    policy = str(options.get("policy", "lru"))
    if not allowed.code and not POLICIES.is_built_in(policy):
        raise Unavailable(
            f"its policy {policy} is a class of the user's, and what a result names is not run: give --allow-code if "
            "you trust it"
        )
    path = allowed.trace or was.get("path")
    if path is None:
        raise Unavailable("the result does not say in which file its trace is (--trace FILE says it)")
    if allowed.trace is None:
        _named_file(path, known.get("trace_sha256"), allowed, "--trace")
    elif not allowed.trace.startswith("bundled:") and not Path(path).is_file():
        raise Unavailable(f"its trace {path} is not there (--trace FILE says where it is now)")
    trace = stack.enter_context(RoutingTrace.open(path))
    sha256 = trace.file_sha256()
    if known.get("trace_sha256") not in (None, sha256):
        raise Unavailable(f"{path} has changed since the run: its SHA-256 is {sha256}, it was {known['trace_sha256']}")
    if config.get("arrivals") is not None:
        raise Unavailable("with arrivals the order of the steps depends on time")
    for name, there in (
        ("tokens", trace.num_tokens),
        ("requests", trace.num_requests),
        ("num_layers", trace.num_layers),
        ("num_experts", trace.num_experts),
        ("top_k", trace.top_k),
    ):
        if name in was and was[name] != there and not (name in ("tokens", "requests") and "batch" in config):
            raise Unavailable(f"{path} is another trace: it has {name} {there:,}, the result {was[name]:,}")
    profile = None
    if allowed.profile is not None or options.get("profile") is not None:
        profile = stack.enter_context(RoutingTrace.open(_profile_path(path, options, known, allowed)))
        was_sha256 = known.get("profile_sha256") if allowed.profile is None else None
        if was_sha256 is not None and profile.file_sha256() != was_sha256:
            raise Unavailable(
                f"its profile {options['profile']} has changed since the run (--profile FILE says where it is now)"
            )
    made = Run.from_dict(
        run,
        trace,
        **{name: option.default for name, option in declared().items() if option.group == "machine"},
        expert_bytes=config.get("expert_bytes") or was.get("expert_bytes"),
        profile=profile,
    )
    if [pool.capacity for pool in made.pools] != config["capacity"]:
        raise Unavailable(f"cache {config['cache']} is another capacity now than in the result")
    on_demand = "hardware" not in config or (
        config["miss"] == "load" and config["prefetch"] == "none" and not config["kv_shared"]
    )
    again = Again(made, sha256, on_demand)
    _check(again, run, progress)
    return again


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


def _profile_path(trace: str, options: dict[str, Any], known: dict[str, Any], allowed: Allowed) -> str:
    """Return the trace to take popularity from, as the user says or the result."""
    if allowed.profile is not None:
        return trace if allowed.profile == "self" else allowed.profile
    named = options["profile"]
    if named == "self":
        return trace
    _named_file(named, known.get("profile_sha256"), allowed, "--profile")
    return str(named)


def _check(again: Again, run: dict[str, Any], progress: Progress | None) -> None:
    """See that the run's policy has the run's hits."""
    cache = run["cache"]
    phases = (cache["prefill"], cache["decode"])
    chosen = make_policy(again.run.policy)
    was = tuple(phase[key] for key in ("hits", "accesses") for phase in phases)
    now = again.hits(again.run.policy, progress)
    if now[2:] != was[2:] or (again.on_demand and now != was):
        hits, accesses = sum(now[:2]), sum(now[2:])
        raise Unavailable(
            f"run again, {chosen.label()} has {hits:,} hits of {accesses:,}, the result says {cache['hits']:,} of "
            f"{cache['accesses']:,}: the trace, the policy or lrcsim has changed since"
        )
