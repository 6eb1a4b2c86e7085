"""No run is shorter than what is called a bound of it, in total and in decode: drawn runs of every kind.

Two cases solved by hand first. Layer 0 misses often and its experts are small, layer 1 uses one large expert alone.
With two slots a layer and 200 tokens nearly all misses are small: the mean size of a use says nothing about them.

And a prefetch crosses from a prompt into decoding: one layer, a link of 100 bytes/s, experts of 100 bytes and compute that
takes no time but 2 s for the output of each step. The prompt uses expert 0 and, with perfect prediction, expert 1 of the
decode step that follows is brought meanwhile: 1 s for the load, 2 s of output in which the other load runs. Decoding
moves nothing, so its bound is its own compute.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from machines import geometry, machine

from lrcsim.errors import LrcsimError
from lrcsim.hardware import Cpu, Dram, Gpu, HardwareProfile, Link, profile_names
from lrcsim.hierarchy import PREFETCHERS
from lrcsim.policies import BUILT_IN
from lrcsim.simulator import Result, simulate
from lrcsim.traces import RoutingTrace

SLACK = 1e-9


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


def test_a_prefetch_moves_the_bytes_of_decode_into_prefill_hand_solved() -> None:
    gpu = Gpu(memory=10**9, bandwidth=1e30, compute=1e30, overhead=1.0)
    trace = RoutingTrace.from_arrays([[[0]], [[1]]], num_experts=4, expert_bytes=100, phase=[0, 1])
    one = geometry(layers=1, moe_layers=(0,))
    # A step: dense 1 s, expert 1 s, output 1 s. The prompt: dense, load 1 s, expert, output: 4 s; the other load runs from
    # 2 to 3. Decoding: 3 s, without a byte.
    result = simulate(trace, "lru", 2, hardware=machine(gpu=gpu), model=one, prefetch="oracle")
    time = result.to_dict()["time"]
    assert (time["prefill_s"], time["decode_s"]) == pytest.approx((4, 3))
    assert time["bounds"]["link_bound"]["decode_s"] == pytest.approx(0)
    assert time["bounds"]["link_bound"]["total_s"] == pytest.approx(2)
    assert time["bounds"]["optimum"]["decode_s"] == pytest.approx(3)
    check(result)


def test_bytes_under_way_at_the_end_have_not_moved() -> None:
    # 3 s a step. After the first, popularity brings expert 0 of layer 1 ... none of it is used; the run ends meanwhile.
    gpu = Gpu(memory=10**9, bandwidth=1e30, compute=1e30, overhead=1.0)
    trace = RoutingTrace.from_arrays([[[0], [1]], [[0], [2]]], num_experts=4, expert_bytes=1000)
    result = simulate(trace, "lru", 4, hardware=machine(gpu=gpu), model=geometry(), prefetch="transition")
    assert result.to_dict()["links"]["pcie"]["bytes"] <= 100 * result.to_dict()["time"]["total_s"]
    check(result)


def test_a_division_of_compute_is_bounded_hand_solved() -> None:
    # Two experts, 1 s each on the GPU and 2 s each (100 bytes at 50 bytes/s) on the CPU, divided at best: x on the GPU as
    # long as 2 - x on the CPU takes: x = 2 (2 - x), 4/3 s. With dense and output 1 s each: 3 1/3 s.
    gpu = Gpu(memory=10**9, bandwidth=1e30, compute=1e30, overhead=1.0)
    trace = RoutingTrace.from_arrays([[[0, 1]]], num_experts=4, expert_bytes=100)
    one = geometry(layers=1, moe_layers=(0,), top_k=2)
    for policy, miss in (("lru", "cpu"), ("lru", "split:0.5")):
        result = simulate(trace, policy, 2, hardware=machine(gpu=gpu), model=one, miss=miss)
        time = result.to_dict()["time"]
        assert time["bounds"]["compute_only"]["total_s"] == pytest.approx(1 + 4 / 3 + 1)
        assert time["all_resident"]["total_s"] == pytest.approx(1 + 2 + 1)
        check(result)


def test_free_loads_of_a_policy_are_taken_off_hand_solved() -> None:
    # 0 and 1 in turn, both pinned from the beginning at no cost: the run moves nothing, and neither must the bound.
    trace = RoutingTrace.from_arrays([[[0]], [[1]]] * 4, num_experts=4, expert_bytes=10_000)
    for policy in ("static", "pinned-lru:1", "sch-static:4"):
        one = geometry(layers=1, moe_layers=(0,))
        result = simulate(trace, policy, 2, hardware=machine(), model=one, profile=trace)
        assert result.to_dict()["links"]["pcie"]["bytes"] == 0
        assert not result.bounds["belady"].proven
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
    speed = st.sampled_from([50.0, 1e3, 1e6])
    return HardwareProfile(
        "drawn",
        "",
        Gpu(10**9, draw(speed), draw(speed), draw(SECONDS)) if gpu else None,
        Cpu(draw(speed), draw(speed), draw(SECONDS), 4),
        Dram(10**9, draw(st.sampled_from([40.0, 1e3, 1e9]))),
        pcie,
        nvme,
        gpu and pcie is None,
        draw(SECONDS),
        draw(SECONDS),
        kv_shared=draw(st.sampled_from([False, False, False, True])),
    )


MISSES = ["load"] * 6 + ["cpu", "split", "split:0.4", "skip:0.5", "substitute:0.5", "low:0.5,0.3"]


@st.composite
def runs(draw: st.DrawFn) -> tuple[RoutingTrace, dict[str, Any]]:
    routing, profile = draw(routings()), draw(hardware())
    layers, top = routing.num_layers, routing.num_experts
    scope = draw(st.sampled_from(["layer", "model"]))
    policies = [name for name in BUILT_IN if not (profile.kv_shared and name in ("static", "sch-static"))]
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
    }
    ahead = draw(st.sampled_from([False, False, True]))
    if ahead:
        options["prefetch"] = draw(st.sampled_from([name for name in PREFETCHERS if name != "none"]))
    else:
        options["overlap"] = draw(st.booleans())
    if draw(st.sampled_from([False, False, True])) and profile.pcie is not None and profile.nvme is not None:
        options["dram"] = draw(st.sampled_from(["30%", "2000B", "70%"]))
    if draw(st.sampled_from([False, False, True])):
        options |= {"batch": draw(st.integers(1, 3)), "batching": draw(st.sampled_from(["continuous", "static"]))}
        options["speculative"] = draw(st.sampled_from([None, (2, 0.5)]))
        options["arrivals"] = draw(st.sampled_from([None, "poisson:0.01", "poisson:1"]))
    if not ahead:
        options["engine"] = draw(st.sampled_from(["auto", "events"]))
    return routing, options


@settings(max_examples=250, deadline=None, suppress_health_check=[*HealthCheck])
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
