"""`simulate`: one policy, one cache, one trace, and what could have been."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lrcsim.base.errors import ConfigError
from lrcsim.base.progress import Progress, part_of
from lrcsim.policies import PolicySpec, make_policy
from lrcsim.simulator.baselines import Baselines, Bound
from lrcsim.simulator.cache.capacity import CacheSize
from lrcsim.simulator.caveats import advice, low_copies, seen_before
from lrcsim.simulator.compiled.counts import count
from lrcsim.simulator.compiled.reroute import rerouted
from lrcsim.simulator.result import Result, Routing
from lrcsim.simulator.setup.options import takes_options
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace

if TYPE_CHECKING:
    from lrcsim.simulator.time.spans import Logged


def simulate(
    trace: RoutingTrace,
    policy: PolicySpec = "lru",
    cache: CacheSize = "2x",
    *,
    record: bool = False,
    progress: Progress | None = None,
    log: Logged = False,
    samples: bool = False,
    **options: Any,
) -> Result:
    """Replay a trace through an expert cache and count its hits exactly; on a machine, say also how long it takes.

    Args:
        trace: the routing trace.
        policy: a name with parameters, ``file.py:Class``, ``pkg.mod:Class``, a class, or (scope ``model``) an object.
        cache: ``"2x"`` times the active experts, ``16`` experts, ``"25%"`` of all, ``"4GiB"`` bytes in all, or a list
            with one entry per layer.
        record: keep a hit flag for every access in ``result.counts.hit``, in the order of `Schedule`.
        progress: called with tokens done and tokens in all, over all the replays together.
        log: with hardware, keep every span of time in ``result.timed.log``; of a pair of tokens, as ``(100, 120)``, the
            spans of the forward passes over tokens 100 to 119 of the run.
        samples: with hardware, keep the state along the way in ``result.timed.samples``.
        options: all other fields of `lrcsim.simulator.setup.options.Options`: ``scope``, ``access``, ``warm``,
            ``hardware``, ``miss``, ``prefetch`` ...

    Returns:
        A `Result`.

    Raises:
        ConfigError: an option is not allowed, alone or with the others; model and trace do not match; the cache is
            larger than the machine's memory.
        PolicyError: the policy is unknown, cannot serve this trace, or misbehaves.
    """
    if options.get("hardware") is None and (log or samples):
        raise ConfigError("option 'log' is about time: name a machine with it, as hardware='rtx-4090'")
    if isinstance(log, tuple) and not 0 <= log[0] < min(log[1], trace.num_tokens):
        raise ConfigError(
            f"a timeline of tokens {log[0]}:{log[1]} is not possible: the trace has {trace.num_tokens:,} tokens, give "
            "the first and the one behind the last, as 100:120"
        )
    if options.get("hardware") is not None and record:
        raise ConfigError("record is for hits alone: leave out hardware, or use log=True")
    run = Run.of(trace, policy=policy, cache=cache, **options)
    return result_of(run, record=record, progress=progress, log=log, samples=samples)


takes_options(simulate, "cache", "serving", "machine")


def result_of(
    run: Run, *, record: bool = False, progress: Progress | None = None, log: Logged = False, samples: bool = False
) -> Result:
    """Do a run; arguments as in `simulate`.

    Raises:
        ConfigError: options that cannot go together.
        PolicyError: the policy or the prefetcher misbehaves.
    """
    if run.options.route is not None and not run.routed:
        return _with_rule(run, record=record, progress=progress, log=log, samples=samples)
    tried, platform, options = make_policy(run.policy), run.platform, run.options
    baselines = Baselines(run) if options.bounds else None
    runs = 1 + (baselines.replays_needed(tried.bypass, but=run.built_in) if baselines else 0)
    told = part_of(progress, 0, runs)
    timed = None
    run.check_memory()
    if platform is None:
        counts, engine = count(run, record=record, progress=told)
    else:
        from lrcsim.simulator.time.compiled import has_compiled_cache
        from lrcsim.simulator.time.run_in_time import run_timed

        timed = run_timed(run, log=log, samples=samples, progress=told)
        compiled = timed.engine == "compiled" and has_compiled_cache(run)
        counts, engine = timed.counts, "compiled" if compiled else "python"
        if timed.run is not run:  # with arrivals, what was run is known only now
            run = timed.run
            baselines = Baselines(run) if options.bounds else None
    found: dict[str, Bound] = {}
    if baselines is not None:
        if platform is None or platform.on_demand:
            baselines.keep(run.built_in, counts)
        ahead = "experts that the policy loads of its own accord count as hits" if tried.refills else ""
        if platform is not None and platform.prefetcher is not None:
            ahead = "prefetched experts count as hits"
        elsewhere = platform is not None and not platform.loads_all
        found = baselines.find(tried.bypass, progress, ahead=ahead, elsewhere=elsewhere)
    if timed is not None:
        timed.find_limits(baselines)
    warnings = advice(run.trace, tried.name, list(run.pools), run.scope, run.access, counts)
    warnings += seen_before(run) + low_copies(run)
    return Result(
        run=run,
        counts=counts,
        engine=engine,
        bounds={name: bound for name, bound in found.items() if name != "lru"},
        lru=found.get("lru"),
        warnings=warnings + ([] if timed is None else timed.advice()),
        timed=timed,
    )


def _with_rule(run: Run, *, progress: Progress | None, **how: Any) -> Result:
    """Do a run without its routing rule, let the rule choose, and do the run of what it chose; as `result_of`."""
    plain = run.without_rule()
    if not run.options.bounds:  # what is beside a run is then counted, not timed
        plain = replace(plain, platform=None)
    plain = replace(plain, options=replace(plain.options, bounds=False))
    without = result_of(plain, progress=part_of(progress, 0, 3))
    chosen, found = rerouted(run, part_of(progress, 1, 3))
    result = result_of(chosen, progress=part_of(progress, 2, 3), **how)
    routing = Routing(found, without)
    return replace(result, routing=routing, warnings=result.warnings + routing.advice())
