"""`make_plan`: does the model fit the machine, how to divide memory, how fast, what would help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrcsim.base.progress import Progress
from lrcsim.base.shown import Shown
from lrcsim.base.text import human_bytes, short_dtype
from lrcsim.hardware import HardwareProfile
from lrcsim.models import Geometry, storage, stored_dtype
from lrcsim.models.quantisation import bits_per_weight, is_of_file
from lrcsim.planner.accuracy import FEW, MEANING
from lrcsim.planner.engine_flags import Flags, engine_flags
from lrcsim.planner.engines import IN_GGUF, expert_format
from lrcsim.planner.evaluate import Runner
from lrcsim.planner.ktransformers import kt_method
from lrcsim.planner.llama_cpp_cache import CacheRoom, cpu_share
from lrcsim.planner.memory import Memory
from lrcsim.planner.outlook import Account, Outlook
from lrcsim.planner.quantisations import Quantisation, choose, quantisations
from lrcsim.planner.rows import StrategyRow
from lrcsim.planner.shared_memory import shared
from lrcsim.planner.speed import decoded_context
from lrcsim.planner.strategies import cpu_layers
from lrcsim.planner.traces import Shape, SourceTrace, find_sources
from lrcsim.planner.what_would_fit import Remedies, remedies
from lrcsim.planner.workload import OwnTrace, Workload, transferred
from lrcsim.runtimes import RuntimeDocument
from lrcsim.runtimes.machine_kinds import cpu_class, device_kind
from lrcsim.traces import RoutingTrace


@dataclass(repr=False)
class Plan(Shown):
    """A model on a machine.

    Attributes:
        geometry: the model.
        profile: the machine.
        dtype: of the weights.
        context: tokens of a request that the KV cache has room for.
        kv_dtype: of the KV cache.
        memory: what is where.
        sources: the traces it rests on, the first most; empty where it does not fit.
        quantisations: formats that people download it in, finest first; empty where the dtype was given.
        rows: what each strategy gives: what can be had first, then forks and bounds, each the fastest first; empty
            where it does not fit.
        bound: what the optimal eviction would give with misses loaded; None where nothing is evicted.
        policy_note: what came out of the comparison of eviction policies.
        layer_budgets: experts per layer for the LRU cache, where a division by the layers' own curves is worth it.
        sizes: tokens/s at other sizes of the device's memory.
        knee: index into ``sizes_fine``; None: there is none.
        sizes_fine: bytes of experts, and tokens/s of the first row's strategy there.
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
    quantisations: list[Quantisation] = field(default_factory=list)
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

    drawn_by = "plots.shown:draw_plan"

    def __repr__(self) -> str:
        """Return a few lines: what was planned, whether it fits, the row to follow."""
        geometry, memory = self.geometry, self.memory
        lines = [
            f"<Plan {geometry.name} as {short_dtype(self.dtype)} on {self.profile.name}, context {self.context:,}:",
            f"  fits: {memory.fit}, {human_bytes(memory.total)} of {memory.device}, "
            f"experts {human_bytes(memory.experts)}, all else {human_bytes(memory.fixed)}",
        ]
        if (best := self.best) is not None:
            low, high = best.range
            lines.append(f"  {best.name} ({best.kind}): {best.speed:.4g} tokens/s, {low:.4g} to {high:.4g}")
        return "\n".join(lines) + ">"

    def _rows(self) -> list[dict[str, Any]]:
        """Return a row for each way to run it: tokens/s with their ranges, how true they are, what binds."""
        rows = []
        for row in [*self.rows, *([] if self.bound is None else [self.bound])]:
            (low, high), (full_low, full_high) = row.range, row.full_range
            rows.append(
                {
                    "strategy": row.name,
                    "kind": row.kind,
                    "runtime": row.standing.runtime,
                    "tokens_per_s": row.speed,
                    "low": low,
                    "high": high,
                    "tokens_per_s_full_context": row.full,
                    "low_full_context": full_low,
                    "high_full_context": full_high,
                    "hit_rate": row.hit_rate,
                    "binds": row.binds[0],
                    "busy": row.binds[1],
                }
            )
        return rows

    @property
    def measured(self) -> bool:
        """Whether it rests on a trace of the model itself."""
        return bool(self.sources) and self.sources[0].own

    @property
    def best(self) -> StrategyRow | None:
        """The row to follow: the fastest that a released runtime has, measured; where there is none, the fastest."""
        return self.rows[0] if self.rows else None

    @property
    def best_released(self) -> StrategyRow | None:
        """The fastest that a released runtime has here and in this dtype, if measured; None: there is none."""
        return self.rows[0] if self.rows and self.rows[0].kind == "released" else None

    @property
    def faster(self) -> list[StrategyRow]:
        """What forks and bounds would give besides, where faster than the row to follow: forks first, fastest first."""
        rows = [*self.rows, *([self.bound] if self.bound is not None else [])]
        found = [row for row in rows if row.speed > self.rows[0].speed]
        return sorted(found, key=lambda row: (row.kind == "bound", -row.speed))

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values: bytes, tokens/s; ``range`` is low and high."""
        best, released = self.best, self.best_released
        return {
            "model": self.geometry.name,
            "hardware": self.profile.name,
            "dtype": self.dtype,
            "file": None if self.geometry.stored is None else self.geometry.stored.file,
            "stored": storage(self.geometry, self.dtype),
            "context": self.context,
            "kv_dtype": self.kv_dtype,
            "fit": self.memory.fit,
            "memory": self.memory.to_dict(),
            "evidence": self._evidence(),
            "quantisations": [one.to_dict() for one in self.quantisations],
            "recommended": None if best is None else best.to_dict(),
            "recommended_released": None if released is None else released.to_dict(),
            "faster": [] if best is None else [_above(row, best) for row in self.faster],
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
                    "model": source.model,
                    "layers": source.shape.layers,
                    "experts": source.shape.experts,
                    "top_k": source.shape.top_k,
                    "distance": source.distance,
                    "tokens": source.tokens,
                    "requests": source.requests,
                    "tokens_replayed": source.replayed,
                }
                for source in self.sources
            ],
        }


def _above(row: StrategyRow, best: StrategyRow) -> dict[str, Any]:
    """Return JSON values of a row that is faster than the one to follow."""
    return {
        "strategy": row.name,
        "kind": row.kind,
        "runtime": row.standing.runtime,
        "tokens_per_s": row.speed,
        "range": list(row.range),
        "gain": row.speed / best.speed - 1,
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
    prompt: int = 2048,
    traces: Sequence[tuple[str, RoutingTrace]] = (),
    folders: Sequence[str | Path] = (),
    progress: Progress | None = None,
) -> Plan:
    """Plan a model on a machine, one request at a time.

    Args:
        geometry: the model.
        profile: the machine; its memory as `with_memory` gives it.
        dtype: how the weights are stored; None: as in the model's file, where it is read from one, else of those that
            are published the one that `choose` takes.
        context: tokens of a request that the KV cache has room for.
        kv_dtype: of the KV cache.
        reserve: bytes kept free on the device; None: as `memory_of` says.
        unused: bytes of the card that the profile's memory leaves out (``--vram`` below the card's size).
        runtime: what runs the model; None: for each row what really does.
        prompt: tokens of a prompt to time; no more than the context.
        traces: names and traces to rest on.
        folders: where to look for more.
        progress: told runs done and runs in all.

    Raises:
        ConfigError: an option is not allowed.
    """
    released = stored_dtype(geometry, dtype)
    if profile.unified:
        profile = shared(profile)
    sources, notes = find_sources(geometry, traces, folders)
    shape = Shape.of(geometry)
    workloads: Sequence[Workload]
    workloads = [OwnTrace(sources[0])] if sources[0].own else transferred(shape, sources)
    context_seen = decoded_context(workloads[0])
    found: list[Quantisation] = []
    if dtype is None:
        found, dtype, note = _walk(geometry, profile, context, kv_dtype, reserve, unused, context_seen, runtime)
        notes += note
    account = Account(geometry, dtype or released, kv_dtype, reserve, unused)
    memory = account.memory(profile, context)
    plan = Plan(geometry, profile, account.dtype, context, kv_dtype, memory, found)
    if memory.fit in ("no", "flash"):
        plan.remedies = remedies(geometry, profile, account.dtype, context, kv_dtype, reserve)
    if memory.fit == "no":
        return plan
    plan.sources, plan.notes = sources, notes
    _note(plan, prompt)
    if memory.fit == "gpu":  # nothing is missed: any routing takes as long
        workloads = workloads[:1]
    runner = Runner(
        geometry, account.dtype, workloads, bits_per_weight(kv_dtype) / 8, context, min(prompt, context), progress,
        runtime,
    )  # fmt: skip
    runner.expect(memory)
    plan.rows, plan.policy_note, plan.bound, kept = runner.compare(profile, memory)
    plan.layer_budgets = runner.layer_budgets(profile, memory)
    outlook = Outlook(runner, account, profile, memory, context, plan.rows, kept)
    plan.sizes, plan.contexts, plan.upgrades = outlook.sizes(), outlook.contexts(), outlook.upgrades()
    if memory.fit != "gpu":
        plan.sizes_fine, plan.knee = outlook.fine(plan.rows[0].name)
    plan.flags = _flags(plan)
    _note_accuracy(plan)
    runner.done()
    return plan


def _walk(
    geometry: Geometry,
    profile: HardwareProfile,
    context: int,
    kv_dtype: str,
    reserve: int | None,
    unused: int,
    seen: float,
    runtime: RuntimeDocument | None,
) -> tuple[list[Quantisation], str, list[str]]:
    """Return the formats that are published, the one to plan with, and what to say of it."""

    def memory(dtype: str) -> Memory:
        return Account(geometry, dtype, kv_dtype, reserve, unused).memory(profile, context)

    found = quantisations(geometry, profile, memory, seen, runtime)
    if len(found) == 1:
        return found, found[0].dtype, []
    chosen, why = choose(found)
    return found, chosen.dtype, [f"planned as {short_dtype(chosen.dtype)}: {why}; --dtype takes another"]


def _note(plan: Plan, prompt: int) -> None:
    """Add what the reader should know of memory and prompt."""
    memory = plan.memory
    if memory.fit == "memory" and memory.ram and not memory.copies_all:
        plan.notes.append(
            "main memory holds the experts that are not on the GPU, but no copy of all of them, as a cache that evicts "
            "needs: its row reads the others from flash" + ("" if memory.flash else ", of which there is none")
        )
    computes = plan.profile.gpu is None or (memory.fit == "memory" and bool(memory.ram))
    if computes and cpu_class(plan.profile) == "sockets":
        plan.notes.append(
            "main memory is that of two sockets: half of what the CPU reads crosses between them (NUMA), and engines "
            "reach about half of its bandwidth (lrcsim runtimes llama.cpp)"
        )
    if prompt > plan.context:
        plan.notes.append(
            f"a prompt of {prompt:,} tokens is more than the context: times are those of {plan.context:,} tokens"
        )


def _note_accuracy(plan: Plan) -> None:
    """Add what the reader should know of how true rows are."""
    row = plan.rows[0]
    accuracy = row.standing.accuracy
    if row.standing.measured is None:
        plan.notes.append(
            f"{row.name} under {row.standing.runtime} was held against no measurement; its range is that of others: "
            f"{MEANING[accuracy.setting]}"
        )
    elif (kind := device_kind(plan.profile)) in ("rocm", "sycl"):
        plan.notes.append(
            f"no measured speed of {row.standing.runtime} is of such a GPU ({kind}): its shares of the hardware's "
            "rates and the range are those of NVIDIA's"
        )
    elif accuracy.points < FEW:
        plan.notes.append(f"the range of {row.name} rests on {accuracy.points} measured points only")


def _cache_room(plan: Plan) -> CacheRoom | None:
    """Return what llama.cpp's cache of experts has; None: there is none here."""
    row = next((row for row in plan.rows if row.name == "lru" and "llama.cpp" in row.engines), None)
    return None if row is None else CacheRoom(plan.memory.placed_budget, min(row.slots), cpu_share(plan.profile))


def _flags(plan: Plan) -> list[Flags]:
    """Return the command lines, that of the first row first, then those of other rows."""
    memory, geometry, profile = plan.memory, plan.geometry, plan.profile
    rows = {row.name: row for row in plan.rows}
    placed, popular = rows.get("n-cpu-moe"), rows.get("popular")
    slots = placed.slots if placed is not None else (geometry.experts,) * len(geometry.moe_layers)
    found = engine_flags(
        dtype=plan.dtype,
        in_gguf=is_of_file(plan.dtype) or expert_format(geometry, plan.dtype) in IN_GGUF,
        stored=geometry.stored if is_of_file(plan.dtype) else None,
        top_k=geometry.top_k,
        context=plan.context,
        kv_dtype=plan.kv_dtype,
        all_resident=memory.fit == "gpu",
        cpu_layers=cpu_layers(slots, geometry),
        layers=geometry.layers,
        placed_slots=sum(slots) // len(slots),
        popular_slots=min(popular.slots) if popular is not None and memory.placed_in_memory else None,
        cache=_cache_room(plan),
        experts_outside=sum(
            size for size, held in zip(memory.layer_experts, slots, strict=True) if held < geometry.experts
        ),
        engines={row.name: row.engines for row in plan.rows},
        kt=kt_method(geometry, profile, plan.dtype),
        cores=profile.cpu.cores,
        own_gpu=bool(memory.ram),
        has_gpu=profile.gpu is not None,
    )
    first = plan.rows[0]

    def place(flags: Flags) -> tuple[bool, bool]:
        mine = flags.strategy == first.name and flags.engine in first.engines[:1]
        return not mine, not flags.strategy

    return sorted(found, key=place)
