"""Second-touch admission before the compiled loops equals `Admit2` in Python, before every policy it can go before."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.policies import BUILT_IN, CompiledScore, Expert, Now, make_policy
from lrcsim.policies.admission import Admit2
from lrcsim.simulator import hit_rate_curve, simulate
from lrcsim.simulator.cache.capacity import Scope, resolve_capacity
from lrcsim.simulator.compiled import counts as module
from lrcsim.simulator.compiled.counts import compiled_counts
from lrcsim.simulator.compiled.engine_for import engine_for
from lrcsim.simulator.compiled.pools import PoolMaker, hits_at_sizes
from lrcsim.simulator.replay import replay
from lrcsim.simulator.setup.options import Access
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule

BEHIND = [
    *(name for name, one in BUILT_IN.items() if not one.bypass and "future" not in one.needs),
    *("slru:0.3", "s3-fifo:0.3,threshold=1", "dali:3,heavy=2", "lfu-aging:3,decay=0.5", "w-tinylfu:0.3,sample=2"),
]


@st.composite
def traces(draw: st.DrawFn) -> RoutingTrace:
    """Popular experts, holes, empty tokens, requests, prompts, layers of unequal experts and bytes."""
    tokens, layers = draw(st.integers(1, 40)), draw(st.integers(1, 3))
    experts = draw(st.lists(st.integers(1, 8), min_size=layers, max_size=layers))
    k = draw(st.integers(1, min(4, *experts)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = rng.random((tokens, layers, max(experts))) * (0.3 + rng.random((layers, max(experts))))
    for layer, number in enumerate(experts):
        scores[:, layer, number:] = -1
    ids = (-scores).argsort(axis=2)[:, :, :k]
    ids[rng.random(ids.shape) < draw(st.sampled_from([0, 0.1, 0.5]))] = -1
    ids[rng.random(tokens) < draw(st.sampled_from([0, 0.2]))] = -1
    ends = sorted(draw(st.lists(st.integers(0, tokens), max_size=4)))
    return RoutingTrace.from_arrays(
        ids,
        num_experts=experts,
        offsets=[0, *ends, tokens],
        phase=draw(st.sampled_from([None, (rng.random(tokens) < 0.5).astype(int)])),
        weights=(rng.integers(0, 9, ids.shape) / 16).astype(np.float32),
        expert_bytes=draw(st.lists(st.integers(1, 5), min_size=layers, max_size=layers)),
    )


@pytest.mark.parametrize("access", ["coresident", "sequential"])
@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("policy", BEHIND)
@settings(max_examples=6)
@given(
    trace=traces(),
    window=st.sampled_from([0, 1, 3, 10, 2**70]),
    cache=st.one_of(st.integers(0, 12), st.integers(1, 60).map("{}B".format)),
    warm=st.booleans(),
    prefill=st.sampled_from(["step", "token", "chunk:2"]),
    block_tokens=st.sampled_from([1, 5, 8192]),
)
def test_equals_the_replay(
    policy: str,
    scope: Scope,
    access: Access,
    trace: RoutingTrace,
    window: int,
    cache: int | str,
    warm: bool,
    prefill: str,
    block_tokens: int,
) -> None:
    pools = tuple(resolve_capacity(cache, trace.layers, scope))
    spec = f"admit2:window={window}+{policy}"
    job = Run.in_pools(trace, spec, pools, access, prefill, warm)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Schedule.blocks, "__defaults__", (block_tokens,))
        one, other = compiled_counts(job, record=True), replay(job, record=True)
        hits = hits_at_sizes(PoolMaker(make_policy(spec), trace, access, prefill, warm), [pools], jobs=1).hits[:, 0]
    for name in ("accesses", "misses", "preloaded", "steps", "hit"):
        assert getattr(one, name).tolist() == getattr(other, name).tolist(), name
    for name in ("cold_misses", "evictions", "bypassed", "resident"):
        assert getattr(one, name) == getattr(other, name), name
    assert hits.tolist() == (other.accesses - other.misses).sum(axis=1).tolist()


@pytest.fixture
def trace() -> RoutingTrace:
    ids = np.random.default_rng(1).random((300, 4, 16)).argsort(axis=2)[:, :, :4]
    return RoutingTrace.from_arrays(ids, num_experts=16)


class Mine(CompiledScore):
    """A user's."""

    @staticmethod
    def score(expert: Expert, now: Now) -> float:
        return expert.uses / (now.step - expert.first_step + 1)


class Odd(CompiledScore):
    """A user's that runs in Python, but does not compile."""

    @staticmethod
    def score(expert: Expert, now: Now) -> float:
        return float({"uses": expert.uses}.get("uses", open))  # type: ignore[arg-type]


def test_which_engine(trace: RoutingTrace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEW", 0)
    assert simulate(trace, "admit2:40+lru", 6, bounds=False).engine == "compiled"
    for behind, engine in ((Mine, "compiled"), (type("Other", (BUILT_IN["lru"],), {}), "python"), (Odd, "python")):
        found = simulate(trace, Admit2(behind(), window=40), 20, scope="model", bounds=False)
        assert found.engine == engine, behind
    assert engine_for(type("Otherwise", (Admit2,), {})()) == "python"  # whatever it changes
    curve = hit_rate_curve(trace, "admit2:40+2q", capacities=[3, 8])
    assert curve.engine == "compiled"
    for slots, rate in zip((3, 8), curve.hit_rate.tolist(), strict=True):
        assert rate == pytest.approx(simulate(trace, "admit2:40+2q", slots, bounds=False).hit_rate, abs=1e-15)
