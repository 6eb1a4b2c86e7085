"""Counts by the compiled cache equal those of the replay in Python, under every rule."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from drawn_traces import traces_with_holes
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import PolicyError
from lrcsim.policies import BUILT_IN, CompiledScore, Expert, Now, PolicySpec, make_policy
from lrcsim.simulator import simulate
from lrcsim.simulator.cache.capacity import Scope, resolve_capacity
from lrcsim.simulator.compiled import counts as module
from lrcsim.simulator.compiled.counts import compiled_counts, count
from lrcsim.simulator.compiled.engine_for import engine_for
from lrcsim.simulator.replay import Counts, replay
from lrcsim.simulator.setup.options import Access
from lrcsim.simulator.setup.run import Run, uses_by_key
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule


def same(one: Counts, other: Counts) -> None:
    for name in ("accesses", "misses", "preloaded", "steps"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist(), name
    for name in ("cold_misses", "evictions", "bypassed", "resident", "loads", "loaded_bytes"):
        assert getattr(one, name) == getattr(other, name), name
    hits = [None if counts.hit is None else counts.hit.tolist() for counts in (one, other)]
    assert hits[0] == hits[1]


def test_hand_solved() -> None:
    # LRU, 2 slots, a b a | c a, the bar a new request. Warm: a and b miss cold, a hits, c misses cold and evicts b, a
    # hits. Cold: the second request starts with nothing: c and a miss cold, and nothing was ever evicted.
    trace = RoutingTrace.from_arrays([[[e]] for e in (0, 1, 0, 2, 0)], num_experts=3, offsets=[0, 3, 5])
    pools = tuple(resolve_capacity(2, trace.layers, "layer"))
    warm = compiled_counts(Run.in_pools(trace, "lru", pools, "coresident", "step", True), record=True)
    assert warm.hit is not None
    assert warm.hit.tolist() == [False, False, True, False, True]
    assert (warm.cold_misses, warm.evictions, warm.resident, warm.steps.tolist()) == (3, 1, 2, [0, 5])
    cold = compiled_counts(Run.in_pools(trace, "lru", pools, "coresident", "step", False), record=True)
    assert cold.hit is not None
    assert cold.hit.tolist() == [False, False, True, False, False]
    assert (cold.cold_misses, cold.evictions, cold.resident) == (4, 0, 2)


COMPILED = [name for name, policy in BUILT_IN.items() if engine_for(policy()) == "compiled"]
SPECS = [*COMPILED, "pinned-lru:0.2", "pinned-lru:1", "dali:3,heavy=2", "lfu-aging:3,decay=0.5", "repin:5,swaps=2"]
capacities = st.one_of(st.integers(0, 12), st.integers(1, 60).map("{}B".format))


@pytest.mark.parametrize("access", ["coresident", "sequential", "paper"])
@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("policy", SPECS)
@settings(max_examples=12)
@given(
    trace=traces_with_holes(),
    cache=capacities,
    warm=st.booleans(),
    prefill=st.sampled_from(["step", "token", "chunk:2"]),
    block_tokens=st.sampled_from([1, 5, 8192]),
)
def test_equals_the_replay(
    policy: str,
    scope: Scope,
    access: Access,
    trace: RoutingTrace,
    cache: int | str,
    warm: bool,
    prefill: str,
    block_tokens: int,
) -> None:
    if access == "paper":
        warm, prefill = False, "token"
        if make_policy(policy).bypass:
            return  # refused: the paper's rule inserts every expert
    half = RoutingTrace.from_arrays(
        trace.experts[: (trace.num_tokens + 1) // 2], num_experts=trace.layers.num_experts.tolist()
    )
    pools = tuple(resolve_capacity(cache, trace.layers, scope))
    job = Run.in_pools(trace, policy, pools, access, prefill, warm, uses_by_key(half, like=trace))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Schedule.blocks, "__defaults__", (block_tokens,))
        same(compiled_counts(job, record=True), replay(job, record=True))


class Patient(CompiledScore):
    """A user's, under the name that ``score`` had before."""

    bypass = True
    wants = frozenset({"weights"})

    @staticmethod
    def worth(expert: Expert, now: Now) -> float:
        return expert.uses / (now.step - expert.first_step + 1) + expert.weight_ahead


class Renamed(CompiledScore):
    """The same under its name of today."""

    bypass = True
    wants = frozenset({"weights"})

    @staticmethod
    def score(expert: Expert, now: Now) -> float:
        return expert.uses / (now.step - expert.first_step + 1) + expert.weight_ahead


@settings(max_examples=40)
@given(
    trace=traces_with_holes(),
    cache=capacities,
    access=st.sampled_from(["coresident", "sequential"]),
    warm=st.booleans(),
)
def test_a_policy_of_ones_own_by_either_name(trace: RoutingTrace, cache: int | str, access: str, warm: bool) -> None:
    pools = tuple(resolve_capacity(cache, trace.layers, "model"))
    jobs = [Run.in_pools(trace, policy, pools, access, "step", warm) for policy in (Patient, Renamed)]
    counted = [run(job, record=True) for job in jobs for run in (compiled_counts, replay)]
    for other in counted[1:]:
        same(counted[0], other)


@pytest.fixture
def trace() -> RoutingTrace:
    ids = np.random.default_rng(1).random((300, 4, 16)).argsort(axis=2)[:, :, :4]
    return RoutingTrace.from_arrays(ids, num_experts=16, expert_bytes=7)


def test_which_engine(trace: RoutingTrace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled one wherever there is one; the result says which."""
    monkeypatch.setattr(module, "FEW", 0)
    plain: dict[PolicySpec, str] = {"lru": "compiled", "lfu": "compiled", "sch-lookahead": "python"}
    for policy, engine in (plain | {Renamed: "compiled"}).items():
        result = simulate(trace, policy, 6, bounds=False)
        assert (result.engine, result.to_dict()["cache"]["engine"]) == (engine, engine)
    mine = type("Mine", (BUILT_IN["lru"],), {})
    assert simulate(trace, mine, 6, bounds=False).engine == "python"


@pytest.mark.parametrize("policy", ["arc", "lfru"])
def test_few_accesses_need_no_compiler(trace: RoutingTrace, monkeypatch: pytest.MonkeyPatch, policy: str) -> None:
    monkeypatch.setattr(module, "is_compiled", lambda job: False)
    monkeypatch.setattr(module, "_in_python", 0)
    monkeypatch.setattr(module, "FEW", 2 * 300 * 4 * 4)
    job = Run.in_pools(trace, policy, tuple(resolve_capacity(6, trace.layers, "layer")), "coresident", "step", True)
    found = [count(job, record=True) for _ in range(3)]
    assert [engine for _, engine in found] == ["python", "python", "compiled"]
    same(found[0][0], found[2][0])
    monkeypatch.undo()
    assert module.is_compiled(job)


def test_what_fails_compiled_is_told_by_python(trace: RoutingTrace, monkeypatch: pytest.MonkeyPatch) -> None:
    class Late(CompiledScore):
        @staticmethod
        def score(expert: Expert, now: Now) -> float:
            return 1 / (now.step - 20)

    class Looked(CompiledScore):
        @staticmethod
        def score(expert: Expert, now: Now) -> float:
            return float({"uses": expert.uses}.get("uses", open))  # type: ignore[arg-type]

    monkeypatch.setattr(module, "FEW", 0)
    with pytest.raises(PolicyError, match="failed at step 20, layer 0: ZeroDivisionError"):
        simulate(trace, Late, 9, bounds=False)
    uncompilable = simulate(trace, Looked, 9, bounds=False)
    assert uncompilable.engine == "python"
    assert uncompilable.hit_rate == simulate(trace, "lfu", 9, bounds=False).hit_rate


def test_one_object_cannot_serve_many_layers(trace: RoutingTrace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEW", 0)
    one: Any = make_policy("arc")
    with pytest.raises(PolicyError, match="one object per layer"):
        simulate(trace, one, 2, bounds=False)
    assert simulate(trace, one, 2, scope="model", bounds=False).engine == "compiled"


def test_progress_is_told(trace: RoutingTrace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEW", 0)
    told: list[tuple[int, int]] = []
    simulate(trace, "fifo", 6, bounds=False, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (300, 300)
