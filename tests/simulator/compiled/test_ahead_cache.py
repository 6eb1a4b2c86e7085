"""The compiled sch-lookahead and sch-static say of every access what the classes in Python say."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import naive
import naive_traces
import numpy as np
import pytest
from drawn_runs import job_of, machine, traces
from hypothesis import given, settings
from hypothesis import strategies as st

from lrcsim.hardware import Link
from lrcsim.simulator.cache.capacity import Scope
from lrcsim.simulator.compiled.ahead_cache import AheadCache, has_ahead_loop
from lrcsim.simulator.compiled.served import LOADED, RESIDENT
from lrcsim.simulator.replay import Counts
from lrcsim.simulator.setup.miss_actions import loaded_share, make_action
from lrcsim.simulator.setup.run import Run
from lrcsim.simulator.time.replayed_cache import ReplayedCache
from lrcsim.traces import RoutingTrace

PROFILE = machine(Link("pcie", 1e6, 1e-3, 0.0, 2), dram=1.1e6)


def said(cache: Any, layers: int) -> tuple[list[int], dict[str, Any]]:
    """Return what a cache says of all accesses, and what became of the loads."""
    flags = [int(flag) for _, served in cache.blocks() for flag in served]
    table = np.zeros((2, layers), np.int64)
    counts = Counts(table, table.copy(), np.zeros(layers, np.int64), np.zeros(2, np.int64), 0)
    cache.finish(counts)
    found = counts.evictions, counts.bypassed, counts.resident, counts.preloaded.tolist()
    return flags, dict(zip(("evictions", "bypassed", "resident", "preloaded"), found, strict=True))


def in_python(job: Run, action: str = "load") -> tuple[list[int], dict[str, Any]]:
    return said(ReplayedCache(job, make_action(action, PROFILE)), job.trace.num_layers)


def compiled(job: Run, action: str = "load") -> tuple[list[int], dict[str, Any]]:
    assert has_ahead_loop(job)
    share = loaded_share(make_action(action, PROFILE))
    assert share is not None
    return said(AheadCache(job, share), job.trace.num_layers)


def test_lookahead_solved_by_hand() -> None:
    # One layer, two slots, three steps looked ahead. Of 0 1 2 0 1 1, an expert a step:
    #   0, 1 are loaded. Step 2 loads 2; in steps 2 to 4 0 and 1 have one use to come each: 0, the less recent, goes.
    #   Step 3 loads 0: in steps 3 to 5 1 has two uses to come, 2 none and goes. 1 and 1 hit.
    trace = RoutingTrace.from_arrays([[[0]], [[1]], [[2]], [[0]], [[1]], [[1]]], num_experts=3)
    flags, counts = compiled(job_of(trace, "sch-lookahead:3", 2))
    assert flags == [LOADED, LOADED, LOADED, LOADED, RESIDENT, RESIDENT]
    assert counts == {"evictions": 2, "bypassed": 0, "resident": 2, "preloaded": [0]}
    # One step looked ahead is LRU: 2 puts out 0, 0 puts out 1, 1 puts out 2.
    flags, counts = compiled(job_of(trace, "sch-lookahead:1", 2))
    assert (flags.count(LOADED), counts["evictions"]) == (5, 3)


def test_static_solved_by_hand() -> None:
    # One slot, windows of three steps. Steps 0 to 2 use 0 once and 1 twice: 1 is there. The request ends after step 3,
    # and with it the second window, whose only use is 0. Then 2 and 1 are used once each: 1 has the smaller key.
    trace = RoutingTrace.from_arrays([[[0]], [[1]], [[1]], [[0]], [[2]], [[1]]], num_experts=3, offsets=[0, 4, 6])
    flags, counts = compiled(job_of(trace, "sch-static:3", 1))
    assert flags == [LOADED, RESIDENT, RESIDENT, RESIDENT, LOADED, RESIDENT]
    assert counts == {"evictions": 0, "bypassed": 2, "resident": 1, "preloaded": [3]}


policies = st.builds("{}:{}".format, st.sampled_from(["sch-lookahead", "sch-static"]), st.sampled_from([1, 2, 3, 9999]))
rules: dict[str, Any] = {
    "trace": traces(),
    "policy": policies,
    "cache": st.one_of(st.integers(0, 9), st.sampled_from(["1x", "30%", "5kB"])),
    "scope": st.sampled_from(["layer", "model"]),
    "prefill": st.sampled_from(["step", "token", "chunk:2"]),
    "warm": st.booleans(),
}


@settings(max_examples=120)
@given(action=st.sampled_from(["load", "cpu", "split"]), **rules)
def test_equals_python(
    trace: RoutingTrace, policy: str, cache: int | str, scope: Scope, prefill: str, warm: bool, action: str
) -> None:
    job = job_of(trace, policy, cache, scope=scope, prefill=prefill, warm=warm)
    if has_ahead_loop(job):
        assert compiled(job, action) == in_python(job, action)
    else:  # bytes of unlike experts in one pool
        assert (policy.split(":")[0], scope) == ("sch-static", "model")


@settings(max_examples=100)
@given(**rules)
def test_equals_the_definition(
    trace: RoutingTrace, policy: str, cache: int | str, scope: Scope, prefill: str, warm: bool
) -> None:
    name, window = policy.split(":")
    slots = cache if isinstance(cache, int) else 3
    offsets, phase = trace.offsets.tolist(), None if trace.phase is None else list(trace.phase)
    experts, top_k = trace.layers.num_experts.tolist(), [trace.top_k] * trace.num_layers
    plain = naive_traces.Trace(trace.experts.tolist(), experts, top_k, offsets, phase)
    want = naive.replay(plain, name, {"m": int(window)}, str(slots), scope, "coresident", prefill, warm)
    flags, counts = compiled(job_of(trace, policy, slots, scope=scope, prefill=prefill, warm=warm))
    assert counts == {name: getattr(want, name) for name in counts}
    misses = sum(map(sum, want.misses))
    assert (len(flags), flags.count(LOADED)) == (sum(map(sum, want.accesses)), misses)


def test_large_pools_and_batches() -> None:
    """More victims at once than one pass over the residents chooses, in slots and in bytes."""
    rng = np.random.default_rng(0)
    ids = (rng.random((90, 3, 60)) * (0.2 + rng.random((3, 60)))).argsort(axis=2)[:, :, :6]
    phase = (np.arange(90) % 30 >= 12).astype(np.uint8)
    trace = RoutingTrace.from_arrays(
        ids, num_experts=60, offsets=[0, 30, 60, 90], phase=phase, expert_bytes=[1000, 3000, 2000]
    )
    for policy, cache, scope in (
        ("sch-lookahead:4", 50, "model"),
        ("sch-lookahead:4", "90kB", "model"),
        ("sch-lookahead:4", 20, "layer"),
        ("sch-static:4", 50, "model"),
        ("sch-static:4", "33kB", "layer"),
    ):
        for warm in (True, False):
            job = job_of(trace, policy, cache, scope=scope, warm=warm)  # type: ignore[arg-type]
            for action in ("load", "split"):
                assert compiled(job, action) == in_python(job, action), (policy, cache, warm, action)


def test_whose_caches_they_are() -> None:
    trace = RoutingTrace.from_arrays([[[0, 1], [1, 2]]], num_experts=3, expert_bytes=[1000, 2000])
    assert not has_ahead_loop(job_of(trace, "lru"))
    assert not has_ahead_loop(job_of(trace, "belady"))
    assert has_ahead_loop(job_of(trace, "sch-lookahead", "5kB", scope="model"))
    assert not has_ahead_loop(job_of(trace, "sch-static", "5kB", scope="model"))
    assert has_ahead_loop(job_of(trace, "sch-static", "5kB"))
    sequential = Run.in_pools(trace, "sch-lookahead", job_of(trace).pools, "sequential", "step", True)
    assert not has_ahead_loop(sequential)


@pytest.mark.skipif("NUMBA_DISABLE_JIT" in os.environ, reason="it is this that runs")
def test_without_the_compiler() -> None:
    """The kernels as plain Python: index errors and wrong types show here."""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    chosen = "by_hand or equals_python"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", __file__, "-k", chosen]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
