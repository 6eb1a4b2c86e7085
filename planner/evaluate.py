"""What each strategy gives, with its range: the runs of a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from lrcsim.base.progress import Progress
from lrcsim.hardware import HardwareProfile, Link
from lrcsim.models import Geometry
from lrcsim.planner.flash import at, chained, flash_share
from lrcsim.planner.memory import Memory
from lrcsim.planner.prompt import prompt_of
from lrcsim.planner.row_runtimes import runtime_for, standing
from lrcsim.planner.rows import StrategyRow
from lrcsim.planner.speed import Setup, Speed, interval, measure, resampled
from lrcsim.planner.strategies import OPTIMUM, POLICIES, Strategy, cache_of, strategies
from lrcsim.planner.workload import PLACED, POPULAR, OwnTrace, Workload
from lrcsim.runtimes import RuntimeDocument
from lrcsim.simulator.setup.expert_sizes import with_expert_bytes

WORTH = 0.01
"""A gain below this is called none: no more than a hundredth of the speed."""

NOISE = 0.002
"""A gain whose low end is below this is within noise."""

UNUSED = Link("none", bandwidth=1.0, latency=0.0, overhead=0.0, lanes=1)
"""Stands where a machine has no link, as nothing is ever loaded: the engine asks what misses would come over."""


class Runner:
    """Runs strategies on workloads and counts the runs.

    Args:
        geometry: the model.
        dtype: of its weights.
        workloads: the central one first, the others for the range.
        kv_bytes_per_value: of the KV cache.
        context: full.
        prompt: tokens of a prompt.
        progress: told runs done and runs in all.
        runtime: what runs the model, where the user asks for one; None: for each row what really does (`runtime_for`).
    """

    def __init__(
        self,
        geometry: Geometry,
        dtype: str,
        workloads: Sequence[Workload],
        kv_bytes_per_value: float,
        context: int,
        prompt: int,
        progress: Progress | None,
        runtime: RuntimeDocument | None = None,
    ) -> None:
        self.runtime = runtime
        self.geometry, self.dtype, self.workloads = geometry, dtype, workloads
        self.kv, self.context, self.prompt, self.progress = kv_bytes_per_value, context, prompt, progress
        self.runs, self.expected = 0, 1
        self._known: dict[tuple[Any, ...], Speed] = {}

    def setup(self, strategy: Strategy, profile: HardwareProfile) -> Setup:
        """Return machine, model and runtime of a row."""
        document = runtime_for(strategy.name, self.geometry, profile, self.dtype, self.runtime)
        return Setup(profile, self.geometry, self.dtype, document.on(profile))

    def expect(self, memory: Memory) -> None:
        """Guess how many runs there will be."""
        count = len(strategies(memory))
        self.expected = 1 if memory.fit == "gpu" else count * len(self.workloads) + 8 * 4 + 13 + 3 * 4 + 6 * 4

    def done(self) -> None:
        """Say that all runs are done."""
        if self.progress is not None:
            self.progress(max(self.runs, 1), max(self.runs, 1))

    def speed(
        self, strategy: Strategy, slots: Sequence[int], profile: HardwareProfile, memory: Memory, which: int = 0
    ) -> Speed:
        """Run a strategy on one of the workloads."""
        setup = self.setup(strategy, self._machine(strategy, slots, profile, memory, which))
        key = (which, strategy.policy, tuple(slots), setup.profile, setup.runtime, strategy.miss)
        if key not in self._known:  # a table's own size, context or link is the machine itself
            folds = self.workloads[which].folds(strategy.policy)
            self._known[key] = measure(folds, ",".join(map(str, slots)), setup, strategy.miss)
        found = self._known[key]
        self.runs += 1
        if self.progress is not None:
            self.progress(min(self.runs, self.expected - 1), self.expected)
        return replace(found, binds=(_binding(found.binds[0], profile, setup.profile), found.binds[1]))

    def _machine(
        self, strategy: Strategy, slots: Sequence[int], profile: HardwareProfile, memory: Memory, which: int = 0
    ) -> HardwareProfile:
        """Return the machine that a strategy is run on: with flash below it, and links where there are none."""
        if memory.ram and memory.fit != "gpu":
            profile = self._over_flash(strategy, slots, profile, memory, self.workloads[which])
        if memory.fit == "gpu" and not profile.links:
            profile = replace(profile, links=(UNUSED,))
        return _holding(profile, memory)

    def _over_flash(
        self, strategy: Strategy, slots: Sequence[int], profile: HardwareProfile, memory: Memory, workload: Workload
    ) -> HardwareProfile:
        """Return the machine with flash below main memory, as `chained` counts it, where main memory is too small."""
        fixed = strategy.policy in (PLACED, POPULAR)  # main memory need not hold what is on the GPU
        if memory.copies_all or not memory.flash or (fixed and memory.placed_in_memory):
            return profile
        curve = workload.curve("lru")
        in_ram = memory.ram_for_experts / memory.experts * self.geometry.experts
        if strategy.by_layer:
            outside = sum(held < self.geometry.experts for held in slots)
            in_ram = min(in_ram * len(slots) / max(outside, 1), self.geometry.experts)
            return chained(profile, self.geometry.top_k, 1.0, flash_share(curve, 1.0, 0, in_ram))
        on_gpu = float(np.mean(slots))
        missed = 1 - at(workload.curve(strategy.policy), on_gpu)
        below = in_ram + on_gpu if fixed else in_ram
        return chained(profile, self.geometry.top_k, missed, flash_share(curve, missed, on_gpu, below))

    def row(self, strategy: Strategy, profile: HardwareProfile, memory: Memory) -> tuple[StrategyRow, list[Speed]]:
        """Run a strategy on all workloads."""
        slots = cache_of(strategy, memory.placed_budget, memory, self.geometry.experts)
        speeds = [self.speed(strategy, slots, profile, memory, which) for which in range(len(self.workloads))]
        rates = [speed.tokens_per_s for speed in speeds]
        spread = interval(speeds[0]) if len(speeds) == 1 else (min(rates), max(rates))
        setup = self.setup(strategy, self._machine(strategy, slots, profile, memory))
        central = speeds[0]
        ends = [(central, rate) for rate in spread] if len(speeds) == 1 else list(zip(speeds, rates, strict=True))
        ends = [*ends, (central, rates[0])]
        fulls = [speed.at_context(setup, self.context, self.kv, rate) for speed, rate in ends]
        full = (min(fulls), max(fulls))
        row = StrategyRow(
            strategy=strategy,
            slots=tuple(slots),
            speed=rates[0],
            spread=spread,
            full=fulls[-1],
            full_spread=full,
            hit_rate=central.hit_rate,
            binds=central.binds,
            standing=standing(strategy.name, self.geometry, profile, self.dtype, memory, self.runtime),
            prompt=prompt_of(setup, strategy, slots, self.prompt, self.kv),
            context=central.context,
        )
        return row, speeds

    def compare(
        self, profile: HardwareProfile, memory: Memory
    ) -> tuple[list[StrategyRow], str, StrategyRow | None, list[str]]:
        """Run all strategies; of the eviction policies keep LRU and, where it is better by more than noise, the best.

        Returns:
            The rows, those first that can be had, of each kind the fastest; what is said of the policies; the optimum's
            row, or None; the names to go on with.
        """
        chosen = strategies(memory)
        caches = {strategy.name: strategy for strategy in chosen if strategy.name in POLICIES}
        rows = [self.row(strategy, profile, memory)[0] for strategy in chosen if strategy.name not in caches]
        note, bound = "", None
        if caches:
            judged, note = self._judge(caches, profile, memory)
            rows += judged
            bound, _ = self.row(OPTIMUM, profile, memory)
        rows.sort(key=lambda row: (row.kind != "released", not row.standing.released, -row.speed))
        fastest = max(rows, key=lambda row: row.speed)
        plain = [row.name for row in rows if row.name in ("lru", "n-cpu-moe")]
        return rows, note, bound, list(dict.fromkeys([rows[0].name, fastest.name, *plain]))

    def quick(self, profile: HardwareProfile, memory: Memory, names: Sequence[str]) -> dict[str, float]:
        """Return the central tokens/s of some strategies on another machine; all of them where all experts fit."""
        return {name: speed.tokens_per_s for name, speed in self._central(profile, memory, names).items()}

    def quick_bound(
        self, profile: HardwareProfile, memory: Memory, names: Sequence[str]
    ) -> tuple[dict[str, float], dict[str, str]]:
        """Return the same, and the busiest resource of each."""
        found = self._central(profile, memory, names)
        return {n: s.tokens_per_s for n, s in found.items()}, {n: s.binds[0] for n, s in found.items()}

    def quick_at(
        self, profile: HardwareProfile, memory: Memory, names: Sequence[str], context: int
    ) -> tuple[float, float]:
        """Return the best of some strategies with a KV cache for ``context`` tokens: nearly empty, and full."""
        found = self._central(profile, memory, names)
        name = max(found, key=lambda name: found[name].tokens_per_s)
        strategy = next((one for one in strategies(memory) if one.name == name), strategies(memory)[0])
        best = found[name]
        return best.tokens_per_s, best.at_context(self.setup(strategy, profile), context, self.kv)

    def _central(self, profile: HardwareProfile, memory: Memory, names: Sequence[str]) -> dict[str, Speed]:
        all_of = strategies(memory)
        chosen = all_of if memory.fit == "gpu" else [strategy for strategy in all_of if strategy.name in names]
        found = {}
        for strategy in chosen or all_of[:1]:
            slots = cache_of(strategy, memory.placed_budget, memory, self.geometry.experts)
            found[strategy.name] = self.speed(strategy, slots, profile, memory)
        if memory.fit == "gpu":
            found |= dict.fromkeys(names, found["all-resident"])
        return found

    def layer_budgets(self, profile: HardwareProfile, memory: Memory) -> dict[str, Any] | None:
        """Divide the budget by the layers' own curves and say what that gains over equal shares, on held-out requests.

        Only with a trace of the model itself: how layers differ does not carry over to another model.
        """
        workload = self.workloads[0]
        if not isinstance(workload, OwnTrace) or memory.fit != "memory" or not memory.copies_all:
            return None
        from lrcsim.planner.locality_transfer import halves
        from lrcsim.simulator.curves.allocate import allocate

        source = workload.source
        sizes = list(memory.slot)

        def divided(trace: Any) -> list[Any]:
            return list(allocate(with_expert_bytes(trace, sizes), "lru", f"{memory.placed_budget}B").best.capacities)

        one, other = halves(source.trace)
        strategy = next(s for s in strategies(memory) if s.name == "lru")
        held_out = OwnTrace(replace(source, sampled=lambda: other))
        equal = cache_of(strategy, memory.placed_budget, memory, self.geometry.experts)
        setup = self.setup(strategy, profile)
        speeds = [
            measure(held_out.folds("lru"), ",".join(map(str, slots)), setup).tokens_per_s
            for slots in (equal, divided(one))
        ]
        gain = speeds[1] / speeds[0] - 1
        return {
            "experts_per_layer": divided(source.trace),
            "gain_held_out": gain,
            "worth_it": gain > WORTH,
        }

    def _judge(
        self, caches: dict[str, Strategy], profile: HardwareProfile, memory: Memory
    ) -> tuple[list[StrategyRow], str]:
        """Return LRU's row, with that of the fastest policy where it is faster by more than noise; and why."""
        plain, plain_speeds = self.row(caches["lru"], profile, memory)
        rates = {"lru": plain.speed} | self.quick(profile, memory, [name for name in caches if name != "lru"])
        name = max(rates, key=lambda policy: rates[policy])
        gain = rates[name] / plain.speed - 1
        if name == "lru" or gain < WORTH:
            return [plain], f"none of {', '.join(caches)} is faster than plain LRU by {WORTH:.0%} or more"
        row, speeds = self.row(caches[name], profile, memory)
        if len(speeds) == 1:
            gains = resampled(speeds[0]) / resampled(plain_speeds[0]) - 1
            low, high = (float(value) for value in np.percentile(gains, [2.5, 97.5]))
            what = f"{low:+.1%} to {high:+.1%} over resampled requests"
        else:
            each = [
                mine.tokens_per_s / theirs.tokens_per_s - 1 for mine, theirs in zip(speeds, plain_speeds, strict=True)
            ]
            low, high = min(each), max(each)
            what = f"{low:+.1%} to {high:+.1%} over the ways to carry the curves over"
        if low < NOISE:
            return [plain], f"{name} is {gain:+.1%} faster than plain LRU, which is within noise ({what})"
        return [plain, row], f"{name} is {gain:+.1%} faster than plain LRU ({what})"


def _binding(name: str, own: HardwareProfile, joint: HardwareProfile) -> str:
    """Return a resource's name; ``flash`` for a link or CPU that flash makes slower by a fifth and more."""
    mine, shared = own.part(name), joint.part(name)
    if mine in own.storage_links:
        return "flash"
    return "flash" if mine and shared and shared.bandwidth < 0.8 * mine.bandwidth else name


def _holding(profile: HardwareProfile, memory: Memory) -> HardwareProfile:
    """Return a machine with main memory for all experts: what flash takes instead is in its rates (`chained`)."""
    need = max(profile.dram.memory, memory.experts)
    return replace(profile, dram=replace(profile.dram, memory=need))
