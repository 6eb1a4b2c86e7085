"""What a result is compared with: LRU, the optimum, and a bound for experts of unequal size.

In slots these come from the compiled stack algorithms, which give every capacity at once; in bytes they are replayed.
Both are kept on the trace, so that a loop over policies or capacities pays once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from lrcsim.simulator.bounds import most_hits
from lrcsim.simulator.capacity import Scope
from lrcsim.simulator.future import Future
from lrcsim.simulator.replay import Counts, Progress, Replay, part_of, replay
from lrcsim.simulator.result import Bound
from lrcsim.simulator.schedule import Schedule
from lrcsim.traces import DECODE, PREFILL

__all__ = ["References"]

T = TypeVar("T")


class References:
    """The runs beside the one asked for, under the same rules.

    Args:
        job: the run asked for; its policy does not matter here.
        scope: ``"layer"`` or ``"model"``.
    """

    def __init__(self, job: Replay, scope: Scope) -> None:
        self.job = job
        self.scope = scope
        self.replayed, self.replays = 0, 1  # the one asked for
        self.unequal = any(pool.bytes_per_expert is not None for pool in job.pools)

    def replays_needed(self, bypass: bool, but: str = "") -> int:
        """Return how many replays `find` will make: of references that are not known yet, leaving out one."""
        if not self.unequal:
            return 0
        return sum(name != but and self._key(name) not in self.job.trace.notes for name in self._names(bypass))

    def keep(self, name: str, counts: Counts) -> None:
        """Take over what the run asked for found, if it was one of the references itself."""
        if self.unequal and name in self._names(bypass=True):
            self.job.trace.notes[self._key(name)] = counts

    def find(self, bypass: bool, progress: Progress | None = None) -> dict[str, Bound]:
        """Return LRU and the bounds by name.

        Args:
            bypass: whether to add the optimum for policies whose misses may bypass the cache.
            progress: told how far the replays are, if any are needed, after the one asked for.

        Returns:
            ``lru``, ``belady``, with ``bypass`` also ``belady-bypass``, for experts of unequal size also ``upper``.
        """
        self.replays = 1 + self.replays_needed(bypass)
        proven = self.job.access != "paper" and not self.unequal
        kind = "the optimum"
        if not proven:
            kind = "a heuristic, experts differ in size" if self.unequal else "a heuristic under the paper's rule"
        notes = {
            "lru": "LRU under the same rules",
            "belady": f"farthest next use, {kind}",
            "belady-bypass": f"farthest next use with bypass, {kind}",
        }
        bounds = {
            name: self._bound(name, proven=proven and name != "lru", note=notes[name], progress=progress)
            for name in self._names(bypass)
        }
        if self.unequal and self.job.access != "paper":
            bounds["upper"] = self._upper()
        return bounds

    def _names(self, bypass: bool) -> list[str]:
        return ["lru", "belady", *(["belady-bypass"] if bypass and self.job.access != "paper" else [])]

    def _bound(self, name: str, *, proven: bool, note: str, progress: Progress | None) -> Bound:
        if self.unequal:
            counts = self._once(name, lambda: self._replay(name, progress))
            accesses, hits = counts.accesses.sum(axis=1), (counts.accesses - counts.misses).sum(axis=1)
        else:
            from lrcsim.simulator.stack_hits import stack_hits  # numba takes half a second to import

            job = self.job
            found = self._once(name, lambda: stack_hits(job.trace, name, self.scope, job.access, job.prefill, job.warm))
            accesses, hits = found.accesses.sum(axis=0), found.at([pool.capacity for pool in job.pools])

        def rate(phase: int | slice) -> float | None:
            total = int(accesses[phase].sum())
            return int(hits[phase].sum()) / total if total else None

        return Bound(rate(slice(None)) or 0.0, rate(PREFILL), rate(DECODE), proven, note)

    def _replay(self, name: str, progress: Progress | None) -> Counts:
        self.replayed += 1
        return replay(
            replace(self.job, policy=name, profile=None), progress=part_of(progress, self.replayed, self.replays)
        )

    def _upper(self) -> Bound:
        job = self.job

        def count() -> tuple[int, int]:
            future = Future(Schedule(job.trace, job.prefill), job.access, job.warm)
            return most_hits(future, list(job.pools)), len(future.keys)

        hits, accesses = self._once("upper", count)
        rate = min(hits / accesses, 1.0) if accesses else 0.0
        return Bound(rate, None, None, proven=True, note="no policy exceeds it (PFOO-L); it need not be reachable")

    def _key(self, name: str) -> tuple[object, ...]:
        job = self.job
        capacity = tuple(job.pools) if self.unequal else self.scope  # in slots, all capacities come at once
        return ("reference", name, capacity, job.access, job.prefill, job.warm)

    def _once(self, name: str, compute: Callable[[], T]) -> T:
        notes, key = self.job.trace.notes, self._key(name)
        if key not in notes:
            notes[key] = compute()
        known: T = notes[key]  # type: ignore[assignment]  # what compute() gave under this key
        return known
