"""Hit rate against capacity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lrcsim.base.errors import ConfigError
from lrcsim.base.progress import Progress, part_of
from lrcsim.base.shown import Shown
from lrcsim.policies import PolicySpec, make_policy
from lrcsim.policies.routing import make_rule
from lrcsim.simulator.cache.capacity import PoolSize, parse_bytes, resolve_capacity
from lrcsim.simulator.compiled.engine_for import engine_for
from lrcsim.simulator.compiled.every_size import StackHits, stack_hits, stack_hits_of
from lrcsim.simulator.compiled.pools import PoolMaker, hits_at_sizes
from lrcsim.simulator.compiled.reroute import rerouted
from lrcsim.simulator.replay import replay
from lrcsim.simulator.setup.options import refuse_machine, takes_options
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import DECODE, PREFILL, RoutingTrace

EngineName = Literal["stack", "compiled", "replay"]

AROUND = (0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16)
"""Relative sizes at which policies without a stack algorithm are run."""


@dataclass(frozen=True)
class Curve(Shown):
    """Hit rate against capacity, for one policy.

    Attributes:
        policy: name with parameters, and behind a plus the routing rule, if there is one.
        capacities: int64 [n], experts per layer (scope ``layer``) or in the pool (scope ``model``), or bytes in all.
        relative: float64 [n], capacity over the experts active per token (the mean over layers in scope ``layer``), or
            over their bytes (the mean of a layer's where they differ).
        hit_rate: float64 [n]; in scope ``layer`` the mean over layers weighted by accesses.
        prefill_hit_rate: float64 [n], or None without prefill accesses.
        decode_hit_rate: float64 [n], or None without decode accesses.
        unit: of ``capacities``, ``"experts"`` or ``"bytes"``.
        exact_at_all: True when one pass gave every number of experts, False when there are only some points.
        proven: True when no policy has more hits at any of the capacities (none without bypass, for ``belady``).
        engine: ``"stack"``: one compiled pass for all capacities; ``"compiled"``: a compiled loop at each capacity;
            ``"replay"``: the Python policy at each capacity. All give the same hits.
    """

    policy: str
    capacities: npt.NDArray[np.int64]
    relative: npt.NDArray[np.float64]
    hit_rate: npt.NDArray[np.float64]
    prefill_hit_rate: npt.NDArray[np.float64] | None
    decode_hit_rate: npt.NDArray[np.float64] | None
    unit: Literal["experts", "bytes"]
    exact_at_all: bool
    engine: EngineName = "replay"
    proven: bool = False

    drawn_by = "plots.shown:draw_curve"

    def __repr__(self) -> str:
        """Return two lines: of which policy and capacities it is, and from where to where the hit rate goes."""
        sizes, rates = self.capacities, self.hit_rate
        exact = "at every capacity" if self.exact_at_all else f"at {len(sizes):,} capacities"
        of = "" if not len(sizes) else f" of {sizes[0]:,} to {sizes[-1]:,} {self.unit}"
        at = "" if not len(sizes) else f"\n  hit rate {rates[0]:.4f} to {rates[-1]:.4f}, knee at {sizes[self.knee]:,}"
        return f"<Curve {self.policy}, {exact}{of}{at}>"

    def _rows(self) -> dict[str, Any]:
        """Return a row for each capacity: in ``unit`` and relative, with the hit rates."""
        columns = {
            "policy": [self.policy] * len(self.capacities),
            "capacity": self.capacities,
            "relative": self.relative,
            "hit_rate": self.hit_rate,
            "prefill_hit_rate": self.prefill_hit_rate,
            "decode_hit_rate": self.decode_hit_rate,
        }
        return {name: values for name, values in columns.items() if values is not None}

    @property
    def knee(self) -> int:
        """Index of the capacity from which on more slots bring less than on average up to the last one.

        It is the point farthest above the line from (0, 0) to the last point; Satopaa et al., "Finding a kneedle in a
        haystack", ICDCS workshops 2011, without smoothing.
        """
        line = self.hit_rate[-1] * self.relative / self.relative[-1]
        return int(np.argmax(self.hit_rate - line))


def hit_rate_curve(
    trace: RoutingTrace,
    policy: PolicySpec = "lru",
    *,
    capacities: Sequence[int | str] | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Curve:
    """Give the hit rate at every capacity.

    A policy with a stack algorithm (`Stack`) is run once, compiled, for all capacities in slots. Any other is run at
    each capacity: compiled if it names a compiled queue (`Queue`) or is a `CompiledScore`, else replayed in Python
    (`engine_for`). Of the built-in policies only `sch-lookahead` and `sch-static` are ever replayed, in one pool of
    experts of unequal bytes: they look ahead in the trace, and there capacities are not nested, so that no stack serves
    them.

    Args:
        trace: the routing trace.
        policy: as in `simulate`.
        capacities: experts per layer, or in the pool, or in bytes in all (``"4GiB"``, as in `simulate`); None: all
            numbers of experts, for a policy that has to be run at each about a dozen.
        jobs: threads; None: all cores. The result does not depend on it. Replays in Python use one.
        progress: told how far it is, in tokens.
        options: as in `simulate`, but for those of a machine: ``scope``, ``access``, ``prefill``, ``warm``,
            ``profile``, ``batch`` ...

    Raises:
        ConfigError: an option is not allowed, alone or with the others; the trace has no recorded expert.
        PolicyError: the policy is unknown, cannot serve this trace, or misbehaves.
    """
    refuse_machine(options, "a curve")
    return curve_of(Run.of(trace, policy=policy, cache=0, **options), capacities, jobs, progress)


takes_options(hit_rate_curve, "cache", "serving")


def curve_of(
    run: Run,
    capacities: Sequence[int | str] | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
    passes: dict[str, StackHits] | None = None,
) -> Curve:
    """Give the hit rate of a run's policy at every capacity; arguments as in `hit_rate_curve` and `hits_at`.

    Raises:
        ConfigError: a capacity is none; the trace has no recorded expert.
        PolicyError: the policy misbehaves.
    """
    chosen, scope, access = make_policy(run.policy), run.scope, run.access
    layers = run.trace.layers
    everything = layers.total_experts if scope == "model" else int(layers.num_experts.max())
    active = float(layers.top_k.sum() if scope == "model" else layers.top_k.mean())
    rule = None if run.options.route is None else make_rule(run.options.route)
    one_pass = rule is None and engine_for(chosen, hits_only=True) == "stack"
    if capacities is None:
        steps = np.arange(1, everything + 1) if one_pass else np.array(AROUND) * active
        capacities = np.unique(np.append(steps[steps < everything], everything).astype(np.int64).clip(min=1)).tolist()
    points, in_bytes = _amounts(capacities)
    sizes = [resolve_capacity(size, layers, scope) for size in capacities]
    if rule is None:
        hits, accesses, engine = hits_at(run, sizes, jobs, progress, passes)
    else:
        hits, accesses, engine = _hits_with_rule(run, sizes, jobs, progress)
    if not accesses.any():
        raise ConfigError(
            "no expert of this trace was recorded, so there is no hit rate: `lrcsim trace info` says more"
        )
    if in_bytes:
        assert layers.mean_bytes is not None  # resolve_capacity refused bytes otherwise
        active = float(layers.top_k @ layers.mean_bytes)
    by_phase = [hits[phase] / accesses[phase] if accesses[phase].any() else None for phase in (PREFILL, DECODE)]
    return Curve(
        policy=chosen.label() if rule is None else f"{chosen.label()} + {rule.label()}",
        capacities=points,
        relative=points / active,
        hit_rate=hits.sum(axis=0) / accesses.sum(axis=0),
        prefill_hit_rate=by_phase[0],
        decode_hit_rate=by_phase[1],
        unit="bytes" if in_bytes else "experts",
        exact_at_all=rule is None and engine == "stack" and not in_bytes,
        engine=engine,
        proven=rule is None and engine == "stack" and chosen.name in ("belady", "belady-bypass") and access != "paper",
    )


def passes_of(
    runs: Sequence[Run],
    capacities: Sequence[int | str] | None = None,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> dict[str, StackHits]:
    """Count the hits at every capacity of several policies together, those that have a stack algorithm.

    Args:
        runs: of one trace under the same rules, each with its policy.
        capacities: at which they will be asked for, as in `hit_rate_curve`: in bytes, where experts differ in size, no
            stack algorithm serves.
        jobs: as in `hit_rate_curve`.
        progress: as in `hit_rate_curve`.

    Returns:
        What `curve_of` and `hits_at` look up.

    Raises:
        ConfigError: a capacity is none.
    """
    first, scope = runs[0], runs[0].scope
    if capacities is not None:
        _amounts(capacities)
    sizes = [resolve_capacity(size, first.trace.layers, scope) for size in capacities or ()]
    labels: dict[str, None] = {}
    for run in runs:
        chosen = make_policy(run.policy)
        alike = run.trace is first.trace and run.options.route is None
        if alike and engine_for(chosen, chain.from_iterable(sizes), hits_only=True) == "stack":
            labels[chosen.label()] = None
    if not labels:
        return {}
    how = first.trace, list(labels), scope, first.access, first.prefill, first.warm, jobs, progress
    return dict(zip(labels, stack_hits_of(*how), strict=True))


def hits_at(
    run: Run,
    sizes: Sequence[Sequence[PoolSize]],
    jobs: int | None = None,
    progress: Progress | None = None,
    passes: dict[str, StackHits] | None = None,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], EngineName]:
    """Count a policy's hits at each of some capacities, by the fastest engine that can.

    Args:
        run: trace, policy and rules.
        sizes: for each capacity, that of each pool.
        jobs: as in `hit_rate_curve`.
        progress: as in `hit_rate_curve`.
        passes: what passes over this trace under these rules gave, by policy: looked up, and added to.

    Returns:
        The hits, int64 [2, capacities] by phase, the accesses, int64 [2], and the engine.
    """
    run.refuse_unrouted()
    trace, access, prefill, warm = run.trace, run.access, run.prefill, run.warm
    chosen = make_policy(run.policy)
    engine = engine_for(chosen, chain.from_iterable(sizes), hits_only=True)
    if engine == "stack":
        known, label = {} if passes is None else passes, chosen.label()
        if label not in known:
            known[label] = stack_hits(trace, label, run.scope, access, prefill, warm, jobs, progress)
        found = known[label]
        hits = np.array([found.at([pool.capacity for pool in pools]) for pools in sizes], np.int64)
        return hits.reshape(-1, 2).T, found.accesses.sum(axis=0), "stack"
    if engine == "compiled":
        maker = PoolMaker(chosen, trace, access, prefill, warm, run.profile)
        counted = hits_at_sizes(maker, sizes, jobs, progress)
        return counted.hits, counted.accesses, "compiled"
    hits = np.zeros((2, len(sizes)), np.int64)
    accesses: npt.NDArray[np.int64] = np.zeros(2, np.int64)
    for i, pools in enumerate(sizes):
        counts = replay(replace(run, pools=tuple(pools)), progress=part_of(progress, i, len(sizes)))
        hits[:, i] = (counts.accesses - counts.misses).sum(axis=1)
        accesses = counts.accesses.sum(axis=1)
    return hits, accesses, "replay"


def _hits_with_rule(
    run: Run, sizes: Sequence[Sequence[PoolSize]], jobs: int | None = None, progress: Progress | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], EngineName]:
    """Count hits at each of some capacities, where a routing rule chooses by the residents; as `hits_at`.

    Returns:
        The hits, int64 [2, capacities] by phase, the accesses likewise (of several tokens that prefer residents the
        union is smaller), and the engine that counted.
    """
    hits, accesses = np.zeros((2, 2, len(sizes)), np.int64)
    engine: EngineName = "replay"
    for i, pools in enumerate(sizes):
        chosen, _ = rerouted(replace(run, pools=tuple(pools)), part_of(progress, i, len(sizes)))
        found, accesses[:, i], engine = hits_at(chosen, [pools], jobs)
        hits[:, i] = found[:, 0]
    return hits, accesses, engine


def _amounts(capacities: Sequence[int | str]) -> tuple[npt.NDArray[np.int64], bool]:
    """Return the capacities as numbers, and whether they are bytes.

    Raises:
        ConfigError: they are neither all numbers of experts nor all sizes in bytes.
    """
    sizes = [parse_bytes(size) if isinstance(size, str) else None for size in capacities]
    if sizes and all(size is not None for size in sizes):
        return np.array(sizes, np.int64), True
    if len(capacities) == 0 or not all(isinstance(size, int | np.integer) and size >= 0 for size in capacities):
        raise ConfigError(
            f"capacities must be a list of numbers of experts (16), or of sizes in bytes ('4GiB'), given {capacities!r}"
        )
    return np.array(capacities, np.int64), False
