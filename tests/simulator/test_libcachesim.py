"""Under ``access="sequential"`` the classic policies equal libCacheSim, request by request, hit by hit.

Every access of a trace is one request of size 1 to a libCacheSim cache of as many bytes as the pool has slots; scope
``layer`` is one such cache per layer. Found by experiment with version 0.3.5 of the PyPI package ``libcachesim``:

lru, fifo, clock, sieve, arc, belady
    Equal at every capacity from one slot on. ``belady``: where several residents are never used again the victim may
    differ, but such a choice can change no later hit, so the hits are equal access by access all the same.
lfu-resident = LFU
    Equal, ties included: both evict, among the fewest uses, the one whose last use is oldest. (Our ``lfu`` keeps counts
    after eviction and has no counterpart there.)
s3-fifo = S3FIFO
    Equal from 20 slots on (2 / share in general: two slots in the small queue), with the warm-up of the authors'
    present code: while the cache fills, objects that find the small queue full go to the main one. Below that
    libCacheSim's small queue rounds to one slot, into which it admits nothing (hit rate 0), or to none, which ends the
    process; ours has one slot at least. Shares that binary fractions cannot hold may round differently: 0.29 of 100
    slots is 28 there, 29 here.
2q = TwoQ
    Equal from 4 slots on. Below that libCacheSim's A1in rounds to none, and it admits nothing; ours has at least one.
lru-2
    Not comparable: libCacheSim's LRUK forgets an expert's uses at eviction, and puts out those used once in the order
    in which they were loaded (tested below); ours keeps its history, as in the paper, and takes the least recent.
lirs
    Not comparable: libCacheSim's LIRS holds more experts than it has slots (tested below). A hit of an HIR that has
    left the stack turns an LIR into an HIR, which takes the place in the queue of the expert that was hit; that stays.
w-tinylfu
    Not comparable: its window rounds to none below 100 slots, which admits nothing (and below 4 ends the process), its
    main cache is the SLRU of four segments, and it does not count uses in the window.
slru
    Not comparable: libCacheSim's has four equal segments, the Python package offers no others, and an object that finds
    the lowest segment full is inserted into the next one. Ours is the original's two segments.
lfuda, random
    Not comparable: our lfuda is an engine's variant (capped and halved counts), and random draws differ.
no slots
    libCacheSim has no cache of size 0; ours then misses always.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace

cachesim = pytest.importorskip("libcachesim", reason="the PyPI package libcachesim is not installed")

SAME_RULE = {
    "lru": "LRU",
    "fifo": "FIFO",
    "clock": "Clock",
    "sieve": "Sieve",
    "arc": "ARC",
    "lfu-resident": "LFU",
    "belady": "Belady",
}
LAST = 2**63 - 1
"""libCacheSim's next use of an object that is not used again."""

IDS = npt.NDArray[np.int64]


def requests(experts: IDS, num_experts: int, layers: Iterable[int]) -> list[tuple[int, int]]:
    """Return (place in the trace's accesses, object id) for the accesses of some layers, token by token."""
    chosen = set(layers)
    place, found = 0, []
    for token in experts.tolist():
        for layer, ids in enumerate(token):
            for expert in ids:
                if expert >= 0:
                    if layer in chosen:
                        found.append((place, layer * num_experts + expert))
                    place += 1
    return found


def next_uses(objects: Sequence[int]) -> list[int]:
    upcoming: dict[int, int] = {}
    uses = []
    for place in reversed(range(len(objects))):
        uses.append(upcoming.get(objects[place], LAST))
        upcoming[objects[place]] = place
    return uses[::-1]


def run(algorithm: str, objects: Sequence[int], slots: int, **parameters: Any) -> Iterator[bool]:
    cache = getattr(cachesim, algorithm)(slots, hashpower=8, **parameters)
    request = cachesim.Request()
    request.obj_size = 1
    for request.obj_id, request.next_access_vtime in zip(objects, next_uses(objects), strict=True):
        yield cache.get(request)


def theirs(
    trace: RoutingTrace, algorithm: str, slots: int, scope: str, *, warm: bool = True, **parameters: Any
) -> npt.NDArray[np.bool_]:
    experts = trace.experts.astype(np.int64)
    groups = [range(trace.num_layers)] if scope == "model" else [[layer] for layer in range(trace.num_layers)]
    hits = np.zeros(int((experts >= 0).sum()), bool)
    bounds = [0, len(experts)] if warm else trace.offsets.tolist()
    first = 0
    for begin, end in pairwise(bounds):
        part = experts[begin:end]
        for layers in groups:
            found = requests(part, trace.num_experts, layers)
            outcome = run(algorithm, [key for _, key in found], slots, **parameters)
            for (place, _), hit in zip(found, outcome, strict=True):
                hits[first + place] = hit
        first += int((part >= 0).sum())
    return hits


def ours(trace: RoutingTrace, policy: str, slots: int, scope: str, *, warm: bool = True) -> npt.NDArray[np.bool_]:
    result = simulate(
        trace,
        policy,
        slots,
        scope=scope,  # type: ignore[arg-type]
        access="sequential",
        warm=warm,
        bounds=False,
        record=True,
    )
    assert result.counts.hit is not None
    assert int(result.counts.misses.sum()) == int((~result.counts.hit).sum())
    return result.counts.hit


def sticky(tokens: int, layers: int, num_experts: int, k: int, seed: int) -> RoutingTrace:
    """Draw routing with popular experts (Zipf-like) and a drifting taste, so that neighbouring tokens agree."""
    rng = np.random.default_rng(seed)
    popularity = -np.log(rng.permuted(np.tile(np.arange(1.0, num_experts + 1), (layers, 1)), axis=1))
    taste = np.zeros((layers, num_experts))
    experts = np.empty((tokens, layers, k), np.int64)
    for token in range(tokens):
        taste = 0.9 * taste + 0.6 * rng.normal(size=taste.shape)
        scores = popularity + 1.5 * taste + rng.gumbel(size=taste.shape)
        experts[token] = np.argsort(-scores, axis=1)[:, :k]
    return RoutingTrace.from_arrays(experts, num_experts=num_experts, offsets=[0, tokens // 3, tokens])


@st.composite
def traces(draw: st.DrawFn, min_experts: int = 1, max_experts: int = 9) -> RoutingTrace:
    num_experts = draw(st.integers(min_experts, max_experts))
    k, layers, tokens = draw(st.integers(1, min(3, num_experts))), draw(st.integers(1, 2)), draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = rng.gumbel(size=(tokens, layers, num_experts)) - draw(st.floats(0, 2)) * np.log1p(np.arange(num_experts))
    experts = np.argsort(-scores, axis=2)[:, :, :k]
    experts[rng.random(experts.shape) < draw(st.sampled_from([0.0, 0.1]))] = -1
    cut = draw(st.integers(1, tokens))
    return RoutingTrace.from_arrays(
        experts, num_experts=num_experts, offsets=[0, tokens] if cut == tokens else [0, cut, tokens]
    )


drawn = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
LONG = sticky(tokens=2_500, layers=3, num_experts=48, k=4, seed=3)  # 30,000 accesses


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("policy", SAME_RULE)
@drawn
@given(trace=traces(), slots=st.integers(1, 18), warm=st.booleans())
def test_drawn_traces(policy: str, scope: str, trace: RoutingTrace, slots: int, warm: bool) -> None:
    expected = theirs(trace, SAME_RULE[policy], slots, scope, warm=warm)
    assert ours(trace, policy, slots, scope, warm=warm).tolist() == expected.tolist()


@pytest.mark.parametrize("scope", ["layer", "model"])
@drawn
@given(trace=traces(25, 60), slots=st.integers(20, 60), warm=st.booleans())
def test_drawn_traces_s3_fifo(scope: str, trace: RoutingTrace, slots: int, warm: bool) -> None:
    expected = theirs(trace, "S3FIFO", slots, scope, warm=warm)
    assert ours(trace, "s3-fifo", slots, scope, warm=warm).tolist() == expected.tolist()


@pytest.mark.parametrize("scope", ["layer", "model"])
@drawn
@given(trace=traces(6, 30), slots=st.integers(4, 40), warm=st.booleans())
def test_drawn_traces_2q(scope: str, trace: RoutingTrace, slots: int, warm: bool) -> None:
    expected = theirs(trace, "TwoQ", slots, scope, warm=warm)
    assert ours(trace, "2q", slots, scope, warm=warm).tolist() == expected.tolist()


@drawn
@given(trace=traces(6, 12), slots=st.integers(8, 24), ghost=st.sampled_from([0.25, 0.5, 1.0]))
def test_drawn_traces_2q_with_parameters(trace: RoutingTrace, slots: int, ghost: float) -> None:
    expected = theirs(trace, "TwoQ", slots, "layer", a_in_size_ratio=0.5, a_out_size_ratio=ghost)
    assert ours(trace, f"2q:share=0.5,ghost={ghost}", slots, "layer").tolist() == expected.tolist()


@pytest.mark.parametrize("scope", ["layer", "model"])
@drawn
@given(trace=traces(6, 12), slots=st.integers(8, 24), threshold=st.integers(1, 3))
def test_drawn_traces_s3_fifo_with_parameters(scope: str, trace: RoutingTrace, slots: int, threshold: int) -> None:
    expected = theirs(trace, "S3FIFO", slots, scope, small_size_ratio=0.25, move_to_main_threshold=threshold)
    policy = f"s3-fifo:share=0.25,threshold={threshold}"
    assert ours(trace, policy, slots, scope).tolist() == expected.tolist()


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("policy", [*SAME_RULE, "s3-fifo", "2q"])
def test_a_long_trace(policy: str, scope: str) -> None:
    algorithm = {**SAME_RULE, "s3-fifo": "S3FIFO", "2q": "TwoQ"}[policy]
    for slots in (1, 4, 7, 20, 33, 47) if scope == "layer" else (1, 11, 12, 20, 50, 100, 143):
        if slots < {"s3-fifo": 20, "2q": 4}.get(policy, 1):
            continue
        same = ours(LONG, policy, slots, scope) == theirs(LONG, algorithm, slots, scope)
        assert same.all(), f"{slots} slots: differs first at access {int(same.argmin())}"


def test_a_small_cache_is_no_dead_cache_for_s3_fifo() -> None:
    # 19 slots: libCacheSim's small queue has one slot and admits nothing. Three experts in turn, 100 rounds.
    trace = RoutingTrace.from_arrays(np.tile(np.arange(3), 100).reshape(300, 1, 1), num_experts=3)
    assert theirs(trace, "S3FIFO", 19, "layer").sum() == 0
    assert ours(trace, "s3-fifo", 19, "layer").sum() == 297
    assert theirs(trace, "S3FIFO", 20, "layer").sum() == 297


def test_slru_has_other_segments() -> None:
    # Four slots, so libCacheSim has four segments of one. 0 goes to the lowest, 1 finds it full and goes to the second,
    # 2 to the third, 3 to the fourth; 4 puts out 0 from the lowest, 5 puts out 4. Then 1 hits in the second segment.
    # Ours has three protected slots, which no expert reaches without a hit: 4 puts out 0, 5 puts out 1. Then 1 misses.
    trace = RoutingTrace.from_arrays(np.array([0, 1, 2, 3, 4, 5, 1]).reshape(-1, 1, 1), num_experts=6)
    assert theirs(trace, "SLRU", 4, "layer").tolist() == [False] * 6 + [True]
    assert ours(trace, "slru", 4, "layer").tolist() == [False] * 7


def test_lirs_there_holds_more_than_its_slots() -> None:
    # 2 slots: a LIR, b HIR; b becomes LIR, a HIR. a hits, c is new. Of a, b and c two can be there; each one hits.
    assert [[*run("LIRS", [0, 1, 1, 0, 2, last], 2)][-1] for last in (0, 1, 2)] == [True, True, True]
    for last, hit in ((0, False), (1, True), (2, True)):
        trace = RoutingTrace.from_arrays(np.array([0, 1, 1, 0, 2, last]).reshape(-1, 1, 1), num_experts=3)
        assert ours(trace, "lirs", 2, "layer")[-1] == hit


def lru_k_there(objects: Sequence[int], slots: int) -> Iterator[bool]:
    """Evict the oldest last use but one, of what was used once the first loaded; uses are forgotten at eviction."""
    uses: dict[int, list[int]] = {}  # of residents
    for now, key in enumerate(objects):
        yield key in uses
        if key not in uses and len(uses) == slots:
            del uses[min(uses, key=lambda one: (uses[one][-2] if len(uses[one]) > 1 else -1, uses[one][0]))]
        uses.setdefault(key, []).append(now)


def test_lru_k_there_forgets() -> None:
    objects = [key for _, key in requests(LONG.experts.astype(np.int64), 48, [0])]
    for slots in (2, 3, 5, 24):
        assert [*run("LRUK", objects, slots)] == [*lru_k_there(objects, slots)]
    # a a b c a b c b: as in tests/policies/test_hand_solved.py, but b's first use is forgotten, so that its second is
    # again its first, and it goes for c.
    short = [0, 0, 1, 2, 0, 1, 2, 1]
    assert [*run("LRUK", short, 2)][-1] is False
    trace = RoutingTrace.from_arrays(np.array(short).reshape(-1, 1, 1), num_experts=3)
    assert ours(trace, "lru-2", 2, "layer")[-1]
