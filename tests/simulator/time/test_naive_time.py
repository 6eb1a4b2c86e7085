"""Loads ahead in time, in SimPy and compiled, against a twin that has no queue of events (`naive_time`)."""

from __future__ import annotations

import naive_time
import numpy as np
import pytest
from both_engines import run
from helpers import link, machine
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.simulator.setup.costs import FixedCosts
from lrcsim.traces import RoutingTrace

SIZE = 1000


def test_hand_solved() -> None:
    # 1 s of link for an expert in two chunks, 0.25 s to compute one. Layer 0 of token 0 misses 0: 0-1, computed until
    # 1.25. The oracle asks for what is two layer-steps on, 2 of layer 0: its first chunk is under way, 1-1.5, when
    # layer 1 misses 1 at 1.25: that moves 1.5-2.5, computed until 2.75, and the other chunk 2.5-3. Token 1 waits for
    # it, until 3.25; in its layer 1 1 is there: 3.5.
    own = naive_time.Machine(SIZE, SIZE, 0, SIZE / 2, 0, 0, 0, 0.25, 0)
    found = naive_time.run([[[0], [1]], [[2], [1]]], 2, own, 2)
    assert found.ends == [2.75, 3.5]
    assert (found.misses, found.issued, found.late, found.useful) == (2, 1, 1, 0)
    assert (found.busy, found.moved) == (3, 3 * SIZE)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), seed=st.integers(0, 2**32), chunk=st.sampled_from([None, 150, 400, 999]))
def test_every_engine_agrees(data: st.DataObject, seed: int, chunk: int | None) -> None:
    """Seconds are drawn from all numbers: only what follows from something happens at the same moment."""
    rng = np.random.default_rng(seed)
    layers, experts = data.draw(st.sampled_from([1, 1, 2, 3])), data.draw(st.integers(2, 7))
    k = min(data.draw(st.sampled_from([1, 2, 2, 3])), experts)
    tokens, slots = data.draw(st.integers(1, 12)), min(k + data.draw(st.sampled_from([0, 1, 1, 2, 4])), experts)
    liked = rng.random((layers, experts)) * data.draw(st.booleans())
    ids = (rng.random((tokens, layers, experts)) + liked).argsort(axis=2)[:, :, :k]
    dense, books, per_miss, expert, output = rng.random(5) * data.draw(st.sampled_from([0.1, 1.0]))
    bandwidth, overhead = 300 + 2000 * rng.random(), data.draw(st.sampled_from([0.0, 0.2])) * rng.random()
    distance = data.draw(st.integers(0, 4))
    expected = naive_time.run(
        ids.tolist(),
        slots,
        naive_time.Machine(SIZE, bandwidth, overhead, chunk or SIZE, dense, books, per_miss, expert, output),
        distance,
    )
    found = run(
        RoutingTrace.from_arrays(ids, num_experts=experts),
        slots,
        machine(
            link(bandwidth, overhead=overhead, chunk=chunk), dram=1e12, layer_overhead=books, expert_overhead=per_miss
        ),
        prefetch=f"oracle:{distance}" if distance else "none",
        costs=FixedCosts(dense=dense, expert_s=expert, output=output),
        sizes=[SIZE] * layers,
        log=False,
    )
    tally = found.tally
    assert tally.by_step()[:, 1] == pytest.approx(expected.ends, rel=1e-9)
    assert (int(found.counts.misses.sum()), found.counts.evictions) == (expected.misses, expected.evicted)
    ahead = tally.prefetch
    assert [ahead.issued, ahead.useful, ahead.late] == [
        SIZE * number for number in (expected.issued, expected.useful, expected.late)
    ]
    assert tally.links["pcie"].busy_s == pytest.approx(expected.busy, rel=1e-9)
    assert tally.links["pcie"].bytes == pytest.approx(expected.moved, abs=1)
