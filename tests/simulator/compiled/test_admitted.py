"""Second-touch admission before the compiled loops equals `Admit2` in Python, before every policy it can go before."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from drawn_traces import traces_with_holes
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.policies import BUILT_IN, CompiledScore, Expert, Now, View, make_policy
from lrcsim.policies.admission import Admit2
from lrcsim.simulator import hit_rate_curve, simulate
from lrcsim.simulator.cache.capacity import Scope, resolve_capacity
from lrcsim.simulator.cache.pool import Pool
from lrcsim.simulator.compiled import counts as module
from lrcsim.simulator.compiled.compiled_cache import CompiledCache
from lrcsim.simulator.compiled.counts import compiled_counts
from lrcsim.simulator.compiled.engine_for import engine_for
from lrcsim.simulator.compiled.pools import PoolMaker, hits_at_sizes
from lrcsim.simulator.compiled.served import RESIDENT
from lrcsim.simulator.replay import replay
from lrcsim.simulator.setup.options import Access
from lrcsim.simulator.setup.run import Run
from lrcsim.traces import RoutingTrace
from lrcsim.traces.schedule import Schedule

BEHIND = [
    *(name for name, one in BUILT_IN.items() if not one.bypass and "future" not in one.needs),
    *("slru:0.3", "s3-fifo:0.3,threshold=1", "dali:3,heavy=2", "lfu-aging:3,decay=0.5", "w-tinylfu:0.3,sample=2"),
]


@pytest.mark.parametrize("access", ["coresident", "sequential"])
@pytest.mark.parametrize("scope", ["layer", "model"])
@pytest.mark.parametrize("policy", BEHIND)
@settings(max_examples=6)
@given(
    trace=traces_with_holes(most_tokens=40, most_experts=8),
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


def busy(tokens: int) -> RoutingTrace:
    """Much more than fits, with weights, and sizes that differ from layer to layer."""
    rng = np.random.default_rng(7)
    ids = (rng.random((tokens, 3, 12)) * (0.2 + rng.random((3, 12)))).argsort(axis=2)[:, :, 8:]
    weights = (rng.integers(1, 9, ids.shape) / 16).astype(np.float32)
    return RoutingTrace.from_arrays(
        ids, num_experts=12, offsets=[0, tokens // 3, tokens], weights=weights, expert_bytes=[2, 3, 5]
    )


PRECISE = "hobbit:w1=0.1,w2=0.2,w3=1,w4=0"


@pytest.mark.parametrize("access", ["coresident", "sequential"])
@pytest.mark.parametrize("cache", ["9", "25B"])
@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("policy", ["lru", PRECISE, "mrs", "w-tinylfu:0.2,sample=1", "lirs:0.3"])
def test_where_many_pass_by(policy: str, cache: str, access: str, warm: bool) -> None:
    busiest = busy(200)
    pools = tuple(resolve_capacity(cache, busiest.layers, "model"))
    job = Run.in_pools(busiest, f"admit2:25+{policy}", pools, access, "step", warm)
    one, other = compiled_counts(job, record=True), replay(job, record=True)
    assert one.hit is not None
    assert other.hit is not None
    assert one.hit.tolist() == other.hit.tolist()
    assert (one.evictions, one.bypassed, one.resident) == (other.evictions, other.bypassed, other.resident)
    assert 100 < other.bypassed < other.misses.sum() - 100


@pytest.mark.parametrize("policy", ["lru", PRECISE, "mrs"])
def test_where_half_the_misses_are_loaded(policy: str) -> None:
    """A share is chosen first; of the others the admission does not hear either."""
    trace = busy(200)
    (size,) = resolve_capacity("9", trace.layers, "model")
    job = Run.in_pools(trace, f"admit2:25+{policy}", (size,), "coresident", "step", True)
    cache = CompiledCache(job, share=0.5)
    flags = np.concatenate([served for _, served in cache.blocks()])
    view = View(9, 12, (0, 1, 2), 3, 4)
    pool = Pool(size, make_policy(job.policy), view)
    missed: list[bool] = []
    for block in Schedule(trace, "step", weights=True).blocks():
        assert block.weights is not None
        for row, (low, high) in enumerate(pairwise(block.starts.tolist())):
            view.step, view.request, view.layer = (int(x[row]) for x in (block.step, block.request, block.layer))
            view.weights = block.weights[low:high].tolist() if policy != "lru" else ()
            batch = block.keys[low:high].tolist()
            gone = pool.coresident(batch, lambda misses: misses[: int(0.5 * len(misses) + 0.5)])
            missed += [key in gone for key in batch]
    assert (flags != RESIDENT).tolist() == missed
    assert pool.bypassed > 100


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
