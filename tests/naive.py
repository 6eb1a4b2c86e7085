"""Definition-level twins of the schedule, the rules of access and every built-in policy: plain lists, slow, readable.

Nothing here is shared with lrcsim, so that an error would have to be made twice to stay unseen. Wherever a policy can
be stated as "evict the resident of smallest score, judged by everything that has happened so far", its twin is just
that: a function of the whole log of uses and evictions (`naive_scores.SCORE`). The queue algorithms (`naive_queues`)
are written with plain lists, oldest entry first. `naive_traces` has traces and schedules, `naive_lossy` lossy actions.

The words are those of the design: a step is a forward pass, a layer-step one layer of it, a batch the distinct experts
of a layer-step, in the order of their last use. A key is ``layer * E + expert``, E being that of the largest layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from naive_queues import QUEUES, Queues, Random
from naive_scores import SCORE, Eviction, Use, World
from naive_traces import LayerStep, Params, PoolSize, Step, Trace, part, pool_sizes, schedule

# Experts loaded ahead


LOADED_AHEAD = ("static", "pinned-lru", "sch-static", "repin")
"""Those whose law is in `Pool.begin_step` and `Pool.victim`."""


def that_fit(ranked: Iterable[int], room: int, cost: Callable[[int], int]) -> list[int]:
    """Take experts in this order, passing over those for which there is no room left."""
    taken: list[int] = []
    for key in ranked:
        if sum(map(cost, taken)) + cost(key) <= room:
            taken.append(key)
    return taken


def most_used(uses: Iterable[int]) -> list[int]:
    """Rank the experts of a list of uses: most used first, ties to the smaller key."""
    uses = list(uses)
    return sorted(set(uses), key=lambda key: (-uses.count(key), key))


# Pools and the rules of access


ADMISSION = ("admit2",)
"""Before another policy, ``lru`` if none is named; the law is in `Pool.not_admitted`."""


class Pool:
    """The residents of one pool, with the counts of what went in and out.

    ``admission``: second-touch admission before the policy, with the uses that it looks back on (0: all); None: none.
    """

    def __init__(
        self,
        size: PoolSize,
        policy: str,
        params: Params,
        world: World,
        popular: list[int],
        admission: int | None = None,
    ) -> None:
        if policy == "admit2":
            policy, admission = "lru", int(params["window"])
        self.admission = admission
        self.size, self.policy, self.params, self.world = size, policy, params, world
        self.popular = [key for key in popular if key // world.stride in size.layers]
        self.any_victim = policy in ("belady-bypass", *LOADED_AHEAD)  # also one of the batch
        self.bypass = self.any_victim or admission is not None
        self.evictions = self.bypassed = 0
        self.preloaded: list[int] = []
        self.empty()

    def cost(self, key: int) -> int:
        return self.size.size[key // self.world.stride] if self.size.each is None else self.size.each[key]

    def empty(self) -> None:
        self.resident: list[int] = []
        self.world.log = []
        self.touched: list[int] = []  # all uses since the pool was emptied, those that were not admitted too
        self.seen: list[int] = []  # distinct experts used since the pool was emptied
        self.pinned: list[int] = []
        self.window_end = 0  # first step after the current window
        self.fresh = True  # emptied, and nothing loaded since
        self.passes: list[list[int]] = []  # uses before each pass of repin, since the one before
        self.part = 0  # which n steps the last step was in
        if self.policy in QUEUES:
            before: Queues | None = getattr(self, "queues", None)
            self.queues = QUEUES[self.policy](self.size.capacity, self.params)
            if isinstance(self.queues, Random):
                self.queues.begin_draws(int(self.params["seed"]), self.size.layers[0])
                if isinstance(before, Random):
                    self.queues.one, self.queues.two = before.one, before.two

    def begin_step(self, step: int, steps: list[Step]) -> None:
        """Let policies that load of their own accord do so."""
        wanted: list[int] | None = None
        if self.policy == "sch-static":
            request = steps[step].request
            if step >= self.window_end or steps[self.window_end - 1].request != request:
                window = [s for s in steps[step : step + int(self.params["m"])] if s.request == request]
                self.window_end = window[-1].number + 1
                uses = [k for s in window for run in s.layers if run.layer in self.size.layers for k in run.batch]
                wanted = that_fit(most_used(uses), self.size.capacity, self.cost)
        elif self.fresh and self.policy == "static":
            wanted = that_fit(self.popular, self.size.capacity, self.cost)
        elif self.fresh and self.policy == "pinned-lru":
            room = part(self.params["share"], self.size.capacity)
            wanted = self.pinned = that_fit(self.popular, room, self.cost)
        elif self.policy == "repin":
            part_before, self.part = self.part, step // int(self.params["n"])
            used = [use.key for use in self.world.log if isinstance(use, Use)]
            new = used[sum(map(len, self.passes)) :]
            if new and self.part != part_before:
                self.passes.append(new)
                wanted = self.pinned_anew()
        self.fresh = False
        if wanted is not None:
            self.preloaded += [key for key in wanted if key not in self.resident]
            self.resident = list(wanted)
            self.pinned = list(wanted)

    def heat(self, key: int) -> int:
        """Say how hot an expert is at the last pass of repin: that at the one before, halved, and its uses since."""
        heat = 0
        for uses in self.passes:
            heat = heat // 2 + uses.count(key)
        return heat

    def pinned_anew(self) -> list[int]:
        """Say what repin holds after a pass."""
        before, contents = list(self.resident), list(self.resident)
        hottest = sorted({key for uses in self.passes for key in uses}, key=lambda key: (-self.heat(key), key))
        for key in hottest:
            if key not in contents and self.heat(key) and not self.over([*contents, key]):
                contents.append(key)
        came = [key for key in contents if key not in before]
        for cold in sorted(before, key=lambda key: (self.heat(key), key))[: int(self.params["swaps"])]:
            others = [key for key in contents if key != cold]
            fit = [key for key in hottest if key not in before + came and not self.over([*others, key])]
            if not fit or self.heat(fit[0]) - self.heat(cold) <= self.heat(cold) // 4 + 4:
                break
            contents = [*others, fit[0]]
            came.append(fit[0])
        return contents

    def over(self, keys: Sequence[int]) -> bool:
        return sum(map(self.cost, keys)) > self.size.capacity

    def victim(self, candidates: list[int], missed: list[int]) -> int:
        """Name the candidate of smallest score."""
        if self.policy in ("static", "sch-static", "repin"):
            return [key for key in missed if key in candidates][-1]
        if self.policy == "pinned-lru":
            return min((key for key in candidates if key not in self.pinned), key=self.world.last_use)
        score = SCORE[self.policy]
        return min(candidates, key=lambda key: (score(self.world, key), self.world.last_use(key)))

    def serve(self, uses: list[Use]) -> list[int]:
        """Look up these experts, all of which must be resident together; return those that missed."""
        batch = [use.key for use in uses]
        missed = [key for key in batch if key not in self.resident]
        if self.admission is not None:
            passing = self.not_admitted(batch, missed)
            self.bypassed += len(passing)
            if passing:
                heard = [use for use in uses if use.key not in passing]
                self.serve_admitted(heard, [key for key in missed if key not in passing])
                return missed
        self.serve_admitted(uses, missed)
        return missed

    def not_admitted(self, batch: list[int], missed: list[int]) -> list[int]:
        """Return the misses not used lately for which no slot is free beside the residents and the other misses."""
        first = []
        for key in batch:
            lately = self.touched[-self.admission :] if self.admission else self.touched
            if key in missed and key not in lately:
                first.append(key)
            self.touched.append(key)
        passing, inside = [], self.resident + [key for key in missed if key not in first]
        for key in first:
            if self.over([*inside, key]):
                passing.append(key)
            else:
                inside.append(key)
        return passing

    def serve_admitted(self, uses: list[Use], missed: list[int]) -> None:
        """Serve a batch whose misses are all loaded; an empty one changes nothing."""
        batch = [use.key for use in uses]
        for use in uses:
            use.loaded = use.key in missed
            self.world.log.append(use)
            self.world.now = use
        self.resident += missed
        if self.policy in QUEUES:
            self.serve_queues(batch, missed)
        else:
            while self.over(self.resident):
                others = [key for key in self.resident if key not in batch]
                candidates = self.resident if self.any_victim or not others else others
                self.put_out(self.victim(candidates, missed), missed)

    def serve_queues(self, batch: list[int], missed: list[int]) -> None:
        self.queues.begin()
        for key in batch:
            (self.queues.miss if key in missed else self.queues.hit)(key)
        while self.over(self.resident) and any(key not in batch for key in self.resident):
            self.put_out(self.queues.choose(batch), missed)
        for key in missed:
            self.queues.insert(key)
        while self.over(self.resident):
            self.put_out(self.queues.choose([]), missed)

    def put_out(self, key: int, missed: list[int]) -> None:
        self.resident.remove(key)
        self.world.log.append(Eviction(key))
        if self.bypass and key in missed:
            self.bypassed += 1
        else:
            self.evictions += 1

    def run(self, uses: list[Use], access: str) -> list[bool]:
        """Serve one batch under one rule of access; return a hit flag for each use."""
        flags = []
        if access == "coresident":
            missed = self.serve(uses)
            flags = [use.key not in missed for use in uses]
        elif access == "sequential":
            flags = [not self.serve([use]) for use in uses]
        else:
            before = list(self.resident)
            for use in uses:
                free = use.key not in self.seen and not self.over([*self.seen, use.key])
                flags.append(use.key in before or free)
                if use.key not in self.seen:
                    self.seen.append(use.key)
            for use in uses:
                self.serve([use])
        return flags


@dataclass
class Outcome:
    """What a replay counts. Tables are [phase][layer]."""

    hit: list[bool]
    accesses: list[list[int]]
    misses: list[list[int]]
    cold_misses: int
    evictions: int
    bypassed: int
    preloaded: list[int]  # of each layer
    steps: list[int]  # of each phase, those that recorded anything
    resident: int


def replay(
    trace: Trace,
    policy: str,
    params: Params,
    cache: str,
    scope: str,
    access: str,
    prefill: str = "step",
    warm: bool = True,
    profile: Trace | None = None,
    admission: int | None = None,
) -> Outcome:
    """Run a trace through a cache, one access after the other; ``admission`` as in `Pool`."""
    if access == "paper":
        prefill, warm = "token", False
    steps = schedule(trace, prefill)
    popular = (
        [] if profile is None else most_used(k for s in schedule(profile, "step") for r in s.layers for k in r.batch)
    )
    first_step: dict[int, int] = {}
    for step in steps:
        first_step.setdefault(step.request, step.number)

    runs: list[tuple[Step, LayerStep, list[Use]]] = []
    accesses: list[Use] = []
    for step in steps:
        for layer_step in step.layers:
            uses = []
            for key, weight, high in zip(layer_step.batch, layer_step.weights, layer_step.high, strict=True):
                uses.append(
                    Use(key, layer_step.layer, step.number, step.request, len(runs), len(accesses), weight, high, False)
                )
                accesses.append(uses[-1])
            runs.append((step, layer_step, uses))

    unit = "run" if access == "coresident" else "time"
    pools = [
        Pool(
            size,
            policy,
            params,
            World(trace.stride, trace.num_layers, unit, warm, accesses, first_step, params),
            popular,
            admission,
        )
        for size in pool_sizes(trace, cache, scope)
    ]
    table = [[0] * trace.num_layers for _ in range(2)]
    outcome = Outcome([], table, [list(row) for row in table], 0, 0, 0, [0] * trace.num_layers, [0, 0], 0)
    used_before: list[int] = []
    request = -1
    for step in steps:
        if not step.layers:  # nothing recorded
            continue
        outcome.steps[step.phase] += 1
        if not warm and step.request != request:
            used_before, request = [], step.request
            for pool in pools:
                pool.empty()
        for pool in pools:
            pool.begin_step(step.number, steps)
            mine = [uses for s, run, uses in runs if s is step and run.layer in pool.size.layers]
            if access == "paper":
                mine = [[use for uses in mine for use in uses]]
            for uses in mine:
                flags = pool.run(uses, access)
                for use, hit in zip(uses, flags, strict=True):
                    outcome.hit.append(hit)
                    outcome.accesses[step.phase][use.layer] += 1
                    outcome.misses[step.phase][use.layer] += not hit
                    outcome.cold_misses += not hit and use.key not in used_before
                    used_before.append(use.key)
    for pool in pools:
        outcome.evictions += pool.evictions
        outcome.bypassed += pool.bypassed
        outcome.resident += len(pool.resident)
        for key in pool.preloaded:
            outcome.preloaded[key // trace.stride] += 1
    return outcome
