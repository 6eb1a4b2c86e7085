"""A run as a value: what is run, by which rules and in which caches, settled and checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.configurable import Configurable
from lrcsim.base.errors import ConfigError, PolicyError, check_choice
from lrcsim.base.kinds import VERSION, named
from lrcsim.base.reprs import short, short_repr
from lrcsim.base.user_code import is_users
from lrcsim.hardware import HardwareProfile, read_toml, to_toml
from lrcsim.models import Geometry, read_geometry
from lrcsim.policies import BUILT_IN, Policy, PolicySpec, make_policy
from lrcsim.policies.routing import make_rule
from lrcsim.runtimes import Runtime, RuntimeDocument
from lrcsim.runtimes import read_toml as read_runtime
from lrcsim.runtimes import to_toml as runtime_toml
from lrcsim.simulator.cache.capacity import CacheSize, PoolSize, Scope, resolve_capacity
from lrcsim.simulator.serving.batching import batched, check_values
from lrcsim.simulator.setup.expert_sizes import with_expert_bytes
from lrcsim.simulator.setup.low_copy import LowCopy, low_copy_of, with_low_copy
from lrcsim.simulator.setup.options import ACCESS, Options
from lrcsim.simulator.setup.platform import Platform, check_memory, resolve
from lrcsim.simulator.setup.rules import as_rule, check_rule
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule, parse_prefill


@dataclass(frozen=True)
class Run:
    """One policy in caches of one size on one trace, on a machine or without; everything checked (`Run.of`).

    Attributes:
        trace: what is run: with the machine's expert sizes, and in a server's order where requests run together.
        options: as asked, ``prefill`` and ``warm`` settled.
        pools: capacity of each pool.
        profile: float64 [L * E], uses by key in a profiling run, for policies that need it.
        platform: the machine with everything looked up; None: hits only.
        asked: the trace as it was given; None: as `trace`.
        low: which experts are in low precision; None: all are in one.
        routed: whether `trace` is of what the routing rule chose (`lrcsim.simulator.compiled.reroute`).
    """

    trace: RoutingTrace
    options: Options
    pools: Sequence[PoolSize]
    profile: npt.NDArray[np.float64] | None = field(default=None, compare=False)
    platform: Platform | None = field(default=None, compare=False)
    asked: RoutingTrace | None = field(default=None, compare=False)
    routed: bool = False
    low: LowCopy | None = field(default=None, compare=False)

    __repr__ = short_repr

    @classmethod
    def of(cls, trace: RoutingTrace, options: Options | None = None, /, **given: Any) -> Run:
        """Settle and check a run.

        Args:
            trace: the routing trace.
            options: all options; None: ``given``.
            given: options by name (`Options`); those left out are at their defaults.

        Raises:
            ConfigError: an option is not allowed, alone or with the others; model and trace do not match. Whether the
                caches fit into the machine's memory is asked apart (`check_memory`).
            PolicyError: the policy is unknown, or cannot serve this trace.
        """
        if not isinstance(trace, RoutingTrace):
            raise ConfigError(f"trace must be a RoutingTrace, given {short(trace)}: open a file with RoutingTrace.open")
        asked = Options.of(given) if options is None else options
        tried = make_policy(asked.policy)
        settled = _settled(asked)
        trace = with_expert_bytes(trace, asked.expert_bytes)
        profile = None if settled.low_copy is None else profiled_uses(settled.profile, trace)
        low = low_copy_of(settled.low_copy, trace, profile)
        if low is not None and settled.hardware is None:
            trace = with_low_copy(trace, low)
        settled, platform = as_rule(settled, _platform(trace, settled, low), trace)
        own = trace
        if settled.served:
            _check_served(settled)
            if settled.arrivals is None:
                trace = batched(
                    trace,
                    prefill=settled.prefill or "step",
                    batch=settled.batch,
                    batching=settled.batching,
                    speculative=settled.speculative,
                    seed=settled.seed,
                )
        if platform is not None:
            trace = copy(trace)  # the caller's keeps its own sizes
            trace.layers = trace.layers.with_expert_bytes(platform.sizes)
        pools = tuple(resolve_capacity(settled.cache, trace.layers, settled.scope))
        refuse_unservable(tried, trace, settled.access, profiled=settled.profile is not None)
        if settled.route is not None:
            check_rule(settled, tried, trace, platform)
        if profile is None:
            profile = profiled_uses(settled.profile, own)
        return cls(trace, settled, pools, profile, platform, own, low=low)

    @classmethod
    def in_pools(
        cls,
        trace: RoutingTrace,
        policy: PolicySpec,
        pools: Sequence[PoolSize],
        access: str = "coresident",
        prefill: str = "step",
        warm: bool = True,
        profile: npt.NDArray[np.float64] | None = None,
    ) -> Run:
        """Make a run of pools that are known already; nothing is checked."""
        scope: Scope = "layer" if len(pools) == trace.num_layers else "model"
        options = Options(policy=policy, scope=scope, access=access, prefill=prefill, warm=warm)  # type: ignore[arg-type]
        return cls(trace, options, tuple(pools), profile)

    def check_memory(self) -> None:
        """Check that the caches fit into the machine's memory, beside the weights of every token and the KV cache.

        Raises:
            ConfigError: they do not; with the numbers.
        """
        if self.platform is not None:
            own = self.trace if self.asked is None else self.asked  # a server's order has longer requests
            check_memory(self.platform, own, self.pools, self.options.cache, self.options.batch)

    @property
    def policy(self) -> PolicySpec:
        """What to make each pool's policy of."""
        return self.options.policy

    @property
    def access(self) -> str:
        """``"coresident"``, ``"sequential"`` or ``"paper"``."""
        return self.options.access

    @property
    def prefill(self) -> str:
        """How prompt tokens make steps (`Schedule`)."""
        return self.options.prefill or "step"

    @property
    def warm(self) -> bool:
        """Whether the cache keeps its contents between requests."""
        return bool(self.options.warm)

    @property
    def scope(self) -> Scope:
        """``"layer"``: a pool for every layer, or ``"model"``: one for all."""
        return self.options.scope

    @property
    def in_slots(self) -> bool:
        """Whether all capacities are numbers of experts, not of bytes."""
        return all(pool.bytes_per_expert is None for pool in self.pools)

    def at(self, cache: CacheSize) -> Run:
        """Return the same run with caches of another size.

        Raises:
            ConfigError: the size is not understood.
        """
        pools = tuple(resolve_capacity(cache, self.trace.layers, self.scope))
        return replace(self, options=replace(self.options, cache=cache), pools=pools)

    def with_policy(self, policy: PolicySpec, *, profile: bool = True) -> Run:
        """Return the same run with another policy; without ``profile`` one that needs none.

        Raises:
            PolicyError: the policy is unknown, or cannot serve the trace.
        """
        counts = self.profile if profile else None
        refuse_unservable(make_policy(policy), self.trace, self.access, profiled=counts is not None)
        return replace(self, options=replace(self.options, policy=policy), profile=counts)

    def without_rule(self) -> Run:
        """Return the same run without its routing rule, of one that is not `routed`."""
        return replace(self, options=replace(self.options, route=None))

    def refuse_unrouted(self) -> None:
        """Refuse to run what a routing rule has yet to choose.

        Raises:
            ConfigError: it has; here nobody asks it.
        """
        if self.options.route is not None and not self.routed:
            raise ConfigError(
                f"route {plain(self.options.route)!r} cannot be used here: rules go with run, curve and sweeps"
            )

    @property
    def built_in(self) -> str:
        """Label of the policy if it is a built-in one, else empty: a user's class may be called lru too."""
        made = make_policy(self.policy)
        return made.label() if type(made) is BUILT_IN.get(made.name) else ""

    def config(self) -> dict[str, Any]:
        """Return the options as resolved, JSON values, those of parts that the run does not have left out."""
        options, pools = self.options, self.pools
        config: dict[str, Any] = {
            "policy": make_policy(self.policy).label(),
            "cache": plain(options.cache),
            "capacity": [pool.capacity for pool in pools],
            "capacity_unit": "experts" if pools[0].bytes_per_expert is None else "bytes",
            "scope": self.scope,
            "access": self.access,
            "prefill": self.prefill if "phase" in self.trace.columns else None,
            "warm": self.warm,
        }
        if options.served:
            for name in ("batch", "batching", "speculative", "seed"):
                config[name] = plain(getattr(options, name))
            requests = self.trace if self.asked is None else self.asked
            config |= {"requests": requests.num_requests, "arrivals": plain(options.arrivals)}
        if self.low is not None:
            config["low_copy"] = self.low.label()
        if options.route is not None:
            config["route"] = make_rule(options.route).label()
        return config if self.platform is None else config | self.platform.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """Return what the run is made of again (`from_dict`): the options that are not at their defaults, JSON values.

        A user's class is named by module and class; a profile that was given as a trace by its file, and what is no
        file is ``None``; a machine, a runtime or a model that was given as an object as a dictionary.
        """
        given = {name: plain(value) for name, value in self.options.given().items()}
        return named("run", {"options": given})

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], trace: RoutingTrace, **instead: Any) -> Run:
        """Settle the run that `to_dict` described, on its trace.

        Args:
            data: of `to_dict`, or the JSON of ``lrcsim run``, which has it under ``run``.
            trace: the trace; that it is the same is for the caller to check (``provenance`` has its SHA-256).
            instead: options in place of those described, for objects that JSON does not have.

        Raises:
            ConfigError: it describes no run, or one of another version.
            PolicyError: as `of`.
        """
        inner = data.get("run", data)
        options = inner.get("options") if isinstance(inner, Mapping) and inner.get("kind") == "run" else None
        if not isinstance(options, Mapping):
            raise ConfigError("this is no run: give what Run.to_dict() or lrcsim run --json wrote")
        if inner.get("version") != VERSION:
            raise ConfigError(f"this run was written as version {inner.get('version')!r}, this lrcsim reads {VERSION}")
        return cls.of(
            trace, **{name: _read(name, value) for name, value in options.items() if name not in instead}, **instead
        )


def plain(value: Any) -> Any:
    """Return an option as JSON has it: numbers of numpy as Python's, sequences as lists, objects by their names."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, type):
        return f"{value.__module__}:{value.__qualname__}"
    if isinstance(value, Configurable):
        kind = type(value)
        if not is_users(kind):
            return value.label()
        return ":".join(filter(None, (plain(kind), value.label().partition(":")[2])))
    if isinstance(value, RoutingTrace):
        return None if value.path is None else str(value.path)
    if isinstance(value, HardwareProfile):
        return {"name": value.name, "toml": to_toml(value)}
    if isinstance(value, Runtime | RuntimeDocument):
        return {"name": value.name, "toml": runtime_toml(value)}
    if isinstance(value, Geometry):
        return value.to_dict()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _read(name: str, value: Any) -> Any:
    """Return an option out of JSON as `plain` wrote it."""
    if name == "hardware" and isinstance(value, Mapping):
        return read_toml(str(value.get("name")), str(value.get("toml")))
    if name == "runtime" and isinstance(value, Mapping):
        return read_runtime(str(value.get("name")), str(value.get("toml")))
    if name == "model" and isinstance(value, Mapping):
        return read_geometry(value)
    if name == "speculative" and isinstance(value, list):
        return tuple(value)
    return value


def _settled(options: Options) -> Options:
    """Settle what the user left open of the rules, and refuse what does not go together.

    Raises:
        ConfigError: an option is unknown, or cannot go with the rule of access.
    """
    access, prefill, warm = options.access, options.prefill, options.warm
    check_choice("access", access, ACCESS)
    check_values(options.batch, options.batching, options.speculative, options.seed)
    if options.route == "none":
        options = replace(options, route=None)
    if not isinstance(warm, bool | None):
        raise ConfigError(f"warm must be True, False or None (the default of the rule), given {warm!r}")
    if access == "paper":
        if prefill not in (None, "token"):
            raise ConfigError(
                f"prefill {prefill!r} cannot go with access 'paper', where a batch is one token: leave it out"
            )
        if warm:
            raise ConfigError(
                "a warm cache cannot go with access 'paper', where every request starts cold: leave it out"
            )
        return replace(options, prefill="token", warm=False)
    prefill = "step" if prefill is None else prefill
    parse_prefill(prefill)
    return replace(options, prefill=prefill, warm=True if warm is None else warm)


def _platform(trace: RoutingTrace, options: Options, low: LowCopy | None) -> Platform | None:
    """Look up the machine, if one is given; refuse what goes only with one, or not with one."""
    if options.hardware is None:
        if options.given("machine"):
            name = next(iter(options.given("machine")))
            raise ConfigError(f"option {name!r} is about time: name a machine with it, as hardware='rtx-4090'")
        return None
    if options.access != "coresident":
        raise ConfigError(
            f"access {options.access!r} counts hits as no engine runs them, so it has no time: "
            "use 'coresident' with hardware"
        )
    return resolve(options, trace, low)


def _check_served(options: Options) -> None:
    if options.access == "paper":
        raise ConfigError(
            "access 'paper' takes one token at a time: leave out batch, speculative and arrivals, or access"
        )
    if options.arrivals is not None and options.hardware is None:
        raise ConfigError("arrivals are about time: name a machine with them, as hardware='rtx-4090'")


def refuse_unservable(policy: Policy, trace: RoutingTrace, access: str, *, profiled: bool) -> None:
    """Refuse a policy that needs what the trace does not have, or that the rule of access does not allow.

    Raises:
        PolicyError: with the reason, and what to do.
        ConfigError: the trace is in a server's order (`lrcsim.simulator.serving.batched`), the rule runs single tokens.
    """
    if access == "paper" and "step" in trace.columns:
        raise ConfigError(
            "access 'paper' runs one token after the other, which leaves no batches or drafts: "
            "use access 'coresident' or 'sequential'"
        )
    if "weights" in policy.needs and "weights" not in trace.columns:
        raise PolicyError(f"policy {policy.name} needs router weights, and this trace has none recorded")
    if "profile" in policy.needs and not profiled:
        raise PolicyError(
            f"policy {policy.name} needs a profile: give a trace to take expert popularity from with --profile TRACE "
            "(or 'self', which is hindsight)"
        )
    if policy.bypass and access == "paper":
        raise PolicyError(
            f"policy {policy.name} lets misses bypass the cache, and access 'paper' inserts every expert: "
            "use access 'coresident' or 'sequential'"
        )


def profiled_uses(profile: RoutingTrace | str | Path | None, like: RoutingTrace) -> npt.NDArray[np.float64] | None:
    """Count the uses of a profile as it is given: a trace, a trace file, or ``"self"``, the trace to be served.

    Args:
        profile: one of these; None: there is none.
        like: the trace to be served.

    Returns:
        As `uses_by_key`; None without a profile.

    Raises:
        ConfigError: it is something else, or the traces are not of the same geometry.
        TraceError: the file is no trace.
    """
    if profile is None:
        return None
    if profile == "self":
        return uses_by_key(like, like)
    if isinstance(profile, RoutingTrace):
        return uses_by_key(profile, like)
    if not isinstance(profile, str | Path) or not str(profile):
        raise ConfigError(f"profile {profile!r} is not allowed: give a RoutingTrace, the path of one, or 'self'")
    with RoutingTrace.open(profile) as opened:
        return uses_by_key(opened, like)


def uses_by_key(profile: RoutingTrace, like: RoutingTrace) -> npt.NDArray[np.float64]:
    """Count the layer-steps in which each expert of a profiling trace is used.

    Args:
        profile: the trace to count.
        like: the trace to be served; its layers and experts must be the same.

    Returns:
        float64 [L * E], by key.

    Raises:
        ConfigError: the traces are not of the same geometry.
    """
    mine, theirs = like.layers.num_experts.tolist(), profile.layers.num_experts.tolist()
    if mine != theirs:
        raise ConfigError(
            f"the profile is of another model: {len(theirs)} MoE layers of {max(theirs)} experts, "
            f"the trace has {len(mine)} of {max(mine)}"
        )
    counts = np.zeros(like.num_layers * like.num_experts, np.float64)
    for block in Schedule(profile).blocks():
        counts += np.bincount(block.keys, minlength=len(counts))
    return counts
