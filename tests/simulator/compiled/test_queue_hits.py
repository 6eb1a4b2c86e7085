"""Compiled queue policies equal the same policies replayed in Python, at every capacity."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.policies import BUILT_IN, PolicySpec, make_policy
from lrcsim.policies.kernels import Queue
from lrcsim.policies.queues import Slru
from lrcsim.simulator import hit_rate_curve, simulate
from lrcsim.simulator.cache.capacity import Scope, resolve_capacity
from lrcsim.simulator.compiled.engine_for import kernel_of
from lrcsim.simulator.compiled.pools import PoolMaker, hits_at_sizes
from lrcsim.simulator.replay import replay
from lrcsim.simulator.setup.options import Access
from lrcsim.simulator.setup.run import Run, uses_by_key
from lrcsim.traces import RoutingTrace

QUEUES = [name for name, policy in BUILT_IN.items() if kernel_of(policy, Queue) is not None]
SPECS = [
    *QUEUES,
    *(
        "slru:0",
        "slru:0.3",
        "slru:1",
        "s3-fifo:0",
        "s3-fifo:0.5",
        "s3-fifo:1",
        "s3-fifo:0.3,threshold=1",
        "s3-fifo:0.2,threshold=4",
        *("random:7", "dali:1,heavy=1", "dali:9,heavy=2", "dali:1000,heavy=5", "dali:20,heavy=1"),
        *("pinned-lru:0", "pinned-lru:0.2", "pinned-lru:1", "repin:1,swaps=9", "repin:7"),
    ),
]


@st.composite
def traces(draw: st.DrawFn, most_tokens: int, most_layers: int, most_experts: int) -> RoutingTrace:
    """Sticky or not, popular experts or not, with gaps, empty requests, prompts, layers of unequal size."""
    tokens, layers = draw(st.integers(1, most_tokens)), draw(st.integers(1, most_layers))
    experts = draw(st.lists(st.integers(1, most_experts), min_size=layers, max_size=layers))
    k = draw(st.integers(1, min(experts)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = rng.random((tokens, layers, max(experts))) * (0.3 + draw(st.sampled_from([0, 1, 3])) * rng.random(
        (layers, max(experts))))  # fmt: skip
    sticky = draw(st.sampled_from([0, 0.5]))
    for token in range(1, tokens):
        scores[token] = sticky * scores[token - 1] + (1 - sticky) * scores[token]
    for layer, count in enumerate(experts):
        scores[:, layer, count:] = -1
    ids = (-scores).argsort(axis=2)[:, :, :k]
    if draw(st.booleans()):
        ids[rng.random(ids.shape) < 0.1] = -1
    ends = sorted(draw(st.lists(st.integers(0, tokens), max_size=3)))
    phase = rng.random(tokens) < 0.5 if draw(st.booleans()) else None
    return RoutingTrace.from_arrays(
        ids,
        num_experts=experts,
        offsets=[0, *ends, tokens],
        phase=None if phase is None else phase.astype(np.int64),
    )


def check_capacities(
    trace: RoutingTrace,
    policy: PolicySpec,
    scope: Scope,
    access: Access,
    prefill: str,
    warm: bool,
    capacities: Sequence[int | str] | None = None,
    profile: RoutingTrace | None = None,
) -> None:
    """Compare the compiled queues with replays, hits by phase."""
    made = make_policy(policy)
    if made.bypass and access == "paper":
        return  # refused: the paper's rule inserts every expert
    if access == "paper":
        warm, prefill = False, "token"
    if capacities is None:
        capacities = list(range(trace.num_experts * (trace.num_layers if scope == "model" else 1) + 2))
    sizes = [resolve_capacity(one, trace.layers, scope) for one in capacities]
    if profile is None:  # other counts than the trace's own
        profile = RoutingTrace.from_arrays(
            trace.experts[: (trace.num_tokens + 1) // 2], num_experts=trace.layers.num_experts.tolist()
        )
    uses = uses_by_key(profile, like=trace)
    found = hits_at_sizes(PoolMaker(made, trace, access, prefill, warm, uses), sizes, jobs=1)
    for i, capacity in enumerate(capacities):
        counts = replay(Run.in_pools(trace, policy, tuple(sizes[i]), access, prefill, warm, uses))
        assert found.hits[:, i].tolist() == (counts.accesses - counts.misses).sum(axis=1).tolist(), capacity
        assert found.accesses.tolist() == counts.accesses.sum(axis=1).tolist()


policies = pytest.mark.parametrize("policy", SPECS)
accesses = pytest.mark.parametrize("access", ["coresident", "sequential", "paper"])
scopes = pytest.mark.parametrize("scope", ["layer", "model"])
prefills = st.sampled_from(["step", "token", "chunk:2"])


@accesses
@scopes
@policies
@settings(max_examples=12)
@given(trace=traces(24, 3, 7), warm=st.booleans(), prefill=prefills)
def test_every_capacity_of_small_caches(
    policy: str, scope: Scope, access: Access, trace: RoutingTrace, warm: bool, prefill: str
) -> None:
    check_capacities(trace, policy, scope, access, prefill, warm)


@accesses
@scopes
@policies
@settings(max_examples=4)
@given(trace=traces(250, 3, 40), warm=st.booleans(), prefill=prefills, data=st.data())
def test_long_traces(
    policy: str, scope: Scope, access: Access, trace: RoutingTrace, warm: bool, prefill: str, data: st.DataObject
) -> None:
    """Queues that turn over many times, ghosts among them, at a few capacities in any order."""
    most = trace.num_experts * (trace.num_layers if scope == "model" else 1)
    capacities = data.draw(st.lists(st.integers(0, most), min_size=1, max_size=4), label="capacities")
    check_capacities(trace, policy, scope, access, prefill, warm, capacities)


@pytest.fixture(scope="module")
def trace() -> RoutingTrace:
    ids = np.random.default_rng(1).random((300, 4, 16)).argsort(axis=2)[:, :, :4]
    return RoutingTrace.from_arrays(ids, num_experts=16, phase=[0] * 100 + [1] * 200)


@scopes
@pytest.mark.parametrize("policy", ["clock", "sieve", "slru:0.5", "s3-fifo:0.2,threshold=1", "arc"])
def test_the_curve_is_what_simulate_gives(trace: RoutingTrace, policy: str, scope: Scope) -> None:
    curve = hit_rate_curve(trace, policy, scope=scope)
    assert curve.engine == "compiled"
    assert not curve.exact_at_all
    assert curve.prefill_hit_rate is not None
    assert curve.decode_hit_rate is not None
    for i, slots in enumerate(curve.capacities.tolist()):
        one = simulate(trace, policy, slots, scope=scope, bounds=False)
        assert curve.hit_rate[i] == pytest.approx(one.hit_rate, abs=1e-15)
        assert curve.prefill_hit_rate[i] == pytest.approx(one.phase_rate(0), abs=1e-15)
        assert curve.decode_hit_rate[i] == pytest.approx(one.phase_rate(1), abs=1e-15)


def test_a_derived_class_is_replayed(trace: RoutingTrace) -> None:
    derived = type("MyClock", (BUILT_IN["clock"],), {})  # whatever it changes
    curve = hit_rate_curve(trace, derived, capacities=[8])
    assert curve.engine == "replay"
    assert curve.hit_rate.tolist() == hit_rate_curve(trace, "clock", capacities=[8]).hit_rate.tolist()


@accesses
@policies
@settings(max_examples=8)
@given(trace=traces(60, 3, 12), warm=st.booleans(), prefill=prefills, data=st.data())
def test_pools_in_bytes(
    policy: str, access: Access, trace: RoutingTrace, warm: bool, prefill: str, data: st.DataObject
) -> None:
    """One pool for layers whose experts differ in size, also so small that not every expert fits."""
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=trace.num_layers, max_size=trace.num_layers), label="sizes")
    in_bytes = RoutingTrace.from_arrays(
        trace.experts,
        num_experts=trace.layers.num_experts.tolist(),
        offsets=trace.offsets,
        phase=trace.phase,
        expert_bytes=sizes,
    )
    most = sum(size * experts for size, experts in zip(sizes, trace.layers.num_experts.tolist(), strict=True))
    capacities = data.draw(st.lists(st.integers(1, most + 1), min_size=1, max_size=8), label="capacities")
    check_capacities(in_bytes, policy, "model", access, prefill, warm, [f"{one}B" for one in capacities])


@scopes
def test_sizes_in_bytes(scope: Scope) -> None:
    ids = np.random.default_rng(1).random((300, 3, 16)).argsort(axis=2)[:, :, :4]
    unequal = RoutingTrace.from_arrays(ids, num_experts=16, expert_bytes=[3, 4, 5])
    capacities = ["7B", "70B", "100B", "500B"]
    curve = hit_rate_curve(unequal, "s3-fifo", scope=scope, capacities=capacities)
    assert curve.engine == "compiled"
    for size, rate in zip(capacities, curve.hit_rate.tolist(), strict=True):
        assert rate == pytest.approx(simulate(unequal, "s3-fifo", size, scope=scope, bounds=False).hit_rate, abs=1e-15)


def test_an_object_keeps_its_parameters_and_its_state(trace: RoutingTrace) -> None:
    policy = Slru(share=0.25)
    before = dict(vars(policy))
    curve = hit_rate_curve(trace, policy, capacities=[8])
    assert vars(policy) == before
    assert curve.hit_rate[0] == simulate(trace, "slru:0.25", 8, bounds=False).hit_rate


@pytest.mark.parametrize("policy", ["clock", "sieve", "slru", "s3-fifo", "arc", "dali", "random"])
def test_the_number_of_jobs_does_not_matter(trace: RoutingTrace, policy: str) -> None:
    one, two = (hit_rate_curve(trace, policy, jobs=jobs) for jobs in (1, 2))
    assert one.hit_rate.tolist() == two.hit_rate.tolist()


def test_blocks_do_not_matter() -> None:
    """The state lasts from block to block: 8,192 tokens make one."""
    ids = np.random.default_rng(2).random((9_000, 1, 12)).argsort(axis=2)[:, :, :2]
    long = RoutingTrace.from_arrays(ids, num_experts=12)
    for policy in QUEUES:
        check_capacities(long, policy, "layer", "coresident", "step", True, [5])


def test_progress_is_told(trace: RoutingTrace) -> None:
    told: list[tuple[int, int]] = []
    hit_rate_curve(trace, "clock", progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (300, 300)


def test_without_the_compiler() -> None:
    code = (
        "import numpy as np\nfrom lrcsim.simulator import hit_rate_curve, simulate\n"
        "from lrcsim.traces import RoutingTrace\n"
        "ids = np.random.default_rng(0).random((60, 2, 6)).argsort(axis=2)[:, :, :2]\n"
        "trace = RoutingTrace.from_arrays(ids, num_experts=6)\n"
        "for access in ('coresident', 'sequential', 'paper'):\n"
        "    for name in ('clock', 'sieve', 'slru', 's3-fifo', 'arc', 'dali:9,heavy=2', 'random'):\n"
        "        curve = hit_rate_curve(trace, name, access=access, capacities=[0, 1, 2, 3, 4])\n"
        "        assert curve.engine == 'compiled'\n"
        "        for slots, rate in zip(curve.capacities.tolist(), curve.hit_rate.tolist()):\n"
        "            one = simulate(trace, name, slots, access=access, bounds=False)\n"
        "            assert abs(rate - one.hit_rate) < 1e-15, (name, slots)\n"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
