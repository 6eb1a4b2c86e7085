"""The outcome of a simulation, as values, as JSON, and with the bounds beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lrcsim.base.kinds import named
from lrcsim.base.reprs import short
from lrcsim.base.shown import Shown
from lrcsim.simulator.baselines import Bound
from lrcsim.simulator.compiled.engine_for import Engine
from lrcsim.simulator.compiled.reroute import Rerouting
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import DECODE, PREFILL, RoutingTrace
from lrcsim.traces.kept import Kept

if TYPE_CHECKING:
    from lrcsim.simulator.time.run_in_time import Timed

ANOTHER_MODEL = 2 / 3
"""Of the router's mass; with less of it left in place another model runs, as where lossy rules give up a third."""

_tokens: Kept[tuple[int, int]] = Kept()
"""Of prefill and of decode, ``"all"`` or ``"recorded"``."""


@dataclass(frozen=True)
class Result(Shown):
    """What `simulate` found.

    Attributes:
        run: what was run.
        counts: hits and misses by phase and layer.
        bounds: by name: ``belady`` always (unless not asked for), ``belady-bypass`` for a policy that bypasses,
            ``upper`` for experts of unequal bytes.
        lru: hit rate of LRU under the same rules, or None when bounds were not asked for.
        warnings: what a reader of the numbers should know.
        timed: what the run took on a machine (`lrcsim.simulator.time.run_in_time.Timed`); None without one.
        routing: what a routing rule chose, and the same run without it; None without a rule.
        engine: what decided the hits: ``"compiled"`` or ``"python"``, of several runs in one pass also ``"stack"``. All
            decide the same.
    """

    run: Run
    counts: Counts
    bounds: dict[str, Bound]
    lru: Bound | None
    warnings: list[str]
    timed: Timed | None = None
    engine: Engine = "python"
    routing: Routing | None = None

    drawn_by = "plots.shown:draw_result"

    @property
    def trace(self) -> RoutingTrace:
        """The trace that was run."""
        return self.run.trace

    @property
    def config(self) -> dict[str, Any]:
        """The options as resolved, JSON values."""
        return self.run.config()

    def __repr__(self) -> str:
        """Return a few lines: what was run, its hit rate, the optimum's, its speed."""
        config, mine = self.config, self.hit_rate
        where = f" on {config['hardware']}" if "hardware" in config else ""
        lines = [f"<Result {config.get('policy')}, cache {short(config.get('cache'))}{where}: {self.trace!r}"]
        bounds = [
            ("hit rate", mine),
            *((f"{name} ({bound.kind})", bound.hit_rate) for name, bound in self.bounds.items()),
        ]
        lines.append("  " + ", ".join(f"{name} {'none' if rate is None else f'{rate:.4f}'}" for name, rate in bounds))
        if self.timed is not None:
            time = self.timed.tally.to_dict()["time"]
            lines.append(f"  {time['total_s']:.6g} s, decode {short(time['decode_tokens_per_s'])} tokens/s")
        return "\n".join(lines) + ">"

    def _rows(self) -> list[dict[str, Any]]:
        """Return a row for each phase and MoE layer that was accessed."""
        counts = self.counts
        loaded, sizes = counts.loaded_bytes, self.trace.expert_bytes
        rows = []
        for phase, name in ((PREFILL, "prefill"), (DECODE, "decode")):
            for layer in np.flatnonzero(counts.accesses[phase]).tolist():
                accesses, misses = int(counts.accesses[phase, layer]), int(counts.misses[phase, layer])
                row = {
                    "phase": name,
                    "layer": layer,
                    "accesses": accesses,
                    "hits": accesses - misses,
                    "misses": misses,
                    "hit_rate": (accesses - misses) / accesses,
                }
                if loaded is None and sizes is not None:
                    row["bytes_loaded"] = misses * int(sizes[layer])
                rows.append(row)
        return rows

    @property
    def hit_rate(self) -> float | None:
        """Hits over accesses, both phases together; None when nothing was accessed."""
        return rate(self.counts)

    def phase_rate(self, phase: int) -> float | None:
        """Hits over accesses of one phase (`PREFILL` or `DECODE`); None when it has no accesses."""
        return rate(self.counts, phase)

    @property
    def loads(self) -> int:
        """Experts brought into the cache, or beside it, because they missed."""
        loads = self.counts.misses if self.counts.loads is None else self.counts.loads
        return int(loads.sum())

    @property
    def loads_per_access(self) -> float | None:
        """Loads over the accesses of the router's own choice, so that runs with and without a rule can be compared.

        None without accesses.
        """
        of_router = self.counts if self.routing is None else self.routing.without.counts
        accesses = int(of_router.accesses.sum())
        return self.loads / accesses if accesses else None

    @property
    def compared_with(self) -> Bound | None:
        """The bound by farthest next use that a run like this one is to be compared with."""
        return self.bounds.get("belady-bypass") or self.bounds.get("belady")

    @property
    def gap_closed(self) -> float | None:
        """Share of the way from LRU to the optimum: 0 is LRU, 1 the optimum.

        None where there is no gap, and where the cache does not load on demand (`loads_on_demand`).
        """
        counts = self.counts
        hits = int(counts.accesses.sum() - counts.misses.sum())
        if not loads_on_demand(self.config.get("prefetch"), hits, self.loads):
            return None
        best, mine = self.compared_with, self.hit_rate
        top, low = None if best is None else best.hit_rate, None if self.lru is None else self.lru.hit_rate
        if mine is None or top is None or low is None or top - low < 1e-12:
            return None
        return (mine - low) / (top - low)

    def bytes_loaded(self, phase: int | None = None) -> int | None:
        """Bytes of experts loaded because they missed, in one phase or both; None when no expert sizes are known."""
        loaded = self.counts.loaded_bytes
        if loaded is not None:
            return int(loaded.sum() if phase is None else loaded[phase])
        sizes = self.trace.expert_bytes
        if sizes is None:
            return None
        misses = self.counts.misses.sum(axis=0) if phase is None else self.counts.misses[phase]
        return int(misses @ sizes)

    def bytes_per_token(self, phase: int) -> float | None:
        """Bytes loaded per token of a phase that was recorded; None without expert sizes or such tokens."""
        loaded = self.bytes_loaded(phase)
        tokens = 0 if loaded is None else self._recorded_tokens()[phase]
        return None if loaded is None or not tokens else loaded / tokens

    def tokens(self, phase: int) -> int:
        """Tokens of a phase; a trace without phases has decode tokens only."""
        return _tokens.once(self.trace, "all", self._count_tokens)[phase]

    def _recorded_tokens(self) -> tuple[int, int]:
        """Tokens of prefill and of decode of which any expert was recorded: the others load nothing."""
        return _tokens.once(self.trace, "recorded", self._count_recorded)

    def _count_recorded(self) -> tuple[int, int]:
        trace, counted = self.trace, [0, 0]
        for low, high in trace.blocks():
            recorded = (trace.read("experts", low, high) >= 0).any(axis=(1, 2))
            decode = trace.read("phase", low, high) == DECODE if "phase" in trace.columns else np.True_
            counted[DECODE] += int(np.count_nonzero(recorded & decode))
            counted[PREFILL] += int(np.count_nonzero(recorded & ~decode))
        return counted[PREFILL], counted[DECODE]

    def _count_tokens(self) -> tuple[int, int]:
        if "phase" not in self.trace.columns:
            return 0, self.trace.num_tokens
        decode = sum(int(self.trace.read("phase", low, high).sum()) for low, high in self.trace.blocks(1 << 20))
        return self.trace.num_tokens - decode, decode

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON values: design names, rates in 0..1, None for what is not known."""
        trace, counts = self.trace, self.counts

        def phase_part(phase: int) -> dict[str, Any]:
            accesses, misses = int(counts.accesses[phase].sum()), int(counts.misses[phase].sum())
            return {
                "hit_rate": rate(counts, phase),
                "hits": accesses - misses,
                "accesses": accesses,
                "bytes_loaded": self.bytes_loaded(phase),
                "tokens": self.tokens(phase),
                "steps": int(counts.steps[phase]),
                "bytes_per_token": self.bytes_per_token(phase),
            }

        accesses, misses = int(counts.accesses.sum()), int(counts.misses.sum())
        per_layer = counts.accesses.sum(axis=0)
        data = {
            "run": self.run.to_dict(),
            "trace": {
                "model": trace.model,
                "path": None if trace.path is None else str(trace.path),
                "tokens": trace.num_tokens,
                "requests": trace.num_requests,
                "num_layers": trace.num_layers,
                "num_experts": trace.num_experts,
                "top_k": trace.top_k,
                "expert_bytes": None if trace.expert_bytes is None else trace.expert_bytes.tolist(),
                "has_phases": "phase" in trace.columns,
                "unrecorded": trace.count_unrecorded(),
            },
            "config": self.config,
            "cache": {
                "engine": self.engine,
                "hit_rate": self.hit_rate,
                "hits": accesses - misses,
                "accesses": accesses,
                "misses": misses,
                "cold_misses": counts.cold_misses,
                "evictions": counts.evictions,
                "bypassed": counts.bypassed,
                "preloaded": int(counts.preloaded.sum()),
                "bytes_loaded": self.bytes_loaded(),
                "prefill": phase_part(PREFILL),
                "decode": phase_part(DECODE),
                "per_layer_hit_rate": [
                    None if total == 0 else int(total - missed) / int(total)
                    for total, missed in zip(per_layer, counts.misses.sum(axis=0), strict=True)
                ],
            },
            "bounds": {name.replace("-", "_"): bound.to_dict() for name, bound in self.bounds.items()},
            "baseline": {"lru": None if self.lru is None else self.lru.to_dict(), "gap_closed": self.gap_closed},
            **({} if self.run.low is None else {"low_copy": self.run.low.shares(self.trace)}),
            **({} if self.routing is None else {"route": self.routing.to_dict(self)}),
            "warnings": self.warnings,
            **({} if self.timed is None else self.timed.to_dict()),
        }
        return named("run", data)


@dataclass(frozen=True)
class Routing:
    """What a routing rule did in a run.

    Attributes:
        found: how far its choice is from the router's own.
        without: the same run without the rule and without bounds, on the machine if these were asked for.
    """

    found: Rerouting
    without: Result

    def advice(self) -> list[str]:
        """Return a warning where the choice has so little of the router's mass that another model runs."""
        kept = self.found.to_dict()["mass_kept"]
        if kept is None or kept >= ANOTHER_MODEL:
            return []
        return [
            f"{self.found.rule} leaves {kept:.1%} of the router's mass in place, and so runs another model: this says "
            "nothing of its quality; take a weaker rule"
        ]

    def to_dict(self, result: Result) -> dict[str, Any]:
        """Return JSON values; ``result`` is what it is part of."""
        found, without = self.found, self.without
        time = {} if without.timed is None else without.timed.tally.to_dict()["time"]
        return {
            "rule": found.rule,
            "router": found.router,
            "engine": found.engine,
            **found.to_dict(),
            "prefill": found.to_dict(PREFILL),
            "decode": found.to_dict(DECODE),
            "loads": result.loads,
            "loads_per_access": result.loads_per_access,
            "without": {
                "hit_rate": without.hit_rate,
                "prefill_hit_rate": without.phase_rate(PREFILL),
                "decode_hit_rate": without.phase_rate(DECODE),
                "loads": without.loads,
                "loads_per_access": without.loads_per_access,
                "bytes_loaded": without.bytes_loaded(),
                "decode_tokens_per_s": time.get("decode_tokens_per_s"),
                "decode_ms_per_token": time.get("decode_ms_per_token"),
                "total_s": time.get("total_s"),
            },
        }


def loads_on_demand(prefetch: str | None, hits: int, loaded: int | None) -> bool:
    """Return whether a run's cache can be held against LRU and the optimum, two caches that load on demand.

    With a prefetcher it cannot: what is brought ahead hits more than either, and a share of their gap says nothing
    (thousands of percent). Nor where nothing is ever in it, as where every miss runs on the CPU.

    Args:
        prefetch: the option.
        hits: of all accesses.
        loaded: experts or bytes that were loaded because they missed; None: not known.
    """
    return prefetch in (None, "none") and (hits > 0 or loaded is None or loaded > 0)


def rate(counts: Counts, phase: int | None = None) -> float | None:
    """Return hits over accesses, of one phase or both; None when there are no accesses."""
    rows = slice(None) if phase is None else phase
    accesses = int(counts.accesses[rows].sum())
    return None if accesses == 0 else (accesses - int(counts.misses[rows].sum())) / accesses
