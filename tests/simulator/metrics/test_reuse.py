"""Distances between uses: a case solved by hand, and a definition-level twin on random traces.

The case. One layer, top-1, experts 0 1 0 2 1 0: cold 0, 1, 2; 0 hits in 2 slots (0 1 since), 2 tokens on; 1 in 3 slots
(1 0 2), 3 tokens on; 0 in 3 slots, 3 tokens on.
"""

from __future__ import annotations

import numpy as np
from hypothesis import given
from test_sch import traces

from lrcsim.simulator import simulate
from lrcsim.simulator.metrics import reuse as module
from lrcsim.simulator.metrics.reuse import reuse
from lrcsim.traces import RoutingTrace


def of(ids: list[int]) -> RoutingTrace:
    return RoutingTrace.from_arrays(np.array(ids, int).reshape(-1, 1, 1), num_experts=3)


def test_the_case_solved_by_hand() -> None:
    found = reuse(of([0, 1, 0, 2, 1, 0]))
    assert (found.accesses, found.cold, found.cold_share) == (6, 3, 0.5)
    assert found.slots.tolist() == [0, 0, 1, 2]
    assert found.tokens.tolist() == [0, 0, 1, 2, 0, 0, 0]
    assert (found.slots_at(0.3), found.slots_at(0.5), found.tokens_at(0.3), found.tokens_at(0.99)) == (2, 3, 2, 3)


def test_no_reuse() -> None:
    found = reuse(of([0, 1, 2]))
    assert (found.cold_share, found.slots_at(0.5), found.tokens_at(0.5)) == (1.0, None, None)
    nothing = reuse(of([-1, -1]))
    assert (nothing.accesses, nothing.cold_share, nothing.slots_at(0.5)) == (0, None, None)


def test_far_distances_are_counted_together(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(module, "FARTHEST", 2)
    assert reuse(of([0, 0, 1, 2, 1, 0])).tokens.tolist() == [0, 1, 2]


@given(traces())
def test_against_the_definition(trace: RoutingTrace) -> None:
    found = reuse(trace)
    gaps: list[int] = []
    last: dict[tuple[int, int], int] = {}
    for token, layer, rank in np.ndindex(trace.experts.shape):
        if (expert := int(trace.experts[token, layer, rank])) >= 0:
            if (layer, expert) in last:
                gaps.append(token - last[layer, expert])
            last[layer, expert] = token
    assert found.tokens.tolist() == np.bincount(gaps, minlength=trace.num_tokens + 1).tolist()
    assert found.cold == len(last)


@given(traces())
def test_slots_are_lru_at_every_size(trace: RoutingTrace) -> None:
    if not (trace.experts >= 0).any():
        return
    found = reuse(trace)
    for slots in range(1, trace.num_experts + 1):
        counts = simulate(trace, "lru", slots, bounds=False).counts
        hits = int((counts.accesses - counts.misses).sum())
        if slots >= trace.top_k:  # smaller caches hold the best of a batch, which is the stack's rule too
            assert found.slots[: slots + 1].sum() == hits
    assert found.accesses == int(counts.accesses.sum())
