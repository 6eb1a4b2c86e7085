"""The engine's own cache, by hand and against the simulator's."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lrcsim.experiments.validation.offload.engine.cells import COUNTS, EngineCell, expected, table_of
from lrcsim.experiments.validation.offload.engine.slots import LayerCache, batch_of
from lrcsim.traces import RoutingTrace


def test_by_hand() -> None:
    # Two places, three slots from 10 on. {1, 2} come; 2 is used with 3: 1, used longest ago, goes, 3 takes its slot.
    cache = LayerCache(10, capacity=2, room=3)
    assert cache.look_up([1, 2]) == ([], [1, 2])
    assert cache.slot == {1: 10, 2: 11}
    assert cache.look_up([2, 3]) == ([2], [3])
    assert cache.slot == {2: 11, 3: 10}
    # A batch of three: all have slots of their own until the end, then the first of the batch has to go.
    assert cache.look_up([4, 3, 5]) == ([3], [4, 5])
    assert list(cache.slot) == [4, 3, 5]
    assert sorted(cache.slot.values()) == [10, 11, 12]
    cache.end()
    assert list(cache.slot) == [3, 5]


def test_ahead_by_hand() -> None:
    cache = LayerCache(0, capacity=2, room=2)
    cache.look_up([1, 2])
    assert cache.bring_ahead(2, [9]) is None  # it is there
    assert cache.bring_ahead(3, [9]) == 0  # in the slot of 1
    assert cache.bring_ahead(4, [2, 3]) is None  # both are protected
    assert cache.slot == {2: 1, 3: 0}


def test_fixed_contents_stay() -> None:
    cache = LayerCache(4, capacity=2, room=2, fixed=[7, 5])
    assert cache.look_up([5, 6]) == ([5], [6])
    cache.end()
    assert cache.slot == {7: 4, 5: 5}


def test_a_batch_is_in_the_order_of_last_use() -> None:
    assert batch_of([3, 1, -1, 2, 3]) == [1, 2, 3]


@st.composite
def cases(draw: st.DrawFn) -> tuple[RoutingTrace, EngineCell]:
    experts = draw(st.integers(2, 8))
    k, layers = draw(st.integers(1, min(3, experts))), draw(st.integers(1, 3))
    batch = draw(st.integers(1, 3))
    seed, tokens = draw(st.integers(0, 1000)), draw(st.integers(batch, 24))
    random = np.random.default_rng(seed)
    rows = np.stack([[random.permutation(experts)[:k] for _ in range(layers)] for _ in range(tokens)])
    trace = RoutingTrace.from_arrays(rows, num_experts=experts, expert_bytes=10)
    slots = draw(st.integers(1, experts))
    cell = EngineCell("lru", slots, draw(st.booleans()), prefetch=draw(st.booleans()), batch=batch)
    return trace, cell


def counted(table: np.ndarray, cell: EngineCell, experts: int) -> dict[str, list[int]]:
    """What `Engine` does with its caches, without a device."""
    steps, layers, width = table.shape
    assert cell.slots is not None
    caches = [LayerCache(0, cell.slots, max(cell.slots, width)) for _ in range(layers)]
    found: dict[str, list[int]] = {name: [] for name in COUNTS}
    for step in range(steps):
        accesses = loads = ahead = 0
        for layer in range(layers):
            keys = [layer * experts + one for one in batch_of(table[step, layer].tolist())]
            hits, misses = caches[layer].look_up(keys)
            accesses, loads = accesses + len(keys), loads + len(misses)
            assert sorted(hits + misses) == sorted(keys)
            assert len({caches[layer].slot[key] for key in keys}) == len(keys)  # each in a slot of its own
            later, place = divmod(step * layers + layer + 1, layers)
            if cell.prefetch and later < steps:
                protected = set(keys)
                for key in [place * experts + one for one in batch_of(table[later, place].tolist())]:
                    if caches[place].bring_ahead(key, protected) is not None:
                        ahead += 1
                        protected.add(key)
            caches[layer].end()
            assert len(caches[layer].slot) <= cell.slots
        for name, value in zip(COUNTS, (accesses, loads, ahead), strict=True):
            found[name].append(value)
    return found


@given(cases())
def test_counts_are_the_simulators(case: tuple[RoutingTrace, EngineCell]) -> None:
    trace, cell = case
    if cell.prefetch and trace.num_layers == 1:
        return  # the layer ahead is the running one
    own = cell.trace_of(trace, 24)
    simulated = expected(cell, own)
    found = counted(table_of(cell, own), cell, trace.num_experts)
    assert found == {name: values.tolist() for name, values in simulated.items()}
