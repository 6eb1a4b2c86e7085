"""Experts of one layer that differ in bytes, in time: loads cost their own bytes, and so does computing them.

Solved by hand: experts of 400, 200 and 100 bytes, a link of 100 bytes/s, a second to compute one, LRU in 500 bytes:

    0 misses, 4 s + 1 s | 1 misses, 2 + 1; 0 goes | 2 misses, 1 + 1 | 1 hits, 1 | 0 misses, 4 + 1 | 2 misses, 1 + 1

18 s; 1,200 bytes; the link is at work for 12 s.
"""

from __future__ import annotations

from typing import Any

import helpers
import machines
import numpy as np
import pytest
from drawn_runs import same
from helpers import SIZE
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.base.errors import ConfigError
from lrcsim.hardware import Cpu, Dram, Gpu
from lrcsim.runtimes import Runtime
from lrcsim.runtimes.runtime import LoadUse
from lrcsim.simulator import simulate
from lrcsim.traces import RoutingTrace

IDS = [[[e]] for e in (0, 1, 2, 1, 0, 2)]
SIZES = [4 * SIZE, 2 * SIZE, SIZE]
HAND = RoutingTrace.from_arrays(IDS, num_experts=3, expert_bytes=[SIZES])


def test_solved_by_hand() -> None:
    found = helpers.run(HAND, "500B", helpers.machine(), sizes=SIZES)
    assert found.tally.total == 18
    assert found.tally.links["pcie"].bytes == 12 * SIZE
    assert found.tally.links["pcie"].busy_s == 12
    assert found.counts.loaded_bytes is not None
    assert found.counts.loaded_bytes.tolist() == [0, 12 * SIZE]
    assert found.counts.misses.sum() == 5


RUNTIMES = [
    Runtime(name="plain"),
    Runtime(name="tensors", loads=LoadUse(overlap="tensor", byte=1e-3, eviction=0.0625)),
    Runtime(name="none", loads=LoadUse(overlap="none", byte=1e-3)),
]

BILLION = 10**9
LARGE = RoutingTrace.from_arrays(IDS, num_experts=3, expert_bytes=[[size * BILLION for size in SIZES]])
"""The same, so large that all else in the model takes no time."""


def timed(cache: Any = "500GB", **options: Any) -> Any:
    fast = helpers.link(100 * BILLION)
    hardware = machines.machine(
        gpu=options.pop("gpu", Gpu(memory=10**13, bandwidth=1e11, compute=1e30, overhead=0.0)),
        dram=Dram(memory=10**13, bandwidth=1e30),
        cpu=Cpu(compute=1e30, bandwidth=1e11, overhead=0.0, cores=1),
        pcie=fast,
    )
    model = machines.geometry(layers=1, moe_layers=(0,), experts=3)
    return simulate(LARGE, "lru", cache, hardware=hardware, model=model, **options)


@pytest.mark.parametrize("engine", ["events", "compiled"])
def test_a_whole_run_solved_by_hand(engine: str) -> None:
    # The GPU reads as fast as the link moves: to compute an expert takes what its load took, 4, 2 and 1 s.
    # 4 + 4 | 2 + 2 | 1 + 1 | 2 | 4 + 4 | 1 + 1: 26 s, of which 14 are compute and 12 transfers, never both.
    result = timed(engine=engine)
    data = result.to_dict()
    assert data["time"]["total_s"] == pytest.approx(26)
    assert data["time"]["compute_s"] == pytest.approx(14)
    assert data["links"]["pcie"]["bytes"] == 1200 * BILLION
    assert result.bytes_loaded() == simulate(LARGE, "lru", "500GB").bytes_loaded() == 1200 * BILLION
    assert data["config"]["expert_bytes"] == [[size * BILLION for size in SIZES]]
    assert result.timed.engine == engine
    # bounds: compute alone 14 s; no policy loads less than each once, 700 bytes
    bounds = data["time"]["bounds"]
    assert bounds["compute_only"]["total_s"] == pytest.approx(14)
    assert bounds["link_bound"]["total_s"] == pytest.approx(12)
    assert not bounds["optimum"]["reachable"]
    assert bounds["optimum"]["total_s"] == pytest.approx(14)


def test_experts_on_the_cpu_take_their_own_bytes() -> None:
    # The CPU draws 1e11 bytes/s, one expert after the other, and nothing is kept: 4 + 2 + 1 + 2 + 4 + 1 s.
    result = timed(miss="cpu", gpu=Gpu(memory=10**13, bandwidth=1e30, compute=1e30, overhead=0.0))
    assert result.to_dict()["time"]["total_s"] == pytest.approx(14)
    assert result.bytes_loaded() == 0


def test_a_dtype_takes_the_place_of_the_sizes() -> None:
    assert timed("2x", dtype="bf16").timed.platform.sizes == [machines.geometry().expert_params * 2]


@st.composite
def traces(draw: st.DrawFn) -> RoutingTrace:
    tokens, rng = draw(st.integers(1, 25)), np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = rng.random((tokens, 2, 5)).argsort(axis=2)[:, :, :2]
    sizes = rng.integers(1, 10, (2, 5)) * 100
    sizes[0, :2] = 100, 300
    phase = draw(st.sampled_from([None, np.arange(tokens) >= tokens // 3]))
    weights = (rng.integers(0, 9, ids.shape) / 16).astype(np.float32)
    told = {"phase": None if phase is None else phase.astype(int), "weights": weights}
    return RoutingTrace.from_arrays(ids, num_experts=5, expert_bytes=sizes, **told)


@settings(max_examples=60)
@given(
    trace=traces(),
    cache=st.one_of(st.integers(1, 5).map(str), st.integers(0, 4000).map("{}B".format)),
    scope=st.sampled_from(["layer", "model"]),
    miss=st.sampled_from(["load", "cpu", "split:0.5", "skip:0.3", "low:0.3", "substitute:0.3"]),
    prefetch=st.sampled_from(["none", "popularity:2", "oracle"]),
    dram=st.sampled_from([None, "1500B"]),
    runtime=st.sampled_from(RUNTIMES),
    policy=st.sampled_from(["lru", "fifo", "arc"]),
)
def test_laws_and_both_engines(
    trace: RoutingTrace,
    cache: str,
    scope: Any,
    miss: str,
    prefetch: str,
    dram: str | None,
    runtime: Runtime,
    policy: str,
) -> None:
    prefetch = "none" if runtime.loads.overlap == "none" else prefetch
    gpu, cpu = Gpu(10**9, 1e3, 1e4, 0.125), Cpu(1e4, 150.0, 0.25, 1)
    told: dict[str, Any] = {
        "hardware": machines.machine(gpu=gpu, cpu=cpu, nvme=helpers.link(50, name="nvme", lanes=2, chunk=64)),
        "model": machines.geometry(experts=5, top_k=2),
        "scope": scope,
        "miss": miss,
        "prefetch": prefetch,
        "dram": dram,
        "profile": trace,
        "runtime": runtime,
    }
    result = simulate(trace, policy, cache, engine="events", **told)
    data = result.to_dict()
    for bound in data["time"]["bounds"].values():
        for ratio in (bound["ratio"], bound["decode_ratio"]):
            assert ratio is None or ratio >= 1 - 1e-9
    if miss == "load" and prefetch == "none":
        plain = simulate(trace, policy, cache, scope=scope)
        assert result.counts.misses.tolist() == plain.counts.misses.tolist()
        assert result.bytes_loaded() == plain.bytes_loaded() == data["links"]["pcie"]["bytes"]
        assert result.bytes_loaded(0) == plain.bytes_loaded(0)
    try:
        compiled = simulate(trace, policy, cache, engine="compiled", **told)
    except ConfigError as error:
        assert "has no room for an expert" in str(error) or "no compiled form" in str(error)  # noqa: PT017
        return
    assert compiled.timed is not None
    assert result.timed is not None
    same(compiled.timed.tally, compiled.timed.counts, result.timed.tally, result.timed.counts)
