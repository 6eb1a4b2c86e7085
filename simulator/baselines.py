"""What a result is compared with: LRU, the optimum, bounds for experts of unequal size, and the fewest bytes loaded.

In slots these come from the compiled stack algorithms, which give every capacity at once; in bytes they are replayed.
Where the run asked for is one of them itself, it is not done again.
Both are kept as long as the trace is, so that a loop over policies or capacities pays once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lrcsim.base.progress import Progress, part_of
from lrcsim.simulator.cache.bounds import cheapest, most_bytes_kept, most_hits
from lrcsim.simulator.cache.capacity import PoolSize
from lrcsim.simulator.cache.future import Future
from lrcsim.simulator.compiled.counts import count
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import DECODE, PREFILL
from lrcsim.traces.kept import Kept
from lrcsim.traces.schedule import Schedule

if TYPE_CHECKING:
    from lrcsim.simulator.compiled.every_size import StackHits

LOADS = {"belady": "every miss, and nothing else,", "belady-bypass": "nothing but misses"}
"""What the policies load that have no more hits than the optimum of that name."""

_every_size: Kept[StackHits] = Kept()
_replays: Kept[Counts] = Kept()
_bytes_kept: Kept[list[float]] = Kept()
_upper: Kept[tuple[int, int]] = Kept()


@dataclass(frozen=True)
class Bound:
    """A hit rate to compare with.

    Attributes:
        hit_rate: over all accesses; None when nothing was accessed.
        prefill_hit_rate: over those of prefill steps, or None when there are none or the bound does not say.
        decode_hit_rate: the same for decode steps.
        proven: True when no policy that loads as the run did can have more hits in all under the same rules (``note``
            says which do); ``prefill_hit_rate`` and ``decode_hit_rate`` are those of the same run, and another may have
            more of one by having fewer of the other.
        note: what kind of bound it is, in a line.
        kind: the same in two or three words: ``"optimum"``, ``"heuristic"``, ``"optimum on demand"``.
    """

    hit_rate: float | None
    prefill_hit_rate: float | None
    decode_hit_rate: float | None
    proven: bool
    note: str
    kind: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the values as JSON has them."""
        return {
            "hit_rate": self.hit_rate,
            "prefill_hit_rate": self.prefill_hit_rate,
            "decode_hit_rate": self.decode_hit_rate,
            "proven": self.proven,
            "proven_of": "hit_rate" if self.proven else None,
            "kind": self.kind,
            "note": self.note,
        }


@dataclass(frozen=True)
class Free:
    """What a run may have had in its caches without a transfer that took place in the time in question.

    Attributes:
        preloaded: int64 [L], experts that the policy loaded of its own accord, which costs nothing.
        breaks: how often steps of another phase, or idle time, came before steps of (prefill, decode), and how often
            idle time alone came before any: then a full cache may have been loaded.
    """

    preloaded: npt.NDArray[np.int64]
    breaks: tuple[int, int, int]


@dataclass(frozen=True)
class LeastBytes:
    """Bytes that no policy and no prefetcher can do without, where every miss is loaded.

    Attributes:
        prefill: those that move in prefill steps.
        decode: those that move in decode steps.
        total: those that move in steps of either kind.
        reachable: whether eviction by farthest next use loads as little in all, save for what is `Free`.
    """

    prefill: float
    decode: float
    total: float
    reachable: bool


class Baselines:
    """The runs beside the one asked for, under the same rules.

    Args:
        run: the one asked for; its policy does not matter here.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.replayed, self.replays = 0, 1  # the one asked for
        self.unequal = not run.in_slots
        self._own: dict[str, Counts] = {}

    def replays_needed(self, bypass: bool, but: str = "") -> int:
        """Return how many replays `find` will make: of references that are not known yet, leaving out one."""
        if not self.unequal:
            return 0
        return sum(name != but and self._key(name) not in _replays.of(self.run.trace) for name in self._names(bypass))

    def keep(self, name: str, counts: Counts) -> None:
        """Take over what the run asked for found, if it was one of the references itself."""
        if name in self._names(bypass=True):
            self._own[name] = counts
            if self.unequal:
                _replays.of(self.run.trace)[self._key(name)] = counts

    def find(
        self, bypass: bool, progress: Progress | None = None, *, ahead: str = "", elsewhere: bool = False
    ) -> dict[str, Bound]:
        """Return LRU and the bounds by name.

        Args:
            bypass: whether to add the optimum for policies whose misses may bypass the cache.
            progress: told how far the replays are, if any are needed, after the one asked for.
            ahead: why the run may have hits of experts that were not loaded on demand; empty: it has none. Then no
                bound on hits is proven, for all of them are of caches that load on demand.
            elsewhere: whether some misses of the run never enter the cache, which makes room as bypassing does.

        Returns:
            ``lru``, ``belady``, with ``bypass`` or ``elsewhere`` also ``belady-bypass``, for experts of unequal size
            also ``upper``.
        """
        loads_all = ("optimum without bypass", "this run's policy bypasses the cache") if bypass else None
        if elsewhere:
            loads_all = ("optimum if all misses are loaded", "this run's are not")
        bypass = bypass or elsewhere
        self.replays = 1 + self.replays_needed(bypass)
        optimal = self.run.access != "paper" and not self.unequal
        kind, why = "optimum", ""
        if not optimal:
            kind = "heuristic"
            why = "experts differ in size" if self.unequal else "under the paper's rule"
        elif ahead:
            kind, why = "optimum on demand", ahead
        bounds = {"lru": self._bound("lru", "", "LRU under the same rules", progress)}
        for name in self._names(bypass)[1:]:
            called, reason = kind, why
            if name == "belady" and kind == "optimum" and loads_all is not None:
                called, reason = loads_all  # the run may have more hits
            rule = "farthest next use" + (" with bypass" if name == "belady-bypass" else "")
            note = f"{rule}, {'a' if called == 'heuristic' else 'the'} {called}" + (f": {reason}" if reason else "")
            if called == "optimum":
                note += f": no policy that loads {LOADS[name]} has more hits in all"
            bounds[name] = self._bound(name, called, note, progress)
        if self.unequal and self.run.access != "paper":
            bounds["upper"] = self._upper(ahead)
        return bounds

    def least_bytes(self, sizes: list[int], bypass: bool, free: Free, accesses: npt.NDArray[np.int64]) -> LeastBytes:
        """Return what no policy and no prefetcher can do without, where every miss is loaded and access is co-resident.

        The optimum has the fewest loads, and no loads ahead of time save one: an expert is either still there from its
        last use or loaded again. In one phase alone the fewest are those of the optimum to which only reuses in that
        phase are worth something. What was loaded in another phase is a full cache at most. Where experts of a pool
        differ in bytes, the bytes are bounded by a relaxation (`most_bytes_kept`).

        Args:
            sizes: bytes of an expert of each layer, or of each expert by key where those of a layer differ.
            bypass: whether misses may bypass the cache.
            free: what need not have been moved.
            accesses: int64 [2, L], of the run, by phase and layer.
        """
        run = self.run
        name = "belady-bypass" if bypass else "belady"
        bytes_of, stride = np.asarray(sizes, np.int64), run.trace.num_experts
        per = len(sizes) // run.trace.num_layers  # 1, or E: what is counted for itself
        if per > 1:
            accesses = self._accesses_by_key()
        both = [bool(total) for total in accesses.sum(axis=1)]
        needed = [0.0, 0.0, 0.0]  # prefill, decode, all
        for part, only in enumerate((PREFILL, DECODE, None)):
            if only is not None and not both[only]:
                continue
            hits = None if self.unequal else self._stack(name, only if all(both) else None)
            used = accesses.sum(axis=0) if only is None else accesses[only]
            for index, pool in enumerate(run.pools):
                layers = list(pool.layers)
                here = slice(layers[0] * per, (layers[-1] + 1) * per)
                own, size = used[here], bytes_of[here]
                given, breaks = free.preloaded[layers], free.breaks[part]
                room = min(pool.capacity, stride * len(layers))
                least = 0.0
                if hits is not None:
                    row = hits.hits[index][:, min(pool.capacity, hits.hits[index].shape[1] - 1)]
                    kept = int(row.sum()) if only is None else int(row[only])
                    loads = int(own.sum()) - kept - int(given.sum()) - breaks * room
                    least = float(cheapest(max(loads, 0), own.tolist(), size.tolist()))
                if len({*size.tolist()} - {0}) > 1:  # 0: there is no such expert
                    full = pool.capacity if pool.bytes_per_expert is not None else room * int(size.max())
                    most = size.reshape(len(layers), per).max(axis=1)  # what is given may have been the largest
                    relaxed = float(own @ size) - self._kept(pool, sizes)[part] - float(given @ most) - breaks * full
                    least = max(least, relaxed)
                needed[part] += least
        mixed = any(len({*sizes[pool.layers[0] * per : (pool.layers[-1] + 1) * per]} - {0}) > 1 for pool in run.pools)
        return LeastBytes(needed[PREFILL], needed[DECODE], needed[2], reachable=not mixed)

    def _stack(self, name: str, only: int | None = None) -> StackHits:
        from lrcsim.simulator.compiled.every_size import stack_hits  # numba takes half a second to import

        run = self.run
        key = name if only is None else f"{name} of phase {only}"
        return _every_size.once(
            run.trace,
            self._key(key),
            lambda: stack_hits(run.trace, name, run.scope, run.access, run.prefill, run.warm, only=only),
        )

    def _kept(self, pool: PoolSize, sizes: list[int]) -> list[float]:
        """Return the most bytes kept until used again in prefill, in decode, in either."""
        run = self.run

        def count() -> list[float]:
            schedule = Schedule(run.trace, run.prefill)
            future = Future(schedule, run.access, run.warm)
            phase = schedule.all_steps().phase[future.batch_step]
            masks = (phase == PREFILL, phase == DECODE, None)
            each = [size for size in sizes for _ in range(run.trace.num_layers * future.stride // len(sizes))]
            return [most_bytes_kept(future, pool, each, counted) for counted in masks]

        return _bytes_kept.once(run.trace, self._key(f"{pool}, {sizes}"), count)

    def _accesses_by_key(self) -> npt.NDArray[np.int64]:
        """Return int64 [2, L * E], accesses by phase and key."""
        run = self.run
        found = np.zeros((2, run.trace.num_layers * run.trace.num_experts), np.int64)
        for block in Schedule(run.trace, run.prefill).blocks():
            phase = np.repeat(block.phase, np.diff(block.starts))
            for which in (PREFILL, DECODE):
                found[which] += np.bincount(block.keys[phase == which], minlength=found.shape[1])
        return found

    def _names(self, bypass: bool) -> list[str]:
        return ["lru", "belady", *(["belady-bypass"] if bypass and self.run.access != "paper" else [])]

    def _bound(self, name: str, kind: str, note: str, progress: Progress | None) -> Bound:
        if self.unequal or name in self._own:
            counts = self._own.get(name) or self._replayed(name, progress)
            accesses, hits = counts.accesses.sum(axis=1), (counts.accesses - counts.misses).sum(axis=1)
        else:
            found = self._stack(name)
            accesses, hits = found.accesses.sum(axis=0), found.at([pool.capacity for pool in self.run.pools])

        def rate(phase: int | slice) -> float | None:
            total = int(accesses[phase].sum())
            return int(hits[phase].sum()) / total if total else None

        return Bound(
            hit_rate=rate(slice(None)),
            prefill_hit_rate=rate(PREFILL),
            decode_hit_rate=rate(DECODE),
            proven=kind == "optimum",
            note=note,
            kind=kind,
        )

    def _replayed(self, name: str, progress: Progress | None) -> Counts:
        return _replays.once(self.run.trace, self._key(name), lambda: self._replay(name, progress))

    def _replay(self, name: str, progress: Progress | None) -> Counts:
        self.replayed += 1
        counts, _ = count(
            self.run.with_policy(name, profile=False), progress=part_of(progress, self.replayed, self.replays)
        )
        return counts

    def _upper(self, ahead: str) -> Bound:
        run = self.run

        def count() -> tuple[int, int]:
            future = Future(Schedule(run.trace, run.prefill), run.access, run.warm)
            return most_hits(future, list(run.pools)), len(future.keys)

        hits, accesses = _upper.once(run.trace, self._key("upper"), count)
        rate = min(hits / accesses, 1.0) if accesses else None
        note = f"no policy that loads {LOADS['belady-bypass']} exceeds it (PFOO-L); it need not be reachable"
        if ahead:
            return Bound(rate, None, None, False, f"{note}; on demand, and {ahead}", "upper bound on demand")
        return Bound(rate, None, None, True, note, "upper bound")

    def _key(self, name: str) -> tuple[object, ...]:
        run = self.run
        capacity = tuple(run.pools) if self.unequal else run.scope  # in slots, all capacities come at once
        return (name, capacity, run.access, run.prefill, run.warm)
