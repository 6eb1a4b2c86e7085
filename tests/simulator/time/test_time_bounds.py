"""No run is shorter than what is called a bound of it, in total and in decode: drawn runs of every kind.

A case solved by hand first. Layer 0 misses often and its experts are small, layer 1 uses one large expert alone.
With two slots a layer and 200 tokens nearly all misses are small: the mean size of a use says nothing about them.

The others are in the comments of their tests.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from drawn_runtimes import runtimes
from helpers import path
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machines import geometry, machine

from lrcsim.base.errors import LrcsimError
from lrcsim.hardware import Cpu, Dram, Gpu, HardwareProfile, Link, profile_names
from lrcsim.policies import BUILT_IN
from lrcsim.simulator import Result, simulate
from lrcsim.simulator.serving.steps import Step
from lrcsim.simulator.setup.prefetchers import PREFETCHERS, Prefetcher
from lrcsim.traces import RoutingTrace

SLACK = 1e-9
SIX = geometry(experts=6)


def check(result: Result) -> None:
    """Compare a run with all of its bounds."""
    data = result.to_dict()
    json.dumps(data, allow_nan=False)
    time = data["time"]
    for name, bound in time["bounds"].items():
        assert bound["proven"] is True, name
        assert time["prefill_s"] + time["decode_s"] >= bound["total_s"] * (1 - SLACK), name
        assert time["decode_s"] >= bound["decode_s"] * (1 - SLACK), name
        for ratio in (bound["ratio"], bound["decode_ratio"]):
            assert ratio is None or ratio >= 1 - SLACK, name
        if bound["decode_tokens_per_s"] is not None:
            assert time["decode_tokens_per_s"] <= bound["decode_tokens_per_s"] * (1 + SLACK), name
    assert ("optimum" in time["bounds"]) == (data["config"]["miss"] == "load")
    for bound in data["bounds"].values():
        assert (bound["proven_of"] == "hit_rate") == bound["proven"]
        if bound["proven"]:
            assert data["cache"]["hit_rate"] is None or data["cache"]["hit_rate"] <= bound["hit_rate"] + 1e-12
    for use in data["links"].values():
        assert 0 <= use["utilization"] <= 1 + SLACK
        assert use["bytes"] <= use["busy_s"] * use["bandwidth"] * (1 + SLACK) + 1
    assert all(0 <= share <= 1 + SLACK for share in time["binds"]["all"].values())
    for part in (time, time["decode"]):
        assert min(part["compute_s"], part["stall_s"], part["overhead_s"], part["cpu_s"]) >= 0


def test_layers_of_different_expert_size_hand_solved() -> None:
    # Layer 0: experts of 1 byte, 0 1 2 3 0 1 2 3 in turn; layer 1: always its expert 0, of 1,000 bytes. One slot each:
    # 8 misses in layer 0, 1 in layer 1: 1,008 bytes at 100 bytes/s are 10.08 s. By the mean size of a use (500.5 bytes)
    # 9 misses would be 45 s.
    experts = np.zeros((8, 2, 1), int)
    experts[:, 0, 0] = [0, 1, 2, 3] * 2
    trace = RoutingTrace.from_arrays(experts, num_experts=4, expert_bytes=[1, 1000])
    result = simulate(trace, "belady", 1, hardware=machine(), model=geometry())
    found = result.to_dict()["time"]["bounds"]["optimum"]
    assert found["total_s"] == pytest.approx(10.08)
    check(result)


def slow_gpu() -> HardwareProfile:
    """A GPU on which every operation takes 1 s, and a link of 100 bytes/s."""
    return machine(gpu=Gpu(memory=10**9, bandwidth=1e30, compute=1e30, overhead=1.0))


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_a_prefetch_moves_the_bytes_of_decode_into_prefill_hand_solved(scope: Any) -> None:
    # A prompt in two chunks of four tokens that use experts 0 to 3, then a decoded token with expert 4; layer 1
    # (experts of 1 byte) uses its expert 0. The second chunk has everything: layer 0 takes 1 + 4 s, layer 1 1 + 1 s
    # (the oracle asks after the first, for layer 0 of the next step), output 1 s. In those last 2 s 200 of 400 bytes
    # move, in the dense part of the decoded token 100 more, and it waits 1 s for the rest: 1 + 1 + 1 for layer 0, 2 for
    # layer 1, 1 for the output: 6 s.
    experts = np.zeros((9, 2, 1), int)
    experts[:, 0, 0] = [0, 1, 2, 3, 0, 1, 2, 3, 4]
    trace = RoutingTrace.from_arrays(experts, num_experts=6, expert_bytes=[400, 1], phase=[0] * 8 + [1])
    options: dict[str, Any] = {"scope": scope, "prefill": "chunk:4", "prefetch": "oracle:1"}
    result = simulate(trace, "lru", 6 if scope == "layer" else 12, hardware=slow_gpu(), model=SIX, **options)
    time = result.to_dict()["time"]
    assert time["decode_s"] == pytest.approx(6)
    assert time["bounds"]["link_bound"]["decode_s"] == pytest.approx(2)
    assert time["bounds"]["optimum"]["decode_s"] == pytest.approx(5)
    check(result)


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_what_was_loaded_in_the_prompt_is_not_needed_in_decode_hand_solved(scope: Any) -> None:
    # The same with 600 bytes and 9 experts in the second chunk, asked for in layer 0 by one who knows: 9 + 2 + 1 s of
    # it are left, more than the load takes. Decoding moves nothing: 5 s, as long as the load.
    experts = np.zeros((19, 2, 1), int)
    experts[:, 0, 0] = [*range(9), *range(9), 9]
    trace = RoutingTrace.from_arrays(experts, num_experts=10, expert_bytes=[600, 1], phase=[0] * 18 + [1])

    class Knows(Prefetcher):
        def propose(self, step: Step, place: int) -> list[int]:
            return [9] if step.number == 1 and place == 0 else []

    options: dict[str, Any] = {"scope": scope, "prefill": "chunk:9", "prefetch": Knows()}
    ten = geometry(experts=10)
    result = simulate(trace, "lru", 10 if scope == "layer" else 20, hardware=slow_gpu(), model=ten, **options)
    time = result.to_dict()["time"]
    assert time["decode_s"] == pytest.approx(5)
    assert time["bounds"]["link_bound"]["decode_s"] == 0
    assert time["bounds"]["optimum"]["decode_s"] == pytest.approx(5)
    check(result)


def test_bytes_under_way_at_the_end_have_not_moved_hand_solved() -> None:
    # One token: layer 0 takes 1 s and its load of 1,000 bytes 10 s, experts and output 1 s each. An expert nobody uses
    # is asked for; when all has ended, 2 of its 10 s are over: 1,200 bytes.
    class Useless(Prefetcher):
        def propose(self, step: Step, place: int) -> list[int]:
            return [3]

    trace = RoutingTrace.from_arrays([[[0]]], num_experts=4, expert_bytes=1000)
    one = geometry(layers=1, moe_layers=(0,))
    result = simulate(trace, "lru", 4, hardware=slow_gpu(), model=one, prefetch=Useless())
    data = result.to_dict()
    assert data["time"]["total_s"] == pytest.approx(13)
    assert data["links"]["pcie"]["bytes"] == 1200
    assert data["time"]["bounds"]["link_bound"]["total_s"] == pytest.approx(12)
    check(result)


def test_a_division_of_compute_is_bounded_hand_solved() -> None:
    # Two experts, 1 s each on the GPU and 2 s each (100 bytes at 50 bytes/s) on the CPU, divided at best: x on the
    # GPU as long as 2 - x on the CPU takes: x = 2 (2 - x), 4/3 s. With dense and output 1 s each: 3 1/3 s.
    trace = RoutingTrace.from_arrays([[[0, 1]]], num_experts=4, expert_bytes=100)
    one = geometry(layers=1, moe_layers=(0,), top_k=2)
    for policy, miss in (("lru", "cpu"), ("lru", "split:0.5")):
        result = simulate(trace, policy, 2, hardware=slow_gpu(), model=one, miss=miss)
        time = result.to_dict()["time"]
        assert time["bounds"]["compute_only"]["total_s"] == pytest.approx(1 + 4 / 3 + 1)
        assert time["all_resident"]["total_s"] == pytest.approx(1 + 2 + 1)
        check(result)


@pytest.mark.parametrize("scope", ["layer", "model"])
def test_free_loads_of_a_policy_are_taken_off_hand_solved(scope: Any) -> None:
    # 0 and 1 in turn, both there from the beginning at no cost: the run moves nothing, and neither must the bound.
    trace = RoutingTrace.from_arrays([[[0], [0]], [[1], [0]]] * 4, num_experts=4, expert_bytes=[10_000, 3])
    for policy in ("static", "pinned-lru:1", "sch-static:4"):
        slots = 2 if scope == "layer" else 3
        result = simulate(trace, policy, slots, scope=scope, hardware=machine(), model=geometry(), profile=trace)
        assert result.to_dict()["links"]["pcie"]["bytes"] == 0
        assert not result.bounds["belady"].proven
        check(result)


def test_misses_that_are_not_loaded_leave_room_hand_solved() -> None:
    # Two slots, 0 1 and 2 3 in turn. Loading every miss puts out the other pair: no hits. With split:0.4 one of the two
    # misses is loaded, 0 and then 2, and these hit from then on; a single miss runs on the CPU. 1 of 2 in 6 of 8 steps.
    trace = RoutingTrace.from_arrays([[[0, 1]], [[2, 3]]] * 4, num_experts=4, expert_bytes=100)
    one = geometry(layers=1, moe_layers=(0,), top_k=2)
    result = simulate(trace, "lru", 2, hardware=machine(), model=one, miss="split:0.4")
    assert result.hit_rate == 6 / 16
    belady, bypass = result.bounds["belady"], result.bounds["belady-bypass"]
    assert (belady.hit_rate, belady.proven, belady.kind) == (0, False, "optimum if all misses are loaded")
    assert (bypass.hit_rate, bypass.proven, bypass.kind) == (6 / 16, True, "optimum")
    check(result)


# --- drawn -----------------------------------------------------------------------------------------------------------


@st.composite
def routings(draw: st.DrawFn) -> RoutingTrace:
    layers, experts = draw(st.integers(1, 3)), draw(st.integers(2, 7))
    k = draw(st.integers(1, min(experts, 3)))
    requests = draw(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=3))
    phase = [kind for prompt, decoded in requests for kind in [0] * prompt + [1] * decoded] or [1]
    lengths = [prompt + decoded for prompt, decoded in requests]
    if not sum(lengths):
        lengths[-1] = 1
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    skew = draw(st.sampled_from([0.0, 2.0]))

    def ids() -> Any:
        scores = rng.random((len(phase), layers, experts)) - skew * np.arange(experts) / experts
        return np.argsort(scores, axis=2)[:, :, :k]

    sizes = draw(st.one_of(st.integers(1, 400), st.lists(st.integers(1, 4000), min_size=layers, max_size=layers)))
    chosen = ids()
    chosen[rng.random(chosen.shape) < draw(st.sampled_from([0, 0, 0.1]))] = -1
    return RoutingTrace.from_arrays(
        chosen,
        num_experts=experts,
        phase=draw(st.sampled_from([phase, phase, None])),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        weights=-np.sort(-rng.random((len(phase), layers, k)), axis=2),
        predictions={1: ids()},
        expert_bytes=sizes,
    )


SECONDS = st.sampled_from([0.0, 0.0, 0.01, 1.0])
LINKS = st.builds(
    Link,
    name=st.just("link"),
    bandwidth=st.sampled_from([10.0, 100.0, 3000.0]),
    latency=SECONDS,
    overhead=SECONDS,
    lanes=st.integers(1, 3),
    chunk=st.sampled_from([None, None, 30, 500]),
)


@st.composite
def hardware(draw: st.DrawFn) -> HardwareProfile:
    gpu = draw(st.sampled_from([True, True, False]))
    pcie = draw(LINKS) if gpu and draw(st.sampled_from([True, True, False])) else None
    nvme = draw(LINKS) if pcie is None or draw(st.booleans()) else None
    more = (
        [replace(draw(LINKS), name="cxl")] if nvme is not None and draw(st.sampled_from([False, False, True])) else []
    )
    speed = st.sampled_from([50.0, 1e3, 1e6])
    return HardwareProfile(
        name="drawn",
        gpu=Gpu(10**9, draw(speed), draw(speed), draw(SECONDS)) if gpu else None,
        cpu=Cpu(draw(speed), draw(speed), draw(SECONDS), 4),
        dram=Dram(10**9, draw(st.sampled_from([40.0, 1e3, 1e9]))),
        links=(*path(None, nvme), *more, *path(pcie, None)),
        unified=gpu and pcie is None,
        layer_overhead=draw(SECONDS),
        expert_overhead=draw(SECONDS),
        kv_shared=draw(st.sampled_from([False, False, False, True])),
    )


MISSES = ["load"] * 6 + ["cpu", "split", "split:0.4", "skip:0.5", "substitute:0.5", "low:0.5,0.3"]


@st.composite
def runs(draw: st.DrawFn) -> tuple[RoutingTrace, dict[str, Any]]:
    routing, profile = draw(routings()), draw(hardware())
    layers, top = routing.num_layers, routing.num_experts
    scope = draw(st.sampled_from(["layer", "model"]))
    policies = list(BUILT_IN)
    sizes = [str(draw(st.integers(0, top))), "1x", "2x", "50%", "100%", f"{draw(st.integers(0, 5000))}B"]
    if scope == "layer":
        sizes.append(",".join(str(draw(st.integers(0, top))) for _ in range(layers)))
    options: dict[str, Any] = {
        "policy": draw(st.sampled_from(policies)),
        "cache": draw(st.sampled_from(sizes)),
        "scope": scope,
        "prefill": draw(st.sampled_from(["step", "token", "chunk:2"])),
        "warm": draw(st.booleans()),
        "profile": routing,
        "hardware": profile,
        "model": geometry(
            layers=layers + 1, moe_layers=tuple(range(layers)), experts=top, top_k=routing.top_k, hidden=4, vocab=3
        ),
        "miss": draw(st.sampled_from(MISSES)),
        "runtime": draw(st.one_of(st.just("ideal"), runtimes)),
    }
    ahead = draw(st.sampled_from([False, False, True]))
    if ahead:
        options["prefetch"] = draw(st.sampled_from([name for name in PREFETCHERS if name != "none"]))
    else:
        options["overlap"] = draw(st.booleans())
    if draw(st.sampled_from([False, False, True])) and profile.device_link and profile.storage_links:
        options["dram"] = draw(st.sampled_from(["30%", "2000B", "70%"]))
    if draw(st.sampled_from([False, False, True])):
        options |= {"batch": draw(st.integers(1, 3)), "batching": draw(st.sampled_from(["continuous", "static"]))}
        options["speculative"] = draw(st.sampled_from([None, (2, 0.5)]))
        options["arrivals"] = draw(st.sampled_from([None, "poisson:0.01", "poisson:1"]))
    if not ahead:
        options["engine"] = draw(st.sampled_from(["auto", "events"]))
    return routing, options


@settings(max_examples=120, deadline=None, suppress_health_check=[*HealthCheck])
@given(drawn=runs())
def test_no_drawn_run_is_shorter_than_its_bounds(drawn: tuple[RoutingTrace, dict[str, Any]]) -> None:
    routing, options = drawn
    try:
        result = simulate(routing, **options)
    except LrcsimError:
        return  # options that do not go together
    check(result)


@settings(max_examples=60, deadline=None, suppress_health_check=[*HealthCheck])
@given(drawn=runs(), prefetch=st.sampled_from([name for name in PREFETCHERS if name != "none"]))
def test_no_drawn_run_with_loads_ahead_is_shorter_than_its_bounds(
    drawn: tuple[RoutingTrace, dict[str, Any]], prefetch: str
) -> None:
    routing, options = drawn
    options |= {"prefetch": prefetch, "overlap": True, "engine": "events", "miss": "load", "policy": "lru"}
    try:
        result = simulate(routing, **options)
    except LrcsimError:
        return
    check(result)


@pytest.mark.parametrize("name", profile_names())
def test_no_run_on_a_built_in_machine_is_shorter_than_its_bounds(name: str) -> None:
    bundled = RoutingTrace.open()
    routing = RoutingTrace.from_arrays(
        bundled.experts[:150],
        num_experts=bundled.num_experts,
        phase=bundled.read("phase", 0, 150),
        weights=bundled.read("weights", 0, 150),
        expert_bytes=bundled.expert_bytes,
        model=bundled.model,
    )
    for options in ({}, {"miss": "cpu"}, {"miss": "split"}, {"prefetch": "oracle"}):
        for policy in ("lru", "static", "pinned-lru"):
            if options.get("prefetch") and policy != "lru":
                continue
            check(simulate(routing, policy, "2x", hardware=name, profile=routing, **options))
