"""The optimum is the optimum: `belady` and `belady-bypass` equal exhaustive search, and nothing beats them.

A case solved by hand. One layer, E = 4, two experts per token, three slots, cold start, co-resident batches:

    step        0    1    2    3    4
    batch      0 1  0 2  1 3  0 2  0 1

  step 0  0 and 1 are cold, 2 misses. Residents 0 1.
  step 1  0 hits, 2 is cold. Three experts, three slots, nothing has to go: residents 0 1 2.
  step 2  1 hits, 3 is cold. Four experts; 1 and 3 are in use, so 0 or 2 goes. Both are used next in step 3: whichever
          is kept hits there and the other misses.
          Keep 0: residents 0 1 3.                          Keep 2: residents 1 2 3.
  step 3  0 hits, 2 misses. 1 or 3 goes: 3, never used.     2 hits, 0 misses. 3 goes.
          Residents 0 1 2.                                  Residents 0 1 2.
  step 4  0 and 1 hit.                                      0 and 1 hit.

Hits 0 + 1 + 1 + 1 + 2 = 5 of 10, and no choice does better: 0, 1, 2 and 3 must be loaded once each, and step 3 needs 0
and 2 when the three slots hold 1, 3 and one other. With a staging buffer outside the capacity (bypass) 3 need not enter
in step 2: residents stay 0 1 2, step 3 hits twice, hence 6 of 10. One expert after another (sequential), 3 slots,
0 1 0 2 1 3 0 2 0 1: 3 has to enter in place of 0, 1 or 2, each of which is used again: 5; with bypass 6.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from itertools import combinations, compress, pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrcsim.policies import Policy
from lrcsim.policies.registry import BUILT_IN
from lrcsim.simulator import simulate
from lrcsim.simulator.baselines import Baselines, Free
from lrcsim.simulator.cache.capacity import resolve_capacity
from lrcsim.simulator.compiled.every_size import stack_hits
from lrcsim.simulator.replay import replay
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace

# --- exhaustive search, written from the rules of accounting alone ---------------------------------------------------
# An expert is (layer, id). A batch is the distinct experts of a layer-step in order of last use.

Expert = tuple[int, int]
Batch = tuple[Expert, ...]


def forward_passes(phases: Sequence[int] | None, offsets: Sequence[int], chunk: int | None) -> list[list[int]]:
    """Group tokens into forward passes: one decoded token, or the prompt (all of it, or chunks) of one request."""
    passes: list[list[int]] = []
    for first, end in pairwise(offsets):
        prompt: list[int] = []
        for token in range(first, end):
            if phases is not None and phases[token] == 0:
                prompt.append(token)
                if len(prompt) == chunk:
                    passes.append(prompt)
                    prompt = []
                continue
            if prompt:
                passes.append(prompt)
                prompt = []
            passes.append([token])
        if prompt:
            passes.append(prompt)
    return passes


def batches_by_request(
    experts: Sequence[Sequence[Sequence[int]]], passes: Sequence[Sequence[int]], offsets: Sequence[int]
) -> list[list[Batch]]:
    """Return for each request its batches in order; positions of -1 and layer-steps left empty are dropped."""
    requests: list[list[Batch]] = [[] for _ in offsets[1:]]
    for tokens in passes:
        request = sum(offset <= tokens[0] for offset in offsets[1:])
        for layer in range(len(experts[0])):
            uses = [expert for token in tokens for expert in experts[token][layer] if expert >= 0]
            last = {expert: place for place, expert in enumerate(uses)}
            if last:
                requests[request].append(tuple((layer, expert) for expert in sorted(last, key=last.__getitem__)))
    return requests


def cost(of_layer: int | Sequence[int], expert: int) -> int:
    """Return the bytes of an expert, given those of all of its layer, or of each."""
    return of_layer if isinstance(of_layer, int) else of_layer[expert]


def most_hits(
    requests: Sequence[Sequence[Batch]],
    capacity: int,
    *,
    bypass: bool,
    access: str = "coresident",
    warm: bool = True,
    size: Sequence[int] | Sequence[Sequence[int]] | None = None,
    worth: Sequence[int] | Sequence[Sequence[int]] | None = None,
    counted: Sequence[Sequence[bool]] | None = None,
) -> int:
    """Return the most hits that any choice of evictions reaches in one pool of slots, or of bytes with ``size``.

    A hit counts as one, or as what it is ``worth`` in its layer; only in batches that are ``counted``, if given.
    """

    def weight(chosen: Iterable[Expert]) -> int:
        return sum(1 if size is None else cost(size[layer], expert) for layer, expert in chosen)

    @cache
    def next_states(resident: frozenset[Expert], batch: Batch) -> list[frozenset[Expert]]:
        used = frozenset(batch)
        if used <= resident:  # nothing is loaded, so nothing has to go
            return [resident]
        kept: frozenset[Expert] = frozenset()
        others = resident | used
        if not bypass:
            if weight(used) <= capacity:
                kept, others = used, resident - used
            else:  # the batch alone is too large: only members of it may be left
                others = used
        states = [
            kept | frozenset(chosen)
            for count in range(len(others) + 1)
            for chosen in combinations(sorted(others), count)
            if weight(kept) + weight(chosen) <= capacity
        ]
        if size is not None:
            return states
        if counted is not None:
            return states
        fullest = max(map(len, states))  # no more is evicted than has to be
        return [state for state in states if len(state) == fullest]

    def search(batches: Sequence[tuple[Batch, bool]]) -> int:
        reached: dict[frozenset[Expert], int] = {frozenset(): 0}  # every reachable state, with the most hits up to it
        for batch, counts in batches:
            after: dict[frozenset[Expert], int] = {}
            for resident, hits in reached.items():
                found = resident.intersection(batch)
                now = hits + counts * sum(1 if worth is None else cost(worth[layer], expert) for layer, expert in found)
                for state in next_states(resident, batch):
                    after[state] = max(after.get(state, 0), now)
            reached = after
        return max(reached.values())

    if access == "sequential":
        requests = [[(expert,) for batch in batches for expert in batch] for batches in requests]
    if counted is None:
        counted = [[True] * len(batches) for batches in requests]
    pairs = [list(zip(*both, strict=True)) for both in zip(requests, counted, strict=True)]
    parts = [[pair for batches in pairs for pair in batches]] if warm else pairs
    return sum(search(part) for part in parts)


# --- drawn cases -----------------------------------------------------------------------------------------------------


class Case(NamedTuple):
    experts: list[list[list[int]]]  # [tokens][layers][k]
    num_experts: int
    offsets: list[int]
    phases: list[int] | None
    chunk: int | None
    warm: bool

    @property
    def trace(self) -> RoutingTrace:
        return self.with_bytes(None)

    def with_bytes(self, size: list[int] | list[list[int]] | None) -> RoutingTrace:
        shape = np.array(self.experts).shape
        weights = np.random.default_rng(len(self.experts)).random(shape).astype(np.float32)
        return RoutingTrace.from_arrays(
            self.experts,
            num_experts=self.num_experts,
            offsets=self.offsets,
            phase=self.phases,
            weights=-np.sort(-weights, axis=2),
            expert_bytes=size,
        )

    @property
    def requests(self) -> list[list[Batch]]:
        return batches_by_request(self.experts, forward_passes(self.phases, self.offsets, self.chunk), self.offsets)

    def counted(self, only: int) -> list[list[bool]]:
        """Return for each batch of `requests` whether it is one of a phase."""
        found: list[list[bool]] = [[] for _ in self.offsets[1:]]
        for tokens in forward_passes(self.phases, self.offsets, self.chunk):
            phase = 1 if self.phases is None else self.phases[tokens[0]]
            request = sum(offset <= tokens[0] for offset in self.offsets[1:])
            for layer in range(len(self.experts[0])):
                if any(expert >= 0 for token in tokens for expert in self.experts[token][layer]):
                    found[request].append(phase == only)
        return found

    def hits(self, policy: str | type[Policy], capacity: int | str, scope: str, access: str) -> int:
        return hits(self.trace, self, policy, capacity, scope, access)

    def best(self, capacity: int, scope: str, access: str, *, bypass: bool) -> int:
        requests = self.requests
        if scope == "model":
            return most_hits(requests, capacity, bypass=bypass, access=access, warm=self.warm)
        layers = range(len(self.experts[0]))
        return sum(
            most_hits(
                [[batch for batch in batches if batch[0][0] == layer] for batches in requests],
                capacity,
                bypass=bypass,
                access=access,
                warm=self.warm,
            )
            for layer in layers
        )


def hits(
    trace: RoutingTrace, case: Case, policy: str | type[Policy], capacity: int | str, scope: str, access: str
) -> int:
    prefill = "step" if case.chunk is None else f"chunk:{case.chunk}"
    options = {"scope": scope, "access": access, "prefill": prefill, "warm": case.warm, "bounds": False}
    counts = simulate(trace, policy, capacity, **options).counts  # type: ignore[arg-type]
    return int((counts.accesses - counts.misses).sum())


@st.composite
def cases(draw: st.DrawFn, max_experts: int = 5, max_layers: int = 2, max_tokens: int = 7) -> Case:
    num_experts = draw(st.integers(1, max_experts))
    k = draw(st.integers(1, min(3, num_experts)))
    num_layers = draw(st.integers(1, max_layers))
    num_tokens = draw(st.integers(1, max_tokens))
    ids = st.permutations(range(num_experts)).map(lambda order: list(order[:k]))
    gaps = st.integers(0, 9).map(lambda value: value == 0)  # now and then a position that was not recorded
    experts = [
        [[-1 if draw(gaps) else expert for expert in draw(ids)] for _ in range(num_layers)] for _ in range(num_tokens)
    ]
    phases = draw(st.none() | st.lists(st.integers(0, 1), min_size=num_tokens, max_size=num_tokens))
    cut = draw(st.integers(1, num_tokens))
    offsets = [0, cut, num_tokens] if cut < num_tokens and draw(st.booleans()) else [0, num_tokens]
    chunk = draw(st.none() | st.integers(1, 3))
    return Case(experts, num_experts, offsets, phases, chunk, warm=draw(st.booleans()))


def drawn(examples: int) -> settings:
    return settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])


# --- the hand-solved case --------------------------------------------------------------------------------------------

BY_HAND = Case([[[0, 1]], [[0, 2]], [[1, 3]], [[0, 2]], [[0, 1]]], 4, [0, 5], None, None, warm=True)


@pytest.mark.parametrize(
    ("policy", "access", "expected"),
    [
        ("belady", "coresident", 5),
        ("belady-bypass", "coresident", 6),
        ("belady", "sequential", 5),
        ("belady-bypass", "sequential", 6),
    ],
)
def test_the_case_solved_by_hand(policy: str, access: str, expected: int) -> None:
    assert BY_HAND.best(3, "layer", access, bypass=policy == "belady-bypass") == expected
    assert BY_HAND.hits(policy, 3, "layer", access) == expected


def test_a_proven_optimum_says_of_which_policies() -> None:
    # 5 hits of those that load every miss, 6 with bypass, and more for a policy whose loads of its own cost nothing.
    trace = BY_HAND.trace
    own, beside = simulate(trace, "lru", 3).bounds["belady"], simulate(trace, "belady-bypass", 3).bounds
    assert (own.hit_rate, own.proven) == (0.5, True)
    assert own.note.endswith("the optimum: no policy that loads every miss, and nothing else, has more hits in all")
    assert (beside["belady-bypass"].hit_rate, beside["belady-bypass"].proven) == (0.6, True)
    assert beside["belady-bypass"].note.endswith("no policy that loads nothing but misses has more hits in all")
    assert (beside["belady"].hit_rate, beside["belady"].proven) == (0.5, False)
    loaded = simulate(trace, "static", 3, profile=trace)
    assert loaded.hit_rate == 0.9
    assert not any(bound.proven for bound in loaded.bounds.values())
    sized = RoutingTrace.from_arrays([[[0], [1]]], num_experts=4, expert_bytes=[1, 2])
    upper = simulate(sized, "lru", "3B", scope="model").bounds["upper"]
    assert (upper.proven, "no policy that loads nothing but misses exceeds it" in upper.note) == (True, True)


def test_the_search_knows_prompts_larger_than_the_cache() -> None:
    # Prompt 0 1 2 in one pass, two slots: any two of the three may be left. Then 0, then 2: both can hit.
    case = Case([[[0]], [[1]], [[2]], [[0]], [[2]]], 3, [0, 5], [0, 0, 0, 1, 1], None, warm=True)
    assert [[len(batch) for batch in batches] for batches in case.requests] == [[3, 1, 1]]
    assert case.best(2, "layer", "coresident", bypass=False) == 2
    assert case.hits("belady", 2, "layer", "coresident") == 2
    # With one slot only one of them can; cut into chunks of two, 0 is put out by 2 as one slot holds one expert.
    assert case.best(1, "layer", "coresident", bypass=False) == 1
    assert case._replace(chunk=2).best(1, "layer", "coresident", bypass=False) == 0
    assert case._replace(chunk=2).best(1, "layer", "coresident", bypass=True) == 1


# --- the optimum -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("access", ["coresident", "sequential"])
@pytest.mark.parametrize("policy", ["belady", "belady-bypass"])
@drawn(200)
@given(case=cases())
def test_per_layer_optimum_equals_exhaustive_search(policy: str, access: str, case: Case) -> None:
    for capacity in range(case.num_experts + 1):
        expected = case.best(capacity, "layer", access, bypass=policy == "belady-bypass")
        assert case.hits(policy, capacity, "layer", access) == expected, f"capacity {capacity}"


@pytest.mark.parametrize("access", ["coresident", "sequential"])
@pytest.mark.parametrize("policy", ["belady", "belady-bypass"])
@drawn(120)
@given(case=cases(max_experts=4, max_tokens=6), capacity=st.integers(0, 8))
def test_global_optimum_equals_exhaustive_search(policy: str, access: str, case: Case, capacity: int) -> None:
    expected = case.best(capacity, "model", access, bypass=policy == "belady-bypass")
    assert case.hits(policy, capacity, "model", access) == expected


# --- in one phase alone, and in bytes ---------------------------------------------------------------------------------


def test_the_optimum_of_both_phases_is_none_in_decode_hand_solved() -> None:
    # Two slots. Decode 0 0 0, prompt 1 2, prompt 1, decode 0. Loading 1 and 2 puts out 0 if 1 and 2 are to be kept: the
    # optimum may hit 1 in the prompt and not 0 in decode, or the other way. 0 three times and again at the end: 3 of 4.
    case = Case([[[x]] for x in (0, 0, 0, 1, 2, 1, 0)], 3, [0, 3, 5, 6, 7], [1, 1, 1, 0, 0, 0, 1], 1, warm=True)
    requests = case.requests
    assert most_hits(requests, 2, bypass=False) == 3
    assert most_hits(requests, 2, bypass=False, counted=case.counted(1)) == 3
    assert case.hits("lfu", 2, "layer", "coresident") == 3
    found = stack_hits(case.trace, "belady", "layer", "coresident", "token", True, only=1)
    assert found.at([2])[1] == 3
    assert stack_hits(case.trace, "belady", "layer", "coresident", "token", True).at([2])[1] == 2


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("policy", ["belady", "belady-bypass"])
@drawn(60)
@given(case=cases(max_experts=4, max_tokens=7), only=st.integers(0, 1))
def test_the_most_hits_in_one_phase_equal_exhaustive_search(scope: Any, policy: str, case: Case, only: int) -> None:
    bypass, layers = policy == "belady-bypass", range(len(case.experts[0]))
    prefill = "step" if case.chunk is None else f"chunk:{case.chunk}"
    found = stack_hits(case.trace, policy, scope, "coresident", prefill, case.warm, only=only)
    requests, counted = case.requests, case.counted(only)
    pools: list[tuple[int, ...]] = [tuple(layers)] if scope == "model" else [(layer,) for layer in layers]
    for index, pool in enumerate(pools):
        mine = [[batch[0][0] in pool for batch in batches] for batches in requests]
        own = [list(compress(batches, kept)) for batches, kept in zip(requests, mine, strict=True)]
        phase = [list(compress(flags, kept)) for flags, kept in zip(counted, mine, strict=True)]
        for capacity in (1, 2, 3):
            expected = most_hits(own, capacity, bypass=bypass, warm=case.warm, counted=phase)
            row = found.hits[index][only]
            assert row[min(capacity, len(row) - 1)] == expected, f"capacity {capacity}"


@pytest.mark.parametrize("unit", ["slots", "bytes", "layers"])
@drawn(60)
@given(
    case=cases(max_experts=3, max_tokens=6).filter(lambda case: len(case.experts[0]) == 2),
    size=st.lists(st.integers(1, 9), min_size=2, max_size=2),
    slots=st.integers(0, 5),
    bypass=st.booleans(),
)
def test_no_policy_loads_fewer_bytes(unit: str, case: Case, size: list[int], slots: int, bypass: bool) -> None:
    """In a phase and in all: no more than exhaustive search finds; just that where a pool has one size."""
    trace = case.with_bytes(size)
    scope: Any = "layer" if unit == "layers" else "model"
    cache = f"{slots * max(size)}B" if unit == "bytes" else str(slots)
    prefill = "step" if case.chunk is None else f"chunk:{case.chunk}"
    pools = tuple(resolve_capacity(cache, trace.layers, scope))
    job = Run.in_pools(trace, "lru", pools, "coresident", prefill, case.warm)
    accesses = replay(job).accesses
    least = Baselines(job).least_bytes(size, bypass, Free(np.zeros(2, np.int64), (0, 0, 0)), accesses)
    for only, found in ((0, least.prefill), (1, least.decode), (None, least.total)):
        counted = None if only is None else case.counted(only)
        expected = 0
        for pool in pools:
            mine = [[batch[0][0] in pool.layers for batch in batches] for batches in case.requests]
            own = [list(compress(batches, kept)) for batches, kept in zip(case.requests, mine, strict=True)]
            flags = None
            if counted is not None:
                flags = [list(compress(row, kept)) for row, kept in zip(counted, mine, strict=True)]
            in_bytes = size if pool.bytes_per_expert is not None else None
            expected -= most_hits(
                own, pool.capacity, bypass=bypass, warm=case.warm, size=in_bytes, worth=size, counted=flags
            )
        expected += int((accesses.sum(axis=0) if only is None else accesses[only]) @ size)
        assert found <= expected + 1e-9
        if unit == "layers" or size[0] == size[1]:
            assert found == expected
            assert least.reachable


@pytest.mark.parametrize("unit", ["slots", "bytes", "layers"])
@drawn(60)
@given(
    case=cases(max_experts=3, max_tokens=6).filter(lambda case: case.num_experts > 1),
    data=st.data(),
    slots=st.integers(0, 5),
    bypass=st.booleans(),
)
def test_no_policy_loads_fewer_bytes_where_experts_of_a_layer_differ(
    unit: str, case: Case, data: st.DataObject, slots: int, bypass: bool
) -> None:
    row = st.lists(st.integers(1, 9), min_size=case.num_experts, max_size=case.num_experts)
    size = [data.draw(row) for _ in case.experts[0]]
    size[0][0] = 10
    trace = case.with_bytes(size)
    scope: Any = "layer" if unit == "layers" else "model"
    cache = str(slots) if unit == "slots" else f"{slots * 10}B"
    prefill = "step" if case.chunk is None else f"chunk:{case.chunk}"
    pools = tuple(resolve_capacity(cache, trace.layers, scope))
    job = Run.in_pools(trace, "lru", pools, "coresident", prefill, case.warm)
    flat = [one for of_layer in size for one in of_layer]
    none = Free(np.zeros(len(size), np.int64), (0, 0, 0))
    least = Baselines(job).least_bytes(flat, bypass, none, replay(job).accesses)
    for only, found in ((0, least.prefill), (1, least.decode), (None, least.total)):
        counted = [[True] * len(batches) for batches in case.requests] if only is None else case.counted(only)
        used = [
            size[layer][expert]
            for batches, flags in zip(case.requests, counted, strict=True)
            for batch, counts in zip(batches, flags, strict=True)
            for layer, expert in batch
            if counts
        ]
        expected = sum(used)
        for pool in pools:
            mine = [[batch[0][0] in pool.layers for batch in batches] for batches in case.requests]
            own = [list(compress(batches, kept)) for batches, kept in zip(case.requests, mine, strict=True)]
            flags = [list(compress(row, kept)) for row, kept in zip(counted, mine, strict=True)]
            in_bytes = None if pool.bytes_per_expert is None else size
            expected -= most_hits(
                own, pool.capacity, bypass=bypass, warm=case.warm, size=in_bytes, worth=size, counted=flags
            )
        assert found <= expected + 1e-9
        assert not least.reachable
    assert least.total <= sum(used)


# --- nothing beats it ------------------------------------------------------------------------------------------------


class AnyVictim(Policy):
    """Evict by lot, and by another lot on every object: what a bad user policy could do."""

    name = "any-victim"
    drawn = 0

    def reset(self) -> None:
        type(self).drawn += 1
        self.rng = np.random.default_rng(type(self).drawn)
        self.residents: set[int] = set()

    def access(self, batch: Sequence[int], missed: Sequence[int]) -> None:
        self.residents.update(missed)

    def victim(self, protected: object) -> int:
        return int(self.rng.choice([key for key in sorted(self.residents) if key not in protected]))  # type: ignore[operator]

    def evicted(self, key: int) -> None:
        self.residents.discard(key)


class AnyVictimBypass(AnyVictim):
    """The same with bypass."""

    name = "any-victim-bypass"
    bypass = True


NO_FREE_LOADS = [policy for policy in BUILT_IN.values() if not policy.refills]
CHALLENGERS: list[type[Policy]] = [*NO_FREE_LOADS, AnyVictim, AnyVictimBypass]


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("access", ["coresident", "sequential"])
@drawn(25)
@given(case=cases(max_tokens=9))
def test_no_policy_beats_the_optimum(scope: str, access: str, case: Case) -> None:
    top = case.num_experts * (len(case.experts[0]) if scope == "model" else 1)
    for capacity in sorted({1, top // 2, top - 1, top}):
        best = case.hits("belady", capacity, scope, access)
        best_bypass = case.hits("belady-bypass", capacity, scope, access)
        assert best <= best_bypass
        for policy in CHALLENGERS:
            limit = best_bypass if policy.bypass else best
            assert case.hits(policy, capacity, scope, access) <= limit, f"{policy.name} at {capacity}"


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("access", ["coresident", "sequential"])
def test_no_policy_beats_the_optimum_on_longer_traces(scope: str, access: str) -> None:
    rng = np.random.default_rng(5)
    popularity = 1 / np.arange(1, 13)
    experts = np.argsort(-(rng.gumbel(size=(150, 3, 12)) + np.log(popularity)), axis=2)[:, :, :3]
    phases = [0] * 20 + [1] * 40 + [0] * 5 + [1] * 85
    case = Case(experts.tolist(), 12, [0, 60, 150], phases, None, warm=True)
    for capacity in (2, 5, 9, 20) if scope == "model" else (2, 5, 9):
        best = case.hits("belady", capacity, scope, access)
        best_bypass = case.hits("belady-bypass", capacity, scope, access)
        for policy in CHALLENGERS:
            limit = best_bypass if policy.bypass else best
            assert case.hits(policy, capacity, scope, access) <= limit, f"{policy.name} at {capacity}"


# --- experts of unequal bytes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("access", ["coresident", "sequential"])
@drawn(80)
@given(
    case=cases(max_experts=3, max_tokens=6).filter(lambda case: len(case.experts[0]) == 2),
    size=st.lists(st.integers(1, 4), min_size=2, max_size=2, unique=True),
    share=st.floats(0, 1.1),
)
def test_bounds_hold_for_experts_of_unequal_bytes(access: str, case: Case, size: list[int], share: float) -> None:
    capacity = int(share * sum(size) * case.num_experts)
    trace = case.with_bytes(size)
    best = most_hits(case.requests, capacity, bypass=False, access=access, warm=case.warm, size=size)
    best_bypass = most_hits(case.requests, capacity, bypass=True, access=access, warm=case.warm, size=size)
    assert best <= best_bypass
    prefill = "step" if case.chunk is None else f"chunk:{case.chunk}"
    result = simulate(
        trace,
        "lru",
        f"{capacity}B",
        scope="model",
        access=access,  # type: ignore[arg-type]
        prefill=prefill,
        warm=case.warm,
    )
    accesses = int(result.counts.accesses.sum())
    assert result.bounds["upper"].proven
    upper = result.bounds["upper"].hit_rate
    assert (upper is None) == (accesses == 0)  # no rate of nothing
    assert upper is None or upper * accesses >= best_bypass - 1e-9
    assert not result.bounds["belady"].proven
    for policy in (AnyVictim, AnyVictimBypass, BUILT_IN["lru"], BUILT_IN["belady"], BUILT_IN["belady-bypass"]):
        limit = best_bypass if policy.bypass else best
        assert hits(trace, case, policy, f"{capacity}B", "model", access) <= limit, policy.name


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("access", ["coresident", "sequential"])
@drawn(60)
@given(
    case=cases(max_experts=4, max_tokens=6).filter(lambda case: case.num_experts > 1),
    data=st.data(),
    share=st.floats(0, 1.1),
)
def test_bounds_hold_where_experts_of_a_layer_differ(
    access: str, scope: str, case: Case, data: st.DataObject, share: float
) -> None:
    row = st.lists(st.integers(1, 4), min_size=case.num_experts, max_size=case.num_experts)
    size = [data.draw(row) for _ in case.experts[0]]
    size[0][0] = 5
    capacity = int(share * sum(map(sum, size)))
    pools = [range(len(size))] if scope == "model" else [[layer] for layer in range(len(size))]

    def best(bypass: bool) -> int:
        return sum(
            most_hits(
                [[batch for batch in batches if batch[0][0] in layers] for batches in case.requests],
                capacity // len(pools),
                bypass=bypass,
                access=access,
                warm=case.warm,
                size=size,
            )
            for layers in pools
        )

    trace = case.with_bytes(size)
    prefill = "step" if case.chunk is None else f"chunk:{case.chunk}"
    told = {"scope": scope, "access": access, "prefill": prefill, "warm": case.warm}
    result = simulate(trace, "lru", f"{capacity}B", **told)  # type: ignore[arg-type]
    accesses = int(result.counts.accesses.sum())
    upper = result.bounds["upper"].hit_rate
    assert result.bounds["upper"].proven
    assert upper is None or upper * accesses >= best(True) - 1e-9
    assert (result.bounds["belady"].kind, result.bounds["belady"].proven) == ("heuristic", False)
    for policy in (AnyVictim, AnyVictimBypass, BUILT_IN["lru"], BUILT_IN["belady"], BUILT_IN["belady-bypass"]):
        limit = best(policy.bypass)
        assert hits(trace, case, policy, f"{capacity}B", scope, access) <= limit, policy.name


@pytest.mark.parametrize("access", ["coresident", "sequential"])
def test_no_policy_exceeds_the_upper_bound_for_unequal_bytes(access: str) -> None:
    rng = np.random.default_rng(6)
    experts = np.argsort(-(rng.gumbel(size=(120, 3, 8)) - np.log(np.arange(1, 9))), axis=2)[:, :, :2]
    case = Case(experts.tolist(), 8, [0, 50, 120], [0] * 10 + [1] * 110, None, warm=True)
    trace = case.with_bytes([3, 5, 11])
    for capacity in (4, 12, 31, 60, 100, 152):
        result = simulate(trace, "lru", f"{capacity}B", scope="model", access=access)  # type: ignore[arg-type]
        limit = result.bounds["upper"].hit_rate * int(result.counts.accesses.sum()) + 1e-9
        for policy in CHALLENGERS:
            assert hits(trace, case, policy, f"{capacity}B", "model", access) <= limit, f"{policy.name} at {capacity}"
