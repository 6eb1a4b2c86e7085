"""`make_plan`: does the model fit the machine, how to divide memory, how fast, what would help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lrcsim.base.progress import Progress
from lrcsim.hardware import HardwareProfile
from lrcsim.models import Geometry, storage, stored_dtype
from lrcsim.models.quantisation import bits_per_weight
from lrcsim.planner.engine_flags import Flags, engine_flags
from lrcsim.planner.engines import kt_method
from lrcsim.planner.evaluate import Runner, StrategyRow
from lrcsim.planner.memory import Memory, memory_of, with_memory
from lrcsim.planner.shared_memory import shared
from lrcsim.planner.sizes_and_upgrades import knee_of, marginal, sizes_to_show, to_gib, upgrades
from lrcsim.planner.strategies import cpu_layers
from lrcsim.planner.traces import Shape, SourceTrace, find_sources
from lrcsim.planner.what_would_fit import Remedies, remedies
from lrcsim.planner.workload import OwnTrace, Workload, transferred
from lrcsim.runtimes import RuntimeDocument
from lrcsim.traces import RoutingTrace


@dataclass
class Plan:
    """A model on a machine.

    Attributes:
        geometry: the model.
        profile: the machine.
        dtype: of the weights.
        context: tokens of a request that the KV cache has room for.
        kv_dtype: of the KV cache.
        memory: what is where.
        sources: the traces it rests on, the first most; empty where it does not fit.
        rows: what each strategy gives, fastest first; empty where it does not fit.
        bound: what the optimal eviction would give with misses loaded; None where nothing is evicted.
        policy_note: what came out of the comparison of eviction policies.
        layer_budgets: experts per layer for the LRU cache, where a division by the layers' own curves is worth it.
        sizes: tokens/s at other sizes of the device's memory.
        knee: index into ``sizes_fine``; None: there is none.
        sizes_fine: bytes of experts, and tokens/s of the best strategy there.
        contexts: tokens/s at other contexts.
        upgrades: what faster or larger parts would give.
        flags: command lines.
        remedies: what would fit, where it does not.
        notes: what else the reader should know.
    """

    geometry: Geometry
    profile: HardwareProfile
    dtype: str
    context: int
    kv_dtype: str
    memory: Memory
    sources: list[SourceTrace] = field(default_factory=list)
    rows: list[StrategyRow] = field(default_factory=list)
    bound: StrategyRow | None = None
    policy_note: str = ""
    layer_budgets: dict[str, Any] | None = None
    sizes: list[dict[str, Any]] = field(default_factory=list)
    sizes_fine: list[tuple[int, float]] = field(default_factory=list)
    knee: int | None = None
    contexts: list[dict[str, Any]] = field(default_factory=list)
    upgrades: list[dict[str, Any]] = field(default_factory=list)
    flags: list[Flags] = field(default_factory=list)
    remedies: Remedies | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def measured(self) -> bool:
        """Whether it rests on a trace of the model itself."""
        return bool(self.sources) and self.sources[0].own

    @property
    def best(self) -> StrategyRow | None:
        """The fastest strategy."""
        return self.rows[0] if self.rows else None

    @property
    def best_released(self) -> StrategyRow | None:
        """The fastest strategy that a released engine has, on this card and in this dtype."""
        return next((row for row in self.rows if row.strategy.engines), None)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: bytes, tokens/s; ``range`` is low and high."""
        best, released = self.best, self.best_released
        return {
            "model": self.geometry.name,
            "hardware": self.profile.name,
            "dtype": self.dtype,
            "stored": storage(self.geometry, self.dtype),
            "context": self.context,
            "kv_dtype": self.kv_dtype,
            "fit": self.memory.fit,
            "memory": self.memory.to_dict(),
            "evidence": self._evidence(),
            "recommended": None if best is None else best.to_dict(),
            "recommended_released": None if released is None else released.to_dict(),
            "strategies": [row.to_dict() for row in self.rows],
            "optimum": None if self.bound is None else self.bound.to_dict(),
            "policies": self.policy_note,
            "layer_budgets": self.layer_budgets,
            "sizes": self.sizes,
            "knee": None
            if self.knee is None
            else {
                "experts_bytes": self.sizes_fine[self.knee][0],
                "device_bytes": self.sizes_fine[self.knee][0] + self.memory.fixed,
                "tokens_per_s": self.sizes_fine[self.knee][1],
            },
            "contexts": self.contexts,
            "upgrades": self.upgrades,
            "flags": [flags.to_dict() for flags in self.flags],
            "remedies": None if self.remedies is None else self.remedies.to_dict(),
            "notes": self.notes,
        }

    def _evidence(self) -> dict[str, Any] | None:
        if not self.sources:
            return None
        return {
            "kind": "not needed" if self.memory.fit == "gpu" else "measured" if self.measured else "transferred",
            "traces": [
                {
                    "name": source.name,
                    "model": source.trace.model,
                    "layers": source.shape.layers,
                    "experts": source.shape.experts,
                    "top_k": source.shape.top_k,
                    "distance": source.distance,
                    "tokens": source.tokens,
                    "requests": source.requests,
                    "tokens_replayed": source.trace.num_tokens,
                }
                for source in self.sources
            ],
        }


def make_plan(
    geometry: Geometry,
    profile: HardwareProfile,
    *,
    dtype: str | None = None,
    context: int = 8192,
    kv_dtype: str = "f16",
    reserve: int | None = None,
    unused: int = 0,
    runtime: RuntimeDocument | None = None,
    traces: Sequence[tuple[str, RoutingTrace]] = (),
    folders: Sequence[str | Path] = (),
    progress: Progress | None = None,
) -> Plan:
    """Plan a model on a machine, one request at a time.

    Args:
        geometry: the model.
        profile: the machine; its memory as `with_memory` gives it.
        dtype: how the weights are stored; None: as released.
        context: tokens of a request that the KV cache has room for.
        kv_dtype: of the KV cache.
        reserve: bytes kept free on the device; None: as `memory_of` says.
        unused: bytes of the card that the profile's memory leaves out (``--vram`` below the card's size).
        runtime: what runs the model; None: for each row what really does.
        traces: names and traces to rest on.
        folders: where to look for more.
        progress: told runs done and runs in all.

    Raises:
        ConfigError: an option is not allowed.
    """
    dtype = stored_dtype(geometry, dtype)
    if profile.unified:
        profile = shared(profile)
    account = _Account(geometry, dtype, kv_dtype, reserve, unused)
    memory = account.memory(profile, context)
    plan = Plan(geometry, profile, dtype, context, kv_dtype, memory)
    if memory.fit in ("no", "flash"):
        plan.remedies = remedies(geometry, profile, dtype, context, kv_dtype, reserve)
    if memory.fit == "no":
        return plan
    sources, notes = find_sources(geometry, traces, folders)
    plan.sources, plan.notes = sources, notes
    if memory.fit == "memory" and memory.ram and not memory.copies_all:
        plan.notes.append(
            "main memory holds the experts that are not on the GPU, but no copy of all of them, as a cache that evicts "
            "needs: its row reads the others from flash" + ("" if memory.flash else ", of which there is none")
        )
    shape = Shape.of(geometry)
    workloads: Sequence[Workload]
    workloads = [OwnTrace(sources[0])] if sources[0].own else transferred(shape, sources)
    if memory.fit == "gpu":  # nothing is missed: any routing takes as long
        workloads = workloads[:1]
    runner = Runner(geometry, dtype, workloads, bits_per_weight(kv_dtype) / 8, context, progress, runtime)
    runner.expect(memory)
    plan.rows, plan.policy_note, plan.bound, kept = runner.compare(profile, memory)
    plan.layer_budgets = runner.layer_budgets(profile, memory)
    _sizes(plan, runner, account, kept)
    _contexts(plan, runner, account, kept)
    _upgrades(plan, runner, account, kept)
    plan.flags = _flags(plan)
    runner.done()
    return plan


@dataclass(frozen=True)
class _Account:
    geometry: Geometry
    dtype: str
    kv_dtype: str
    reserve: int | None
    unused: int

    def memory(self, profile: HardwareProfile, context: int) -> Memory:
        return memory_of(
            self.geometry,
            profile,
            self.dtype,
            context,
            kv_dtype=self.kv_dtype,
            reserve=self.reserve,
            unused=self.unused,
        )


def _resized(profile: HardwareProfile, total: int) -> HardwareProfile:
    """Return the machine with another size of the device's memory, of shared memory as much as that needs."""
    if profile.gpu is not None and profile.unified:
        dram = replace(profile.dram, memory=max(profile.dram.memory, total))
        return replace(profile, gpu=replace(profile.gpu, memory=total), dram=dram)
    return with_memory(profile, total, None) if profile.gpu is not None else with_memory(profile, None, total)


def _sizes(plan: Plan, runner: Runner, account: _Account, kept: Sequence[str]) -> None:
    """Fill in what other sizes of the device's memory give."""
    memory = plan.memory
    totals = [
        total
        for total in sizes_to_show(memory)
        if account.memory(_resized(plan.profile, total), plan.context).fit != "no"
    ]
    speeds: dict[str, list[float | None]] = {name: [] for name in kept}
    best: list[float] = []
    for total in totals:
        profile = _resized(plan.profile, total)
        found = runner.quick(profile, account.memory(profile, plan.context), kept)
        for name in kept:
            speeds[name].append(found.get(name))
        best.append(max(found.values()))
    for i, (total, step) in enumerate(zip(totals, marginal(totals, best), strict=True)):
        experts = min(total - memory.fixed, memory.experts)
        plan.sizes.append(
            {
                "device_bytes": total,
                "experts_bytes": experts,
                "share_of_experts": experts / memory.experts,
                "own": total == memory.total,
                "tokens_per_s": best[i],
                "by_strategy": {name: speeds[name][i] for name in kept},
                "tokens_per_s_per_gib": step,
            }
        )
    if memory.fit == "gpu" or plan.best is None:
        return
    name = plan.best.strategy.name
    points = [memory.experts * i // 12 for i in range(13)]
    for point in points[:-1]:
        profile = _resized(plan.profile, memory.fixed + point)
        sized = account.memory(profile, plan.context)
        if sized.fit != "no":
            plan.sizes_fine.append((point, runner.quick(profile, sized, [name])[name]))
    plan.knee = knee_of([to_gib(point) for point, _ in plan.sizes_fine], [speed for _, speed in plan.sizes_fine])


def _contexts(plan: Plan, runner: Runner, account: _Account, kept: Sequence[str]) -> None:
    """Fill in what more and less context would leave for experts, and cost."""
    for context in (plan.context // 4, plan.context, plan.context * 4):
        memory = account.memory(plan.profile, context)
        row: dict[str, Any] = {"context": context, "kv_bytes": memory.kv, "experts_bytes": max(memory.budget, 0)}
        fits = context > 0 and memory.fit != "no"
        found = runner.quick_at(plan.profile, memory, kept, context) if fits else None
        plan.contexts.append(row | {"tokens_per_s": found and found[0], "tokens_per_s_full": found and found[1]})


def _upgrades(plan: Plan, runner: Runner, account: _Account, kept: Sequence[str]) -> None:
    """Fill in what upgrades would give."""
    assert plan.best is not None  # there are rows where it fits
    now = plan.best.speed
    released = plan.best_released
    names = {row.strategy.name for row in plan.rows if row.strategy.engines}
    for upgrade in upgrades(plan.profile, plan.memory):
        memory = account.memory(upgrade.profile, plan.context)
        speeds, binds = runner.quick_bound(upgrade.profile, memory, kept)
        name = max(speeds, key=lambda name: speeds[name])
        plain = [speed for other, speed in speeds.items() if other in names or other == "all-resident"]
        plan.upgrades.append(
            {
                "upgrade": upgrade.name,
                "tokens_per_s": speeds[name],
                "gain": speeds[name] / now - 1,
                "strategy": name,
                "released_tokens_per_s": max(plain, default=None),
                "released_gain": max(plain) / released.speed - 1 if plain and released else None,
                "binds": binds[name],
            }
        )


def _flags(plan: Plan) -> list[Flags]:
    memory, geometry, profile = plan.memory, plan.geometry, plan.profile
    placed = next((row for row in plan.rows if row.strategy.name == "n-cpu-moe"), None)
    popular = next((row for row in plan.rows if row.strategy.name == "popular"), None)
    outside = 0
    if placed is not None:
        outside = sum(
            size for size, held in zip(memory.layer_experts, placed.slots, strict=True) if held < geometry.experts
        )
    return engine_flags(
        dtype=plan.dtype,
        context=plan.context,
        kv_dtype=plan.kv_dtype,
        all_resident=memory.fit == "gpu",
        cpu_layers=cpu_layers(placed.slots, geometry) if placed is not None else 0,
        layers=geometry.layers,
        popular_slots=min(popular.slots) if popular is not None and memory.placed_in_memory else None,
        experts_outside=outside,
        engines=memory.resident if memory.fit == "gpu" else memory.engines,
        kt=kt_method(geometry, profile, plan.dtype),
        cores=profile.cpu.cores,
        own_gpu=bool(memory.ram),
        has_gpu=profile.gpu is not None,
    )
