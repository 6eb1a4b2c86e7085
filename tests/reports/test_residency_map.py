"""What the maps show is what the caches held."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.reports.residency import watch, watch_in_python
from lrcsim.reports.residency_compiled import watch_compiled
from lrcsim.reports.residents import ABSENT, COLUMNS, HIT, MISS, SPARE, STEPS, Residents, middling_request
from lrcsim.simulator import simulate
from lrcsim.simulator.cache.capacity import resolve_capacity
from lrcsim.simulator.replay import replay
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace


def job_of(trace: RoutingTrace, policy: str, cache: int | str, scope: str = "layer", warm: bool = True) -> Run:
    return Run.in_pools(trace, policy, tuple(resolve_capacity(cache, trace.layers, scope)), "coresident", "step", warm)  # type: ignore[arg-type]


def test_hand_solved() -> None:
    # docs/accounting.md: one layer, 2 slots, LRU; tokens {0 1}, {2 0}, {1 2}.
    #   0 1: both miss. Holds 0 1.
    #   2 0: 2 misses, 0 hits, 1 is put out. Holds 2 0.
    #   1 2: 1 misses, 2 hits, 0 is put out. Holds 1 2.
    trace = RoutingTrace.from_arrays([[[0, 1]], [[2, 0]], [[1, 2]]], num_experts=3)
    seen = watch(job_of(trace, "lru", 2))
    assert seen.experts[0].tolist() == [[MISS, HIT, ABSENT], [MISS, ABSENT, MISS], [ABSENT, MISS, HIT]]
    assert seen.own is not None
    assert seen.own.rate.tolist() == [[0.0, 0.5, 0.5]]
    assert (seen.hits, seen.accesses, seen.request, seen.prompt_steps) == (2, 6, 0, 0)


def test_what_is_kept_unused_is_spare() -> None:
    # 3 slots: after {0 1} and {2 0} all three are held, so in {2 0} expert 1 lies there unused.
    trace = RoutingTrace.from_arrays([[[0, 1]], [[2, 0]]], num_experts=4)
    assert watch(job_of(trace, "lru", 3)).experts[0].tolist() == [
        [MISS, HIT],
        [MISS, SPARE],
        [ABSENT, MISS],
        [ABSENT] * 2,
    ]


@given(
    seed=st.integers(0, 10_000),
    policy=st.sampled_from(["lru", "fifo", "lfu", "belady", "sch-lookahead:4"]),
    capacity=st.integers(2, 6),
    scope=st.sampled_from(["layer", "model"]),
    warm=st.booleans(),
)
def test_the_same_hits_as_the_replay_flag_by_flag(
    seed: int, policy: str, capacity: int, scope: str, warm: bool
) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.random((24, 2, 6)).argsort(axis=2)[:, :, :2]
    phase = np.array(([0] * 3 + [1] * 5) * 3)
    trace = RoutingTrace.from_arrays(ids, num_experts=6, offsets=[0, 8, 16, 24], phase=phase)
    job = job_of(trace, policy, capacity * (2 if scope == "model" else 1), scope, warm)
    seen = watch(job, request=1)
    counts = replay(job, record=True)
    assert counts.hit is not None
    assert (seen.hits, seen.accesses) == (int(counts.hit.sum()), len(counts.hit))
    # by layer-step: flags stand step by step, layer by layer; request 1 has a prefill step and 5 decode steps
    per_step = [len(np.unique(ids[t : t + n, layer])) for t, n in steps() for layer in range(2)]
    rates = [part.mean() for part in np.split(counts.hit, np.cumsum(per_step)[:-1])]
    assert pytest.approx(seen.whole.rate) == np.array(rates).reshape(-1, 2).T
    assert seen.own is not None
    assert seen.whole.rate[:, 6:12] == pytest.approx(seen.own.rate)
    assert seen.prompt_steps == 1
    if scope == "layer" and policy != "belady":
        for kinds in seen.experts.values():
            held = (kinds != ABSENT).sum(axis=0)
            assert (held[1:] <= max(capacity, 2)).all()  # decode steps use two


@given(
    seed=st.integers(0, 10_000),
    policy=st.sampled_from(
        [
            "lru",
            "fifo",
            "mru",
            "lfu",
            "belady",
            "belady-bypass",
            "slru",
            "s3-fifo",
            "arc",
            "random:1",
            "static",
            "pinned-lru:1",
        ]
    ),
    capacity=st.integers(0, 7),
    scope=st.sampled_from(["layer", "model"]),
    warm=st.booleans(),
    request=st.sampled_from([None, 0, 1, 2]),
    unlike=st.booleans(),
)
@settings(max_examples=300)
def test_compiled_and_in_python(
    seed: int, policy: str, capacity: int, scope: str, warm: bool, request: int | None, unlike: bool
) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.random((24, 4, 6)).argsort(axis=2)[:, :, :2]
    ids[rng.random(ids.shape[:2]) < 0.1] = -1
    phase = np.array(([0] * 3 + [1] * 5) * 3)
    trace = RoutingTrace.from_arrays(
        ids, num_experts=6, offsets=[0, 8, 16, 24], phase=phase, expert_bytes=[4, 5, 6, 4] if unlike else None
    )
    factor = 4 if scope == "model" else 1
    sizes = resolve_capacity(f"{5 * 4 * capacity + 1}B" if unlike else capacity * factor, trace.layers, scope)  # type: ignore[arg-type]
    profile = rng.random(24)
    job = Run.in_pools(trace, policy, tuple(sizes), "coresident", "step", warm, profile)
    one, other = Residents.of(job, request), Residents.of(job, request)
    watch_in_python(job, one)
    watch_compiled(job, other)
    assert np.array_equal(one.whole.hits, other.whole.hits)
    assert np.array_equal(one.whole.accesses, other.whole.accesses)
    assert one.own is not None
    assert other.own is not None
    assert np.array_equal(one.own.hits, other.own.hits)
    assert np.array_equal(one.own.accesses, other.own.accesses)
    assert one.experts.keys() == other.experts.keys() == {0, 2, 3}
    for layer, kinds in one.experts.items():
        assert np.array_equal(kinds, other.experts[layer]), layer


def steps() -> list[tuple[int, int]]:
    """Return first token and length of each step of three requests of 3 prompt tokens and 5 decoded."""
    return [(8 * r + first, n) for r in range(3) for first, n in [(0, 3), *((3 + i, 1) for i in range(5))]]


def test_long_requests_are_taken_together_and_cut() -> None:
    rng = np.random.default_rng(0)
    ids = rng.random((2 * COLUMNS + 1, 1, 4)).argsort(axis=2)[:, :, :1]
    trace = RoutingTrace.from_arrays(ids, num_experts=4)
    seen = watch(job_of(trace, "lru", 2))
    assert seen.whole.per_column == 3  # 601 steps in at most 300 columns
    assert seen.whole.first.tolist() == list(range(0, 601, 3))
    assert seen.experts[0].shape == (4, STEPS)
    hit = replay(job_of(trace, "lru", 2), record=True).hit
    assert hit is not None
    assert seen.whole.rate[0, :2].tolist() == [hit[:3].mean(), hit[3:6].mean()]


def test_middling_request() -> None:
    # lengths 5, 1, 3, 9: in order 1 3 5 9, the third of four is 5
    assert middling_request(np.array([0, 5, 6, 9, 18])) == 0
    assert middling_request(np.array([0, 7])) == 0
    assert middling_request(np.array([0, 2, 4, 6])) == 1  # equal lengths: in order of number


def test_requests_that_run_together_have_no_map_of_their_own() -> None:
    from lrcsim.simulator.serving.batching import batched

    ids = np.random.default_rng(1).random((40, 2, 6)).argsort(axis=2)[:, :, :2]
    trace = RoutingTrace.from_arrays(ids, num_experts=6, offsets=[0, 20, 40])
    server = batched(trace, batch=2)
    seen = watch(job_of(server, "lru", 3))
    assert (seen.request, seen.own, seen.experts) == (None, None, {})
    assert seen.hits == simulate(trace, "lru", 3, batch=2).to_dict()["cache"]["hits"]
