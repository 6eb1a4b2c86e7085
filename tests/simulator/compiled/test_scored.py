"""Compiled score policies equal the same policies replayed in Python, at every capacity."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import PolicyError
from lrcsim.policies import BUILT_IN, CompiledScore, Expert, Now, Param, Policy, PolicySpec, make_policy
from lrcsim.simulator import hit_rate_curve, simulate
from lrcsim.simulator.cache.capacity import Scope, resolve_capacity
from lrcsim.simulator.compiled import pools as module
from lrcsim.simulator.compiled.engine_for import engine_for
from lrcsim.simulator.compiled.pools import PoolMaker, hits_at_sizes
from lrcsim.simulator.compiled.score_loop import AT_ONCE, choose_least
from lrcsim.simulator.replay import replay
from lrcsim.simulator.setup.options import Access
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace


@st.composite
def traces(draw: st.DrawFn) -> RoutingTrace:
    tokens, layers, experts = draw(st.integers(1, 24)), draw(st.integers(1, 3)), draw(st.integers(1, 7))
    k = draw(st.integers(1, min(4, experts)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = (rng.random((tokens, layers, experts)) * (0.3 + rng.random((layers, experts)))).argsort(axis=2)[:, :, :k]
    if draw(st.booleans()):
        ids[rng.random(ids.shape) < 0.1] = -1
    ends = sorted(draw(st.lists(st.integers(0, tokens), max_size=2)))
    phase = rng.integers(0, 2, tokens) if draw(st.booleans()) else None
    weights = rng.integers(1, 9, ids.shape) / 16
    return RoutingTrace.from_arrays(
        ids, num_experts=experts, offsets=[0, *ends, tokens], phase=phase, weights=weights.astype(np.float32)
    )


def check_every_capacity(
    trace: RoutingTrace,
    policy: PolicySpec,
    scope: Scope,
    access: Access,
    prefill: str,
    warm: bool,
    capacities: Sequence[int | str] | None = None,
) -> None:
    """Compare the compiled loop, with and without a heap, with replays, hits by phase."""
    made = make_policy(policy)
    assert isinstance(made, CompiledScore)
    assert made.compilable()
    if made.bypass and access == "paper":
        return  # refused: the paper's rule inserts every expert
    if access == "paper":
        warm, prefill = False, "token"
    if capacities is None:
        capacities = list(range(trace.num_experts * (trace.num_layers if scope == "model" else 1) + 2))
    sizes = [resolve_capacity(one, trace.layers, scope) for one in capacities]
    maker = PoolMaker(made, trace, access, prefill, warm)
    found = hits_at_sizes(maker, sizes, jobs=1)
    with mock.patch.object(module, "HEAP_FROM", 0):
        heaped = hits_at_sizes(maker, sizes, jobs=1)
    assert found.hits.tolist() == heaped.hits.tolist()
    for i, size in enumerate(capacities):
        counts = replay(Run.in_pools(trace, policy, tuple(sizes[i]), access, prefill, warm))
        assert found.hits[:, i].tolist() == (counts.accesses - counts.misses).sum(axis=1).tolist(), size
        assert found.accesses.tolist() == counts.accesses.sum(axis=1).tolist()


SPECS = [
    *(name for name, policy in BUILT_IN.items() if issubclass(policy, CompiledScore)),
    *("lfu-decay:1", "lfu-decay:3", "lcp:2", "heat:1", "score-ema:1", "mrs:0.3", "mrs:1", "lfuda:1", "lfuda:3"),
    *("lfu-aging:1", "lfu-aging:3,decay=0.3", "lfu-aging:5,decay=0", "lfu-aging:7,decay=1"),
    *("hobbit:w1=0.1,w2=0.3,w3=0.7,w4=0.2", "hobbit:w1=0,w2=0,w3=1,w4=0", "hobbit:w1=0,w2=0.5,w3=1,w4=1"),
]
accesses = pytest.mark.parametrize("access", ["coresident", "sequential", "paper"])
scopes = pytest.mark.parametrize("scope", ["layer", "model"])
draws = given(trace=traces(), warm=st.booleans(), prefill=st.sampled_from(["step", "token", "chunk:2"]))


@accesses
@scopes
@pytest.mark.parametrize("policy", SPECS)
@settings(max_examples=12)
@draws
def test_compiled_equals_python(
    policy: str, scope: Scope, access: Access, trace: RoutingTrace, warm: bool, prefill: str
) -> None:
    check_every_capacity(trace, policy, scope, access, prefill, warm)


def chosen(scores: Sequence[float], ties: Sequence[int], want: int) -> list[int] | None:
    """Let `choose_least` name the first ``want`` of residents with keys 10, 11, ...; None if it refuses the scores."""
    victims = np.full(want, -1, np.int32)
    resident = np.arange(10, 10 + len(scores), dtype=np.int32)
    found = choose_least(np.array(scores, float), np.array(ties), resident, 10, len(scores), victims)
    return None if found < 0 else victims[:found].tolist()


def test_choice_solved_by_hand() -> None:
    # Least first: 12 (score 1), then of those with score 2 the one with the smaller tie, 13 before 10.
    assert chosen([2.0, 7.0, 1.0, 2.0], [5, 0, 9, 4], 3) == [12, 13, 10]
    assert chosen([2.0, 7.0, 1.0, 2.0], [5, 0, 9, 4], 9) == [12, 13, 10, 11]
    assert chosen([math.inf, -math.inf, math.inf], [2, 1, 0], 2) == [11, 12]
    assert chosen([1.0, 2.0, math.nan], [0, 1, 2], 1) is None
    assert chosen([], [], 1) == []


@given(
    st.lists(st.sampled_from([-math.inf, -1.0, 0.0, 1.0, 2.0, math.inf]), max_size=12), st.integers(1, 14), st.data()
)
def test_choice_is_the_front_of_the_sorted_residents(scores: list[float], want: int, data: st.DataObject) -> None:
    ties = data.draw(st.permutations(range(len(scores))))
    ranked = sorted(range(len(scores)), key=lambda one: (scores[one], ties[one]))
    assert chosen(scores, ties, want) == [10 + one for one in ranked[:want]]


@pytest.mark.parametrize("policy", ["lfru", "least-stale-layer", "mrs"])
@pytest.mark.parametrize("sizes", [None, [1, 3]])
def test_more_go_at_once_than_one_pass_chooses(policy: str, sizes: list[int] | None) -> None:
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((60, 2, 48)), axis=2)[:, :, :6]
    phase = (np.arange(60) % 15 >= 12).astype(np.uint8)
    weights = rng.random(ids.shape).astype(np.float32)
    trace = RoutingTrace.from_arrays(
        ids, num_experts=48, offsets=[0, 15, 30, 45, 60], phase=phase, weights=weights, expert_bytes=sizes
    )
    pools = resolve_capacity(50 if sizes is None else "100B", trace.layers, "model")
    job = Run.in_pools(trace, policy, tuple(pools), "coresident", "step", True)
    batches = [len(np.unique(ids[low : low + 12, layer])) for low in (0, 15, 30, 45) for layer in (0, 1)]
    assert min(batches) > 2 * AT_ONCE
    found = hits_at_sizes(PoolMaker(make_policy(policy), trace, "coresident", "step", True), [pools], jobs=1)
    counts = replay(job)
    assert found.hits[:, 0].tolist() == (counts.accesses - counts.misses).sum(axis=1).tolist()


class Everything(CompiledScore):
    """A worth that depends on all there is, so that a wrong number anywhere changes what is evicted."""

    needs = frozenset({"weights", "future"})
    params = (Param("a", 3, "a whole number"), Param("b", 0.5, "a real number"))

    @staticmethod
    def update(expert: Expert, now: Now, weight: float, a: int, b: float) -> float:
        seen = expert.uses * 3 + expert.uses_resident * 5 + now.step - expert.last_step + expert.use_order + now.loads
        runs = (now.layer_runs - expert.last_run) * 2 + now.layer_uses * 3 + now.uses + expert.uses_request
        here = (expert.last_request == now.request) + now.step - now.request_step
        return b * expert.value + weight * a + (seen + runs + here) % 7 + expert.weight_ahead

    @staticmethod
    def worth(expert: Expert, now: Now, a: int, b: float) -> float:
        steps = expert.first_step * 11 + expert.last_step * 13 + expert.loaded_step * 17
        orders = expert.load_order * 19 + expert.use_order * 23 + expert.uses * 29 + expert.uses_resident * a
        future = min(expert.next_use, 1000) * 37
        moment = now.step * 41 + now.request * 43 + now.layer * 47 + now.num_layers * 53 + now.loads * 59 + now.slots
        requests = now.request_step * 61 + expert.last_request * 67 + expert.uses_request * 71 + now.uses * 73
        runs = now.layer_runs * 79 + expert.last_run * 83 + now.layer_uses * 89 + math.floor(now.age * 4) * 97
        weights = expert.weight * 100 + expert.weight_mean * 200 + expert.weight_ahead * 300
        mixed = (steps + orders + future + moment + requests + runs) * (expert.layer + 3) % 31
        return mixed + math.floor(weights) % 7 + expert.value % 5 * b


class AtUse(Everything):
    """The same, taken at use."""

    at_use = True


class Bypassing(Everything):
    """The same, with misses that may bypass the cache."""

    bypass = True


class BypassingAtUse(AtUse):
    """And both."""

    bypass = True


class LargerKeyFirst(Everything):
    """Ties by key, and there are many."""

    at_use = True
    larger_key_first = True

    @staticmethod
    def worth(expert: Expert, now: Now, a: int, b: float) -> float:
        return expert.use_order % 2


DEEP = [Everything, AtUse, Bypassing, BypassingAtUse, LargerKeyFirst]


@accesses
@scopes
@pytest.mark.parametrize("policy", DEEP)
@settings(max_examples=40)
@draws
def test_both_ways_of_a_policy_agree_on_all_it_can_see(
    policy: type[CompiledScore], scope: Scope, access: Access, trace: RoutingTrace, warm: bool, prefill: str
) -> None:
    check_every_capacity(trace, policy, scope, access, prefill, warm)


def in_bytes(trace: RoutingTrace, sizes: list[int]) -> RoutingTrace:
    return RoutingTrace.from_arrays(
        trace.experts,
        num_experts=trace.layers.num_experts.tolist(),
        offsets=trace.offsets,
        phase=trace.phase,
        weights=trace.column("weights"),
        expert_bytes=sizes,
    )


@accesses
@pytest.mark.parametrize("policy", [*SPECS, *DEEP])
@settings(max_examples=8)
@given(
    trace=traces(),
    warm=st.booleans(),
    prefill=st.sampled_from(["step", "token", "chunk:2"]),
    sizes=st.lists(st.integers(1, 5), min_size=3, max_size=3),
    capacities=st.lists(st.integers(1, 80), min_size=1, max_size=8),
)
def test_pools_in_bytes(
    policy: PolicySpec,
    access: Access,
    trace: RoutingTrace,
    warm: bool,
    prefill: str,
    sizes: list[int],
    capacities: list[int],
) -> None:
    """One pool for layers whose experts differ in size, also so small that not every expert fits."""
    unequal = in_bytes(trace, sizes[: trace.num_layers])
    check_every_capacity(unequal, policy, "model", access, prefill, warm, [f"{one}B" for one in capacities])


class Patient(CompiledScore):
    """Evict the fewest uses per step since the first."""

    @staticmethod
    def worth(expert: Expert, now: Now) -> float:
        return expert.uses / (now.step - expert.first_step + 1)


def test_hand_solved() -> None:
    # a a b c a, 2 slots: when c comes, a has 2 uses in 4 steps and b 1 in 2: equal, so a goes, used longer ago.
    trace = RoutingTrace.from_arrays([[[e]] for e in (0, 0, 1, 2, 0)], num_experts=3)
    result = simulate(trace, Patient, 2, record=True, bounds=False)
    assert result.counts.hit is not None
    assert result.counts.hit.tolist() == [False, True, False, False, False]
    curve = hit_rate_curve(trace, Patient, capacities=[0, 1, 2, 3])
    assert curve.engine == "compiled"
    assert not curve.exact_at_all
    assert curve.hit_rate.tolist() == [0.0, 0.2, 0.2, 0.4]


@pytest.fixture(scope="module")
def trace() -> RoutingTrace:
    ids = np.random.default_rng(1).random((300, 4, 16)).argsort(axis=2)[:, :, :4]
    return RoutingTrace.from_arrays(ids, num_experts=16)


def test_engines(trace: RoutingTrace) -> None:
    engines = {name: hit_rate_curve(trace, name, capacities=[8]).engine for name in ("lru", "fifo", "random", "lfru")}
    assert engines == {"lru": "stack", "fifo": "compiled", "random": "compiled", "lfru": "compiled"}
    overridden: type[Policy] = type("Mine", (Patient,), {"victim": lambda self, protected: min(self.last_use)})
    assert engine_for(overridden()) == "python"
    assert engine_for(type("MyFifo", (BUILT_IN["fifo"],), {})()) == "python"  # whatever it changes
    assert engine_for(type("MyLru", (BUILT_IN["lru"],), {})(), hits_only=True) == "python"
    assert engine_for(type("MyLfu", (BUILT_IN["lfu"],), {})(), hits_only=True) == "compiled"  # but no stack
    decay = make_policy("lfu-decay:7")
    assert isinstance(decay, CompiledScore)
    assert decay.values() == (7.0,)


def test_which_built_in_policies_are_replayed(trace: RoutingTrace) -> None:
    """None in slots; with layers of unequal bytes in one pool, those that look ahead and are no stacks there."""
    weighted = RoutingTrace.from_arrays(trace.experts, num_experts=16, weights=trace.experts / 16)
    unequal = in_bytes(weighted, [1, 2, 3, 4])

    def replayed(trace: RoutingTrace, scope: Scope, size: int | str) -> set[str]:
        profiles = {name: trace if "profile" in policy.needs else None for name, policy in BUILT_IN.items()}
        return {
            name
            for name, profile in profiles.items()
            if hit_rate_curve(trace, name, scope=scope, capacities=[size], profile=profile).engine == "replay"
        }

    assert replayed(weighted, "layer", 8) == set()
    assert replayed(weighted, "model", 8) == set()
    assert replayed(unequal, "layer", "40B") == set()
    assert replayed(unequal, "model", "40B") == {"sch-lookahead", "sch-static"}


@pytest.mark.parametrize("policy", ["fifo", "lfru"])
def test_the_number_of_jobs_does_not_matter(trace: RoutingTrace, policy: str) -> None:
    one, two = (hit_rate_curve(trace, policy, jobs=jobs) for jobs in (1, 2))
    assert one.hit_rate.tolist() == two.hit_rate.tolist()


def test_progress_is_told(trace: RoutingTrace) -> None:
    told: list[tuple[int, int]] = []
    hit_rate_curve(trace, "fifo", progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (300, 300)


def test_what_fails(trace: RoutingTrace) -> None:
    """The same mistakes are told both ways, in one line."""

    class Uncompilable(CompiledScore):
        @staticmethod
        def worth(expert: Expert, now: Now) -> float:
            return float({"uses": expert.uses}.get("uses", open))  # type: ignore[arg-type]

    class ByZero(CompiledScore):
        @staticmethod
        def worth(expert: Expert, now: Now) -> float:
            return 1 / (now.step - 20)

    class NoNumber(CompiledScore):
        @staticmethod
        def worth(expert: Expert, now: Now) -> float:
            return math.nan

    class BadUpdate(CompiledScore):
        @staticmethod
        def update(expert: Expert, now: Now, weight: float) -> float:
            return 1 / (now.step - 20)

        @staticmethod
        def worth(expert: Expert, now: Now) -> float:
            return expert.value

    class Worded(CompiledScore):
        params = (Param("mode", "fast", "text"),)

        @staticmethod
        def worth(expert: Expert, now: Now, mode: str) -> float:
            return 0.0

    with pytest.raises(PolicyError, match=r"^policy Uncompilable: worth\(\) or update\(\) cannot be compiled") as told:
        hit_rate_curve(trace, Uncompilable, capacities=[4])
    assert "\n" not in str(told.value)
    for policy, compiled, replayed in (
        (ByZero, "failed at step 20: worth", "failed at step 20, layer 0: ZeroDivisionError"),
        (BadUpdate, "failed at step 20: worth", "failed at step 20, layer 0: ZeroDivisionError"),
        (NoNumber, "failed at step [23]: worth", "is not a number for Expert"),
        (Worded, "must be numbers", "must be numbers"),
    ):
        with pytest.raises(PolicyError, match=compiled):
            hit_rate_curve(trace, policy, capacities=[9])
        with pytest.raises(PolicyError, match=replayed):
            simulate(trace, policy, 9, bounds=False)


def test_not_written() -> None:
    class Empty(CompiledScore):
        pass

    one = RoutingTrace.from_arrays([[[0]], [[1]], [[2]]], num_experts=3)
    with pytest.raises(PolicyError, match="Empty"):
        simulate(one, Empty, 1, bounds=False)
    with pytest.raises(PolicyError, match="Empty"):
        hit_rate_curve(one, Empty, capacities=[1])


def test_without_the_compiler() -> None:
    code = (
        "import numpy as np\nfrom lrcsim.simulator import hit_rate_curve, simulate\n"
        "from lrcsim.traces import RoutingTrace\n"
        "ids = np.random.default_rng(0).random((30, 2, 6)).argsort(axis=2)[:, :, :2]\n"
        "trace = RoutingTrace.from_arrays(ids, num_experts=6, weights=(ids + 1) / 9)\n"
        "for name in ('fifo', 'lfru', 'lfu-decay', 'score-ema', 'lfuda', 'mrs', 'hobbit', 'moe-infinity'):\n"
        "    curve = hit_rate_curve(trace, name, capacities=[1, 2, 3, 4])\n"
        "    assert curve.engine == 'compiled'\n"
        "    for slots, rate in zip(curve.capacities.tolist(), curve.hit_rate.tolist()):\n"
        "        assert abs(rate - simulate(trace, name, slots, bounds=False).hit_rate) < 1e-15, (name, slots)\n"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_policies_kept_on_disk_by_different_processes_are_not_mixed_up(tmp_path: Path) -> None:
    """Compiled functions have names with a number that each process counts for itself: two may get the same."""
    lines = """
import sys
import numpy as np
from lrcsim.simulator import hit_rate_curve
from lrcsim.traces import RoutingTrace
ids = np.random.default_rng(0).random((300, 1, 12)).argsort(axis=2)[:, :, :3]
weights = np.random.default_rng(1).random(ids.shape).astype(np.float32)
trace = RoutingTrace.from_arrays(ids, num_experts=12, weights=-np.sort(-weights, axis=2))
for policy in sys.argv[1:]:
    print(policy, hit_rate_curve(trace, policy, jobs=1).hit_rate.tolist())
"""

    def run(*policies: str) -> list[str]:
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
        command = [sys.executable, "-c", lines, *policies]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    alone = [*run("mrs"), *run("score-ema")]
    assert alone[0].split()[1:] != alone[1].split()[1:]
    assert run("mrs", "score-ema") == alone
    assert run("mrs:0.9", "score-ema", "mrs")[1:] == alone[::-1]
