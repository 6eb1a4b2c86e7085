"""Experts of one layer that differ in bytes: solved by hand, and compiled as in Python.

One layer, LRU, experts 0, 1, 2 of 4, 2 and 1 bytes, a cache of 5 bytes, one expert per token, warm:

    step    0   1   2   1   0   2
    holds   0   -   -   -   -   -      0 misses: 4 of 5 bytes
            1                          1 misses: 6 bytes, 0 goes: 2
                2                      2 misses: 3 bytes
                    1                  1 hits
                        0              0 misses: 7 bytes; the least recent is 2: 6, still too much; 1 goes too: 4
                            2          2 misses: 5 bytes, all of it

1 hit of 6; loads of 4 + 2 + 1 + 4 + 1 = 12 bytes; evicted 0, 2, 1. In three slots all but first uses hit.
"""

from __future__ import annotations

import numpy as np
import pytest
from drawn_traces import popular
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import PolicyError
from lrcsim.policies import BUILT_IN, Policy, View, make_policy
from lrcsim.simulator import hit_rate_curve, simulate
from lrcsim.simulator.cache.capacity import Scope, resolve_capacity
from lrcsim.simulator.compiled.counts import compiled_counts
from lrcsim.simulator.compiled.engine_for import engine_for
from lrcsim.simulator.compiled.pools import PoolMaker, hits_at_sizes
from lrcsim.simulator.curves.allocate import allocate
from lrcsim.simulator.replay import Counts, replay
from lrcsim.simulator.setup.options import Access
from lrcsim.simulator.setup.run import Run, uses_by_key
from lrcsim.traces import RoutingTrace

HAND = RoutingTrace.from_arrays([[[e]] for e in (0, 1, 2, 1, 0, 2)], num_experts=3, expert_bytes=[[4, 2, 1]])


@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("compiled", [False, True])
def test_solved_by_hand(scope: Scope, compiled: bool) -> None:
    pools = tuple(resolve_capacity("5B", HAND.layers, scope))
    assert [(pool.capacity, pool.bytes_per_expert) for pool in pools] == [(5, (4, 2, 1))]
    counts = (compiled_counts if compiled else replay)(Run.in_pools(HAND, "lru", pools), record=True)
    assert counts.hit is not None
    assert counts.hit.tolist() == [False, False, False, True, False, False]
    assert counts.loaded_bytes is not None
    assert counts.loaded_bytes.tolist() == [0, 12]
    assert (counts.evictions, counts.resident, counts.cold_misses) == (3, 2, 3)


def test_what_a_result_says() -> None:
    result = simulate(HAND, "lru", "5B")
    assert result.bytes_loaded() == 12
    assert result.to_dict()["trace"]["expert_bytes"] == [[4, 2, 1]]
    assert (result.config["capacity"], result.config["capacity_unit"]) == ([5], "bytes")
    # farthest next use is no optimum, and the bound above is none that is reached
    assert (result.bounds["belady"].kind, result.bounds["belady"].proven) == ("heuristic", False)
    assert (result.bounds["upper"].kind, result.bounds["upper"].proven) == ("upper bound", True)
    assert result.warnings == []
    assert "holds every expert" in simulate(HAND, "lru", "7B").warnings[0]
    slots = simulate(HAND, "lru", 3)  # a slot is a slot, as large as the largest expert
    assert (slots.config["capacity_unit"], slots.hit_rate, slots.bytes_loaded()) == ("experts", 0.5, 7)
    assert slots.bounds["belady"].proven


@st.composite
def traces(draw: st.DrawFn) -> RoutingTrace:
    tokens, layers = draw(st.integers(1, 30)), draw(st.integers(1, 3))
    experts = draw(st.lists(st.integers(2, 7), min_size=layers, max_size=layers))
    k = draw(st.integers(1, min(4, *experts)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = popular(rng, tokens, experts, k)
    ids[rng.random(ids.shape) < draw(st.sampled_from([0, 0.2]))] = -1
    sizes = rng.integers(1, draw(st.sampled_from([2, 3, 9])) + 1, (layers, max(experts)))
    sizes[0, :2] = 1, 2
    return RoutingTrace.from_arrays(
        ids,
        num_experts=experts,
        offsets=[0, tokens // 2, tokens],
        phase=draw(st.sampled_from([None, (rng.random(tokens) < 0.5).astype(int)])),
        weights=(rng.integers(0, 9, ids.shape) / 16).astype(np.float32),
        expert_bytes=sizes,
    )


def same(one: Counts, other: Counts) -> None:
    for name in ("accesses", "misses", "preloaded", "steps", "hit", "loaded_bytes"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist(), name
    for name in ("cold_misses", "evictions", "bypassed", "resident"):
        assert getattr(one, name) == getattr(other, name), name


COMPILED = [
    name for name, policy in BUILT_IN.items() if engine_for(policy()) == "compiled" and not name.startswith("admit2")
]


@pytest.mark.parametrize("access", ["coresident", "sequential", "paper"])
@pytest.mark.parametrize("policy", [*COMPILED, "pinned-lru:0.2", "repin:5,swaps=2"])
@settings(max_examples=12)
@given(trace=traces(), cache=st.integers(0, 60), scope=st.sampled_from(["layer", "model"]), warm=st.booleans())
def test_compiled_equals_the_replay(
    policy: str, access: Access, trace: RoutingTrace, cache: int, scope: Scope, warm: bool
) -> None:
    prefill = "step"
    if access == "paper":
        warm, prefill = False, "token"
        if make_policy(policy).bypass:
            return  # refused: the paper's rule inserts every expert
    pools = tuple(resolve_capacity(f"{cache}B", trace.layers, scope))
    profile = uses_by_key(trace, trace)
    job = Run.in_pools(trace, policy, pools, access, prefill, warm, profile)
    counts = compiled_counts(job, record=True)
    same(counts, replay(job, record=True))
    maker = PoolMaker(make_policy(policy), trace, access, prefill, warm, profile)
    hits = hits_at_sizes(maker, [pools], 1).hits[:, 0]
    assert hits.tolist() == (counts.accesses - counts.misses).sum(axis=1).tolist()
    # never more than fits, and the bytes loaded are those of the misses
    keys = np.concatenate([block.keys for block in maker.schedule.blocks()])
    assert counts.hit is not None
    assert counts.loaded_bytes is not None
    assert trace.layers.key_bytes is not None
    assert int(counts.loaded_bytes.sum()) == int(trace.layers.key_bytes[keys[~counts.hit]].sum())


@pytest.mark.parametrize("policy", ["lru", "lfu", "arc", "belady", "w-tinylfu"])
@settings(max_examples=15)
@given(trace=traces(), cache=st.integers(0, 60), scope=st.sampled_from(["layer", "model"]))
def test_equal_bytes_in_layers_change_nothing(policy: str, trace: RoutingTrace, cache: int, scope: Scope) -> None:
    # A table with the same bytes for all experts of a layer, written out for each, is the table by layer.
    sizes = [3, 5, 2][: trace.num_layers]
    by_layer, by_expert = (
        trace.layers.with_expert_bytes(one) for one in (sizes, [[s] * trace.num_experts for s in sizes])
    )
    assert by_expert.expert_bytes is not None
    assert by_expert.expert_bytes.tolist() == sizes
    assert resolve_capacity(f"{cache}B", by_expert, scope) == resolve_capacity(f"{cache}B", by_layer, scope)


@settings(max_examples=30)
@given(trace=traces(), cache=st.integers(0, 60))
def test_admission_is_run_by_its_class(trace: RoutingTrace, cache: int) -> None:
    # Its loop counts free slots, of which there is no number where experts of a batch differ.
    result = simulate(trace, "admit2+lru", f"{cache}B", scope="model", bounds=False)
    assert result.engine == "python"
    assert (
        simulate(trace, "admit2+lru", cache, scope="model", bounds=False).hit_rate is not None or not trace.num_tokens
    )


class Bytes(Policy):
    """Evicts the largest resident."""

    def reset(self) -> None:
        self.resident: set[int] = set()

    def access(self, batch: object, missed: list[int]) -> None:  # type: ignore[override]
        self.resident.update(missed)

    def victim(self, protected: set[int]) -> int:  # type: ignore[override]
        return max((key for key in self.resident if key not in protected), key=self.view.bytes_of)

    def evicted(self, key: int) -> None:
        self.resident.discard(key)


class ByLayer(Bytes):
    """Looks for one size per layer."""

    def victim(self, protected: set[int]) -> int:  # type: ignore[override]
        assert self.view.size
        return super().victim(protected)


def test_what_a_users_policy_sees() -> None:
    # 0 | 1: 6 bytes, 0 goes | 2: 3 bytes | 1 hits | 0: 7 bytes, 1 goes: 5 | 2 hits.
    assert simulate(HAND, Bytes, "5B").counts.misses.sum() == 4
    with pytest.raises(PolicyError, match=r"experts of a layer differ in bytes: use view.bytes_of\(key\)"):
        simulate(HAND, ByLayer, "5B")
    view = View(10, 4, (0, 1), 2, 1, {0: 3, 1: 2})
    assert (view.bytes_of(3), view.bytes_of(4), view.in_bytes) == (3, 2, True)
    view = View(10, 4, (0, 1), 2, 1)
    assert (view.bytes_of(3), view.size, view.in_bytes) == (1, None, False)
    view = View(5, 3, (0,), 1, 1, each={0: 4, 1: 2, 2: 1})
    assert (view.slots, view.slots_in(0), view.slots_in(1), view.take([0, 1, 2], 5)) == (2, 0, 1, [0, 2])


def test_curves() -> None:
    # 5 bytes: solved above. 7 bytes hold all: 3 hits. 0 none.
    # 6 bytes: 0 1 | 2: 7, 0 goes | 1 hits | 0: 7, 2 goes | 2: 7, 1 goes. An expert has 7 / 3 bytes on average.
    curve = hit_rate_curve(HAND, "lru", capacities=["0B", "5B", "6B", "7B"], scope="model")
    assert (curve.hit_rate * 6).round(9).tolist() == [0, 1, 1, 3]
    assert (curve.unit, curve.exact_at_all, curve.relative.tolist()[3]) == ("bytes", False, pytest.approx(3))
    # 3 bytes hold 1 and 2: 1 hits once; 0, which never stays, puts 1 and 2 out. So 5 bytes hit no more than 3.
    assert allocate(HAND, "lru", "5B").best.capacities == ("3B",)
    assert allocate(HAND, "lru", 2).best.capacities == (2,)
