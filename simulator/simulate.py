"""`simulate`: one policy, one cache, one trace, and what could have been."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lrcsim.base.errors import ConfigError
from lrcsim.base.reprs import short
from lrcsim.policies import BUILT_IN, PolicySpec, make_policy
from lrcsim.simulator.baselines import References
from lrcsim.simulator.cache.capacity import CacheSize, Scope, resolve_capacity
from lrcsim.simulator.cache.replay import Progress, Replay, part_of
from lrcsim.simulator.cache.rules import Access, profiled_uses, refuse_unservable, resolve_rules
from lrcsim.simulator.caveats import advice
from lrcsim.simulator.compiled.counts import count
from lrcsim.simulator.result import Bound, Result
from lrcsim.traces import RoutingTrace

if TYPE_CHECKING:
    from lrcsim.hardware import HardwareProfile
    from lrcsim.simulator.time.machine import Platform
    from lrcsim.simulator.time.run_in_time import Timed

__all__ = ["simulate"]


def simulate(
    trace: RoutingTrace,
    policy: PolicySpec = "lru",
    cache: CacheSize = "2x",
    *,
    scope: Scope = "layer",
    access: Access = "coresident",
    prefill: str | None = None,
    warm: bool | None = None,
    profile: RoutingTrace | str | Path | None = None,
    bounds: bool = True,
    record: bool = False,
    progress: Progress | None = None,
    batch: int = 1,
    batching: Literal["continuous", "static"] = "continuous",
    speculative: tuple[int, float | Sequence[int]] | None = None,
    arrivals: str | Sequence[float] | None = None,
    seed: int = 0,
    hardware: str | Path | HardwareProfile | None = None,
    log: bool = False,
    samples: bool = False,
    **machine: Any,
) -> Result:
    """Replay a trace through an expert cache and count its hits exactly; on a machine, say also how long it takes.

    Args:
        trace: the routing trace.
        policy: a name with parameters, ``file.py:Class``, ``pkg.mod:Class``, a class, or (scope ``model``) an object.
        cache: ``"2x"`` times the active experts, ``16`` experts, ``"25%"`` of all, ``"4GiB"`` bytes in all, or a list
            with one entry per layer.
        scope: ``"layer"``: every layer has its own cache; ``"model"``: one pool for all.
        access: the rule of accounting (docs/accounting.md): ``"coresident"``, ``"sequential"`` or ``"paper"``.
        prefill: how prompt tokens make steps: ``"step"`` (all in one, default), ``"chunk:N"``, ``"token"``. Under
            ``access="paper"`` a batch is always one token.
        warm: whether the cache keeps its contents from request to request; default True, and False under
            ``access="paper"``, where every request starts cold.
        profile: a trace to take expert popularity from, for policies that need a profile: a `RoutingTrace`, a trace
            file, or ``"self"``, the trace itself, which is hindsight.
        bounds: also run LRU and the optimum at the same capacity.
        record: keep a hit flag for every access in ``result.counts.hit``, in the order of `Schedule`.
        progress: called with tokens done and tokens in all, over all the replays together.
        batch: requests that run together at most, as in a server (docs/batching.md): a step's experts are the union.
        batching: ``"continuous"``: a request joins when a place is free; ``"static"``: when the last batch is done.
        speculative: ``(n, acceptance)``: a decode step verifies n drafted tokens besides; the rate at which each is
            accepted, or a list of the numbers accepted.
        arrivals: with hardware, when requests arrive: seconds, ``"poisson:2.5"`` per second, or a file of numbers.
            None: all are there from the beginning.
        seed: of acceptance and arrivals.
        hardware: a machine to run on (`lrcsim.hardware`): a profile's name, a TOML file, a `HardwareProfile`. The
            result then has times; access must be ``"coresident"``. None: hits only.
        log: with hardware, keep every span of time in ``result.timed.log``.
        samples: with hardware, keep the state along the way in ``result.timed.samples``.
        machine: with hardware, the other fields of `lrcsim.simulator.time.machine.Machine`: ``model``, ``dtype``,
            ``overlap``, ``miss``, ``prefetch``, ``dram`` ...

    Returns:
        A `Result`.

    Raises:
        ConfigError: an option is not allowed, alone or with the others; model and trace do not match; the cache is
            larger than the machine's memory.
        PolicyError: the policy is unknown, cannot serve this trace, or misbehaves.
    """
    if not isinstance(trace, RoutingTrace):
        raise ConfigError(f"trace must be a RoutingTrace, given {short(trace)}: open a file with RoutingTrace.open")
    tried = make_policy(policy)
    rules = resolve_rules(access, prefill, warm)
    platform = _platform(trace, hardware, machine, access=access, record=record, log=log or samples)
    serving: dict[str, Any] = {"batch": batch, "batching": batching, "speculative": speculative, "seed": seed}
    asked, requests = trace, trace.num_requests
    served = batch != 1 or speculative is not None or arrivals is not None
    if served:
        _check_served(access, arrivals, platform)
        if arrivals is None:
            from lrcsim.simulator.serving.batching import batched

            trace = batched(trace, prefill=rules.prefill, **serving)
    if platform is not None:
        trace = copy(trace)  # the caller's keeps its own sizes
        trace.layers = trace.layers.with_expert_bytes(platform.sizes)
    pools = resolve_capacity(cache, trace.layers, scope)
    refuse_unservable(tried, trace, access, profiled=profile is not None)
    counts_by_key = profiled_uses(profile, asked)
    job = Replay(trace, policy, tuple(pools), access, rules.prefill, rules.warm, counts_by_key)
    compared = References(job, scope) if bounds else None
    known = tried.label() if type(tried) is BUILT_IN.get(tried.name) else ""  # a user's class may be called lru too
    runs = 1 + (compared.replays_needed(tried.bypass, but=known) if compared else 0)
    timed: Timed | None = None
    if platform is None:
        counts, engine = count(job, record=record, progress=part_of(progress, 0, runs))
    else:
        from lrcsim.simulator.time.machine import check_memory
        from lrcsim.simulator.time.run_in_time import run_timed

        check_memory(platform, asked, pools, cache, batch)  # a server's order has longer requests
        told = part_of(progress, 0, runs)
        timed = run_timed(job, platform, arrivals=arrivals, serving=serving, log=log, samples=samples, progress=told)
        counts, engine = timed.counts, "compiled" if timed.engine == "compiled" else "python"
        if timed.job is not job:  # what was run is known only now
            job, trace = timed.job, timed.job.trace
            compared = References(job, scope) if bounds else None
    found: dict[str, Bound] = {}
    if compared is not None:
        if platform is None or platform.on_demand:
            compared.keep(known, counts)
        ahead = "experts that the policy loads of its own accord count as hits" if tried.refills else ""
        if platform is not None and platform.prefetcher is not None:
            ahead = "prefetched experts count as hits"
        elsewhere = platform is not None and platform.action.name != "load"
        found = compared.find(tried.bypass, progress, ahead=ahead, elsewhere=elsewhere)
    if timed is not None:
        timed.find_limits(compared)
    config = {
        "policy": tried.label(),
        "cache": _plain(cache),
        "capacity": [pool.capacity for pool in pools],
        "capacity_unit": "experts" if pools[0].bytes_per_expert is None else "bytes",
        "scope": scope,
        "access": access,
        "prefill": rules.prefill if "phase" in trace.columns else None,
        "warm": rules.warm,
    }
    if served:
        config |= {name: _plain(value) for name, value in serving.items()}
        config |= {"requests": requests, "arrivals": _plain(arrivals)}
    if platform is not None:
        config |= platform.to_dict()
    warnings = advice(trace, tried.name, pools, scope, access, counts)
    return Result(
        trace=trace,
        config=config,
        counts=counts,
        engine=engine,
        bounds={name: bound for name, bound in found.items() if name != "lru"},
        lru=found.get("lru"),
        warnings=warnings + ([] if timed is None else timed.advice()),
        timed=timed,
    )


def _plain(value: Any) -> Any:
    """Return an option as JSON has it: numbers of numpy as Python's, sequences as lists."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _check_served(access: str, arrivals: object, platform: Platform | None) -> None:
    if access == "paper":
        raise ConfigError(
            "access 'paper' takes one token at a time: leave out batch, speculative and arrivals, or access"
        )
    if arrivals is not None and platform is None:
        raise ConfigError("arrivals are about time: name a machine with them, as hardware='rtx-4090'")


def _platform(
    trace: RoutingTrace,
    hardware: str | Path | HardwareProfile | None,
    options: dict[str, Any],
    *,
    access: str,
    record: bool,
    log: bool,
) -> Platform | None:
    """Look up the machine, if one is given; refuse what goes only with one, or not with one."""
    if hardware is None:
        if options:
            from lrcsim.simulator.time.machine import Machine

            Machine.of(hardware, options)  # refuses what is no option at all
        if options or log:
            name = next(iter(options), "log")
            raise ConfigError(f"option {name!r} is about time: name a machine with it, as hardware='rtx-4090'")
        return None
    from lrcsim.simulator.time.machine import Machine, resolve

    if access != "coresident":
        raise ConfigError(
            f"access {access!r} counts hits as no engine runs them, so it has no time: use 'coresident' with hardware"
        )
    if record:
        raise ConfigError("record is for hits alone: leave out hardware, or use log=True")
    return resolve(Machine.of(hardware, options), trace)
