"""What a plan says of other sizes of memory, other contexts and upgrades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lrcsim.hardware import HardwareProfile
from lrcsim.models import Geometry
from lrcsim.planner.evaluate import Runner
from lrcsim.planner.memory import Memory, memory_of, with_memory
from lrcsim.planner.rows import StrategyRow
from lrcsim.planner.sizes_and_upgrades import knee_of, marginal, sizes_to_show, to_gib, upgrades


@dataclass(frozen=True)
class Account:
    """A model as it is stored and used, to be accounted for on machines."""

    geometry: Geometry
    dtype: str
    kv_dtype: str
    reserve: int | None
    unused: int

    def memory(self, profile: HardwareProfile, context: int) -> Memory:
        """Return what must be where."""
        return memory_of(
            self.geometry,
            profile,
            self.dtype,
            context,
            kv_dtype=self.kv_dtype,
            reserve=self.reserve,
            unused=self.unused,
        )


@dataclass
class Outlook:
    """Works out one plan's tables of what else there could be.

    Attributes:
        runner: runs strategies.
        account: the model.
        profile: the machine.
        memory: what is where on it.
        context: tokens.
        rows: of the plan.
        kept: names of strategies that the tables have.
    """

    runner: Runner
    account: Account
    profile: HardwareProfile
    memory: Memory
    context: int
    rows: Sequence[StrategyRow]
    kept: Sequence[str]
    had: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        names = [row.name for row in self.rows if row.kind == "released"]
        self.had = tuple(name for name in self.kept if name in names) or (self.rows[0].name,)

    def sizes(self) -> list[dict[str, Any]]:
        """Return what other sizes of the device's memory give."""
        memory, found = self.memory, []
        totals = [total for total in sizes_to_show(memory) if self._at(total).fit != "no"]
        by_size = [self.runner.quick(_resized(self.profile, total), self._at(total), self.kept) for total in totals]
        best = [self._had(speeds)[1] for speeds in by_size]
        for total, speeds, speed, step in zip(totals, by_size, best, marginal(totals, best), strict=True):
            experts = min(total - memory.fixed, memory.experts)
            found.append(
                {
                    "device_bytes": total,
                    "experts_bytes": experts,
                    "share_of_experts": experts / memory.experts,
                    "own": total == memory.total,
                    "tokens_per_s": speed,
                    "by_strategy": {name: speeds.get(name) for name in self.kept},
                    "tokens_per_s_per_gib": step,
                }
            )
        return found

    def fine(self, name: str) -> tuple[list[tuple[int, float]], int | None]:
        """Return bytes of experts on the device and tokens/s of one strategy there, and the index of the knee."""
        points = []
        for point in (self.memory.experts * i // 12 for i in range(12)):
            total = self.memory.fixed + point
            sized = self._at(total)
            if sized.fit != "no":
                points.append((point, self.runner.quick(_resized(self.profile, total), sized, [name])[name]))
        return points, knee_of([to_gib(point) for point, _ in points], [speed for _, speed in points])

    def contexts(self) -> list[dict[str, Any]]:
        """Return what more and less context would leave for experts, and cost."""
        found = []
        for context in (self.context // 4, self.context, self.context * 4):
            memory = self.account.memory(self.profile, context)
            fits = context > 0 and memory.fit != "no"
            speeds = self.runner.quick_at(self.profile, memory, self.had, context) if fits else None
            found.append(
                {
                    "context": context,
                    "kv_bytes": memory.kv,
                    "experts_bytes": max(memory.budget, 0),
                    "tokens_per_s": speeds and speeds[0],
                    "tokens_per_s_full": speeds and speeds[1],
                }
            )
        return found

    def upgrades(self) -> list[dict[str, Any]]:
        """Return what upgrades would give: the ways that can be had, and the fastest of all."""
        now, found = self.rows[0], []
        fastest = max(self.rows, key=lambda row: row.speed)
        for upgrade in upgrades(self.profile, self.memory):
            memory = self.account.memory(upgrade.profile, self.context)
            speeds, binds = self.runner.quick_bound(upgrade.profile, memory, self.kept)
            name, speed = self._had(speeds)
            other = max(speeds, key=lambda name: speeds[name])
            found.append(
                {
                    "upgrade": upgrade.name,
                    "tokens_per_s": speed,
                    "gain": speed / now.speed - 1,
                    "strategy": name,
                    "binds": binds[name],
                    "fastest_tokens_per_s": speeds[other],
                    "fastest_gain": speeds[other] / fastest.speed - 1,
                    "fastest_strategy": other,
                }
            )
        return found

    def _at(self, total: int) -> Memory:
        return self.account.memory(_resized(self.profile, total), self.context)

    def _had(self, speeds: dict[str, float]) -> tuple[str, float]:
        """Return the fastest that can be had, or the fastest where none can."""
        names = [name for name in (*self.had, "all-resident") if name in speeds] or list(speeds)
        name = max(names, key=lambda name: speeds[name])
        return name, speeds[name]


def _resized(profile: HardwareProfile, total: int) -> HardwareProfile:
    """Return the machine with another size of the device's memory, of shared memory as much as that needs."""
    if profile.gpu is not None and profile.unified:
        dram = replace(profile.dram, memory=max(profile.dram.memory, total))
        return replace(profile, gpu=replace(profile.gpu, memory=total), dram=dram)
    return with_memory(profile, total, None) if profile.gpu is not None else with_memory(profile, None, total)
